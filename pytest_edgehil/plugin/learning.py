"""Remembering how long tests and flashes took, for the scheduling of the next run.

In the process that gets all reports: the controller, or the only one there is. What was spent on waiting for a board is
not the test's; a test that ended without a result has told nothing.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_edgehil.errors import MarkerError
from pytest_edgehil.plugin.agenda import FILE, asked_by, combo_name, combos_of
from pytest_edgehil.plugin.options import Options
from pytest_edgehil.plugin.run import Run
from pytest_edgehil.plugin.scheduling.history import Took, add_to_history

_TELLING = frozenset({"passed", "failed", "inconclusive"})
_NOT_ITS_OWN = frozenset({"reserve", "flash"})


class Learning:
    """See above.

    Args:
        path: the history.
        options: what the command line says.
        run: in whose directory workers write down what they have collected.
        say: tells the user that the history could not be written.
    """

    def __init__(self, path: Path, options: Options, *, run: Run, say: Callable[[str], None]) -> None:
        self._path = path
        self._options = options
        self._run = run
        self._say = say
        self._combos: dict[str, str] = {}
        self._spent_s: dict[str, float] = defaultdict(float)
        self._told: set[str] = set()
        self._observed: list[Took] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            try:
                combo = asked_by(item, self._options).combo
            except MarkerError:
                continue
            if combo is not None:
                self._combos[item.nodeid] = combo_name(combo)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome not in ("passed", "failed"):
            self._spent_s.pop(report.nodeid, None)  # skipped, or put back
            return
        if report.when not in ("setup", "call", "teardown"):
            return
        self._spent_s[report.nodeid] += report.duration
        if report.when == "call":
            self._told.add(report.nodeid)
        if report.when == "teardown" and report.nodeid in self._told:
            self._observe(report)

    def _observe(self, report: pytest.TestReport) -> None:
        spent_s = self._spent_s.pop(report.nodeid, 0.0)
        record: dict[str, Any] | None = getattr(report, "edgehil_record", None)
        cls = ""
        if record is not None:
            if record["status"] not in _TELLING:
                return
            spent_s -= sum(step["duration_s"] for step in record["steps"] if step["name"] in _NOT_ITS_OWN)
            cls = "" if record["board"] is None else record["board"]["cls"]
        self._observed.append(Took(nodeid=report.nodeid, combo="", cls=cls, duration_s=max(0.0, spent_s)))
        flash_s: float = getattr(report, "edgehil_flash_s", 0.0)
        if flash_s > 0.0:
            self._observed.append(Took(nodeid="", combo=report.nodeid, cls=cls, duration_s=flash_s))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        # before the directory of the run is gone, in which workers have written down what they collected
        if not self._observed:
            return
        combos = self._combos or combos_of(self._run.schedule / FILE)
        named = [
            Took(nodeid="", combo=combos.get(one.combo, ""), cls=one.cls, duration_s=one.duration_s)
            if not one.nodeid
            else Took(nodeid=one.nodeid, combo=combos.get(one.nodeid, ""), cls=one.cls, duration_s=one.duration_s)
            for one in self._observed
        ]
        self._observed.clear()
        named = [one for one in named if one.nodeid or one.combo]
        try:
            add_to_history(self._path, named, now=time.time())
        except OSError as problem:
            self._say(f"{self._path} could not be written, so the next run is scheduled without it: {problem.strerror}")
