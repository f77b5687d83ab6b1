"""What the analysis of a one-hour soak costs the host: time and memory of one verdict.

An hour of readings at 1 Hz (3600) and a million latencies, with every statement declared: leak, drift, crash rate,
ceiling. The peer is what one would write first: Theil-Sen on all readings (`scipy.stats.theilslopes`), for the leak
alone. Each runs in a process of its own; memory is the growth of VmHWM while it runs, above the sample and the imports.

    python benchmarks/statistics/soak_analysis.py [--json] [--quick] [--repetitions 7]
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench
import numpy as np

from pytest_edgehil.gates.registry import GateSettings, parse
from pytest_edgehil.model import Conditions, Sample, SensorReading

READINGS, INFERENCES, MB = 3600, 1_000_000, 1e6


def soak() -> Sample:
    """One hour."""
    rng = np.random.default_rng(1)
    at = np.arange(READINGS + 1)
    held = 200.0 + 30.0 * (1.0 - np.exp(-at / 300.0)) + 10.0 * (at % 33) / 33.0 + rng.normal(0.0, 0.3, at.size)
    starts = (np.arange(INFERENCES) * (3600.0 / INFERENCES) * 1e9).astype(np.int64)
    latencies = (3e6 * np.exp(0.05 * rng.normal(size=INFERENCES))).astype(np.int64)
    rows = tuple(
        SensorReading(at_s=float(one), rss_bytes=int(mb * MB), swap_bytes=0, temperature_c=60.0)
        for one, mb in zip(at.tolist(), held.tolist(), strict=True)
    )
    return Sample(
        latencies_ns=latencies,
        starts_ns=starts,
        readings=rows,
        duration_s=3600.0,
        conditions=Conditions(runtime="onnxruntime", runtime_version="1", page_size_bytes=16384, clock_cost_ns=60),
    )


def peak_bytes() -> int:
    """VmHWM of this process."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def measure(which: str) -> tuple[float, float, str]:
    """Seconds, MB beyond what was there before, and what came of it; in this process."""
    sample = soak()
    gate = parse(
        "soak",
        ("1 h",),
        {"leak": "5 MiB/h", "drift": "10 %", "crash_rate": 0.01, "peak_rss": "1 GiB"},
        settings=GateSettings(),
    )
    gate.evaluate(sample.replace(readings=sample.readings[:60], duration_s=60.0))  # whatever is imported on first use
    from scipy.stats import theilslopes

    held = np.array([one.rss_bytes for one in sample.readings], dtype=np.float64)
    times = np.array([one.at_s for one in sample.readings])
    theilslopes(held[:50], times[:50])
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, started = peak_bytes(), time.perf_counter()
    if which == "gate":
        said = gate.evaluate(sample).outcome.value
    else:
        said = f"{theilslopes(held, times).slope * 3600.0 / MB:.3f} MB/h"
    return time.perf_counter() - started, (peak_bytes() - before) / MB, said


def main() -> int:
    """Runs the benchmark."""
    parser = bench.parser(__doc__)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--one", choices=("gate", "theilslopes"), help="run one in this process and print what it cost")
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(measure(arguments.one)))
        return 0
    repetitions = 2 if arguments.quick else arguments.repetitions
    found: dict[str, list[tuple[float, float, str]]] = {"gate": [], "theilslopes": []}
    for _ in range(repetitions):
        for which, costs in found.items():
            ended = subprocess.run(
                [sys.executable, __file__, "--one", which], capture_output=True, text=True, check=True
            )
            costs.append(tuple(json.loads(ended.stdout)))
    seconds = {which: bench.interval([one[0] for one in costs]) for which, costs in found.items()}
    memory = {which: bench.interval([one[1] for one in costs]) for which, costs in found.items()}
    figure = bench.Figure(
        name="memory of one verdict on a one-hour soak, 3600 readings and 10^6 latencies",
        value=memory["gate"].median,
        unit="MB",
        peer="theilslopes on all readings, for the leak alone",
        peer_value=memory["theilslopes"].median,
        also={
            "seconds": seconds["gate"].to_json(),
            "peer_seconds": seconds["theilslopes"].to_json(),
            "repetitions": repetitions,
        },
    )
    table = [f"{'':14} {'seconds':>26}  {'MB':>26}  says"]
    table += [
        f"{which:14} {seconds[which]!s:>26}  {memory[which]!s:>26}  {costs[0][2]}" for which, costs in found.items()
    ]
    return bench.publish(arguments, figure, table)


if __name__ == "__main__":
    raise SystemExit(main())
