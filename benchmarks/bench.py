"""What all benchmarks share: the machine, pairs in random order, and how a figure is printed.

A benchmark is a script ``benchmarks/<area>/<name>.py``. It prints a table in which its peer's figure comes from the
same run, or, with ``--json``, exactly one object: ``name, value, unit, peer, peer_value, ratio, machine`` and whatever
else it has to say. ``--json-to FILE`` writes that object beside the table. ``--quick`` is for trying it out: the
figures are then too noisy to be quoted.

Importing this module makes ``tests/support`` importable: the benchmarks use the same private sshd as the tests.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KEYS = ("name", "value", "unit", "peer", "peer_value", "ratio", "machine")

sys.path.insert(0, str(ROOT / "tests"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A benchmark's headline.

    Args:
        name: what was measured.
        value, unit: ours.
        peer, peer_value: whose figure it stands beside, measured in the same run, in the same unit.
        ratio: ours to the peer's; None: `value / peer_value`. Benchmarks that measure in pairs give the median of the
            pairs' ratios, which is not quite the ratio of the two medians.
        also: further keys, among them the noise.
    """

    name: str
    value: float
    unit: str
    peer: str
    peer_value: float
    ratio: float | None = None
    also: Mapping[str, object] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """The object of ``--json``."""
        return {
            "name": self.name,
            "value": rounded(self.value),
            "unit": self.unit,
            "peer": self.peer,
            "peer_value": rounded(self.peer_value),
            "ratio": rounded(self.value / self.peer_value if self.ratio is None else self.ratio),
            "machine": machine(),
            **self.also,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A median and its confidence interval (95 % unless there are too few values, see `coverage`)."""

    median: float
    low: float
    high: float
    coverage: float
    n: int

    def __str__(self) -> str:
        """For a table."""
        return f"{self.median:.4g} [{self.low:.4g}, {self.high:.4g}]"

    def to_json(self) -> dict[str, float | int]:
        """For ``--json``."""
        return {
            "median": rounded(self.median),
            "low": rounded(self.low),
            "high": rounded(self.high),
            "coverage": rounded(self.coverage, digits=3),
            "n": self.n,
        }


def interval(values: Sequence[float], *, level: float = 0.95) -> Interval:
    """Median with the distribution-free interval between two order statistics.

    The k-th smallest and the k-th largest of n values enclose the median with probability 1 - 2·P(Bin(n, 1/2) < k)
    (David & Nagaraja, Order Statistics, §7.1); k is the largest with at least `level`, and at least 1.

    >>> interval([3.0, 1.0, 2.0, 5.0, 4.0, 6.0, 7.0, 8.0, 9.0]).low
    2.0
    """
    from math import comb

    ordered, n = sorted(values), len(values)
    rank, tail, coverage = 1, 1 / 2**n, 1 - 2 / 2**n
    for k in range(2, n // 2 + 1):
        tail += comb(n, k - 1) / 2**n
        if 1 - 2 * tail < level:
            break
        rank, coverage = k, 1 - 2 * tail
    return Interval(
        median=statistics.median(ordered), low=ordered[rank - 1], high=ordered[-rank], coverage=max(0.0, coverage), n=n
    )


def in_random_order(calls: Mapping[str, Callable[[], float]], *, rounds: int) -> dict[str, list[float]]:
    """Call each once per round, the order of each round drawn anew: a change of the machine's load meets all alike.

    Returns:
        What the calls returned, by name; values at the same index come from the same round.
    """
    draw = random.Random(0)
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        names = list(calls)
        draw.shuffle(names)
        for name in names:
            found[name].append(calls[name]())
    return found


def ratios(ours: Sequence[float], peers: Sequence[float]) -> Interval:
    """The pairs' ratios."""
    return interval([a / b for a, b in zip(ours, peers, strict=True)])


def milliseconds(call: Callable[[], object]) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1e3


def rounded(value: float, *, digits: int = 4) -> float:
    """So many significant digits."""
    return float(f"{value:.{digits}g}")


def machine() -> dict[str, object]:
    """What the figures were measured on. A load average above the number of CPUs means that others were at work."""
    release = platform.freedesktop_os_release() if Path("/etc/os-release").exists() else {}
    return {
        "cpu": _cpu(),
        "architecture": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "os": release.get("PRETTY_NAME", platform.system()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"model name", "Model"}:
            return value.strip()
    return platform.processor() or "unknown"


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options of every benchmark; the first line of its docstring describes it."""
    made = argparse.ArgumentParser(description=(doc or "").split("\n", 1)[0])
    made.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    made.add_argument("--json-to", type=Path, metavar="FILE", help="write that object to FILE as well")
    made.add_argument("--quick", action="store_true", help="few repetitions: to see that it works")
    return made


def publish(arguments: argparse.Namespace, figure: Figure, table: Sequence[str]) -> int:
    """Print what was measured; returns the exit status."""
    found = {**figure.to_json(), "quick": bool(arguments.quick)}
    if arguments.json_to is not None:
        arguments.json_to.write_text(json.dumps(found) + "\n", encoding="utf-8")
    print(json.dumps(found) if arguments.json else "\n".join(table))
    return 0


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A directory to work in; state goes there too. Python processes that are started may keep bytecode.

    An installed package has bytecode; the source tree of a CI job that sets PYTHONDONTWRITEBYTECODE has none, and every
    start of a process would be timed with a compilation of everything.
    """
    with tempfile.TemporaryDirectory(prefix="edgehil-bench-") as name:
        directory = Path(name)
        os.environ["EDGEHIL_STATE_DIR"] = str(directory / "state")
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        yield directory


SKIPPED = 77
"""Exit status of a benchmark that cannot run here, as automake has it."""


def needs(*programs: str) -> bool:
    """Are these installed? Says what is missing; the benchmark then ends with `missing_status`."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [one for one in programs if not shutil.which(one, path=path)]
    if missing:
        print(f"not measured: {', '.join(missing)} not installed", file=sys.stderr)
    return not missing


def missing_status(*programs: str) -> int:
    """`SKIPPED`, or 1 where ``EDGEHIL_REQUIRE`` names one of the programs."""
    required = set(os.environ.get("EDGEHIL_REQUIRE", "").split(","))
    return 1 if required & set(programs) else SKIPPED


def ssh_options(port: int, key: Path) -> list[str]:
    """What makes `ssh` and `scp` reach a private server without the user's own configuration."""
    return [
        "-F/dev/null",
        f"-oPort={port}",
        f"-i{key}",
        "-oIdentitiesOnly=yes",
        "-oStrictHostKeyChecking=no",
        "-oUserKnownHostsFile=/dev/null",
        "-oLogLevel=ERROR",
    ]


@contextlib.contextmanager
def control_master(host: str, options: Sequence[str], socket: Path) -> Iterator[list[str]]:
    """An open connection of the `ssh` program; gives the options with which `ssh` and `scp` use it."""
    subprocess.run(["ssh", "-MNf", f"-S{socket}", *options, host], check=True, stderr=subprocess.DEVNULL)
    try:
        yield ["-F/dev/null", f"-oControlPath={socket}"]
    finally:
        subprocess.run(["ssh", f"-S{socket}", "-Oexit", host], check=True, stderr=subprocess.DEVNULL)
