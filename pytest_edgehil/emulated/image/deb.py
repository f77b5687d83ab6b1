"""Files out of Debian packages and wheels, onto a tree; nothing of them is run.

A Debian package is an ``ar`` archive with ``data.tar.xz`` in it (deb(5)). Maintainer scripts are left out: what they
would do is the image's own business.
"""

from __future__ import annotations

import fnmatch
import io
import os
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from pytest_edgehil.emulated.image import tree as trees
from pytest_edgehil.errors import ConfigError

_MERGED = ("bin", "sbin", "lib")  # links into usr: https://wiki.debian.org/UsrMerge


def unpack_deb(package: bytes, tree: Path, *, label: str, only: Sequence[str] | None, leave_out: Sequence[str]) -> None:
    """Put a package's files onto a tree.

    Args:
        only: patterns (fnmatch, ``*`` crosses slashes) of what is taken; None: everything.
        leave_out: patterns of what is never taken.

    Raises:
        ConfigError: it is no package, a pattern of `only` takes nothing, or a file would lie outside of the tree.
    """
    taken: set[str] = set()
    for member, data in members(package, label):
        path = _merged(member.name)
        if not path or member.isdir() or any(fnmatch.fnmatchcase(path, one) for one in leave_out):
            continue
        if only is not None:
            matches = [one for one in only if fnmatch.fnmatchcase(path, one)]
            if not matches:
                continue
            taken.update(matches)
        _put(tree, path, member, data, label)
    for pattern in only or ():
        if pattern not in taken:
            raise ConfigError(f"{label}: no file of it is like {pattern!r}")


def read_deb(package: bytes, pattern: str, *, label: str) -> bytes:
    """The one file of a package that is like a pattern.

    Raises:
        ConfigError: there is none, or there are several.
    """
    found = [
        (member.name, data)
        for member, data in members(package, label)
        if member.isreg() and fnmatch.fnmatchcase(_merged(member.name), pattern)
    ]
    if len(found) != 1:
        raise ConfigError(f"{label}: expected one file like {pattern!r}, found {[name for name, _ in found]}")
    return found[0][1]


def unpack_wheel(wheel: bytes, tree: Path, directory: str, *, label: str, leave_out: Sequence[str]) -> None:
    """Put a wheel's files into a directory of packages on a tree; the scripts that it may have are left out.

    Raises:
        ConfigError: a file would lie outside of the tree.
    """
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        for entry in archive.infolist():
            if entry.is_dir() or any(fnmatch.fnmatchcase(entry.filename, one) for one in leave_out):
                continue
            if ".data/" in entry.filename:
                continue
            path = trees.place(tree, f"{directory}/{entry.filename}", label=label)
            path.write_bytes(archive.read(entry))
            path.chmod(0o755 if entry.filename.endswith(".so") else 0o644)


def members(package: bytes, label: str) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """What a package holds: each member, and its bytes if it is a file.

    Raises:
        ConfigError: it is no package, or compressed as this Python cannot read it (``data.tar.zst`` before 3.14).
    """
    with tarfile.open(fileobj=io.BytesIO(_data(package, label))) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isreg() else None
            yield member, b"" if file is None else file.read()


def _data(data: bytes, label: str) -> bytes:
    at = 8
    if data[:at] != b"!<arch>\n":
        raise ConfigError(f"{label}: no Debian package")
    while at < len(data):
        name, size = data[at : at + 16].strip(b" /"), int(data[at + 48 : at + 58])
        if name == b"data.tar.zst" and sys.version_info < (3, 14):
            raise ConfigError(f"{label}: Python before 3.14 cannot read its data.tar.zst; build with 3.14 or later")
        if name.startswith(b"data.tar"):
            return data[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise ConfigError(f"{label}: the package holds no data")


def _merged(name: str) -> str:
    path = name.removeprefix("./").strip("/")
    return f"usr/{path}" if path.split("/")[0] in _MERGED and "/" in path else path


def _put(tree: Path, path: str, member: tarfile.TarInfo, data: bytes, label: str) -> None:
    target = trees.place(tree, path, label=label)
    if member.issym():
        target.symlink_to(member.linkname)
    elif member.islnk():
        source = trees.look_up(tree, _merged(member.linkname), label=label)
        try:
            os.link(source, target, follow_symlinks=False)
        except FileNotFoundError:
            raise ConfigError(
                f"{label}: {path} is another name of {member.linkname}, which is not taken; take both or neither"
            ) from None
    elif member.isreg():
        target.write_bytes(data)
        target.chmod(0o755 if member.mode & 0o111 else 0o644)
    else:
        raise ConfigError(f"{label}: {path} is neither a file nor a link; device nodes are made by the kernel")
