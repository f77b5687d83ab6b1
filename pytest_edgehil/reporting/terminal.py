"""The account at the end of a run, for a terminal: failures first, then what else a person must know.

`summary` returns lines with hints for colour and writes nothing itself: the plugin hands them to pytest's
terminal reporter. A table that is too wide gives way in a fixed order (`_YIELDS`): what decides, board, gate,
observed, budget and verdict, always stays.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pytest_edgehil.model.record import Status, TestRecord
from pytest_edgehil.model.verdict import Outcome, Verdict
from pytest_edgehil.reporting import format as fmt
from pytest_edgehil.reporting.explain import explain

_COLOUR: Final = {
    Outcome.PASS: "green",
    Outcome.FAIL: "red",
    Outcome.INVALID: "yellow",
    Outcome.INCONCLUSIVE: "yellow",
}
_GAP: Final = 2
_MIN_TABLE_WIDTH: Final = 64  # below this a table is a jumble: one line per verdict instead
_TABLE_ROWS_PASSED: Final = 40
_LISTED: Final = 30

_HEADS: Final = ("board", "combo", "gate", "observed", "budget", "interval", "n", "verdict", "test")
_RIGHT: Final = frozenset({"observed", "budget", "n"})

_YIELDS: Final = (("drop", "test"), ("wrap", 24), ("drop", "interval"), ("drop", "n"), ("wrap", 10), ("drop", "combo"))
"""What gives way, in this order, until the table fits: drop a column, or wrap the combo down to a width."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of text and how it may be coloured.

    Args:
        colour: ``red``, ``green``, ``yellow`` or empty.
    """

    text: str
    bold: bool = False
    colour: str = ""

    @property
    def markup(self) -> dict[str, bool]:
        """Keyword arguments of `TerminalReporter.write_line`.

        >>> Line(text="FAIL", bold=True, colour="red").markup
        {'bold': True, 'red': True}
        """
        hints = {"bold": True} if self.bold else {}
        return hints | ({self.colour: True} if self.colour else {})


def summary(
    records: Sequence[TestRecord],
    *,
    quarantined: Mapping[str, str],
    not_run: Sequence[str],
    width: int,
    verbose: bool = True,
    error_rate: str = "",
) -> list[Line]:
    """The whole account.

    Args:
        records: every attempt, in any order.
        quarantined: board id → reason.
        not_run: node ids that were collected and have no result.
        width: columns of the terminal.
        verbose: explain every verdict, and list what each gate did not check; otherwise explain only those that are
            not PASS, and say only that there is such a list, and where.
        error_rate: what the verdicts are worth together, as one sentence.

    Returns:
        Lines without line ends; none when there is nothing to say.
    """
    final = fmt.final_attempts(records)
    sections = [
        _table(final, width),
        _explanations(final, width, verbose=verbose),
        _requeued(records, final, width),
        _continued(final, width),
        _quarantined(quarantined, width),
        _not_run(not_run, width),
        _small_print(final, width, verbose=verbose, error_rate=error_rate),
        _tally(final, quarantined, not_run, width),
    ]
    lines: list[Line] = []
    for section in sections:
        if section:
            lines += ([Line(text="")] if lines else []) + section
    return lines


def verdict_table(records: Sequence[TestRecord], width: int) -> list[Line]:
    """Only the table, the worst first; empty without verdicts."""
    return _table(fmt.final_attempts(records), width)


# --- the table ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    cells: Mapping[str, str]
    verdict: Verdict


def _table(records: Sequence[TestRecord], width: int) -> list[Line]:
    rows = [_row(record, verdict) for record in records for verdict in record.verdicts]
    rows.sort(key=lambda row: fmt.SEVERITY.index(row.verdict.outcome))  # stable: within one outcome by test
    if not rows:
        return []
    passed = [row for row in rows if row.verdict.outcome is Outcome.PASS]
    hidden = max(0, len(passed) - _TABLE_ROWS_PASSED)
    if hidden:
        rows = rows[: len(rows) - hidden]
    if width < _MIN_TABLE_WIDTH:
        lines = [line for row in rows for line in _as_sentence(row, width)]
    else:
        lines = _as_table(rows, width)
    if hidden:
        lines.append(Line(text=f"… and {fmt.counted(hidden, 'more verdict')} PASS"))
    return lines


def _row(record: TestRecord, verdict: Verdict) -> _Row:
    observed, _ = fmt.observed_and_budget(verdict)
    return _Row(
        cells={
            "board": record.board.id if record.board is not None else fmt.NOTHING,
            "combo": record.combo_label or fmt.NOTHING,
            "gate": verdict.gate,
            "observed": observed,
            "budget": fmt.required(verdict),
            "interval": fmt.interval(verdict),
            "n": str(verdict.n),
            "verdict": verdict.outcome.value,
            "test": fmt.short_name(record.nodeid),
        },
        verdict=verdict,
    )


def _as_sentence(row: _Row, width: int) -> list[Line]:
    text = f"{row.cells['verdict']} {row.cells['gate']} on {row.cells['board']}: {fmt.comparison(row.verdict)}"
    return _wrapped(text, width, colour=_COLOUR[row.verdict.outcome])


def _as_table(rows: Sequence[_Row], width: int) -> list[Line]:
    heads = list(_HEADS)
    widths = {head: max(len(head), *(len(row.cells[head]) for row in rows)) for head in heads}

    def too_wide() -> bool:
        return sum(widths[head] for head in heads) + _GAP * (len(heads) - 1) > width

    for what, argument in _YIELDS:
        if not too_wide():
            break
        if what == "drop":
            heads.remove(str(argument))
        else:
            spare = width - sum(widths[head] for head in heads if head != "combo") - _GAP * (len(heads) - 1)
            widths["combo"] = min(widths["combo"], max(int(argument), spare))
    if too_wide():  # long ids: nothing is left to drop, so say it in sentences
        return [line for row in rows for line in _as_sentence(row, width)]
    lines = [Line(text=_joined({head: head for head in heads}, heads, widths), bold=True)]
    for row in rows:
        combo = textwrap.wrap(row.cells["combo"], widths["combo"]) if "combo" in heads else [""]
        first = {**row.cells, "combo": combo[0]}
        colour = _COLOUR[row.verdict.outcome]
        lines.append(Line(text=_joined(first, heads, widths), colour=colour))
        lines += [Line(text=_joined({"combo": rest}, heads, widths), colour=colour) for rest in combo[1:]]
    return lines


def _joined(cells: Mapping[str, str], heads: Sequence[str], widths: Mapping[str, int]) -> str:
    padded = (
        cells.get(head, "").rjust(widths[head]) if head in _RIGHT else cells.get(head, "").ljust(widths[head])
        for head in heads
    )
    return (" " * _GAP).join(padded).rstrip()


# --- what the table does not say ---------------------------------------------------------------------


def _explanations(records: Sequence[TestRecord], width: int, *, verbose: bool) -> list[Line]:
    """Verdicts that are not PASS with their figures and what would change them; attempts that no verdict speaks for."""
    told = [
        (record, verdict)
        for record in records
        for verdict in record.verdicts
        if verbose or verdict.outcome is not Outcome.PASS
    ]
    told.sort(key=lambda one: fmt.SEVERITY.index(one[1].outcome))
    found: list[tuple[int, list[Line]]] = []
    for number, (record, verdict) in enumerate(told):
        colour = _COLOUR[verdict.outcome]
        lines = _wrapped(f"{verdict.outcome.value} {fmt.sentence(record, verdict)}", width, colour=colour)
        if verbose or number < _LISTED:  # where everything is missed, the sentences say enough
            lines += [line for more in explain(verdict)[1:] for line in _wrapped(f"    {more}", width)]
        found.append((fmt.SEVERITY.index(verdict.outcome), lines))
    for record in records:
        if not _spoken_for(record):
            rank = 0 if record.status is Status.FAILED else len(fmt.SEVERITY)
            word = f"{_STATUS_WORD[record.status]} {fmt.attempt_sentence(record)}"
            found.append((rank, _wrapped(word, width, colour=_STATUS_COLOUR[record.status])))
    found.sort(key=lambda one: one[0])
    return [line for _, lines in found for line in lines]


def _spoken_for(record: TestRecord) -> bool:
    """Does a verdict of this record already say why it ended as it did, or is there nothing to explain?"""
    if record.status in {Status.PASSED, Status.SKIPPED}:
        return True
    return _EXPLAINED_BY.get(record.status) in {one.outcome for one in record.verdicts}


_EXPLAINED_BY: Final = {
    Status.FAILED: Outcome.FAIL,
    Status.INCONCLUSIVE: Outcome.INCONCLUSIVE,
    Status.INVALID: Outcome.INVALID,
}
_STATUS_WORD: Final = {
    Status.FAILED: "FAILED",
    Status.INCONCLUSIVE: "INCONCLUSIVE",
    Status.INVALID: "INVALID",
    Status.INFRASTRUCTURE: "INFRASTRUCTURE",
    Status.ERROR: "ERROR",
}
_STATUS_COLOUR: Final = {
    Status.FAILED: "red",
    Status.INCONCLUSIVE: "yellow",
    Status.INVALID: "yellow",
    Status.INFRASTRUCTURE: "yellow",
    Status.ERROR: "red",
}


def _requeued(records: Sequence[TestRecord], final: Sequence[TestRecord], width: int) -> list[Line]:
    put_back = sorted((one for one in records if one.requeued), key=lambda one: (one.nodeid, one.attempt))
    if not put_back:
        return []
    ended = {one.nodeid: one for one in final}
    lines = [Line(text="put back, because the board broke or was lost:", bold=True)]
    for record in put_back:
        last = ended.get(record.nodeid)
        outcome = f"then {last.status.value}{fmt.where(last)}" if last is not None else "and never ran again"
        lines += _wrapped(f"  {fmt.attempt_sentence(record)}; {outcome}", width, colour="yellow")
    return lines


def _continued(records: Sequence[TestRecord], width: int) -> list[Line]:
    told = [one for one in records if one.continued]
    if not told:
        return []
    lines = [Line(text="run again:", bold=True)]
    for record in told[:_LISTED]:
        lines += _wrapped(f"  {record.nodeid}: {record.continued}", width)
    if len(told) > _LISTED:
        lines.append(Line(text=f"  … and {len(told) - _LISTED} more"))
    return lines


def _quarantined(quarantined: Mapping[str, str], width: int) -> list[Line]:
    if not quarantined:
        return []
    lines = _wrapped("quarantined boards ('edgehil lab restore BOARD' takes one back):", width, bold=True)
    for board_id, reason in sorted(quarantined.items()):
        lines += _wrapped(f"  {board_id}: {fmt.without_board(board_id, reason)}", width, colour="yellow")
    return lines


def _not_run(not_run: Sequence[str], width: int) -> list[Line]:
    if not not_run:
        return []
    lines = [
        Line(text=f"NOT RUN: {fmt.counted(len(not_run), 'collected test')} without a result", bold=True, colour="red")
    ]
    for nodeid in not_run[:_LISTED]:
        lines += _wrapped(f"  {nodeid}", width, colour="red")
    if len(not_run) > _LISTED:
        lines.append(Line(text=f"  … and {len(not_run) - _LISTED} more", colour="red"))
    return lines


def _small_print(records: Sequence[TestRecord], width: int, *, verbose: bool, error_rate: str) -> list[Line]:
    lines = _wrapped(f"error rate: {error_rate}", width) if error_rate else []
    lines += [line for one in fmt.caveats(records) for line in _wrapped(f"note: {one}", width)]
    unchecked = fmt.unchecked(records)
    if verbose:
        for gate, what in unchecked:
            lines += _wrapped(f"not checked by {gate}: {what}", width)
    elif unchecked:
        gates = ", ".join(dict.fromkeys(gate for gate, _ in unchecked))
        lines += _wrapped(f"note: what {gates} did not check is listed with -v and in the report", width)
    return lines


def _tally(
    records: Sequence[TestRecord], quarantined: Mapping[str, str], not_run: Sequence[str], width: int
) -> list[Line]:
    verdicts = [one for record in records for one in record.verdicts]
    if not verdicts and not quarantined and not not_run:
        return []
    parts = []
    if verdicts:
        counts = [(outcome, sum(one.outcome is outcome for one in verdicts)) for outcome in fmt.SEVERITY]
        parts.append(", ".join(f"{n} {outcome.value}" for outcome, n in counts if n))
    boards = {one.board.id for one in records if one.board is not None}
    if boards:
        parts.append(fmt.counted(len(boards), "board"))
    if quarantined:
        parts.append(f"{len(quarantined)} quarantined")
    if not_run:
        parts.append(f"{len(not_run)} not run")
    clean = all(one.outcome is Outcome.PASS for one in verdicts) and not quarantined and not not_run
    failed = any(one.outcome is Outcome.FAIL for one in verdicts) or bool(not_run)
    colour = "green" if clean else "red" if failed else "yellow"
    return _wrapped(
        f"verdicts: {' · '.join(parts)}" if verdicts else " · ".join(parts), width, bold=True, colour=colour
    )


# --- text --------------------------------------------------------------------------------------------


_BEFORE_UNIT: Final = re.compile(r"(?<=\d) (?=(?:%|°C|(?:ns|µs|ms|s|min|h|B|[KMG]iB)\b))")


def _wrapped(text: str, width: int, *, bold: bool = False, colour: str = "") -> list[Line]:
    indent = len(text) - len(text.lstrip())
    one_line = " " * indent + " ".join(text.split())  # reasons may carry line ends; a terminal line does not
    pieces = textwrap.wrap(
        _BEFORE_UNIT.sub("\N{NO-BREAK SPACE}", one_line),
        max(20, width),
        subsequent_indent=" " * (indent + 4),
        break_long_words=False,  # a node id that is cut cannot be copied
        break_on_hyphens=False,
    )
    return [Line(text=piece.replace("\N{NO-BREAK SPACE}", " "), bold=bold, colour=colour) for piece in pieces]
