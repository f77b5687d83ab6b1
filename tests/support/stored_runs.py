"""A report directory as a run leaves it: records, verdicts, samples; made without a board."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from support.records import GOOD, STARTED_AT, board
from support.samples import MS, timed

from pytest_edgehil.evidence import raw
from pytest_edgehil.gates.continued import evaluate
from pytest_edgehil.gates.gate import Gate, GateSettings
from pytest_edgehil.gates.registry import parse
from pytest_edgehil.model.record import GateUse, Status, TestRecord
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.reporting import results


def gate(name: str, *args: object, alpha: float = 0.05, **kwargs: object) -> Gate:
    return parse(name, args, kwargs, settings=GateSettings(alpha=alpha))


def steady(ms: float, n: int = 400, **changes: object) -> Sample:
    """Latencies just below `ms`, none of them equal."""
    return timed([int(ms * MS) - 1 - i * 7919 % 100_000 for i in range(n)], **changes)


def record_of(nodeid: str, gates: Sequence[Gate], sample: Sample, **changes: Any) -> TestRecord:
    fields: dict[str, Any] = {
        "status": Status.PASSED,
        "started_at": STARTED_AT,
        "duration_s": 1.0,
        "board": board(1),
        "combo": (GOOD,),
        "gates": tuple(GateUse(name=one.name, arguments=one.arguments()) for one in gates),
        "verdicts": tuple(evaluate(one, sample) for one in gates),
    }
    return TestRecord(nodeid=nodeid, **{**fields, **changes})


def report(
    directory: Path,
    tests: Mapping[str, tuple[Sequence[Gate], Sample]],
    *,
    run: str = "run-1",
    more: Sequence[TestRecord] = (),
    **changes: Any,
) -> Path:
    """Write a report directory: node id → gates and what was measured."""
    records = list(more)
    for number, (nodeid, (gates, sample)) in enumerate(tests.items()):
        record = record_of(nodeid, gates, sample, **changes)
        file = f"samples/{number}.json.gz"
        raw.write_sample(directory / file, sample, record.gates)
        records.append(record_with(record, files={"samples": file}))
    results.write(directory, records, run={"id": run, "started_at": STARTED_AT}, quarantined={}, not_run=())
    return directory


def record_with(record: TestRecord, **changes: Any) -> TestRecord:
    import dataclasses

    return dataclasses.replace(record, **changes)
