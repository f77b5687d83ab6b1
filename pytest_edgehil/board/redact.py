"""Keeping secrets out of logs and error messages.

Whatever a command line, an output or a library's message is about to be shown, it goes through `redact` first.
Short secrets are refused rather than ignored: replacing every "a" would hide the message, not the secret.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

MASK = "***"
_SHORTEST_SECRET = 3


def redact(text: str, secrets: Iterable[str]) -> str:
    r"""Replaces every secret in a text, also as it looks after shell quoting and inside a `repr`.

    Args:
        text: what is about to be shown.
        secrets: the values to hide; each has at least three characters.

    Raises:
        ValueError: a secret is shorter than three characters.

    >>> redact("curl -H 'token: s3cret' host", ["s3cret"])
    "curl -H 'token: ***' host"
    >>> redact(shlex.join(["login", "it's"]), ["it's"])
    'login ***'
    """
    forms: set[str] = set()
    for secret in secrets:
        if len(secret) < _SHORTEST_SECRET:
            msg = f"a secret has {len(secret)} characters; at least {_SHORTEST_SECRET} are needed to hide it in a text"
            raise ValueError(msg)
        quoted = shlex.quote(secret)
        # Inside a longer argument shlex.quote leaves no quotes of its own around the secret.
        forms |= {secret, quoted, quoted[1:-1] if quoted != secret else secret, repr(secret)[1:-1]}
    # The longest first: a form that contains another must not be cut in half by it.
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, MASK)
    return text


def show_argv(argv: Sequence[str], secrets: Iterable[str] = (), *, limit: int = 200) -> str:
    """An argument vector as a person would type it, without secrets, cut to `limit` characters.

    >>> show_argv(["sh", "-c", "echo hunter2; ls"], ["hunter2"])
    "sh -c 'echo ***; ls'"
    """
    shown = redact(shlex.join(argv), secrets)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def tail(output: bytes, secrets: Iterable[str] = (), *, limit: int = 300) -> str:
    r"""The end of an output as one line for an error message, without secrets.

    >>> tail(b"one\ntwo: no such file\n")
    'one | two: no such file'
    """
    # Redact before cutting: half a secret is not found any more.
    text = redact(output.decode("utf-8", "replace"), secrets)
    shown = " | ".join(line.strip() for line in text.splitlines() if line.strip())
    return shown if len(shown) <= limit else "…" + shown[-(limit - 1) :]
