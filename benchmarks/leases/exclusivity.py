"""Do two ever have one board? Many contend for few while some are killed, stopped, and lied to about the time.

Each process reserves one to three boards, sends them commands that carry its fencing token, and gives them back, over
and over. Meanwhile processes are killed (and replaced) or stopped for up to twice the expiry, half of them picked among
those who have a board, and every one's wall clock jumps about by itself. Some stop in the worst moment: when they have
looked whether they may send a command, and have not sent it; they go on when somebody else has used their board. A
board is a stand-in that takes commands over a socket and refuses a token lower than it has seen, as `onboard/fence.py`
does; it writes down whose commands it took and between which of them somebody else came in.

- overlaps: commands that a board took from one holder after it had taken one of a later holder. Must be 0.
- told: holders who looked whether they still have their boards before a command, and were told that they have not.
- late: commands that a board refused: their holder was stopped past its expiry between looking and sending. Without a
  fence on the board each of these would be an overlap.
- books: leases of one board that overlap in the audit trail. Must be 0.
- leaked: boards that are not free, and requests that are in the queue, an expiry after the last process ended.

The peer is the same without leases: processes take boards at random. It shows that overlaps are found where there are
any. A run goes on until somebody was killed, somebody stopped, and a board has refused somebody, also with
``--quick``.

    python benchmarks/leases/exclusivity.py [--json] [--quick] [--store sqlite] [--processes 200] [--boards 20]
        [--minutes 3]
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import random
import selectors
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench

from pytest_edgehil.errors import LeaseError, LeaseLost
from pytest_edgehil.lab.inventory import Lab, load_lab
from pytest_edgehil.lab.leases import AuditEvent, BoardStatus, LabStore, default_holder
from pytest_edgehil.lab.postgres_store import PostgresLeaseStore
from pytest_edgehil.lab.reservation import reserve
from pytest_edgehil.lab.sqlite_store import SqliteLeaseStore
from pytest_edgehil.lab.store import open_store, rules_of
from pytest_edgehil.model.board import Requirement

EXPIRY_S = 3.0
QUICK_EXPIRY_S = 2.0
PATIENCE_S = 60.0
_SLEEPS = 0.03
"""So often somebody stops between looking and sending."""
_KILLED = 0.3
"""This part of the victims is killed, the others are stopped for a while."""
LONGEST_S = 120.0
"""So long a run waits beyond its time for a mishap that has not happened yet."""
FORK = mp.get_context("fork")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one run came to."""

    leases: int
    commands: int
    kills: int
    stops: int
    clock_steps: int
    told: int
    late: int
    overlaps: int
    books: int
    leaked: int


# --- the boards ----------------------------------------------------------------------------------------


def boards(path: Path, names: list[str], result: Any, shared: Shared | None = None) -> None:
    """Serve all boards in one process; a line is ``BOARD TOKEN VISIT``, the answer ``+`` or ``-``.

    Args:
        shared: is told what was refused and which tokens were seen, for whoever looks meanwhile.
    """
    seen = dict.fromkeys(names, 0)
    newest: dict[str, str] = dict.fromkeys(names, "")  # the visit that came in last
    left: dict[str, set[str]] = {name: set() for name in names}
    told: Counter[str] = Counter()
    chooser = selectors.DefaultSelector()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(1000)
        path.with_suffix(".up").touch()
        server.setblocking(False)
        chooser.register(server, selectors.EVENT_READ)
        while not path.with_suffix(".end").exists():
            for key, _ in chooser.select(timeout=0.2):
                if key.fileobj is server:
                    link, _ = server.accept()
                    chooser.register(link, selectors.EVENT_READ, bytearray())
                    continue
                link = key.fileobj
                try:
                    data = link.recv(4096)
                except ConnectionError:
                    data = b""
                if not data:
                    chooser.unregister(link)
                    link.close()
                    continue
                key.data.extend(data)
                while b"\n" in key.data:
                    line, _, rest = bytes(key.data).partition(b"\n")
                    key.data[:] = rest
                    name, token, visit = line.decode().split()
                    taken = int(token) >= seen[name]
                    if taken:
                        told["commands"] += 1
                        seen[name] = int(token)
                        if shared is not None:
                            shared.seen[names.index(name)] = int(token)
                        if visit != newest[name]:
                            if visit in left[name]:
                                told["overlaps"] += 1  # it was here, somebody else came, and it is here again
                            left[name].add(newest[name])
                            newest[name] = visit
                    else:
                        told["late"] += 1
                        if shared is not None:
                            shared.late.value += 1
                    with contextlib.suppress(ConnectionError):
                        link.sendall(b"+" if taken else b"-")
    result.put(dict(told))


