"""What the thermal gate says of boards that settle around its limit, and after how long.

Temperature is simulated at 1 Hz: a slow pole (time constant 60 to 200 s), a fast die pole (6 to 12 °C within seconds),
jitter of 0.3 °C, and the sensor's step of 0.55 °C; limit 80 °C, at most 15 min. The slices are those that the gate asks
for. Beyond the limit PASS is wrong, below it FAIL is.

The second table shows the end as predicted when the fit first says that it may (1.5 fitted time constants), with and
without the first minute: the die's own pole bends the fit, and a board looks cooler than it will be. The peer says FAIL
when any reading exceeds the limit, and PASS after the whole time, as scripts do.

    python benchmarks/statistics/thermal.py [--json] [--quick] [--repetitions 200]
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench
import numpy as np
import numpy.typing as npt
from support.samples import conditions

from pytest_edgehil.gates.registry import GateSettings, parse
from pytest_edgehil.gates.stats.warming import fit
from pytest_edgehil.model import Outcome, Sample, SensorReading

LIMIT_C, START_C, SECONDS, STEP_C = 80.0, 45.0, 900, 0.55
ENDS_C = (65.0, 75.0, 78.0, 80.0, 82.0, 85.0, 95.0)


def temperatures(rng: np.random.Generator, end_c: float) -> npt.NDArray[np.float64]:
    """Shape (901,): one reading a second."""
    times = np.arange(SECONDS + 1.0)
    die = rng.uniform(6.0, 12.0)
    slow = (end_c - START_C - die) * (1.0 - np.exp(-times / rng.uniform(60.0, 200.0)))
    fast = die * (1.0 - np.exp(-times / rng.uniform(2.0, 8.0)))
    return np.asarray(np.round((START_C + slow + fast + rng.normal(0.0, 0.3, times.size)) / STEP_C) * STEP_C)


def ours(values: npt.NDArray[np.float64]) -> tuple[Outcome, float]:
    """The gate, measuring as it demands: outcome and seconds."""
    gate = parse("thermal", (f"{LIMIT_C:g} C",), {"duration": f"{SECONDS} s"}, settings=GateSettings())
    rows = tuple(
        SensorReading(at_s=float(at), temperature_c=one, throttled=0) for at, one in enumerate(values.tolist())
    )
    part = Sample.empty()
    while (wanted := gate.demand(part)) is not None and part.duration_s < SECONDS:
        until = min(float(SECONDS), part.duration_s + wanted.seconds)
        part = part.replace(readings=rows[: int(until) + 1], duration_s=until, conditions=conditions())
    return gate.evaluate(part).outcome, part.duration_s


def any_reading(values: npt.NDArray[np.float64]) -> tuple[Outcome, float]:
    """The peer."""
    above = np.flatnonzero(values > LIMIT_C)
    return (Outcome.FAIL, float(above[0])) if above.size else (Outcome.PASS, float(SECONDS))


def bias(repetitions: int, *, skip_s: int) -> tuple[float, float, float]:
    """(mean error, largest absolute error of the fitted end in °C, mean seconds) where 1.5 τ̂ are first reached."""
    rng = np.random.default_rng(2)
    errors, after = [], []
    for _ in range(repetitions):
        values = temperatures(rng, 75.0)
        for until in range(skip_s + 30, SECONDS, 15):
            found = fit(np.arange(skip_s, until + 1.0), values[skip_s : until + 1], alpha=0.05)
            if found is not None and until - skip_s >= 1.5 * found.tau_s:
                errors.append(found.end_c - 75.0)
                after.append(float(until))
                break
    return float(np.mean(errors)), float(np.max(np.abs(errors))), float(np.mean(after))


def main() -> int:
    """Runs the benchmark."""
    parser = bench.parser(__doc__)
    parser.add_argument("--repetitions", type=int, default=200)
    arguments = parser.parse_args()
    repetitions = 6 if arguments.quick else arguments.repetitions
    rows = []
    for end_c in ENDS_C:
        rng = np.random.default_rng(round(end_c))
        samples = [temperatures(rng, end_c) for _ in range(repetitions)]
        for name, decide in (("prediction", ours), ("any reading", any_reading)):
            found = [decide(one) for one in samples]
            counts = Counter(outcome for outcome, _ in found)
            rows.append((end_c, name, counts, float(np.mean([seconds for _, seconds in found]))))
    seconds = {(end_c, name): mean for end_c, name, _, mean in rows}
    wrong = {
        name: max(
            counts[Outcome.PASS if end_c > LIMIT_C else Outcome.FAIL] / repetitions
            for end_c, method, counts, _ in rows
            if method == name and end_c != LIMIT_C
        )
        for name in ("prediction", "any reading")
    }
    figure = bench.Figure(
        name="seconds to a thermal verdict, 15 °C below the limit",
        value=seconds[65.0, "prediction"],
        unit="s",
        peer="any reading above the limit, whole time",
        peer_value=seconds[65.0, "any reading"],
        also={"repetitions": repetitions, "largest_rate_of_wrong_verdicts": wrong},
    )
    table = [
        f"{repetitions} boards a row, limit {LIMIT_C:g} °C\n",
        f"{'settles at':>10}  {'method':12}" + "".join(f"{one:>14}" for one in Outcome) + f"{'seconds':>9}",
    ]
    table += [
        f"{end_c:>7g} °C  {name:12}"
        + "".join(f"{counts[one] / repetitions:>14.3f}" for one in Outcome)
        + f"{mean:>9.0f}"
        for end_c, name, counts, mean in rows
    ]
    table.append("\nerror of the end as first predicted, °C:    mean  largest  after")
    for skip_s in (60, 0):
        mean, largest, after = bias(max(3, repetitions // 2), skip_s=skip_s)
        table.append(f"  without the first {skip_s:>2} s{'':18}{mean:>+7.1f} {largest:>8.1f} {after:>5.0f} s")
    return bench.publish(arguments, figure, table)


if __name__ == "__main__":
    raise SystemExit(main())
