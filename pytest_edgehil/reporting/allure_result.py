"""What one Allure result gets from one record: status, labels, parameters, steps, figures.

Pure changes of Allure's own model objects; `allure_sink` decides when, and writes files. Status and categories
follow one table (see docs/reference/results.md): a missed gate is *failed*; whatever is not the model's fault, or
not decided, is not.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator, Sequence
from typing import Any, Final

from allure_commons.model2 import Label, Parameter, StatusDetails, TestStepResult
from allure_commons.model2 import Status as AllureStatus

from pytest_edgehil.model.record import Status, Step, TestRecord
from pytest_edgehil.model.requirement import Timing
from pytest_edgehil.model.verdict import Outcome, Verdict
from pytest_edgehil.reporting import format as fmt
from pytest_edgehil.reporting.allure_files import INCONCLUSIVE, INFRASTRUCTURE, INVALID

_VERDICT_LABEL: Final = {
    Status.PASSED: "pass",
    Status.FAILED: "fail",
    Status.INCONCLUSIVE: "inconclusive",
    Status.INVALID: "invalid",
    Status.INFRASTRUCTURE: "infrastructure",
    Status.ERROR: "error",
    Status.SKIPPED: "skipped",
}
_MESSAGE: Final = {
    Status.INCONCLUSIVE: INCONCLUSIVE,
    Status.INVALID: INVALID,
    Status.INFRASTRUCTURE: INFRASTRUCTURE,
}
_STEP_STATUS: Final = {
    Outcome.PASS: AllureStatus.PASSED,
    Outcome.FAIL: AllureStatus.FAILED,
    Outcome.INCONCLUSIVE: AllureStatus.BROKEN,
    Outcome.INVALID: AllureStatus.BROKEN,
}


def set_status(result: Any, record: TestRecord, *, inconclusive: str) -> None:
    """Set the status that the record means, but never make a result better than allure-pytest found it."""
    match record.status:
        case Status.FAILED:
            result.status = AllureStatus.FAILED
        case Status.INCONCLUSIVE:
            result.status = inconclusive
        case Status.INVALID | Status.INFRASTRUCTURE | Status.ERROR:
            result.status = AllureStatus.BROKEN
        case Status.PASSED | Status.SKIPPED:
            return
    gate_missed = any(one.outcome is Outcome.FAIL for one in record.verdicts)
    if record.status in _MESSAGE:
        message = f"{_MESSAGE[record.status]}: {record.message}"
    elif record.status is Status.FAILED and gate_missed:
        message = f"gate missed: {record.message}"
    else:
        message = None  # an assertion or a bug: allure-pytest's message and traceback say more
    if message is not None:
        result.statusDetails = StatusDetails(message=message)  # our traceback would only lead into ourselves
    elif result.statusDetails is None and record.message:
        result.statusDetails = StatusDetails(message=record.message)


def add_labels(result: Any, record: TestRecord, *, lab: str) -> None:
    """Say how it ended, where it ran (the timeline: lab and board), and what was tested (the behaviours page)."""
    told = {one.name for one in result.labels}
    replaced = {"thread", *(["host"] if lab else [])}
    verdict = _VERDICT_LABEL[record.status]
    if record.status is Status.PASSED:
        # a fixture may have failed after the record was made
        verdict = {AllureStatus.FAILED: "fail", AllureStatus.BROKEN: "error"}.get(result.status, verdict)
    labels = [("verdict", verdict), ("thread", record.board.id if record.board is not None else record.worker)]
    if lab:
        labels.append(("host", lab))
    if record.board is not None:
        labels += [
            ("board", record.board.id),
            ("board_class", record.board.cls),
            ("board_environment", record.board.environment.value),
            ("board_timing", record.board.timing.value),
        ]
    subject = next(
        (one for track in ("model", "firmware", "prompt") for one in record.combo if one.track == track), None
    )
    if subject is not None:
        # the behaviours page: which model, which build of it, on which boards
        labels += [
            (name, value) for name, value in (("epic", subject.name), ("feature", subject.label)) if name not in told
        ]
        if record.board is not None and "story" not in told:
            labels.append(("story", record.board.cls))
    labels += [("tag", one) for one in dict.fromkeys(verdict.gate for verdict in record.verdicts)]
    result.labels = [one for one in result.labels if one.name not in replaced]
    result.labels += [Label(name=name, value=value) for name, value in labels]


def add_parameters(result: Any, record: TestRecord, *, board_is_identity: bool) -> None:
    """Model, prompt and board class tell results apart from run to run; the rest is only shown.

    Versions are no part of the identity: a test's history is there to see what a new version changed. The
    description names them. Of a test that was put back because its board broke, the board's class is none either.
    """
    parts = {one.track: one for one in record.combo}
    board = record.board
    identity: dict[str, str | None] = {
        **{track: fmt.build_name(parts[track]) for track in ("model", "prompt") if track in parts},
        "board_class": board.cls if board is not None else None,
        "timing": board.timing.value if board is not None and board.timing is not Timing.WALL else None,
    }
    shown: dict[str, str | None] = {}
    if record.requeued or record.attempt > 1:
        # the attempts may run on boards of two classes, and must still be one test with a retry
        shown["board_class"] = identity.pop("board_class")
    shown |= {
        "board": board.id if board is not None else None,
        "firmware": parts["firmware"].label if "firmware" in parts else None,
    }
    if board_is_identity:
        identity["board"] = shown.pop("board")
    taken = {one.name for one in result.parameters}  # the test's own parameters keep their names
    added = [Parameter(name=name, value=text) for name, text in identity.items() if text and name not in taken]
    if result.historyId and added:
        # allure-pytest has computed it already, without these; Allure 2 takes it as it stands
        told = "\0".join([result.historyId, *(f"{one.name}={one.value}" for one in added)])
        result.historyId = hashlib.md5(told.encode(), usedforsecurity=False).hexdigest()
    result.parameters += added
    result.parameters += [
        Parameter(name=name, value=text, excluded=True) for name, text in shown.items() if text and name not in taken
    ]


# --- steps -------------------------------------------------------------------------------------------


def steps(record: TestRecord) -> list[Any]:
    """The record's steps, those that happened within another one below it, and each gate below ``judge``."""
    roots: list[Any] = []
    open_steps: list[Any] = []
    judge: Any = None
    for step in sorted(record.steps, key=lambda one: (one.started_at, -one.duration_s)):
        made = _step(step)
        while open_steps and made.stop > open_steps[-1].stop:
            open_steps.pop()
        (open_steps[-1].steps if open_steps else roots).append(made)
        open_steps.append(made)
        if step.name == "judge":
            judge = made
    if record.verdicts:
        if judge is None:
            end = milliseconds(record.started_at + record.duration_s)
            judge = TestStepResult(name="judge", status=AllureStatus.PASSED, start=end, stop=end)
            roots.append(judge)
        judge.steps += [_gate_step(one, at=judge.stop) for one in record.verdicts]
        # judging itself went well, but a reader looks for red at the outermost step
        worst = fmt.worst(record)
        if worst is not None and worst is not Outcome.PASS:
            judge.status = _STEP_STATUS[worst]
    return roots