class Link:
    """To the boards."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))

    def send(self, board: str, token: int, visit: str) -> bool:
        """One command; False: refused."""
        self._socket.sendall(f"{board} {token} {visit}\n".encode())
        return self._socket.recv(1) == b"+"


# --- those who contend ---------------------------------------------------------------------------------


_honest = time.time


class Liar:
    """A wall clock that jumps about."""

    def __init__(self, draw: random.Random, steps: Any, slot: int) -> None:
        self._draw, self._steps, self._slot, self._off, self._due = draw, steps, slot, 0.0, 0.0

    def __call__(self) -> float:
        """Now, or not."""
        here = time.monotonic()
        if here > self._due:
            self._due = here + self._draw.uniform(0.2, 2.0)
            self._off = self._draw.choice((0.0, -3600.0, 3600.0, self._draw.uniform(-10, 10)))
            self._steps[self._slot] += 1
        return _honest() + self._off


def opened(lab: Lab, liar: Liar) -> LabStore:
    """A store whose database, as far as one can make it, believes the liar."""
    if lab.lease_url.startswith("sqlite"):
        return SqliteLeaseStore(lab.lease_url, rules=rules_of(lab), wall=liar)
    return PostgresLeaseStore(lab.lease_url, lab=lab.name, rules=rules_of(lab))


@dataclass(frozen=True, slots=True)
class Shared:
    """What the processes of a run count in: a slot for each, since one may be killed while it holds a lock."""

    granted: Any
    steps: Any
    told: Any
    holding: Any
    asleep: Any  # the token of who has stopped by himself between looking and sending
    asleep_on: Any  # the number of his board
    seen: Any  # by board: the highest token
    late: Any
    ended: Any

    @classmethod
    def by(cls, processes: int, boards: int) -> Shared:
        """All at 0."""
        slots = [FORK.RawArray("q", processes) for _ in range(6)]
        return cls(*slots, FORK.RawArray("q", boards), *(FORK.RawValue("q", 0) for _ in range(2)))

    def may_wake(self, slot: int) -> bool:
        """Has its board seen a later holder, if the slot has stopped between looking and sending?"""
        token = self.asleep[slot]
        return not token or self.seen[self.asleep_on[slot]] > token


def contend(path: Path, lab: Lab, *, leased: bool, seed: int, slot: int, shared: Shared) -> None:
    """Reserve, use, give back."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    draw = random.Random(seed)
    liar = Liar(draw, shared.steps, slot)
    time.time = liar  # whoever asks this process for the time gets that
    link = Link(path)
    if not leased:
        while not shared.ended.value:
            visit, token = f"{os.getpid()}-{draw.random()}", 1
            board = draw.choice(lab.boards).id
            use(link, [(board, token)], visit, draw, lambda: None, slot=slot, shared=shared)
        return
    with opened(lab, liar) as store:
        while not shared.ended.value:
            wanted = [Requirement()] * draw.choices((1, 2, 3), (8, 1, 1))[0]
            try:
                with reserve(lab, wanted, store=store, holder=default_holder(), wait_s=PATIENCE_S) as held:
                    shared.granted[slot] += len(held.leases)
                    shared.holding[slot] = 1
                    visit = f"{os.getpid()}-{held.leases[0].token}"
                    on = [(one.board_id, one.token) for one in held.leases]
                    use(link, on, visit, draw, held.check, slot=slot, shared=shared)
                    shared.holding[slot] = 0
            except RefusedError:
                pass
            except LeaseLost:
                shared.told[slot] += 1
            except LeaseError:
                pass  # nobody came back in time
            shared.holding[slot] = 0


class RefusedError(Exception):
    """A board has seen a higher token."""


def use(
    link: Link,
    on: list[tuple[str, int]],
    visit: str,
    draw: random.Random,
    check: Callable[[], None],
    *,
    slot: int,
    shared: Shared,
) -> None:
    """Some commands to each board. Whoever is stopped may be stopped before he looks, or between that and sending."""
    for _ in range(draw.randint(1, 6)):
        for board, token in on:
            time.sleep(draw.uniform(0, 0.01))
            check()
            time.sleep(draw.uniform(0, 0.04))
            if token > 1 and draw.random() < _SLEEPS:
                shared.asleep_on[slot] = int(board.removeprefix("vb-"))
                shared.asleep[slot] = token
                os.kill(os.getpid(), signal.SIGSTOP)
                shared.asleep[slot] = 0
            if not link.send(board, token, visit):
                raise RefusedError(board)


