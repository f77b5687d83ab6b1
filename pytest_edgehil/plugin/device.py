"""The DUT of a test: flashed when the fixture is set up, and its last words before it is torn down."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_edgehil.errors import ConfigError, UserError
from pytest_edgehil.plugin import evidence

if TYPE_CHECKING:
    from pytest_edgehil.artifacts.catalog import Catalog
    from pytest_edgehil.artifacts.reference import ReferenceModel
    from pytest_edgehil.board.dut import Dut
    from pytest_edgehil.board.flash import FlashProgress
    from pytest_edgehil.holding import Holding
    from pytest_edgehil.plugin.attempt import Attempt
    from pytest_edgehil.plugin.options import Options
    from pytest_edgehil.plugin.workbench import Workbench


def open_dut(
    holding: Holding,
    attempt: Attempt,
    *,
    baseline: ReferenceModel | None,
    known: Catalog,
    options: Options,
    on_progress: Callable[[FlashProgress], None],
) -> Dut:
    """Flash the attempt's combo on the board and load its model.

    Args:
        known: where older bundles are found that the board has: a delta may be made from them.
        options: of the run; the order of held-out items follows from its seed, and from that and the test's name the
            order of whatever is measured in turns.
        on_progress: told how far sending is, and the writing of a slot.

    Raises:
        UserError: a gate compares with what was measured on another kind of board.
    """
    from pytest_edgehil.board.delivery import DeltaPolicy, Way
    from pytest_edgehil.board.dut import Dut
    from pytest_edgehil.board.pairing import Against
    from pytest_edgehil.board.push import PushOptions

    board = holding.board
    with holding.doing("flashing"):
        dut = Dut.open(
            holding.session,
            combo=attempt.combo,
            baseline=baseline,
            order_seed=options.seed,
            console=holding.console if board.console is not None else None,
            power=holding.power if board.power is not None else None,
            against=Against(artifacts=dict(attempt.against), seed=order_seed(options.seed, attempt.nodeid)),
            pick_up_s=options.reconnect_s,
            step=attempt.step,
            way=Way(
                policy=DeltaPolicy(options.delta),
                known=known,
                options=PushOptions(limit_bytes_per_s=options.push_limit_bytes_per_s),
            ),
            on_progress=on_progress,
        )
    if dut.flashed is not None and dut.flashed.activated:
        holding.note_flash(attempt.combo.label, seconds=dut.flashed.duration_s, sent_bytes=dut.flashed.sent_bytes)
    attempt.board = dut.ref
    try:
        for gate in attempt.gates:
            refuse = getattr(gate, "require_comparable", None)
            if refuse is not None:
                refuse(dut.ref)
    except UserError:
        dut.close()
        raise
    return dut


def order_seed(seed: int, nodeid: str) -> int:
    """A seed for one test of a run, below 2^53 so that every reader of JSON keeps it.

    >>> order_seed(0, "t.py::test_a") == order_seed(0, "t.py::test_a") != order_seed(1, "t.py::test_a")
    True
    """
    return int.from_bytes(hashlib.sha256(f"{seed}:{nodeid}:order".encode()).digest()[:6], "big")


def conclude(attempt: Attempt, workbench: Workbench) -> None:
    """Before the DUT is gone: keep what it measured, and have the board sign it if a report was asked for.

    A board that has broken cannot sign. What it measured is kept where a verdict was known by then, so that running the
    test again goes on from that verdict.

    Raises:
        ConfigError: the report directory cannot be written to.
        BoardError: the board broke.
    """
    assert attempt.dut is not None
    if workbench.options.report is None:
        return
    run = workbench.run
    info = evidence.run_info(workbench.options, run_id=run.run_id, started_at=run.started_at)
    with attempt.step("attest"):
        try:
            if attempt.board_error is None:
                evidence.attest(attempt, info, report=workbench.options.report)
            elif attempt.verdicts and attempt.blames_board:
                evidence.keep(attempt, report=workbench.options.report)
        except OSError as problem:
            where = problem.filename or workbench.options.report
            raise ConfigError(f"--edgehil-report: {where} cannot be written: {problem.strerror}") from problem
