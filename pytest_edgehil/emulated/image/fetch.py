"""Pinned packages and wheels, from the sources that this machine is set up with, kept by their digest.

Debian packages come through the machine's own apt sources, asked with a private state: neither its package lists nor
its foreign architectures are touched. Wheels come through pip. What has come is checked against its pin and kept in a
cache by digest, so a second build asks nobody.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pytest_edgehil.emulated.image.recipe import LOCK, Lock, Package, Recipe, Wheel
from pytest_edgehil.errors import ConfigError

Say = Callable[[str], None]
"""Told what is happening, a line at a time."""

HOST_ARCHITECTURE = "amd64"
_PLATFORMS = ("manylinux2014", "manylinux_2_17", "manylinux_2_27", "manylinux_2_28", "manylinux_2_34")
_MACHINES = {"arm64": "aarch64"}
_TIMEOUT_S = 900.0


class Pinned:
    """What a lock pins, as files.

    Args:
        recipe: whose lock it is.
        cache: directory in which files are kept by digest.
        say: told what is fetched.
    """

    def __init__(self, recipe: Recipe, cache: Path, *, say: Say) -> None:
        self._recipe = recipe
        self._cache = cache
        self._say = say

    def read(self, one: Package | Wheel) -> bytes:
        """The bytes of a file, which are those that were pinned.

        Raises:
            ConfigError: the file in the cache is not what it was when it was fetched.
        """
        data = self._path(one).read_bytes()
        if hashlib.sha256(data).hexdigest() != one.sha256:
            raise ConfigError(
                f"{self._path(one)} has been damaged since it was fetched ({one}); "
                f"run 'edgehil image build {self._recipe.directory}' again, which fetches it again"
            )
        return data

    def fetch(self, lock: Lock) -> None:
        """Have everything of a lock in the cache, with the bytes that it pins: what is damaged there is fetched again.

        Raises:
            ConfigError: a pinned version is not to be had any more, has other bytes, or the sources do not answer.
        """
        self._cache.mkdir(parents=True, exist_ok=True)
        wanted = dict.fromkeys((lock.kernel, lock.bootloader, *lock.packages, *lock.tools))
        damaged: list[Package | Wheel] = []
        packages = [one for one in wanted if not self._is_there(one, damaged)]
        wheels = [one for one in lock.wheels if not self._is_there(one, damaged)]
        for one in damaged:
            self._say(f"{self._path(one)} is damaged: it is not {one}, and fetched again")
        try:
            self._fetch(packages, wheels)
        except ConfigError as problem:
            if not damaged:
                raise
            raise ConfigError(
                f"{self._path(damaged[0])} is damaged: it is not {damaged[0]}, and cannot be fetched again: {problem}"
            ) from problem

    def _path(self, one: Package | Wheel) -> Path:
        return self._cache / one.sha256

    def _is_there(self, one: Package | Wheel, damaged: list[Package | Wheel]) -> bool:
        try:
            found = _sha256(self._path(one))
        except FileNotFoundError:
            return False
        if found != one.sha256:
            damaged.append(one)
        return found == one.sha256

    def _fetch(self, packages: Sequence[Package], wheels: Sequence[Wheel]) -> None:
        if packages:
            self._say(f"fetching {len(packages)} packages")
            with tempfile.TemporaryDirectory(dir=self._cache, prefix=".apt-") as state:
                apt = Apt(Path(state), self._recipe.architecture)
                apt.download(packages, lock_path=self._recipe.directory / LOCK)
                self._keep(packages, Path(state))
        if wheels:
            self._say(f"fetching {len(wheels)} wheels")
            with tempfile.TemporaryDirectory(dir=self._cache, prefix=".pip-") as directory:
                listed = Path(directory) / "requirements.txt"
                lines = [f"{one.name}=={one.version} --hash=sha256:{one.sha256}\n" for one in wheels]
                listed.write_text("".join(lines))
                download_wheels(
                    ["--require-hashes", "-r", str(listed)], Path(directory), self._recipe, where="image.lock"
                )
                self._keep(wheels, Path(directory))

    def _keep(self, wanted: Sequence[Package | Wheel], directory: Path) -> None:
        came = {_sha256(path): path for path in (*directory.glob("*.deb"), *directory.glob("*.whl"))}
        for one in wanted:
            if one.sha256 not in came:
                raise ConfigError(
                    f"{self._recipe.directory / LOCK}: {one} has other bytes than were pinned; expected SHA-256 "
                    f"{one.sha256}; run 'edgehil image pin {self._recipe.directory}' if that is meant"
                )
            shutil.move(came[one.sha256], self._path(one))


class Apt:
    """The machine's apt sources, asked with a state of our own.

    Args:
        directory: for the state, and for what is downloaded.
        architecture: of the image.

    Raises:
        ConfigError: there is no apt, or its sources do not answer.
    """

    def __init__(self, directory: Path, architecture: str) -> None:
        self._directory = directory
        for name in ("lists/partial", "archives/partial"):
            (directory / name).mkdir(parents=True)
        (directory / "status").touch()
        settings = {
            "Dir::State": directory,
            "Dir::State::status": directory / "status",
            "Dir::Cache": directory,
            "APT::Architecture": architecture,
            "APT::Architectures::": architecture,
            "APT::Sandbox::User": "root",  # the state is private: apt's own user could not write to it
        }
        self._options = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
        self._options += ["-o", f"APT::Architectures::={HOST_ARCHITECTURE}"]
        # otherwise a source that is not reached is a warning only, and what it has would be told as dropped
        done = self._run("apt-get", "-qq", "-o", "APT::Update::Error-Mode=any", "update")
        self._unreached = "" if done.returncode == 0 else _first(done.stderr)
        if self._unreached and not any((directory / "lists").glob("*Packages*")):
            raise ConfigError(f"apt's package sources do not answer: {self._unreached}")

    def download(self, packages: Iterable[Package], *, lock_path: Path) -> None:
        """Download packages of exactly these versions.

        Raises:
            ConfigError: one of them is not to be had any more.
        """
        wanted = [
            f"{one.name}{'' if one.architecture == 'all' else f':{one.architecture}'}={one.version}" for one in packages
        ]
        done = self._run("apt-get", "-qq", "download", *wanted)
        if done.returncode == 0:
            return
        gone = re.findall(r"Version '(.+?)' for '(.+?)' was not found|Unable to locate package (\S+)", done.stderr)
        if gone:
            version, name, unknown = gone[0]
            if self._unreached:
                raise ConfigError(
                    f"{lock_path}: {unknown or f'{name} {version}'} is at none of this machine's package sources that "
                    f"answer, and not all do: {self._unreached}"
                )
            raise ConfigError(
                f"{lock_path}: {unknown or f'{name} {version}'} is not at this machine's package sources any more; "
                f"run 'edgehil image pin {lock_path.parent}' to take the versions that are, and look at what changed"
            )
        raise ConfigError(f"apt could not download what {lock_path} pins: {_last(done.stderr)}")

    def newest(self, names: Sequence[str], architecture: str) -> list[Package]:
        """The newest version of each package.

        Raises:
            ConfigError: the sources have no such package.
        """
        done = self._run("apt-cache", "show", "--no-all-versions", *(f"{name}:{architecture}" for name in names))
        if done.returncode != 0:
            done = self._run("apt-cache", "show", "--no-all-versions", *names)
        found: dict[str, Package] = {}
        for entry in done.stdout.split("\n\n"):
            fields = dict(re.findall(r"^(Package|Version|Architecture|SHA256): (.+)$", entry, re.MULTILINE))
            if fields:
                found[fields["Package"]] = Package(
                    name=fields["Package"],
                    version=fields["Version"],
                    architecture=fields["Architecture"],
                    sha256=fields["SHA256"],
                )
        missing = [name for name in names if name not in found]
        if missing:
            raise ConfigError(f"this machine's package sources have no {missing[0]} for {architecture}")
        return [found[name] for name in names]

    def depends(self, package: str, architecture: str) -> list[str]:
        """What a package depends on directly, without versions and alternatives."""
        done = self._run("apt-cache", "show", "--no-all-versions", f"{package}:{architecture}")
        found = re.search(r"^Depends: (.+)$", done.stdout, re.MULTILINE)
        return [] if found is None else [one.split()[0].split(":")[0] for one in found[1].split(", ")]

    def _run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        program, *rest = argv
        try:
            return subprocess.run(
                [program, *self._options, *rest],
                cwd=self._directory,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except FileNotFoundError as problem:
            raise ConfigError(
                f"{program} is not installed: an image is built on Debian or Ubuntu, whose packages it is made of"
            ) from problem
        except subprocess.TimeoutExpired as problem:
            raise ConfigError(f"{program} {rest[0]} took longer than {_TIMEOUT_S:g} s") from problem


def download_wheels(wanted: Sequence[str], directory: Path, recipe: Recipe, *, where: str) -> None:
    """Download wheels for the image's machine and Python.

    Raises:
        ConfigError: pip does not have or not get them.
    """
    machine = _MACHINES[recipe.architecture]
    argv = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
    argv += ["--only-binary=:all:", "--python-version", recipe.python, "--dest", str(directory)]
    argv += [part for one in _PLATFORMS for part in ("--platform", f"{one}_{machine}")]
    done = subprocess.run(
        [*argv, *wanted],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        raise ConfigError(f"{recipe.directory}: pip could not download the wheels of {where}: {_last(done.stderr)}")


def pin(recipe: Recipe, cache: Path, *, say: Say) -> Lock:
    """The newest versions of what a recipe names.

    Raises:
        ConfigError: something is not to be had.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".pin-") as name:
        say("asking this machine's package sources")
        (Path(name) / "apt").mkdir()
        apt = Apt(Path(name) / "apt", recipe.architecture)
        # a kernel's own package has its version in its name: the one without it only leads there
        kernels = [one for one in apt.depends(recipe.kernel, recipe.architecture) if one.startswith("linux-image-")]
        kernel, bootloader = apt.newest([*(kernels[:1] or [recipe.kernel]), recipe.bootloader], recipe.architecture)
        packages = apt.newest(list(recipe.packages), recipe.architecture)
        tools = apt.newest(recipe.tools, HOST_ARCHITECTURE)
        say("asking pip for wheels")
        directory = Path(name) / "wheels"
        directory.mkdir()
        download_wheels(recipe.wheels, directory, recipe, where="image.yaml")
        wheels = []
        for path in sorted(directory.glob("*.whl")):
            project, version = path.name.split("-")[:2]
            wheels.append(Wheel(name=project, version=version, file=path.name, sha256=_sha256(path)))
    return Lock(
        kernel_of=recipe.kernel,
        python=recipe.python,
        kernel=kernel,
        bootloader=bootloader,
        packages=tuple(packages),
        tools=tuple(tools),
        wheels=tuple(wheels),
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _last(text: str) -> str:
    """What a program said last, of errors if there are any."""
    return _errors(text)[-1]


def _first(text: str) -> str:
    """What a program said first; the last line of ``apt-get update`` merely counts."""
    return _errors(text)[0]


def _errors(text: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"E:|ERROR", line)]
    return [line[:300] for line in errors or lines or ["it said nothing"]]
