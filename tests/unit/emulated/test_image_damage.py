"""What lies in the cache is not believed: packages are hashed as they are used, images before they are handed on."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import shutil
from pathlib import Path

import pytest

from pytest_edgehil.cli import main
from pytest_edgehil.emulated.image.build import build_image
from pytest_edgehil.emulated.image.built import DESCRIPTION, Image, contents, find_image, image_key
from pytest_edgehil.emulated.image.ext4 import Tools
from pytest_edgehil.emulated.image.fetch import Pinned
from pytest_edgehil.emulated.image.recipe import Lock, Package, load_lock, load_recipe
from pytest_edgehil.errors import ConfigError

FILES = {"disk.raw": b"disk", "flash.raw": b"flash", "root.ext4": b"root", "u-boot.bin": b"u-boot"}
GOOD = b"a package"
APT_GET = """#!/bin/sh
for word; do
    case $word in update) {update}; exit 0 ;; download) break ;; esac
done
{download}
"""


@pytest.fixture
def directory(repository: Path, tmp_path: Path) -> Path:
    """An image's directory."""
    target = tmp_path / "image"
    shutil.copytree(repository / "farm/images/edge-arm64", target)
    return target


@pytest.fixture
def built(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Image:
    """An image in the cache that is described as a build describes one."""
    monkeypatch.setenv("EDGEHIL_CACHE_DIR", str(tmp_path / "cache"))
    key = image_key(directory)
    place = tmp_path / "cache/images" / key
    place.mkdir(parents=True)
    for name, data in FILES.items():
        (place / name).write_bytes(data)
    image = Image(
        directory=place, name="edge-os", version="1", key=key, root_bytes=len(FILES["root.ext4"]),
        digests={name: contents(place / name) for name in FILES},
        sizes={name: len(data) for name, data in FILES.items()},
    )  # fmt: skip
    (place / DESCRIPTION).write_text(image.describe())
    return image


def test_an_image_that_is_whole_is_found_and_not_built_again(directory: Path, built: Image) -> None:
    assert find_image(directory, whole=True) == built
    assert build_image(directory, say=pytest.fail) == built


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"name": "x"}', b"\0" * 100])
def test_a_damaged_description_is_told_in_a_line_with_the_remedy(directory: Path, built: Image, data: bytes) -> None:
    (built.directory / DESCRIPTION).write_bytes(data)
    with pytest.raises(
        ConfigError, match=r"image\.json is damaged \(.+\); run 'edgehil image build .+' to make it"
    ) as told:
        find_image(directory)
    assert "\n" not in str(told.value)


def test_a_file_that_is_missing_or_cut_short_is_seen_at_a_boards_start(directory: Path, built: Image) -> None:
    built.disk.write_bytes(b"dis")
    with pytest.raises(ConfigError, match=r"disk\.raw has 3 bytes, expected 4; run 'edgehil image build"):
        find_image(directory)
    built.disk.unlink()
    with pytest.raises(ConfigError, match=r"disk\.raw is missing; run 'edgehil image build"):
        find_image(directory)


