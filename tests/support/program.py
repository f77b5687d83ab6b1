"""What the first session on a board leaves there: the on-board program and its bytecode.

Compiling it is half of what a session's start costs, and every test has a board of its own. So boards of tests have
been used before, unless a test is about a new one: those of ``demo/``, of the documentation and of the contract suites
of virtual boards are new.
"""

from __future__ import annotations

import functools
from pathlib import Path

from pytest_edgehil.board.bytecode import onboard_bytecode
from pytest_edgehil.board.zipapp import onboard_zipapp


@functools.cache
def _files() -> dict[str, bytes]:
    """Path below the directory of ours on a board → content."""
    data, digest = onboard_zipapp()
    compiled = onboard_bytecode()
    assert compiled is not None
    return {f"bin/onboard-{digest}.pyz": data, f"compiled/{compiled.name}": compiled.data}


def leave_program(edgehil: Path) -> None:
    """Put it there.

    Args:
        edgehil: the directory of ours on the board.
    """
    for name, data in _files().items():
        path = edgehil / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
