"""YAML that people write (trust, policies, rollout plans), read strictly into pydantic models.

Every refusal names file, line and path, for example
``farm/policy.yaml:7: gates.p95_latency.limit: '12 parsecs' is no duration``; duplicate keys and unknown keys are
refused, the latter with the nearest known one.
"""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from pytest_edgehil.errors import ConfigError, UserError

_Model = TypeVar("_Model", bound="Document")


class Document(BaseModel):
    """Base of every part of a document: frozen, nothing unknown, nothing coerced."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys: the second one would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} appears twice", key_node.start_mark
                )
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


def load(path: Path, model: type[_Model], *, error: type[UserError] = ConfigError) -> tuple[_Model, bytes]:
    """Read a YAML file.

    Args:
        path: the file.
        model: what it must be.
        error: type of the error to raise.

    Returns:
        The model, and the bytes of the file (whose digest pins it).

    Raises:
        UserError: `error`, with file, line and path of the first problem, and how many more there are.
    """
    try:
        data = path.read_bytes()
    except OSError as problem:
        raise error(f"{path}: the file cannot be read: {problem.strerror}") from problem
    try:
        text = data.decode("utf-8")
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - derived from SafeLoader
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except UnicodeDecodeError as problem:
        raise error(f"{path}: the file is not UTF-8: {problem}") from problem
    except yaml.MarkedYAMLError as problem:
        line = problem.problem_mark.line + 1 if problem.problem_mark else 1
        raise error(f"{path}:{line}: {problem.problem}") from problem
    except yaml.YAMLError as problem:
        raise error(f"{path}: this is no YAML: {problem}") from problem
    if not isinstance(value, dict):
        raise error(f"{path}:1: expected keys and values, found {'nothing' if value is None else type(value).__name__}")
    try:
        # through JSON's rules: tuples from lists, enums from text; but no number out of a text
        return model.model_validate(value), data
    except ValidationError as problem:
        raise error(_explain(problem, path, root, model)) from problem


def _explain(problem: ValidationError, path: Path, root: yaml.Node | None, model: type[BaseModel]) -> str:
    errors = problem.errors(include_url=False)
    first = errors[0]
    where = [one for one in first["loc"] if not _is_branch(one)]
    line = _line_of(root, where)
    message = first["msg"]
    if first["type"] == "value_error":
        message = str(first["ctx"]["error"])
    elif first["type"] == "extra_forbidden":
        known = _known_keys(model, where[:-1])
        near = difflib.get_close_matches(str(where[-1]), known, n=1)
        message = "this key is unknown" + (f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}")
    elif first["type"] == "missing":
        message = "this key is missing"
    else:
        message = f"{message[:1].lower()}{message[1:]}, not {first['input']!r}"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    dotted = ".".join(str(one) for one in where)
    return f"{path}:{line}: {dotted}: {message}{more}" if dotted else f"{path}:{line}: {message}{more}"


def _is_branch(part: int | str) -> bool:
    # pydantic puts the name of a union's branch into the path; those are no keys of the file
    return isinstance(part, str) and (part in {"str", "int", "float", "bool"} or "[" in part or part[:1].isupper())


def _line_of(root: yaml.Node | None, where: Sequence[int | str]) -> int:
    node, line = root, 1
    for part in where:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    node, line = value, key.start_mark.line + 1
                    break
            else:
                return line
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            return line
    return line


def _known_keys(model: type[BaseModel], where: Sequence[int | str]) -> list[str]:
    current: type[BaseModel] | None = model
    for part in where:
        if current is not None and isinstance(part, str) and part in _by_key(current):
            current = _model_in(_by_key(current)[part])
    return sorted(_by_key(current)) if current is not None else []


def _by_key(model: type[BaseModel]) -> dict[str, Any]:
    return {info.alias or name: info.annotation for name, info in model.model_fields.items()}


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for one in get_args(annotation):
        found = _model_in(one)
        if found is not None:
            return found
    return None
