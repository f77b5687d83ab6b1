"""A YAML file that a person wrote, with the line of every key, checked by a pydantic model.

The node graph is composed by PyYAML and read here by the core schema of YAML 1.2, because PyYAML's own constructors
lose the lines, keep the last of two equal keys without a word, and read YAML 1.1, where ``on`` is true. Anchors,
aliases and tags are refused: the files read here are small, and an alias can stand for a billion values.

Every refusal is one line: ``recipe.yaml:7: quantise.method: …``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pytest_edgehil.errors import RecipeError

KeyPath = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)

_MOST_BYTES = 1 << 20
_DEEPEST = 32
_INT = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: Mapping[str, object] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_TAGS = frozenset(("!", *(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))))
_KINDS: Mapping[str, str] = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "keys and values",
    "model_type": "keys and values",
    "model_attributes_type": "keys and values",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Plain data, and the line of every path in it, counted from 1."""

    source: Path
    data: Any
    lines: Mapping[KeyPath, int]

    def error(self, where: KeyPath, what: str) -> RecipeError:
        """The error that names file, line and path."""
        line = next((self.lines[where[:at]] for at in range(len(where), -1, -1) if where[:at] in self.lines), 1)
        dotted = f"{dotted_path(where)}: " if where else ""
        return RecipeError(f"{self.source}:{line}: {dotted}{what}")


def dotted_path(where: KeyPath) -> str:
    """Write a path as people do.

    >>> dotted_path(("target", "board_classes", 0))
    'target.board_classes[0]'
    """
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"``, or nothing when no known word comes near.

    >>> did_you_mean("quantize", ["quantise", "name"])
    "; did you mean 'quantise'?"
    """
    near = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def read_yaml(source: Path) -> Document:
    """Read a YAML file.

    Raises:
        RecipeError: it cannot be read, is not YAML, is empty, or holds equal keys, aliases or tags.
    """
    try:
        raw = source.read_bytes()
    except OSError as problem:
        raise RecipeError(f"{source}: cannot be read: {problem.strerror}") from problem
    if len(raw) > _MOST_BYTES:
        raise RecipeError(f"{source}: has {len(raw)} bytes, at most {_MOST_BYTES} are read")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise RecipeError(f"{source}: is not UTF-8 text: {problem.reason} at byte {problem.start}") from problem
    lines: dict[KeyPath, int] = {}
    try:
        _look_over(source, text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            raise RecipeError(f"{source}:1: the file is empty")
        data = _plain(root, (), source, lines)
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        said = ", ".join(part for part in (problem.context, problem.problem) if part)
        raise RecipeError(f"{source}:{mark.line + 1 if mark else 1}: is not valid YAML: {said}") from problem
    except yaml.YAMLError as problem:  # a character that YAML forbids; this error has no mark
        raise RecipeError(f"{source}:1: is not valid YAML: {' '.join(str(problem).split())}") from problem
    return Document(source=source, data=data, lines=lines)


def checked(document: Document, model: type[Model], *, at: KeyPath = ()) -> Model:
    """Validate a document, or the part of it at a path.

    Raises:
        RecipeError: the first thing that is wrong, and how many more there are.
    """
    data = document.data
    for part in at:
        data = data[part]
    try:
        return model.model_validate(data)
    except ValidationError as problem:
        errors = problem.errors(include_url=False)
        first = document.error((*at, *_place(errors[0], data)), _message(errors[0], model))
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise RecipeError(f"{first}{more}") from problem


def _look_over(source: Path, text: str) -> None:
    """Refuse by its events, before a graph is made of it, what would take long or mean something else."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise RecipeError(f"{source}:{event.start_mark.line + 1 if event.start_mark else 1}: is nested too deeply")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise RecipeError(f"{source}:{line}: anchors and aliases are not read here; write the value out")


