"""200 random power cuts of an emulated board, in the middle of a model write, a firmware write and a commit.

After each the board is booted from what the cut has left, through bootloader and kernel, and looked at: it must come
up, on the old combo or the new one and whole, with the slot that belongs to it; after every tenth cut the deployment
that was cut is run again and must end well.

Nine of ten cuts are of a deployment that was recorded, before a random write of the board's disk: what was flushed by
then is there, and of what came later each write is there, is lost, or has lost some of its sectors, in any order
(`tests/support/write_log.py`). One of ten kills QEMU at a random moment of a deployment: the page cache of the board is
lost then, and nothing that it had given to its disk.

The peer is the same on a disk that ignores flushes: what flushing in the right places is worth.

    python benchmarks/emulated/cuts.py [--json] [--quick] [--cuts 200] [--seed N] [--log FILE]

It wants QEMU and the image. The log has one line a cut: what was cut, and what became of it or everything that was
wrong. Exits with 1 when anything was; Ctrl-C ends it with the cuts that were made. The board boots an image without
wheels, so its root is a third as large.
"""

from __future__ import annotations

import contextlib
import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench
from support.emulated import image_directory
from support.emulated_cuts import PATHS, Cut, Stand

ROUND = 20
"""Cuts after which it begins at the deployment's beginning again."""


def cuts(stand: Stand, count: int, chance: random.Random, log: Path | None, done: list[Cut]) -> None:
    """So many cuts, over the three paths in turn; `done` and the log grow with them."""

    def note(cut: Cut) -> None:
        done.append(cut)
        print(f"\r{len(done)} of {count} cuts", end="", file=sys.stderr, flush=True)
        if log is not None:
            lines = [f"{number:4} {'WRONG ' if one.faults else ''}{one}" for number, one in enumerate(done, 1)]
            log.write_text("\n".join(lines) + "\n", encoding="utf-8")

    while len(done) < count:
        most = min(ROUND, count - len(done))
        killed = most // 10
        for number in range(killed):
            note(stand.kill(PATHS[(len(done) + number) % 3], chance))
        counts = {name: (most - killed + at) // 3 for at, name in enumerate(PATHS)}
        for cut in stand.replay(counts, chance, next_run_of=10):
            note(cut)
    print(file=sys.stderr)


def main() -> int:
    """Runs it."""
    parser = bench.parser(__doc__)
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=20261121)
    parser.add_argument("--log", type=Path, help="write a line for each cut")
    arguments = parser.parse_args()
    count = 10 if arguments.quick else arguments.cuts
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="edgehil-cuts-") as directory:
        stand = Stand.make(Path(directory), image_directory())
        stand.record()
        done: list[Cut] = []
        with contextlib.suppress(KeyboardInterrupt):
            cuts(stand, count, chance, arguments.log, done)
        share = {name: max(1, count // 60) for name in PATHS}
        peer = list(stand.replay(share, chance, honest=False, next_run_of=10**9))
    wrong = [one for one in done if one.faults]
    figure = bench.Figure(
        name="power cuts of an emulated board survived",
        value=1 - len(wrong) / len(done),
        unit="share",
        peer="the same on a disk that ignores flushes",
        peer_value=sum(not one.faults for one in peer) / len(peer),
        also={"cuts": len(done), "wrong": len(wrong), "peer_cuts": len(peer)},
    )
    table = [
        f"{len(done)} random power cuts: {len(wrong)} left the board wrong",
        f"on a disk that ignores flushes: {sum(bool(one.faults) for one in peer)} of {len(peer)} did",
        *(f"  {one}" for one in wrong[:20]),
        *(f"  (ignoring flushes) {one}" for one in peer if one.faults),
    ]
    return bench.publish(arguments, figure, table) or int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
