"""``edgehil judge``: judge stored samples again, offline, by the gates they were judged by or by others.

The same sample gives the same verdict at any later time, so a recorded verdict never has to be believed. Judging by
*other* gates is for looking: whoever chooses a gate after having seen the samples can choose one that passes, so such
a verdict has no error rate, and nothing is signed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_edgehil.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_edgehil.gates.gate import Gate
    from pytest_edgehil.gates.gates_file import GatesFile
    from pytest_edgehil.model.record import TestRecord
    from pytest_edgehil.model.sample import Sample
    from pytest_edgehil.model.verdict import Verdict
    from pytest_edgehil.reporting.stored import StoredRun, StoredTest

CHOSEN_AFTERWARDS = (
    "these gates were chosen after the samples had been measured: their error rates do not hold, and nothing is signed"
)
SIGNS_NOTHING = "judged again by the recorded gates; nothing is signed"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One test, judged again.

    Args:
        record: with the gates and verdicts of now.
        differences: how the recorded verdicts differ, one line each.
    """

    record: TestRecord
    differences: tuple[str, ...]


def add(subparsers: Any) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "judge",
        help="judge stored samples again, also by other gates",
        description="Exit status: 0 every verdict is PASS and as it was recorded, 1 otherwise, 2 bad input.",
    )
    parser.add_argument(
        "results",
        type=Path,
        nargs="?",
        metavar="RESULTS",
        help="report directory of a run, its results.json, or one samples file",
    )
    parser.add_argument(
        "--gates",
        type=Path,
        metavar="FILE",
        help="judge by the gates of this YAML file; default: by those recorded, compared with the recorded verdicts",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of the gates file, and do no more")
    parser.set_defaults(run=_judge)


def _judge(options: argparse.Namespace) -> int:
    from pytest_edgehil.gates.gates_file import gates_schema, load_gates
    from pytest_edgehil.model.verdict import Outcome
    from pytest_edgehil.reporting.stored import read_stored

    if options.schema:
        print(json.dumps(gates_schema(), indent=2, ensure_ascii=False))
        return 0
    if options.results is None:
        raise UserError("judge: name the report directory, results.json or samples file to judge")
    stored = read_stored(options.results)
    chosen = None if options.gates is None else load_gates(options.gates)
    judged = tuple(found for one in stored.tests if (found := _again(one, chosen)) is not None)
    if not judged:
        raise UserError(_nothing(stored, options.gates))
    if options.json:
        print(_as_json(judged, stored, chosen=chosen is not None), end="")
    else:
        _show(judged, stored, chosen=chosen)
    verdicts = [verdict for one in judged for verdict in one.record.verdicts]
    good = all(one.outcome is Outcome.PASS for one in verdicts) and not any(one.differences for one in judged)
    return 0 if good else 1


def _again(stored: StoredTest, chosen: GatesFile | None) -> Judged | None:
    """Judge one test; None when no gate is for it."""
    from pytest_edgehil.evidence.statement import Claim
    from pytest_edgehil.evidence.verify import disagreement
    from pytest_edgehil.gates.registry import from_arguments
    from pytest_edgehil.model.record import GateUse

    record = stored.record
    gates: Sequence[Gate]
    if chosen is None:
        gates = [from_arguments(one.name, one.arguments) for one in record.gates]
    else:
        gates = chosen.gates_for(record.nodeid)
    if not gates:
        return None
    sample = stored.sample()
    verdicts = tuple(_verdict(gate, sample, record) for gate in gates)
    uses = tuple(GateUse(name=gate.name, arguments=gate.arguments()) for gate in gates)
    differences: tuple[str, ...] = ()
    if chosen is None and record.verdicts:
        told = zip(record.verdicts, uses, verdicts, strict=True)
        found = ((use.name, disagreement(Claim(use=use, verdict=said), now)) for said, use, now in told)
        differences = tuple(f"{name}: {difference}" for name, difference in found if difference is not None)
    return Judged(record=dataclasses.replace(record, gates=uses, verdicts=verdicts), differences=differences)


def _verdict(gate: Gate, sample: Sample, record: TestRecord) -> Verdict:
    from pytest_edgehil.gates.continued import evaluate
    from pytest_edgehil.model.verdict import Outcome, Verdict

    try:
        refuse = getattr(gate, "require_comparable", None)
        if refuse is not None and record.board is not None:
            refuse(record.board)
        verdict = evaluate(gate, sample)
    except (UserError, ValueError) as problem:
        reason = f"the stored sample cannot tell: {problem}"
        return Verdict(gate=gate.name, outcome=Outcome.INCONCLUSIVE, unit="", n=0, reason=reason)
    if verdict.decided:
        return verdict
    reason = f"{verdict.reason}; a stored sample cannot be measured on"
    return dataclasses.replace(verdict, reason=reason, decided=True)


def _nothing(stored: StoredRun, gates: Path | None) -> str:
    if not stored.tests:
        return f"{stored.source}: no test of this run kept a sample, so there is nothing to judge"
    if gates is None:
        return f"{stored.source}: no test of this run had a gate; name some with --gates FILE"
    nodeids = ", ".join(one.record.nodeid for one in stored.tests[:3])
    return f"{gates}: no pattern fits a test of {stored.source}, which has {nodeids}"


def _as_json(judged: Sequence[Judged], stored: StoredRun, *, chosen: bool) -> str:
    from pytest_edgehil.model.record import verdict_to_json
    from pytest_edgehil.reporting.results import to_text

    return to_text(
        {
            "run": stored.run,
            "note": CHOSEN_AFTERWARDS if chosen else SIGNS_NOTHING,
            "tests": [
                {
                    "nodeid": one.record.nodeid,
                    "gates": [{"name": use.name, "arguments": dict(use.arguments)} for use in one.record.gates],
                    "verdicts": [verdict_to_json(verdict) for verdict in one.record.verdicts],
                    "differences": list(one.differences),
                }
                for one in judged
            ],
            "without_sample": list(stored.without),
        }
    )


def _show(judged: Sequence[Judged], stored: StoredRun, *, chosen: GatesFile | None) -> None:
    from pytest_edgehil.reporting import explain, terminal

    records = [one.record for one in judged]
    width = shutil.get_terminal_size().columns
    for line in terminal.verdict_table(records, width):
        print(line.text)
    for record in records:
        print(f"\n{record.nodeid}")
        for verdict in record.verdicts:
            for text in explain.explain(verdict):
                print(f"  {text}")
            for text in verdict.not_checked:
                print(f"    not checked: {text}")
    print()
    if stored.without:
        print(f"not judged, for they kept no sample: {', '.join(stored.without)}")
    differing = [(one.record.nodeid, text) for one in judged for text in one.differences]
    for nodeid, text in differing:
        print(f"DIFFERENT from what was recorded: {nodeid}: {text}")
    if chosen is not None:
        print(f"note: {CHOSEN_AFTERWARDS}")
    elif not stored.run:
        print("note: a samples file holds no verdicts, so there was nothing to compare with; nothing is signed")
    elif not differing:
        print(f"every recorded verdict of run {stored.run} is reached again; nothing is signed")
