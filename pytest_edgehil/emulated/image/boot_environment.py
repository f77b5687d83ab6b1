r"""U-Boot's environment, as its ``env import -c`` and libubootenv's ``fw_printenv`` read it.

CRC-32 (little-endian) over what follows, then ``name=value\0`` pairs, a NUL, and padding (U-Boot, ``env/common.c``).
Without the flag byte of a redundant environment: the slots' variables fit into one sector, which a disk writes as a
whole, so one copy is enough to survive a power cut.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

from pytest_edgehil.errors import ConfigError


def pack_environment(variables: Mapping[str, str], size_bytes: int) -> bytes:
    """An environment of exactly so many bytes.

    Raises:
        ConfigError: the variables do not fit.
    """
    pairs = b"".join(f"{name}={value}".encode() + b"\0" for name, value in variables.items()) + b"\0"
    if len(pairs) > size_bytes - 4:
        raise ConfigError(f"boot environment: {len(pairs) + 4} bytes do not fit into {size_bytes}")
    data = pairs.ljust(size_bytes - 4, b"\0")
    return struct.pack("<I", zlib.crc32(data)) + data


def unpack_environment(data: bytes) -> dict[str, str]:
    """The variables.

    Raises:
        ConfigError: the checksum is wrong.

    >>> unpack_environment(pack_environment({"BOOT_ORDER": "A B"}, 512))
    {'BOOT_ORDER': 'A B'}
    """
    (crc,) = struct.unpack_from("<I", data)
    if crc != zlib.crc32(data[4:]):
        raise ConfigError("boot environment: its checksum is wrong")
    pairs = data[4:].split(b"\0\0")[0].split(b"\0")
    return dict(pair.decode().split("=", 1) for pair in pairs if pair)


def boot_command(script: str) -> str:
    r"""A script of U-Boot's shell as the one line that a variable holds; lines that begin with ``#`` are left out.

    >>> boot_command("# first\nvirtio scan\nif true; then\n  boota;\nfi")
    'virtio scan; if true; then boota; fi'
    """
    line = ""
    for raw in script.splitlines():
        part = raw.strip()
        if not part or part.startswith("#"):
            continue
        glue = "" if not line else " " if line.endswith((";", "then", "else", "do")) else "; "
        line += glue + part
    return line
