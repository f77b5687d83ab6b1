"""An image on its way from a bundle to a device: read from any place of the bundle, written past the kernel's cache."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import random
import struct

import pytest

from pytest_edgehil.artifacts.ustar import StoredGzip
from pytest_edgehil.onboard import uncached
from pytest_edgehil.onboard.durable import BLOCK_BYTES
from pytest_edgehil.onboard.problem import Problem
from pytest_edgehil.onboard.stored import BLOCK_BYTES as STORED_BYTES
from pytest_edgehil.onboard.stored import Stored, is_stored
from pytest_edgehil.onboard.uncached import Uncached, UncachedReader

CONTENT = random.Random(1).randbytes(3 * STORED_BYTES + 4321)


def gzip_of(content: bytes) -> bytes:
    out = io.BytesIO()
    packer = StoredGzip(out)
    packer.write(content)
    packer.finish()
    return out.getvalue()


def rest(packed: bytes, position: int) -> bytes:
    reader, found = Stored(io.BytesIO(packed), position), b""
    while part := reader.read(100_000):
        found += part
    return found


# --- reading -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [0, 1, STORED_BYTES - 1, STORED_BYTES, 2 * STORED_BYTES + 17, len(CONTENT)])
def test_content_is_read_from_any_place(position: int) -> None:
    packed = gzip_of(CONTENT)
    assert is_stored(io.BytesIO(packed))
    assert rest(packed, position) == CONTENT[position:]


@pytest.mark.parametrize("end", [12, 30_000, 10 + STORED_BYTES + 5 + 3, -9, -1])
def test_a_bundle_that_ends_too_early_is_refused(end: int) -> None:
    with pytest.raises(Problem, match="the bundle") as refused:
        rest(gzip_of(CONTENT)[:end], 0)
    assert refused.value.code == "corrupt-artifact"


def test_what_lies_behind_the_end_is_refused() -> None:
    with pytest.raises(Problem, match="data after"):
        rest(gzip_of(CONTENT) + b"x", 0)
    with pytest.raises(Problem, match="blocks are not those"):
        Stored(io.BytesIO(gzip_of(CONTENT)), len(CONTENT) + 1)


def test_blocks_of_another_size_are_refused() -> None:
    packed = bytearray(gzip_of(CONTENT))
    struct.pack_into("<BHH", packed, 10 + STORED_BYTES + 5, 0, 100, 100 ^ 0xFFFF)
    with pytest.raises(Problem, match="blocks are not those"):
        rest(bytes(packed), 0)


def test_another_gzip_stream_is_not_taken_for_ours() -> None:
    import gzip

    assert not is_stored(io.BytesIO(gzip.compress(CONTENT)))
    assert not is_stored(io.BytesIO(b""))


def read_in_steps(path) -> bytes:
    """Everything, in steps of any size, with a look back and a leap forward in between."""
    random_, found = random.Random(3), b""
    with UncachedReader(path) as reader:
        while part := reader.read(random_.choice((1, 5, 4095, 65535, BLOCK_BYTES + 1))):
            found += part
            reader.seek(-min(len(found), 9000), os.SEEK_CUR)
            reader.read(10)
            reader.seek(len(found))
        assert reader.read(1) == b""
    return found


@pytest.mark.parametrize("size", [0, 1, 4096, BLOCK_BYTES, 3 * BLOCK_BYTES + 4097])
def test_a_file_is_read_past_the_cache_in_steps_of_any_size(size: int, tmp_path) -> None:
    content = random.Random(size).randbytes(size)
    (tmp_path / "file").write_bytes(content)
    assert read_in_steps(tmp_path / "file") == content


def test_a_file_system_that_refuses_a_direct_read_is_read_through_its_cache(tmp_path, monkeypatch) -> None:
    real = os.preadv

    def refuses(descriptor: int, buffers: list[object], offset: int) -> int:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no")
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(uncached.os, "preadv", refuses)
    (tmp_path / "file").write_bytes(CONTENT)
    assert read_in_steps(tmp_path / "file") == CONTENT


# --- writing -------------------------------------------------------------------------------------------


def written(path, pieces: list[bytes]) -> bytes:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        writer = Uncached(descriptor)
        for piece in pieces:
            writer.write(piece)
        writer.finish()
        assert writer.written_bytes == sum(map(len, pieces))
    finally:
        os.close(descriptor)
    return path.read_bytes()


@pytest.mark.parametrize("sizes", [[], [5], [4096], [BLOCK_BYTES], [700, BLOCK_BYTES, 2 * BLOCK_BYTES + 1, 4096]])
def test_pieces_of_any_size_are_written_one_behind_the_other(sizes: list[int], tmp_path) -> None:
    pieces = [random.Random(size).randbytes(size) for size in sizes]
    assert written(tmp_path / "file", pieces) == b"".join(pieces)


def test_a_file_system_that_knows_no_direct_writes_takes_them_through_its_cache(tmp_path, monkeypatch) -> None:
    real = fcntl.fcntl

    def refuses(descriptor: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETFL and argument & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no")
        return real(descriptor, command, argument)

    monkeypatch.setattr(uncached.fcntl, "fcntl", refuses)
    assert written(tmp_path / "file", [CONTENT] * 6) == CONTENT * 6


def test_a_device_that_refuses_a_direct_write_gets_it_another_way(tmp_path, monkeypatch) -> None:
    real = uncached.write_all

    def refuses(descriptor: int, data: memoryview) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no")
        real(descriptor, data)

    monkeypatch.setattr(uncached, "write_all", refuses)
    assert written(tmp_path / "file", [CONTENT] * 6) == CONTENT * 6


def test_a_full_disk_is_told(tmp_path, monkeypatch) -> None:
    def full(_descriptor: int, _data: memoryview) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(uncached, "write_all", full)
    with pytest.raises(OSError, match="full"):
        written(tmp_path / "file", [CONTENT])
