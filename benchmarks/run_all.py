"""Run every benchmark, one after the other: nothing else of ours runs meanwhile. ``make bench`` calls this.

Each prints its table as it ends; the figures of all stand in one table at the end. A benchmark that fails does not
keep the others from running, but from success. One that needs a program that is not installed is listed as skipped.

Simulations whose whole form takes minutes are run in their short form unless they are named: all of them together
would take an hour. Their tables in the documentation are from the whole form.

    python benchmarks/run_all.py [--quick] [--json FILE] [NAME…]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import bench

HERE = Path(__file__).resolve().parent
SCRIPTS = (
    "plugin/import_cost.py",
    "measuring/overhead.py",
    "leases/throughput.py",
    "leases/handover.py",
    "leases/exclusivity.py",
    "leases/crash.py",
    "transport/commands.py",
    "flash/push.py",
    "flash/many.py",
    "flash/delta.py",
    "flash/cuts.py",
    "virtual/start.py",
    "scheduler/makespan.py",
    "scheduler/real_run.py",
    "statistics/look_cost.py",
    "statistics/open_loop.py",
    "statistics/open_loop_drawn.py",
    "statistics/mean_gates.py",
    "statistics/meters.py",
    "statistics/accuracy_drop.py",
    "statistics/tango_size.py",
    "statistics/token_kl.py",
    "statistics/against_baseline.py",
    "statistics/soak_leak.py",
    "statistics/soak_drift.py",
    "statistics/soak_analysis.py",
    "statistics/thermal.py",
    "statistics/regime.py",
    "statistics/p95_operating_characteristics.py",
    "statistics/other_cases.py",
    "statistics/far_tail.py",
)
PARTS = (
    "measuring/bare_loop.py",
    "flash/networks.py",
    "statistics/cases.py",
    "scheduler/workloads.py",
    "scheduler/simulation.py",
)
"""What a benchmark starts or imports; no benchmarks themselves."""

BY_HAND = ("emulated/cuts.py", "emulated/determinism.py", "emulated/start.py", "emulated/update.py")
"""Run by hand only: they need an image, which takes a download to build."""

LONG = frozenset(
    {
        "leases/exclusivity.py",
        "leases/crash.py",
        "flash/cuts.py",
        "scheduler/makespan.py",
        "statistics/open_loop.py",
        "statistics/open_loop_drawn.py",
        "statistics/mean_gates.py",
        "statistics/meters.py",
        "statistics/token_kl.py",
        "statistics/against_baseline.py",
        "statistics/soak_leak.py",
        "statistics/soak_drift.py",
        "statistics/thermal.py",
        "statistics/regime.py",
        "statistics/p95_operating_characteristics.py",
        "statistics/other_cases.py",
        "statistics/far_tail.py",
    }
)
"""Run in their short form when all are run: they depend on the seed and not on the machine."""

LONGEST_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How one benchmark ended: with a figure, skipped, or with an error."""

    script: str
    took_s: float
    figure: dict[str, object] | None
    status: int | None

    @property
    def failed(self) -> bool:
        """It neither measured something nor had a reason not to."""
        return self.figure is None and self.status != bench.SKIPPED

    @property
    def end(self) -> str:
        """Why there is no figure."""
        if self.status == bench.SKIPPED:
            return "skipped: see above"
        if self.status is None:
            return f"FAILED: took longer than {LONGEST_S:g} s"
        return f"FAILED: exit status {self.status}"


def run(script: str, *, quick: bool) -> Result:
    """One benchmark in a process of its own; its table goes to our output."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "figure.json"
        command = [sys.executable, str(HERE / script), "--json-to", str(path), *(["--quick"] if quick else [])]
        status: int | None
        try:
            status = subprocess.run(command, check=False, timeout=LONGEST_S).returncode
        except subprocess.TimeoutExpired:
            status = None
        figure = json.loads(path.read_text(encoding="utf-8")) if status == 0 else None
    return Result(script=script, took_s=time.monotonic() - started, figure=figure, status=status)


def summary(results: Sequence[Result]) -> list[str]:
    """The table of all figures."""
    lines = [f"{'':60} {'ours':>10} {'peer':>10} {'ratio':>8}  unit"]
    for result in results:
        if result.figure is None:
            lines.append(f"{result.script:60} {result.end}")
            continue
        told = result.figure
        lines.append(
            f"{told['name']!s:60} {told['value']:>10} {told['peer_value']:>10} {told['ratio']:>8}  {told['unit']}"
            f"   peer: {told['peer']}"
        )
    return lines


def chosen(names: Sequence[str]) -> tuple[str, ...]:
    """The scripts that are named by path, area or file name; all when none is."""
    if not names:
        return SCRIPTS
    found = tuple(one for one in SCRIPTS if any(name in (one, one.partition("/")[0], Path(one).stem) for name in names))
    if not found:
        raise SystemExit(f"no such benchmark: {', '.join(names)}; there are {', '.join(SCRIPTS)}")
    return found


def main() -> int:
    """Runs them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these: path, area or file name")
    parser.add_argument("--quick", action="store_true", help="few repetitions: to see that they work")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures of all to FILE, as one JSON array")
    arguments = parser.parse_args()
    scripts = chosen(arguments.names)
    where = bench.machine()
    print(
        f"{where['cpu']}, {where['cpus']} CPUs, {where['os']}, Python {where['python']}, {where['date']}; "
        f"load average {where['load_average']}"
    )
    if os.getloadavg()[0] > 0.5:
        print("others are at work on this machine: expect wide intervals")
    results = []
    for at, script in enumerate(scripts, start=1):
        short = arguments.quick or (not arguments.names and script in LONG)
        told = f" (short form; the whole: python benchmarks/{script})" if short and not arguments.quick else ""
        print(f"\n[{at}/{len(scripts)}] {script}{told}", flush=True)
        results.append(run(script, quick=short))
        print(f"({results[-1].took_s:.0f} s)", flush=True)
    print("\n" + "\n".join(summary(results)))
    if arguments.json is not None:
        figures = [result.figure for result in results if result.figure is not None]
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 1 if any(result.failed for result in results) else 0


if __name__ == "__main__":
    raise SystemExit(main())