def _plain(node: yaml.Node, where: KeyPath, source: Path, lines: dict[KeyPath, int]) -> object:
    line = node.start_mark.line + 1
    lines.setdefault(where, line)
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, where, source)
    if node.tag not in _TAGS:
        raise RecipeError(f"{source}:{line}: tags such as {node.tag!r} are not read here")
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*where, at), source, lines) for at, item in enumerate(node.value)]
    result: dict[str, object] = {}
    assert isinstance(node, yaml.MappingNode)
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise RecipeError(f"{source}:{line}: a key must be plain text")
        key = str(key_node.value)
        if key in result:
            first = lines[(*where, key)]
            raise RecipeError(
                f"{source}:{line}: {dotted_path((*where, key))}: this key is already given in line {first}"
            )
        lines[(*where, key)] = line
        result[key] = _plain(value_node, (*where, key), source, lines)
    return result


def _scalar(node: yaml.ScalarNode, where: KeyPath, source: Path) -> object:
    text = str(node.value)
    implicit = node.tag.startswith("tag:yaml.org,2002:")
    if not implicit and node.tag != "!":
        line = node.start_mark.line + 1
        raise RecipeError(f"{source}:{line}: {dotted_path(where)}: tags such as {node.tag!r} are not read here")
    if node.style is not None:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) and len(text) <= 64 else text


def _place(error: ErrorDetails, data: object) -> KeyPath:
    """The error's location without the names that pydantic adds for unions, which are no keys of the file."""
    where: list[str | int] = []
    for at, part in enumerate(error["loc"]):
        inside = (isinstance(data, dict) and part in data) or (
            isinstance(data, list) and isinstance(part, int) and part < len(data)
        )
        if inside:
            data = data[part]  # type: ignore[index]
            where.append(part)
        elif at == len(error["loc"]) - 1 and error["type"] in {"missing", "extra_forbidden"}:
            where.append(part)
    return tuple(where)


def _message(error: ErrorDetails, model: type[BaseModel]) -> str:
    kind, found = error["type"], error.get("input")
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        known = _known_keys(model, error["loc"][:-1])
        return f"unknown key{did_you_mean(error['loc'][-1], known)}; known keys here: {', '.join(known)}"
    if kind == "value_error":
        return str(error.get("ctx", {}).get("error", error["msg"]))
    if kind == "literal_error":
        expected = str(error.get("ctx", {}).get("expected", ""))
        words = re.findall(r"'([^']*)'", expected)
        return f"{found!r:.60} is unknown{did_you_mean(found, words)}; expected {expected}"
    if kind in _KINDS:
        quotes = "; put it in quotes" if kind == "string_type" and isinstance(found, (int, float)) else ""
        return f"expected {_KINDS[kind]}, found {_shown(found)}{quotes}"
    return f"{error['msg'][0].lower()}{error['msg'][1:]}, found {_shown(found)}"


def _shown(found: object) -> str:
    if found is None:
        return "nothing"
    if isinstance(found, bool):
        return str(found).lower()
    if isinstance(found, dict):
        return "keys and values"
    if isinstance(found, list):
        return "a list"
    return f"{found!r:.60}"


def _known_keys(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """The keys that the model knows at a location, taken from its JSON Schema."""
    schema = model.model_json_schema()
    nodes = [schema]
    for part in loc:
        nodes = [child for node in nodes for child in _children(_opened(node, schema), part)]
    found = {key for node in nodes for opened in _opened(node, schema) for key in opened.get("properties", {})}
    return sorted(found)


def _opened(node: dict[str, Any], schema: dict[str, Any]) -> list[dict[str, Any]]:
    opened = [node]
    if "$ref" in node:
        opened += _opened(schema["$defs"][str(node["$ref"]).rsplit("/", 1)[1]], schema)
    for choice in [*node.get("oneOf", ()), *node.get("anyOf", ())]:
        opened += _opened(choice, schema)
    return opened


def _children(nodes: list[dict[str, Any]], part: str | int) -> list[dict[str, Any]]:
    children = []
    for node in nodes:
        child = node.get("items") if isinstance(part, int) else node.get("properties", {}).get(part)
        if isinstance(child, dict):
            children.append(child)
    return children
