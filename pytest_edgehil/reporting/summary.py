"""The account of a run as Markdown, for the step summary of a CI system (``$GITHUB_STEP_SUMMARY``).

GitHub refuses a step summary above 1 MiB, and nobody reads one that long: failures are always written, passes are
folded away, and beyond a limit the file named ``results.json`` is pointed to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from pytest_edgehil.model.record import Status, TestRecord
from pytest_edgehil.model.verdict import Outcome, Verdict
from pytest_edgehil.reporting import format as fmt
from pytest_edgehil.reporting.explain import explain

_ROWS: Final = 500
_LISTED: Final = 100
_CELL: Final = 300  # characters of a reason; a traceback in a cell would make the table unreadable

_MARK: Final = {
    Outcome.PASS: "✅ PASS",
    Outcome.FAIL: "❌ FAIL",
    Outcome.INCONCLUSIVE: "❔ INCONCLUSIVE",
    Outcome.INVALID: "⚠️ INVALID",
}
_HEAD: Final = (
    "| verdict | gate | observed | budget | interval | n | board | combo | test |\n"
    "|---|---|--:|--:|---|--:|---|---|---|"
)


def markdown(
    records: Sequence[TestRecord],
    *,
    quarantined: Mapping[str, str],
    not_run: Sequence[str],
    error_rate: str = "",
    title: str = "Hardware-in-the-loop gates",
) -> str:
    """The whole account, ending in a line end.

    Args:
        records: every attempt, in any order.
        quarantined: board id → reason.
        not_run: node ids that were collected and have no result.
        error_rate: what the verdicts are worth together, as one sentence.
        title: the heading.
    """
    final = fmt.final_attempts(records)
    blocks = [f"### {_escaped(title)}", _headline(final, quarantined, not_run)]
    pairs = [(record, verdict) for record in final for verdict in record.verdicts]
    missed = [one for one in pairs if one[1].outcome is not Outcome.PASS]
    missed.sort(key=lambda one: fmt.SEVERITY.index(one[1].outcome))
    passed = [one for one in pairs if one[1].outcome is Outcome.PASS]
    if missed:
        blocks.append(_table(missed))
        blocks.append(_bullets([_explained(record, one) for record, one in missed]))
    wrong = [one for one in final if one.status in {Status.ERROR, Status.INFRASTRUCTURE}]
    wrong += [one for one in final if one.status is Status.FAILED and fmt.worst(one) is not Outcome.FAIL]
    if wrong:
        blocks.append(_bullets([f"**{one.status.value}** {_cell(fmt.attempt_sentence(one))}" for one in wrong]))
    if passed:
        label = fmt.counted(len(passed), "verdict")
        blocks.append(f"<details><summary>{label} PASS</summary>\n\n{_table(passed)}\n\n</details>")
    put_back = [one for one in records if one.requeued]
    if put_back:
        blocks += [
            "**Put back, because the board broke or was lost**",
            _bullets([_cell(fmt.attempt_sentence(one)) for one in put_back]),
        ]
    again = [one for one in final if one.continued]
    if again:
        blocks += ["**Run again**", _bullets([f"`{one.nodeid}`: {_cell(one.continued)}" for one in again])]
    if quarantined:
        lines = [
            f"`{board}`: {_cell(fmt.without_board(board, reason))}" for board, reason in sorted(quarantined.items())
        ]
        blocks += ["**Quarantined boards**", _bullets(lines)]
    if not_run:
        blocks += [f"**Not run: {fmt.counted(len(not_run), 'test')}**", _bullets([f"`{one}`" for one in not_run])]
    notes = [
        *([error_rate] if error_rate else []),
        *fmt.caveats(final),
        *(f"not checked by {gate}: {what}" for gate, what in fmt.unchecked(final)),
    ]
    if notes:
        blocks.append("\n".join(f"> {_cell(one)}  " for one in notes))
    return "\n\n".join(blocks) + "\n"


def _headline(records: Sequence[TestRecord], quarantined: Mapping[str, str], not_run: Sequence[str]) -> str:
    verdicts = [one for record in records for one in record.verdicts]
    parts = []
    for outcome in fmt.SEVERITY:
        n = sum(one.outcome is outcome for one in verdicts)
        if n:
            parts.append(f"{_MARK[outcome]} {n}")
    if not verdicts:
        parts.append("no gate was judged")
    boards = {one.board.id for one in records if one.board is not None}
    parts.append(f"on {fmt.counted(len(boards), 'board')}")
    if quarantined:
        parts.append(f"{len(quarantined)} quarantined")
    if not_run:
        parts.append(f"**{len(not_run)} not run**")
    return " · ".join(parts)


def _table(pairs: Sequence[tuple[TestRecord, Verdict]]) -> str:
    rows = [_row(record, verdict) for record, verdict in pairs[:_ROWS]]
    table = "\n".join([_HEAD, *rows])
    if len(pairs) > _ROWS:
        table += f"\n\n… and {len(pairs) - _ROWS} more: see results.json"
    return table


def _row(record: TestRecord, verdict: Verdict) -> str:
    observed, _ = fmt.observed_and_budget(verdict)
    cells = (
        _MARK[verdict.outcome],
        verdict.gate,
        observed,
        fmt.required(verdict),
        fmt.interval(verdict),
        str(verdict.n),
        record.board.id if record.board is not None else fmt.NOTHING,
        record.combo_label or fmt.NOTHING,
        fmt.short_name(record.nodeid),
    )
    return f"| {' | '.join(_cell(one) for one in cells)} |"


def _explained(record: TestRecord, verdict: Verdict) -> str:
    """A verdict's sentence, and below it its figures and what would change it."""
    told = [f"**{verdict.outcome.value}** {_cell(fmt.sentence(record, verdict))}"]
    return "\n  - ".join([*told, *(_cell(one) for one in explain(verdict)[1:])])


def _bullets(lines: Sequence[str]) -> str:
    told = [f"- {one}" for one in lines[:_LISTED]]
    if len(lines) > _LISTED:
        told.append(f"- … and {len(lines) - _LISTED} more: see results.json")
    return "\n".join(told)


_SPECIAL: Final = str.maketrans({
    "\\": "\\\\", "|": "\\|", "*": "\\*", "_": "\\_", "`": "\\`", "[": "\\[", "]": "\\]", "#": "\\#", "~": "\\~",
    "<": "&lt;", ">": "&gt;", "&": "&amp;",
})  # fmt: skip


def _escaped(text: str) -> str:
    return " ".join(text.split()).translate(_SPECIAL)


def _cell(text: str) -> str:
    shown = " ".join(text.split())
    return _escaped(shown if len(shown) <= _CELL else shown[: _CELL - 1] + "…")
