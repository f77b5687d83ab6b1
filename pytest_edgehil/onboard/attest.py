"""The board's own signature: only about what it hashed itself, only in its own name.

The payload is an in-toto Statement made by the host. The board checks the three things that it alone can know: that
the one subject is an artifact that it loaded or has active and hashed with its own hands, that the serial number is
its own, and that the requester still holds it. Then it signs the DSSE pre-authentication encoding with the key in
its OTP memory (``rpi-fw-crypto``, ECDSA P-256 with SHA-256). Format of the encoding: secure-systems-lab/dsse v1.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from .manifest import unique_keys
from .problem import Problem
from .sensors import serial

PAYLOAD_TYPE = b"application/vnd.in-toto+json"
MAX_PAYLOAD_BYTES = 4 * 2**20
KEY_ID = "1"
TOOL_TIMEOUT_S = 30.0


def pae(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %b %d %b" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE, len(payload), payload)


def check(payload: bytes, *, vouched: Callable[[str], bool]) -> None:
    """Refuse a statement that this board cannot vouch for.

    Args:
        payload: the in-toto Statement.
        vouched: has the board loaded or activated, and hashed, the artifact with this digest?

    Raises:
        Problem: ``not-attestable``.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise _refuse(f"it has {len(payload)} bytes; the limit is {MAX_PAYLOAD_BYTES}")
    try:
        statement = json.loads(payload, object_pairs_hook=unique_keys)
        subjects = statement["subject"]
        (subject,) = subjects
        digests = dict(subject["digest"])
        environment = statement["predicate"]["environment"]
        claimed = environment["boardSerial"]
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise _refuse(f"it is no statement with one subject and environment.boardSerial ({exc!r})") from exc
    if set(digests) != {"sha256"}:
        raise _refuse(f"its subject has the digests {sorted(digests)}, expected sha256 alone")
    mine = serial()
    if not mine:
        raise _refuse("this board has no serial number in its device tree")
    if claimed != mine:
        raise _refuse(f"it speaks of board {str(claimed)[:64]!r}; this board is {mine!r}")
    digest = f"sha256:{digests['sha256']}"
    if not vouched(digest):
        raise _refuse(f"its subject {digest[:80]} is nothing that this board has loaded or activated")


def sign(payload: bytes) -> tuple[bytes, str]:
    """Signature (DER) over the encoding of a payload, and the board's public key (PEM).

    Raises:
        Problem: ``no-identity``: the tool is missing or fails.
    """
    with tempfile.TemporaryDirectory(prefix="edgehil-") as name:
        directory = Path(name)
        (directory / "pae").write_bytes(pae(payload))
        _tool(
            "sign", "--in", str(directory / "pae"), "--key-id", KEY_ID, "--alg", "ec", "--out", str(directory / "sig")
        )
        _tool("pubkey", "--key-id", KEY_ID, "--out", str(directory / "key"))
        try:
            return (directory / "sig").read_bytes(), (directory / "key").read_text()
        except (OSError, UnicodeDecodeError) as exc:
            raise Problem("no-identity", f"rpi-fw-crypto left no signature or key: {exc}") from exc


def _refuse(why: str) -> Problem:
    return Problem("not-attestable", f"the board does not sign this statement: {why}")


def _tool(*arguments: str) -> None:
    program = shutil.which("rpi-fw-crypto")
    if program is None:
        raise Problem("no-identity", "the board has no rpi-fw-crypto, so it cannot sign evidence")
    try:
        done = subprocess.run(
            [program, *arguments],
            capture_output=True,
            text=True,
            timeout=TOOL_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise Problem("no-identity", f"rpi-fw-crypto {arguments[0]} failed: {exc}") from exc
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-200:]
        raise Problem("no-identity", f"rpi-fw-crypto {arguments[0]} ended with status {done.returncode}: {said}")
