"""Options and ini values, read once into a frozen `Options`.

Every option is ``--edgehil-*``; every ini value ``edgehil_*``. A bad value is a `pytest.UsageError`: one line.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from pytest_edgehil.errors import QuantityError
from pytest_edgehil.model.quantity import byte_rate_per_second, duration_ns
from pytest_edgehil.model.requirement import Environment, Requirement, Timing

INCONCLUSIVE_AS = ("broken", "skipped", "unknown")
DELTAS = ("auto", "never", "always")
NO_HISTORY = "off"
PLOTS = ("svg", "png", "off")
_KindT = TypeVar("_KindT", bound=enum.StrEnum)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line and the ini file say.

    Args:
        root: pytest's root directory, which files that markers name are relative to.
        lab: lab file, or None: then the fixtures skip.
        require: no lab is an error instead of a skip.
        report: results directory, or None.
        wait_s: how long a test waits for a board.
        priority: in the lab's queue; None: what the lab file says for the branch.
        soak_ns: overrides the duration of every soak.
        artifacts, datasets: where to look for artifacts and held-out sets, in this order.
        model, prompt, firmware: default combo of tests that name none.
        board: what every board must fulfil, besides what the test asks.
        alpha: error rate of each gate, unless `suite_alpha` is given.
        suite_alpha: error rate of all gates together, or None.
        seed: seed of the `rng` fixture and of the order in which held-out items are taken.
        measure_s: how long gates may go on measuring in one test.
        reconnect_s: so long a link that is lost during a soak is tried again.
        progress_s: least time between two lines of progress, or None for the default.
        push_limit_bytes_per_s: a board is not sent more, or None.
        delta: when deltas are sent: ``auto``, ``never`` or ``always``.
        inconclusive: Allure status of an inconclusive test.
        trust: trust file for the boards' identity keys, or None for the default one.
        policy: release policy whose digest the evidence is bound to, or None: then no policy takes the evidence.
        source_revision: revision of the tests, written into the evidence.
        plots: format of the plots: ``svg``, ``png`` or ``off``.
        rerun: report directory of the run that this one goes on from, or None.
        history: file with the durations of earlier runs; None: the lab's own, in the state directory.
        learns: is there such a file at all?
    """

    root: Path
    lab: Path | None
    require: bool
    report: Path | None
    wait_s: float
    priority: int | None
    soak_ns: int | None
    artifacts: tuple[Path, ...]
    datasets: tuple[Path, ...]
    model: str | None
    prompt: str | None
    firmware: str | None
    board: Requirement
    alpha: float
    suite_alpha: float | None
    seed: int
    measure_s: float
    reconnect_s: float
    progress_s: float | None
    push_limit_bytes_per_s: float | None
    delta: str
    inconclusive: str
    trust: Path | None
    policy: Path | None
    source_revision: str | None
    plots: str
    rerun: Path | None
    history: Path | None
    learns: bool

    @property
    def loosest_alpha(self) -> float:
        """The largest error rate that a gate may get which states none: it may be the suite's only one."""
        return self.alpha if self.suite_alpha is None else self.suite_alpha


