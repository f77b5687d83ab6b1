"""The description of a test in Allure: its verdicts as a table that is visible without a click.

Attachments are collapsed in Allure, the description is not; that is why the table goes here. Allure Awesome keeps
tables and inline styles and strips SVG, classes and scripts; Allure 2 strips styles too, so the words alone must
tell everything. Text takes the reader's theme; only the chips bring colours of their own, which read on light and
dark alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from pytest_edgehil.model.record import Status, TestRecord
from pytest_edgehil.model.requirement import Environment, Timing
from pytest_edgehil.model.verdict import Outcome, Verdict
from pytest_edgehil.reporting import format as fmt
from pytest_edgehil.reporting.explain import explain

_GREEN, _RED, _AMBER, _GREY, _BLUE = "#1a7f37", "#cf222e", "#9a6700", "#57606a", "#0969da"

_OUTCOME_COLOUR: Final = {
    Outcome.PASS: _GREEN,
    Outcome.FAIL: _RED,
    Outcome.INCONCLUSIVE: _AMBER,
    Outcome.INVALID: _AMBER,
}
_STATUS_COLOUR: Final = {
    Status.PASSED: _GREEN,
    Status.FAILED: _RED,
    Status.INCONCLUSIVE: _AMBER,
    Status.INVALID: _AMBER,
    Status.INFRASTRUCTURE: _AMBER,
    Status.ERROR: _RED,
    Status.SKIPPED: _GREY,
}
_ENVIRONMENT_COLOUR: Final = {Environment.HARDWARE: _BLUE, Environment.EMULATED: _GREY, Environment.VIRTUAL: _GREY}

_BORDER: Final = "border-bottom:1px solid #8c959f66"
_CELL: Final = f"padding:6px 10px;text-align:left;vertical-align:top;{_BORDER}"
_NUMBER: Final = f"padding:6px 10px;text-align:right;vertical-align:top;white-space:nowrap;{_BORDER}"
# Awesome does not wrap table cells by itself, and cuts off what is too wide
_TEXT: Final = f"{_CELL};white-space:normal;overflow-wrap:anywhere;min-width:16em"
_HEAD: Final = "font-weight:600;opacity:.75"
_SMALL: Final = "font-size:85%;opacity:.8"


def description_html(record: TestRecord, *, told: str = "") -> str:
    """The whole description.

    Args:
        record: the attempt.
        told: what the test says of itself, as HTML; it stands below the verdicts, which must be seen at once.
    """
    blocks = [_headline(record)]
    if record.verdicts:
        blocks += [_table(record), _explanations(record)]
    blocks += [told, _provenance(record)]
    blocks.append(_small_print(record))
    return "\n".join(one for one in blocks if one)


def plain_text_as_html(text: str) -> str:
    r"""A docstring as paragraphs.

    >>> plain_text_as_html("One <b>.\n\nTwo.")
    '<p>One &lt;b&gt;.</p><p>Two.</p>'
    """
    paragraphs = (" ".join(one.split()) for one in text.strip().split("\n\n"))
    return "".join(f"<p>{escape(one)}</p>" for one in paragraphs if one)


def _headline(record: TestRecord) -> str:
    parts = [_chip(record.status.value.upper(), _STATUS_COLOUR[record.status])]
    if record.board is not None:
        parts.append(f"on <b>{escape(record.board.id)}</b> ({escape(record.board.cls)})")
        parts.append(_chip(record.board.environment.value, _ENVIRONMENT_COLOUR[record.board.environment]))
        if record.board.timing is Timing.ICOUNT:
            parts.append(_chip("counted instructions", _ENVIRONMENT_COLOUR[record.board.environment]))
    if record.requeued:
        parts.append("the board broke: this attempt was put back and does not count")
    elif record.attempt > 1:
        parts.append(f"attempt {record.attempt}")
    said = ""
    if record.message and not any(one.outcome is not Outcome.PASS for one in record.verdicts):
        said = f'<p style="margin:4px 0">{escape(record.message)}</p>'
    return f'<p style="margin:4px 0">{" ".join(parts)}</p>{said}'


def _table(record: TestRecord) -> str:
    heads = [("gate", _CELL), ("observed", _NUMBER), ("budget", _NUMBER), ("interval", _NUMBER), ("n", _NUMBER)]
    head = "".join(f'<th style="{style};{_HEAD}">{name}</th>' for name, style in heads)
    head += f'<th style="{_CELL};{_HEAD}">verdict</th><th style="{_CELL};{_HEAD}">why</th>'
    rows = "".join(_row(one) for one in sorted(record.verdicts, key=lambda one: fmt.SEVERITY.index(one.outcome)))
    return (
        '<table style="border-collapse:collapse;width:100%;margin:8px 0">'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _row(verdict: Verdict) -> str:
    observed, _ = fmt.observed_and_budget(verdict)
    weight = "" if verdict.outcome is Outcome.PASS else ";font-weight:600"
    numbers = (
        (f"{_NUMBER}{weight}", observed),
        (_NUMBER, fmt.required(verdict)),
        (_NUMBER, fmt.interval(verdict)),
        (_NUMBER, str(verdict.n)),
    )
    cells = "".join(f'<td style="{style}">{escape(text)}</td>' for style, text in numbers)
    return (
        f'<tr><td style="{_CELL}"><b>{escape(verdict.gate)}</b></td>{cells}'
        f'<td style="{_CELL}">{_chip(verdict.outcome.value, _OUTCOME_COLOUR[verdict.outcome])}</td>'
        f'<td style="{_TEXT}">{escape(verdict.reason)}</td></tr>'
    )


def _provenance(record: TestRecord) -> str:
    """What was measured on what: by label and by digest, so that a reviewer can hold it against the release."""
    facts: list[tuple[str, str]] = [
        (one.track, f"{escape(one.label)} <code>{escape(one.digest[:19])}…</code>") for one in record.combo
    ]
    board = record.board
    if board is not None:
        device = ", ".join(escape(one) for one in (board.hardware_model, board.accelerator, board.runtime) if one)
        facts.append(("board", f"{device}, serial <code>{escape(board.serial)}</code>"))
    if record.lease_token is not None:
        facts.append(("lease", f"token {record.lease_token}"))
    if record.quarantined:
        facts.append(("quarantined", escape(record.quarantined)))
    rows = "".join(
        f'<tr><td style="padding:2px 10px;vertical-align:top;opacity:.75">{escape(name)}</td>'
        f'<td style="padding:2px 10px;white-space:normal;overflow-wrap:anywhere">{text}</td></tr>'
        for name, text in facts
    )
    return f'<table style="border-collapse:collapse;font-size:90%">{rows}</table>' if rows else ""


def _small_print(record: TestRecord) -> str:
    notes = [*fmt.caveats([record]), *(f"not checked by {gate}: {what}" for gate, what in fmt.unchecked([record]))]
    return _list(notes)


def _list(notes: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(one)}</li>" for one in notes)
    return f'<ul style="{_SMALL};margin:6px 0 0;padding-left:18px">{items}</ul>' if items else ""


def _explanations(record: TestRecord) -> str:
    """Below the table, over the whole width: the figures behind each verdict, and what would change it."""
    found = []
    for verdict in sorted(record.verdicts, key=lambda one: fmt.SEVERITY.index(one.outcome)):
        lines = "".join(f"<div>{escape(one)}</div>" for one in explain(verdict)[1:])
        if lines:
            found.append(f'<div style="{_SMALL};margin:6px 0"><b>{escape(verdict.gate)}</b>{lines}</div>')
    return "".join(found)


def _chip(text: str, colour: str) -> str:
    style = f"background:{colour};color:#fff;padding:1px 8px;border-radius:10px;font-weight:600;font-size:85%"
    return f'<span style="{style};white-space:nowrap">{escape(text)}</span>'
