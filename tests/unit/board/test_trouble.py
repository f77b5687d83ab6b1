"""What the board complains of, as an error of ours: what it is, where, and what to do about it."""

from __future__ import annotations

import pytest

from pytest_edgehil.board.trouble import error_of
from pytest_edgehil.errors import DiskFull, EdgehilError, FlashError, ProtocolError

FULL = "no space left on the board while writing /data/x"
READ_ONLY = "cannot write /data/x: Read-only file system (/data/x)"
MOUNT_ANEW = (
    "; a file system turns read-only after an error of its medium: see the console log, and have it mounted anew with "
    "'edgehil lab power pi5-01 cycle'"
)
BROKEN = "cannot write /data/x: Input/output error (/data/x)"


@pytest.mark.parametrize(
    ("code", "said", "kind", "next_step"),
    [
        ("disk-full", FULL, DiskFull, "; 'edgehil board gc pi5-01' removes what the board has not used for longest"),
        ("storage", READ_ONLY, FlashError, MOUNT_ANEW),
        ("storage", BROKEN, FlashError, ""),
    ],
)
def test_a_complaint_about_the_disk_ends_with_what_to_do(
    code: str, said: str, kind: type[EdgehilError], next_step: str
) -> None:
    error = error_of(code, said, board_id="pi5-01")
    assert type(error) is kind
    assert str(error) == f"pi5-01: {said}{next_step}"


def test_an_unknown_complaint_is_told_as_it_came() -> None:
    error = error_of("strange", "what", board_id="pi5-01")
    assert type(error) is ProtocolError
    assert str(error) == "pi5-01: unknown complaint 'strange': what"
