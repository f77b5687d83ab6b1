"""Prompt bundles: templates with typed variables, and the models that they go with.

What a person writes::

    templates:
      announce: "The digit reads {{digit}}."
    variables:
      digit: {type: integer, minimum: 0, maximum: 9}
    models:
      - {name: digits, versions: ["1.*"]}

What goes into the artifact is ``prompt.json``: the same, checked, in canonical JSON. A template knows one thing
only, ``{{variable}}``: no logic, no access to attributes, nothing that a value could break out of, because values
are put in once and never looked at again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import rfc8785
from pydantic import AfterValidator, Field, model_validator

from pytest_edgehil.artifacts.manifest import Name, Printable
from pytest_edgehil.documents.checking import Section, checked
from pytest_edgehil.documents.reading import FileKind, first_only, read_document
from pytest_edgehil.errors import RecipeError

PROMPT_NAME = "prompt.json"

_KIND = FileKind(
    noun="prompt bundle", expected="'templates:' and 'models:'", refusal=first_only(RecipeError), most_bytes=1 << 20
)

_PLACEHOLDER = re.compile(r"\{\{\s*([a-z][a-z0-9_]*)\s*\}\}")
_BRACES = re.compile(r"\{\{|\}\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptBundle:
    """A checked bundle.

    Args:
        templates: name → text with ``{{variable}}`` in it.
        variables: name → its rule.
        models: name of a model → acceptable versions (shell patterns).
        data: ``prompt.json``.
    """

    templates: Mapping[str, str]
    variables: Mapping[str, Variable]
    models: Mapping[str, tuple[str, ...]]
    data: bytes

    def render(self, template: str, values: Mapping[str, object]) -> str:
        """Fill in a template.

        Raises:
            RecipeError: unknown template, or a value is missing, unknown or against its variable's rule.
        """
        if template not in self.templates:
            raise RecipeError(f"there is no template {template!r}; there are {', '.join(sorted(self.templates))}")
        text = self.templates[template]
        used = set(_PLACEHOLDER.findall(text))
        for name in values.keys() - used:
            raise RecipeError(f"template {template!r} has no variable {name!r}; it has {', '.join(sorted(used))}")
        for name in sorted(used):
            if name not in values:
                raise RecipeError(f"template {template!r}: no value for {name!r}")
            self.variables[name].check(name, values[name])
        return _PLACEHOLDER.sub(lambda found: str(values[found[1]]), text)


class Variable(Section):
    """What a variable may be."""

    type: Literal["text", "integer", "number"]
    minimum: float | None = None
    maximum: float | None = None
    max_length: Annotated[int, Field(ge=1, le=1 << 31)] | None = None

    @model_validator(mode="after")
    def _goes_together(self) -> Variable:
        if self.type == "text" and (self.minimum is not None or self.maximum is not None):
            raise ValueError("minimum and maximum are for numbers; a text has max_length")
        if self.type != "text" and self.max_length is not None:
            raise ValueError("max_length is for text; a number has minimum and maximum")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum:g} is above maximum {self.maximum:g}")
        return self

    def check(self, name: str, value: object) -> None:
        """Refuse a value that this variable may not have.

        Raises:
            RecipeError: what it is, and what it may be.
        """
        if self.type == "text":
            if not isinstance(value, str):
                raise RecipeError(f"{name}: {value!r:.60} is no text")
            if self.max_length is not None and len(value) > self.max_length:
                raise RecipeError(f"{name}: {len(value)} characters, at most {self.max_length} are allowed")
            return
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole and not (self.type == "number" and isinstance(value, float)):
            raise RecipeError(f"{name}: {value!r:.60} is no {self.type}")
        assert isinstance(value, (int, float))
        low = -math.inf if self.minimum is None else self.minimum
        high = math.inf if self.maximum is None else self.maximum
        if not low <= value <= high:  # NaN too: every comparison with it is false
            raise RecipeError(f"{name}: {value!r:.60} is outside {low:g} … {high:g}")


class _Goes(Section):
    name: Name
    versions: Annotated[list[Printable], Field(min_length=1)] = ["*"]


def _template(text: str) -> str:
    rest = _PLACEHOLDER.sub("", text)
    if _BRACES.search(rest):
        raise ValueError("double braces hold the name of a variable and nothing else, such as {{digit}}")
    return text


class _Bundle(Section):
    templates: Annotated[
        dict[Name, Annotated[str, Field(min_length=1, max_length=65536), AfterValidator(_template)]],
        Field(min_length=1, max_length=256),
    ]
    variables: dict[str, Variable] = {}
    models: Annotated[list[_Goes], Field(min_length=1, max_length=64)]

    @model_validator(mode="after")
    def _consistent(self) -> _Bundle:
        used = {name: at for at, text in self.templates.items() for name in _PLACEHOLDER.findall(text)}
        for name, template in used.items():
            if name not in self.variables:
                raise ValueError(f"template {template!r} uses {{{{{name}}}}}, which is not among the variables")
        for name in self.variables:
            if name not in used:
                raise ValueError(f"the variable {name!r} is used by no template")
        names = [one.name for one in self.models]
        if len(set(names)) != len(names):
            raise ValueError("a model is listed twice; give one entry all its versions")
        return self


def load_prompts(path: Path) -> PromptBundle:
    """Read what a person wrote.

    Raises:
        RecipeError: file, line and path of the first thing that is wrong; a bundle that names no model is refused.
    """
    return _frozen(checked(read_document(path, _KIND), _Bundle))


def parse_prompts(data: bytes) -> PromptBundle:
    """Read ``prompt.json`` of an artifact.

    Raises:
        RecipeError: it is not what `load_prompts` makes.
    """
    try:
        return _frozen(_Bundle.model_validate_json(data))
    except ValueError as problem:
        raise RecipeError(f"{PROMPT_NAME}: {' '.join(str(problem).split()):.200}") from problem


def _frozen(value: _Bundle) -> PromptBundle:
    document: Any = value.model_dump(mode="json", exclude_none=True)
    return PromptBundle(
        templates=value.templates,
        variables=value.variables,
        models={one.name: tuple(one.versions) for one in value.models},
        data=rfc8785.dumps(document),
    )
