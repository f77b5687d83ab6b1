"""Is a board fit to be handed out? What is looked at, what is too much, and when a broken board is looked at again.

Whoever has got a lease looks at the board before it is given to a test: one round trip to the on-board program, whose
hello says everything that is needed here. A board that does not pass is quarantined and another one is taken. Here is
the decision alone; `handout` carries it out, and the store of leases keeps what came of it.

Quarantine has two kinds. After a *board error* or a failed check it is automatic: the board is checked again after a
while, by whoever wants it next, and handed out when it passes; each further failure doubles that while. After so many
quarantines in a row nobody checks it any more, since a board that passes its check and breaks tests all the same
wastes everybody's time. A quarantine by a *person* is ended by a person.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pytest_edgehil.model.board import Board, Timing
from pytest_edgehil.model.quantity import format_duration, format_size

FORGOTTEN_S = 24 * 3600.0
"""A quarantine that is older than this does not count any more when the next one comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthRules:
    """The section ``health`` of a lab file.

    Args:
        check: is a board looked at before it is handed out?
        fresh_s: a check that was passed counts for so long, for whoever gets the board next.
        min_disk_bytes: so much room there must be on the board.
        max_temperature_c: no hotter than this.
        max_clock_offset_s: no further from this host's clock than this.
        runtimes: what its Python must be able to import.
        recheck_s: an automatically quarantined board is looked at again after so long; twice that after the next
            failure, and so on.
        longest_recheck_s: but never later than this.
        give_up: after so many failures in a row a person has to restore the board; 0: at once.
    """

    check: bool = True
    fresh_s: float = 10.0
    min_disk_bytes: int = 64 * 2**20
    max_temperature_c: float = 80.0
    max_clock_offset_s: float = 300.0
    runtimes: tuple[str, ...] = ()
    recheck_s: float = 60.0
    longest_recheck_s: float = 3600.0
    give_up: int = 6

    def recheck_after_s(self, failures: int) -> float | None:
        """How long until a board is looked at again after so many failures in a row; None: a person has to.

        >>> [HealthRules().recheck_after_s(failures) for failures in (1, 2, 3, 6, 7)]
        [60.0, 120.0, 240.0, 1920.0, None]
        """
        if failures > self.give_up:
            return None
        return float(min(self.longest_recheck_s, self.recheck_s * 2 ** (failures - 1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """What a board says of itself. None: it does not tell.

    Args:
        serial: from its device tree; empty when there is none.
        runtimes: name → version, as really imported there.
        accelerator: kind of its HAT.
        disk_free_bytes: where our files are.
        temperature_c: of its SoC.
        clock_offset_s: its clock minus ours, the least that it can be given how long the answer took.
    """

    serial: str
    runtimes: Mapping[str, str]
    accelerator: str | None
    disk_free_bytes: int
    temperature_c: float | None
    clock_offset_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkup:
    """What came of a look at a board.

    Args:
        complaint: why it is not to be handed out; empty if it is.
        temperature_c, disk_free_bytes, clock_offset_s: see `Vitals`; None where it did not get that far.
    """

    complaint: str = ""
    temperature_c: float | None = None
    disk_free_bytes: int | None = None
    clock_offset_s: float | None = None

    @property
    def passed(self) -> bool:
        """Is the board fit to be handed out?"""
        return not self.complaint


@dataclass(frozen=True, slots=True, kw_only=True)
class LastCheck:
    """The newest look at a board.

    Args:
        checkup: what came of it.
        at: seconds since the epoch, by the store's clock.
        age_s: how long ago that is, by the same clock.
    """

    checkup: Checkup
    at: float
    age_s: float


def judge(board: Board, vitals: Vitals, rules: HealthRules) -> Checkup:
    """Compare what a board says with what the lab says.

    Args:
        board: as the lab describes it.
        vitals: as the board describes itself.
        rules: of the lab.
    """
    return Checkup(
        complaint="; ".join(_complaints(board, vitals, rules)),
        temperature_c=vitals.temperature_c,
        disk_free_bytes=vitals.disk_free_bytes,
        clock_offset_s=vitals.clock_offset_s,
    )


def _complaints(board: Board, vitals: Vitals, rules: HealthRules) -> list[str]:
    found = []
    expected = board.serial if board.serial is not None else board.virtual.serial if board.virtual is not None else None
    if expected is not None and vitals.serial != expected:
        found.append(
            f"another board answers: its serial number is {vitals.serial or 'missing'}, the lab says {expected}"
        )
    if board.accelerator is not None and vitals.accelerator != board.accelerator.kind:
        found.append(
            f"its accelerator is {vitals.accelerator or 'not there'}, the lab says {board.accelerator.kind}; "
            "see 'hailortcli fw-control identify' on it"
        )
    missing = [name for name in rules.runtimes if name not in vitals.runtimes]
    if missing:
        has = ", ".join(sorted(vitals.runtimes)) or "none"
        found.append(f"it lacks the runtime {', '.join(missing)} (it has {has}); install it for the board's python3")
    if vitals.disk_free_bytes < rules.min_disk_bytes:
        found.append(
            f"only {format_size(vitals.disk_free_bytes)} are free on its disk, expected "
            f"{format_size(rules.min_disk_bytes)}; run 'edgehil board gc {board.id}'"
        )
    if vitals.temperature_c is not None and vitals.temperature_c > rules.max_temperature_c:
        found.append(f"it is at {vitals.temperature_c:.1f} °C, expected {rules.max_temperature_c:g} °C at most")
    # counted instructions go at the pace of the host that emulates them, so their clock falls behind: no fault
    offset_s = vitals.clock_offset_s if board.timing is Timing.WALL else None
    if offset_s is not None and abs(offset_s) > rules.max_clock_offset_s:
        found.append(
            f"its clock is {format_duration(abs(offset_s) * 1e9)} {'ahead of' if offset_s > 0 else 'behind'} ours, "
            f"expected {format_duration(rules.max_clock_offset_s * 1e9)} at most; see 'timedatectl' on it"
        )
    return found


def clock_offset_s(board_time_s: float, *, asked_at_s: float, answered_at_s: float) -> float:
    """The least by which two clocks can differ, when one was read somewhere between two readings of the other.

    >>> clock_offset_s(105.0, asked_at_s=100.0, answered_at_s=102.0)
    3.0
    >>> clock_offset_s(101.0, asked_at_s=100.0, answered_at_s=102.0)
    0.0
    """
    if board_time_s > answered_at_s:
        return board_time_s - answered_at_s
    return min(0.0, board_time_s - asked_at_s)
