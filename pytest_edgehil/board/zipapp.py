"""The on-board program as one file: the same sources always give the same bytes.

The sources are read as data, never imported: they run on boards, not here. Stored, not compressed: deflate's output
differs between zlib versions, and the hash in the file's name must not.
"""

from __future__ import annotations

import functools
import hashlib
import io
import zipfile
from importlib import resources
from importlib.resources.abc import Traversable

_MAIN = b"""import hashlib
import os
import sys


def use_bytecode():  # see onboard/compiled.py
    place, name = os.path.split(os.path.abspath(sys.argv[0]))
    place = os.path.join(os.path.dirname(place), "compiled")
    stem = name[:-4] + "." + sys.implementation.cache_tag + "."
    for one in os.listdir(place) if os.path.isdir(place) else ():
        path = os.path.join(place, one)
        if one.startswith(stem):
            with open(path, "rb") as file:
                if hashlib.sha256(file.read()).hexdigest() == one[len(stem) : -4]:
                    sys.path.insert(0, path)
                    return


if sys.argv[1:2] in (["serve"], ["sink"]):
    use_bytecode()

from onboard.main import main

sys.exit(main(sys.argv[1:]))
"""


@functools.cache
def onboard_zipapp() -> tuple[bytes, str]:
    """The zipapp's bytes and their SHA-256 in hexadecimal."""
    files = {"__main__.py": _MAIN}
    _collect(resources.files("pytest_edgehil") / "onboard", "onboard", files)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[name])
    data = buffer.getvalue()
    return data, hashlib.sha256(data).hexdigest()


def _collect(directory: Traversable, prefix: str, files: dict[str, bytes]) -> None:
    for item in directory.iterdir():
        path = f"{prefix}/{item.name}"
        if item.is_dir():
            if item.name != "__pycache__":
                _collect(item, path, files)
        elif item.name.endswith(".py"):
            files[path] = item.read_bytes()
