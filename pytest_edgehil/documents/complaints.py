"""Pydantic's errors as the one line a person needs: what was found, what was expected, what was meant.

Two things are mended on the way. A location of pydantic names the branch of a union (``power.command.on``), which is
no key of the file: parts that the data does not have are left out. And an unknown key gets the keys that are known
at that place, which are looked up in the JSON Schema that editors see, so the two can never disagree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic_core import ErrorDetails

from pytest_edgehil.documents.near_miss import listed, suggest
from pytest_edgehil.documents.reading import Document, KeyPath, Problem

_KINDS: Mapping[str, str] = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
}
_BOUNDS: Mapping[str, tuple[str, str]] = {
    "less_than_equal": ("at most", "le"),
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than": ("less than", "lt"),
}
_ABOUT_KEYS = frozenset(("missing", "extra_forbidden"))
_QUOTED = re.compile(r"'([^']*)'")


def problems_of(errors: Iterable[ErrorDetails], document: Document, schema: Mapping[str, Any]) -> list[Problem]:
    """Translate every error of one validation."""
    problems: list[Problem] = []
    unions: dict[KeyPath, list[ErrorDetails]] = {}
    for error in errors:
        where, branches = _place(error["loc"], document.data, keep_last=error["type"] in _ABOUT_KEYS)
        if branches and error["loc"][-1] == branches[-1]:
            unions.setdefault(where, []).append(error)
        else:
            problems.append(_problem(error, document, schema))
    for where, tried in unions.items():
        # a branch that took the value and found fault with something in it says more than those that did not
        if not any(problem.where[: len(where)] == where != problem.where for problem in problems):
            problems.append(_union_problem(where, tried, document, schema))
    return problems


def _union_problem(where: KeyPath, tried: list[ErrorDetails], document: Document, schema: Mapping[str, Any]) -> Problem:
    """One problem of a value that no branch of a union takes: what the branches say whose kind it is at least."""
    fitting = [error for error in tried if error["type"] not in _KINDS]
    if fitting or len(tried) == 1:
        whats = dict.fromkeys(_problem(error, document, schema).what for error in fitting or tried)
        return document.problem(where, ", or ".join(whats))
    kinds = dict.fromkeys(_KINDS[error["type"]] for error in tried)
    return document.problem(where, f"expected {' or '.join(kinds)}, found {_shown(tried[0]['input'])}")


def _problem(error: ErrorDetails, document: Document, schema: Mapping[str, Any]) -> Problem:
    kind, found, context = error["type"], error["input"], error.get("ctx", {})
    where, branches = _place(error["loc"], document.data, keep_last=kind in _ABOUT_KEYS)
    what = ""
    if kind == "missing":
        what = f"missing: {_description(schema, where, branches) or 'this key is needed'}"
    elif kind == "extra_forbidden":
        known = sorted({key for node in _nodes(schema, where[:-1], branches) for key in node.get("properties", {})})
        what = f"unknown key{suggest(where[-1], known, f'known keys here: {listed(known, most=20)}')}"
    elif kind == "literal_error":
        expected = str(context["expected"])
        what = _unknown_word(found, _QUOTED.findall(expected) or [expected])  # numbers stand there without quotes
    elif kind == "union_tag_invalid":
        choices = _QUOTED.findall(str(context["expected_tags"]))
        tag = str(context["discriminator"]).strip("'")
        where, what = (*where, tag), _unknown_word(context["tag"], choices)
    elif kind == "union_tag_not_found":
        tag = str(context["discriminator"]).strip("'")
        if isinstance(found, dict):
            choices = sorted({key for node in _nodes(schema, where, ()) for key in _mapping(node)})
            where, what = (*where, tag), f"missing: expected one of {', '.join(choices)}"
        else:
            what = f"expected a mapping of keys to values, found {_shown(found)}"
    else:
        what = _wrong_value(error)
    return document.problem(where, what)


def _wrong_value(error: ErrorDetails) -> str:
    """What a value should have been, where neither keys nor words are in question."""
    kind, found, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "finite_number":
        return f"expected a finite number, found {found}"
    if kind in _KINDS:
        quote = "; put it in quotes" if kind == "string_type" and isinstance(found, int | float) else ""
        return f"expected {_KINDS[kind]}, found {_shown(found)}{quote}"
    if kind in _BOUNDS:
        words, limit = _BOUNDS[kind]
        bound = f"{context[limit]:g}" if isinstance(context[limit], float) else context[limit]
        return f"expected {words} {bound}, found {_shown(found)}"
    if kind in ("too_short", "too_long"):
        limit = f"at least {context['min_length']}" if kind == "too_short" else f"at most {context['max_length']}"
        return f"expected {limit} of them, found {context['actual_length']}"
    return f"{error['msg'][0].lower()}{error['msg'][1:]}, found {_shown(found)}"


def _unknown_word(found: object, choices: list[str]) -> str:
    expected = f"expected {'one of ' if len(choices) > 1 else ''}{', '.join(choices)}"
    if isinstance(found, str):
        return f"unknown value {found!r}{suggest(found, choices, expected)}"
    return f"{expected}, found {_shown(found)}"


def _shown(found: object) -> str:
    if found is None:
        return "nothing"
    if isinstance(found, bool):
        return "true" if found else "false"
    if isinstance(found, dict):
        return "a mapping of keys to values"
    if isinstance(found, list):
        return "a list"
    text = repr(found)
    text = text if len(text) <= 60 else f"{text[:57]}…"
    return f"the text {text}" if isinstance(found, str) else f"the number {text}"


def _place(loc: tuple[int | str, ...], data: object, *, keep_last: bool) -> tuple[KeyPath, tuple[str, ...]]:
    """Split a location into the path in the file and the branches of unions on the way."""
    where: list[int | str] = []
    branches: list[str] = []
    here = data
    for index, part in enumerate(loc):
        in_mapping = isinstance(here, dict) and part in here
        in_list = isinstance(here, list) and isinstance(part, int) and part < len(here)
        if in_mapping or in_list:
            here = here[part]  # type: ignore[index]
            where.append(part)
        elif keep_last and index == len(loc) - 1:
            where.append(part)
        else:
            branches.append(str(part))
    return tuple(where), tuple(branches)


def _mapping(node: Mapping[str, Any]) -> Mapping[str, str]:
    mapping: Mapping[str, str] = node.get("discriminator", {}).get("mapping", {})
    return mapping


def _nodes(schema: Mapping[str, Any], where: KeyPath, branches: tuple[str, ...]) -> list[Mapping[str, Any]]:
    """Every part of a JSON Schema that describes the value at a path."""
    nodes = list(_opened(schema, schema, branches))
    for part in where:
        nodes = [
            opened for node in nodes for child in _children(node, part) for opened in _opened(child, schema, branches)
        ]
    return nodes


def _children(node: Mapping[str, Any], part: str | int) -> Iterator[Mapping[str, Any]]:
    if isinstance(part, int):
        child = node.get("items")
    else:
        child = node.get("properties", {}).get(part) or node.get("additionalProperties")
    if isinstance(child, dict):
        yield child


def _opened(
    node: Mapping[str, Any], schema: Mapping[str, Any], branches: tuple[str, ...]
) -> Iterator[Mapping[str, Any]]:
    """The node itself and what it refers to, with the branch of a tagged union that was taken."""
    yield node
    if "$ref" in node:
        yield from _opened(schema["$defs"][str(node["$ref"]).rsplit("/", 1)[1]], schema, branches)
    mapping = _mapping(node)
    taken = [reference for tag, reference in mapping.items() if tag in branches]
    choices = [{"$ref": reference} for reference in taken] or [*node.get("oneOf", ()), *node.get("anyOf", ())]
    for choice in choices:
        yield from _opened(choice, schema, branches)


def _description(schema: Mapping[str, Any], where: KeyPath, branches: tuple[str, ...]) -> str:
    if not where:
        return ""
    for parent in _nodes(schema, where[:-1], branches):
        for child in _children(parent, where[-1]):
            if "description" in child:
                return str(child["description"])
    return ""
