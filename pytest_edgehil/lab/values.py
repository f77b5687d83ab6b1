"""Values in lab.yaml that are more than a word or a number: names, quantities, host keys, addresses, consoles.

Each is checked as it is read, and what it says of a bad one is the whole message behind the place where it stands.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from pytest_edgehil.documents.near_miss import suggest
from pytest_edgehil.model.quantity import duration_ns, format_duration, format_size, size_bytes

IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
HOST_KEY_TYPES = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")
CONSOLE_SCHEMES = ("socket", "rfc2217", "loop", "hwgrep", "spy", "alt")


def duration(*, at_least: str, at_most: str) -> BeforeValidator:
    """A duration such as ``"2 s"`` within limits, read as seconds."""
    low, high = duration_ns(at_least), duration_ns(at_most)

    def seconds(text: object) -> float:
        value = duration_ns(text)
        if not low <= value <= high:
            raise ValueError(f"{text!r} is out of range: expected {format_duration(low)} to {format_duration(high)}")
        return value / 1e9

    return BeforeValidator(seconds)


def size(*, at_least: str, whole: str | None = None) -> BeforeValidator:
    """A size such as ``"2 GiB"``, read as bytes; a multiple of the unit `whole`, if one is given."""
    low = size_bytes(at_least)
    unit = 1 if whole is None else size_bytes(f"1 {whole}")

    def size(text: object) -> int:
        value = size_bytes(text)
        if value < low:
            raise ValueError(f"{text!r} is too little: expected {format_size(low)} or more")
        if value % unit:
            below, above = value // unit, value // unit + 1
            raise ValueError(f"{text!r} is no whole number of {whole}: expected {below} {whole} or {above} {whole}")
        return value

    return BeforeValidator(size)


def quantity(example: str) -> WithJsonSchema:
    """What editors are told of a number with a unit."""
    return WithJsonSchema({"type": "string", "examples": [example]})


def left_out(description: str, *, default: str) -> Any:
    """A quantity that may be left out: the schema shows its default as one writes it, not as it is read."""
    return Field(description=description, json_schema_extra={"default": default})


def _identifier(text: str) -> str:
    if not IDENTIFIER.fullmatch(text):
        raise ValueError(
            f"{text!r} is no name: expected letters, digits, '.', '_' and '-', beginning with a letter or a digit, "
            "at most 64 characters"
        )
    return text


def _filled(text: str) -> str:
    if not text.strip() or text != text.strip() or not text.isprintable():
        raise ValueError(f"expected printable text without blanks around it, found {text!r}")
    return text


def one_word(text: str) -> str:
    """Something printable without blanks."""
    if not text or not text.isprintable() or any(character.isspace() for character in text):
        raise ValueError(f"expected one word, found {text!r}")
    return text


def host_key(text: str) -> str:
    """Normalise a pinned host key to ``<type> <base64>``; a comment behind it is dropped.

    The type is written twice, in front and as the first string inside the key blob (RFC 4253 §6.6).
    """
    kind, _, rest = text.strip().partition(" ")
    if kind not in HOST_KEY_TYPES:
        raise ValueError(
            f"unknown type of host key {kind!r}"
            + suggest(kind, HOST_KEY_TYPES, f"expected '<type> <base64>' with one of {', '.join(HOST_KEY_TYPES)}, ")
            + "as 'ssh-keyscan HOST' prints it behind the host"
        )
    blob_text = rest.split()[0] if rest.split() else ""
    try:
        blob = base64.b64decode(blob_text, validate=True)
    except (binascii.Error, ValueError) as wrong:
        raise ValueError("the host key is not base64: copy it whole from 'ssh-keyscan HOST'") from wrong
    length = int.from_bytes(blob[:4], "big")
    inside = blob[4 : 4 + length]
    if len(blob) < 4 or len(inside) != length or inside.decode("ascii", "replace") != kind:
        raise ValueError(f"the host key does not hold a {kind} key: copy it whole from 'ssh-keyscan HOST'")
    return f"{kind} {blob_text}"


def host_and_port(text: str) -> str:
    """``HOST:PORT``."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536 or any(one.isspace() for one in text):
        raise ValueError(f"{text!r} is no address: expected HOST:PORT, for example 127.0.0.1:20408")
    return text


def console_url(text: str) -> str:
    """A device of this host, or a URL as pyserial takes it."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        if text.startswith("/"):
            return text
        raise ValueError(
            f"{text!r} is no console: expected a device such as /dev/ttyAMA10 or a URL such as socket://HOST:PORT or "
            "rfc2217://HOST:PORT"
        )
    if scheme not in CONSOLE_SCHEMES:
        raise ValueError(
            f"unknown scheme {scheme!r}"
            + suggest(
                {"tcp": "socket", "telnet": "rfc2217"}.get(scheme, scheme),
                CONSOLE_SCHEMES,
                f"pyserial knows {', '.join(CONSOLE_SCHEMES)} and device paths",
            )
        )
    if scheme in ("socket", "rfc2217"):
        try:
            parts = urlsplit(text)
            complete = bool(parts.hostname) and parts.port is not None and parts.port > 0
        except ValueError as wrong:
            raise ValueError(f"{text!r} is no console: {str(wrong).lower()}") from wrong
        if not complete:
            raise ValueError(f"{text!r} is no console: expected {scheme}://HOST:PORT")
    elif not rest and scheme != "loop":
        raise ValueError(f"{text!r} is no console: something is missing after {scheme}://")
    return text


def _words(value: object) -> object:
    if isinstance(value, str):
        raise ValueError(  # noqa: TRY004 -- pydantic turns a ValueError into a located error, and a TypeError into ours
            f"expected a list of words such as [uhubctl, -a, 'on'], found the text {value!r}: no shell splits it"
        )
    return value


Name = Annotated[str, AfterValidator(_identifier)]
Text = Annotated[str, AfterValidator(_filled)]
Word = Annotated[str, AfterValidator(one_word)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Argv = Annotated[
    list[str],
    Field(min_length=1),
    BeforeValidator(_words),
    WithJsonSchema({"type": "array", "items": {"type": "string"}, "minItems": 1}),
]
