"""The image of an emulated board, built: a tree, file systems, a disk, and the bootloader's own environment.

Everything is below the cache, in a directory that is named after what the image is made of: recipe, lock, the files of
its own, and the sources of this package. It is put there whole or not at all.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
import uuid
from pathlib import Path

from pytest_edgehil.emulated.image import recipe as recipes
from pytest_edgehil.emulated.image import tree as trees
from pytest_edgehil.emulated.image.boot_environment import boot_command, pack_environment
from pytest_edgehil.emulated.image.built import (
    DESCRIPTION,
    DamagedImage,
    Image,
    check_contents,
    contents,
    image_key,
    read_image,
)
from pytest_edgehil.emulated.image.cpio import initramfs
from pytest_edgehil.emulated.image.deb import read_deb, unpack_deb, unpack_wheel
from pytest_edgehil.emulated.image.disk import MIB, Partition, write_disk
from pytest_edgehil.emulated.image.elf import missing_libraries
from pytest_edgehil.emulated.image.ext4 import Tools, make_ext4
from pytest_edgehil.emulated.image.fetch import Pinned, Say
from pytest_edgehil.emulated.image.kernel import read_kernel
from pytest_edgehil.emulated.image.modules import compile_modules
from pytest_edgehil.emulated.image.workplace import flush, one_at_a_time, workplace
from pytest_edgehil.errors import ConfigError
from pytest_edgehil.places import cache_directory

SLOT_ENVIRONMENT_BYTES = 512
FLASH_BYTES = 64 * MIB
FLASH_ENVIRONMENT_BYTES = 256 * 1024  # CONFIG_ENV_SIZE of U-Boot's qemu_arm64
_SPACE = uuid.UUID("6ba7b812-9dad-11d1-80b4-00c04fd430c8")
_BUSYBOX = "usr/bin/busybox"
_WHEELS = "usr/lib/python3/dist-packages"
_LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib"}
_DIRECTORIES = ("dev", "proc", "sys", "run", "tmp", "data", "root", "var", "boot", "usr/bin", "usr/sbin", "usr/lib")


def build_image(directory: Path, *, say: Say, cache: Path | None = None, anew: bool = False) -> Image:
    """Build an image, or find it built; what is found is hashed, and built again when it is damaged.

    Args:
        directory: with ``image.yaml`` and ``image.lock``.
        anew: build it also when it is there; what comes out must then be the same.

    Raises:
        ConfigError: recipe or lock are malformed, something pinned is not to be had, the image does not fit, or the
            cache is full.
    """
    cache = cache or cache_directory()
    try:
        return _build_image(directory, say=say, cache=cache, anew=anew)
    except OSError as problem:
        if problem.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ConfigError(
            f"the cache {cache} is full, and {directory} is not built; remove what is not needed any more with "
            "'edgehil image prune --unused-for 7d', or name another place with EDGEHIL_CACHE_DIR"
        ) from problem


def _build_image(directory: Path, *, say: Say, cache: Path, anew: bool) -> Image:
    recipe, lock, key = recipes.load_recipe(directory), recipes.load_lock(directory), image_key(directory)
    recipes.check_lock(recipe, lock)
    target = cache / "images" / key
    if not anew and (found := _usable(target, say)) is not None:
        return found
    pinned = Pinned(recipe, cache / "packages", say=say)
    pinned.fetch(lock)
    target.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(target.with_suffix(".lock"), say=say), workplace(target.parent, prefix=".build-") as work:
        before = _usable(target, say if anew else _told_already)
        if before is not None and not anew:
            return before  # somebody else has built it meanwhile
        digests = _Builder(recipe, lock, pinned, work, say=say).build()
        out = work / "out"
        built = Image(
            directory=target,
            name=recipe.name,
            version=recipe.version,
            key=key,
            root_bytes=recipe.slot_bytes,
            digests=digests,
            sizes={name: (out / name).stat().st_size for name in digests},
        )
        if before is not None:
            if before.digest != built.digest:
                changed = sorted(name for name in digests if digests[name] != before.digests.get(name))
                raise ConfigError(f"{directory}: two builds differ in {', '.join(changed)}; that is a bug of ours")
            return before
        (out / DESCRIPTION).write_text(built.describe())
        for path in (*out.iterdir(), out):  # what is told to be whole must be so after a power cut of this host, too
            flush(path)
        if target.exists():
            target.replace(work / "damaged")
        out.replace(target)
        flush(target.parent)
    return built


def _usable(target: Path, say: Say) -> Image | None:
    """The image in a directory, if there is one and it is what was built."""
    try:
        found = read_image(target)
        if found is not None:
            check_contents(found)
    except DamagedImage as damaged:
        say(f"{damaged}; it is built again")
        return None
    return found


def _told_already(_line: str) -> None:
    """Of damage that was found before the lock was taken."""


class _Builder:
    """One build, in a directory of its own."""

    def __init__(self, recipe: recipes.Recipe, lock: recipes.Lock, pinned: Pinned, work: Path, *, say: Say) -> None:
        self._recipe, self._lock, self._pinned, self._work = recipe, lock, pinned, work
        self._say_line = say
        self._began = time.monotonic()
        self._tree, self._out = work / "tree", work / "out"

    def build(self) -> dict[str, str]:
        recipe = self._recipe
        self._out.mkdir()
        self._say("unpacking the tools")
        tools = self._tools()
        self._say("unpacking packages and wheels")
        self._unpack()
        self._say("compiling Python modules")
        compile_modules(tools, self._tree, python=recipe.python)
        self._say("kernel, modules and initial RAM file system")
        self._boot()
        self._settle()
        self._say("making file systems")
        make_ext4(
            tools, self._out / "root.ext4", size_bytes=recipe.slot_bytes, identifier=self._identifier("root"),
            label="root", epoch_s=recipe.epoch_s, tree=self._tree,
        )  # fmt: skip
        data = self._work / "data.ext4"
        make_ext4(
            tools, data, size_bytes=recipe.data_bytes, identifier=self._identifier("data"), label="data",
            epoch_s=recipe.epoch_s, tree=None,
        )  # fmt: skip
        self._say("writing the disk")
        write_disk(
            self._out / "disk.raw",
            [
                Partition(name="env", size_bytes=MIB, source=self._slots()),
                Partition(name="root-a", size_bytes=recipe.slot_bytes, source=self._out / "root.ext4"),
                Partition(name="root-b", size_bytes=recipe.slot_bytes),
                Partition(name="data", size_bytes=recipe.data_bytes, source=data),
            ],
        )
        self._flash()
        self._say("hashing")
        digests = {path.name: contents(path) for path in sorted(self._out.iterdir())}
        self._say("done")
        return digests

    def _say(self, what: str) -> None:
        self._say_line(f"{time.monotonic() - self._began:5.1f} s  {what}")

    def _tools(self) -> Tools:
        tree = self._work / "tools"
        for one in self._lock.tools:
            unpack_deb(self._pinned.read(one), tree, label=str(one), only=None, leave_out=("usr/share/*",))
        return Tools(tree)

    def _unpack(self) -> None:
        recipe, tree = self._recipe, self._tree
        for name in _DIRECTORIES:
            (tree / name).mkdir(parents=True, exist_ok=True)
        for link, target in _LINKS.items():
            (tree / link).symlink_to(target)
        for one in self._lock.packages:
            only = recipe.packages.get(one.name)
            unpack_deb(self._pinned.read(one), tree, label=str(one), only=only, leave_out=recipe.leave_out)
        for wheel in self._lock.wheels:
            unpack_wheel(self._pinned.read(wheel), tree, _WHEELS, label=str(wheel), leave_out=recipe.leave_out)
        asked = recipe.directory / recipes.RECIPE
        busybox = trees.read(tree, _BUSYBOX, label=f"{asked}: applets") if recipe.applets else b""
        for name in recipe.applets:
            if f"\0{name}\0".encode() not in busybox:
                raise ConfigError(f"{asked}: applets: this busybox has no {name!r}")
            trees.place(tree, f"usr/bin/{name}", label=f"{asked}: applets").symlink_to("busybox")
        for path, leads_to in recipe.links.items():
            trees.place(tree, path, label=f"{asked}: links").symlink_to(leads_to)
        _overlay(recipe.directory / "root", tree)
        # how the firmware that runs says who it is
        identity = trees.place(tree, "etc/edgehil/firmware.json", label=str(recipe.directory))
        identity.write_text(json.dumps({"name": recipe.name, "version": recipe.version}) + "\n")
        for library, users in missing_libraries(tree).items():
            raise ConfigError(
                f"{recipe.directory / recipes.RECIPE}: {users[0]} needs {library}, which no package of the image has; "
                "add the one that has it, or take the program out with 'leave_out'"
            )

    def _boot(self) -> None:
        recipe, tree = self._recipe, self._tree
        kernel = read_kernel(self._pinned.read(self._lock.kernel), recipe.modules, label=str(self._lock.kernel))
        label = str(recipe.directory)
        trees.place(tree, "boot/vmlinuz", label=label).write_bytes(kernel.image)
        names = [f"lib/modules/{number:02}-{name}.ko" for number, name in enumerate(kernel.modules)]
        files = dict(zip(names, kernel.modules.values(), strict=True))
        files["init"] = (recipe.directory / "init").read_bytes()
        files["bin/busybox"] = trees.read(tree, _BUSYBOX, label=label)
        archive = initramfs(files, executable=frozenset({"init", "bin/busybox"}), links={"bin/sh": "busybox"})
        trees.place(tree, "boot/initrd", label=label).write_bytes(archive)

    def _settle(self) -> None:
        """Modes and times that are the same whoever builds."""
        epoch = self._recipe.epoch_s
        for path in sorted(self._tree.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
            os.utime(path, (epoch, epoch), follow_symlinks=False)
        self._tree.chmod(0o755)
        os.utime(self._tree, (epoch, epoch))

    def _slots(self) -> bytes:
        """From the factory, slot A holds the firmware and slot B nothing."""
        variables = {"BOOT_ORDER": "A", "BOOT_A_LEFT": "3", "BOOT_B_LEFT": "0", "BOOT_TRIAL": "none"}
        return pack_environment(variables, SLOT_ENVIRONMENT_BYTES)

    def _flash(self) -> None:
        label = str(self._lock.bootloader)
        package = self._pinned.read(self._lock.bootloader)
        (self._out / "u-boot.bin").write_bytes(read_deb(package, "usr/lib/u-boot/qemu_arm64/u-boot.bin", label=label))
        script = (self._recipe.directory / "boot.cmd").read_text(encoding="utf-8")
        variables = {"bootcmd": boot_command(script), "bootdelay": "-2"}
        with (self._out / "flash.raw").open("wb") as flash:
            flash.truncate(FLASH_BYTES)
            flash.write(pack_environment(variables, FLASH_ENVIRONMENT_BYTES))

    def _identifier(self, what: str) -> str:
        return str(uuid.uuid5(_SPACE, f"edgehil/{self._recipe.name}/{what}"))


def _overlay(source: Path, tree: Path) -> None:
    """Files of the image's own; they win over those of packages."""
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source).as_posix()
        if path.is_symlink():
            trees.place(tree, name, label=str(source)).symlink_to(path.readlink())
        elif path.is_file() and "__pycache__" not in path.parts:
            shutil.copy(path, trees.place(tree, name, label=str(source)))
