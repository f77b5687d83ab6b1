"""The gates file: which gates ``edgehil judge --gates FILE`` judges stored samples by.

Format: gates by their markers' names and arguments, optionally for some tests only::

    alpha: 0.05                        # optional: error rate of each side of gates that state none
    gates:
      - gate: p95_latency              # a marker's name
        arguments: {budget: 12 ms}     # its arguments, by name
      - gate: quantile_latency
        arguments: {q: 0.99, budget: 20 ms, alpha: 0.01}
        tests: "*::test_digits*"       # optional: node ids; * is any text, ? any character, nothing else is special

A test is judged by every gate whose pattern fits its node id. One gate may be listed several times, for example with
several budgets.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from pytest_edgehil.documents.checking import Section, checked
from pytest_edgehil.documents.reading import Document, FileKind, KeyPath, Problem, first_only, read_document
from pytest_edgehil.errors import ConfigError, MarkerError
from pytest_edgehil.gates.gate import Gate, GateSettings
from pytest_edgehil.gates.registry import parse

_KIND = FileKind(noun="gates file", expected="'gates:'", refusal=first_only(ConfigError), anchors=True)
EVERY_TEST = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedGate:
    """A gate and the tests it is for. Args: tests: pattern of node ids."""

    gate: Gate
    tests: str

    def is_for(self, nodeid: str) -> bool:
        """Does the pattern fit? A bracket is a bracket: node ids of parametrised tests hold them."""
        return fnmatch.fnmatchcase(nodeid, self.tests.replace("[", "[[]"))


@dataclass(frozen=True, slots=True, kw_only=True)
class GatesFile:
    """A gates file, read."""

    listed: tuple[ListedGate, ...]

    def gates_for(self, nodeid: str) -> tuple[Gate, ...]:
        """The gates that a test is judged by, in the file's order."""
        return tuple(one.gate for one in self.listed if one.is_for(nodeid))


class _Listed(Section):
    gate: str = Field(min_length=1, description="the name of a gate's marker, such as p95_latency")
    arguments: dict[str, Any] = Field(default_factory=dict, description="the marker's arguments, by name")
    tests: str = Field(default=EVERY_TEST, min_length=1, description="pattern of node ids; * is any text")


class _File(Section):
    alpha: float = Field(default=0.05, gt=0, lt=0.5, description="error rate of each side of gates that state none")
    gates: list[_Listed] = Field(min_length=1, description="the gates to judge by")


def load_gates(path: Path) -> GatesFile:
    """Read a gates file.

    Raises:
        ConfigError: missing or malformed, or a gate does not take these arguments; names file, line and path.
    """
    document = read_document(path, _KIND)
    found = checked(document, _File)
    settings = GateSettings(alpha=found.alpha, root=path.parent)
    listed: list[ListedGate] = []
    problems: list[Problem] = []
    for number, one in enumerate(found.gates):
        try:
            gate = parse(one.gate, (), one.arguments, settings=settings)
        except MarkerError as problem:
            what = str(problem)
            problems.append(document.problem(_place(document, number, what), what))
        else:
            listed.append(ListedGate(gate=gate, tests=one.tests))
    if problems:
        raise document.refuse(problems)
    return GatesFile(listed=tuple(listed))


def gates_schema() -> dict[str, Any]:
    """JSON Schema of the gates file, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "gates file of edgehil judge",
        **{key: value for key, value in _File.model_json_schema().items() if key != "title"},
    }


def _place(document: Document, number: int, what: str) -> KeyPath:
    """The argument that a message is about, if it names one of those given; else the gate."""
    where: KeyPath = ("gates", number, "arguments")
    named = (path for path in document.lines if path[: len(where)] == where and len(path) == len(where) + 1)
    about = what.partition(": ")[2]
    words = about.replace("'", " ").split()
    return next((path for path in named if str(path[-1]) in words), ("gates", number, "gate"))
