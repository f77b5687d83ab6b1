"""Guardrails of a prompt bundle: what a text may be before it goes into a model, and after it came out.

- ``max_length``: characters.
- ``deny``: patterns none of which may be found; ``allow``: patterns one of which must match the whole text.
- ``languages``: BCP 47 tags. Judged by *script*, not by words: this tells Russian from English, and not German from
  English. It is meant to catch a model that falls into another language, which small models do in another script.

A pattern is a regular expression of Python's `re`, searched without regard to upper and lower case, in the text as
it is and in the text as NFKC makes it, without invisible characters, so that full-width letters or zero-width spaces
do not hide a word. Because a hostile text must not be able to stall whoever checks it, patterns whose matching can
take more than polynomial time are refused: no repetition of what is itself repeated without bound, no references to
groups, and at most three unbounded repetitions in one pattern.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from re import _constants as _codes  # type: ignore[attr-defined]  # a pattern's own tree, `sre_parse` by its new name
from re import _parser  # type: ignore[attr-defined]
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from pytest_edgehil.documents.checking import Section

SCRIPTS: Mapping[str, tuple[str, ...]] = {
    "ar": ("ARABIC",), "bg": ("CYRILLIC",), "cs": ("LATIN",), "da": ("LATIN",), "de": ("LATIN",), "el": ("GREEK",),
    "en": ("LATIN",), "es": ("LATIN",), "et": ("LATIN",), "fi": ("LATIN",), "fr": ("LATIN",), "he": ("HEBREW",),
    "hi": ("DEVANAGARI",), "hr": ("LATIN",), "hu": ("LATIN",), "it": ("LATIN",),
    "ja": ("CJK", "HIRAGANA", "KATAKANA", "IDEOGRAPHIC"), "ko": ("HANGUL", "CJK"), "lt": ("LATIN",), "lv": ("LATIN",),
    "nl": ("LATIN",), "no": ("LATIN",), "pl": ("LATIN",), "pt": ("LATIN",), "ro": ("LATIN",), "ru": ("CYRILLIC",),
    "sk": ("LATIN",), "sl": ("LATIN",), "sr": ("CYRILLIC", "LATIN"), "sv": ("LATIN",), "th": ("THAI",),
    "tr": ("LATIN",), "uk": ("CYRILLIC",), "vi": ("LATIN",), "zh": ("CJK", "IDEOGRAPHIC", "BOPOMOFO"),
}  # fmt: skip
"""Language → first words of the Unicode names of its letters."""

_MOST_REPETITIONS = 3
_UNBOUNDED_FROM = 1000


def _pattern(text: str) -> str:
    try:
        parsed = _parser.parse(text, re.IGNORECASE)
    except (re.error, RecursionError, OverflowError) as problem:
        raise ValueError(f"{text!r:.60} is no regular expression: {problem}") from problem
    if _unbounded(parsed) > _MOST_REPETITIONS:
        raise ValueError(f"{text!r:.60} has more than {_MOST_REPETITIONS} unbounded repetitions; a text could stall it")
    return text


def _unbounded(parsed: Any) -> int:
    """Number of unbounded repetitions.

    Raises:
        ValueError: one stands within another, or the pattern refers to a group.
    """
    count = 0
    for code, argument in parsed:
        if code in {_codes.GROUPREF, _codes.GROUPREF_EXISTS}:
            raise ValueError("a pattern may not refer to its groups; a text could stall it")
        inner = sum(_unbounded(one) for one in _parts(argument))
        if code in {_codes.MAX_REPEAT, _codes.MIN_REPEAT, _codes.POSSESSIVE_REPEAT} and argument[1] > _UNBOUNDED_FROM:
            if inner:
                raise ValueError(
                    "a pattern may not repeat what is itself repeated without bound; a text could stall it"
                )
            inner = 1
        count += inner
    return count


def _parts(argument: Any) -> Iterator[Any]:
    if isinstance(argument, _parser.SubPattern):
        yield argument
    elif isinstance(argument, (tuple, list)):
        for one in argument:
            yield from _parts(one)


def _language(tag: str) -> str:
    if tag.partition("-")[0].lower() not in SCRIPTS:
        raise ValueError(f"{tag!r:.40} is no language that is known here; known are {', '.join(sorted(SCRIPTS))}")
    return tag


RegularExpression = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_pattern)]
Language = Annotated[str, AfterValidator(_language)]


class Guardrail(Section):
    """Rules for one text."""

    max_length: Annotated[int, Field(ge=1, le=1 << 20)] = 8192
    """Most characters."""
    deny: Annotated[list[RegularExpression], Field(max_length=256)] = []
    """None of these may be found in the text."""
    allow: Annotated[list[RegularExpression], Field(max_length=256)] = []
    """If there are any, one of these must match the whole text."""
    languages: Annotated[list[Language], Field(max_length=32)] = []
    """If there are any, letters of the text must belong to a script of one of these languages."""

    def objections(self, text: str) -> tuple[str, ...]:
        """Everything in a text that is against these rules, for people; empty when there is nothing."""
        if len(text) > self.max_length:
            # not searched any further: how long that takes would be up to whoever wrote the text
            return (f"has {len(text)} characters, at most {self.max_length} are allowed",)
        forms = (text, plain(text))
        found = [
            f"contains what is denied: {pattern}"
            for pattern in self.deny
            if any(re.search(pattern, form, re.IGNORECASE) for form in forms)
        ]
        if self.allow and not any(re.fullmatch(pattern, text, re.IGNORECASE | re.DOTALL) for pattern in self.allow):
            found.append("matches nothing that is allowed")
        strange = self._strange(text)
        if strange is not None:
            found.append(f"has the letter {strange!r}, which belongs to no language of {', '.join(self.languages)}")
        return tuple(found)

    def _strange(self, text: str) -> str | None:
        """The first letter of another script; None if there is none or all languages are welcome."""
        if not self.languages:
            return None
        scripts = tuple(one for tag in self.languages for one in SCRIPTS[tag.partition("-")[0].lower()])
        for letter in text:
            if letter.isalpha() and not unicodedata.name(letter, "").startswith(scripts):
                name = unicodedata.name(letter, "")
                if not name.startswith(("FULLWIDTH LATIN", "FEMININE ORDINAL", "MASCULINE ORDINAL", "MICRO SIGN")):
                    return letter
        return None


def plain(text: str) -> str:
    r"""A text without disguises: NFKC, and without characters that cannot be seen.

    >>> plain("ｉgn\u200bore")
    'ignore'
    """
    return "".join(one for one in unicodedata.normalize("NFKC", text) if unicodedata.category(one) != "Cf")
