"""What a board is: told once, in the hello, but for what is slow to find out, unless it is known already.

Which runtimes a board has is found out by importing them, which takes seconds on a Pi. That is done when somebody asks,
not in the hello: whoever boots a firmware to see whether it comes up does not wait for it. What has been found is
remembered per boot, together with everything that could change it: the program, the interpreter, and the directories
that packages are installed in.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from . import firmware, floor, sensors
from .durable import write_atomically
from .frames import Message
from .home import Home, sysroot
from .model_process import interpreter
from .slots import Slots

PROBE_TIMEOUT_S = 120.0
HAILO_TIMEOUT_S = 15.0
EEPROM_TIMEOUT_S = 15.0
_ARCHITECTURES = {"HAILO8": "hailo8", "HAILO8L": "hailo8l", "HAILO10H": "hailo10h"}


def platform_facts(home: Home, program: Path, slots: Slots) -> Message:
    """Everything that the hello says of the board."""
    state = slots.chooser.state()
    running = firmware.identity(home, state.running, running=True)
    room = os.statvfs(home.root)
    known = _remembered(home, program) or {}
    return {
        "serial": sensors.serial(),
        "timing": sensors.timing(),
        "imitated": sysroot() != Path("/"),
        "hardware_model": sensors.hardware_model(),
        "machine": os.uname().machine,
        "kernel": os.uname().release,
        "page_size_bytes": os.sysconf("SC_PAGE_SIZE"),
        "boot_id": sensors.boot_id(),
        "python": known.get("python"),
        "runtimes": known.get("runtimes"),
        "firmware": None if running is None else f"{running['name']} {running['version']}",
        "firmware_digest": None if running is None else running["digest"],
        "partition": state.running,
        "tryboot": state.on_trial,
        "accelerator": known["accelerator"] if known else _accelerator(),
        "bootloader": known["bootloader"] if known else bootloader(),
        "firmware_floor": floor.floor(home),
        "clock_cost_ns": sensors.clock_cost_ns(),
        "disk_free_bytes": room.f_bavail * room.f_frsize,
        "memory_bytes": sensors.memory_bytes(),
        "temperature_c": sensors.temperature_c(),
        "time_s": time.time(),
    }


def importable(home: Home, program: Path, platform: Message) -> Message:
    """What the board's Python can import.

    Args:
        home: our directory.
        program: path of the zipapp.
        platform: what the hello says of accelerator and bootloader; remembered along with it.

    Returns:
        ``python``, its version, and ``runtimes``, name → version.
    """
    found = _remembered(home, program)
    if found is None:
        found = _probe(interpreter(), program)
        places = {place: _stamp(Path(place)) for place in found.pop("places")}
        found |= {"accelerator": platform["accelerator"], "bootloader": platform["bootloader"]}
        known = {"key": _key(program), "places": places, "found": found}
        write_atomically(home.probe, json.dumps(known).encode())
    return {"python": found["python"], "runtimes": found["runtimes"]}


def _remembered(home: Home, program: Path) -> Message | None:
    """What was found since the board booted, if nothing has changed that could change it."""
    key = _key(program)
    try:
        known = json.loads(home.probe.read_bytes())
        unchanged = known["key"] == key and known["places"] == {place: _stamp(Path(place)) for place in known["places"]}
        return dict(known["found"]) if unchanged and key["boot"] is not None else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _key(program: Path) -> Message:
    return {
        "boot": sensors.boot_id(),
        "program": program.name,
        "python": _stamp(Path(interpreter())),
        "path": os.environ.get("PATH"),
    }


def _probe(python: str, program: Path) -> Message:
    """Ask the board's own Python, in a process of its own: a broken runtime may take it down.

    Then there is no runtime, which the host tells apart from a board that does not answer.
    """
    why: object
    try:
        done = subprocess.run(
            [python, "-E", str(program), "probe"],
            capture_output=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        sys.stderr.buffer.write(done.stderr)
        answer = json.loads(done.stdout)
        return {"python": str(answer["python"]), "runtimes": dict(answer["runtimes"]), "places": list(answer["places"])}
    except (OSError, ValueError, KeyError, TypeError) as exc:
        why = exc
    except subprocess.TimeoutExpired:
        why = f"no answer within {PROBE_TIMEOUT_S:g} s"
    print(f"onboard: {python} cannot say which runtimes it has: {why}", file=sys.stderr, flush=True)
    return {"python": platform.python_version(), "runtimes": {"replay": "1"}, "places": []}


def _accelerator() -> str | None:
    program = shutil.which("hailortcli")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "fw-control", "identify"],
            capture_output=True,
            text=True,
            timeout=HAILO_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"^Device Architecture:\s*(\S+)", done.stdout, re.MULTILINE)
    return None if match is None else _ARCHITECTURES.get(match[1], match[1].lower())


def bootloader() -> str | None:
    """Date of the EEPROM's bootloader, UTC, from ``rpi-eeprom-update``, such as ``2025-09-22``.

    ::

        BOOTLOADER: up to date
           CURRENT: Mon 22 Sep 14:53:59 UTC 2025 (1758552839)

    Its exit status is 1 where an update is available, so it says nothing. The date before the seconds is in the
    board's language, the seconds are not.
    """
    program = shutil.which("rpi-eeprom-update")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program],
            capture_output=True,
            text=True,
            timeout=EEPROM_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"^\s*CURRENT:.*\((\d{1,11})\)\s*$", done.stdout, re.MULTILINE)
    return None if match is None else time.strftime("%Y-%m-%d", time.gmtime(int(match[1])))


def _stamp(path: Path) -> list[object] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return [str(path), found.st_mtime_ns, found.st_size, found.st_ino]
