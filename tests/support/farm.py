"""A small virtual farm for tests: a lab file, a few artifacts, and pytest runs on them in a process of their own."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.fft  # pytester forgets what is first imported within a test, and numpy's C modules are loaded once only
import pytest
from support.program import leave_program

from pytest_edgehil.artifacts.bundle import pack
from pytest_edgehil.artifacts.replay import TensorShape, Trace, build_replay
from pytest_edgehil.cli import main
from pytest_edgehil.model import Artifact, Budgets, Manifest, Provenance, Target, Track
from pytest_edgehil.virtual.blueprint import Layout

DIGITS = Path(__file__).parents[2] / "suites" / "models" / "digits"
MS = 1_000_000
NOTHING = "sha256:" + "0" * 64


def lab_text(*, name: str, boards: int, expiry: str = "60 s", **virtual: Any) -> str:
    """A lab of virtual boards ``b1`` …; odd ones are of class ``pi5-8gb-hat2``, even ones ``pi5-4gb``.

    Args:
        expiry: of leases. On a busy machine a heartbeat comes seconds late, and a test that is not about that must not
            lose its board by it.
    """
    # no board that a test has broken comes back while the test looks, however slow the machine
    lines = [f"lab: {name}", f"lease_expiry: {expiry}", "health: {recheck: 1 d, longest_recheck: 1 d}", "boards:"]
    for number in range(1, boards + 1):
        spec = {"serial": f"{number:016x}", "memory": "2 GiB", **virtual}
        lines += [
            f"  b{number}:",
            f"    class: {'pi5-8gb-hat2' if number % 2 else 'pi5-4gb'}",
            "    environment: virtual",
            "    steady_state: 0 s",  # a process: nothing on it throttles, so no test waits for that
            "    power: {backend: virtual}",
            "    slots: {backend: tryboot, partitions: [2, 3]}",
            f"    virtual: {json.dumps(spec)}",
        ]
    return "\n".join(lines) + "\n"


def onnx_artifact(
    out_dir: Path, *, name: str = "digits", board_classes: tuple[str, ...] = ("*",), ballast: Path | None = None
) -> Artifact:
    """The repository's fp32 digits model as an artifact; `ballast` is a file that no other artifact helps to send."""
    manifest = Manifest(
        schema=1,
        name=name,
        version="1.0.0",
        track=Track.MODEL,
        format="onnx",
        quantisation="fp32",
        target=Target(name="any", board_classes=board_classes, runtime="onnxruntime"),
        files=(),
        entry="model.onnx",
        provides={},
        depends={},
        budgets=Budgets(),
        provenance=Provenance(source=NOTHING, recipe=NOTHING),
    )
    more = {} if ballast is None else {"ballast.bin": ballast}
    return pack(manifest, {"model.onnx": DIGITS / "digits-fp32.onnx", **more}, out_dir)


def latencies(*, p95_ms: float, n: int = 400, seed: int = 1) -> tuple[int, ...]:
    """Latencies whose 95th percentile is about `p95_ms` (lognormal, 8 % spread)."""
    draws = np.random.default_rng(seed).normal(0.0, 0.08, n)
    return tuple(int(one) for one in p95_ms * MS * np.exp(draws - 0.08 * 1.645))


def replay_artifact(out_dir: Path, *, name: str, p95_ms: float = 8.0, **trace: Any) -> Artifact:
    """A recorded model with one input ``image`` and one output ``logits``."""
    fields: dict[str, Any] = {
        "latencies_ns": latencies(p95_ms=p95_ms),
        "load_ns": 50 * MS,
        "load_rss_bytes": 60 * 2**20,
        "peak_rss_bytes": 90 * 2**20,
        "rss_bytes": (80 * 2**20,),
        "temperature_c": (50.0,),
        "throttled": (0,),
        "arm_hz": (2_400_000_000,),
        "inputs": {"image": TensorShape(dtype="float32", shape=(1, 4))},
        "outputs": {"logits": np.eye(4).tolist()},
    }
    return build_replay(Trace(**{**fields, **trace}), name=name, version="1.0.0", out_dir=out_dir)


class Farm:
    """A lab and its artifacts in a directory; runs pytest on them."""

    def __init__(self, pytester: pytest.Pytester, state: Path) -> None:
        self.pytester = pytester
        self.state = state
        self.artifacts = pytester.path / "artifacts"
        self.lab = pytester.path / "lab.yaml"
        self.report = pytester.path / "report"

    def boards(self, count: int, *, expiry: str = "60 s", **virtual: Any) -> None:
        """Write the lab file; the boards have been used before."""
        self.lab.write_text(lab_text(name="farm", boards=count, expiry=expiry, **virtual))
        for number in range(1, count + 1):
            leave_program(Layout(root=self.state / f"labs/farm/boards/b{number}").home / ".edgehil")

    def arguments(self, *more: str) -> list[str]:
        """What every run on this farm is given."""
        return [
            f"--edgehil-lab={self.lab}",
            f"--edgehil-artifacts={self.artifacts}",
            f"--edgehil-report={self.report}",
            "--edgehil-wait=5 min",
            "--edgehil-plots=off",  # a second or two each time; tests of plots ask for them
            *more,
        ]

    def run(self, *more: str) -> pytest.RunResult:
        """pytest in a process of its own; it must never end in an internal error."""
        result = self.pytester.runpytest_subprocess(*self.arguments(*more))
        assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
        return result

    @property
    def results(self) -> dict[str, Any]:
        """``results.json`` of the last run."""
        return json.loads((self.report / "results.json").read_text())

    def board_states(self) -> dict[str, dict[str, Any]]:
        """What ``edgehil lab boards --json`` says, by board."""
        told = self.edgehil("lab", "boards", "--json", "--lab", str(self.lab))
        return {one["id"]: one for one in json.loads(told.stdout)["boards"]}

    def edgehil(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the command line, in this process: a new one would import for a second what is here already."""
        out, complaints = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.pytester.path)
            patch.setenv("EDGEHIL_STATE_DIR", str(self.state))
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(complaints):
                status = main(arguments)
        ended = subprocess.CompletedProcess(arguments, status, out.getvalue(), complaints.getvalue())
        if check:
            assert status == 0, f"edgehil {' '.join(arguments)}: {ended.stderr}"
        return ended
