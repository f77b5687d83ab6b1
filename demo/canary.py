"""Telemetry of a canary: the farm's virtual boards really run both models, and report as a fleet would.

The first half of the boards are canaries and run the new model, the others run the old one. Every board runs several
sessions, each a fresh process; boards take turns, so that whatever else the machine does meets them alike. On the
canaries every answer is compared with the old model's on the host (a shadow); on the controls with the new model's.
One JSON-lines file per board, in the format of ``pytest_edgehil/rollout/telemetry.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from pathlib import Path

from pytest_edgehil.artifacts.bundle import read
from pytest_edgehil.artifacts.dataset import load_dataset
from pytest_edgehil.artifacts.reference import ReferenceModel
from pytest_edgehil.board.dut import Dut
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.errors import ModelError
from pytest_edgehil.lab.inventory import load_lab
from pytest_edgehil.lab.leases import default_holder
from pytest_edgehil.lab.reservation import reserve
from pytest_edgehil.lab.store import open_store
from pytest_edgehil.model import Combo, Requirement
from pytest_edgehil.virtual.farm import board_directory, start

SESSIONS = 4
ITEMS = 100


def main() -> None:
    """Run both models and write the telemetry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lab", type=Path, required=True)
    parser.add_argument("--control", type=Path, required=True, help="bundle of the old model")
    parser.add_argument("--canary", type=Path, required=True, help="bundle of the new model")
    parser.add_argument("--data", type=Path, default=Path("suites/models/digits/heldout.npz"))
    parser.add_argument("--telemetry", type=Path, required=True, help="directory for the reports")
    options = parser.parse_args()

    lab = load_lab(options.lab)
    models = {"control": read(options.control), "canary": read(options.canary)}
    other = {"control": ReferenceModel(models["canary"]), "canary": ReferenceModel(models["control"])}
    data = load_dataset(options.data).head(ITEMS)
    options.telemetry.mkdir(parents=True, exist_ok=True)

    with contextlib.ExitStack() as stack:
        store = stack.enter_context(open_store(lab))
        everything = [Requirement(board_id=board.id) for board in lab.boards]
        reservation = stack.enter_context(reserve(lab, everything, store=store, holder=default_holder(), wait_s=60.0))
        boards = []
        for number, (board, lease) in enumerate(zip(reservation.boards, reservation.leases, strict=True)):
            running = stack.enter_context(start(board, directory=board_directory(lab.state_dir, board.id)))
            session = BoardSession(running.board, token=lease.token, holder=lease.holder.name)
            stack.callback(session.close)
            # canaries on both classes of boards, controls likewise
            boards.append(("canary" if number % 2 == 0 else "control", running.board, session))
        for turn in range(1, SESSIONS + 1):
            for group, board, session in boards:
                reservation.check()
                report = run_session(group, session, models[group], other[group], data)
                who = {"device": board.id, "environment": board.environment.value, "timing": board.timing.value}
                line = json.dumps({**who, **report})
                with (options.telemetry / f"{board.id}.jsonl").open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
            print(f"canary: turn {turn} of {SESSIONS} done on {len(boards)} boards", flush=True)


def run_session(group, session, model, other, data) -> dict[str, object]:
    """One session: a fresh process, the whole set once; what the board reports of it."""
    started_at, crashes, compared, disagreed, latencies = time.time(), 0, 0, 0, []
    dut = Dut.open(session, combo=Combo(model=model))
    try:
        evaluation = dut.evaluate(data, other)
        latencies = evaluation.latencies_ns.tolist()
        if evaluation.agreed is not None:
            compared, disagreed = len(evaluation.agreed), int((~evaluation.agreed).sum())
    except ModelError:
        crashes = 1
    finally:
        dut.close()
    return {
        "group": group,
        "artifact": model.digest,
        "started_at": started_at,
        "device_hours": (time.time() - started_at) / 3600.0,
        "inferences": len(latencies),
        "latencies_ns": latencies,
        "sessions": 1,
        "crashes": crashes,
        "shadow_compared": compared,
        "shadow_disagreements": disagreed,
    }


if __name__ == "__main__":
    main()
