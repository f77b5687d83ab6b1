"""A flattened device tree: read, change, write. As much as an emulated board needs, and no tool to install for it.

Format: Devicetree Specification v0.4, chapter 5. Version 17 is read and written. Names of nodes hold their unit
address (``cpu@0``); values of properties are bytes, made with `cells`, `text` and `texts`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from pytest_edgehil.errors import ConfigError

_MAGIC = 0xD00DFEED
_BEGIN_NODE, _END_NODE, _PROP, _NOP, _END = 1, 2, 3, 4, 9
_HEADER = struct.Struct(">10I")


@dataclass(slots=True)
class Node:
    """One node: its properties and its children, in order."""

    properties: dict[str, bytes] = field(default_factory=dict)
    children: dict[str, Node] = field(default_factory=dict)

    def child(self, name: str) -> Node:
        """A child, made when it is not there."""
        return self.children.setdefault(name, Node())

    def walk(self) -> Iterator[Node]:
        """This node and all below it."""
        yield self
        for child in self.children.values():
            yield from child.walk()


def cells(*values: int) -> bytes:
    """Numbers of 32 bits.

    >>> cells(1, 255).hex()
    '00000001000000ff'
    """
    return struct.pack(f">{len(values)}I", *values)


def wide(value: int) -> bytes:
    """A number of 64 bits: two cells."""
    return struct.pack(">Q", value)


def text(value: str) -> bytes:
    """A string with its NUL."""
    return value.encode() + b"\0"


def phandles(root: Node) -> Iterator[int]:
    """Every phandle in use."""
    for node in root.walk():
        if "phandle" in node.properties:
            yield int.from_bytes(node.properties["phandle"], "big")


def parse(blob: bytes) -> Node:
    """Read a blob.

    Raises:
        ConfigError: it is none.
    """
    try:
        magic, _, at, strings_at, _, _, _, _, strings_size, _ = _HEADER.unpack_from(blob)
        if magic != _MAGIC:
            raise ConfigError(f"no device tree: it begins with {magic:#x}, expected {_MAGIC:#x}")
        strings = blob[strings_at : strings_at + strings_size]
        above: list[Node] = [Node()]
        while True:
            (token,) = struct.unpack_from(">I", blob, at)
            at += 4
            if token == _BEGIN_NODE:
                end = blob.index(b"\0", at)
                above.append(above[-1].child(blob[at:end].decode()))
                at = _aligned(end + 1)
            elif token == _END_NODE:
                above.pop()
            elif token == _PROP:
                size, name_at = struct.unpack_from(">2I", blob, at)
                name = strings[name_at : strings.index(b"\0", name_at)].decode()
                above[-1].properties[name] = blob[at + 8 : at + 8 + size]
                at = _aligned(at + 8 + size)
            elif token == _END:
                return above[0].children[""]
            elif token != _NOP:
                raise ConfigError(f"no device tree: unknown token {token} at byte {at - 4}")
    except (struct.error, ValueError, KeyError, IndexError) as problem:
        raise ConfigError(f"no device tree: it ends too early or is damaged ({problem})") from problem


def serialise(root: Node) -> bytes:
    """Write a blob."""
    names: dict[str, int] = {}
    strings = bytearray()
    body = bytearray()

    def put(name: str, node: Node) -> None:
        body.extend(cells(_BEGIN_NODE) + _padded(text(name)))
        for key, value in node.properties.items():
            if key not in names:
                names[key] = len(strings)
                strings.extend(text(key))
            body.extend(cells(_PROP, len(value), names[key]) + _padded(value))
        for child_name, child in node.children.items():
            put(child_name, child)
        body.extend(cells(_END_NODE))

    put("", root)
    body.extend(cells(_END))
    reserved = bytes(16)  # an empty list of memory reservations
    struct_at = _HEADER.size + len(reserved)
    strings_at = struct_at + len(body)
    total = strings_at + len(strings)
    header = _HEADER.pack(
        _MAGIC, total, struct_at, strings_at, _HEADER.size, 17, 16, 0, len(strings), len(body)
    )  # fmt: skip
    return header + reserved + bytes(body) + bytes(strings)


def _aligned(at: int) -> int:
    return (at + 3) & ~3


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
