"""The error rate of a run: settled when the tests are selected, and the same in every process that collects them.

How much of a suite's error rate a gate gets is known only when it is known how many gates there are, which is after
the markers have been checked once. So they are read again here with the rate that they really get: a soak that is too
short for it is refused before anything runs.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest

from pytest_edgehil.errors import MarkerError
from pytest_edgehil.plugin import markers
from pytest_edgehil.plugin.boards import roles_of
from pytest_edgehil.plugin.options import Options
from pytest_edgehil.plugin.stash import BUDGET

WORKEROUTPUT = "edgehil_error_budget"


class ErrorRate:
    """Registered in every process that collects tests.

    Args:
        options: what the command line says.
    """

    def __init__(self, options: Options) -> None:
        self._options = options

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        # not in modifyitems: only now no plugin deselects any more
        from pytest_edgehil.gates.multiplicity import Declared, ErrorBudget

        declared: list[Declared] = []
        stating: set[str] = set()

        def count(item: pytest.Item) -> None:
            marks = list(item.iter_markers())
            own = markers.own_alphas(marks)
            # a gate of a test on several boards is a statement on each of them
            boards = max(1, sum(role.judged for role in roles_of(marks)))
            gates = markers.gates_of(marks, self._options, alpha=self._options.loosest_alpha)
            for gate in (gate for gate in gates for _ in range(boards)):
                own_alpha = getattr(gate, "alpha", None) if gate.name in own else None
                declared.append(Declared(test=item.nodeid, gate=gate, own_alpha=own_alpha))
                stating.add(item.nodeid)

        _keep_sound(session, count)
        budget = ErrorBudget.of(declared, alpha=self._options.alpha, suite=self._options.suite_alpha)
        session.config.stash[BUDGET] = budget
        if budget.suite is None:
            return

        def read_again(item: pytest.Item) -> None:
            if item.nodeid in stating:
                markers.gates_of(item.iter_markers(), self._options, alpha=budget.alpha)

        _keep_sound(session, read_again, but=f" (with α = {budget.alpha:.3g}, its share of the suite's)")

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
        budget = session.config.stash.get(BUDGET, None)
        if output is not None and budget is not None:
            output[WORKEROUTPUT] = budget.to_json()
        return (yield)


def _keep_sound(session: pytest.Session, read: Callable[[pytest.Item], None], *, but: str = "") -> None:
    """Make tests whose markers cannot be read collection errors, as those of any other bad marker are."""
    kept = []
    for item in session.items:
        try:
            read(item)
        except MarkerError as problem:
            path, line, _ = item.location
            said = f"{path}:{(line or 0) + 1}: {item.name}: {problem}{but}"
            report = pytest.CollectReport(nodeid=item.nodeid, outcome="failed", longrepr=said, result=[])
            item.ihook.pytest_collectreport(report=report)
        else:
            kept.append(item)
    session.items[:] = kept
