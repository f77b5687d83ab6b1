"""Throw-away SSH keys, and the `SshAccess` that goes with a test server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import asyncssh

from pytest_edgehil.model.board import SshAccess


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """`path` is the private key; `public` is ``<type> <base64>``."""

    path: Path
    public: str


def make_key(path: Path, algorithm: str = "ssh-ed25519", *, passphrase: str | None = None) -> KeyPair:
    key = asyncssh.generate_private_key(algorithm)
    path.touch(mode=0o600)
    path.write_bytes(key.export_private_key(passphrase=passphrase))
    public = " ".join(key.export_public_key().decode().split()[:2])
    return KeyPair(path=path, public=public)


def access_to(port: int, *, user: str, client: KeyPair, host_key: str) -> SshAccess:
    return SshAccess(host="127.0.0.1", port=port, user=user, key_path=client.path, host_key=host_key)