def add_options(parser: pytest.Parser) -> None:
    """Declare everything that `read_options` reads."""
    group = parser.getgroup("edgehil", "hardware-in-the-loop tests on edge boards (pytest-edgehil)")
    add = group.addoption
    add("--edgehil-lab", metavar="FILE", help="lab file: which boards there are (farm/virtual.yaml needs no hardware)")
    add(
        "--edgehil-require",
        action="store_true",
        help="fail instead of skip where a test needs a board and no lab is given",
    )
    add(
        "--edgehil-rerun",
        metavar="DIR",
        help="go on from the run that wrote this report directory: gates continue instead of starting again, and a "
        "FAIL stands",
    )
    add("--edgehil-report", metavar="DIR", help="write samples, console logs, results.json and signed evidence to DIR")
    add(
        "--edgehil-wait",
        metavar="TIME",
        default="10 min",
        help="wait so long for a free board (default: %(default)s)",
    )
    add(
        "--edgehil-priority",
        metavar="N",
        type=int,
        help="place in the lab's queue: the higher number goes first, -100 to 100 (default: what the lab file says for "
        "the branch, else 0)",
    )
    add("--edgehil-soak", metavar="TIME", help="override the duration of every soak; the evidence states the real one")
    add("--edgehil-artifacts", metavar="DIR", action="append", default=[], help="look for artifacts here (repeatable)")
    add("--edgehil-model", metavar="REF", help="model of tests whose combo marker names none")
    add("--edgehil-prompt", metavar="REF", help="prompt bundle of tests whose combo marker names none")
    add("--edgehil-firmware", metavar="REF", help="firmware of tests whose combo marker names none")
    add("--edgehil-board", metavar="ID", help="use only this board")
    add("--edgehil-board-class", metavar="CLASS", help="use only boards of this class (shell pattern)")
    add(
        "--edgehil-board-tag",
        metavar="TAG",
        action="append",
        default=[],
        help="use only boards with this tag",
    )
    add("--edgehil-environment", metavar="KIND", help="use only boards that are hardware, emulated or virtual")
    add(
        "--edgehil-timing",
        metavar="KIND",
        help="use only boards whose time is wall (a clock's) or icount (counted instructions)",
    )
    add(
        "--edgehil-measure",
        metavar="TIME",
        default="10 min",
        help="longest time that gates measure on in one test (default: %(default)s)",
    )
    add(
        "--edgehil-reconnect",
        metavar="TIME",
        default="2 min",
        help="try so long to reach a board again whose link was lost during a soak (default: %(default)s)",
    )
    add(
        "--edgehil-progress",
        metavar="TIME",
        help="print how far a long measurement is, no more often than this (default: 1 min on a terminal, else 5 min)",
    )
    add(
        "--edgehil-push-limit",
        metavar="RATE",
        help="do not send to a board faster than this, for example '10 MB/s' (each board has its own limit)",
    )
    add(
        "--edgehil-delta",
        choices=DELTAS,
        default=DELTAS[0],
        help="send a delta made from what the board has: where it pays (auto), never, or wherever it can be made "
        "(default: %(default)s)",
    )
    add(
        "--edgehil-trust",
        metavar="FILE",
        help="trust file with the boards' public keys",
    )
    add("--edgehil-policy", metavar="FILE", help="release policy that the evidence is for; its digest is signed")
    add(
        "--edgehil-revision",
        metavar="REV",
        help="revision of the tests, written into the evidence",
    )
    add(
        "--edgehil-plots",
        metavar="FORMAT",
        choices=PLOTS,
        default=PLOTS[0],
        help="draw what the gates decided on into the report and into Allure: svg, png or off (default: %(default)s); "
        "needs the extra pytest-edgehil[plots]",
    )
    add(
        "--edgehil-history",
        metavar="FILE",
        help="durations of earlier runs, by which tests are scheduled under -n (default: kept for each lab in the "
        "user's state directory); 'off': neither read nor written",
    )
    add(
        "--edgehil-seed",
        metavar="N",
        type=int,
        default=0,
        help="seed of the rng fixture and of the order of held-out items (default: %(default)s)",
    )
    add(
        "--edgehil-suite-alpha",
        metavar="RATE",
        help="error rate of all selected gates together, split over their statements (instead of ini edgehil_alpha)",
    )
    parser.addini("edgehil_lab", "default of --edgehil-lab, relative to the ini file", default="")
    parser.addini("edgehil_history", "default of --edgehil-history, relative to the ini file", default="")
    parser.addini(
        "edgehil_artifacts",
        "where to look for artifacts (default: artifacts, below the rootdir, unless --edgehil-artifacts is given)",
        type="paths",
        default=[],
    )
    parser.addini(
        "edgehil_datasets",
        "where to look for held-out sets (default: datasets, below the rootdir)",
        type="paths",
        default=[],
    )
    parser.addini("edgehil_alpha", "error rate of each gate", default="0.05")
    parser.addini("edgehil_suite_alpha", "default of --edgehil-suite-alpha", default="")
    parser.addini(
        "edgehil_inconclusive", "how Allure shows inconclusive tests: broken, skipped, unknown", default="broken"
    )


