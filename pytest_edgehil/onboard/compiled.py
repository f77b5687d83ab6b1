"""This program compiled, so that a session or a push does not wait for Python to do it again.

Python keeps no bytecode for what it imports from a zip file: compiling our modules anew takes a board longer than all
else that a start needs. A host whose Python is the board's brings this program's bytecode along
(``board/zipapp.py``). Otherwise a session that is idle for the first time has it made, once for each version of this
program and of Python, in a process of its own at the lowest priority::

    ~/.edgehil/compiled/<name of the program>.<tag of Python>.<SHA-256 of this file>.zip

``__main__.py`` in the zipapp (``board/zipapp.py``) puts this file before the program on the path if it has the digest
in its name, so that a damaged one is as good as none. The model's process is always compiled anew: its memory is
measured, and must not depend on whether this file was there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from .durable import fsync_directory, write_atomically
from .home import Home

PAUSE_S = 5.0
"""A session that ends sooner leaves it to another one."""

_UNCHECKED = (1).to_bytes(4, "little")
"""Flags of a ``.pyc`` that Python holds against no source (PEP 552): its digest has been checked already."""


def later(home: Home, program: Path, *, idle: Callable[[], bool], pause_s: float = PAUSE_S) -> None:
    """Have this program compiled once the session is idle, unless that has been done.

    Args:
        home: where it goes.
        program: path of the zipapp.
        idle: is nothing measured right now?
        pause_s: looks so often.
    """
    if _present(home, program):
        return

    def wait() -> None:
        time.sleep(pause_s)
        while not idle():
            time.sleep(pause_s)
        subprocess.run(
            [sys.executable, "-S", "-E", str(program), "compile", "--patiently"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,  # whatever keeps it from being written, we do without
        )

    threading.Thread(target=wait, name="compile", daemon=True).start()


def compile_all(home: Home, program: Path) -> Path | None:
    """Compile every module of this program.

    Args:
        home: where it goes; what programs have left that are no longer there is removed.
        program: path of the zipapp.

    Returns:
        Where it is, perhaps since before, for sessions read it while they run. None if the session that asked for it
        has ended meanwhile.

    Raises:
        Problem: ``disk-full``, ``storage``.
    """
    import importlib.util
    import io
    import marshal
    import zipfile

    for one in home.compiled.iterdir() if home.compiled.is_dir() else ():
        if one.name == f"{_stem(program)}{hashlib.sha256(one.read_bytes()).hexdigest()}.zip":
            return one
    buffer, session = io.BytesIO(), os.getppid()
    with zipfile.ZipFile(program) as sources, zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as out:
        for name in sorted(sources.namelist()):
            if os.getppid() != session:
                return None
            if "/" not in name or not name.endswith(".py"):
                continue
            source = sources.read(name)
            code = compile(source, f"{program}/{name}", "exec", dont_inherit=True)
            head = importlib.util.MAGIC_NUMBER + _UNCHECKED + importlib.util.source_hash(source)
            out.writestr(zipfile.ZipInfo(f"{name}c", (1980, 1, 1, 0, 0, 0)), head + marshal.dumps(code))
    data = buffer.getvalue()
    home.compiled.mkdir(exist_ok=True)
    path = home.compiled / f"{_stem(program)}{hashlib.sha256(data).hexdigest()}.zip"
    write_atomically(path, data)
    for other in home.compiled.iterdir():
        of_another = _program_of(other, program).exists() and not other.name.startswith(_stem(program))
        if other != path and not of_another:
            with contextlib.suppress(OSError):
                other.unlink()
    fsync_directory(home.compiled)
    return path


def _present(home: Home, program: Path) -> bool:
    return home.compiled.is_dir() and any(one.name.startswith(_stem(program)) for one in home.compiled.iterdir())


def _stem(program: Path) -> str:
    return f"{program.stem}.{sys.implementation.cache_tag}."


def _program_of(compiled: Path, program: Path) -> Path:
    return program.with_name(f"{compiled.name.partition('.')[0]}.pyz")
