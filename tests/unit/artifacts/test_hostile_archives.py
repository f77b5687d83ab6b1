"""Archives that must never be unpacked: refused with one line, nothing written outside, nothing left behind."""

from __future__ import annotations

import gzip
import os
import tarfile
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.bundles import archive, manifest, manifest_json, member, sha256

from pytest_edgehil.artifacts.bundle import Limits, pack, peek, read, unpack
from pytest_edgehil.artifacts.manifest import to_bytes
from pytest_edgehil.errors import CorruptArtifact, UnsafeArchive

GOOD = {"model.onnx": b"weights"}
HEAD = member("manifest.json", manifest_json(GOOD))
BODY = member("model.onnx", b"weights")


def everything(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*")}


def refuse(path: Path, *, limits: Limits | None = None) -> str:
    """Refused by `read` and by `unpack`, in one line; nothing is left in the directory that was not there."""
    room = path.parent
    before = everything(room)
    lines = []
    more: dict[str, Any] = {} if limits is None else {"limits": limits}
    for action in (lambda: read(path, **more), lambda: unpack(path, room / "into" / "deep", **more)):
        with pytest.raises((UnsafeArchive, CorruptArtifact)) as caught:
            action()
        lines.append(str(caught.value))
        assert everything(room) == before
    assert lines[0] == lines[1]
    assert "\n" not in lines[0]
    assert path.name in lines[0]
    assert all(character.isprintable() for character in lines[0])
    return lines[0]


def test_the_archive_of_the_tests_below_is_fine_as_it_is(tmp_path: Path) -> None:
    path = archive(tmp_path / "good.tar.gz", [HEAD, BODY])
    unpack(path, tmp_path / "into")
    assert read(path).manifest.files[0].digest == sha256(b"weights")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "is a symbolic link"),
        ({"type": tarfile.LNKTYPE, "linkname": "manifest.json"}, "is a hard link"),
        ({"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}, "is a character device"),
        ({"type": tarfile.BLKTYPE, "devmajor": 8}, "is a block device"),
        ({"type": tarfile.FIFOTYPE}, "is a FIFO"),
        ({"type": tarfile.DIRTYPE}, "is a directory entry"),
        ({"type": tarfile.CONTTYPE}, "is a contiguous file"),
        ({"type": tarfile.GNUTYPE_SPARSE}, "is a GNU sparse file"),
        ({"type": tarfile.GNUTYPE_LONGNAME}, "is a GNU long name"),
        ({"type": tarfile.GNUTYPE_LONGLINK}, "is a GNU long link name"),
        ({"type": tarfile.XHDTYPE}, "is a pax header"),
        ({"type": tarfile.XGLTYPE}, "is a global pax header"),
        ({"type": b"\xff"}, "is an entry of type"),
    ],
)
def test_everything_but_a_regular_file_is_refused(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    hostile = member("model.onnx", **fields)
    assert said in refuse(archive(tmp_path / "x.tar.gz", [HEAD, hostile]))
    assert said in refuse(archive(tmp_path / "y.tar.gz", [HEAD, BODY, member("more", **fields)]))
    assert said in refuse(archive(tmp_path / "z.tar.gz", [member("manifest.json", **fields), BODY]))


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "../../../../../../tmp/evil",
        "a/../../evil",
        "/tmp/evil",
        "./evil",
        "a//evil",
        "..",
        ".",
        "C:evil",
        "a\\..\\evil",
        "evil\x1b[31m",
        "evil\nname",
        "evil ",
    ],
)
def test_a_path_that_is_not_plain_is_refused_in_the_archive_and_in_the_manifest(tmp_path: Path, name: str) -> None:
    refuse(archive(tmp_path / "x.tar.gz", [HEAD, BODY, member(name, b"evil")]))
    files = {name: b"evil"}
    head = member("manifest.json", manifest_json(files))
    refuse(archive(tmp_path / "y.tar.gz", [head, member(name, b"evil")]))


def test_a_name_that_is_not_ascii_is_refused(tmp_path: Path) -> None:
    assert "not plain ASCII" in refuse(archive(tmp_path / "x.tar.gz", [HEAD, BODY, member("ünïcode", b"")]))


def test_a_file_twice_is_refused(tmp_path: Path) -> None:
    assert "twice" in refuse(archive(tmp_path / "x.tar.gz", [HEAD, BODY, member("model.onnx", b"weighty")]))
    assert "twice" in refuse(archive(tmp_path / "y.tar.gz", [HEAD, BODY, HEAD]))


def test_a_file_that_differs_in_case_only_is_refused(tmp_path: Path) -> None:
    assert "not in the manifest" in refuse(archive(tmp_path / "x.tar.gz", [HEAD, BODY, member("MODEL.onnx", b"")]))
    files = {"MODEL.onnx": b"a", "model.onnx": b"b"}
    head = member("manifest.json", manifest_json(files))
    members = [head, *(member(name, data) for name, data in files.items())]
    assert "upper and lower case" in refuse(archive(tmp_path / "y.tar.gz", members))


def test_a_file_more_or_less_than_the_manifest_says_is_refused(tmp_path: Path) -> None:
    assert "not in the manifest" in refuse(archive(tmp_path / "x.tar.gz", [HEAD, BODY, member("more", b"")]))
    assert "not in the archive" in refuse(archive(tmp_path / "y.tar.gz", [HEAD]))


