"""What the kernel says of one process. Always the real ``/proc``: a virtual board's processes are real ones.

VmHWM and not ``ru_maxrss``: the latter survives exec, so a child would report its parent's peak.
"""

from __future__ import annotations

from pathlib import Path


def status_bytes(pid: int | str = "self") -> dict[str, int]:
    """VmRSS, VmHWM and VmSwap of a process in bytes; missing ones are left out, as is a process that is gone."""
    values: dict[str, int] = {}
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return values
    for line in lines:
        name, _, rest = line.partition(":")
        if name in {"VmRSS", "VmHWM", "VmSwap"}:
            values[name] = int(rest.split()[0]) * 1024
    return values


def pss_bytes(pid: int) -> int | None:
    """Proportional set size of a process; None when it is gone or the kernel does not tell."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    for line in lines:
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return None
