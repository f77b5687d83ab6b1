"""What the on-board program complains of, as our errors: one table.

The distinction that matters: is it the board's fault (`BoardError`: quarantine, try another one), the model's
(`ModelError`), or the artifact's (`UserError`)?
"""

from __future__ import annotations

from pytest_edgehil.errors import (
    BoardError,
    CorruptArtifact,
    DiskFull,
    EdgehilError,
    EvidenceError,
    Fenced,
    FlashError,
    ModelError,
    OutOfMemory,
    ProtocolError,
    RuntimeMissing,
    UnsafeArchive,
    WrongTarget,
)

ERRORS: dict[str, type[EdgehilError]] = {
    # the lease
    "fenced": Fenced,
    "occupied": BoardError,
    # flashing
    "disk-full": DiskFull,
    "storage": FlashError,
    "truncated": FlashError,
    "digest-mismatch": FlashError,
    "not-in-store": FlashError,
    "no-combo": FlashError,
    "corrupt-program": FlashError,
    "reboot-failed": FlashError,
    "slots-failed": FlashError,
    # the artifact
    "corrupt-artifact": CorruptArtifact,
    "unsafe-archive": UnsafeArchive,
    "wrong-target": WrongTarget,
    # the model
    "model-failed": ModelError,
    "child-crashed": ModelError,
    "child-killed": OutOfMemory,
    "too-large": ModelError,
    "runtime-missing": RuntimeMissing,
    # evidence
    "not-attestable": EvidenceError,
    "no-identity": BoardError,
    # the conversation
    "bad-frame": ProtocolError,
    "bad-request": ProtocolError,
    "unknown-op": ProtocolError,
    "busy": ProtocolError,
    "no-model": ProtocolError,
    "no-job": ProtocolError,
    "silence": ProtocolError,
    "internal": ProtocolError,
}


def error_of(code: object, message: object, *, board_id: str) -> EdgehilError:
    """The error for a code of the on-board program; an unknown code is a `ProtocolError`."""
    chosen = ERRORS.get(str(code))
    text = " ".join(str(message).split())[:2000]
    if chosen is None:
        return ProtocolError(f"{board_id}: unknown complaint {str(code)[:40]!r}: {text}")
    return chosen(f"{board_id}: {text}{next_step(chosen, text, board_id=board_id)}")


def next_step(kind: type[EdgehilError], text: str, *, board_id: str) -> str:
    """What to do about the board's disk, as the end of a message; empty for everything else."""
    if kind is DiskFull:
        return f"; 'edgehil board gc {board_id}' removes what the board has not used for longest"
    if "Read-only file system" in text:
        return (
            "; a file system turns read-only after an error of its medium: see the console log, and have it mounted "
            f"anew with 'edgehil lab power {board_id} cycle'"
        )
    return ""