def test_an_archive_that_does_not_start_with_the_manifest_is_refused(tmp_path: Path) -> None:
    assert "starts with 'model.onnx'" in refuse(archive(tmp_path / "x.tar.gz", [BODY, HEAD]))
    assert "starts with nothing" in refuse(archive(tmp_path / "y.tar.gz", []))


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """64 MiB of zeros in 64 KiB, truthfully announced: the announcement is enough to refuse it."""
    zeros = bytes(64 << 20)
    head = member("manifest.json", manifest_json({"model.onnx": zeros}))
    path = archive(tmp_path / "bomb.tar.gz", [head, member("model.onnx", zeros)])
    assert path.stat().st_size < 1 << 17
    tracemalloc.start()
    said = refuse(path, limits=Limits(unpacked_bytes=1 << 20))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert f"{64 << 20} bytes unpacked, the limit is {1 << 20}" in said
    assert peak_bytes < 16 << 20


def test_a_bomb_that_hides_behind_the_end_of_the_archive_is_refused(tmp_path: Path) -> None:
    head, body = (info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512) for info, data in (HEAD, BODY))
    path = tmp_path / "bomb.tar.gz"
    path.write_bytes(gzip.compress(head + body + bytes(256 << 20), mtime=0))
    assert "bytes of zeros behind its end" in refuse(path)


def test_a_huge_manifest_is_refused_unread(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.tar.gz", [member("manifest.json", b" " * (2 << 20)), BODY])
    assert "its manifest has 2097152 bytes" in refuse(path)


def test_a_member_that_claims_to_be_huge_is_refused(tmp_path: Path) -> None:
    huge = member("model.onnx")
    huge[0].size = 8**11 - 1
    assert "its manifest says 7" in refuse(archive(tmp_path / "x.tar.gz", [HEAD, huge]))
    first = member("manifest.json")
    first[0].size = 8**11 - 1
    assert "at most" in refuse(archive(tmp_path / "y.tar.gz", [first]))


def test_a_gnu_archive_is_refused(tmp_path: Path) -> None:
    assert "USTAR" in refuse(archive(tmp_path / "x.tar.gz", [HEAD, BODY], form=tarfile.GNU_FORMAT))


@pytest.mark.parametrize(
    "field",
    [
        b"-0000000007\0",
        b"\x80" + bytes(10) + b"\x07",
        b"\xff" * 12,
        b" " * 12,
        bytes(12),
        b"0o7\0",
        b"7.0\0",
        b"0000007\x008",
    ],
    ids=["negative", "base-256", "base-256-negative", "blank", "zeros", "prefix", "float", "behind-nul"],
)
def test_a_size_that_is_not_plain_octal_is_refused(tmp_path: Path, field: bytes) -> None:
    info, data = BODY
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = field.ljust(12, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    head = HEAD[0].tobuf(tarfile.USTAR_FORMAT) + HEAD[1] + bytes(-len(HEAD[1]) % 512)
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(head + bytes(block) + data + bytes(505) + bytes(1024)))
    assert "expected octal digits" in refuse(path)


def test_bytes_hidden_in_padding_or_behind_a_name_are_refused(tmp_path: Path) -> None:
    made = pack(manifest(), GOOD, tmp_path)
    raw = bytearray(gzip.decompress(made.path.read_bytes()))
    at = raw.rindex(b"weights") + len(b"weights")
    raw[at + 3] = 1
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(bytes(raw), mtime=0))
    assert "hidden in the padding" in refuse(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x1f",
        b"\x1f\x8b",
        b"not a gzip",
        gzip.compress(b"", mtime=0),
        gzip.compress(b"x", mtime=0),
        gzip.compress(b"x" * 512, mtime=0),
        zlib.compress(b"x"),
    ],
)
def test_what_is_no_bundle_at_all_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(data)
    refuse(path)
    with pytest.raises((CorruptArtifact, UnsafeArchive)):
        peek(path)


def test_a_failure_of_the_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = pack(manifest(), {"a/b/model": b"1", "model.onnx": b"2"}, tmp_path)
    opened = os.open

    def full(path: Any, flags: int, mode: int = 0o777) -> int:
        if os.fspath(path).endswith("model.onnx"):
            raise OSError(28, "No space left on device")
        return opened(path, flags, mode)

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(OSError, match="No space left"):
        unpack(made.path, tmp_path / "into" / "deep")
    assert everything(tmp_path) == {made.path.name}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_archive_is_refused_or_means_the_same(tmp_path: Path, data: st.DataObject) -> None:
    """Bytes changed below the gzip, with its checksum right: what still reads must say exactly what it said.

    Not those of the manifest itself: one hexadecimal digit for another makes another manifest, which is no less valid.
    It is the digest of the whole bundle that tells them apart.
    """
    made = pack(manifest(), {"model.onnx": b"weights", "more": b"x" * 700}, tmp_path / "made")
    raw = bytearray(gzip.decompress(made.path.read_bytes()))
    head = 512 + len(to_bytes(made.manifest))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, 511) | st.integers(head, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "fuzzed.tar.gz"
    path.write_bytes(gzip.compress(bytes(raw), compresslevel=1, mtime=0))
    into = tmp_path / "into"
    refused = ""
    try:
        read(path)
        found = unpack(path, into)
    except (CorruptArtifact, UnsafeArchive) as problem:
        refused = str(problem)
    assert "\n" not in refused
    if refused:
        assert not into.exists()
    else:
        assert found == made.manifest
        assert (into / "model.onnx").read_bytes() == b"weights"
        for one in sorted(into.rglob("*"), reverse=True):
            one.unlink()
        into.rmdir()
