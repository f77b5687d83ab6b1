"""Under which lease something is done: what a board, a power switch or a supervisor looks at before it obeys.

Tokens grow with every lease of a lab. Whatever remembers the highest one that it has seen can refuse everybody who
comes with a lower one, whether or not that one knows that its lease is over (Kleppmann, "How to do distributed
locking").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Bearer:
    """Who acts, under which lease.

    Args:
        token: fencing token of the lease.
        holder: name of its holder, for messages.
    """

    token: int
    holder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """The right to a board, as whoever is about to do something to it asks about it.

    Where a thing cannot look at a token itself (a relay, a serial line), the look at the lease comes immediately
    before the act, and the act must have begun by the lease's end.

    Args:
        bearer: under which lease.
        check: raises `LeaseLost` if the board is not ours any more; asks the lab's books, which takes a moment.
        left_s: seconds until the lease ends unless it is renewed; negative when it is over.
    """

    bearer: Bearer
    check: Callable[[], None]
    left_s: Callable[[], float]
