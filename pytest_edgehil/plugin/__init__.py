"""The pytest plugin: options, markers, fixtures, hooks.

Every pytest run in an environment that has pytest-edgehil installed imports this module, so nothing heavy is
imported here: no paramiko, serial, numpy, scipy, onnxruntime, sqlalchemy, pydantic or allure. What needs them is
imported where it is used.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_edgehil.errors import UserError
from pytest_edgehil.plugin import ending, markers, runner
from pytest_edgehil.plugin.controller import Controller
from pytest_edgehil.plugin.distributed import WORKERINPUT, Distributed, auto_workers
from pytest_edgehil.plugin.error_rate import ErrorRate
from pytest_edgehil.plugin.fixtures import baseline, board, boards, combo, console, dut, heldout, on_host, rng
from pytest_edgehil.plugin.options import Options, add_options, read_options
from pytest_edgehil.plugin.progress import Printing
from pytest_edgehil.plugin.rerun import read_earlier
from pytest_edgehil.plugin.run import Run
from pytest_edgehil.plugin.stash import CONTROLLER, OPTIONS, OWN_SCHEDULER, WORKBENCH
from pytest_edgehil.plugin.visits import Visits
from pytest_edgehil.plugin.workbench import MAIN, Workbench

if TYPE_CHECKING:
    from pytest_edgehil.lab.inventory import Lab
    from pytest_edgehil.plugin.dispatch import Dispatch

HISTORY = "durations.json"
"""In a lab's state directory."""

__all__ = ["baseline", "board", "boards", "combo", "console", "dut", "heldout", "on_host", "rng"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--edgehil-*`` and ``edgehil_*``."""
    add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Read the options, and register what this process needs: it may run tests, control workers, or both."""
    markers.register(config)
    options = config.stash[OPTIONS] = read_options(config)
    told: dict[str, Any] | None = getattr(config, "workerinput", None)
    if told is None:
        lab = _checked(options)
        if lab is not None:
            config.add_cleanup(ending.terminate_like_interrupt())
        run = Run.begin(options.report)
        controller = config.stash[CONTROLLER] = Controller(options, run, lab, config=config)
        config.pluginmanager.register(controller, "edgehil_controller")
        config.pluginmanager.register(Printing(config, every_s=options.progress_s), "edgehil_progress")
        dispatch = _schedule(config, controller)
        if config.pluginmanager.has_plugin("dsession") or config.pluginmanager.has_plugin("xdist"):
            config.pluginmanager.register(Distributed(controller, dispatch), "edgehil_distributed")
        if lab is not None:
            config.pluginmanager.register(Visits(controller, lab), "edgehil_visits")
        worker = MAIN
        book = None
    else:
        # a replacement worker would wipe the Allure results of those before it
        if getattr(config.option, "clean_alluredir", False):
            config.option.clean_alluredir = False
        run, worker, lab = Run.join(told[WORKERINPUT]), told["workerid"], None
        book = None
        if options.lab is not None:
            from pytest_edgehil.plugin.agenda import Spooling
            from pytest_edgehil.plugin.dispatch import SEATED
            from pytest_edgehil.plugin.seats import SeatBook

            book = SeatBook(run.schedule) if told.get(SEATED) else None
            # before the error rate's, which comes to its turn first then: what it refuses is not collected
            config.pluginmanager.register(Spooling(options, run.schedule), "edgehil_spooling")
        if options.lab is not None:
            ending.die_with_controller()
    workbench = config.stash[WORKBENCH] = Workbench(options=options, run=run, worker=worker, lab=lab, book=book)
    config.pluginmanager.register(ErrorRate(options), "edgehil_error_rate")
    config.pluginmanager.register(runner.Runner(workbench), "edgehil_runner")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, object, object]:
    """Before xdist replaces it: has the user said how tests are to be distributed?"""
    option = config.option
    config.stash[OWN_SCHEDULER] = getattr(option, "dist", "no") == "no" and not getattr(option, "distload", False)
    return (yield)


def _schedule(config: pytest.Config, controller: Controller) -> Dispatch | None:
    """With a lab: remember how long tests take, and distribute them by that unless the user wants it otherwise."""
    lab, options = controller.lab, controller.options
    if lab is None:
        return None
    from pytest_edgehil.plugin.dispatch import Dispatch
    from pytest_edgehil.plugin.learning import Learning
    from pytest_edgehil.plugin.scheduling.history import History, read_history

    history = History({})
    if options.learns:
        path = options.history or lab.state_dir / HISTORY
        history = read_history(path)
        learning = Learning(path, options, run=controller.run, say=controller.note)
        config.pluginmanager.register(learning, "edgehil_learning")
    distributed = getattr(config.option, "dist", "no") != "no" and not config.getoption("collectonly")
    if not (distributed and config.stash.get(OWN_SCHEDULER, False)):
        return None
    dispatch = Dispatch(controller, history)
    config.pluginmanager.register(dispatch, "edgehil_dispatch")
    return dispatch


def _checked(options: Options) -> Lab | None:
    """Read the files that the options name: what is wrong with them must be said now, not after an hour of tests."""
    if options.rerun is not None:
        try:
            read_earlier(options.rerun)
        except UserError as problem:
            raise pytest.UsageError(str(problem)) from problem
    if options.lab is None:
        return None
    from pytest_edgehil.lab.inventory import load_lab
    from pytest_edgehil.lab.matching import candidates

    try:
        lab = load_lab(options.lab)
        candidates(lab, options.board)
        if options.trust is not None:
            from pytest_edgehil.evidence.trust import load_trust

            load_trust(options.trust)
        if options.policy is not None:
            from pytest_edgehil.release.policy import load_policy

            load_policy(options.policy)
    except UserError as problem:
        raise pytest.UsageError(str(problem)) from problem
    return lab


def pytest_unconfigure(config: pytest.Config) -> None:
    """Let go of the board also when the run ended before its tests did, and tidy up."""
    workbench = config.stash.get(WORKBENCH, None)
    if workbench is not None:
        workbench.close()
    controller = config.stash.get(CONTROLLER, None)
    if controller is not None:
        controller.run.close()


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Join allure-pytest, if it is there and was given a directory."""
    manager = session.config.pluginmanager
    if manager.has_plugin("allure_listener"):
        from pytest_edgehil.plugin.allure import join

        join(session.config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Check the markers: a bad one is an error at collection."""
    markers.check(metafunc, metafunc.config.stash[OPTIONS])


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """``-n auto``: one worker per matching board that is free now."""
    # xdist asks while it parses the command line, before pytest_configure
    return auto_workers(read_options(config))


def pytest_report_teststatus(report: Any) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
    """``B`` board error, ``R`` requeued, ``?`` inconclusive, ``!`` invalid."""
    return runner.teststatus(report)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say which lab is used."""
    controller = config.stash.get(CONTROLLER, None)
    if controller is None or controller.lab is None:
        return []
    lab, options = controller.lab, controller.options
    kinds = sorted({f"{board.environment.value} {board.cls}" for board in lab.boards})
    report = "" if options.report is None else f"; report: {options.report}"
    lines = [f"edgehil: lab {lab.name} ({len(lab.boards)} boards: {', '.join(kinds)}){report}"]
    if config.getoption("reruns", None):
        lines.append(
            "edgehil: --reruns does not run tests on boards again, for starting again voids their error rates: "
            "go on from this run with --edgehil-rerun"
        )
    return lines
