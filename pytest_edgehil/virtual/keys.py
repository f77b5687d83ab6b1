"""A board's keys: made once per board directory, and kept.

The host key (Ed25519) is the board's identity on the wire. The identity key (ECDSA P-256) is what a Pi 5 keeps in
one-time-programmable memory and uses through ``rpi-fw-crypto``; here it lies outside of the disk, where the board's own
processes do not see it unless they look for it (they run as the same user of the host: this is an imitation, not a
safe). The client key is the one that the lab logs in with.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pytest_edgehil.errors import ConfigError
from pytest_edgehil.virtual.blueprint import write_private
from pytest_edgehil.virtual.ssh_library import asyncssh


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardKeys:
    """The keys of one board, loaded."""

    host: asyncssh.SSHKey
    client_path: Path
    client_public: asyncssh.SSHKey
    identity: ec.EllipticCurvePrivateKey
    identity_public_path: Path

    @property
    def host_key(self) -> str:
        """The host's public key as in a known_hosts line without its host."""
        return " ".join(self.host.export_public_key().decode().split()[:2])

    def identity_pem(self) -> bytes:
        """PEM of the identity's public key."""
        return self.identity.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, message: bytes) -> bytes:
        """ECDSA P-256 with SHA-256 over the message, DER."""
        return self.identity.sign(message, ec.ECDSA(hashes.SHA256()))


def board_keys(directory: Path) -> BoardKeys:
    """Load the keys of a board, making those that are not there yet.

    Raises:
        ConfigError: a key file cannot be read as a key.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    host, client, identity = (directory / name for name in ("host_ed25519", "client_ed25519", "identity.pem"))
    for path in (host, client):
        if not path.exists():
            write_private(path, asyncssh.generate_private_key("ssh-ed25519").export_private_key())
    if not identity.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_private(identity, pem)
    try:
        loaded = serialization.load_pem_private_key(identity.read_bytes(), password=None)
        host_key, client_key = asyncssh.read_private_key(host), asyncssh.read_private_key(client)
    except (ValueError, OSError, asyncssh.KeyImportError) as problem:
        raise ConfigError(
            f"a key below {directory} cannot be read: {problem}; remove it to have a new one"
        ) from problem
    if not isinstance(loaded, ec.EllipticCurvePrivateKey) or not isinstance(loaded.curve, ec.SECP256R1):
        raise ConfigError(f"{identity} holds no ECDSA P-256 key; remove it to have a new one")
    public = directory / "identity.pub.pem"
    keys = BoardKeys(
        host=host_key,
        client_path=client,
        client_public=client_key.convert_to_public(),
        identity=loaded,
        identity_public_path=public,
    )
    write_private(public, keys.identity_pem(), mode=0o644)
    for path, pair in ((client, client_key), (host, host_key)):
        write_private(path.with_name(f"{path.name}.pub"), pair.convert_to_public().export_public_key(), mode=0o644)
    return keys


def read_authorized(path: Path) -> asyncssh.SSHKey:
    """Public key of a client from its private or public key file.

    Raises:
        ConfigError: the file is no key, or wants a passphrase.
    """
    try:
        return asyncssh.read_private_key(path).convert_to_public()
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError):
        pass  # a public key file does as well, which the next line finds out
    except OSError as problem:
        raise ConfigError(f"ssh key {path}: {problem.strerror}") from problem
    try:
        return asyncssh.read_public_key(path)
    except (OSError, asyncssh.KeyImportError) as problem:
        raise ConfigError(f"ssh key {path}: {problem}") from problem
