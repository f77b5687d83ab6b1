"""Cuts the power at every line: an operation of the on-board program in a child process that dies at its n-th line.

A program for a process of its own (it forks, which a test process with threads must not):
``python cut_everywhere.py SCENARIO ROOT``, with EDGEHIL_SYSROOT set. For each n = 1, 2, … it copies the prepared
board ROOT, runs the scenario's operation on the copy until the n-th line inside the on-board program and ends the
process there with `os._exit`, as a power cut would (no `finally`, no buffers flushed). Then it starts as the program
does after a boot and prints one JSON line: what the board is on. It ends when the operation came to its end.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from pytest_edgehil.onboard import combos, fence, firmware, home, sink
from pytest_edgehil.onboard.slots import chosen
from pytest_edgehil.onboard.unpack import altered, read_manifest

SLOTS = chosen(None)

CUT = 99
UNPACKING = ("unpack.py", "problem.py")
"""Not cut line by line: what they do happens in a temporary directory only, and is many lines."""


def main() -> None:
    scenario, root = sys.argv[1], Path(sys.argv[2])
    os.fsync = lambda _descriptor: None  # what is cut off is this process and not the machine, and thousands are slow
    arguments = json.loads((root / "scenario.json").read_text())
    step, ended = 0, False
    while not ended:
        step += 1
        copy = root.with_name(f"{root.name}-{step}")
        shutil.copytree(root, copy, symlinks=True)
        os.environ["EDGEHIL_SYSROOT"] = str(copy)
        ended = in_child(lambda copy=copy, step=step: cut(step, SCENARIOS[scenario], copy, arguments)) != CUT
        status = in_child(lambda copy=copy: print(json.dumps(state(copy)), flush=True))
        if status != 0:
            print(json.dumps({"step": step, "failed": status}), flush=True)
        shutil.rmtree(copy)


def in_child(call: Any) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            call()
            os._exit(0)
        except BaseException as exc:  # noqa: BLE001 - the parent hears of it by the exit status
            print(f"{type(exc).__name__}: {exc}", file=sys.stderr, flush=True)
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def cut(step: int, operation: Any, copy: Path, arguments: dict[str, Any]) -> None:
    """Run the operation until its n-th line."""
    left = step

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal left
        name = frame.f_code.co_filename
        if "pytest_edgehil/onboard" not in name or name.endswith(UNPACKING):
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os._exit(CUT)
        return trace

    sys.settrace(trace)
    operation(home.Home(copy / "home/.edgehil"), arguments)
    sys.settrace(None)


def state(copy: Path) -> dict[str, Any]:
    """What the program finds when it starts after the next boot, and which firmware boots."""
    place = home.Home(copy / "home/.edgehil")
    place.prepare()
    default = SLOTS.chooser.state().default
    combos.recover(place, SLOTS)
    again = combos.recover(place, SLOTS)
    store = {path.name: path.stat().st_size for path in place.store.iterdir() if path.suffix != ".partial"}
    trees = {path.name: altered(read_manifest(path), path) for path in place.trees.iterdir()}
    return {
        "combo": combos.current(place),
        "default": default,
        "recovered_twice": again is not None,
        "store": store,
        "broken_trees": [name for name, wrong in trees.items() if wrong],
        "leftovers": [path.name for path in place.root.rglob(".*.tmp")],
        "fence": fence.Fence(place).read()[0],
        "identity": firmware.identity(place, 3),
    }


def activate(place: home.Home, arguments: dict[str, Any]) -> None:
    combos.activate(place, arguments["combo"], slots=SLOTS, partition=arguments.get("partition"))


def receive(place: home.Home, arguments: dict[str, Any]) -> None:
    ours, theirs = os.pipe()
    data = Path(arguments["file"]).read_bytes()
    # smaller than a pipe
    frames = struct.pack(">BII", 0, len(data), len(data)) + data + struct.pack(">BII", 2, 0, 0)
    os.write(theirs, b'{"what": "bytes", "from": 0}\n' + frames)
    os.close(theirs)
    sink.sink(
        place, digest=arguments["digest"], size=len(data), token=7, holder="me", source=ours, tell=lambda _told: None
    )


def write_firmware(place: home.Home, arguments: dict[str, Any]) -> None:
    firmware.write(place, SLOTS, arguments["digest"], 3)


SCENARIOS = {"activate": activate, "receive": receive, "firmware": write_firmware}

if __name__ == "__main__":
    main()
