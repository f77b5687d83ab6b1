"""What a person may have meant: the near miss that an error message suggests."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: object, choices: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"``, or nothing when no choice comes near.

    >>> did_you_mean("vitual", ["hardware", "emulated", "virtual"])
    "; did you mean 'virtual'?"
    >>> did_you_mean("zzz", ["hardware"])
    ''
    """
    known = list(choices)
    if not isinstance(word, str):
        return ""
    lowered = {choice.lower(): choice for choice in known}
    near = difflib.get_close_matches(word.lower().replace("_", "-"), lowered, n=1, cutoff=0.6)
    near = near or difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    return f"; did you mean {lowered[near[0]]!r}?" if near else ""


def suggest(word: object, choices: Iterable[str], rest: str) -> str:
    """`did_you_mean`, followed by the rest of the message.

    >>> suggest("vitual", ["hardware", "virtual"], "expected hardware or virtual")
    "; did you mean 'virtual'? expected hardware or virtual"
    >>> suggest("zzz", ["hardware", "virtual"], "expected hardware or virtual")
    '; expected hardware or virtual'
    """
    meant = did_you_mean(word, choices)
    return f"{meant} {rest}" if meant else f"; {rest}"


def listed(words: Iterable[str], *, most: int = 12) -> str:
    """Write words as a comma-separated list that stays readable when there are hundreds.

    >>> listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    known = list(words)
    if len(known) <= most:
        return ", ".join(known)
    return f"{', '.join(known[:most])} and {len(known) - most} more"
