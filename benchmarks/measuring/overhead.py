"""Does measuring through the DUT change what is measured?

p50 and p95 of the digits model (1 to 2 ms) on one thread, through the whole way (DUT, SSH, a virtual board's on-board
program with its sampler, model process, samples streamed back), against a plain ONNX Runtime loop (`bare_loop`) in a
process of its own: same machine, same model, same items. Wanted: both within 1 %.

Short blocks alternate in an order drawn anew each time, so that whatever else the machine does meets all alike. Two
processes of one program already differ by about a percent (where their memory happens to lie), so every round starts
fresh processes, and a second bare loop takes part: the ratio of the two bare loops is the noise that the DUT's ratio
has to be held against. A ratio is the median over rounds of the median over neighbouring blocks; its 95 % interval is
over rounds.

    python benchmarks/measuring/overhead.py [--json] [--quick] [--rounds 12] [--blocks 30]
"""

from __future__ import annotations

import contextlib
import functools
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench
from support.boards import bundle
from support.virtual_boards import board

from pytest_edgehil.board.dut import Dut
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.model.artifact import Combo
from pytest_edgehil.model.verdict import Demand
from pytest_edgehil.virtual.farm import start

GOAL = 0.01
"""Ours may differ from the bare loop by so much."""

MODEL = bench.ROOT / "suites/models/digits/digits-fp32.onnx"
HELDOUT = bench.ROOT / "suites/models/digits/heldout.npz"
INPUT = "image"
ITEMS, INFERENCES = 64, 40
QUANTILES = {"p10": 10, "p50": 50, "p95": 95}
"""p10 is not asked for: it is what the model takes when nobody interrupts it, so it shows an overhead best."""
DUT, BARE, AGAIN = "through DUT", "bare loop", "bare loop again"


class BareLoop:
    """The bare loop, asked for one block at a time."""

    def __init__(self, items: Path) -> None:
        script = Path(__file__).with_name("bare_loop.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script), str(MODEL), str(items), INPUT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._line()

    def block(self, inferences: int) -> list[int]:
        """Latencies in ns."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{inferences} 0\n")
        self._process.stdin.flush()
        latencies: list[int] = json.loads(self._line())
        return latencies

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the bare loop ended without an answer")
        return line


def through_dut(dut: Dut, inferences: int) -> list[int]:
    """Latencies in ns: what a gate gets that asks for more."""
    sample = dut.measure_more(Demand(inferences=inferences))
    return [int(one) for one in sample.latencies_ns[-inferences:]]


@contextlib.contextmanager
def virtual_dut(directory: Path) -> Iterator[Dut]:
    """A virtual board with the model on it."""
    made = bundle(directory, {"model.onnx": MODEL.read_bytes()}, name="digits")
    with start(board(), directory=directory / "board", wait_s=120.0) as up:
        session = BoardSession(up.board, token=1, holder="bench")
        try:
            with Dut.open(session, combo=Combo(model=made)) as dut:
                yield dut
        finally:
            session.close()


def one_round(dut: Dut, items: Path, blocks: int) -> dict[str, dict[str, list[float]]]:
    """Quantile → who → its value in each block in ms, everybody in fresh processes."""
    dut.measure_more(Demand(cold_starts=1))
    loops = [BareLoop(items) for _ in range(2)]
    try:
        calls = {
            DUT: functools.partial(through_dut, dut, INFERENCES),
            BARE: functools.partial(loops[0].block, INFERENCES),
            AGAIN: functools.partial(loops[1].block, INFERENCES),
        }
        for call in calls.values():
            call()  # the first inferences are slower
        found = bench.in_random_order(calls, rounds=blocks)
    finally:
        for loop in loops:
            loop.close()
    return {
        quantile: {who: [float(np.percentile(one, at)) / 1e6 for one in measured] for who, measured in found.items()}
        for quantile, at in QUANTILES.items()
    }


def ratio(rounds: list[dict[str, list[float]]], who: str) -> bench.Interval:
    """Of `who` to the bare loop."""
    return bench.interval(
        [statistics.median(a / b for a, b in zip(one[who], one[BARE], strict=True)) for one in rounds]
    )


def main() -> int:
    """Runs the benchmark."""
    parser = bench.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=12, help="rounds of fresh processes")
    parser.add_argument("--blocks", type=int, default=30, help="blocks of each in a round")
    arguments = parser.parse_args()
    rounds, blocks = (2, 5) if arguments.quick else (arguments.rounds, arguments.blocks)
    with bench.workplace() as directory:
        items = np.load(HELDOUT)[INPUT][:ITEMS]
        np.savez(directory / "items.npz", **{INPUT: items})
        with virtual_dut(directory) as dut:
            for item in items:
                dut.run({INPUT: item[np.newaxis]})  # what the gates then repeat
            found = [one_round(dut, directory / "items.npz", blocks) for _ in range(rounds)]
    medians = {
        (quantile, who): statistics.median(value for one in found for value in one[quantile][who])
        for quantile in QUANTILES
        for who in (DUT, BARE)
    }
    ratios = {
        (quantile, who): ratio([one[quantile] for one in found], who) for quantile in QUANTILES for who in (DUT, AGAIN)
    }
    figure = bench.Figure(
        name="p50 of a model measured through the DUT",
        value=medians["p50", DUT],
        unit="ms",
        peer="bare ONNX Runtime loop",
        peer_value=medians["p50", BARE],
        ratio=ratios["p50", DUT].median,
        also={
            "goal": GOAL,
            "ratio_interval": ratios["p50", DUT].to_json(),
            "noise_interval": ratios["p50", AGAIN].to_json(),
            **{
                quantile: {
                    "value": bench.rounded(medians[quantile, DUT]),
                    "peer_value": bench.rounded(medians[quantile, BARE]),
                    "ratio_interval": ratios[quantile, DUT].to_json(),
                    "noise_interval": ratios[quantile, AGAIN].to_json(),
                }
                for quantile in ("p10", "p95")
            },
            "inferences": rounds * blocks * INFERENCES,
        },
    )
    how = f"{rounds} rounds of fresh processes, {blocks} blocks of {INFERENCES} inferences of each"
    table = [
        f"{how}; goal: within {1 - GOAL:g} … {1 + GOAL:g}",
        f"{'':5}{DUT:>13}{BARE:>13}   {'ratio [95 % interval]':26} noise: bare to bare",
    ]
    table += [
        f"{quantile:5}{medians[quantile, DUT]:>10.3f} ms{medians[quantile, BARE]:>10.3f} ms   "
        f"{ratios[quantile, DUT]!s:26} {ratios[quantile, AGAIN]}"
        for quantile in QUANTILES
    ]
    return bench.publish(arguments, figure, table)


if __name__ == "__main__":
    raise SystemExit(main())
