"""``image.yaml`` and ``image.lock``: what goes into an image, and exactly which bytes of that.

The recipe is written by a person, the lock by ``edgehil image pin``. Paths in a package are without a leading slash and
as they lie on the image, where ``bin``, ``sbin`` and ``lib`` are links into ``usr``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field

from pytest_edgehil.documents.checking import Section, checked
from pytest_edgehil.documents.reading import FileKind, read_document
from pytest_edgehil.errors import ConfigError
from pytest_edgehil.model.quantity import format_size, size_bytes

SMALLEST_BYTES = 16 * 2**20  # a journal and its file system's own tables fit
LARGEST_SLOT_BYTES, LARGEST_DATA_BYTES = 16 * 2**30, 64 * 2**30
LATEST_S = 2**31 - 1  # of 32 bits with a sign, which every file system and tool knows: in 2038
RECIPE = "image.yaml"
LOCK = "image.lock"

_RECIPE_FILE = FileKind(
    noun="image recipe",
    expected="'image:', 'version:' and 'packages:'",
    refusal=lambda message, _problems: ConfigError(message),
)
_LOCK_FILE = FileKind(
    noun="image lock",
    expected="'kernel:', 'packages:' and 'wheels:'; 'edgehil image pin' writes it",
    refusal=lambda message, _problems: ConfigError(message),
)


def _path(text: str) -> str:
    normal = PurePosixPath(text).as_posix()  # without empty parts and a slash at the end
    if text != normal or text.startswith("/") or {".", ".."} & set(text.split("/")) or not _plain(text):
        raise ValueError(f"{text!r} is no path on the image: expected one such as 'usr/bin/tool', without '..'")
    return text


def _name_of_a_file(text: str) -> str:
    if "/" in text or text in ("", ".", "..") or not _plain(text):
        raise ValueError(f"{text!r} is no name of a file: expected one without slashes")
    return text


def _leads_to(text: str) -> str:
    if not text or not _plain(text):
        raise ValueError(f"a link to {text!r} leads nowhere: expected a path such as '../bin/tool'")
    return text


def _plain(text: str) -> bool:
    return all(one >= " " and one != "\x7f" for one in text)


Size = Annotated[int, BeforeValidator(size_bytes)]
OnImage = Annotated[str, AfterValidator(_path)]
FileName = Annotated[str, AfterValidator(_name_of_a_file)]
# these become words of apt's and pip's command lines, where one that begins with a dash would be an option
Debian = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+.-]*$")]  # Debian Policy, 5.6.1
Requirement = Annotated[str, Field(pattern=r"^[A-Za-z0-9][^\n]*$")]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9]\S*$")]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def _within(least_bytes: int, most_bytes: int) -> Callable[[int], int]:
    def check(found_bytes: int) -> int:
        if not least_bytes <= found_bytes <= most_bytes:
            raise ValueError(
                f"expected {format_size(least_bytes)} to {format_size(most_bytes)}, found {format_size(found_bytes)}"
            )
        return found_bytes

    return check


class SizesSection(Section):
    """How large the partitions are."""

    slot: Annotated[Size, AfterValidator(_within(SMALLEST_BYTES, LARGEST_SLOT_BYTES))] = 256 * 2**20
    data: Annotated[Size, AfterValidator(_within(SMALLEST_BYTES, LARGEST_DATA_BYTES))] = 1024 * 2**20


class RecipeSection(Section):
    """The whole recipe."""

    image: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9-]*$")]
    version: FileName
    epoch: Annotated[
        int, Field(ge=0, le=LATEST_S, description="seconds since 1970 that every file of the image carries")
    ]
    architecture: Literal["arm64"]
    python: Annotated[str, Field(pattern=r"^3\.\d+$")]
    kernel: Debian
    bootloader: Debian
    packages: dict[Debian, list[str] | None]
    tools: list[Debian]
    wheels: list[Requirement]
    modules: list[str]
    applets: list[FileName] = []
    links: dict[OnImage, Annotated[str, AfterValidator(_leads_to)]] = {}
    leave_out: list[str] = []
    sizes: SizesSection = SizesSection()


class PackageSection(Section):
    """A pinned package."""

    name: Debian
    version: Word
    architecture: Word
    sha256: Sha256


class WheelSection(Section):
    """A pinned wheel."""

    name: Word
    version: Word
    file: FileName
    sha256: Sha256


class LockSection(Section):
    """The whole lock."""

    kernel_of: Annotated[str, Field(description="the recipe's 'kernel:', which 'edgehil image pin' writes")]
    python: Annotated[str, Field(description="the recipe's 'python:', which 'edgehil image pin' writes")]
    kernel: PackageSection
    bootloader: PackageSection
    packages: list[PackageSection]
    tools: list[PackageSection]
    wheels: list[WheelSection]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What goes into an image.

    Args:
        directory: where ``image.yaml`` lies, with everything that belongs to it.
        epoch_s: what every file of the image carries as its time.
        kernel: Debian package of the kernel, or one that depends on it.
        bootloader: Debian package of U-Boot.
        packages: Debian package → patterns of the files that are taken from it; None: all but `leave_out`.
        tools: Debian packages of this host's architecture whose programs build the image.
        wheels: as pip's requirements, each with ``==``.
        modules: of the kernel, in the order in which they are loaded; what they need is found.
        applets: programs of busybox, which become links to it.
        links: path on the image → where the symbolic link leads.
    """

    directory: Path
    name: str
    version: str
    epoch_s: int
    architecture: str
    python: str
    kernel: str
    bootloader: str
    packages: dict[str, tuple[str, ...] | None]
    tools: tuple[str, ...]
    wheels: tuple[str, ...]
    modules: tuple[str, ...]
    applets: tuple[str, ...]
    links: dict[str, str]
    leave_out: tuple[str, ...]
    slot_bytes: int
    data_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A Debian package, by its digest."""

    name: str
    version: str
    architecture: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.architecture})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A Python wheel, by its digest."""

    name: str
    version: str
    file: str
    sha256: str

    def __str__(self) -> str:
        return self.file


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """Exactly which bytes go into an image, and which programs make it.

    Args:
        kernel_of: what the recipe named; `kernel` is that, or the package with a version in its name that it led to.
        python: whose wheels these are.
    """

    kernel_of: str
    python: str
    kernel: Package
    bootloader: Package
    packages: tuple[Package, ...]
    tools: tuple[Package, ...]
    wheels: tuple[Wheel, ...]


