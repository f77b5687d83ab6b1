"""Verdicts as text: numbers with units, comparisons that never lie, sentences for people.

Every report writes numbers through this module, so the terminal, Allure and the CI summary say the same thing.
Two rules: a number keeps its unit, and rounding never turns a missed budget into a met one (12.003 ms against 12 ms
is written with as many digits as it takes to see the difference).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from pytest_edgehil.model.quantity import format_duration, format_energy, format_number, format_rate, format_size
from pytest_edgehil.model.record import ArtifactRef, Status, TestRecord
from pytest_edgehil.model.requirement import Environment, Timing
from pytest_edgehil.model.verdict import Outcome, Verdict

NOTHING: Final = "–"
"""What stands where there is no number."""

_MAX_DIGITS: Final = 12

SEVERITY: Final = (Outcome.FAIL, Outcome.INVALID, Outcome.INCONCLUSIVE, Outcome.PASS)
"""Outcomes, what a person must see first at the front."""


def quantity(value: float | None, unit: str, *, digits: int = 3) -> str:
    """A number with its unit as people read it.

    Args:
        value: the number in `unit`; None is written as a dash.
        unit: as `Verdict.unit` says; an unknown one is written after the number as it is.
        digits: significant digits.

    >>> quantity(12_345_678, "ns"), quantity(0.9931, "fraction"), quantity(5_242_880, "bytes/h")
    ('12.3 ms', '99.3 %', '5 MiB/h')
    >>> quantity(71.25, "°C"), quantity(None, "ns"), quantity(float("inf"), "bytes")
    ('71.2 °C', '–', '∞')
    >>> quantity(1.0312, "ratio"), quantity(1.005, "ratio"), quantity(2.2731, "ratio")
    ('×1.031', '×1.005', '×2.27')
    """
    if value is None:
        return NOTHING
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    write = _WRITERS.get(unit)
    return write(value, digits) if write is not None else f"{format_number(value, digits=digits)} {unit}".rstrip()


_WRITERS: Final[Mapping[str, Callable[[float, int], str]]] = {
    "ns": lambda value, digits: format_duration(value, digits=digits),
    "s": lambda value, digits: format_duration(value * 1e9, digits=digits),
    "bytes": lambda value, digits: format_size(value, digits=digits),
    "bytes/h": lambda value, digits: f"{format_size(value, digits=digits)}/h",
    "1/s": lambda value, digits: format_rate(value, digits=digits),
    "J": lambda value, digits: format_energy(value, digits=digits),
    "fraction": lambda value, digits: f"{_nearly_all(value * 100, digits)} %",
    "ratio": lambda value, digits: f"×{_near_one(value, digits)}",
}


def observed_and_budget(verdict: Verdict) -> tuple[str, str]:
    """Both numbers of a verdict, with as many digits as it takes to tell them apart.

    >>> v = Verdict(gate="p95_latency", outcome=Outcome.FAIL, unit="ns", n=9, reason="", observed=12.003e6, budget=12e6)
    >>> observed_and_budget(v)
    ('12.003 ms', '12 ms')
    """
    observed, budget = verdict.observed, verdict.budget
    for digits in range(3, _MAX_DIGITS + 1):
        texts = (quantity(observed, verdict.unit, digits=digits), quantity(budget, verdict.unit, digits=digits))
        if observed is None or budget is None or observed == budget or texts[0] != texts[1]:
            return texts
    return texts


def relation(verdict: Verdict) -> str:
    """The sign that stands between observed and budget: what the two numbers say, whatever the outcome is.

    Empty when one of them is missing or is no number.

    >>> v = Verdict(gate="accuracy", outcome=Outcome.PASS, unit="fraction", n=1, reason="", observed=0.99, budget=0.98,
    ...             better="higher")
    >>> relation(v)
    '≥'
    """
    observed, budget = verdict.observed, verdict.budget
    if observed is None or budget is None or math.isnan(observed) or math.isnan(budget):
        return ""
    if verdict.better == "higher":
        return "≥" if observed >= budget else "<"
    return "≤" if observed <= budget else ">"


def required(verdict: Verdict) -> str:
    """The budget as what is asked of the observed number, whether it was met or not.

    >>> v = Verdict(gate="accuracy", outcome=Outcome.FAIL, unit="fraction", n=1, reason="", observed=0.9, budget=0.98,
    ...             better="higher")
    >>> required(v)
    '≥ 98 %'
    """
    budget = observed_and_budget(verdict)[1]
    if verdict.budget is None or math.isnan(verdict.budget):
        return budget
    return f"{'≥' if verdict.better == 'higher' else '≤'} {budget}"


def comparison(verdict: Verdict) -> str:
    """Observed against budget in one phrase, or only what there is.

    >>> comparison(Verdict(gate="size", outcome=Outcome.PASS, unit="bytes", n=1, reason="", observed=900, budget=1024))
    '900 B ≤ 1 KiB'
    """
    observed, budget = observed_and_budget(verdict)
    sign = relation(verdict)
    if sign:
        return f"{observed} {sign} {budget}"
    if verdict.budget is None:
        return observed
    return f"{observed} (budget {budget})"


def interval(verdict: Verdict) -> str:
    """The confidence interval of a verdict; the unit is said once if both bounds share it.

    >>> v = Verdict(gate="p95_latency", outcome=Outcome.PASS, unit="ns", n=9, reason="", interval=(11.2e6, 13.1e6))
    >>> interval(v)
    '11.2–13.1 ms'
    """
    if verdict.interval is None:
        return NOTHING
    low, high = verdict.interval
    if math.isinf(high) and math.isinf(low):
        return NOTHING
    if math.isinf(high):
        return f"≥ {quantity(low, verdict.unit)}"
    if math.isinf(low):
        return f"≤ {quantity(high, verdict.unit)}"
    for digits in range(3, _MAX_DIGITS + 1):
        texts = quantity(low, verdict.unit, digits=digits), quantity(high, verdict.unit, digits=digits)
        if texts[0] != texts[1] or low == high:
            break
    low_number, _, low_unit = texts[0].partition(" ")
    _, _, high_unit = texts[1].partition(" ")
    return f"{low_number}–{texts[1]}" if low_unit == high_unit else f"{texts[0]} – {texts[1]}"


def short_name(nodeid: str) -> str:
    """The part of a node id that people call the test.

    >>> short_name("suites/models/test_digits.py::TestInt8::test_p95[int8]")
    'TestInt8::test_p95[int8]'
    """
    # Parameters may hold "::" themselves: only what stands before the bracket is split.
    head, bracket, parameters = nodeid.partition("[")
    return (head.split("::", 1)[-1]) + bracket + parameters


def build_name(artifact: ArtifactRef) -> str:
    """Name and quantisation without the version: what stays the same while versions come and go."""
    return artifact.name if artifact.quantisation == "none" else f"{artifact.name} {artifact.quantisation}"


def where(record: TestRecord) -> str:
    """The board of a record for a sentence, empty without one.

    >>> where(TestRecord(nodeid="t.py::t", status=Status.PASSED, started_at=0.0, duration_s=0.0))
    ''
    """
    return f" on {record.board.id}" if record.board is not None else ""


def sentence(record: TestRecord, verdict: Verdict) -> str:
    """One verdict as one sentence: which test, where, what, why."""
    reason = verdict.reason.strip() or comparison(verdict)
    return f"{short_name(record.nodeid)}{where(record)}: {verdict.gate}: {reason}"


def attempt_sentence(record: TestRecord) -> str:
    """One attempt that has no verdict to speak for it, as one sentence."""
    said = record.message.strip() if record.board is None else without_board(record.board.id, record.message)
    said = said or f"ended as {record.status.value} without a message"
    return f"{short_name(record.nodeid)}{where(record)}: {said}"


def without_board(board_id: str, reason: str) -> str:
    """A reason for a place that names the board anyway.

    >>> without_board("pi5-03", "pi5-03: the on-board program was killed by SIGSEGV")
    'the on-board program was killed by SIGSEGV'
    """
    return reason.strip().removeprefix(f"{board_id}: ")


def counted(n: int, one: str, many: str | None = None) -> str:
    """A count with its noun.

    >>> counted(1, "board"), counted(3, "board"), counted(2, "retry", "retries")
    ('1 board', '3 boards', '2 retries')
    """
    return f"{n} {one if n == 1 else many or one + 's'}"


def final_attempts(records: Sequence[TestRecord]) -> tuple[TestRecord, ...]:
    """The attempts that count: not put back, ordered as people look for them, the worst first."""
    return tuple(sorted((one for one in records if not one.requeued), key=_urgency))


def unchecked(records: Sequence[TestRecord]) -> tuple[tuple[str, str], ...]:
    """(gate, what it did not look at), each once, in the order of appearance."""
    seen: dict[tuple[str, str], None] = {}
    for record in records:
        for verdict in record.verdicts:
            for one in verdict.not_checked:
                seen.setdefault((verdict.gate, one))
    return tuple(seen)


def worst(record: TestRecord) -> Outcome | None:
    """The outcome of a record's verdicts that a person must see first; None without verdicts."""
    return min((one.outcome for one in record.verdicts), key=SEVERITY.index, default=None)


