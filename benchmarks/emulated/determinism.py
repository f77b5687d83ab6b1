"""How much counted instructions differ from one start of a board to the next, and what this host's load does to them.

``determinism.py [STARTS]``, by hand; it wants the image and QEMU. Each start is a fresh board of its template, and the
model is in a fresh process: p50 and p95 over 200 inferences of the digits model as it is released (static int8). Every
other start shares this host with three busy loops. At the end the spread of p50 over all starts, which must be within
1 %, and the standard deviation, which `session_spread` of a golden has to cover.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from pytest_edgehil.artifacts.build import build
from pytest_edgehil.artifacts.dataset import load_dataset
from pytest_edgehil.artifacts.recipe import load_recipe
from pytest_edgehil.board.dut import Dut
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.emulated.farm import start
from pytest_edgehil.model.artifact import Artifact, Combo
from pytest_edgehil.model.board import Board, EmulatedSpec, Environment, Timing

ROOT = Path(__file__).resolve().parents[2]
IMAGE = ROOT / "farm/images/edge-arm64"
DIGITS = ROOT / "suites/models/digits"
INFERENCES = 200
LOOPS = 3
MOST = 0.01


def busy() -> None:
    """Until it is killed."""
    while True:
        pass


def measured(model: Artifact, directory: Path) -> tuple[float, float]:
    """p50 and p95 in ns of a board that was started just now."""
    board = Board(
        id="emu-01",
        cls="pi5-2gb-emulated",
        environment=Environment.EMULATED,
        timing=Timing.ICOUNT,
        home="/data/edgehil",
        emulated=EmulatedSpec(image=IMAGE, serial="1"),
    )
    image = load_dataset(DIGITS / "heldout.npz").inputs["image"][:1]
    with start(board, directory=directory) as running:
        session = BoardSession(running.board, token=1, holder="benchmark")
        with Dut.open(session, combo=Combo(model=model)) as dut:
            sample = dut.measure({"image": image}, inferences=INFERENCES)
        session.close()
    p50, p95 = np.quantile(sample.latencies_ns, [0.5, 0.95], method="inverted_cdf")
    return float(p50), float(p95)


def main() -> None:
    """Measure, and end with 1 when the spread is too large."""
    starts = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    medians: list[float] = []
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {INFERENCES} inferences each")
    with tempfile.TemporaryDirectory(prefix="edgehil-determinism-") as name:
        model = build(
            load_recipe(DIGITS / "digits-int8.yaml"), out_dir=Path(name) / "artifacts", measure=False
        ).artifact
        for number in range(starts):
            loops = [multiprocessing.Process(target=busy, daemon=True) for _ in range(LOOPS if number % 2 else 0)]
            for one in loops:
                one.start()
            try:
                p50, p95 = measured(model, Path(name) / "board")
            finally:
                for one in loops:
                    one.kill()
                    one.join()
            medians.append(p50)
            load = f"{len(loops)} busy loops" if loops else "idle"
            print(f"start {number + 1:>2}, {load:<12} p50 {p50 / 1e6:.5f} ms, p95 {p95 / 1e6:.5f} ms", flush=True)
    for kind, some in (("idle", medians[::2]), ("busy", medians[1::2])):
        if some:
            print(f"{kind}: p50 from {min(some) / 1e6:.5f} to {max(some) / 1e6:.5f} ms")
    spread = max(medians) / min(medians) - 1
    deviation = statistics.stdev(medians) / statistics.mean(medians) if len(medians) > 1 else 0.0
    print(f"all {starts} starts: spread of p50 {spread:.3%} (at most {MOST:.0%}), standard deviation {deviation:.3%}")
    sys.exit(spread > MOST)


if __name__ == "__main__":
    main()
