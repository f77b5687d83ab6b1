"""1 000 random cuts of a deployment, each followed by what must hold: one whole combo, and a next run that ends well.

Of ten cuts seven are of the power (a disk that loses whatever was not fsynced), one kills the program, one cuts the
link in the middle of a push, one makes the medium fail from some operation on (full, read-only, broken). The boards
have directories for slots, as virtual ones do (also new boards), devices and `tryboot`, and devices and U-Boot.

The peer is the same program on a disk that ignores fsync: what flushing in the right places is worth. The share of its
power cuts that is survived is its figure.

    python benchmarks/flash/cuts.py [--json] [--quick] [--cuts 1000] [--log FILE]

The log has one line a cut: what was cut, and ``ok`` or everything that was wrong. Exits with 1 when anything was.
"""

from __future__ import annotations

import collections
import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench
from support.cutting import FAULTS, Stand, in_memory

BATCH = 50
"""Cuts of the power that are made in one deployment."""


def power_cuts(stand: Stand, chance: random.Random, count: int, *, honest: bool = True) -> dict[str, list[str]]:
    """Cuts before random operations; a tenth of what is cut with a disk that is honest is killed instead."""
    steps = len(stand.steps())
    chances: dict[int, list[random.Random | None]] = collections.defaultdict(list)
    for number in range(count):
        kill = honest and number % 8 == 0
        chances[chance.randint(1, steps)].append(None if kill else random.Random(chance.random()))
    return stand.cut(lambda number: chances[number], honest=honest)


def all_cuts(stands: list[Stand], count: int) -> list[tuple[str, list[str]]]:
    """What was cut, and what was wrong."""
    chance, done = random.Random(20261121), list[tuple[str, list[str]]]()
    for start in range(0, count, BATCH):
        stand, most = stands[start // BATCH % len(stands)], min(BATCH, count - start)
        done += power_cuts(stand, chance, most - most // 5).items()
        steps = len(stand.steps())
        for number in range(most // 5):
            if number % 2:
                done.append(("link cut in the middle of a push", stand.unplug(chance)))
            else:
                fault, at = chance.choice(sorted(FAULTS)), chance.randint(1, steps - 1)
                done.append((f"{fault} from operation {at} on", stand.fail(at, fault)))
        print(f"\r{len(done)} of {count} cuts", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return done


def main() -> int:
    """Runs it."""
    parser = bench.parser(__doc__)
    parser.add_argument("--cuts", type=int, default=1000)
    parser.add_argument("--log", type=Path, help="write a line for each cut")
    arguments = parser.parse_args()
    count = 50 if arguments.quick else arguments.cuts
    with tempfile.TemporaryDirectory(dir=in_memory()) as directory:
        stands = [
            Stand(Path(directory) / f"{kind}-{fresh}", fresh=fresh, kind=kind)
            for kind, fresh in (("virtual", False), ("virtual", True), ("tryboot", False), ("uboot", False))
        ]
        done = all_cuts(stands, count)
        peer = power_cuts(stands[0], random.Random(1), max(50, count // 10), honest=False)
    wrong = [(what, faults) for what, faults in done if faults]
    if arguments.log is not None:
        lines = [f"{number:4} {what}: {'; '.join(faults) or 'ok'}" for number, (what, faults) in enumerate(done, 1)]
        arguments.log.write_text("\n".join(lines) + "\n", encoding="utf-8")
    survived = 1 - len(wrong) / len(done)
    survived_by_peer = sum(not faults for faults in peer.values()) / len(peer)
    figure = bench.Figure(
        name="cuts of a deployment survived",
        value=survived,
        unit="share",
        peer="the same on a disk that ignores fsync",
        peer_value=survived_by_peer,
        also={"cuts": len(done), "wrong": len(wrong), "peer_cuts": len(peer)},
    )
    table = [
        f"{len(done)} random cuts of a deployment: {len(wrong)} left the board wrong",
        f"on a disk that ignores fsync: {sum(bool(one) for one in peer.values())} of {len(peer)} power cuts did",
        *(f"  {what}: {'; '.join(faults)}" for what, faults in wrong[:20]),
    ]
    return bench.publish(arguments, figure, table) or int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
