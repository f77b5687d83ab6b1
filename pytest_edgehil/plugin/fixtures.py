"""The fixtures: ``board``, ``dut``, ``baseline``, ``on_host``, ``heldout``, ``rng``, ``console``, ``combo``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from pytest_edgehil.errors import ConfigError, MarkerError
from pytest_edgehil.plugin import foresight, markers
from pytest_edgehil.plugin.boards import Boards, roles_of
from pytest_edgehil.plugin.progress import TellingOfSending
from pytest_edgehil.plugin.stash import ATTEMPT, OPTIONS, WORKBENCH

if TYPE_CHECKING:
    import numpy as np

    from pytest_edgehil.artifacts.dataset import Dataset
    from pytest_edgehil.artifacts.reference import ReferenceModel
    from pytest_edgehil.board.console import Console
    from pytest_edgehil.board.dut import Dut
    from pytest_edgehil.holding import Holding
    from pytest_edgehil.model.artifact import Combo
    from pytest_edgehil.plugin.attempt import Attempt
    from pytest_edgehil.plugin.workbench import Workbench

NO_LAB = "no lab: pass --edgehil-lab FILE (farm/virtual.yaml needs no hardware), or set edgehil_lab in the ini file"


def _workbench(request: pytest.FixtureRequest) -> Workbench:
    options = request.config.stash[OPTIONS]
    if options.lab is None:
        if options.require:
            raise ConfigError(NO_LAB)
        pytest.skip(NO_LAB)
    return request.config.stash[WORKBENCH]


def _attempt(request: pytest.FixtureRequest) -> Attempt:
    attempt: Attempt | None = request.node.stash.get(ATTEMPT, None)
    if attempt is None:
        # too late: such a test runs under pytest's own protocol, and could not be put back when its board breaks
        pytest.fail(
            f"{request.node.name} asks for {request.fixturename!r} with getfixturevalue only; name 'board' or 'dut' "
            "among its arguments, or mark it with @pytest.mark.usefixtures('board')",
            pytrace=False,
        )
    return attempt


@pytest.fixture
def combo(request: pytest.FixtureRequest) -> Combo:
    """The combo of this test: its markers', then the command line's. Parametrise it indirectly to run several."""
    workbench = _workbench(request)
    asked = markers.combo_with(request.node, markers.combo_of(request.node.iter_markers()))
    found, attempt = workbench.combo(asked), _attempt(request)
    attempt.combo = found
    attempt.against = workbench.baselines(attempt.gates)
    return found


@pytest.fixture
def board(request: pytest.FixtureRequest, combo: Combo) -> Holding:
    """A leased board that fulfils the test's requirement and can take its combo; kept for the next test."""
    workbench, attempt = _workbench(request), _attempt(request)
    attempt.requirement = markers.requirement_for(attempt.requirement, attempt.gates)

    def note(holding: Holding) -> None:
        attempt.holding = holding
        attempt.board = holding.ref

    if "heldout" in request.fixturenames:
        callspec = getattr(request.node, "callspec", None)
        foresight.refuse_too_small(
            attempt.gates,
            foresight.heldout_names(request.node.function, {} if callspec is None else callspec.params),
            dataset=workbench.dataset,
            where=workbench.dataset_path,
            baseline=lambda: _baseline_of(request, combo),
        )

    def note_unfit(board_id: str, why: str) -> None:
        attempt.holding, attempt.board = None, None
        attempt.note_progress(f"{board_id} did not pass its check and is quarantined: {why}")

    with attempt.step("reserve"):
        return workbench.hold(
            attempt.requirement, combo, note, beside=tuple(attempt.against.values()), on_unfit=note_unfit
        )


