"""JSON whose bytes can be signed: one way to write a value, and no leeway in reading one.

Writing is RFC 8785. Reading refuses what parsers disagree about (duplicate names, NaN, Infinity), because two
parsers that disagree about a signed document are a way around its signature.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NoReturn

import rfc8785

from pytest_edgehil.errors import EvidenceError


def to_bytes(value: Any) -> bytes:
    """Write a value as RFC 8785 canonical JSON.

    Raises:
        EvidenceError: it holds NaN, an infinity, or an integer that JSON readers would round (beyond ±2^53).

    >>> to_bytes({"b": 1, "a": [1.5, None]})
    b'{"a":[1.5,null],"b":1}'
    """
    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError as problem:
        raise EvidenceError(f"the value cannot be written as canonical JSON: {problem}") from problem


def from_bytes(data: bytes, *, what: str) -> Any:
    """Read JSON strictly.

    Args:
        data: the document.
        what: names the document in the error.

    Raises:
        EvidenceError: not UTF-8, no JSON, a duplicate name, or a number that is none.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise EvidenceError(f"{what}: the name {name!r} appears twice in one object")
            found[name] = value
        return found

    def no_number(text: str) -> NoReturn:
        raise EvidenceError(f"{what}: {text} is no JSON number")

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_number)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as problem:
        raise EvidenceError(f"{what}: this is no JSON: {problem}") from problem


def sha256_hex(data: bytes) -> str:
    """SHA-256, lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def digest_of(data: bytes) -> str:
    """SHA-256 as it is written everywhere here: ``sha256:<hex>``."""
    return f"sha256:{sha256_hex(data)}"


def hex_of(digest: str) -> str:
    """The hexadecimal part of ``sha256:<hex>``.

    Raises:
        EvidenceError: it has another form.

    >>> hex_of("sha256:" + "0" * 64) == "0" * 64
    True
    """
    algorithm, _, value = digest.partition(":")
    if algorithm != "sha256" or len(value) != 64 or any(c not in "0123456789abcdef" for c in value):
        raise EvidenceError(f"{digest!r} is no digest: expected sha256: and 64 lower-case hexadecimal digits")
    return value


class Fields:
    """Typed access to the members of a parsed JSON object; every refusal names the path."""

    __slots__ = ("_value", "_where")

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, Mapping):
            raise EvidenceError(f"{where}: expected an object, not {_kind(value)}")
        self._value = value
        self._where = where

    def text(self, name: str) -> str:
        """A string that must be there."""
        value = self._value.get(name)
        if not isinstance(value, str):
            raise EvidenceError(f"{self._where}.{name}: expected text, not {_kind(value)}")
        return value

    def text_or_none(self, name: str) -> str | None:
        """A string, null or absent."""
        return None if self._value.get(name) is None else self.text(name)

    def integer(self, name: str) -> int:
        """An integer that must be there; a boolean is none."""
        value = self._value.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise EvidenceError(f"{self._where}.{name}: expected an integer, not {_kind(value)}")
        return value

    def number(self, name: str) -> float:
        """A number that must be there."""
        value = self._value.get(name)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise EvidenceError(f"{self._where}.{name}: expected a number, not {_kind(value)}")
        return float(value)

    def flag(self, name: str) -> bool:
        """A boolean that must be there."""
        value = self._value.get(name)
        if not isinstance(value, bool):
            raise EvidenceError(f"{self._where}.{name}: expected true or false, not {_kind(value)}")
        return value

    def each(self, name: str) -> list[Any]:
        """A list that must be there."""
        value = self._value.get(name)
        if not isinstance(value, list):
            raise EvidenceError(f"{self._where}.{name}: expected a list, not {_kind(value)}")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings that must be there."""
        found = self.each(name)
        if not all(isinstance(one, str) for one in found):
            raise EvidenceError(f"{self._where}.{name}: expected a list of texts")
        return tuple(found)

    def mapping(self, name: str) -> Mapping[str, Any]:
        """An object that must be there, as it is."""
        value = self._value.get(name)
        if not isinstance(value, Mapping):
            raise EvidenceError(f"{self._where}.{name}: expected an object, not {_kind(value)}")
        return value

    def fields(self, name: str) -> Fields:
        """An object that must be there, for typed access."""
        return Fields(self._value.get(name), f"{self._where}.{name}")

    def objects(self, name: str) -> list[Fields]:
        """A list of objects that must be there."""
        return [Fields(one, f"{self._where}.{name}[{i}]") for i, one in enumerate(self.each(name))]

    def raw(self, name: str) -> Any:
        """Whatever is there, or None."""
        return self._value.get(name)


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"
