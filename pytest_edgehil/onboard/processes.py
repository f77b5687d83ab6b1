"""What the kernel says of one process. Always the real ``/proc``: a virtual board's processes are real ones.

The mark VmHWM is set back by writing 5 to ``clear_refs`` (proc(5), CONFIG_PROC_PAGE_MONITOR). ``memory.peak`` needs
cgroup v2 with the memory controller, which a Pi's firmware switches off unless told otherwise (`cgroup_enable=memory`).

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


def reset_peak(pid: int | str = "self") -> bool:
    """Set VmHWM of a process back to what it holds now; False where the kernel does not."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    except OSError:
        return False
    status = status_bytes(pid)
    return status.get("VmHWM", 0) <= status.get("VmRSS", 0) + 2**20  # some kernels take it and do nothing


def cgroup_peak_bytes(pid: int, *, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """``memory.peak`` of a process's control group, if the process is alone in it; else None."""
    try:
        lines = (proc / str(pid) / "cgroup").read_text().splitlines()
        path = next(line.removeprefix("0::") for line in lines if line.startswith("0::"))
        group = cgroups / path.lstrip("/")
        if path == "/" or (group / "cgroup.procs").read_text().split() != [str(pid)]:
            return None
        return int((group / "memory.peak").read_text())
    except (OSError, ValueError, StopIteration):
        return None


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
