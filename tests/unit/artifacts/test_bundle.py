"""Bundles: the same inputs give the same bytes, and what is read is what the manifest says."""

from __future__ import annotations

import gzip
import os
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bundles import archive, manifest, manifest_json, member, sha256

from pytest_edgehil.artifacts.bundle import file_bytes, pack, peek, read, unpack
from pytest_edgehil.errors import ArtifactNotFound, CorruptArtifact, UnsafeArchive

FILES: dict[str, Path | bytes] = {"model.onnx": b"weights" * 20_000, "notes/read.me": b"hello"}


def test_the_same_inputs_give_the_same_bytes_whatever_the_times_owners_and_order(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"weights" * 20_000)
    os.utime(tmp_path / "a.onnx", (1, 1))
    one = pack(manifest(), {"model.onnx": tmp_path / "a.onnx", "notes/read.me": b"hello"}, tmp_path / "one")
    old = os.umask(0o077)
    try:
        two = pack(manifest(), dict(reversed(FILES.items())), tmp_path / "two")
    finally:
        os.umask(old)
    assert one.digest == two.digest
    assert one.path.read_bytes() == two.path.read_bytes()


def test_one_changed_byte_in_one_file_gives_another_digest(tmp_path: Path) -> None:
    one = pack(manifest(), FILES, tmp_path / "one")
    two = pack(manifest(), {**FILES, "notes/read.me": b"hellp"}, tmp_path / "two")
    assert one.digest != two.digest


def test_the_bytes_of_a_bundle_do_not_depend_on_zlib(tmp_path: Path) -> None:
    """The digest of these inputs on every machine; it may change only together with the format."""
    made = pack(manifest(), {"model.onnx": b"weights", "run": b"#!/bin/sh\n"}, tmp_path, executable={"run"})
    assert made.digest == "sha256:3b8eb8e7381ec018c46c68a0175bc49a2f83e15fbedad8e066db37497e058fc3"


def test_what_is_packed_is_read_again(tmp_path: Path) -> None:
    made = pack(manifest(), FILES, tmp_path)
    assert made.path.name == "digits-1.0.0-pi5-int8-static.tar.gz"
    assert made.size_bytes == made.path.stat().st_size
    assert made.digest == sha256(made.path.read_bytes())
    assert read(made.path) == made
    assert peek(made.path) == made.manifest
    assert [one.path for one in made.manifest.files] == ["model.onnx", "notes/read.me"]
    assert made.manifest.files[0].digest == sha256(b"weights" * 20_000)
    assert file_bytes(made, "notes/read.me") == b"hello"