# --- the run -------------------------------------------------------------------------------------------


class Crowd:
    """The processes that contend, and what befalls them.

    Args:
        start: starts the process of a slot.
        processes: how many.
        shared: what they tell.
        expiry_s: of their leases.
    """

    def __init__(
        self, start: Callable[[int], mp.process.BaseProcess], processes: int, shared: Shared, *, expiry_s: float
    ) -> None:
        self._start = start
        self._shared = shared
        self._expiry_s = expiry_s
        self._all = [start(slot) for slot in range(processes)]
        self._stopped: dict[int, float] = {}
        self.kills = self.stops = 0

    def wake(self) -> None:
        """Let those go on whose time has come."""
        now = time.monotonic()
        for at, token in enumerate(self._shared.asleep):
            if token and at not in self._stopped:
                self._stopped[at] = now + self._expiry_s
                self.stops += 1
        for at, when in list(self._stopped.items()):
            if now > when and (self._shared.may_wake(at) or now > when + LONGEST_S):
                del self._stopped[at]
                os.kill(self._all[at].pid or 0, signal.SIGCONT)

    def hit(self, draw: random.Random) -> None:
        """Something happens to somebody."""
        where = draw.choice((self._shared.holding, None))
        slots = [at for at in range(len(self._all)) if at not in self._stopped]
        busy = slots if where is None else [at for at in slots if where[at]]
        victim = draw.choice(busy or slots or [0])
        if victim in self._stopped or not self._all[victim].is_alive():
            return
        if draw.random() < _KILLED:
            self._all[victim].kill()
            self._all[victim].join()
            self._all[victim] = self._start(victim)
            self.kills += 1
        else:
            os.kill(self._all[victim].pid or 0, signal.SIGSTOP)
            self._stopped[victim] = time.monotonic() + draw.uniform(0.5, 2.0) * self._expiry_s
            self.stops += 1

    def end(self) -> None:
        """Everybody finishes what he does."""
        self._shared.ended.value = 1
        for one in self._all:
            until = time.monotonic() + 2 * PATIENCE_S
            while one.is_alive() and time.monotonic() < until:
                os.kill(one.pid or 0, signal.SIGCONT)  # who has stopped by himself, too
                one.join(0.2)
            if one.is_alive():
                raise SystemExit(f"process {one.pid} does not end")


def run(
    lab: Lab, directory: Path, *, leased: bool, processes: int, seconds: float, seed: int = 0, thorough: bool = True
) -> Found:
    """One run.

    Args:
        thorough: go on until somebody was killed, somebody stopped, and a board has refused somebody.
    """
    draw = random.Random(seed)
    path = directory / f"{lab.name}-{seed}"
    result, shared = FORK.Queue(), Shared.by(processes, len(lab.boards))
    names = [board.id for board in lab.boards]
    served = FORK.Process(target=boards, args=(path, names, result, shared), daemon=True)
    served.start()
    while not path.with_suffix(".up").exists():
        time.sleep(0.01)
    numbers = iter(range(10**9))

    def start(slot: int) -> mp.process.BaseProcess:
        one = FORK.Process(
            target=contend,
            args=(path, lab),
            kwargs={"leased": leased, "seed": next(numbers), "slot": slot, "shared": shared},
            daemon=True,
        )
        shared.holding[slot] = shared.asleep[slot] = 0
        one.start()
        return one

    crowd = Crowd(start, processes, shared, expiry_s=lab.lease_expiry_s)
    until = time.monotonic() + seconds

    def goes_on(now: float) -> bool:
        missing = leased and thorough and not (crowd.kills and crowd.stops and shared.late.value)
        return now < until or (missing and now < until + LONGEST_S)

    # a board stays with whoever was killed or stopped until the expiry: leave some for the others
    pause_s = 3 * lab.lease_expiry_s / len(lab.boards)
    while goes_on(time.monotonic()):
        time.sleep(draw.uniform(0.2, 1.0) * pause_s if leased else 0.1)
        crowd.wake()
        if leased:
            crowd.hit(draw)
    crowd.end()
    path.with_suffix(".end").touch()
    told = Counter(result.get())
    served.join()
    books, leaked = (0, 0) if not leased else afterwards(lab, wait_s=lab.lease_expiry_s)
    return Found(
        leases=sum(shared.granted),
        commands=told["commands"],
        kills=crowd.kills,
        stops=crowd.stops,
        clock_steps=sum(shared.steps),
        told=sum(shared.told),
        late=told["late"],
        overlaps=told["overlaps"],
        books=books,
        leaked=leaked,
    )


