"""What a crash costs: of a holder, and of the database.

*Holders.* On each of a few boards somebody holds a lease and two others wait. The holder is killed (``kill -9``) at a
random moment, and measured is the time until the board has taken the next one's first command. It must be the expiry
and a second at most, each time, for the lease ends by itself and whoever waits knows when.

*PostgreSQL.* Some hold boards by their heartbeat and send them commands, more contend for the rest, and the server is
restarted again and again as after a crash (``pg_ctl -m immediate``). No lease may be lost, no request for a board may
fail, and no board may be used by two.

Boards are the stand-ins of `exclusivity.py`. The peer is ``flock`` in the same run, which the kernel takes from who has
died: nothing that works across hosts can be as quick, since nobody there sees a process die.

    python benchmarks/leases/crash.py [--json] [--quick] [--kills 200] [--restarts 20] [--expiry 3]
"""

from __future__ import annotations

import fcntl
import os
import random
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import bench
from exclusivity import FORK, PATIENCE_S, Link, afterwards, boards, lab_text, labs, postgres_is_here

from pytest_edgehil.errors import EdgehilError, LeaseLost
from pytest_edgehil.lab.inventory import Lab
from pytest_edgehil.lab.leases import Lease, default_holder
from pytest_edgehil.lab.reservation import reserve
from pytest_edgehil.lab.store import open_store
from pytest_edgehil.model.board import Requirement

if TYPE_CHECKING:
    import multiprocessing as mp

BOARDS = 6
WAITING = 2
AFTER_EXPIRY_S = 1.0
HOLDERS = 8
CONTENDERS = 24
CONTENDED = 4
RESTART_EXPIRY_S = 30.0
"""Longer than a restart takes on the slowest of machines: what is asked is whether the database keeps what it said."""


# --- holders that are killed ----------------------------------------------------------------------------


