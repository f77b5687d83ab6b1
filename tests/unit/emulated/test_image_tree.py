"""An image is written below its tree: neither a recipe nor a package reaches a file of the host."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from pytest_edgehil.emulated.image import tree as trees
from pytest_edgehil.emulated.image.build import build_image
from pytest_edgehil.emulated.image.deb import unpack_deb, unpack_wheel
from pytest_edgehil.errors import ConfigError


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A directory of the host with a file in it that nobody may touch."""
    directory = tmp_path / "host"
    directory.mkdir()
    (directory / "victim").write_text("untouched")
    return directory


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    directory = tmp_path / "tree"
    directory.mkdir()
    return directory


def untouched(host: Path) -> bool:
    return [path.name for path in host.iterdir()] == ["victim"] and (host / "victim").read_text() == "untouched"


def package(*members: tarfile.TarInfo) -> bytes:
    """A Debian package; every file of it holds "x"."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for member in members:
            member.size = 1 if member.isreg() else 0
            tar.addfile(member, io.BytesIO(b"x"))
    body = data.getvalue()
    return b"!<arch>\n" + f"{'data.tar':<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(body):<10}`\n".encode() + body


def member(name: str, kind: bytes = tarfile.REGTYPE, leads_to: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, leads_to
    return info


def unpack(tree: Path, *members: tarfile.TarInfo) -> None:
    unpack_deb(package(*members), tree, label="p", only=None, leave_out=())


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "..", "", "."])
def test_a_path_that_is_none_of_the_image_is_refused(tree: Path, path: str) -> None:
    with pytest.raises(ConfigError, match=r"image\.yaml: a file would lie outside of the image"):
        trees.place(tree, path, label="image.yaml")


@pytest.mark.parametrize("leads_to", ["{host}", "../../../../../../../..{host}", "up/{host}"])
def test_a_directory_that_is_a_link_is_the_trees_own_and_not_the_hosts(tree: Path, host: Path, leads_to: str) -> None:
    (tree / "up").symlink_to("../../..")
    (tree / "a").symlink_to(leads_to.format(host=host))
    trees.place(tree, "a/victim", label="p").write_text("x")
    assert untouched(host)
    assert (tree / str(host)[1:] / "victim").read_text() == "x"


def test_links_within_the_tree_are_followed_as_on_the_board(tree: Path) -> None:
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "bin").symlink_to("usr/bin")
    (tree / "programs").symlink_to("/bin")
    assert trees.place(tree, "programs/tool", label="p") == tree / "usr/bin/tool"


def test_links_that_lead_in_a_circle_are_refused(tree: Path) -> None:
    (tree / "a").symlink_to("b")
    (tree / "b").symlink_to("a")
    with pytest.raises(ConfigError, match="lead in a circle"):
        trees.place(tree, "a/x", label="p")
    with pytest.raises(ConfigError, match="lead in a circle"):
        trees.read(tree, "b", label="p")


def test_what_lies_there_already_is_replaced_and_never_written_through(tree: Path, host: Path) -> None:
    (tree / "a").symlink_to(host / "victim")
    trees.place(tree, "a", label="p").write_text("x")
    assert untouched(host)
    assert not (tree / "a").is_symlink()


def test_a_file_in_the_place_of_a_directory_and_a_directory_in_that_of_a_file_are_refused(tree: Path) -> None:
    (tree / "file").write_text("")
    (tree / "directory").mkdir()
    with pytest.raises(ConfigError, match="p: 'file/x' would lie below a file of the image"):
        trees.place(tree, "file/x", label="p")
    with pytest.raises(ConfigError, match="p: 'directory' is a directory of the image already"):
        trees.place(tree, "directory", label="p")


def test_a_file_that_is_read_is_the_trees_and_not_the_hosts(tree: Path, host: Path) -> None:
    (tree / "busybox").symlink_to(host / "victim")
    with pytest.raises(ConfigError, match="the image has no busybox"):
        trees.read(tree, "busybox", label="p")


def test_a_package_reaches_the_host_neither_by_a_linked_directory_nor_by_a_link_in_the_place_of_a_file(
    tree: Path, host: Path
) -> None:
    unpack(tree, member("a", tarfile.SYMTYPE, str(host)), member("a/victim"), member("a/new"))
    unpack(tree, member("b", tarfile.SYMTYPE, str(host / "victim")), member("b"))
    assert untouched(host)


def test_a_packages_hard_link_is_to_a_file_of_the_tree(tree: Path, host: Path) -> None:
    mode = stat.S_IMODE((host / "victim").stat().st_mode)
    unpack(tree, member("a", tarfile.SYMTYPE, str(host / "victim")), member("b", tarfile.LNKTYPE, "a"))
    assert (tree / "b").is_symlink()
    assert ((host / "victim").stat().st_nlink, stat.S_IMODE((host / "victim").stat().st_mode)) == (1, mode)
    with pytest.raises(ConfigError, match="outside of the image"):
        unpack(tree, member("c", tarfile.LNKTYPE, f"../..{host}/victim"))
    with pytest.raises(ConfigError, match=r"is another name of elsewhere, which is not taken"):
        unpack(tree, member("c", tarfile.LNKTYPE, "elsewhere"))


def wheel(name: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(name, "x")
    return data.getvalue()


def test_a_wheel_does_not_reach_the_host_either(tree: Path, host: Path) -> None:
    (tree / "packages").symlink_to(host)
    unpack_wheel(wheel("victim"), tree, "packages", label="w", leave_out=())
    assert untouched(host)
    with pytest.raises(ConfigError, match="w: a file would lie outside of the image"):
        unpack_wheel(wheel("../victim"), tree, "packages", label="w", leave_out=())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("links:\n", "links:\n  {host}/victim: busybox\n"), "no path on the image"),
        (("links:\n", "links:\n  usr/../../x: busybox\n"), "no path on the image"),
        (("links:\n", "links:\n  .: busybox\n"), "no path on the image"),
        (("links:\n", "links:\n  usr/bin/: busybox\n"), "no path on the image"),
        (("links:\n", 'links:\n  usr/bin/x: ""\n'), "leads nowhere"),
        (('  "[", awk', '  "..", awk'), "no name of a file"),
        (('  "[", awk', "  ../../bin/sh, awk"), "no name of a file"),
        (('version: "2026.11"', 'version: "../../2026.11"'), "no name of a file"),
    ],
)
def test_a_recipe_that_names_a_place_outside_of_its_image_is_refused_with_the_line(
    repository: Path, tmp_path: Path, host: Path, change: tuple[str, str], told: str
) -> None:
    old, new = change[0], change[1].format(host=host)
    text = (repository / "farm/images/edge-arm64/image.yaml").read_text()
    assert text.count(old) == 1
    (tmp_path / "image.yaml").write_text(text.replace(old, new))
    with pytest.raises(ConfigError) as refused:
        build_image(tmp_path, say=print, cache=tmp_path / "cache")
    line = text[: text.index(old)].count("\n") + new.rstrip("\n").count("\n") + 1
    assert f"image.yaml:{line}" in str(refused.value)
    assert told in str(refused.value)
    assert untouched(host)
