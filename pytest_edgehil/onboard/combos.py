"""Which combo is active: one symbolic link, switched in one step, with a journal for what one step cannot do.

Rules: a board is always on one whole combo, the old or the new one. Everything a combo needs is unpacked and
verified before the switch. A combo with a new firmware has two commits (the bootloader's and the link); the journal
says so before the first, and whoever starts next finishes or drops it, by what really is the default partition.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

from . import fits, floor
from .durable import fsync_directory, switch_link, write_atomically
from .frames import Message
from .home import Home, hexadecimal, remove
from .problem import Problem, storage
from .slots import Slots
from .unpack import install, read_manifest

TRACKS = ("firmware", "model", "prompt")


def combo_id(digests: Mapping[str, str]) -> str:
    """Name of a combo: the SHA-256 of its digests."""
    text = json.dumps(dict(sorted(digests.items())), separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def activate(
    home: Home,
    digests: object,
    *,
    slots: Slots | None = None,
    partition: int | None = None,
    board: fits.Here | None = None,
) -> Message:
    """Switch to a combo.

    Args:
        digests: track → digest; an object from the wire.
        slots: of this board; needed with a new firmware.
        partition: with a new firmware: the slot it has proven itself on.
        board: what the combo must fit; None: nobody knows.

    Raises:
        Problem: ``wrong-target``, ``bad-request``, ``not-in-store``, ``corrupt-artifact``, ``disk-full``; the old combo
            is active.
    """
    combo = _checked(digests)
    name = combo_id(combo)
    with home.locked():
        _build(home, combo, name, board)
        if partition is not None:
            if slots is None or slots.chooser.state().running != partition:
                raise Problem("bad-request", f"partition {partition} is not the one that is running")
            if "firmware" in combo:
                floor.check(home, read_manifest(home.tree(combo["firmware"])))
                floor.check_named(read_manifest(home.tree(combo["firmware"])))
            intent = {"combo": name, "partition": partition}
            write_atomically(home.journal, json.dumps(intent).encode())
            slots.chooser.commit(partition)
            _raise_floor(home, combo)
        switch_link(home.current, f"combos/{name}")
        _close_journal(home)
    return {"combo": combo}


def recover(home: Home, slots: Slots) -> str | None:
    """Finish or drop an activation that was interrupted; says what was done, None when there was nothing to do.

    A bootloader that counts the boots of its default is told that this one came up.
    """
    with home.locked():
        state = slots.chooser.state()
        if state.wears and state.running is not None:
            slots.chooser.commit(state.running)
        try:
            intent = json.loads(home.journal.read_bytes())
            name, partition = str(intent["combo"]), int(intent["partition"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as exc:
            # the journal is written atomically, so this is no torn write: somebody else wrote there
            raise Problem("storage", f"the journal {home.journal} cannot be read: {exc}") from exc
        finish = state.default == partition and (home.combos / name).is_dir()
        if finish:
            _raise_floor(home, _linked(home.combos / name) or {})
            switch_link(home.current, f"combos/{name}")
        _close_journal(home)
    return f"{'finished' if finish else 'dropped'} an interrupted activation of combo {name[:12]}"


def revert(home: Home, *, reason: str = "somebody asked for it") -> Message:
    """Switch back to the last known good combo, or from there to the one before it, and remember why.

    A combo with another firmware is not switched to: model and prompt would run on a firmware that they were never
    tried with. The firmware has to be tried and committed as on the way there.

    Raises:
        Problem: ``no-combo``: no combo has ever proven itself on this board, or it needs another firmware.
    """
    with home.locked():
        known, active = _linked(home.last_known_good), _linked(home.current) or {}
        if known is not None and known == active:
            known = _linked(home.previous_good)
        if known is None:
            raise Problem("no-combo", "the board knows no other good combo to go back to")
        if known.get("firmware", active.get("firmware")) != active.get("firmware", known.get("firmware")):
            raise Problem(
                "no-combo",
                "the last-known-good combo has another firmware, which would have to be tried again: deploy that combo",
            )
        if known != active:
            _note_setback(home, active, reason)
            switch_link(home.current, f"combos/{combo_id(known)}")
    return {"combo": known}


def fall_back(home: Home, reason: str) -> str:
    """The active combo has failed on this board: switch back if that is possible; says what was done."""
    active = current(home)
    known = last_known_good(home)
    if known == active:
        return "it is the last-known-good combo, so the board stays on it"
    try:
        revert(home, reason=reason)
    except Problem as problem:
        with home.locked():
            _note_setback(home, active, reason)
        return f"the board stays on it: {problem.message}"
    return "the board is back on its last-known-good combo"


def setback(home: Home) -> Message | None:
    """The last combo that failed on this board, why and when; None if the last one did not."""
    try:
        found = json.loads(home.setback.read_bytes())
        return {"combo": dict(found["combo"]), "reason": str(found["reason"]), "at": float(found["at"])}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as exc:
        raise Problem("storage", f"{home.setback} cannot be read: {exc}") from exc


def _note_setback(home: Home, combo: Mapping[str, str], reason: str) -> None:
    text = json.dumps({"combo": dict(combo), "reason": reason[:1000], "at": time.time()}, sort_keys=True)
    write_atomically(home.setback, text.encode())


def mark_good(home: Home) -> None:
    """The active combo's model has loaded: remember it as the last known good one."""
    with home.locked():
        try:
            target = home.current.readlink()
            known = home.last_known_good.readlink() if home.last_known_good.is_symlink() else None
        except OSError:
            return  # nothing is active: a model was loaded for comparison only
        if known != target:
            if known is not None:
                switch_link(home.previous_good, str(known))
            switch_link(home.last_known_good, str(target))
        with storage(str(home.setback)):
            remove(home.setback)


