"""Places on an image's tree: below it and nowhere else, whatever a recipe or a package asks for.

A tree is a root directory to be, on a host that has one of its own. Its symbolic links lead where they will on the
board: one to ``/etc`` means the tree's own, and followed by the host it would mean the host's. So the directories of a
path are looked up here as the board would look them up, with the tree as root (the rules: path_resolution(7)).
"""

from __future__ import annotations

from collections import deque
from pathlib import Path

from pytest_edgehil.errors import ConfigError

_MOST_LINKS = 40  # the kernel's own limit


def place(tree: Path, path: str, *, label: str) -> Path:
    """Where something new goes: its directories are there, and what had its name before is not.

    Args:
        path: on the image, without a leading slash.
        label: whose path it is, for messages.

    Raises:
        ConfigError: it would lie outside of the tree, below a file, or in the place of a directory.
    """
    target = look_up(tree, path, label=label)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"{label}: {path!r} would lie below a file of the image, expected a directory") from None
    if target.is_dir() and not target.is_symlink():
        raise ConfigError(f"{label}: {path!r} is a directory of the image already, so nothing else can have its name")
    target.unlink(missing_ok=True)
    return target


def read(tree: Path, path: str, *, label: str) -> bytes:
    """What a file of the image holds.

    Raises:
        ConfigError: the image has no such file.
    """
    file = look_up(tree, path, label=label, follow=True)
    if not file.is_file():
        raise ConfigError(f"{label}: the image has no {path}, and it is needed; name the package that has it")
    return file.read_bytes()


def look_up(tree: Path, path: str, *, label: str, follow: bool = False) -> Path:
    """Where a path of the image lies below its tree.

    Args:
        follow: also a link that is its last part; else only those before it.

    Raises:
        ConfigError: it is no path of the image, or its links lead in a circle.
    """
    *directories, last = path.split("/")
    if path.startswith("/") or ".." in (*directories, last) or last in ("", "."):
        raise ConfigError(f"{label}: a file would lie outside of the image: {path!r}")
    left = deque([*directories, last] if follow else directories)
    here: list[str] = []
    followed = 0
    while left:
        part = left.popleft()
        if part == "..":
            del here[-1:]  # above the root is the root
        elif part not in ("", "."):
            found = tree.joinpath(*here, part)
            if not found.is_symlink():
                here.append(part)
                continue
            followed += 1
            if followed > _MOST_LINKS:
                raise ConfigError(f"{label}: the links on the way to {path!r} lead in a circle")
            leads_to = found.readlink().as_posix()
            if leads_to.startswith("/"):
                here.clear()
            left.extendleft(reversed(leads_to.split("/")))
    return tree.joinpath(*here) if follow else tree.joinpath(*here, last)
