"""Does measuring through the on-board program change what is measured?

p50 and p95 of the digits model on one thread, measured through the on-board program of a virtual board (SSH, frames,
model process, sampler and all), against a bare ONNX Runtime loop (`bare_loop`) in a process of its own. Both take
turns in short blocks in random order and are fed the same items, so that whatever else the machine does meets both
alike; the ratio is the median over the pairs of blocks.

    python benchmarks/measuring/overhead.py [--json] [--rounds 60] [--inferences 200]
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench
from support.farm import DIGITS, onnx_artifact

from pytest_edgehil.board.push import push
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.model import Board, Environment, VirtualSpec
from pytest_edgehil.virtual import farm

INPUT = "image"
ITEMS = 64
WARM_UP = 50
GOAL = 0.01
"""Ours may differ from the bare loop by so much."""


class Bare:
    """The bare loop, asked for one block at a time."""

    def __init__(self, model: Path, items: Path) -> None:
        script = Path(__file__).with_name("bare_loop.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script), str(model), str(items), INPUT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._line()

    def block(self, inferences: int) -> Any:
        """Latencies in ns."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{inferences} 0\n")
        self._process.stdin.flush()
        return np.array(json.loads(self._line()), dtype=np.int64)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the bare loop ended")
        return line


class Ours:
    """The same through a virtual board."""

    def __init__(self, session: BoardSession, items: Any) -> None:
        self._session = session
        self._items = items

    def block(self, inferences: int) -> Any:
        """Latencies in ns."""
        client = self._session.client
        return client.measure({INPUT: self._items}, inferences=inferences, timeout_s=600.0).latencies_ns


@contextmanager
def both(directory: Path) -> Iterator[tuple[Ours, Bare]]:
    """A loaded model on a virtual board, and the bare loop."""
    items = np.random.default_rng(1).random((ITEMS, 1, 8, 8), dtype=np.float32)
    np.savez(directory / "items.npz", **{INPUT: items})
    board = Board(
        id="bench", cls="pi5-8gb", environment=Environment.VIRTUAL, virtual=VirtualSpec(serial="00000000000000be")
    )
    with farm.start(board, directory=directory / "board") as running:
        session = BoardSession(running.board, token=1, holder="benchmark")
        bare = Bare(DIGITS / "digits-fp32.onnx", directory / "items.npz")
        try:
            artifact = onnx_artifact(directory / "artifacts")
            _ = session.client  # puts the on-board program there, which receives bundles
            push(session, artifact)
            session.client.load(artifact.digest)
            yield Ours(session, items), bare
        finally:
            bare.close()
            session.close()


def main() -> int:
    """Run the benchmark."""
    parser = bench.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=60, help="pairs of blocks")
    parser.add_argument("--inferences", type=int, default=200, help="per block")
    arguments = parser.parse_args()
    rounds = 6 if arguments.quick else arguments.rounds
    blocks: dict[str, list[Any]] = {"ours": [], "bare": []}
    with bench.workplace() as directory, both(directory) as (ours, bare):
        ours.block(WARM_UP)
        bare.block(WARM_UP)

        def one(name: str, side: Ours | Bare) -> float:
            blocks[name].append(side.block(arguments.inferences))
            return 0.0

        calls = {"ours": lambda: one("ours", ours), "bare": lambda: one("bare", bare)}
        bench.in_random_order(calls, rounds=rounds)
    rows = {q: percentile(blocks, q) for q in (50, 95)}
    table = [f"{'':5}{'on-board, ms':>14}{'bare loop, ms':>15}   ratio [95 % interval] of {rounds} pairs"]
    table += [f"p{q:<4}{mine:>14.4f}{peer:>15.4f}   {ratio}" for q, (mine, peer, ratio) in rows.items()]
    table.append(f"goal: both ratios within {1 - GOAL:g} … {1 + GOAL:g}")
    mine, peer, ratio = rows[50]
    p95 = dict(zip(("value", "peer_value"), map(bench.rounded, rows[95][:2]), strict=True))
    figure = bench.Figure(
        name="p50 measured through the on-board program",
        value=mine,
        unit="ms",
        peer="bare ONNX Runtime loop",
        peer_value=peer,
        ratio=ratio.median,
        also={"ratio_interval": ratio.to_json(), "p95": {**p95, "ratio_interval": rows[95][2].to_json()}},
    )
    return bench.publish(arguments, figure, table)


def percentile(blocks: dict[str, list[Any]], q: float) -> tuple[float, float, bench.Interval]:
    """Median over the blocks in ms, ours and the peer's, and the ratio of the pairs."""
    ours, bare = ([float(np.percentile(one, q)) / 1e6 for one in blocks[name]] for name in ("ours", "bare"))
    return bench.interval(ours).median, bench.interval(bare).median, bench.ratios(ours, bare)


if __name__ == "__main__":
    sys.exit(main())
