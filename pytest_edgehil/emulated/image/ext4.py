"""File systems that are the same bytes whenever they are made of the same tree.

``mke2fs -d`` takes contents, modes and modification times from the tree, identifiers from its options and its own clock
from ``E2FSPROGS_FAKE_TIME``; owner, access time and change time are those of whoever made the tree, so a script of
debugfs sets them on every inode afterwards. Inodes are numbered from 12 on, in the order of mke2fs's walk, which sorts.
"""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

from pytest_edgehil.errors import ConfigError
from pytest_edgehil.model.quantity import format_size

_ROOT_INODE, _FIRST_INODE = 2, 11
_BLOCK_BYTES = 4096


class Tools:
    """Programs of this host's architecture out of pinned packages, run with their own libraries.

    So neither the versions that are installed here nor whether any are installed changes an image.
    """

    def __init__(self, tree: Path) -> None:
        self._tree = tree
        self._libraries = tree / "usr/lib/x86_64-linux-gnu"

    def path(self, name: str) -> Path:
        """Where a file of the tools is."""
        return self._tree / name

    def run(self, program: str, *arguments: str, env: dict[str, str], stdin: str = "") -> str:
        """Run one; returns what it said.

        Raises:
            ConfigError: it fails.
            OSError: there is no room left for what it writes.
        """
        loader = self._libraries / "ld-linux-x86-64.so.2"
        argv = [str(loader), "--library-path", str(self._libraries), str(self._tree / program), *arguments]
        try:
            done = subprocess.run(
                argv, env=env, input=stdin, capture_output=True, encoding="utf-8", errors="surrogateescape", check=False
            )
        except OSError as problem:
            raise ConfigError(f"{program} cannot be run here: {problem}; images are built on x86-64") from problem
        if done.returncode != 0:
            if os.strerror(errno.ENOSPC) in done.stderr + done.stdout:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise ConfigError(f"{program} ended with status {done.returncode}: {(done.stderr or done.stdout)[-300:]}")
        return done.stdout


def make_ext4(
    tools: Tools, path: Path, *, size_bytes: int, identifier: str, label: str, epoch_s: int, tree: Path | None
) -> None:
    """Make a file system in a file.

    Args:
        identifier: UUID of the file system, and seed of its directories' hashes.
        tree: what it holds; None: nothing, and then it has a journal, for it will be written to.

    Raises:
        ConfigError: the tree does not fit.
    """
    with path.open("wb") as file:
        file.truncate(size_bytes)
    settings = path.with_name("mke2fs.conf")
    settings.write_text(
        "[defaults]\n[fs_types]\n\text4 = {\n\t\tinode_size = 256\n\t}\n"
    )  # this host's would be taken otherwise
    env = {"E2FSPROGS_FAKE_TIME": str(epoch_s), "MKE2FS_CONFIG": str(settings), "TZ": "UTC", "LC_ALL": "C"}
    features = "extent,filetype,sparse_super,large_file,dir_index,64bit,metadata_csum"
    extended = f"hash_seed={identifier},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard"
    options = ["-q", "-t", "ext4", "-b", str(_BLOCK_BYTES), "-I", "256", "-m", "0", "-U", identifier, "-L", label]
    options += ["-O", f"none,{features}{'' if tree is not None else ',has_journal'}", "-E", extended]
    if tree is not None:
        options += ["-d", str(tree)]
    try:
        tools.run("usr/sbin/mke2fs", *options, str(path), env=env)
    except ConfigError as problem:
        if tree is None or "Could not allocate" not in str(problem):
            raise
        files = [one.stat(follow_symlinks=False).st_size for one in tree.rglob("*") if not one.is_dir()]
        raise ConfigError(
            f"{len(files)} files with {format_size(sum(files))} do not fit into the {label} file system of "
            f"{format_size(size_bytes)}; raise it below 'sizes:' in image.yaml, or leave files out with 'leave_out:'"
        ) from problem
    settings.unlink()
    if tree is None:
        return
    inodes = {found.stat(follow_symlinks=False).st_ino for found in tree.rglob("*")}
    numbers = [_ROOT_INODE, *range(_FIRST_INODE, _FIRST_INODE + 1 + len(inodes))]
    values = {"uid": "0", "gid": "0", "atime": f"@{epoch_s}", "ctime": f"@{epoch_s}", "mtime": f"@{epoch_s}"}
    script = "".join(f"sif <{number}> {name} {value}\n" for number in numbers for name, value in values.items())
    tools.run("usr/sbin/debugfs", "-w", "-f", "-", str(path), env=env, stdin=script)
