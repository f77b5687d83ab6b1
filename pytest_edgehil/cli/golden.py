"""``edgehil golden``: store a run's latencies as a golden, which later runs are held against; show one.

What may become a golden was really measured: a report directory whose samples file is the one that the board signed,
without throttling or a reboot, and long enough.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_edgehil.errors import UserError

if TYPE_CHECKING:
    from pytest_edgehil.gates.golden import Golden
    from pytest_edgehil.reporting.stored import StoredRun, StoredTest


def add(subparsers: Any) -> None:
    """Add the verb."""
    top = subparsers.add_parser("golden", help="store a run's latencies, for later runs to be held against")
    verbs = top.add_subparsers(dest="what", required=True, metavar="WHAT")

    store = verbs.add_parser("store", help="store what one test of a run has measured")
    store.add_argument("results", type=Path, metavar="RESULTS", help="report directory of a run, or its results.json")
    store.add_argument("--test", metavar="NODEID", help="which test; needed when several have measured something")
    store.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")
    store.add_argument("--force", action="store_true", help="replace FILE if it is there")
    store.set_defaults(run=_store)

    show = verbs.add_parser("show", help="say what a golden is of")
    show.add_argument("file", type=Path, metavar="FILE", help="a file that 'edgehil golden store' wrote")
    show.set_defaults(run=_show)


def _store(options: argparse.Namespace) -> int:
    from pytest_edgehil.evidence.files import write_atomically
    from pytest_edgehil.gates.golden import to_bytes
    from pytest_edgehil.model.record import Status
    from pytest_edgehil.reporting.stored import read_stored

    if options.out.exists() and not options.force:
        raise UserError(f"{options.out}: is there already; pass --force to replace it")
    stored = read_stored(options.results)
    test = _chosen(stored, options.test)
    golden = _golden(stored, test)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out, to_bytes(golden))
    print(f"{options.out}: {_about(golden)}")
    if test.record.status is not Status.PASSED:
        print(f"note: the test {test.record.status.value}: {test.record.message}")
    if not test.signed:
        print("note: no board has signed these samples")
    return 0


def _show(options: argparse.Namespace) -> int:
    from pytest_edgehil.gates.golden import read_golden

    golden, digest = read_golden(options.file)
    print(f"{options.file}: {_about(golden)}")
    print(f"  from {golden.test} of run {golden.run} (samples {golden.samples[:19]}…)")
    print(f"  firmware {golden.firmware or 'none'}, board {golden.board_id}, serial {golden.serial}")
    print(f"  {digest}")
    return 0


def _chosen(stored: StoredRun, nodeid: str | None) -> StoredTest:
    """The one test that is meant."""
    if not stored.run:
        raise UserError(
            f"{stored.source}: a samples file does not say on which board it was measured; "
            "pass the report directory of the run"
        )
    if not stored.tests:
        raise UserError(f"{stored.source}: no test of this run kept a sample, so there is nothing to store")
    named = [one for one in stored.tests if nodeid is None or one.record.nodeid == nodeid]
    if len(named) == 1:
        return named[0]
    listed = ", ".join(one.record.nodeid for one in stored.tests[:5])
    more = ", …" if len(stored.tests) > 5 else ""
    if nodeid is None:
        raise UserError(f"{stored.source}: several tests have measured something; pick one with --test: {listed}{more}")
    raise UserError(f"{stored.source}: no test {nodeid!r} has measured anything; there are {listed}{more}")


def _golden(stored: StoredRun, test: StoredTest) -> Golden:
    import numpy as np

    from pytest_edgehil.evidence.canonical import digest_of
    from pytest_edgehil.gates import validity
    from pytest_edgehil.gates.durations import no_measurement
    from pytest_edgehil.gates.golden import FEWEST, Golden

    record, sample = test.record, test.sample()
    model = next((one for one in record.combo if one.track == "model"), None)
    if record.board is None or model is None or sample.conditions is None:
        raise UserError(f"{record.nodeid}: no model was measured on a board, so there is nothing to store")
    if sample.n < FEWEST:
        raise UserError(
            f"{record.nodeid}: {sample.n} latencies were measured, a golden needs at least {FEWEST}: "
            "feed more in the test, for example dut.measure(feeds, inferences=1000)"
        )
    trouble = (
        no_measurement(np.asarray(sample.latencies_ns), timing=sample.timing) or validity.of_timing(sample).trouble
    )
    if trouble is not None:
        raise UserError(f"{record.nodeid}: these latencies must not be used: {trouble}")
    return Golden(
        run=stored.run,
        test=record.nodeid,
        measured_at=record.started_at,
        samples=digest_of(test.path.read_bytes()),
        board_id=record.board.id,
        board_class=record.board.cls,
        environment=record.board.environment.value,
        serial=record.board.serial,
        firmware=record.board.firmware,
        runtime=sample.conditions.runtime,
        runtime_version=sample.conditions.runtime_version,
        artifact=model.label,
        artifact_digest=model.digest,
        latencies_ns=tuple(sample.latencies_ns.tolist()),
        timing=sample.timing,
    )


def _about(golden: Golden) -> str:
    """One line: what, on what, how much, how fast."""
    import numpy as np

    from pytest_edgehil.model.quantity import format_duration
    from pytest_edgehil.model.requirement import Timing

    p50, p95 = np.quantile(np.array(golden.latencies_ns), [0.5, 0.95], method="inverted_cdf")
    counted = ", counted instructions" if golden.timing is Timing.ICOUNT else ""
    return (
        f"{golden.artifact} on {golden.board_class} ({golden.environment}{counted}) with {golden.backend}: "
        f"{len(golden.latencies_ns)} inferences, p50 {format_duration(float(p50))}, p95 {format_duration(float(p95))}"
    )
