"""A real run on four virtual boards, under our scheduler and under xdist's: how long it takes, how often it flashes.

54 tests, nine with each of six combos, collected so that neighbours have different combos. Switching a virtual board to
another combo costs next to nothing, so a flash is made to cost 0.4 s here, as a real one costs much more. Each
scheduler runs on its own boards; rounds are in random order. The history of the rounds before is kept, as in CI.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import textwrap
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench
from support.farm import lab_text, replay_artifact

BOARDS, COMBOS, EACH, FLASH_S = 4, 6, 9, 0.4
PEERS = ("load", "worksteal")

CONFTEST = f"""
    import os
    import time
    from pathlib import Path

    from pytest_edgehil.board import dut

    flash = dut.flash

    def slowly(*arguments, **more):
        report = flash(*arguments, **more)
        if report.activated:
            time.sleep({FLASH_S})
            with (Path(__file__).parent / "flashes").open("a") as file:
                file.write("x")
        return report

    dut.flash = slowly
"""

SUITE = f"""
    import numpy as np
    import pytest

    X = {{"image": np.ones((1, 4), dtype=np.float32)}}

    @pytest.mark.parametrize("combo", [f"m{{at}}" for at in range({COMBOS})], indirect=True)
    @pytest.mark.parametrize("number", range({EACH}))
    def test_it(dut, number):
        dut.run(X)
"""


def prepare(directory: Path, artifacts: Path, name: str) -> Path:
    """A farm of its own."""
    farm = directory / name
    farm.mkdir()
    (farm / "lab.yaml").write_text(lab_text(name=name, boards=BOARDS), encoding="utf-8")
    (farm / "pytest.ini").write_text(f"[pytest]\nedgehil_artifacts = {artifacts}\n", encoding="utf-8")
    (farm / "conftest.py").write_text(textwrap.dedent(CONFTEST), encoding="utf-8")
    (farm / "test_it.py").write_text(textwrap.dedent(SUITE), encoding="utf-8")
    return farm


def run(farm: Path, scheduler: str) -> tuple[float, int]:
    """One run: seconds from the first test's begin to the last one's end, and flashes."""
    (farm / "flashes").unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", f"-n{BOARDS}"]
    command += ["--edgehil-lab=lab.yaml", "--edgehil-report=report", "--edgehil-plots=off"]
    command += [] if scheduler == "affine" else [f"--dist={scheduler}"]
    done = subprocess.run(command, cwd=farm, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stdout + done.stderr)
    tests = _tests(farm)
    took_s = max(one["started_at"] + one["duration_s"] for one in tests) - min(one["started_at"] for one in tests)
    return took_s, len((farm / "flashes").read_text(encoding="utf-8"))


def _tests(farm: Path) -> list[dict[str, float]]:
    found: list[dict[str, float]] = json.loads((farm / "report" / "results.json").read_text(encoding="utf-8"))["tests"]
    return found


def main() -> int:
    """Measures."""
    arguments = bench.parser(__doc__).parse_args()
    rounds = 1 if arguments.quick else 5
    os.environ.pop("PYTEST_ADDOPTS", None)
    flashes: dict[str, list[int]] = {}
    with bench.workplace() as directory:
        for at in range(COMBOS):
            replay_artifact(directory / "artifacts", name=f"m{at}")
        farms = {name: prepare(directory, directory / "artifacts", name) for name in ("affine", *PEERS)}

        def timed(name: str) -> float:
            took_s, count = run(farms[name], name)
            flashes.setdefault(name, []).append(count)
            return took_s

        for name in farms:
            timed(name)  # the boards boot for the first time, and get the bundles
        flashes.clear()
        began = time.monotonic()
        found = bench.in_random_order({name: lambda name=name: timed(name) for name in farms}, rounds=rounds)
        took_s = time.monotonic() - began
    table = [f"{BOARDS} virtual boards, {COMBOS * EACH} tests, {COMBOS} combos, {FLASH_S} s added to a flash", ""]
    table.append(f"{'':12}{'seconds':>24}{'flashes':>10}{'of the peer':>28}")
    for name, values in found.items():
        share = "" if name == "affine" else str(bench.ratios(found["affine"], values))
        table.append(f"{name:12}{bench.interval(values)!s:>24}{statistics.median(flashes[name]):>10g}{share:>28}")
    table += ["", f"load average {os.getloadavg()[0]:.1f}; {rounds} rounds, {took_s:.0f} s"]
    best = min(PEERS, key=lambda name: statistics.median(found[name]))
    figure = bench.Figure(
        name="makespan of 54 tests on 4 virtual boards",
        value=statistics.median(found["affine"]),
        unit="s",
        peer=f"--dist={best}",
        peer_value=statistics.median(found[best]),
        ratio=bench.ratios(found["affine"], found[best]).median,
        also={"flashes": {name: statistics.median(counts) for name, counts in flashes.items()}},
    )
    return bench.publish(arguments, figure, table)


if __name__ == "__main__":
    raise SystemExit(main())
