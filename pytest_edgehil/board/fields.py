"""What a frame of the board says, taken field by field; every one is checked once, here."""

from __future__ import annotations

from typing import Any

from pytest_edgehil.board.wire import Message
from pytest_edgehil.errors import ProtocolError


class Fields:
    """Takes checked values out of a frame's JSON.

    Args:
        values: the JSON object.
        board_id: for messages.
    """

    def __init__(self, values: object, *, board_id: str) -> None:
        self._board_id = board_id
        if not isinstance(values, dict):
            raise ProtocolError(f"{board_id}: an answer holds {str(values)[:80]!r} where an object belongs")
        self._values: Message = values

    def _take(self, name: str, kinds: type | tuple[type, ...], *, optional: bool) -> Any:
        value = self._values.get(name)
        if value is None and optional:
            return None
        kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise ProtocolError(f"{self._board_id}: an answer's {name!r} is {str(value)[:80]!r}, expected {wanted}")
        return value

    def text(self, name: str) -> str:
        """A string."""
        return str(self._take(name, str, optional=False))

    def text_or_none(self, name: str) -> str | None:
        """A string, or null."""
        return self._take(name, str, optional=True)  # type: ignore[no-any-return]

    def integer(self, name: str) -> int:
        """An integer."""
        return int(self._take(name, int, optional=False))

    def integer_or_none(self, name: str) -> int | None:
        """An integer, or null."""
        return self._take(name, int, optional=True)  # type: ignore[no-any-return]

    def number_or_none(self, name: str) -> float | None:
        """A number, or null."""
        value = self._take(name, (int, float), optional=True)
        return None if value is None else float(value)

    def number(self, name: str) -> float:
        """A number."""
        return float(self._take(name, (int, float), optional=False))

    def flag(self, name: str) -> bool:
        """True or false."""
        return bool(self._take(name, bool, optional=False))

    def texts(self, name: str) -> dict[str, str]:
        """An object of strings."""
        value = self._take(name, dict, optional=False)
        return {str(key): str(one) for key, one in value.items()}

    def items(self, name: str) -> list[Any]:
        """A list."""
        return list(self._take(name, list, optional=False))

    def part(self, name: str) -> Fields:
        """An object inside."""
        return Fields(self._take(name, dict, optional=False), board_id=self._board_id)

    def part_or_none(self, name: str) -> Fields | None:
        """An object inside, or null."""
        return None if self._values.get(name) is None else self.part(name)

    def raw(self, name: str) -> object:
        """A value as it is."""
        return self._values.get(name)
