"""An image that has been built: found in the cache by what it is made of, and held against its own description.

A board's start finds its image and looks at the sizes only, for it takes less than a second altogether. Whoever hands
an image on (``edgehil image build``, ``edgehil image firmware``) has its contents hashed before.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path

from pydantic import ValidationError

from pytest_edgehil.documents.checking import Section
from pytest_edgehil.emulated.image import recipe as recipes
from pytest_edgehil.emulated.image.disk import MIB, data_blocks
from pytest_edgehil.errors import ConfigError
from pytest_edgehil.places import cache_directory

DESCRIPTION = "image.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image that has been built.

    Args:
        directory: where its files are; they are never written to again.
        key: of what it is made of.
        digests: file → SHA-256 of its contents in hexadecimal; see `contents`.
        sizes: file → bytes.
    """

    directory: Path
    name: str
    version: str
    key: str
    root_bytes: int
    digests: dict[str, str]
    sizes: dict[str, int] = field(default_factory=dict)

    @property
    def disk(self) -> Path:
        """The disk, raw and sparse."""
        return self.directory / "disk.raw"

    @property
    def flash(self) -> Path:
        """The flash chip with U-Boot's environment."""
        return self.directory / "flash.raw"

    @property
    def bootloader(self) -> Path:
        """U-Boot."""
        return self.directory / "u-boot.bin"

    @property
    def root(self) -> Path:
        """The root file system, as a slot holds it."""
        return self.directory / "root.ext4"

    @property
    def digest(self) -> str:
        """Of everything: what two builds are compared by."""
        whole = "".join(f"{name} {digest}\n" for name, digest in sorted(self.digests.items()))
        return f"sha256:{hashlib.sha256(whole.encode()).hexdigest()}"

    def describe(self) -> str:
        """What `read_image` reads."""
        fields = asdict(self)
        del fields["directory"]
        return json.dumps(fields, indent=2) + "\n"


class _Description(Section):
    """``image.json``."""

    name: str
    version: str
    key: str
    root_bytes: int
    digests: dict[str, str]
    sizes: dict[str, int]


class DamagedImage(ConfigError):
    """An image in the cache is not what was built."""


def find_image(directory: Path, *, cache: Path | None = None, whole: bool = False) -> Image:
    """An image that has been built.

    Args:
        directory: with ``image.yaml``.
        whole: have its contents hashed, too.

    Raises:
        ConfigError: it has not, or not since something of it changed, or a file of it is missing, cut short or, with
            `whole`, not what was built.
    """
    again = f"run 'edgehil image build {directory}'"
    try:
        image = read_image((cache or cache_directory()) / "images" / image_key(directory))
        if image is not None and whole:
            check_contents(image)
    except DamagedImage as damaged:
        raise DamagedImage(f"{damaged}; {again} to make it again") from damaged
    if image is None:
        raise ConfigError(f"the image {directory} has not been built as it is now; {again}")
    return image


def read_image(built: Path) -> Image | None:
    """What is in a directory of the cache, None when there is nothing.

    Raises:
        DamagedImage: its description cannot be read, or a file has another size than is written there.
    """
    path = built / DESCRIPTION
    try:
        told = _Description.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as wrong:
        raise DamagedImage(f"{path} is damaged ({wrong.errors()[0]['msg'].lower()})") from wrong
    for name, size_bytes in told.sizes.items():
        try:
            found_bytes = (built / name).stat().st_size
        except FileNotFoundError:
            raise DamagedImage(f"the image in {built} is damaged: {name} is missing") from None
        if found_bytes != size_bytes:
            raise DamagedImage(
                f"the image in {built} is damaged: {name} has {found_bytes} bytes, expected {size_bytes}"
            )
    return Image(directory=built, **dict(told))


def check_contents(image: Image) -> None:
    """Hash an image's files.

    Raises:
        DamagedImage: one of them is not what was built.
    """
    for name, expected in image.digests.items():
        found = contents(image.directory / name)
        if found != expected:
            raise DamagedImage(
                f"the image in {image.directory} is damaged: {name} has digest {found[:16]}…, expected {expected[:16]}…"
            )


def contents(path: Path) -> str:
    """Digest of a sparse file: of each MiB that is not all zeros, with its place, and of the size.

    Reading zeros is quick and hashing a gigabyte of them is not.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for at, block in data_blocks(file, MIB):
            digest.update(at.to_bytes(8, "big"))
            digest.update(block)
        digest.update(path.stat().st_size.to_bytes(8, "big"))
    return digest.hexdigest()


def image_key(directory: Path) -> str:
    """Of everything that an image is made of, this package's sources included.

    Raises:
        ConfigError: the directory is no image, or has no lock.
    """
    digest = hashlib.sha256()
    listed = [recipes.RECIPE, recipes.LOCK, "boot.cmd", "init"]
    try:
        own = [path.relative_to(directory).as_posix() for path in (directory / "root").rglob("*")]
        for name in [*listed, *sorted(one for one in own if "__pycache__" not in one)]:
            path = directory / name
            if name not in listed and path.is_symlink():  # it goes into the image as a link, wherever it leads here
                digest.update(f"{name}\0link\0{path.readlink()}\n".encode())
            elif not path.is_dir():
                executable = bool(path.stat().st_mode & 0o100)
                digest.update(f"{name}\0{executable}\0{_sha256(path)}\n".encode())
    except FileNotFoundError as problem:
        if problem.filename and problem.filename.endswith(recipes.LOCK):
            raise ConfigError(
                f"{problem.filename} is missing; run 'edgehil image pin {directory}' to write it"
            ) from problem
        raise ConfigError(f"{directory} is no image: {problem.filename} is missing") from problem
    except NotADirectoryError as problem:
        raise ConfigError(
            f"{directory} is no image: expected the directory that {recipes.RECIPE} lies in, found a file"
        ) from problem
    except OSError as problem:
        raise ConfigError(f"{directory} is no image: {problem.filename}: {problem.strerror}") from problem
    sources = resources.files("pytest_edgehil.emulated.image")
    for source in sorted(sources.iterdir(), key=lambda one: one.name):
        if source.name.endswith(".py"):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:32]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
