"""An initial RAM file system, the same bytes for the same contents. Format: cpio "newc", kernel's initramfs docs.

It is not compressed: what a compressor makes of it depends on the zlib of whoever builds (its version, zlib-ng), and
gzip's header on the Python. Two MB more to read cost a board less than unpacking them.
"""

from __future__ import annotations

from collections.abc import Mapping

_DIRECTORY, _FILE, _LINK = 0o040755, 0o100000, 0o120777


def initramfs(files: Mapping[str, bytes], *, executable: frozenset[str], links: Mapping[str, str]) -> bytes:
    """An archive: directories are made as files and links need them; everything belongs to root and has no time."""
    entries: dict[str, tuple[int, bytes]] = {}
    for path in (*files, *links):
        parts = path.split("/")
        for depth in range(1, len(parts)):
            entries["/".join(parts[:depth])] = (_DIRECTORY, b"")
    for path, data in files.items():
        entries[path] = (_FILE | (0o755 if path in executable else 0o644), data)
    for path, target in links.items():
        entries[path] = (_LINK, target.encode())
    archive = bytearray()
    for number, (path, (mode, data)) in enumerate(sorted(entries.items()), start=1):
        _put(archive, number, path, mode, data)
    _put(archive, 0, "TRAILER!!!", 0, b"")
    return bytes(archive)


def _put(archive: bytearray, number: int, path: str, mode: int, data: bytes) -> None:
    name = path.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
    archive += b"070701" + b"".join(b"%08X" % field for field in fields) + name
    archive += bytes(-len(archive) % 4)
    archive += data
    archive += bytes(-len(archive) % 4)
