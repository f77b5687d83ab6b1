"""A process that holds boards, for tests in which it is killed, stopped, forked or orphaned.

lease_worker.py hold LAB EXPIRY_S [--tied]   holds one board; answers each line on stdin: "check" or "release"
lease_worker.py contend LAB ROUNDS JOURNALS  takes and gives back boards, which write down who came and went
lease_worker.py fork LAB                     what a fork may do with its parent's reservation
lease_worker.py parent COMMAND…              starts a command and waits until it is killed
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
import warnings
from pathlib import Path

from pytest_edgehil.errors import LeaseLost
from pytest_edgehil.lab.inventory import load_lab
from pytest_edgehil.lab.leases import default_holder
from pytest_edgehil.lab.reservation import reserve
from pytest_edgehil.lab.store import open_store
from pytest_edgehil.model.board import Requirement


def say(text: str) -> None:
    print(text, flush=True)


def hold(lab_path: str, expiry_s: str, *options: str) -> None:
    lab = load_lab(Path(lab_path))
    with open_store(lab) as store:
        reservation = reserve(
            lab,
            [Requirement()],
            store=store,
            holder=default_holder(),
            wait_s=30,
            expiry_s=float(expiry_s),
            tied_to_parent="--tied" in options,
        )
        say(f"holding {reservation.boards[0].id} {reservation.leases[0].token}")
        for line in sys.stdin:
            if line.strip() == "release":
                reservation.release()
                say("released")
                continue
            try:
                reservation.check()
                say("ok")
            except LeaseLost as lost:
                say(f"lost: {lost}")


def contend(lab_path: str, rounds: str, journals: str) -> None:
    lab = load_lab(Path(lab_path))
    draw = random.Random(os.getpid())
    with open_store(lab) as store:
        for _ in range(int(rounds)):
            with reserve(lab, [Requirement()], store=store, holder=default_holder(), wait_s=90) as reservation:
                board, lease = reservation.boards[0], reservation.leases[0]
                journal = os.open(Path(journals) / board.id, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
                os.write(journal, f"enter {lease.token} {os.getpid()}\n".encode())
                time.sleep(draw.uniform(0, 0.003))
                os.write(journal, f"leave {lease.token} {os.getpid()}\n".encode())
                os.close(journal)


def fork(lab_path: str) -> None:
    # newer interpreters warn of forks in threaded processes: rightly, and it is what is tried here
    warnings.simplefilter("ignore", DeprecationWarning)
    lab = load_lab(Path(lab_path))
    with open_store(lab) as store:
        with reserve(lab, [Requirement()], store=store, holder=default_holder(), wait_s=5) as reservation:
            child = os.fork()
            if child == 0:
                try:
                    reservation.check()
                    say("child: ok")
                except LeaseLost as lost:
                    say(f"child: {lost}")
                reservation.release()
                say(f"child sees: {[str(state.state) for state in store.boards()]}")
                os._exit(0)
            os.waitpid(child, 0)
            reservation.check()
            say("parent: ok")
        say(f"parent sees: {[str(state.state) for state in store.boards()]}")


def parent(*command: str) -> None:
    subprocess.run([sys.executable, *command], check=False)


if __name__ == "__main__":
    {"hold": hold, "contend": contend, "fork": fork, "parent": parent}[sys.argv[1]](*sys.argv[2:])
