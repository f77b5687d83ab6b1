"""Tells the lab's database what came of each test on a board, so that whoever looks at the board later can see it.

In the controller only, which hears of every worker's tests. A run does not depend on it: a database that cannot be
written to is said once, at the end.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_edgehil.errors import EdgehilError

if TYPE_CHECKING:
    from pytest_edgehil.lab.inventory import Lab
    from pytest_edgehil.lab.leases import LabStore
    from pytest_edgehil.model.record import TestRecord
    from pytest_edgehil.plugin.controller import Controller

CONSOLE_BYTES = 6000
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-_]|[\x00-\x08\x0b-\x1f\x7f]")


class Visits:
    """See above.

    Args:
        controller: knows the run's directory, and says at the end what was not written.
        lab: the lab.
    """

    def __init__(self, controller: Controller, lab: Lab) -> None:
        self._controller = controller
        self._lab = lab
        self._store: LabStore | None = None
        self._lost = 0
        self._why = ""

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        told: dict[str, Any] | None = getattr(report, "edgehil_record", None)
        if told is None:
            return
        from pytest_edgehil.model.record import TestRecord

        record = TestRecord.from_json(told)
        if record.board is None or record.lease_token is None:
            return
        try:
            self._write(record)
        except EdgehilError as trouble:  # books that cannot even be opened are a ConfigError
            self._lost += 1
            self._why = str(trouble)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        if self._store is not None:
            self._store.close()
        if self._lost:
            self._controller.note(
                f"what came of {self._lost} test{'s' if self._lost != 1 else ''} is not in the lab's database, where "
                f"'edgehil lab serve' would show it: {self._why}"
            )

    def _write(self, record: TestRecord) -> None:
        from pytest_edgehil.lab.leases import Visit
        from pytest_edgehil.lab.store import open_store

        assert record.board is not None
        assert record.lease_token is not None
        if self._store is None:
            self._store = open_store(self._lab)
        self._store.note_visit(
            Visit(
                board_id=record.board.id,
                token=record.lease_token,
                by=self._controller.run.run_id,
                test=record.nodeid,
                combo=record.combo_label,
                status=str(record.status),
                verdicts=tuple((one.gate, str(one.outcome)) for one in record.verdicts),
                message=record.message[:1000],
                console=console_end(
                    self._controller.run.directory / "console" / f"{record.board.id}-{record.lease_token}.log"
                ),
            )
        )


def console_end(path: Path) -> str:
    """The last lines of a console's log as plain text; empty when there is none."""
    try:
        with path.open("rb") as log:
            log.seek(0, 2)
            whole = log.tell() <= CONSOLE_BYTES
            log.seek(-min(log.tell(), CONSOLE_BYTES), 2)
            text = log.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    lines = _ESCAPES.sub("", text.replace("\r\n", "\n")).splitlines()
    return "\n".join(lines if whole else lines[1:])
