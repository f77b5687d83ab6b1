"""The fencing token: the board itself refuses a holder whose lease has passed to somebody else.

The lab hands out a token that grows with every lease. The board remembers the highest one it has seen, on its disk,
and refuses every request that comes with a lower one. A holder that was thought dead and wakes up again is thereby
stopped by the board, whatever it believes itself (Kleppmann, "How to do distributed locking").
"""

from __future__ import annotations

import json

from .durable import write_atomically
from .home import Home
from .problem import Problem


class Fence:
    """The board's memory of the highest token."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def enter(self, token: int, holder: str) -> None:
        """Come in with a token; the highest one so far becomes the limit for everybody else.

        Raises:
            Problem: ``fenced`` when a higher token has been seen.
        """
        with self._home.locked("fence.lock"):
            seen, by = self.read()
            if token < seen:
                raise self._refusal(token, seen, by)
            if (token, holder) != (seen, by):
                write_atomically(self._home.fence, json.dumps({"token": token, "holder": holder}).encode())

    def check(self, token: int) -> None:
        """Is this token still the highest?

        Raises:
            Problem: ``fenced``.
        """
        seen, by = self.read()
        if token < seen:
            raise self._refusal(token, seen, by)

    def read(self) -> tuple[int, str]:
        """The highest token and its holder; (0, "") on a fresh board."""
        try:
            text = self._home.fence.read_bytes()
        except FileNotFoundError:
            return 0, ""
        try:
            value = json.loads(text)
            token, holder = value["token"], value["holder"]
        except (ValueError, KeyError, TypeError) as exc:
            raise Problem("storage", f"the fence file {self._home.fence} cannot be read: {exc}; restore it") from exc
        if not isinstance(token, int) or not isinstance(holder, str):
            raise Problem("storage", f"the fence file {self._home.fence} does not hold a token and a holder")
        return token, holder

    @staticmethod
    def _refusal(token: int, seen: int, by: str) -> Problem:
        return Problem(
            "fenced", f"token {token} is refused: the board has seen token {seen} of {by or 'another holder'}"
        )