def hold(lab: Lab | None, path: Path, journal: Path, board: str) -> None:
    """Wait for a board, send it a command, write down when it has taken it, keep the board until death."""
    link, file = Link(path), os.open(journal, os.O_WRONLY | os.O_APPEND)
    if lab is None:
        with (journal.parent / f"{board}.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _had(link, file, board, token=os.getpid())
    else:
        with open_store(lab) as store:
            held = reserve(
                lab, [Requirement(board_id=board)], store=store, holder=default_holder(), wait_s=10 * PATIENCE_S
            )
            _had(link, file, board, token=held.leases[0].token)


def _had(link: Link, file: int, board: str, *, token: int) -> None:
    # where there is no fence, each of them says the same token
    taken = link.send(board, token if token > 2**32 else 1, str(token))
    if taken:
        os.write(file, f"{board} {os.getpid()} {time.monotonic():.6f}\n".encode())
    while True:
        time.sleep(3600.0)


def killed(lab: Lab | None, directory: Path, *, kills: int, expiry_s: float) -> list[float]:
    """Seconds from each kill until the board has taken the next holder's first command."""
    name = "flock" if lab is None else lab.name
    path, journal = directory / f"crash-{name}", directory / f"crash-{name}.log"
    journal.touch()
    names = [f"vb-{number}" for number in range(BOARDS)]
    draw = random.Random(name)
    served = FORK.Process(target=boards, args=(path, names, FORK.Queue()), daemon=True)
    served.start()
    while not path.with_suffix(".up").exists():
        time.sleep(0.01)

    def start(board: str) -> mp.process.BaseProcess:
        one = FORK.Process(target=hold, args=(lab, path, journal, board), daemon=True)
        one.start()
        return one

    crowd = {one.pid: one for board in names for one in (start(board) for _ in range(1 + WAITING))}
    due: dict[str, tuple[float, int]] = {}
    since: dict[str, float] = {}
    took: list[float] = []
    seen = 0
    end = time.monotonic() + 20 * PATIENCE_S
    while len(took) < kills:
        if time.monotonic() > end:
            raise SystemExit(f"{name}: nobody gets the boards of the dead: {sorted(since)}")
        lines = journal.read_text().splitlines()
        for line in lines[seen:]:
            board, pid, at = line.split()
            if board in since:
                took.append(float(at) - since.pop(board))
            due[board] = time.monotonic() + draw.uniform(0.0, expiry_s), int(pid)  # in any phase of the heartbeat
        seen = len(lines)
        for board, (at_s, pid) in list(due.items()):
            if time.monotonic() >= at_s:
                del due[board]
                victim = crowd.pop(pid)
                since[board] = time.monotonic()
                victim.kill()
                victim.join()
                crowd.update({one.pid: one for one in (start(board),)})
        time.sleep(0.005)
    for one in crowd.values():
        one.kill()
        one.join()
    path.with_suffix(".end").touch()
    served.join()
    return took


# --- a database that is restarted -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarted:
    """What came of it.

    Args:
        restarts: of the server.
        down_s: how long it was away, all together.
        leases: granted to those who contend.
        lost: leases that were taken from their holders: must be 0.
        failed: requests that ended with an error: must be 0.
        overlaps, books, leaked: as in `exclusivity.py`: must be 0. A return may be lost in a crash; then the lease ends
            by its expiry.
        first_error: of whatever went wrong.
    """

    restarts: int
    down_s: float
    leases: int
    lost: int
    failed: int
    overlaps: int
    books: int
    leaked: int
    first_error: str = ""

    @property
    def wrong(self) -> int:
        """What must not have happened."""
        return self.lost + self.failed + self.overlaps + self.books + self.leaked

    def lines(self) -> list[str]:
        """For the table."""
        load = f"{HOLDERS} holders and {CONTENDERS} who contend for {CONTENDED} boards"
        said = f": {self.first_error}" if self.first_error else ""
        return [
            f"PostgreSQL: {self.restarts} restarts (immediate), {self.down_s:.1f} s away, under {load}",
            f"            {self.leases} leases meanwhile; {self.lost} lost, {self.failed} requests failed{said}",
            f"            {self.overlaps} overlaps, {self.books} in the books, {self.leaked} left over",
        ]


def keep(lab: Lab, path: Path, board: str | None, ended: Any, told: Any) -> None:
    """Hold one board all the time, or contend for any of the others, and tell what came of it."""
    link, draw = Link(path), random.Random(os.getpid())
    found: Counter[str] = Counter()
    first = ""
    shared = frozenset(f"vb-{number}" for number in range(HOLDERS, HOLDERS + CONTENDED))
    wanted = Requirement(board_id=board) if board is not None else Requirement(among=shared)
    with open_store(lab) as store:
        while not ended.value:
            try:
                held = reserve(lab, [wanted], store=store, holder=default_holder(), wait_s=5 * PATIENCE_S)
            except EdgehilError as problem:
                found["failed"] += 1
                first = first or f"{type(problem).__name__}: {problem}"
                continue
            found["leases"] += board is None
            one = held.leases[0]
            try:
                while True:
                    held.check()
                    send(link, one)
                    time.sleep(draw.uniform(0.01, 0.1))
                    if ended.value or (board is None and draw.random() < 0.5):
                        break
            except LeaseLost as problem:
                found["lost"] += 1
                first = first or str(problem)
            try:
                held.release()
            except EdgehilError as problem:
                found["failed"] += 1
                first = first or f"{type(problem).__name__}: {problem}"
    told.put((dict(found), first))


def send(link: Link, lease: Lease) -> None:
    """A command.

    Raises:
        LeaseLost: the board has seen a higher token.
    """
    if not link.send(lease.board_id, lease.token, str(lease.token)):
        raise LeaseLost(f"{lease.board_id} refuses token {lease.token}")


def restarted(server: Any, directory: Path, *, restarts: int, pause_s: float) -> Restarted:
    """Restart the server under load."""
    place = directory / "restarted"
    place.mkdir()
    lab = server.new_lab(place, lab_text(HOLDERS + CONTENDED, expiry_s=RESTART_EXPIRY_S))
    path, draw = directory / "restarted.boards", random.Random(0)
    result, told, ended = FORK.Queue(), FORK.Queue(), FORK.RawValue("q", 0)
    served = FORK.Process(target=boards, args=(path, [one.id for one in lab.boards], result), daemon=True)
    served.start()
    while not path.with_suffix(".up").exists():
        time.sleep(0.01)
    crowd = [
        FORK.Process(target=keep, args=(lab, path, f"vb-{at}" if at < HOLDERS else None, ended, told), daemon=True)
        for at in range(HOLDERS + CONTENDERS)
    ]
    for one in crowd:
        one.start()
    time.sleep(pause_s)
    down_s = 0.0
    for _ in range(restarts):
        time.sleep(draw.uniform(0.5, 1.5) * pause_s)
        went = time.monotonic()
        server.stop("immediate")
        server.start()
        down_s += time.monotonic() - went
    time.sleep(pause_s)
    ended.value = 1
    answers = [told.get(timeout=10 * PATIENCE_S) for _ in crowd]
    for one in crowd:
        one.join()
    path.with_suffix(".end").touch()
    seen = Counter(result.get())
    served.join()
    total = sum((Counter(found) for found, _ in answers), Counter())
    books, leaked = afterwards(lab, wait_s=lab.lease_expiry_s)
    return Restarted(
        restarts=restarts,
        down_s=down_s,
        leases=total["leases"],
        lost=total["lost"],
        failed=total["failed"],
        overlaps=seen["overlaps"] + seen["late"],
        books=books,
        leaked=leaked,
        first_error=next((first for _, first in answers if first), ""),
    )


# --- both -----------------------------------------------------------------------------------------------


def line(name: str, values: list[float]) -> str:
    """One of the table."""
    ordered = sorted(values)
    p95 = ordered[max(0, -(-95 * len(ordered) // 100) - 1)]
    return (
        f"{name:10} {len(values):5} kills   least {ordered[0]:6.3f} s   median {statistics.median(ordered):6.3f} s   "
        f"p95 {p95:6.3f} s   longest {ordered[-1]:6.3f} s"
    )


def main() -> int:
    """Runs the benchmark."""
    parser = bench.parser(__doc__)
    parser.add_argument("--kills", type=int, help="of holders, for each database (default: 200)")
    parser.add_argument("--restarts", type=int, help="of PostgreSQL (default: 20)")
    parser.add_argument("--expiry", type=float, metavar="SECONDS", help="of the leases of those who are killed (3)")
    arguments = parser.parse_args()
    kills = arguments.kills or (6 if arguments.quick else 200)
    restarts = arguments.restarts or (2 if arguments.quick else 20)
    expiry_s = arguments.expiry or (1.0 if arguments.quick else 3.0)
    which = ["sqlite", *(["postgres"] if postgres_is_here() else [])]
    found: dict[str, list[float]] = {}
    after: Restarted | None = None
    with bench.workplace() as directory, labs(which, directory, BOARDS, expiry_s=expiry_s) as prepared:
        for name, lab in prepared.items():
            found[name] = killed(lab, directory, kills=kills, expiry_s=expiry_s)
        found["flock"] = killed(None, directory, kills=kills, expiry_s=min(expiry_s, 0.5))
    if "postgres" in which:
        from support.postgres import PostgresServer

        with bench.workplace() as directory, PostgresServer("max_connections=200") as server:
            after = restarted(server, directory, restarts=restarts, pause_s=0.5 if arguments.quick else 3.0)
    longest = max(which, key=lambda name: max(found[name]))
    late = sum(one > expiry_s + AFTER_EXPIRY_S for name in which for one in found[name])
    figure = bench.Figure(
        name=f"kill -9 of a holder to first command of the next, longest, expiry {expiry_s:g} s, {longest}",
        value=max(found[longest]),
        unit="s",
        peer="flock",
        peer_value=max(found["flock"]),
        also={
            "later_than_wanted": late,
            "restarts": None if after is None else {key: getattr(after, key) for key in Restarted.__slots__},
            **{
                name: {"median_s": bench.rounded(statistics.median(values)), "longest_s": bench.rounded(max(values))}
                for name, values in found.items()
            },
        },
    )
    where = bench.machine()
    computer = f"{where['cpu']}, {where['cpus']} CPUs, load average {where['load_average']}"
    table = [f"expiry {expiry_s:g} s, {BOARDS} boards, {WAITING} waiting for each; {computer}"]
    table += [line(name, values) for name, values in found.items()]
    table.append(f"later than the expiry and {AFTER_EXPIRY_S:g} s: {late}")
    if after is not None:
        table += after.lines()
    bench.publish(arguments, figure, table)
    return 1 if late or (after is not None and after.wrong) else 0


if __name__ == "__main__":
    raise SystemExit(main())