def caveats(records: Sequence[TestRecord]) -> tuple[str, ...]:
    """What a reader must know about where the numbers come from; empty when all is hardware and measured."""
    told: list[str] = []
    judged = [one for one in records if one.verdicts and one.board is not None]
    kinds = {one.board.environment for one in judged if one.board is not None}
    for kind in (Environment.VIRTUAL, Environment.EMULATED):
        if kind in kinds:
            ids = sorted({one.board.id for one in judged if one.board is not None and one.board.environment is kind})
            told.append(
                f"{', '.join(ids)} {'is' if len(ids) == 1 else 'are'} {kind.value}: "
                "these numbers say nothing about real boards and satisfy no policy that asks for hardware"
            )
    counted = sorted({one.board.id for one in judged if one.board is not None and one.board.timing is Timing.ICOUNT})
    if counted:
        told.append(
            f"the time of {', '.join(counted)} is counted instructions, one nanosecond each: good for comparing with "
            "the same board, and no time on a real one"
        )
    replayed = sorted(
        {one.board.id for one in judged if one.board is not None and (one.board.runtime or "").startswith("replay")}
    )
    if replayed:
        told.append(f"the samples of {', '.join(replayed)} were played back from a recording, not measured")
    return tuple(told)


_STATUS_URGENCY: Final = {
    Status.FAILED: 0,
    Status.INVALID: 1,
    Status.INCONCLUSIVE: 2,
    Status.ERROR: 3,
    Status.INFRASTRUCTURE: 4,
    Status.SKIPPED: 5,
    Status.PASSED: 6,
}


def _urgency(record: TestRecord) -> tuple[int, str, int]:
    return _STATUS_URGENCY[record.status], record.nodeid, record.attempt


def _near_one(ratio: float, digits: int) -> str:
    """A ratio is read by how far it is from 1: two digits of that, or a limit of 1.005 would be written as 1."""
    apart = abs(ratio - 1)
    if not 1e-6 < apart < 0.1:
        return format_number(ratio, digits=digits)
    return format_number(ratio, digits=max(digits, 1 - math.floor(math.log10(apart)) + (ratio > 1)))


def _nearly_all(percent: float, digits: int) -> str:
    """A percentage that reads as 100 only if it is.

    >>> _nearly_all(99.99, 3), _nearly_all(100.0, 3), _nearly_all(99.31, 3)
    ('99.99', '100', '99.3')
    """
    texts = (format_number(percent, digits=more) for more in range(digits, 12))
    return next((text for text in texts if text != "100" or percent == 100.0), "100")