def _step(step: Step) -> Any:
    result = TestStepResult(
        name=f"{step.name}: {step.detail}" if step.detail and not step.failed else step.name,
        status=AllureStatus.BROKEN if step.failed else AllureStatus.PASSED,
        start=milliseconds(step.started_at),
        stop=milliseconds(step.started_at + step.duration_s),
    )
    if step.failed:
        result.statusDetails = StatusDetails(message=step.detail)
    return result


def _gate_step(verdict: Verdict, *, at: int) -> Any:
    step = TestStepResult(
        name=f"{verdict.gate}: {fmt.comparison(verdict)} → {verdict.outcome.value}",
        status=_STEP_STATUS[verdict.outcome],
        start=at,
        stop=at,
    )
    if verdict.outcome is not Outcome.PASS:
        step.statusDetails = StatusDetails(message=verdict.reason)
    return step


def figures(verdicts: Sequence[Verdict]) -> bytes:
    """Every number of every verdict in its bare unit: Allure shows CSV as a table."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["gate", "figure", "value", "unit"])
    for verdict in verdicts:
        rows.writerows([verdict.gate, *row] for row in _figure_rows(verdict))
    return text.getvalue().encode()


def _figure_rows(verdict: Verdict) -> Iterator[tuple[str, str, str]]:
    low, high = verdict.interval if verdict.interval is not None else (None, None)
    numbers = {"observed": verdict.observed, "budget": verdict.budget, "interval low": low, "interval high": high}
    for name, value in numbers.items():
        if value is not None:
            yield name, repr(value), verdict.unit
    yield "n", str(verdict.n), ""
    for name, value in verdict.statistics.items():
        yield name, repr(value), ""


def milliseconds(seconds: float) -> int:
    """Allure's time."""
    return round(seconds * 1000)