@pytest.fixture
def boards(request: pytest.FixtureRequest) -> Iterator[Boards]:
    """Several leased boards, all at once or none, by the roles or the count of the marker ``boards``."""
    workbench, attempt = _workbench(request), _attempt(request)
    common = request.config.stash[OPTIONS].board
    against = workbench.baselines(attempt.gates)
    wanted = []
    for role in roles_of(request.node.iter_markers()):
        combo = workbench.combo(role.combo)
        judged = attempt.gates if role.judged and combo.model is not None else ()
        requirement = markers.requirement_for(markers.merged(role.requirement, common), judged)
        part = attempt.part(role.name, requirement=requirement, gates=judged)
        part.combo, part.against = combo, against if judged else {}
        wanted.append(part)
    if attempt.gates and not any(part.gates for part in wanted):
        named = ", ".join(gate.name for gate in attempt.gates)
        raise MarkerError(f"{named}: nothing can be measured; give a role a model, as in boards(server={{'model': …}})")
    with attempt.step("reserve"):
        holdings = workbench.hold_several(
            [(part.requirement, part.combo, tuple(part.against.values())) for part in wanted],
            lambda board_id, why: attempt.note_progress(f"{board_id} did not pass its check and is quarantined: {why}"),
        )
    for part, holding in zip(wanted, holdings, strict=True):
        part.holding, part.board = holding, holding.ref
    attempt.board = holdings[0].ref

    def flash(name: str, holding: Holding) -> Dut:
        from pytest_edgehil.plugin.device import open_dut

        part = attempt.parts[name]
        if not part.combo.artifacts:
            raise MarkerError(f"boards: {name}: nothing to flash; name a model, as in {name}={{'model': …}}")
        part.dut = open_dut(
            holding,
            part,
            baseline=_baseline_of(request, part.combo),
            known=workbench.catalog,
            options=request.config.stash[OPTIONS],
            on_progress=TellingOfSending(request.node, part).look,
        )
        return part.dut

    held = attempt.boards = Boards({part.role: holding for part, holding in zip(wanted, holdings, strict=True)}, flash)
    try:
        yield held
    finally:
        attempt.condemned = attempt.blamed
        held.close(broken=attempt.condemned, condemn=workbench.quarantine)
        attempt.quarantined = "; ".join(f"{board_id}: {why}" for board_id, why in attempt.condemned.items())


@pytest.fixture
def dut(request: pytest.FixtureRequest, board: Holding, combo: Combo) -> Iterator[Dut]:
    """The board with the combo flashed on it: what a test talks to."""
    from pytest_edgehil.plugin.device import open_dut

    attempt = _attempt(request)
    if not combo.artifacts:
        raise MarkerError("dut: nothing to flash; add @pytest.mark.combo(model=…) or pass --edgehil-model")
    dut = open_dut(
        board,
        attempt,
        baseline=_baseline_of(request, combo),
        known=_workbench(request).catalog,
        options=request.config.stash[OPTIONS],
        on_progress=TellingOfSending(request.node, attempt).look,
    )
    attempt.dut = dut
    yield dut
    dut.close()


@pytest.fixture
def baseline(request: pytest.FixtureRequest, combo: Combo) -> ReferenceModel:
    """The fp32 model on the host that the combo's model is compared with."""
    found = _baseline_of(request, combo)
    if found is None:
        raise MarkerError("baseline: the test has no model; add @pytest.mark.combo(model=…)")
    return found


@pytest.fixture
def on_host(request: pytest.FixtureRequest, combo: Combo) -> ReferenceModel:
    """The combo's own model, run on this host: what a parity test compares the board with."""
    if combo.model is None:
        raise MarkerError("on_host: the test has no model; add @pytest.mark.combo(model=…)")
    return _workbench(request).reference(combo.model)


def _baseline_of(request: pytest.FixtureRequest, combo: Combo) -> ReferenceModel | None:
    """The accuracy marker's baseline, else the model that this one was made from."""
    workbench = _workbench(request)
    for gate in _attempt(request).gates:
        name = None if hasattr(gate, "on_board") else getattr(gate, "baseline", None)
        if name is not None:
            return workbench.reference(workbench.catalog.find(name))
    wanted_by_test = "baseline" in request.fixturenames
    if combo.model is None or not (wanted_by_test or _compares(_attempt(request))):
        return None
    return workbench.reference(workbench.catalog.origin_of(combo.model))


def _compares(attempt: Attempt) -> bool:
    return any(getattr(gate, "needs_baseline", False) for gate in attempt.gates)


@pytest.fixture
def heldout(request: pytest.FixtureRequest) -> Callable[[str], Dataset]:
    """``heldout(name)`` loads a held-out set by its name."""
    return request.config.stash[WORKBENCH].dataset


@pytest.fixture
def console(board: Holding) -> Console:
    """The board's serial console, logged since the board was reserved."""
    return board.console


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A random generator that gives this test the same numbers in every run (see ``--edgehil-seed``)."""
    import numpy as np

    seed = request.config.stash[OPTIONS].seed
    digest = hashlib.sha256(f"{seed}:{request.node.nodeid}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))