def afterwards(lab: Lab, *, wait_s: float) -> tuple[int, int]:
    """Overlaps in the books, and what is not free when everybody's time is up: after so long, and a second."""
    with open_store(lab) as store:

        def leaked() -> int:
            return sum(state.state is not BoardStatus.FREE for state in store.boards()) + len(store.queue())

        until = time.monotonic() + wait_s + 1.0
        while leaked() and time.monotonic() < until:
            time.sleep(0.1)
        left = leaked()
        open_until: dict[str, int | None] = {}
        overlaps = 0
        for line in store.audit():
            if line.event is AuditEvent.LEASED:
                overlaps += open_until.get(line.board_id) is not None
                open_until[line.board_id] = line.token
            elif open_until.get(line.board_id) == line.token:
                open_until[line.board_id] = None
    return overlaps, left


def lab_text(count: int, *, expiry_s: float) -> str:
    """A lab file with so many boards."""
    return f"lab: bench\nlease_expiry: {expiry_s:g} s\nboards:\n" + "".join(
        f"  vb-{number}: {{class: pi5-8gb, environment: virtual}}\n" for number in range(count)
    )


@contextlib.contextmanager
def labs(which: list[str], directory: Path, count: int, *, expiry_s: float = EXPIRY_S) -> Iterator[dict[str, Lab]]:
    """A lab in each kind of database."""
    text = lab_text(count, expiry_s=expiry_s)
    found = {}
    with contextlib.ExitStack() as stack:
        if "sqlite" in which:
            (directory / "lab.yaml").write_text(text)
            found["sqlite"] = load_lab(directory / "lab.yaml")
            open_store(found["sqlite"]).close()
        if "postgres" in which:
            from support.postgres import PostgresServer

            (directory / "postgres").mkdir()
            server = stack.enter_context(PostgresServer("max_connections=500"))
            found["postgres"] = server.new_lab(directory / "postgres", text)
        yield found


def main() -> int:
    """Runs the benchmark."""
    parser = bench.parser(__doc__)
    parser.add_argument("--store", choices=("sqlite", "postgres", "both"), default="both")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--boards", type=int)
    parser.add_argument("--minutes", type=float)
    arguments = parser.parse_args()
    quick: bool = arguments.quick
    processes = arguments.processes or (12 if quick else 200)
    count = arguments.boards or (4 if quick else 20)
    seconds = 60 * (arguments.minutes or (0.05 if quick else 3))
    expiry_s = QUICK_EXPIRY_S if quick else EXPIRY_S
    which = ["sqlite", "postgres"] if arguments.store == "both" else [arguments.store]
    if "postgres" in which and not postgres_is_here():
        if arguments.store == "postgres":
            return bench.missing_status("postgres")
        which.remove("postgres")
    found: dict[str, Found] = {}
    with bench.workplace() as directory, labs(which, directory, count, expiry_s=expiry_s) as prepared:
        for name, lab in prepared.items():
            found[name] = run(lab, directory, leased=True, processes=processes, seconds=seconds)
        lab = next(iter(prepared.values()))
        peer = run(lab, directory, leased=False, processes=processes, seconds=min(seconds, 10), seed=1, thorough=False)
    wrong = sum(one.overlaps + one.books + one.leaked for one in found.values())
    figure = bench.Figure(
        name=f"overlaps on {count} boards, {processes} processes",
        value=float(wrong),
        unit="overlaps",
        peer="boards taken at random, without leases",
        peer_value=float(max(1, peer.overlaps)),
        also={name: {key: getattr(one, key) for key in Found.__slots__} for name, one in found.items()},
    )
    rows = [("", *Found.__slots__)]
    rows += [(name, *(str(getattr(one, key)) for key in Found.__slots__)) for name, one in found.items()]
    rows.append(("no leases", *(str(getattr(peer, key)) for key in Found.__slots__)))
    where = bench.machine()
    table = ["  ".join(f"{cell:>11}" for cell in row) for row in rows]
    table.append(
        f"{processes} processes, {count} boards, {seconds:.0f} s, expiry {expiry_s:g} s; {where['cpu']}, "
        f"{where['cpus']} CPUs, load average {where['load_average']}"
    )
    bench.publish(arguments, figure, table)
    return 1 if wrong else 0


def postgres_is_here() -> bool:
    """Is a server installed?"""
    from support.postgres import binaries

    if binaries() is None:
        print("not measured: postgres not installed", file=sys.stderr)
        return False
    return True


if __name__ == "__main__":
    raise SystemExit(main())
