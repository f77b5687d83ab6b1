"""Key files: private keys that only their owner can read, and one name for a public key.

Private keys are PKCS#8 PEM files with mode 0600, made when they are first needed. A key's id is the one that
securesystemslib computes from the public key, so that our envelopes and TUF metadata agree with other tools.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.signer import CryptoSigner, Key, SSlibKey

from pytest_edgehil.errors import ConfigError
from pytest_edgehil.places import state_directory


def lab_signer(path: Path | None = None) -> CryptoSigner:
    """The lab's signing key; it is made on first use.

    Args:
        path: the key file; default ``keys/lab.pem`` in the state directory.

    Raises:
        ConfigError: see `load_signer`.
    """
    return load_or_create_signer(path or state_directory() / "keys" / "lab.pem")


def rollout_signer(path: Path | None = None) -> CryptoSigner:
    """The key that signs rollout decisions, another one than the lab's; it is made on first use."""
    return load_or_create_signer(path or state_directory() / "keys" / "rollout.pem")


def load_or_create_signer(path: Path) -> CryptoSigner:
    """Load an Ed25519 key file, or make it with mode 0600. Two processes that race end up with one key."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        _write_new(path, pem)
    return load_signer(path)


def load_signer(path: Path) -> CryptoSigner:
    """Load a private key file: Ed25519 or ECDSA P-256.

    Raises:
        ConfigError: the file is missing, readable by others, or holds no such key.
    """
    try:
        data = path.read_bytes()
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as problem:
        raise ConfigError(f"{path}: the key cannot be read: {problem.strerror}") from problem
    if mode & 0o077:
        raise ConfigError(
            f"{path}: the private key has mode {mode:04o}, others can read it; expected 0600: "
            f"if nobody has copied it run chmod 600 {path}, else make a new key"
        )
    try:
        return CryptoSigner(load_pem_private_key(data, password=None))
    except (ValueError, TypeError, UnsupportedAlgorithm) as problem:
        raise ConfigError(f"{path}: this is no unencrypted Ed25519 or ECDSA P-256 private key in PEM form") from problem


def public_key(pem: bytes | str, *, what: str) -> Key:
    """A public key from PEM: ECDSA P-256 or Ed25519.

    Args:
        pem: the PEM text.
        what: names the source in the error.

    Raises:
        ConfigError: it is no such key.
    """
    data = pem.encode("ascii", "replace") if isinstance(pem, str) else pem
    try:
        found = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as problem:
        raise ConfigError(f"{what}: this is no public key in PEM form") from problem
    if isinstance(found, EllipticCurvePublicKey) and isinstance(found.curve, SECP256R1):
        return SSlibKey.from_crypto(found)
    if isinstance(found, Ed25519PublicKey):
        return SSlibKey.from_crypto(found)
    raise ConfigError(f"{what}: expected an ECDSA P-256 or Ed25519 public key, found {type(found).__name__}")


def ed25519_from_hex(text: str, *, what: str) -> Key:
    """An Ed25519 public key from its 32 bytes in hexadecimal."""
    try:
        return SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(bytes.fromhex(text)))
    except ValueError as problem:
        raise ConfigError(f"{what}: expected 64 hexadecimal digits of an Ed25519 public key") from problem


def key_id(pem: bytes | str) -> str:
    """The id under which a public key signs: what a board's `Attestation.key_id` holds."""
    return str(public_key(pem, what="public key").keyid)


def _write_new(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp makes it 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(name, path)  # fails if somebody else was first; a rename would replace their key
        except FileExistsError:
            return
    finally:
        Path(name).unlink()
