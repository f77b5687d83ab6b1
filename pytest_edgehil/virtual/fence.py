"""The supervisor's memory of the highest fencing token: who may start a virtual board, and switch its power.

What a relay cannot do, the power of a virtual board can: it is told under which lease it is to switch, and refuses a
lower token than it has seen. Beside the board's disk, since it must hold while the board is off; the board's own
memory (``onboard/fence.py``) is on that disk. Requests without a token are an operator's or a fault's, and obeyed.
"""

from __future__ import annotations

import fcntl
import json
import os
from typing import Any

from pytest_edgehil.errors import Fenced
from pytest_edgehil.model.fencing import Bearer
from pytest_edgehil.virtual.blueprint import Layout, write_private


def enter(layout: Layout, bearer: Bearer, *, board_id: str) -> None:
    """Come in with a token; the highest one so far becomes the limit for everybody else.

    Raises:
        Fenced: a higher token has been seen.
    """
    descriptor = os.open(layout.fence.with_name("fence.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        seen = _seen(layout)
        if seen is not None and bearer.token < seen.token:
            raise Fenced(
                f"{board_id}: token {bearer.token} is refused: the board's power has seen token {seen.token} of "
                f"{seen.holder}"
            )
        if bearer != seen:
            value: dict[str, Any] = {"token": bearer.token, "holder": bearer.holder}
            write_private(layout.fence, json.dumps(value).encode())
    finally:
        os.close(descriptor)


def _seen(layout: Layout) -> Bearer | None:
    try:
        return Bearer(**json.loads(layout.fence.read_bytes()))
    except FileNotFoundError:
        return None
