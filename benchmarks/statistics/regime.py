"""A board that throttles for a moment now and then: what does the latency gate say, with and without its guards?

Latencies as in ``p95_operating_characteristics.py``, 1.25 times slower for 8 % of the time in bursts of 25 inferences;
the model is exactly at its budget (r = 1), so that every PASS is wrong. Stopping early sees no burst in almost half of
the runs, and then no guard can know: the throttled bits, which stay set, make INVALID what did throttle, and say
nothing of what was not seen. So a PASS takes the board's steady state, which is 30 s unless its lab declares another;
ten cycles are in it here. A 1 Hz reading of the Arm clock alone misses most bursts of a quarter of a second.

    python benchmarks/statistics/regime.py [--json] [--quick] [--repetitions 400]
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench
import numpy as np
import numpy.typing as npt
from support.samples import MS, conditions, latencies_ms, to_ns

from pytest_edgehil.gates.registry import GateSettings, parse
from pytest_edgehil.model import Outcome, Sample, SensorReading

BURST, SLOWER, SHARE = 25, 1.25, 0.08
LONGEST = 4500
"""Inferences that are simulated: more than 30 s."""
STICKY = 0x40000


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """What the board reports, and what the marker says.

    Args:
        bits: has it throttled bits?
        clock: does its Arm clock show in the readings?
        steady_state_s: that the lab declares; None leaves the default.
    """

    bits: bool
    clock: bool = False
    steady_state_s: float | None = None


GUARDS = {
    "no guard": Guard(bits=False, steady_state_s=0.0),
    "bits, no wait": Guard(bits=True, steady_state_s=0.0),
    "bits, 3 s declared": Guard(bits=True, steady_state_s=3.0),
    "bits, 10 s declared": Guard(bits=True, steady_state_s=10.0),
    "bits, as by default": Guard(bits=True),
    "no bits, 10 s declared": Guard(bits=False, steady_state_s=10.0),
    "no bits, as by default": Guard(bits=False),
    "no bits, clock only, no wait": Guard(bits=False, clock=True, steady_state_s=0.0),
}


def slow_stretches(rng: np.random.Generator, n: int) -> npt.NDArray[np.bool_]:
    """Which inferences fall into a burst."""
    return np.repeat(rng.random(n // BURST + 1) < SHARE, BURST)[:n]


def budget_ms() -> float:
    """The true p95 of the mixture."""
    rng = np.random.default_rng(0)
    slow = slow_stretches(rng, 2_000_000)
    return float(np.quantile(latencies_ms(rng, slow.size) * np.where(slow, SLOWER, 1.0), 0.95))


def measured(rng: np.random.Generator, guard: Guard) -> tuple[Sample, npt.NDArray[np.bool_]]:
    """What a board measures, with the bits and the clock that go with the bursts; and where they were."""
    slow = slow_stretches(rng, LONGEST)
    latencies = to_ns(latencies_ms(rng, LONGEST) * np.where(slow, SLOWER, 1.0))
    starts = np.cumsum(latencies) - latencies
    seconds = np.arange(int(latencies.sum() / 1e9) + 1)
    during = np.minimum(np.searchsorted(starts, seconds * 10**9), LONGEST - 1)
    ever = np.maximum.accumulate(slow)[during]
    readings = tuple(
        SensorReading(
            at_s=float(at),
            throttled=int(STICKY * bool(before) + 0x4 * bool(now)) if guard.bits else None,
            arm_hz=(1_900_000_000 if now else 2_400_000_000) if guard.clock else None,
        )
        for at, now, before in zip(seconds.tolist(), slow[during].tolist(), ever.tolist(), strict=True)
    )
    return Sample(latencies_ns=latencies, starts_ns=starts, readings=readings), slow


def run(guard: Guard, limit_ms: float, repetitions: int) -> tuple[Counter[Outcome], float]:
    """Outcomes, and mean inferences of the verdict, measuring as the gate demands."""
    gate = parse("p95_latency", (f"{round(limit_ms * MS)} ns",), {}, settings=GateSettings())
    rng = np.random.default_rng(1)
    outcomes: Counter[Outcome] = Counter()
    needed = []
    for _ in range(repetitions):
        whole, slow = measured(rng, guard)
        part = Sample.empty()
        while part.n < LONGEST and (wanted := gate.demand(part)) is not None:
            part = cut(whole, slow, min(LONGEST, part.n + wanted.inferences), guard)
        outcomes[gate.evaluate(part).outcome] += 1
        needed.append(part.n)
    return outcomes, float(np.mean(needed))


def cut(whole: Sample, slow: npt.NDArray[np.bool_], n: int, guard: Guard) -> Sample:
    """The first n inferences, and what was read of the board until then."""
    end_s = float(whole.starts_ns[n - 1] + whole.latencies_ns[n - 1]) / 1e9
    after = STICKY if slow[:n].any() else 0
    return whole.replace(
        latencies_ns=whole.latencies_ns[:n],
        starts_ns=whole.starts_ns[:n],
        readings=tuple(one for one in whole.readings if one.at_s <= end_s),
        duration_s=end_s,
        conditions=conditions(
            throttled_before=0 if guard.bits else None,
            throttled_after=after if guard.bits else None,
            steady_state_s=guard.steady_state_s,
        ),
    )


def main() -> int:
    """Runs the benchmark."""
    parser = bench.parser(__doc__)
    parser.add_argument("--repetitions", type=int, default=400)
    arguments = parser.parse_args()
    repetitions = 12 if arguments.quick else arguments.repetitions
    limit = budget_ms()
    found = {name: run(guard, limit, repetitions) for name, guard in GUARDS.items()}
    share = {name: outcomes[Outcome.PASS] / repetitions for name, (outcomes, _) in found.items()}
    figure = bench.Figure(
        name="false PASS of a board that throttles for 8 % of the time, with throttled bits",
        value=share["bits, as by default"],
        unit="fraction",
        peer="the same gate without its guards",
        peer_value=share["no guard"],
        ratio=share["bits, as by default"] / max(share["no guard"], 1.0 / repetitions),
        also={"repetitions": repetitions, "without_throttled_bits": share["no bits, as by default"]},
    )
    table = [
        f"{repetitions} runs a row at r = 1; a share's standard error is at most {0.5 / repetitions**0.5:.3f}\n",
        f"{'':30}" + "".join(f"{one:>14}" for one in Outcome) + f"{'inferences':>12}",
    ]
    table += [
        f"{name:30}" + "".join(f"{outcomes[one] / repetitions:>14.3f}" for one in Outcome) + f"{needed:>12.0f}"
        for name, (outcomes, needed) in found.items()
    ]
    return bench.publish(arguments, figure, table)


if __name__ == "__main__":
    raise SystemExit(main())