def test_no_firmware_is_made_of_a_damaged_image(
    directory: Path, built: Image, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["image", "firmware", str(directory), "--out", str(tmp_path / "out")]) == 0
    shutil.rmtree(tmp_path / "out")
    built.root.write_bytes(b"rOOt")
    assert main(["image", "firmware", str(directory), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert "root.ext4 has digest" in told
    assert f"run 'edgehil image build {directory}' to make it again" in told
    assert not (tmp_path / "out").exists()


def test_a_damaged_image_is_built_again_instead_of_being_told_the_old_digest(
    directory: Path, built: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(_pinned: Pinned, _lock: Lock) -> None:
        raise ConfigError("it is built")  # that is, it would be: this is no test of building

    monkeypatch.setattr(Pinned, "fetch", fetch)
    built.root.write_bytes(b"rOOt")
    told: list[str] = []
    with pytest.raises(ConfigError, match="it is built"):
        build_image(directory, say=told.append)
    (line,) = told
    assert "root.ext4 has digest" in line
    assert line.endswith("it is built again")


def test_a_full_cache_is_told_in_a_line(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(_pinned: Pinned, _lock: Lock) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Pinned, "fetch", fetch)
    with pytest.raises(ConfigError, match=f"the cache {tmp_path} is full, and {directory} is not built; remove what"):
        build_image(directory, say=print, cache=tmp_path)


def test_a_tool_that_finds_no_room_says_so_as_any_write_does(tmp_path: Path) -> None:
    loader = tmp_path / "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
    loader.parent.mkdir(parents=True)
    loader.write_text(
        "#!/bin/sh\necho 'mke2fs: No space left on device while writing out and closing file system' >&2\nexit 1\n"
    )
    loader.chmod(0o755)
    with pytest.raises(OSError, match="No space left") as full:
        Tools(tmp_path).run("usr/sbin/mke2fs", env={})
    assert full.value.errno == errno.ENOSPC


class Packages:
    """A cache of packages, a lock with one package in it, and apt sources that have it or have not."""

    def __init__(self, directory: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        recipe, lock = load_recipe(directory), load_lock(directory)
        self.one = Package(name="p", version="1", architecture="all", sha256=hashlib.sha256(GOOD).hexdigest())
        self.lock = dataclasses.replace(
            lock, kernel=self.one, bootloader=self.one, packages=(self.one,), tools=(), wheels=()
        )
        self.said: list[str] = []
        self.pinned = Pinned(recipe, cache, say=self.said.append)
        self.kept = cache / self.one.sha256
        self._apt_get = directory.parent / "bin/apt-get"
        self._apt_get.parent.mkdir()
        monkeypatch.setenv("PATH", f"{self._apt_get.parent}{os.pathsep}{os.environ['PATH']}")

    def sources(self, download: str, *, update: str = ":") -> None:
        self._apt_get.write_text(APT_GET.format(download=download, update=update))
        self._apt_get.chmod(0o755)


@pytest.fixture
def packages(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packages:
    return Packages(directory, tmp_path / "packages", monkeypatch)


def test_a_damaged_package_is_fetched_again(packages: Packages) -> None:
    packages.sources(f"printf '{GOOD.decode()}' >p_1_all.deb")
    packages.pinned.fetch(packages.lock)
    assert packages.pinned.read(packages.one) == GOOD
    packages.kept.write_bytes(GOOD[:-1])
    packages.said.clear()
    packages.pinned.fetch(packages.lock)
    assert f"{packages.kept} is damaged: it is not p 1 (all), and fetched again" in packages.said
    assert packages.pinned.read(packages.one) == GOOD


def test_a_damaged_package_that_is_not_to_be_had_again_is_told_in_a_line(packages: Packages) -> None:
    packages.sources("echo \"E: Version '1' for 'p' was not found\" >&2; exit 100")
    packages.kept.parent.mkdir()
    packages.kept.write_bytes(b"something else")
    with pytest.raises(
        ConfigError, match=r"is damaged: it is not p 1 \(all\), and cannot be fetched again: .*any more"
    ) as told:
        packages.pinned.fetch(packages.lock)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("others", "told"),
    [
        ("", "^apt's package sources do not answer: E: Failed to fetch a$"),
        (
            "touch lists/b_Packages; ",
            r"p 1 is at none of .* sources that answer, and not all do: E: Failed to fetch a$",
        ),
    ],
)
def test_sources_that_cannot_be_reached_have_not_dropped_a_package(packages: Packages, others: str, told: str) -> None:
    strict = "case $* in *APT::Update::Error-Mode=any*) echo 'E: Failed to fetch a' >&2; exit 100 ;; esac"
    packages.sources("echo \"E: Version '1' for 'p' was not found\" >&2; exit 100", update=others + strict)
    with pytest.raises(ConfigError, match=told):
        packages.pinned.fetch(packages.lock)


def test_a_package_is_hashed_as_it_is_used(packages: Packages) -> None:
    packages.kept.parent.mkdir()
    packages.kept.write_bytes(b"something else")
    with pytest.raises(ConfigError, match=r"has been damaged since it was fetched \(p 1 \(all\)\)"):
        packages.pinned.read(packages.one)
