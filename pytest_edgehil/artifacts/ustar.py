"""The one kind of tar that a bundle may be: plain USTAR (POSIX.1-1988), regular files only.

Written by hand for two reasons. Writing: the bytes depend on nothing but names, modes and contents. Reading: the
standard library's `tarfile` understands links, devices, sparse files, GNU long names and pax headers that may ask
for gigabytes of memory; here everything but a regular file is refused before it is looked at any further.

The gzip layer is written with *stored* blocks (RFC 1951 §3.2.4). Compressed bytes differ between zlib, zlib-ng and
their versions, so the same inputs would not give the same digest on another machine; int8 weights hardly shrink
(0.91); and a push that looks for what the board already has finds nothing in compressed bytes. Any gzip reads it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from pytest_edgehil.errors import CorruptArtifact, UnsafeArchive

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

BLOCK_BYTES = 512
MAX_MEMBER_BYTES = 8**11 - 1
_STORED_BYTES = 65535  # a stored block's length is 16 bits
_READ_BYTES = 1 << 20
_MOST_AFTER_BYTES = 1 << 16
"""Tools fill the last record of a tar with zeros; 10 KiB is usual."""
_GZIP_HEADER = b"\x1f\x8b\x08\x00" + b"\x00\x00\x00\x00" + b"\x00\xff"  # no name, mtime 0, operating system unknown

_REFUSED = {
    b"1": "a hard link", b"2": "a symbolic link", b"3": "a character device", b"4": "a block device",
    b"5": "a directory entry", b"6": "a FIFO", b"7": "a contiguous file", b"x": "a pax header",
    b"g": "a global pax header", b"L": "a GNU long name", b"K": "a GNU long link name", b"S": "a GNU sparse file",
    b"D": "a GNU directory dump", b"M": "a continued GNU volume", b"V": "a GNU volume label",
}  # fmt: skip


# --- writing -----------------------------------------------------------------------------------------


class StoredGzip:
    """A gzip stream of stored blocks; its bytes depend on the data only."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._pending = bytearray()
        self._crc = 0
        self._size = 0
        out.write(_GZIP_HEADER)

    def write(self, data: bytes) -> None:
        """Append data."""
        self._crc = zlib.crc32(data, self._crc)
        self._size += len(data)
        self._pending += data
        start = 0
        # one block is kept back: the last one must carry the final bit
        while len(self._pending) - start > _STORED_BYTES:
            self._block(self._pending[start : start + _STORED_BYTES], final=False)
            start += _STORED_BYTES
        del self._pending[:start]

    def finish(self) -> None:
        """Write the last block and the trailer; the underlying file stays open."""
        self._block(self._pending, final=True)
        self._out.write(struct.pack("<II", self._crc, self._size & 0xFFFFFFFF))

    def _block(self, data: bytes | bytearray, *, final: bool) -> None:
        self._out.write(struct.pack("<BHH", int(final), len(data), len(data) ^ 0xFFFF) + data)


