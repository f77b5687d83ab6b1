"""The faults a virtual board knows, and the rules they follow.

Each really happens: a cut link is a TCP reset, a killed process is dead, a full disk refuses to write. None is
only reported.

=============== ====== ==========================================================================================
kind            level  what happens
=============== ====== ==========================================================================================
link-cut               every connection is reset; ``down_s`` (0) keeps new ones refused for so long
link-stall             the connections of the moment fall silent, both ways and without a reset; ``for_s`` (for
                       ever) lets them go on after so long
slow-link       level  both directions run at ``rate_bytes_per_s`` (20000) together over all connections
ssh-refused     level  new connections are refused; those that exist live on
power-cut              power goes as by `power-off`; ``off_s`` (for ever) brings it back after so long
disk-full       level  no file of the board grows beyond ``free_bytes`` (0): EFBIG for its processes (by
                       RLIMIT_FSIZE, as there is no file system of its own to fill), ENOSPC's text over SFTP
out-of-memory          the biggest process, of at least ``min_rss_bytes`` (24 MiB), is killed as the kernel's
                       OOM killer would; waits until there is one
panic                  kernel panic on the console, everything dead, connections silent, new ones refused;
                       ``reboot_s`` (never) reboots after so long, like the kernel's ``panic=``
stuck-boot      level  the next boot hangs before the kernel starts
overheat        level  the die heats by ``rate_c_per_s`` (100) up to ``limit_c`` (115); at 110 °C the kernel shuts
                       the board down as a Pi 5 does
=============== ====== ==========================================================================================

When: a fault with `after_s` waits so long after it was armed, then, with `after_bytes`, until so many bytes have
come in over the link *since then*; the byte with that number is the last to arrive. With neither it triggers at
once. One that finds nothing to hit waits for it: a cut or a stall for a connection, a panic for a kernel, a power
cut for power, an OOM kill for a process.

How often: a fault triggers once. A *level* then stays until it is cleared.

Power: faults belong to the world around the board, so they survive a power cycle: levels stay, armed ones stay
armed, what has triggered once is gone. Those of lab.yaml are armed at the first power-on after the supervisor
started, not at every one. The two things that power does end are a panic and a hang.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pytest_edgehil.errors import ConfigError
from pytest_edgehil.model.board import Fault

OPTIONS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "link-cut": {"down_s": 0.0},
        "link-stall": {"for_s": 0.0},
        "slow-link": {"rate_bytes_per_s": 20000.0},
        "ssh-refused": {},
        "power-cut": {"off_s": 0.0},
        "disk-full": {"free_bytes": 0.0},
        "out-of-memory": {"min_rss_bytes": 24.0 * 2**20},
        "panic": {"reboot_s": 0.0},
        "stuck-boot": {},
        "overheat": {"rate_c_per_s": 100.0, "limit_c": 115.0},
    }
)
"""Options of each kind with their defaults; 0 means "for ever", "never" or "not at all" as the table above says."""

KINDS = tuple(OPTIONS)
LEVELS = frozenset({"slow-link", "ssh-refused", "disk-full", "stuck-boot", "overheat"})


def check_fault(fault: Fault) -> Fault:
    """The fault as it is, if a virtual board can do it.

    Raises:
        ConfigError: unknown kind or option, or a value out of range.

    >>> check_fault(Fault(kind="panic")).kind
    'panic'
    """
    if fault.kind not in OPTIONS:
        raise ConfigError(f"fault '{fault.kind}' is unknown: expected one of {', '.join(KINDS)}")
    known = OPTIONS[fault.kind]
    for name, value in fault.options.items():
        if name not in known:
            expected = f"expected {', '.join(known)}" if known else "it has none"
            raise ConfigError(f"fault {fault.kind}: unknown option '{name}': {expected}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise ConfigError(f"fault {fault.kind}: option {name} is {value!r}: expected a number ≥ 0")
    if fault.options.get("rate_bytes_per_s") == 0:
        raise ConfigError("fault slow-link: rate_bytes_per_s is 0: expected more; use link-stall for a silent link")
    for name, limit in (("after_bytes", fault.after_bytes), ("after_s", fault.after_s)):
        if limit is not None and not 0 <= limit < float("inf"):
            raise ConfigError(f"fault {fault.kind}: {name} is {limit!r}: expected a number ≥ 0")
    return fault


def option(fault: Fault, name: str) -> float:
    """Value of an option of a fault, or its default.

    >>> option(Fault(kind="slow-link"), "rate_bytes_per_s")
    20000.0
    """
    return float(fault.options.get(name, OPTIONS[fault.kind][name]))
