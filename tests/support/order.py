"""In which order a run with several workers takes the tests, and which of them stay together.

Half of the time of this suite is waiting, much of it in a few runs of a minute and more. One that is begun last keeps
everybody waiting, so what takes long goes first. And what shares something expensive (a run that many tests look at, a
board) stays in one process: two would make it twice, or one would wait for the other.

Nothing depends on these lists. A test that ought to be on one runs as well, only later than it might.
"""

from __future__ import annotations

import re

import pytest
from xdist.scheduler import LoadScopeScheduling

EACH_TEST = frozenset(
    f"tests/{name}.py"
    for name in (
        "plugin/test_completeness",
        "plugin/test_parallel_plugins",
        "plugin/test_progress_of_sending",
        "plugin/test_rerun",
        "plugin/test_without_a_lab",
        "system/test_demo_leaves_nothing",
        "system/test_docs",
        "system/test_one_board_one_holder",
        "unit/benchmarks/test_contract",
    )
)
"""Files of long tests that share nothing."""
EVERYDAY = frozenset(f"tests/plugin/{name}.py" for name in ("test_error_rate", "test_plots", "test_visits"))
"""Files that look at the same two runs, see `support.everyday`."""
EMULATED = "tests/system/test_emulated"
"""What emulates a board takes a core of its own: one at a time, from the start."""
MODE = re.compile(r"\[(alone|n[1-9]|local|sshd|virtual)\b")
"""What ids of parameters begin with where the tests of a file share one board or run for each of these."""
LONGEST = (
    EMULATED,
    "tests/system/test_emulated_power_cuts.py",
    "tests/system/test_emulated_faults.py",
    "tests/system/test_faults.py",
    "tests/system/test_docs.py::test_what_pages_say_to_type_works[docs/tutorial",
    "tests/plugin/test_requeue.py",
    "tests/plugin/test_several_boards.py",
    "tests/plugin/test_gates_through_the_stack.py",
    "tests/contract/test_labgrid.py",
    "tests/system/test_demo_leaves_nothing.py",
    "tests/system/test_soaks.py",
    "tests/plugin/test_rerun.py::test_an_undecided",
    "tests/plugin/test_parallel_plugins.py",
    "tests/unit/artifacts/test_build.py",
    "tests/plugin/test_accuracy_through_the_stack.py",
    "tests/contract/test_onboard_program.py",
    "tests/contract/test_hands_on_a_virtual_board.py",
    "tests/contract/test_allure_rendering.py",
    "tests/contract/test_virtual_",
    "tests/system/test_bad_input.py",
    "tests/unit/board/test_dut.py",
    "tests/unit/board/test_flash.py",
    "tests/unit/artifacts/test_manifest.py",
    "tests/unit/onboard/test_every_step.py",
    "tests/plugin/",
    "tests/system/",
    "tests/unit/benchmarks/",
    "tests/unit/board/",
    "tests/contract/",
)
"""Beginnings of tests' ids, longest first; all others come after them."""


def together(nodeid: str) -> str:
    """Tests for which this is the same run in one process, one after the other."""
    file, _, name = nodeid.partition("::")
    if file in EACH_TEST:
        return nodeid
    if file.startswith(EMULATED):
        return EMULATED
    mode = MODE.search(name)
    if mode is not None and file in EVERYDAY:
        return f"everyday[{mode[1]}]"
    return file if mode is None else f"{file}[{mode[1]}]"


def place(nodeid: str) -> int:
    """A test's place in the order; those with the same keep the order in which they were collected."""
    return next((place for place, start in enumerate(LONGEST) if nodeid.startswith(start)), len(LONGEST))


class LongestFirst(LoadScopeScheduling):
    """Hands a worker that has nothing to do whatever comes next.

    Args:
        config: of the controller.
        log: where xdist's ``--debug`` goes.
    """

    def __init__(self, config: pytest.Config, log: object = None) -> None:
        config.option.loadscopereorder = False  # our order is that of the collection
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return together(nodeid)
