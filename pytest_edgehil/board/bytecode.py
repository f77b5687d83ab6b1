"""The on-board program compiled here, for boards whose Python is this one: a slow board would take seconds for it.

The program compiles itself (``onboard/compiled.py``), in a directory of this user's cache that looks like the one on a
board, once for each version of it and of Python. A board takes it only if its Python writes the same bytecode.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import logging
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from pytest_edgehil.board.zipapp import onboard_zipapp
from pytest_edgehil.places import cache_directory

COMPILE_S = 120.0
_KEEP_S = 86400.0
"""What other versions have left is removed when it is older: two checkouts may take turns."""

_log = logging.getLogger("edgehil.board.bytecode")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bytecode:
    """A zip file of compiled modules.

    Args:
        name: of the file on the board, below ``compiled/``; its digest is part of it.
        data: the file.
        digest: SHA-256 in hexadecimal.
        magic: of the Python that reads it, in hexadecimal (`importlib.util.MAGIC_NUMBER`).
    """

    name: str
    data: bytes
    digest: str
    magic: str


@functools.cache
def onboard_bytecode() -> Bytecode | None:
    """The bytecode of `onboard_zipapp`; None if it cannot be made here, for it can be done without."""
    root = cache_directory() / "onboard"
    found = _find(root)
    if found is None:
        try:
            _make(root)
        except (OSError, subprocess.SubprocessError) as problem:
            _log.debug("the on-board program is not compiled in %s: %s", root, problem)
        found = _find(root)
    return found


def _find(root: Path) -> Bytecode | None:
    stem = f"onboard-{onboard_zipapp()[1]}.{sys.implementation.cache_tag}."
    try:
        for path in sorted((root / "compiled").glob(f"{stem}*.zip")):
            data = path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            if path.name == f"{stem}{digest}.zip":
                return Bytecode(name=path.name, data=data, digest=digest, magic=importlib.util.MAGIC_NUMBER.hex())
    except OSError as problem:
        _log.debug("%s cannot be read: %s", root, problem)
    return None


def _make(root: Path) -> None:
    data, digest = onboard_zipapp()
    program = root / "bin" / f"onboard-{digest}.pyz"
    program.parent.mkdir(parents=True, exist_ok=True)
    for other in program.parent.iterdir():
        if other.stat().st_mtime < time.time() - _KEEP_S:
            other.unlink(missing_ok=True)  # and with it, when the next one is compiled, its bytecode
    beside = program.with_name(f".{program.name}.{os.getpid()}")
    beside.write_bytes(data)
    beside.replace(program)
    argv = [sys.executable, "-S", "-E", str(program), "compile"]
    subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=COMPILE_S)
