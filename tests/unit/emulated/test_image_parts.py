"""The parts of an image that are made here: environment, disk, initial RAM file system, packages, programs."""

from __future__ import annotations

import ast
import io
import os
import shutil
import struct
import subprocess
import tarfile
import zlib
from pathlib import Path

import pytest

from pytest_edgehil.emulated.image.boot_environment import boot_command, pack_environment, unpack_environment
from pytest_edgehil.emulated.image.built import contents
from pytest_edgehil.emulated.image.cpio import initramfs
from pytest_edgehil.emulated.image.deb import read_deb, unpack_deb
from pytest_edgehil.emulated.image.disk import MIB, Partition, data_blocks, first_byte, write_disk
from pytest_edgehil.emulated.image.elf import missing_libraries, needed_libraries
from pytest_edgehil.emulated.image.ext4 import Tools, make_ext4
from pytest_edgehil.emulated.image.modules import compile_modules
from pytest_edgehil.errors import ConfigError

PARTITIONS = [
    Partition(name="env", size_bytes=MIB, source=b"environment"),
    Partition(name="root-a", size_bytes=3 * MIB + 1, source=b"a" * 70000),
    Partition(name="root-b", size_bytes=3 * MIB),
]


def deb(files: dict[str, bytes | str]) -> bytes:
    """A package; a file whose content is text is a link to it."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            else:
                info.size, info.mode = len(content), 0o755
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    packed = b"!<arch>\n"
    for name, body in (("debian-binary", b"2.0\n"), ("data.tar.xz", data.getvalue())):
        packed += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(body):<10}`\n".encode() + body + b"\n" * (len(body) % 2)
        )
    return packed


def test_an_environment_has_the_size_asked_for_and_a_checksum() -> None:
    data = pack_environment({"BOOT_ORDER": "A B", "BOOT_A_LEFT": "3"}, 512)
    assert len(data) == 512
    assert struct.unpack_from("<I", data)[0] == zlib.crc32(data[4:])
    assert unpack_environment(data) == {"BOOT_ORDER": "A B", "BOOT_A_LEFT": "3"}


def test_a_damaged_environment_is_refused() -> None:
    data = bytearray(pack_environment({"BOOT_ORDER": "A B"}, 512))
    data[20] ^= 1
    with pytest.raises(ConfigError, match="checksum"):
        unpack_environment(bytes(data))


def test_an_environment_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="do not fit into 64"):
        pack_environment({"bootcmd": "x" * 100}, 64)


def test_the_boot_script_of_the_image_becomes_one_line_that_a_shell_reads(repository: Path) -> None:
    line = boot_command((repository / "farm/images/edge-arm64/boot.cmd").read_text())
    assert "\n" not in line
    assert "#" not in line
    assert line.endswith("reset")
    for wrong in (";;", "then;", "else;", "do;", "; ;"):
        assert wrong not in line


def test_a_disk_is_the_same_whenever_it_is_written(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_disk(tmp_path / name, PARTITIONS)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_partition_holds_its_source_where_the_table_says(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    write_disk(disk, PARTITIONS)
    data = disk.read_bytes()
    assert data[512:520] == b"EFI PART"
    for number, one in enumerate(PARTITIONS, start=1):
        entry = data[1024 + (number - 1) * 128 : 1024 + number * 128]
        first, last = struct.unpack_from("<QQ", entry, 32)
        assert first * 512 == first_byte(PARTITIONS, number)
        assert (last - first + 1) * 512 >= one.size_bytes
        source = one.source or b""
        assert data[first * 512 :].startswith(source)  # type: ignore[arg-type]
        assert entry[56:].decode("utf-16-le").rstrip("\0") == one.name


def test_both_headers_of_the_table_have_their_checksums(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    write_disk(disk, PARTITIONS)
    data = disk.read_bytes()
    for at in (512, len(data) - 512):
        header = data[at : at + 92]
        (crc,) = struct.unpack_from("<I", header, 16)
        assert zlib.crc32(header[:16] + bytes(4) + header[20:]) == crc
        (table,) = struct.unpack_from("<Q", header, 72)
        assert zlib.crc32(data[table * 512 : table * 512 + 128 * 128]) == struct.unpack_from("<I", header, 88)[0]


def test_an_initial_file_system_is_the_same_for_the_same_files() -> None:
    files = {"bin/busybox": b"program", "init": b"#!"}
    one = initramfs(files, executable=frozenset({"init"}), links={"bin/sh": "busybox"})
    two = initramfs(dict(reversed(files.items())), executable=frozenset({"init"}), links={"bin/sh": "busybox"})
    assert one == two


def test_an_initial_file_system_is_defined_by_its_format_to_the_last_byte() -> None:
    """So no version of Python and no zlib, of which there are several, has a say in it."""

    def entry(number: int, mode: int, name: bytes, data: bytes) -> bytes:
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name + b"\0"
        head += bytes(-len(head) % 4)
        return head + data + bytes(-len(data) % 4)

    made = initramfs({"init": b"#!sh\n"}, executable=frozenset({"init"}), links={"bin/sh": "b"})
    assert made == b"".join(
        (
            entry(1, 0o040755, b"bin", b""),
            entry(2, 0o120777, b"bin/sh", b"b"),
            entry(3, 0o100755, b"init", b"#!sh\n"),
            entry(0, 0, b"TRAILER!!!", b""),
        )
    )


def test_nothing_that_makes_an_image_compresses(repository: Path) -> None:
    for source in (repository / "pytest_edgehil/emulated/image").glob("*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            used = node.attr if isinstance(node, ast.Attribute) else ""
            imported = [one.name for one in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            assert "compress" not in used, source
            assert not {"gzip", "bz2", "lzma", "compress", "compressobj"} & set(imported), source


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_cpio_reads_the_initial_file_system(tmp_path: Path) -> None:
    data = initramfs({"a/b": b"x"}, executable=frozenset(), links={"c": "a/b"})
    listed = subprocess.run(["cpio", "-t"], input=data, capture_output=True, check=True).stdout.decode().split()
    assert listed == ["a", "a/b", "c"]


def test_a_package_is_laid_onto_the_tree_with_merged_directories(tmp_path: Path) -> None:
    package = deb({"./bin/tool": b"x", "./lib/libx.so.1": "libx.so.1.0", "./usr/share/doc/c": b"y"})
    unpack_deb(package, tmp_path / "tree", label="p", only=None, leave_out=("usr/share/*",))
    found = {path.relative_to(tmp_path / "tree").as_posix() for path in (tmp_path / "tree").rglob("*")}
    assert found == {"usr", "usr/bin", "usr/bin/tool", "usr/lib", "usr/lib/libx.so.1"}


def test_only_what_is_asked_for_is_taken_and_what_takes_nothing_is_refused(tmp_path: Path) -> None:
    package = deb({"./usr/bin/a": b"a", "./usr/bin/b": b"b"})
    unpack_deb(package, tmp_path / "tree", label="p", only=["usr/bin/a"], leave_out=())
    assert [path.name for path in (tmp_path / "tree/usr/bin").iterdir()] == ["a"]
    with pytest.raises(ConfigError, match="no file of it is like 'usr/bin/c'"):
        unpack_deb(package, tmp_path / "tree", label="p", only=["usr/bin/c"], leave_out=())


def test_a_file_outside_of_the_image_is_refused(tmp_path: Path) -> None:
    package = deb({"../outside": b"x"})
    with pytest.raises(ConfigError, match="outside of the image"):
        unpack_deb(package, tmp_path / "tree", label="p", only=None, leave_out=())


def test_one_file_is_read_out_of_a_package() -> None:
    package = deb({"./usr/lib/u-boot/u-boot.bin": b"boot"})
    assert read_deb(package, "usr/lib/u-boot/*.bin", label="p") == b"boot"
    with pytest.raises(ConfigError, match="expected one file"):
        read_deb(package, "usr/bin/*", label="p")


def test_a_program_says_which_libraries_it_needs() -> None:
    program = Path(shutil.which("ls") or "/bin/ls").read_bytes()
    assert any(name.startswith("libc.so") for name in needed_libraries(program))
    assert needed_libraries(b"#!/bin/sh\n") == []


def test_a_program_that_lacks_a_library_is_named(tmp_path: Path) -> None:
    shutil.copy(shutil.which("ls") or "/bin/ls", tmp_path / "ls")
    missing = missing_libraries(tmp_path)
    assert missing["libc.so.6"] == ["ls"]
    (tmp_path / "libc.so.6").write_bytes(b"")
    assert "libc.so.6" not in missing_libraries(tmp_path)


def test_blocks_of_a_file_are_found_wherever_its_holes_are(tmp_path: Path) -> None:
    whole = bytearray(20 * 4096 + 5)
    for at, data in ((4096 * 3 + 7, b"a"), (4096 * 9, b"b" * 5000), (len(whole) - 2, b"c")):
        whole[at : at + len(data)] = data
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(len(whole))
        for at in range(0, len(whole), 4096):
            if any(whole[at : at + 4096]):
                file.seek(at)
                file.write(whole[at : at + 4096])
    (tmp_path / "written").write_bytes(whole)  # the same, with zeros in place of holes
    (tmp_path / "hole").touch()
    os.truncate(tmp_path / "hole", 10 * MIB)
    for name in ("sparse", "written"):
        found = bytearray(len(whole))
        with (tmp_path / name).open("rb") as file:
            for at, block in data_blocks(file, 4096):
                assert any(block)
                found[at : at + len(block)] = block
        assert found == whole
    assert contents(tmp_path / "sparse") == contents(tmp_path / "written")
    with (tmp_path / "hole").open("rb") as file:
        assert list(data_blocks(file, 4096)) == []


def test_a_package_that_this_python_cannot_unpack_is_named() -> None:
    package = deb({"./usr/bin/a": b"a"}).replace(b"data.tar.xz ", b"data.tar.zst")
    with pytest.raises((ConfigError, tarfile.ReadError), match=r"p: Python before 3\.14|not a|could not be opened"):
        unpack_deb(package, Path(), label="p", only=None, leave_out=())


class FullTools:
    """Tools whose mke2fs finds no room, as 1.47 says it."""

    def run(self, program: str, *_arguments: str, **_more: object) -> str:
        said = "__populate_fs: Could not allocate block in ext2 filesystem while writing file"
        raise ConfigError(f"{program} ended with status 1: {said}")


def test_a_tree_that_does_not_fit_says_how_large_it_is_and_what_to_raise(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/large").write_bytes(bytes(3 * MIB))
    with pytest.raises(ConfigError, match="1 files with 3 MiB do not fit into the root file system of 2 MiB; raise it"):
        make_ext4(
            FullTools(),  # type: ignore[arg-type]
            tmp_path / "root.ext4",
            size_bytes=2 * MIB,
            identifier="0",
            label="root",
            epoch_s=0,
            tree=tmp_path / "tree",
        )


@pytest.mark.parametrize(
    ("there", "missing"),
    [((), "python3.11-minimal"), (("usr/bin/python3.11",), "libpython3.11-minimal")],
)
def test_tools_that_cannot_compile_modules_say_what_is_missing(
    tmp_path: Path, there: tuple[str, ...], missing: str
) -> None:
    for name in there:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=f"add {missing} to 'tools:' in image.yaml and run 'edgehil image pin'"):
        compile_modules(Tools(tmp_path), tmp_path / "tree", python="3.11")
