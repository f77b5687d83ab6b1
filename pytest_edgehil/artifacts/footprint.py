"""How much memory a model takes on this host: loaded and run once in a fresh process.

Run as ``python -m pytest_edgehil.artifacts.footprint MODEL``; the feeds come as an ``.npz`` on standard input. A hint
for the report of a build, like its latency: a board has other libraries and other pages.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_edgehil.errors import ModelError

_LONGEST_S = 300.0


def peak_bytes(model: bytes, feeds: Mapping[str, npt.NDArray[Any]]) -> int | None:
    """Peak resident set of the process less what it held before the model was loaded; None where the kernel hides it.

    Raises:
        ModelError: the process failed.
    """
    packed = io.BytesIO()
    np.savez(packed, **{f"feed:{name}": array for name, array in feeds.items()}, model=np.frombuffer(model, np.uint8))  # type: ignore[arg-type]
    done = subprocess.run(
        [sys.executable, "-m", "pytest_edgehil.artifacts.footprint"],
        input=packed.getvalue(),
        capture_output=True,
        timeout=_LONGEST_S,
        check=False,
    )
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise ModelError(f"the model cannot be run in a process of its own: {said[-1] if said else 'it died'}")
    found = json.loads(done.stdout)
    return None if found is None else int(found)


def _status_bytes(field: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def _main() -> None:
    import onnxruntime

    given = dict(np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False))
    model = given.pop("model").tobytes()
    before = _status_bytes("VmRSS")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    session.run(None, {name.removeprefix("feed:"): array for name, array in given.items()})
    peak = _status_bytes("VmHWM")
    print(json.dumps(None if peak is None or before is None else peak - before))


if __name__ == "__main__":
    _main()
