"""A checker for the part of JSON Schema that our schemas use, so that no test needs another dependency.

It refuses keywords that it does not know: a schema can never pass because a keyword was overlooked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_TYPES: Mapping[str, Any] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "null": type(None),
    "integer": int, "number": (int, float),
}  # fmt: skip
_ANNOTATIONS = {"$schema", "$id", "title", "description", "examples", "discriminator"}
_KNOWN = _ANNOTATIONS | {
    "type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf", "minimum",
    "maximum", "minItems", "maxItems", "pattern", "maxLength", "maxProperties", "patternProperties", "propertyNames",
    "minProperties", "minLength", "default", "$ref", "$defs", "oneOf",
    "exclusiveMinimum",
}  # fmt: skip


def violations(value: Any, schema: Mapping[str, Any], path: str = "$") -> Iterator[str]:
    """Everything in which a value differs from a schema."""
    if "$defs" in schema:
        schema = _resolved({key: one for key, one in schema.items() if key != "$defs"}, schema["$defs"])
    unknown = set(schema) - _KNOWN
    if unknown:
        raise ValueError(f"{path}: the checker does not know {sorted(unknown)}")
    if "type" in schema:
        names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if not any(_is(value, name) for name in names):
            yield f"{path}: {value!r} is no {' or '.join(names)}"
            return
    if "const" in schema and value != schema["const"]:
        yield f"{path}: {value!r} is not {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: {value!r} is none of {schema['enum']}"
    if "anyOf" in schema and all(list(violations(value, one, path)) for one in schema["anyOf"]):
        yield f"{path}: {value!r} matches no alternative"
    if "oneOf" in schema and sum(not list(violations(value, one, path)) for one in schema["oneOf"]) != 1:
        yield f"{path}: {value!r} does not match exactly one alternative"
    yield from _limit_violations(value, schema, path)
    if isinstance(value, dict):
        yield from _object_violations(value, schema, path)
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            yield f"{path}: has {len(value)} items"
        for index, one in enumerate(value):
            yield from violations(one, schema.get("items", {}), f"{path}[{index}]")


def _limit_violations(value: Any, schema: Mapping[str, Any], path: str) -> Iterator[str]:
    if "minimum" in schema and value < schema["minimum"]:
        yield f"{path}: {value!r} is below {schema['minimum']}"
    if "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"]:
        yield f"{path}: {value!r} is not above {schema['exclusiveMinimum']}"
    if "maximum" in schema and value > schema["maximum"]:
        yield f"{path}: {value!r} is above {schema['maximum']}"
    if isinstance(value, str) and not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 2**53):
        yield f"{path}: has {len(value)} characters"
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{path}: {value!r} does not match {schema['pattern']!r}"


def _resolved(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """The schema with every reference replaced by what it refers to; ours do not refer to themselves."""
    if isinstance(schema, Mapping):
        if "$ref" in schema:
            return _resolved(definitions[schema["$ref"].rpartition("/")[2]], definitions)
        return {key: _resolved(one, definitions) for key, one in schema.items()}
    return [_resolved(one, definitions) for one in schema] if isinstance(schema, list) else schema


def _object_violations(value: Mapping[str, Any], schema: Mapping[str, Any], path: str) -> Iterator[str]:
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{path}.{name}: is missing"
    properties = schema.get("properties", {})
    if not schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", len(value)):
        yield f"{path}: has {len(value)} members"
    patterns = schema.get("patternProperties", {})
    for name, one in value.items():
        yield from violations(name, schema.get("propertyNames", {}), f"{path}: the name {name!r}")
        matching = [inner for pattern, inner in patterns.items() if re.search(pattern, name)]
        for inner in matching:
            yield from violations(one, inner, f"{path}.{name}")
        if matching:
            continue
        further = schema.get("additionalProperties", {})
        if name in properties:
            yield from violations(one, properties[name], f"{path}.{name}")
        elif further is False:
            yield f"{path}.{name}: is not foreseen"
        else:
            yield from violations(one, further, f"{path}.{name}")


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    return isinstance(value, _TYPES[name])