def stored_content(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8] | None:
    """What `StoredGzip` was given to make these bytes.

    Args:
        packed: shape (n,): a gzip file.

    Returns:
        Shape (m,); None if `StoredGzip` would have made other bytes of the content.
    """
    import numpy as np

    head, block = len(_GZIP_HEADER), _STORED_BYTES + 5
    body = packed.shape[0] - head - 8
    blocks = -(-body // block)
    size = body - 5 * blocks
    if size < 0 or packed[:head].tobytes() != _GZIP_HEADER:
        return None
    starts = head + block * np.arange(blocks)
    found = np.stack([packed[starts + at] for at in range(5)], axis=1).tobytes()
    last = size - _STORED_BYTES * (blocks - 1)
    full = struct.pack("<BHH", 0, _STORED_BYTES, 0) * (blocks - 1)
    if not 0 <= last <= _STORED_BYTES or found != full + struct.pack("<BHH", 1, last, last ^ 0xFFFF):
        return None
    whole = packed[head : head + block * (blocks - 1)].reshape(-1, block)[:, 5:].reshape(-1)
    content = np.concatenate([whole, packed[int(starts[-1]) + 5 : packed.shape[0] - 8]])
    trailer = struct.pack("<II", zlib.crc32(content.data), size & 0xFFFFFFFF)
    return content if packed[-8:].tobytes() == trailer else None


def layout(content: memoryview) -> Iterator[tuple[str, int, int]]:
    """(path, start, size in bytes) of every file of a tar, which has been verified already."""
    at = 0
    while at + BLOCK_BYTES <= len(content) and any(block := bytes(content[at : at + BLOCK_BYTES])):
        member = _member(block, where="tar")
        yield member.path, at + BLOCK_BYTES, member.size_bytes
        at += BLOCK_BYTES + member.size_bytes + len(padding(member.size_bytes))


def header(path: str, *, size_bytes: int, executable: bool) -> bytes:
    """The 512-byte header of a regular file: owner 0, time 0, mode 0644 or 0755.

    Raises:
        UnsafeArchive: the path or the size does not fit into a USTAR header.
    """
    name, prefix = _split(path)
    if not 0 <= size_bytes <= MAX_MEMBER_BYTES:
        raise UnsafeArchive(f"{path}: {size_bytes} bytes do not fit into a bundle; the limit is {MAX_MEMBER_BYTES}")
    mode = 0o755 if executable else 0o644
    block = bytearray(BLOCK_BYTES)
    struct.pack_into(
        "100s8s8s8s12s12s8sc100s6s2s32s32s8s8s155s", block, 0,
        name, b"%07o\0" % mode, b"%07o\0" % 0, b"%07o\0" % 0, b"%011o\0" % size_bytes, b"%011o\0" % 0, b" " * 8, b"0",
        b"", b"ustar\0", b"00", b"", b"", b"%07o\0" % 0, b"%07o\0" % 0, prefix,
    )  # fmt: skip
    struct.pack_into("8s", block, 148, b"%06o\0 " % sum(block))
    return bytes(block)


def padding(size_bytes: int) -> bytes:
    """The zeros that fill the last block of a member."""
    return bytes(-size_bytes % BLOCK_BYTES)


END = bytes(2 * BLOCK_BYTES)
"""Two zero blocks end an archive."""


def _split(path: str) -> tuple[bytes, bytes]:
    raw = path.encode("ascii")
    if len(raw) <= 100:
        return raw, b""
    # as short a prefix as will do, so that there is one way to split a path
    for at in range(len(raw) - 101, min(len(raw), 156)):
        if raw[at : at + 1] == b"/" and len(raw) - at - 1 <= 100:
            return raw[at + 1 :], raw[:at]
    raise UnsafeArchive(f"{path}: cannot be split for a tar header; use shorter file or directory names")


# --- reading -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One regular file in an archive, as its header describes it."""

    path: str
    size_bytes: int
    executable: bool


class GzipReader:
    """Reads exactly one gzip member, with bounded memory and a bound on what may come out of it."""

    def __init__(self, source: BinaryIO, *, where: str, limit_bytes: int) -> None:
        self._source = source
        self._where = where
        self._limit_bytes = limit_bytes
        self._inflate = zlib.decompressobj(wbits=31)
        self._compressed = b""
        self._out_bytes = 0

    def read(self, size_bytes: int) -> bytes:
        """Up to so many bytes; fewer only at the end.

        Raises:
            CorruptArtifact: this is no gzip, it is damaged or cut off, or something follows it.
            UnsafeArchive: more comes out of it than the limit allows.
        """
        parts: list[bytes] = []
        missing = size_bytes
        while missing > 0 and not self._inflate.eof:
            if not self._compressed:
                self._compressed = self._source.read(_READ_BYTES)
                if not self._compressed:
                    raise CorruptArtifact(f"{self._where}: cut off in the middle; fetch or build it again")
            try:
                part = self._inflate.decompress(self._compressed, missing)
            except zlib.error as problem:
                raise CorruptArtifact(
                    f"{self._where}: no readable gzip ({problem}); fetch or build it again"
                ) from problem
            self._compressed = self._inflate.unconsumed_tail
            self._out_bytes += len(part)
            if self._out_bytes > self._limit_bytes:
                raise UnsafeArchive(
                    f"{self._where}: unpacks to more than the limit of {self._limit_bytes} bytes; refused"
                )
            missing -= len(part)
            parts.append(part)
        if self._inflate.eof and (self._inflate.unused_data or self._source.read(1)):
            raise CorruptArtifact(f"{self._where}: something follows the end of the gzip data; fetch or build it again")
        return b"".join(parts)


def members(stream: GzipReader, *, where: str) -> Iterator[tuple[Member, Iterator[bytes]]]:
    """Walk the regular files of an archive; each file's contents must be used up before the next.

    Raises:
        CorruptArtifact: the archive is damaged or cut off.
        UnsafeArchive: it holds anything but regular files under plain names.
    """
    while True:
        block = stream.read(BLOCK_BYTES)
        if len(block) < BLOCK_BYTES:
            raise CorruptArtifact(f"{where}: the tar has no end mark; fetch or build it again")
        if not any(block):
            _check_end(stream, where=where)
            return
        member = _member(block, where=where)
        left = member.size_bytes

        def contents(member: Member = member) -> Iterator[bytes]:
            nonlocal left
            while left:
                part = stream.read(min(left, _READ_BYTES))
                if not part:
                    raise CorruptArtifact(f"{where}: cut off inside {member.path}; fetch or build it again")
                left -= len(part)
                yield part

        body = contents()
        yield member, body
        for _ in body:
            pass  # what the caller did not want must still be read past
        if any(stream.read(-member.size_bytes % BLOCK_BYTES)):
            raise CorruptArtifact(f"{where}: bytes hidden in the padding after {member.path}; refused")


def _check_end(stream: GzipReader, *, where: str) -> None:
    rest = stream.read(_MOST_AFTER_BYTES + 1)
    if any(rest):
        raise CorruptArtifact(f"{where}: something follows the end of the tar; refused")
    if len(rest) > _MOST_AFTER_BYTES:
        raise UnsafeArchive(
            f"{where}: goes on with more than {_MOST_AFTER_BYTES} bytes of zeros behind its end; refused"
        )


def _member(block: bytes, *, where: str) -> Member:
    if block[257:265] != b"ustar\x0000":
        raise CorruptArtifact(f"{where}: a tar header has the magic {block[257:265]!r}, expected USTAR; rebuild it")
    try:
        claimed = int(block[148:156].rstrip(b"\0 ") or b"0", 8)
    except ValueError:
        claimed = -1
    if claimed != sum(block[:148]) + 8 * 32 + sum(block[156:]):
        raise CorruptArtifact(f"{where}: a tar header's checksum does not fit; fetch or build it again")
    path = _text(block[0:100], where=where)
    prefix = _text(block[345:500], where=where)
    if prefix:
        path = f"{prefix}/{path}"
    kind = block[156:157]
    if kind not in {b"0", b"\0"}:
        raise UnsafeArchive(
            f"{where}: {path!a} is {_REFUSED.get(kind, f'an entry of type {kind!r}')}; "
            "a bundle holds regular files only"
        )
    return Member(
        path=path,
        size_bytes=_octal(block[124:136], what=f"size of {path!a}", where=where),
        executable=bool(_octal(block[100:108], what=f"mode of {path!a}", where=where) & 0o100),
    )


def _text(field: bytes, *, where: str) -> str:
    raw, _, rest = field.partition(b"\0")
    if any(rest):
        raise UnsafeArchive(f"{where}: the path {raw!r} has bytes hidden behind a NUL; refused")
    try:
        return raw.decode("ascii")
    except UnicodeDecodeError as problem:
        raise UnsafeArchive(f"{where}: the path {raw!r} is not plain ASCII; rename the file and rebuild") from problem


def _octal(field: bytes, *, what: str, where: str) -> int:
    text = field.rstrip(b"\0 ").lstrip(b" ")
    # GNU's base-256 numbers (first bit set) can be negative or beyond any disk, and no bundle needs them
    if not text or any(byte not in b"01234567" for byte in text):
        raise UnsafeArchive(f"{where}: the {what} is written as {field!r}, expected octal digits; refused")
    return int(text, 8)