def read_options(config: pytest.Config) -> Options:
    """Read them.

    Raises:
        pytest.UsageError: a value cannot be understood.
    """
    option = config.getoption
    lab = option("--edgehil-lab")
    lab_path = Path(lab) if lab else _from_ini(config, "edgehil_lab")
    report = option("--edgehil-report")
    artifacts = (*map(Path, option("--edgehil-artifacts")), *config.getini("edgehil_artifacts"))
    return Options(
        root=config.rootpath,
        lab=lab_path,
        require=option("--edgehil-require"),
        report=None if report is None else Path(report).resolve(),
        wait_s=_duration_s("--edgehil-wait", option("--edgehil-wait")),
        priority=_priority(option("--edgehil-priority")),
        soak_ns=None if option("--edgehil-soak") is None else _duration("--edgehil-soak", option("--edgehil-soak")),
        artifacts=artifacts or (config.rootpath / "artifacts",),
        datasets=tuple(config.getini("edgehil_datasets")) or (config.rootpath / "datasets",),
        model=option("--edgehil-model"),
        prompt=option("--edgehil-prompt"),
        firmware=option("--edgehil-firmware"),
        board=Requirement(
            board_id=option("--edgehil-board"),
            cls=option("--edgehil-board-class"),
            tags=frozenset(option("--edgehil-board-tag")),
            environment=_one_of(Environment, "--edgehil-environment", option("--edgehil-environment")),
            timing=_one_of(Timing, "--edgehil-timing", option("--edgehil-timing")),
        ),
        alpha=_alpha("ini edgehil_alpha", config.getini("edgehil_alpha")),
        suite_alpha=_suite_alpha(config),
        seed=option("--edgehil-seed"),
        measure_s=_duration_s("--edgehil-measure", option("--edgehil-measure")),
        reconnect_s=_duration_s("--edgehil-reconnect", option("--edgehil-reconnect")),
        progress_s=None
        if option("--edgehil-progress") is None
        else _duration_s("--edgehil-progress", option("--edgehil-progress")),
        push_limit_bytes_per_s=_bandwidth("--edgehil-push-limit", option("--edgehil-push-limit")),
        delta=option("--edgehil-delta"),
        inconclusive=_inconclusive(config.getini("edgehil_inconclusive")),
        trust=_file(option, "--edgehil-trust"),
        policy=_file(option, "--edgehil-policy"),
        source_revision=option("--edgehil-revision"),
        plots=option("--edgehil-plots"),
        rerun=_rerun(option("--edgehil-rerun"), report),
        history=_history(config),
        learns=(option("--edgehil-history") or config.getini("edgehil_history")) != NO_HISTORY,
    )


def _history(config: pytest.Config) -> Path | None:
    given = config.getoption("--edgehil-history")
    if (given or config.getini("edgehil_history")) == NO_HISTORY:
        return None
    return Path(given).absolute() if given else _from_ini(config, "edgehil_history")


def _rerun(text: str | None, report: str | None) -> Path | None:
    if text is None:
        return None
    path = Path(text).resolve()
    if report is not None and Path(report).resolve() == path:
        raise pytest.UsageError(
            f"--edgehil-rerun: {text} is the --edgehil-report directory too, whose files would be replaced; "
            "name another directory for the report of this run"
        )
    return path


def _file(option: Callable[[str], str | None], name: str) -> Path | None:
    text = option(name)
    if text is None:
        return None
    path = Path(text).absolute()
    if not path.is_file():
        raise pytest.UsageError(f"{name}: {text} is no file")
    return path


def _from_ini(config: pytest.Config, name: str) -> Path | None:
    text = config.getini(name)
    if not text:
        return None
    base = config.inipath.parent if config.inipath is not None else config.rootpath
    return base / str(text)


def _duration(name: str, text: str) -> int:
    try:
        return duration_ns(text)
    except QuantityError as problem:
        raise pytest.UsageError(f"{name}: {problem}") from problem


def _priority(number: int | None) -> int | None:
    if number is not None and not -100 <= number <= 100:
        raise pytest.UsageError(f"--edgehil-priority: {number} is out of range: expected -100 to 100")
    return number


def _duration_s(name: str, text: str) -> float:
    return _duration(name, text) / 1e9


def _bandwidth(name: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return byte_rate_per_second(text)
    except QuantityError as problem:
        raise pytest.UsageError(f"{name}: {problem}") from problem


def _one_of(kinds: type[_KindT], name: str, text: str | None) -> _KindT | None:
    if text is None:
        return None
    try:
        return kinds(text)
    except ValueError as problem:
        known = ", ".join(one.value for one in kinds)
        raise pytest.UsageError(f"{name}: {text!r} is none of {known}") from problem


def _alpha(name: str, text: str) -> float:
    try:
        alpha = float(text)
    except ValueError as problem:
        raise pytest.UsageError(f"{name}: {text!r} is no number; expected for example 0.05") from problem
    if not 0.0 < alpha < 0.5:
        raise pytest.UsageError(f"{name}: {alpha} is no error rate; expected a number between 0 and 0.5")
    return alpha


def _suite_alpha(config: pytest.Config) -> float | None:
    given, ini = config.getoption("--edgehil-suite-alpha"), config.getini("edgehil_suite_alpha")
    if given is not None:
        return _alpha("--edgehil-suite-alpha", given)
    return _alpha("ini edgehil_suite_alpha", ini) if ini else None


def _inconclusive(text: str) -> str:
    if text not in INCONCLUSIVE_AS:
        raise pytest.UsageError(f"ini edgehil_inconclusive: {text!r} is none of {', '.join(INCONCLUSIVE_AS)}")
    return text