def test_other_tools_read_the_bundle(tmp_path: Path) -> None:
    long = f"{'d' * 60}/{'e' * 60}/{'f' * 60}"
    script = tmp_path / "run"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    made = pack(manifest(), {**FILES, long: b"deep", "run": script, "empty": b""}, tmp_path)
    with tarfile.open(made.path) as tar:
        members = tar.getmembers()
    assert [one.name for one in members] == ["manifest.json", *sorted([*FILES, long, "run", "empty"])]
    assert {(one.uid, one.gid, one.mtime, one.uname, one.type) for one in members} == {(0, 0, 0, "", tarfile.REGTYPE)}
    assert {one.name: one.mode for one in members if one.mode != 0o644} == {"run": 0o755}
    subprocess.run(["gzip", "-t", made.path], check=True, timeout=60)
    listed = subprocess.run(["tar", "-tzf", made.path], check=True, timeout=60, capture_output=True, text=True)
    assert listed.stdout.split() == [one.name for one in members]
    assert listed.stderr == ""


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=300_000))
def test_any_contents_survive(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    directory = tmp_path_factory.mktemp("any")
    made = pack(manifest(), {"model.onnx": data}, directory)
    unpack(made.path, directory / "out")
    assert (directory / "out" / "model.onnx").read_bytes() == data


@pytest.mark.parametrize("size", [65534, 65535, 65536, 2 * 65535 - 2048, 2 * 65535 - 1536])
def test_contents_that_end_at_a_block_survive(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    made = pack(manifest(), {"model.onnx": data}, tmp_path)
    assert file_bytes(made, "model.onnx") == data
    assert len(gzip.decompress(made.path.read_bytes())) % 512 == 0


def test_unpacking_writes_the_files_with_their_modes_and_nothing_else(tmp_path: Path) -> None:
    made = pack(manifest(), {**FILES, "run": b"#!/bin/sh\n"}, tmp_path, executable={"run"})
    assert unpack(made.path, tmp_path / "new" / "out") == made.manifest
    found = {
        path.relative_to(tmp_path / "new/out").as_posix() for path in (tmp_path / "new").rglob("*") if path.is_file()
    }
    assert found == {*FILES, "run"}
    assert os.access(tmp_path / "new/out/run", os.X_OK)
    assert not os.access(tmp_path / "new/out/model.onnx", os.X_OK) or os.geteuid() == 0
    assert (tmp_path / "new/out/model.onnx").stat().st_mode & 0o111 == 0


def test_unpacking_into_a_directory_that_holds_something_is_refused(tmp_path: Path) -> None:
    made = pack(manifest(), FILES, tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "theirs").write_text("theirs")
    with pytest.raises(UnsafeArchive, match="must be a new or an empty directory"):
        unpack(made.path, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["theirs"]


def test_unpacking_through_a_link_is_refused(tmp_path: Path) -> None:
    made = pack(manifest(), FILES, tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeArchive):
        unpack(made.path, tmp_path / "out")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_an_older_bundle_of_the_same_name_is_replaced(tmp_path: Path) -> None:
    pack(manifest(), FILES, tmp_path)
    made = pack(manifest(), {"model.onnx": b"other"}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [made.path.name]
    assert read(made.path) == made


def test_a_refused_pack_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifact, match=r"entry 'model\.onnx' is not one of the files"):
        pack(manifest(), {"other": b""}, tmp_path / "out")
    with pytest.raises(CorruptArtifact, match="segment"):
        pack(manifest(), {"model.onnx": b"", "../evil": b""}, tmp_path / "out")
    with pytest.raises(CorruptArtifact, match="upper and lower case"):
        pack(manifest(), {"model.onnx": b"", "Model.onnx": b""}, tmp_path / "out")
    with pytest.raises(ArtifactNotFound, match="cannot be packed"):
        pack(manifest(), {"model.onnx": tmp_path / "missing"}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFound, match=r"gone\.tar\.gz: cannot be opened: No such file"):
        read(tmp_path / "gone.tar.gz")


def test_a_flipped_byte_anywhere_is_noticed(tmp_path: Path) -> None:
    made = pack(manifest(), {"model.onnx": b"weights"}, tmp_path)
    good = made.path.read_bytes()
    spoiled = tmp_path / "spoiled.tar.gz"
    # bytes 4 to 9 of a gzip header (time, kind of compressor, operating system) mean nothing to anybody
    for at in (*range(4), *range(10, len(good))):
        spoiled.write_bytes(good[:at] + bytes([good[at] ^ 0x41]) + good[at + 1 :])
        with pytest.raises((CorruptArtifact, UnsafeArchive)) as caught:
            read(spoiled)
        assert "\n" not in str(caught.value)


def test_a_bundle_that_is_cut_off_is_refused_at_every_length(tmp_path: Path) -> None:
    made = pack(manifest(), {"model.onnx": b"weights"}, tmp_path)
    good = made.path.read_bytes()
    cut = tmp_path / "cut.tar.gz"
    for length in range(len(good)):
        cut.write_bytes(good[:length])
        with pytest.raises(CorruptArtifact):
            read(cut)


def test_what_follows_the_end_is_refused(tmp_path: Path) -> None:
    made = pack(manifest(), {"model.onnx": b"weights"}, tmp_path)
    good = made.path.read_bytes()
    longer = tmp_path / "longer.tar.gz"
    for tail in (b"\0", b"junk", good, gzip.compress(b"")):
        longer.write_bytes(good + tail)
        with pytest.raises(CorruptArtifact, match="something follows the end"):
            read(longer)


def test_a_wrong_digest_or_size_in_the_manifest_is_named(tmp_path: Path) -> None:
    files = {"model.onnx": b"weights"}
    lies = {
        "has the digest": {"path": "model.onnx", "digest": sha256(b"others!"), "size_bytes": 7},
        "has 7 bytes, its manifest says 8": {"path": "model.onnx", "digest": sha256(b"weights"), "size_bytes": 8},
    }
    for said, entry in lies.items():
        head = manifest_json(files, files=[entry])
        path = archive(tmp_path / "lie.tar.gz", [member("manifest.json", head), member("model.onnx", b"weights")])
        with pytest.raises(CorruptArtifact, match=said):
            read(path)
        with pytest.raises(CorruptArtifact, match=said):
            unpack(path, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_a_file_that_changed_since_the_bundle_was_read_is_noticed(tmp_path: Path) -> None:
    made = pack(manifest(), {"model.onnx": b"weights"}, tmp_path)
    pack(manifest(), {"model.onnx": b"weighty"}, tmp_path)
    with pytest.raises(CorruptArtifact, match="not what it was"):
        file_bytes(made, "model.onnx")
    with pytest.raises(CorruptArtifact, match="has no file 'other'"):
        file_bytes(made, "other")


def test_reading_does_not_touch_the_file(tmp_path: Path) -> None:
    made = pack(manifest(), {"model.onnx": b"weights"}, tmp_path)
    before = made.path.stat().st_mtime_ns
    assert before <= time.time_ns()
    read(made.path)
    assert made.path.stat().st_mtime_ns == before
