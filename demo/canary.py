"""Telemetry of a canary: the farm's virtual boards really run both models, and report as a fleet would.

Every other board is a canary and runs the new model, the others run the old one. Every board runs several sessions,
each a fresh process; within each the boards take turns, a few items at a time, so that whatever else the machine does
meets them alike. On the canaries every answer is compared with the old model's on the host (a shadow); on the controls
with the new model's.
One JSON-lines file per board, in the format of ``pytest_edgehil/rollout/telemetry.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from pathlib import Path

from pytest_edgehil.artifacts.bundle import read
from pytest_edgehil.artifacts.dataset import Dataset, load_dataset
from pytest_edgehil.artifacts.reference import ReferenceModel
from pytest_edgehil.board.dut import Dut
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.errors import ModelError
from pytest_edgehil.lab.inventory import load_lab
from pytest_edgehil.lab.leases import default_holder
from pytest_edgehil.lab.reservation import reserve
from pytest_edgehil.lab.store import open_store
from pytest_edgehil.model import Artifact, Combo, Requirement
from pytest_edgehil.virtual.farm import board_directory, start

SESSIONS = 4
ITEMS = 100
AT_A_TIME = 5


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
    data = load_dataset(options.data)
    parts = [part_of(data, at, at + AT_A_TIME) for at in range(0, ITEMS, AT_A_TIME)]
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
            reservation.check()
            sessions = [
                (board, Session(group, session, models[group], other[group])) for group, board, session in boards
            ]
            for part in parts:
                for _, one in sessions:
                    one.run(part)
            for board, one in sessions:
                who = {"device": board.id, "environment": board.environment.value, "timing": board.timing.value}
                with (options.telemetry / f"{board.id}.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps({**who, **one.end()}) + "\n")
            print(f"canary: turn {turn} of {SESSIONS} done on {len(boards)} boards", flush=True)


def part_of(data: Dataset, first: int, end: int) -> Dataset:
    """Some items of a set."""
    return Dataset.of_arrays(data.name, {name: values[first:end] for name, values in data.inputs.items()})


class Session:
    """One session: a fresh process on a board, and what the board reports of it."""

    def __init__(self, group: str, session: BoardSession, model: Artifact, other: ReferenceModel) -> None:
        self._group, self._model, self._other = group, model, other
        self._started_at = time.time()
        self._latencies: list[int] = []
        self._compared = self._disagreed = 0
        self._crashed = False
        self._dut = Dut.open(session, combo=Combo(model=model))

    def run(self, items: Dataset) -> None:
        """Feed some items; after a crash there is nothing that could run them."""
        if self._crashed:
            return
        try:
            evaluation = self._dut.evaluate(items, self._other)
        except ModelError:
            self._crashed = True
            return
        self._latencies += evaluation.latencies_ns.tolist()
        if evaluation.agreed is not None:
            self._compared += len(evaluation.agreed)
            self._disagreed += int((~evaluation.agreed).sum())

    def end(self) -> dict[str, object]:
        """End the process; its report."""
        self._dut.close()
        return {
            "group": self._group,
            "artifact": self._model.digest,
            "started_at": self._started_at,
            "device_hours": (time.time() - self._started_at) / 3600.0,
            "inferences": len(self._latencies),
            "latencies_ns": self._latencies,
            "sessions": 1,
            "crashes": int(self._crashed),
            "shadow_compared": self._compared,
            "shadow_disagreements": self._disagreed,
        }


if __name__ == "__main__":
    main()
