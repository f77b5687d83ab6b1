"""Which libraries a program needs: so that an image lacking one is refused when it is built, not when it runs.

Format: System V ABI, chapters 4 and 5 (section ``.dynamic``); little-endian and 64 bits, as every board here is.
"""

from __future__ import annotations

import struct
from pathlib import Path

_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NULL, _DT_NEEDED, _DT_STRTAB = 0, 1, 5


def needed_libraries(data: bytes) -> list[str]:
    """Names of the libraries that a program or library asks the loader for; empty for anything else."""
    if data[:6] != b"\x7fELF\x02\x01":
        return []
    (headers_at,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    loads: list[tuple[int, int, int]] = []
    dynamic = (0, 0)
    for at in range(headers_at, headers_at + size * count, size):
        kind, _, offset, address, _, in_file = struct.unpack_from("<IIQQQQ", data, at)
        if kind == _PT_LOAD:
            loads.append((address, offset, in_file))
        elif kind == _PT_DYNAMIC:
            dynamic = offset, in_file
    entries = list(struct.iter_unpack("<QQ", data[dynamic[0] : dynamic[0] + dynamic[1] // 16 * 16]))
    tables = [value for tag, value in entries if tag == _DT_STRTAB]
    if not tables:
        return []
    strings_at = next(
        offset + tables[0] - address for address, offset, in_file in loads if address <= tables[0] < address + in_file
    )
    names = []
    for tag, value in entries:
        if tag == _DT_NULL:
            break
        if tag == _DT_NEEDED:
            start = strings_at + value
            names.append(data[start : data.index(b"\0", start)].decode())
    return names


def missing_libraries(tree: Path) -> dict[str, list[str]]:
    """Library → the programs and libraries of a tree that need it and do not find it anywhere in the tree."""
    there = {path.name for path in tree.rglob("*.so*")}
    missing: dict[str, list[str]] = {}
    for path in sorted(tree.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        with path.open("rb") as file:
            if file.read(4) != b"\x7fELF":
                continue
        for name in needed_libraries(path.read_bytes()):
            if name not in there:
                missing.setdefault(name, []).append(path.relative_to(tree).as_posix())
    return missing
