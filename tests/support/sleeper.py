"""A process that holds a board and is then stopped for longer than its lease: what it can still do when it wakes up.

sleeper.py LAB BUNDLE EXPIRY_S   leases the lab's board, begins to push BUNDLE slowly and to write "tick" every now and
then, says "ready", and waits for a line. Then it tries everything that there is, and prints what it was told, as JSON:
once as it is, and once without looking at its lease itself, so that the board has to refuse.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from pytest_edgehil.artifacts.bundle import read
from pytest_edgehil.board.command import Command
from pytest_edgehil.board.push import PushOptions, push
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.errors import EdgehilError
from pytest_edgehil.holding import Holding
from pytest_edgehil.lab.inventory import load_lab
from pytest_edgehil.lab.leases import default_holder
from pytest_edgehil.lab.reservation import reserve
from pytest_edgehil.lab.store import open_store
from pytest_edgehil.model.board import Fault, Requirement

TICK = ("sh", "-c", "while :; do echo tick >>ticks; sleep 0.05; done")

told: dict[str, str] = {}


def trying(name: str, what: Callable[[], object]) -> None:
    try:
        what()
    except EdgehilError as problem:
        told[name] = f"{type(problem).__name__}: {problem}"
    else:
        told[name] = "done"


def main(lab_path: str, bundle: str, expiry_s: str) -> None:
    lab = load_lab(Path(lab_path))
    artifact = read(Path(bundle))
    store = open_store(lab)
    reservation = reserve(
        lab, [Requirement()], store=store, holder=default_holder(), wait_s=60, expiry_s=float(expiry_s)
    )
    holding = Holding(lab=lab, reservation=reservation, console_log=Path(lab_path).with_name("sleeper.log"))
    holding.open()
    session = holding.session
    session.client.status()

    def flash() -> None:
        with holding.doing("flashing"):
            push(session, artifact, options=PushOptions(limit_bytes_per_s=50_000))

    def run() -> None:
        with holding.doing("running the test"):
            session.transport.run(Command(argv=TICK, timeout_s=600.0))

    begun = [threading.Thread(target=trying, args=("push under way", flash), daemon=True)]
    begun.append(threading.Thread(target=trying, args=("command under way", run), daemon=True))
    for one in begun:
        one.start()
    print(f"ready {holding.token}", flush=True)
    sys.stdin.readline()

    trying("console", lambda: holding.console.write(b"root\r"))
    trying("power off", holding.power.off)
    trying("power cycle", holding.power.cycle)
    trying("command", lambda: holding.run("touch", "harm"))
    trying("reading", holding.check_now)
    for one in begun:
        one.join(120)

    # from here on nobody looks at the lease on this host
    def blind() -> BoardSession:
        return BoardSession(holding.board, token=holding.token, holder=holding.holder)

    harm = Command(argv=("touch", "harm"), timeout_s=60.0)
    trying("board: command", lambda: blind().transport.run(harm))
    trying("board: program", lambda: blind().transport.open(("touch", "harm"), 60.0).receive(1, 60.0))
    trying("board: session", lambda: blind().client.request("activate", {"combo": {}}, timeout_s=60.0))
    trying("board: push", lambda: push(blind(), artifact))
    trying("board: fault", lambda: holding.virtual.inject(Fault(kind="power-cut")))
    trying("board: power", holding.virtual.power_off)
    trying("board: stop", holding.virtual.stop)
    holding.close()
    print(json.dumps(told), flush=True)


main(*sys.argv[1:])
