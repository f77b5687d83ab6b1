"""Does a combo fit this very board? Asked before a byte is sent; every clash is told, not the first.

The board says of itself what it is (its machine, its kernel's pages, its runtimes, the firmware that runs, the floor
below which it takes none, the date of its EEPROM's bootloader), the lab says the rest (class, accelerator, slots). The
board's own program judges by the same rules when it is asked to write or to switch.
"""

from __future__ import annotations

from pytest_edgehil.artifacts.compat import clashes, firmware_clashes, missing_runtimes, needs_runtime
from pytest_edgehil.board.answers import Hello, PlatformFacts
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.errors import RuntimeMissing, WrongTarget
from pytest_edgehil.model.artifact import Combo
from pytest_edgehil.model.board import Board


def check_fit(combo: Combo, session: BoardSession) -> None:
    """Refuse a combo that does not fit the board.

    Raises:
        WrongTarget: with every clash.
        RuntimeMissing: only a runtime is missing, which is the board's fault and not the combo's.
    """
    client, board = session.client, session.board
    found = clashes_here(combo, board, client.hello)
    missing = missing_runtimes(combo, client.platform.runtimes) if needs_runtime(combo) else ()
    if found:
        raise WrongTarget(f"{combo.label} does not fit board {board.id} ({board.cls}): {'; '.join([*found, *missing])}")
    if missing:
        raise RuntimeMissing(f"{board.id}: {'; '.join(missing)}")


def clashes_here(combo: Combo, board: Board, platform: Hello) -> tuple[str, ...]:
    """Everything but a missing runtime that keeps a combo off a board which has said what it is."""
    provided: dict[str, str] = {}
    if combo.firmware is None and platform.firmware is not None:
        name, _, version = platform.firmware.rpartition(" ")
        provided = {"firmware.name": name, "firmware.version": version}
    if platform.bootloader is not None:
        provided["board.bootloader"] = platform.bootloader
    found = clashes(combo, board, machine=platform.machine, page_size_bytes=platform.page_size_bytes, provided=provided)
    # what runs already is not written again
    already = combo.firmware is not None and combo.firmware.digest == platform.firmware_digest
    if already:
        return found
    return (*found, *firmware_clashes(combo, floor=platform.firmware_floor, slots=board.slots))


def told_of(board: Board, platform: PlatformFacts) -> str:
    """What a combo is held against, for people, one line."""
    runtimes = ", ".join(f"{name} {version}" for name, version in sorted(platform.runtimes.items()))
    return (
        f"{board.cls}, {platform.machine}, pages of {platform.page_size_bytes} bytes, "
        f"{'no accelerator' if board.accelerator is None else board.accelerator.kind}, {runtimes}, "
        f"firmware {platform.firmware or 'unknown'}, firmware floor {platform.firmware_floor or 'none'}, "
        f"bootloader {platform.bootloader or 'unknown'}"
    )