def current(home: Home) -> dict[str, str]:
    """Track → digest of the active combo; empty on a fresh board."""
    return _linked(home.current) or {}


def last_known_good(home: Home) -> dict[str, str] | None:
    """Track → digest of the last combo that proved itself."""
    return _linked(home.last_known_good)


def read(combo: Path) -> dict[str, str] | None:
    """Track → digest of a directory below ``combos``; None if it is not there."""
    return _linked(combo)


def intended(home: Home) -> dict[str, str]:
    """What an interrupted activation was about; empty if there is none."""
    try:
        name = str(json.loads(home.journal.read_bytes())["combo"])
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as exc:
        raise Problem("storage", f"the journal {home.journal} cannot be read: {exc}") from exc
    return _linked(home.combos / name) or {}


def _raise_floor(home: Home, combo: Mapping[str, str]) -> None:
    if "firmware" in combo:
        floor.raise_to(home, read_manifest(home.tree(combo["firmware"])))


def _close_journal(home: Home) -> None:
    with storage(str(home.journal)):
        remove(home.journal)
        fsync_directory(home.root)


def _checked(digests: object) -> dict[str, str]:
    if not isinstance(digests, dict) or not digests or not set(digests) <= set(TRACKS):
        raise Problem("bad-request", f"a combo maps {', '.join(TRACKS)} to digests, got {str(digests)[:120]}")
    for digest in digests.values():
        hexadecimal(digest)
    return dict(digests)


def _build(home: Home, combo: Mapping[str, str], name: str, board: fits.Here | None) -> None:
    manifests = {track: install(home, digest) for track, digest in combo.items()}
    for track, manifest in manifests.items():
        if manifest.track != track:
            raise Problem("wrong-target", f"{manifest.name} is of track {manifest.track} and cannot be the {track}")
    if board is not None:
        fits.check(manifests, board)
    directory = home.combos / name
    if directory.is_dir():
        return
    beside = home.combos / f".{name}.{os.getpid()}.tmp"
    with storage(str(directory)):
        try:
            remove(beside)
            beside.mkdir()
            write_atomically(beside / "combo.json", json.dumps(combo, sort_keys=True).encode())
            for track, digest in combo.items():
                (beside / track).symlink_to(f"../../trees/{hexadecimal(digest)}")
            fsync_directory(beside)
            beside.rename(directory)
            fsync_directory(home.combos)
        except BaseException:
            remove(beside)
            raise


def _linked(link: Path) -> dict[str, str] | None:
    try:
        return _checked(json.loads((link / "combo.json").read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as exc:
        raise Problem("storage", f"{link} does not lead to a combo: {exc}") from exc
