"""What pytest-edgehil costs a pytest run that does not use it, against the plugins that it brings along.

Two figures in CPU time, each from fresh interpreters whose order is drawn anew in every round; imports wait for
nothing but the CPU, and on a busy machine the wall clock mostly tells how long they waited for that:

- importing the plugin's module after pytest itself (the headline; the budget is 15 ms), beside the same for xdist,
  allure-pytest and pytest-timeout;
- a whole ``pytest --collect-only`` of an empty file with the plugin and with ``-p no:edgehil``, which
  also counts what the plugin does in its hooks.

Bytecode is warm, as pip leaves it.

    python benchmarks/plugin/import_cost.py [--json] [--quick] [--rounds 15]
"""

from __future__ import annotations

import functools
import resource
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench

BUDGET_MS = 15.0
OURS = "pytest_edgehil.plugin"
PEER = "xdist.plugin"
PLUGINS = {
    OURS: "pytest-edgehil",
    PEER: "pytest-xdist",
    "allure_pytest.plugin": "allure-pytest",
    "pytest_timeout": "pytest-timeout",
}
SCRIPT = """
import pytest, time
cpu, wall = time.process_time(), time.perf_counter()
import {}
print((time.process_time() - cpu) * 1e3, (time.perf_counter() - wall) * 1e3)
"""


def imported(module: str, directory: Path, walls: list[float]) -> float:
    """Milliseconds of CPU time for an import in a fresh interpreter that has pytest already; notes the wall clock's."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(module)], capture_output=True, text=True, check=True, cwd=directory
    )
    cpu, wall = map(float, done.stdout.split())
    walls.append(wall)
    return cpu


def collected(directory: Path, *options: str) -> float:
    """Milliseconds of CPU time of a whole pytest run over a file without tests; its wall clock is mostly noise."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, "--collect-only", "empty.py"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 5:  # "no tests collected"
        raise SystemExit(f"pytest ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e3


def main() -> int:
    """Runs the benchmark."""
    parser = bench.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    rounds = 2 if arguments.quick else arguments.rounds
    with bench.workplace() as directory:
        (directory / "empty.py").touch()
        (directory / "pytest.ini").write_text("[pytest]\n")
        walls: dict[str, list[float]] = {module: [] for module in PLUGINS}
        calls = {module: functools.partial(imported, module, directory, walls[module]) for module in PLUGINS}
        runs = {
            "with": functools.partial(collected, directory),
            "without": functools.partial(collected, directory, "-p", "no:edgehil"),
        }
        for call in (*calls.values(), *runs.values()):
            call()  # writes the bytecode
        found = bench.in_random_order(calls, rounds=rounds)
        whole = bench.in_random_order(runs, rounds=rounds)
    medians = {module: statistics.median(times) for module, times in found.items()}
    added = bench.interval([a - b for a, b in zip(whole["with"], whole["without"], strict=True)])
    figure = bench.Figure(
        name="importing the plugin, after pytest (CPU time)",
        value=medians[OURS],
        unit="ms",
        peer=PLUGINS[PEER],
        peer_value=medians[PEER],
        also={
            "budget": BUDGET_MS,
            "within_budget": medians[OURS] <= BUDGET_MS,
            "wall_ms": {
                "median": bench.rounded(statistics.median(walls[OURS])),
                "fastest": bench.rounded(min(walls[OURS])),
            },
            "others": {PLUGINS[module]: bench.rounded(medians[module]) for module in PLUGINS if module != OURS},
            "collect_only": {
                "with_cpu_ms": bench.rounded(statistics.median(whole["with"])),
                "without_cpu_ms": bench.rounded(statistics.median(whole["without"])),
                "added_cpu_ms": added.to_json(),
            },
            "rounds": rounds,
        },
    )
    head = f"import after pytest, {rounds} interpreters each"
    table = [f"{head:40} {'CPU':>9} {'wall':>9}   fastest wall"]
    table += [
        f"{PLUGINS[module]:40} {medians[module]:>6.2f} ms {statistics.median(walls[module]):>6.2f} ms "
        f"{min(walls[module]):>6.2f} ms" + (f"   budget {BUDGET_MS:g} ms" if module == OURS else "")
        for module in PLUGINS
    ]
    table += [
        f"{'CPU of pytest --collect-only, with it':40} {statistics.median(whole['with']):>6.0f} ms",
        f"{'  with -p no:edgehil':40} {statistics.median(whole['without']):>6.0f} ms",
        f"{'  added, median of pairs':40} {added.median:>6.1f} ms [{added.low:.1f}, {added.high:.1f}]",
    ]
    return bench.publish(arguments, figure, table)


if __name__ == "__main__":
    raise SystemExit(main())
