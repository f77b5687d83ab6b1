"""The files that a lab names but does not hold: private keys for SSH, public keys of boards.

Whether they exist is a question about this host, so loading a lab does not ask it; ``edgehil lab check`` does, and
what would fail in the middle of a night run is said before it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from pytest_edgehil.documents.reading import Document, KeyPath, Problem, read_document
from pytest_edgehil.lab.inventory import Lab
from pytest_edgehil.lab.schema import LAB_FILE


def check_files(lab: Lab) -> None:
    """Look at every key file that the boards of a lab name.

    Raises:
        LabFileError: files are missing, unreadable, open to others or hold something else; `problems` lists all.
    """
    document = read_document(lab.path, LAB_FILE)
    problems: list[Problem] = []
    for board in lab.boards:
        if board.ssh is not None:
            where: KeyPath = ("boards", board.id, "ssh", "key")
            problems.extend(_said(document, where, _private_key(board.ssh.key_path)))
        if board.identity_key is not None:
            where = ("boards", board.id, "identity_key")
            problems.extend(_said(document, where, _public_key(board.identity_key)))
    if problems:
        raise document.refuse(problems)


def _said(document: Document, where: KeyPath, wrong: str | None) -> Iterator[Problem]:
    if wrong is not None:
        yield document.problem(where, wrong)


def _read(path: Path) -> bytes | str:
    """The content of a file, or what is wrong with it."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return f"there is no file {path}"
    except OSError as wrong:
        return f"cannot read {path}: {wrong.strerror}"
    return content or f"{path} is empty"


def _private_key(path: Path) -> str | None:
    content = _read(path)
    if isinstance(content, str):
        return content
    if b"PRIVATE KEY-----" not in content:
        return f"{path} is no private key: expected a file that begins with '-----BEGIN … PRIVATE KEY-----'"
    status = path.stat()
    if status.st_uid == os.getuid() and status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return f"{path} is open to others (mode {stat.S_IMODE(status.st_mode):04o}): run chmod 600 {path}"
    return None


def _public_key(path: Path) -> str | None:
    content = _read(path)
    if isinstance(content, str):
        return content
    if b"PRIVATE KEY-----" in content:
        return f"{path} holds a private key, which must never leave the board: expected its public key"
    try:
        key = load_pem_public_key(content)
    except ValueError:
        return f"{path} is no PEM public key: expected a file that begins with '-----BEGIN PUBLIC KEY-----'"
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        return f"{path} holds another kind of public key: expected ECDSA on the curve P-256"
    return None