def load_recipe(directory: Path) -> Recipe:
    """Read a recipe.

    Raises:
        ConfigError: it is missing or malformed.
    """
    section = checked(read_document(directory / RECIPE, _RECIPE_FILE), RecipeSection)
    return Recipe(
        directory=directory,
        name=section.image,
        version=section.version,
        epoch_s=section.epoch,
        architecture=section.architecture,
        python=section.python,
        kernel=section.kernel,
        bootloader=section.bootloader,
        packages={name: None if only is None else tuple(only) for name, only in section.packages.items()},
        tools=tuple(section.tools),
        wheels=tuple(section.wheels),
        modules=tuple(section.modules),
        applets=tuple(section.applets),
        links=dict(section.links),
        leave_out=tuple(section.leave_out),
        slot_bytes=section.sizes.slot,
        data_bytes=section.sizes.data,
    )


def load_lock(directory: Path) -> Lock:
    """Read a lock.

    Raises:
        ConfigError: it is missing or malformed.
    """
    if not (directory / LOCK).exists():
        raise ConfigError(f"{directory / LOCK} is missing; run 'edgehil image pin {directory}' to write it")
    section = checked(read_document(directory / LOCK, _LOCK_FILE), LockSection)
    return Lock(
        kernel_of=section.kernel_of,
        python=section.python,
        kernel=Package(**dict(section.kernel)),
        bootloader=Package(**dict(section.bootloader)),
        packages=tuple(Package(**dict(one)) for one in section.packages),
        tools=tuple(Package(**dict(one)) for one in section.tools),
        wheels=tuple(Wheel(**dict(one)) for one in section.wheels),
    )


def check_lock(recipe: Recipe, lock: Lock) -> None:
    """Does a lock pin what the recipe names, and nothing else?

    Raises:
        ConfigError: no, the recipe was changed since.
    """
    wheels = {_normal(one.name): one.version for one in lock.wheels}
    named = {_normal(name): version for name, _, version in (one.partition("==") for one in recipe.wheels)}
    same = ((recipe.kernel, lock.kernel_of), (recipe.bootloader, lock.bootloader.name), (recipe.python, lock.python))
    wrong = [
        *(mine for mine, pinned in same if mine != pinned),
        *(set(recipe.packages) ^ {one.name for one in lock.packages}),
        *(set(recipe.tools) ^ {one.name for one in lock.tools}),
        *(set(named) ^ set(wheels)),
        *(f"{name}=={version}" for name, version in named.items() if version and wheels.get(name, version) != version),
    ]
    if wrong:
        raise ConfigError(
            f"{recipe.directory / LOCK} is not of {RECIPE} as it is now: they differ in {', '.join(sorted(wrong))}; "
            f"run 'edgehil image pin {recipe.directory}'"
        )


def _normal(name: str) -> str:
    """A Python project's name as it is compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def lock_text(lock: Lock) -> str:
    """A lock as it is written."""
    whole = asdict(lock)
    whole = {key: list(value) if isinstance(value, tuple) else value for key, value in whole.items()}
    head = "# Written by `edgehil image pin`: exactly which bytes the image is made of, and with which tools.\n"
    return head + str(yaml.safe_dump(whole, sort_keys=False, width=200))
