"""Which key a board must show before anybody logs in, and which key we show it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import struct
from dataclasses import dataclass
from pathlib import Path

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from paramiko.pkey import UnknownKeyType

from pytest_edgehil.errors import ConfigError, HostKeyMismatch
from pytest_edgehil.model.board import SshAccess


@dataclass(frozen=True, slots=True, kw_only=True)
class HostKey:
    """A public host key: its type as in a known_hosts line, and its SSH wire form (RFC 4253 §6.6)."""

    type: str
    blob: bytes

    def __str__(self) -> str:
        return f"{self.type} {fingerprint(self.blob)}"


def fingerprint(blob: bytes) -> str:
    """SHA-256 fingerprint of a public key as OpenSSH prints it (`ssh-keygen -l`).

    >>> fingerprint(b"")
    'SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU'
    """
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii").rstrip("=")


def parse_host_key(text: str, *, board_id: str) -> HostKey:
    """Reads ``<type> <base64>``, with or without a comment behind it.

    Raises:
        ConfigError: it is not a host key.
    """
    wanted = f"{board_id}: ssh.host_key must be '<type> <base64>' as 'ssh-keyscan' prints it behind the host"
    words = text.split()
    if len(words) < 2:
        raise ConfigError(f"{wanted}, not {text[:40]!r}")
    try:
        blob = base64.b64decode(words[1], validate=True)
        (length,) = struct.unpack_from(">I", blob)
        inner = blob[4 : 4 + length].decode("ascii")
    except (binascii.Error, struct.error, UnicodeDecodeError) as exc:
        raise ConfigError(f"{wanted}; its second word is no key: {exc}") from exc
    if inner != words[0]:
        raise ConfigError(f"{wanted}; it says {words[0]} but holds a key of another type: {inner[:40]!r}")
    return HostKey(type=words[0], blob=blob)


def algorithms_for(pinned: HostKey, known: tuple[str, ...]) -> tuple[str, ...]:
    """Host key algorithms to offer: those of the pinned key first, so that a board with several keys shows this one.

    The others stay on offer: a board without a key of the pinned type then shows which one it has, and is refused with
    both fingerprints instead of an error about algorithms.
    """
    first = ("rsa-sha2-512", "rsa-sha2-256") if pinned.type == "ssh-rsa" else (pinned.type,)
    return tuple(sorted(known, key=lambda name: first.index(name) if name in first else len(first)))


def check_host_key(pinned: HostKey, seen: paramiko.PKey, *, board_id: str, access: SshAccess) -> None:
    """Refuses whoever does not show the pinned key.

    Raises:
        HostKeyMismatch: with both fingerprints and what to do.
    """
    shown = HostKey(type=seen.get_name(), blob=seen.asbytes())
    if shown.blob == pinned.blob:
        return
    raise HostKeyMismatch(
        f"{board_id} at {access.host}:{access.port} shows host key {shown}, but the lab pins {pinned}; nobody "
        "was logged in. If the board was installed anew, compare the fingerprint on its serial console "
        "('ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub') and replace ssh.host_key in the lab file; "
        "otherwise another machine answers at this address"
    )


def load_client_key(access: SshAccess, *, board_id: str) -> paramiko.PKey:
    """The private key we log in with.

    Raises:
        ConfigError: the file is missing, unreadable, not a private key, or locked by a passphrase (nobody is asked).
    """
    path = access.key_path.expanduser()
    try:
        try:
            return paramiko.PKey.from_path(path)
        except paramiko.SSHException as exc:
            return _without_padding(path, exc)
    except OSError as exc:
        raise ConfigError(f"{board_id}: the client key {path} cannot be read: {exc.strerror}; check ssh.key") from exc
    except (paramiko.PasswordRequiredException, TypeError) as exc:
        raise ConfigError(
            f"{board_id}: the client key {path} is locked by a passphrase, and nobody is there to be asked; "
            "use a key without one"
        ) from exc
    except (paramiko.SSHException, UnknownKeyType, ValueError, UnsupportedAlgorithm) as exc:
        raise ConfigError(f"{board_id}: {path} is no private key that can be used ({exc}); check ssh.key") from exc


def _without_padding(path: Path, problem: paramiko.SSHException) -> paramiko.PKey:
    """An ECDSA key in OpenSSH's format whose comment is empty, read by way of PEM.

    paramiko takes the last byte of such a key for the length of its padding, even when there is none.
    """
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise problem from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise problem
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    return paramiko.ECDSAKey.from_private_key(io.StringIO(pem.decode("ascii")))
