r"""Prompt bundles: templates with typed variables, guardrails, the models that they go with, and their own tests.

What a person writes::

    templates:
      announce: "The digit reads {{digit}}."
    variables:
      digit: {type: integer, minimum: 0, maximum: 9}
    guardrails:
      input: {max_length: 200, deny: ["ignore (all|any) previous"]}      # every text that a variable takes
      output: {max_length: 400, languages: [en]}                         # what the model answers
    models:
      - {name: digits, versions: ["1.*"]}
    tests:
      - {name: a digit, template: announce, values: {digit: 7}, expect: ["reads 7"], forbid: ["\{"]}
      - {name: not a digit, template: announce, values: {digit: 12}, refused: outside}

What goes into the artifact is ``prompt.json``: the same, checked, in canonical JSON. A template knows one thing
only, ``{{variable}}``: no logic, no access to attributes, nothing that a value could break out of, because values
are put in once and never looked at again. The tests are run by ``edgehil prompt check`` and by the build; they look
at prompts as they are rendered, and at refusals. What a model makes of a prompt is for tests on a board.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import rfc8785
from pydantic import AfterValidator, Field, ValidationError, model_validator

from pytest_edgehil.artifacts.guardrails import Guardrail, RegularExpression
from pytest_edgehil.artifacts.manifest import Name, Printable, first_error
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
        guardrails: for texts that go in, and for answers.
        tests: of the bundle itself.
        data: ``prompt.json``.
    """

    templates: Mapping[str, str]
    variables: Mapping[str, Variable]
    models: Mapping[str, tuple[str, ...]]
    guardrails: Guardrails
    tests: tuple[PromptTest, ...]
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
            value = values[name]
            self.variables[name].check(name, value)
            if isinstance(value, str):
                objections = self.guardrails.input.objections(value)
                if objections:
                    raise RecipeError(f"{name}: the text {objections[0]}")
        return _PLACEHOLDER.sub(lambda found: _written(values[found[1]]), text)

    def failures(self) -> tuple[str, ...]:
        """What the bundle's own tests find, one line each; empty when all is well."""
        return tuple(f"test {test.name!r}: {said}" for test in self.tests if (said := self._failure(test)))

    def _failure(self, test: PromptTest) -> str | None:
        try:
            text = self.render(test.template, test.values)
        except RecipeError as problem:
            if test.refused is None:
                return f"was refused: {problem}"
            return None if test.refused in str(problem) else f"was refused for another reason: {problem}"
        if test.refused is not None:
            return f"was not refused; the prompt is {text!r:.120}"
        for pattern in test.expect:
            if re.search(pattern, text, re.IGNORECASE) is None:
                return f"{pattern!r} is not in the prompt {text!r:.120}"
        for pattern in test.forbid:
            if re.search(pattern, text, re.IGNORECASE) is not None:
                return f"{pattern!r} is in the prompt {text!r:.120}"
        return None


class Variable(Section):
    """What a variable may be."""

    type: Literal["text", "integer", "number", "choice", "flag"]
    choices: Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=256)] = []
    minimum: float | None = None
    maximum: float | None = None
    max_length: Annotated[int, Field(ge=1, le=1 << 31)] | None = None

    @model_validator(mode="after")
    def _goes_together(self) -> Variable:
        numeric = self.type in {"integer", "number"}
        if not numeric and (self.minimum is not None or self.maximum is not None):
            raise ValueError("minimum and maximum are for numbers; a text has max_length")
        if self.type != "text" and self.max_length is not None:
            raise ValueError("max_length is for text; a number has minimum and maximum")
        if (self.type == "choice") != bool(self.choices):
            raise ValueError("choices are what a variable of type choice must have, and no other may")
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
        if self.type == "choice":
            if value not in self.choices:
                raise RecipeError(f"{name}: {value!r:.60} is none of {', '.join(self.choices)}")
            return
        if self.type == "flag":
            if not isinstance(value, bool):
                raise RecipeError(f"{name}: {value!r:.60} is neither true nor false")
            return
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole and not (self.type == "number" and isinstance(value, float)):
            raise RecipeError(f"{name}: {value!r:.60} is no {self.type}")
        assert isinstance(value, (int, float))
        low = -math.inf if self.minimum is None else self.minimum
        high = math.inf if self.maximum is None else self.maximum
        if not low <= value <= high:  # NaN too: every comparison with it is false
            raise RecipeError(f"{name}: {value!r:.60} is outside {low:g} … {high:g}")


class Guardrails(Section):
    """What goes into a template, and what comes out of a model."""

    input: Guardrail = Guardrail()
    """Every text that a variable takes."""
    output: Guardrail = Guardrail()
    """What the model answers."""


class PromptTest(Section):
    """A test of the bundle itself: a prompt as it is rendered, or a refusal.

    ``expect`` and ``forbid`` are patterns as in guardrails; ``refused`` is a part of the reason.
    """

    name: Annotated[str, Field(min_length=1, max_length=128)]
    template: str
    values: dict[str, str | int | float | bool]
    expect: Annotated[list[RegularExpression], Field(max_length=64)] = []
    forbid: Annotated[list[RegularExpression], Field(max_length=64)] = []
    refused: Annotated[str, Field(min_length=1, max_length=256)] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> PromptTest:
        if self.refused is not None and (self.expect or self.forbid):
            raise ValueError("what is refused is not rendered: nothing can be expected or forbidden in it")
        if self.refused is None and not self.expect and not self.forbid:
            raise ValueError("a test says what it expects, what it forbids, or why it is refused")
        return self


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
    guardrails: Guardrails = Guardrails()
    models: Annotated[list[_Goes], Field(min_length=1, max_length=64)]
    tests: Annotated[list[PromptTest], Field(max_length=1024)] = []

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
        titles = [one.name for one in self.tests]
        if len(set(titles)) != len(titles):
            raise ValueError("two tests have the same name")
        for test in self.tests:
            if test.template not in self.templates:
                raise ValueError(f"the test {test.name!r} is about the template {test.template!r}, which is not there")
        return self


def prompt_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a prompt bundle's YAML, for editors."""
    schema = _Bundle.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Prompt bundle"
    return schema


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def load_prompts(path: Path) -> PromptBundle:
    """Read what a person wrote.

    Raises:
        RecipeError: file, line and path of the first thing that is wrong; a bundle that names no model is refused.
    """
    return _frozen(checked(read_document(path, _KIND), _Bundle))


def parse_prompts(data: bytes) -> PromptBundle:
    """Read ``prompt.json`` of an artifact.

    Raises:
        RecipeError: it is not what `load_prompts` makes, byte for byte.
    """
    try:
        bundle = _frozen(_Bundle.model_validate_json(data))
    except ValidationError as problem:
        raise RecipeError(f"{PROMPT_NAME}: {first_error(problem)}; rebuild the artifact") from problem
    if bundle.data != data:
        raise RecipeError(
            f"{PROMPT_NAME}: not in canonical form (RFC 8785), as a build writes it; rebuild the artifact"
        )
    return bundle


def _frozen(value: _Bundle) -> PromptBundle:
    document: Any = value.model_dump(mode="json", exclude_none=True)
    try:
        data = rfc8785.dumps(document)
    except rfc8785.CanonicalizationError as problem:  # beyond what every reader of JSON takes for the same number
        raise RecipeError(f"{PROMPT_NAME}: holds a number that JSON cannot carry exactly: {problem}") from problem
    return PromptBundle(
        templates=value.templates,
        variables=value.variables,
        models={one.name: tuple(one.versions) for one in value.models},
        guardrails=value.guardrails,
        tests=tuple(value.tests),
        data=data,
    )
