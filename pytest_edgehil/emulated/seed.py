"""A board's seed: who it is, written to its second disk when it starts.

Boards of one template are the same machine in the same state until they have read it. It carries entropy for the
random generator, the time of day, the keys, and the serial number; the image's ``become.py`` reads it.
"""

from __future__ import annotations

import base64
import json
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_edgehil.errors import ConfigError

SEED_BYTES = 65536
_ENTROPY_BYTES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """Who a board is.

    Args:
        host_key: private key file of its SSH server, OpenSSH's format, Ed25519.
        identity_key: private key file that it signs evidence with, PEM.
        authorized_keys: who may log in, one line of OpenSSH's format each.
    """

    hostname: str
    serial: str
    host_key: Path
    identity_key: Path
    authorized_keys: Sequence[str]

    def pack(self, *, epoch_ns: int) -> bytes:
        """What the second disk begins with.

        Args:
            epoch_ns: nanoseconds since 1970, for the board's clock.
        """
        document = {
            "hostname": self.hostname,
            "serial": self.serial,
            "host_key": _text(dropbear_key(self.host_key)),
            "identity_key": _text(self.identity_key.read_bytes()),
            "authorized_keys": list(self.authorized_keys),
            "entropy": _text(os.urandom(_ENTROPY_BYTES)),
            "epoch_ns": epoch_ns,
        }
        data = json.dumps(document).encode()
        packed = struct.pack(">I", len(data)) + data
        if len(packed) > SEED_BYTES:
            raise ConfigError(f"{self.hostname}: {len(packed)} bytes of keys are too many for a board's seed")
        return packed


def write_seed(path: Path, packed: bytes) -> None:
    """Write a seed so that the board sees all of it or nothing: the sector with its length comes last.

    The file stays the one that QEMU has open.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, SEED_BYTES)
        os.pwrite(descriptor, packed[4:], 4)
        if packed:
            os.pwrite(descriptor, packed[:4], 0)
    finally:
        os.close(descriptor)


def dropbear_key(path: Path) -> bytes:
    """A private Ed25519 key as Dropbear keeps it: the type, and private and public key in one string (ed25519.c).

    Raises:
        ConfigError: it is no such key.
    """
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    except ValueError as problem:
        raise ConfigError(f"{path} is no private key: {problem}") from problem
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path} is no Ed25519 key; remove it to have a new one")
    private = key.private_bytes(
        serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    kind = b"ssh-ed25519"
    return struct.pack(">I", len(kind)) + kind + struct.pack(">I", len(private + public)) + private + public


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
