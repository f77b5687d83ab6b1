"""A process that wants the board: the peers of `throughput` and its own. Not run by itself.

waiter.py lease LAB | lock FILE — says "waiting" once somebody else has it, the monotonic time when it got it, gives
it back on the next line of stdin and says when it began to do that.
"""

from __future__ import annotations

import fcntl
import sys
import time
from pathlib import Path

from pytest_edgehil.lab.inventory import load_lab
from pytest_edgehil.lab.leases import default_holder
from pytest_edgehil.lab.reservation import reserve
from pytest_edgehil.lab.store import open_store
from pytest_edgehil.model.board import Requirement


def say(what: object) -> None:
    """One line to whoever started us."""
    print(what, flush=True)


def lease(lab_path: str) -> None:
    """Through our leases."""
    lab = load_lab(Path(lab_path))
    with open_store(lab) as store:
        for _ in sys.stdin:
            reservation = reserve(
                lab,
                [Requirement()],
                store=store,
                holder=default_holder(),
                wait_s=120.0,
                on_wait=lambda _: say("waiting"),
            )
            say(time.monotonic())
            sys.stdin.readline()
            say(time.monotonic())
            reservation.release()


def lock(path: str) -> None:
    """Through a lock that the kernel wakes us from."""
    with Path(path).open("ab") as file:
        for _ in sys.stdin:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("waiting")
                fcntl.flock(file, fcntl.LOCK_EX)
            say(time.monotonic())
            sys.stdin.readline()
            say(time.monotonic())
            fcntl.flock(file, fcntl.LOCK_UN)


if __name__ == "__main__":
    {"lease": lease, "lock": lock}[sys.argv[1]](sys.argv[2])
