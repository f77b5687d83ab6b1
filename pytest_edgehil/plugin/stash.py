"""Where the plugin keeps what belongs to a run or to a test: keys of pytest's stashes, and nothing that is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_edgehil.gates.multiplicity import ErrorBudget
    from pytest_edgehil.plugin.attempt import Attempt
    from pytest_edgehil.plugin.controller import Controller
    from pytest_edgehil.plugin.options import Options
    from pytest_edgehil.plugin.workbench import Workbench

OPTIONS: pytest.StashKey[Options] = pytest.StashKey()
WORKBENCH: pytest.StashKey[Workbench] = pytest.StashKey()
BUDGET: pytest.StashKey[ErrorBudget] = pytest.StashKey()
"""Once the tests are selected."""
OWN_SCHEDULER: pytest.StashKey[bool] = pytest.StashKey()
"""Has the user left it to us how tests are distributed, if they are?"""
CONTROLLER: pytest.StashKey[Controller] = pytest.StashKey()
ATTEMPT: pytest.StashKey[Attempt] = pytest.StashKey()
"""In the stash of a test that asks for a board, while it runs."""
