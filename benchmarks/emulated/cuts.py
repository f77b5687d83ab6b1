"""200 random power cuts of an emulated board, in the middle of a model write, a firmware write and a commit.

After each the board is booted from what the cut has left, through bootloader and kernel, and looked at: it must come
up, on the old combo or the new one and whole, with the slot that belongs to it, every bundle and model that it keeps
must hash to its name, and its kernel must know of no damaged file system. After some the deployment that was cut is run
again, and the board booted once more: it must end well.

Nine of ten cuts are of a deployment that was recorded, before a random write of the board's disk: what was flushed by
then is there, and of what came later each write is there, is lost, or has lost some of its bytes, in any order
(`tests/support/write_log.py`). They reach everything from the first byte sent to the last of the switch, with what
U-Boot and the kernel write when they boot on trial. One of ten kills QEMU at a random moment of a deployment: the page
cache of the board is lost then, and nothing that it had given to its disk.

The peers are the same on a disk that ignores flushes, which is what flushing in the right places is worth, and an
update that copies the model over the old one and then tells the bootloader (`tests/support/naive_update.py`).

    python benchmarks/emulated/cuts.py [--json] [--quick] [--cuts 200] [--seed N] [--log FILE] [--boards 2]

It wants QEMU and the image. The log has one line a cut: what was cut, and what became of it or everything that was
wrong. A log that is there is gone on with, so that Ctrl-C costs no more than the cuts under way. Exits with 1 when
anything was wrong. The board boots an image without wheels, so its root is a third as large.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench
from support.cut_log import CutLog, summary
from support.emulated import image_directory
from support.emulated_cuts import PATHS, Cut, Stand
from support.naive_update import NaiveUpdate

ROUND = 20
"""Cuts after which it begins at the deployment's beginning again."""
OURS, UNFLUSHED, NAIVE = "ours", "flushes ignored", "in place"
PEER_START_S = 240.0
"""A peer's board that takes longer to come up is lost; ours has 10 min."""


def a_round(stand: Stand, count: int, chance: random.Random) -> Iterator[Cut]:
    """So many cuts, over the three paths."""
    killed = count // 10
    for _ in range(killed):
        yield stand.kill(chance.choice(PATHS), chance, next_run=chance.random() < 0.2)
    left = count - killed
    yield from stand.replay({name: (left + at) // 3 for at, name in enumerate(PATHS)}, chance, next_run_of=18)


def unflushed_round(stand: Stand, count: int, chance: random.Random) -> Iterator[Cut]:
    """The same without flushes."""
    counts = {name: (count + at) // 3 for at, name in enumerate(PATHS)}
    yield from stand.replay(counts, chance, honest=False, next_run_of=count + 1)


Round = Callable[[Stand, int, random.Random], Iterator[Cut]]


def cuts(stands: list[Stand], whose: str, count: int, *, seed: int, log: CutLog, make: Round) -> None:
    """Cuts until the log has so many, on several boards at once."""
    claimed = [len(log.of(whose))]
    share = min(ROUND, -(-count // len(stands)))
    lock, ended = threading.Lock(), threading.Event()

    def work(stand: Stand) -> None:
        while not ended.is_set():
            with lock:
                number, most = claimed[0], min(share, count - claimed[0])
                claimed[0] += max(most, 0)
            if most <= 0:
                return
            for cut in make(stand, most, random.Random(f"{seed} {log.recordings} {whose} {number}")):
                log.add(whose, cut)
                print(f"\r{len(log.of(whose))} of {count} cuts ({whose})", end="", file=sys.stderr, flush=True)
                if ended.is_set():
                    return

    with ThreadPoolExecutor(len(stands)) as pool:
        try:
            for one in [pool.submit(work, stand) for stand in stands]:
                one.result()
        finally:
            ended.set()
    print(file=sys.stderr)


def main() -> int:
    """Runs it."""
    parser = bench.parser(__doc__)
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=20261121)
    parser.add_argument("--log", type=Path, help="write a line for each cut, and go on with what is there")
    parser.add_argument("--boards", type=int, default=2, help="so many at once")
    arguments = parser.parse_args()
    count = 10 if arguments.quick else arguments.cuts
    counts = {OURS: count, UNFLUSHED: max(3, count // 32), NAIVE: max(3, count // 32)}
    log = CutLog(arguments.log)
    if any(len(log.of(whose)) < most for whose, most in counts.items()):
        try:
            fill(log, counts, seed=arguments.seed, boards=arguments.boards)
        except KeyboardInterrupt:
            print(f"\nended with {len(log.of(OURS))} of {count} cuts; the log can be gone on with", file=sys.stderr)
            return 130
    return report(arguments, {whose: log.of(whose) for whose in counts})


def fill(log: CutLog, counts: Mapping[str, int], *, seed: int, boards: int) -> None:
    """Make the cuts that the log does not have yet."""
    with tempfile.TemporaryDirectory(prefix="edgehil-cuts-") as name:
        directory = Path(name)
        stand = Stand.make(directory, image_directory())
        stand.record()
        assert stand.log is not None
        spans = ", ".join(f"{path} {first} to {last}" for path, (first, last) in stand.spans.items())
        log.begin(f"a recording of {len(stand.log.writes)} writes and flushes: {spans}")
        stands = [stand.beside(directory / f"board-{number}") for number in range(boards)]
        cuts(stands, OURS, counts[OURS], seed=seed, log=log, make=a_round)
        for one in stands:
            one.start_s = PEER_START_S
        cuts(stands, UNFLUSHED, counts[UNFLUSHED], seed=seed, log=log, make=unflushed_round)
        if len(log.of(NAIVE)) < counts[NAIVE]:
            cuts(stands, NAIVE, counts[NAIVE], seed=seed, log=log, make=NaiveUpdate.record(stand).replay)


def report(arguments: argparse.Namespace, cut: Mapping[str, list[Cut]]) -> int:
    """Say what became of all; returns the exit status."""
    wrong = {whose: [one for one in cuts if one.faults] for whose, cuts in cut.items()}
    lost = {whose: sum(not one.outcome for one in cuts) for whose, cuts in wrong.items()}
    for whose in (UNFLUSHED, NAIVE):
        if not wrong[whose]:
            print(f"{whose}: no cut did any harm, so these cuts show nothing", file=sys.stderr)
            return 1
    share = {whose: len(wrong[whose]) / len(cuts) for whose, cuts in cut.items()}
    figure = bench.Figure(
        name="power cuts that leave an emulated board lost, mixed or damaged",
        value=share[OURS],
        unit="share",
        peer="the same on a disk that ignores flushes",
        peer_value=share[UNFLUSHED],
        also={
            "cuts": len(cut[OURS]),
            "wrong": len(wrong[OURS]),
            "peer_cuts": len(cut[UNFLUSHED]),
            "in_place": share[NAIVE],
            "in_place_cuts": len(cut[NAIVE]),
        },
    )
    table = []
    for whose, what in ((OURS, "random power cuts"), (UNFLUSHED, "where flushes are ignored"), (NAIVE, "in place")):
        bad = len(wrong[whose])
        table += [f"{what}: {len(cut[whose])} cuts, {lost[whose]} boards lost, {bad - lost[whose]} mixed or damaged"]
        table += summary(cut[whose])
    table += [f"  {one}" for one in wrong[OURS][:20]]
    return bench.publish(arguments, figure, table) or int(bool(wrong[OURS]))


if __name__ == "__main__":
    raise SystemExit(main())
