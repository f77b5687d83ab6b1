"""Whom we believe: the public keys of labs and boards, and what kind of board each key belongs to.

A statement can claim any environment; what counts is the pool in which the key that signed it was enrolled. A key
of a virtual board is enrolled by whoever starts the board; a key of any other board is enrolled by a person, in a
trust file, never by what a lab file claims. A key that was enrolled as one kind can never become another kind.

The trust file::

    trust: 1
    lab_keys:                                # whose seal on evidence counts
      - key: ed25519:8f0c…                   # 64 hexadecimal digits, or
      - path: keys/lab.pub.pem               # PEM, relative to this file
    boards:
      - board: pi5-01
        kind: hardware                       # hardware | emulated | virtual
        class: pi5-8gb-hat2                  # optional: then a statement must name this class
        path: keys/pi5-01.pem                # or key: with the PEM text itself
    rollout_keys:                            # optional: whose rollout decisions count
      - path: keys/rollout.pub.pem
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field
from securesystemslib.signer import Key

from pytest_edgehil.documents.checking import Section, checked
from pytest_edgehil.documents.reading import Document, FileKind, KeyPath, first_only, read_document
from pytest_edgehil.errors import ConfigError
from pytest_edgehil.evidence import keys
from pytest_edgehil.evidence.files import locked, write_atomically
from pytest_edgehil.model.board import Environment
from pytest_edgehil.places import state_directory

_KIND = FileKind(noun="trust file", expected="'trust: 1'", refusal=first_only(ConfigError), anchors=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardKey:
    """A board's enrolled identity.

    Args:
        board_id: the board that holds the private half.
        kind: what the board really is, whatever a statement says.
        cls: the board's class, or None if it was not stated at enrolment.
    """

    board_id: str
    kind: Environment
    key: Key
    cls: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """The keys that count, by role."""

    lab_keys: tuple[Key, ...]
    boards: tuple[BoardKey, ...]
    rollout_keys: tuple[Key, ...] = ()

    def __post_init__(self) -> None:
        roles = (("lab_keys", self.lab_keys), ("rollout_keys", self.rollout_keys))
        boards = {one.key.keyid for one in self.boards}
        for name, role in roles:
            for key in role:
                if key.keyid in boards:
                    raise ConfigError(f"{name}: key {key.keyid[:12]} is a board's key too; one key has one role")

    def board_key(self, key_id: str) -> BoardKey | None:
        """The enrolment of this key, if there is one."""
        return next((one for one in self.boards if one.key.keyid == key_id), None)

    def with_lab(self, key: Key) -> Trust:
        """This trust and one more lab key, for example one that the user named."""
        if any(one.keyid == key.keyid for one in self.lab_keys):
            return self
        return dataclasses.replace(self, lab_keys=(*self.lab_keys, key))


class _KeyEntry(Section):
    key: str | None = None
    path: str | None = None


class _BoardEntry(_KeyEntry):
    board: str = Field(min_length=1)
    kind: Literal["hardware", "emulated", "virtual"]
    cls: str | None = Field(default=None, alias="class")


class _TrustFile(Section):
    trust: Literal[1]
    lab_keys: list[_KeyEntry] = Field(default_factory=list)
    boards: list[_BoardEntry] = Field(default_factory=list)
    rollout_keys: list[_KeyEntry] = Field(default_factory=list)


def load_trust(path: Path) -> Trust:
    """Read a trust file.

    Raises:
        ConfigError: the file or a key in it is missing or malformed, or a key is enrolled twice.
    """
    document = read_document(path, _KIND)
    found = checked(document, _TrustFile)
    boards: list[BoardKey] = []
    for i, entry in enumerate(found.boards):
        key = _key(entry, document, ("boards", i))
        one = BoardKey(board_id=entry.board, kind=Environment(entry.kind), key=key, cls=entry.cls)
        _check_enrolment(one, boards, where=document.place(("boards", i)))
        boards.append(one)
    return Trust(
        lab_keys=tuple(_key(entry, document, ("lab_keys", i)) for i, entry in enumerate(found.lab_keys)),
        boards=tuple(boards),
        rollout_keys=tuple(_key(entry, document, ("rollout_keys", i)) for i, entry in enumerate(found.rollout_keys)),
    )


def default_trust(*, state_dir: Path | None = None) -> Trust:
    """This user's own lab and rollout keys, if they have been made, and the boards that were enrolled.

    Checking something makes no keys: a key is made when it first signs.
    """
    state = state_dir or state_directory()
    enrolled = enrolment_file(state)
    boards = load_trust(enrolled).boards if enrolled.exists() else ()
    return Trust(
        lab_keys=_own(state / "keys" / "lab.pem"),
        boards=boards,
        rollout_keys=_own(state / "keys" / "rollout.pem"),
    )


def _own(path: Path) -> tuple[Key, ...]:
    return (keys.load_signer(path).public_key,) if path.exists() else ()


def enrolment_file(state_dir: Path) -> Path:
    """Where `enroll` writes: a trust file that holds boards only."""
    return state_dir / "trust" / "boards.yaml"


def enroll(
    board_id: str, *, kind: Environment, pem: bytes | str, cls: str | None = None, state_dir: Path | None = None
) -> str:
    """Add a board's identity key to the default trust; doing it again changes nothing.

    Call it with the key that the *host* knows (`Board.identity_key`), never with one that came over the wire, and
    with the kind that the lab file states.

    Returns:
        The key's id.

    Raises:
        ConfigError: the key is enrolled as another kind or for another board, or hardware has another key already.
    """
    state = state_dir or state_directory()
    path = enrolment_file(state)
    one = BoardKey(board_id=board_id, kind=kind, key=keys.public_key(pem, what=f"key of board {board_id}"), cls=cls)
    with locked(path.with_name(".lock")):
        enrolled = list(load_trust(path).boards) if path.exists() else []
        if any(have.key.keyid == one.key.keyid and have == one for have in enrolled):
            return str(one.key.keyid)
        _check_enrolment(one, enrolled, where=f"board {board_id}")
        text = yaml.safe_dump(
            {"trust": 1, "boards": [_to_entry(have) for have in [*enrolled, one]]}, sort_keys=False, width=100
        )
        write_atomically(path, text.encode("utf-8"), mode=0o600)
    return str(one.key.keyid)


def _check_enrolment(one: BoardKey, others: list[BoardKey], *, where: str) -> None:
    for other in others:
        if other.key.keyid == one.key.keyid:
            raise ConfigError(
                f"{where}: its key {one.key.keyid[:12]} is enrolled as {other.kind} board {other.board_id}"
                f"{f' of class {other.cls}' if other.cls else ''}; one key is one board of one kind"
            )
        # a virtual or emulated board that was wiped makes itself a new key; hardware never does
        both_made = one.kind is other.kind and one.kind in (Environment.VIRTUAL, Environment.EMULATED)
        if other.board_id == one.board_id and not both_made:
            raise ConfigError(
                f"{where}: another key ({other.key.keyid[:12]}, {other.kind}) is enrolled for board {one.board_id}; "
                f"if the board was really replaced, take the old key out of the trust first"
            )


def _key(entry: _KeyEntry, document: Document, where: KeyPath) -> Key:
    if (entry.key is None) == (entry.path is None):
        raise document.error(where, "give either key or path")
    if entry.path is not None:
        target = document.source.parent / Path(entry.path).expanduser()
        try:
            return keys.public_key(target.read_bytes(), what=str(target))
        except OSError as problem:
            raise document.error((*where, "path"), f"{target} cannot be read: {problem.strerror}") from problem
    assert entry.key is not None
    what = document.place((*where, "key"))
    if entry.key.startswith("ed25519:"):
        return keys.ed25519_from_hex(entry.key.removeprefix("ed25519:"), what=what)
    return keys.public_key(entry.key, what=what)


def _to_entry(one: BoardKey) -> dict[str, str]:
    entry = {"board": one.board_id, "kind": one.kind.value}
    if one.cls is not None:
        entry["class"] = one.cls
    return {**entry, "key": one.key.keyval["public"]}
