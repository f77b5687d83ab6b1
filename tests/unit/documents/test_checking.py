"""A document held against a model: every problem is one line that says what was found, expected and meant.

What is asserted of lab files in tests/unit/lab is not repeated here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, RootModel

from pytest_edgehil.documents.checking import Section, checked
from pytest_edgehil.documents.reading import FileKind, read_document
from pytest_edgehil.errors import LabFileError

NOTE = FileKind(
    noun="note", expected="'kind:'", refusal=lambda message, problems: LabFileError(message, problems=problems)
)


class Entry(Section):
    """A part of a note."""

    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    count: Annotated[int, Field(ge=1)] = 1


class Versioned(Section):
    """A note that knows its version."""

    version: Literal[1]
    limit: str | float | int = 0
    who: Literal["all", "none"] | list[str] = "all"


class Letter(Section):
    """A note of one kind."""

    kind: Literal["letter"]
    title: Annotated[str, Field(description="what it is about")]
    entries: list[Entry] = Field(default_factory=list)


class Memo(Section):
    """A note of another kind."""

    kind: Literal["memo"]
    weight: float


Note = RootModel[Annotated[Letter | Memo, Field(discriminator="kind")]]


def problems(tmp_path: Path, text: str) -> list[str]:
    source = tmp_path / "note.yaml"
    source.write_text(text, encoding="utf-8")
    with pytest.raises(LabFileError) as refused:
        checked(read_document(source, NOTE), Note)
    return [problem.removeprefix(f"{source}:") for problem in refused.value.problems]


def test_a_document_becomes_a_frozen_value(tmp_path: Path) -> None:
    source = tmp_path / "note.yaml"
    source.write_text("kind: memo\nweight: 2\n", encoding="utf-8")

    assert checked(read_document(source, NOTE), Note).root == Memo(kind="memo", weight=2.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n", "1: expected a mapping of keys to values, found a list"),
        ("title: x\n", "1: kind: missing: expected one of letter, memo"),
        ("kind: lettre\n", "1: kind: unknown value 'lettre'; did you mean 'letter'? expected one of letter, memo"),
        ("kind: letter\n", "1: title: missing: what it is about"),
        ("kind: memo\n", "1: weight: missing: this key is needed"),
        (
            "kind: memo\nweight: 1\nwieght: 1\n",
            "3: wieght: unknown key; did you mean 'weight'? known keys here: kind, ",
        ),
        ("kind: memo\nweight: .nan\n", "2: weight: expected a finite number, found nan"),
        ("kind: memo\nweight: -.inf\n", "2: weight: expected a finite number, found -inf"),
        ("kind: memo\nweight: '1'\n", "2: weight: expected a number, found the text '1'"),
        (
            "kind: letter\ntitle: x\nentries:\n  - share: 1\n",
            "4: entries[0].share: expected less than 1, found the number 1",
        ),
        (
            "kind: letter\ntitle: x\nentries:\n  - {cuont: 1}\n",
            "4: entries[0].cuont: unknown key; did you mean 'count'?",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    (problem,) = problems(tmp_path, text)

    assert problem.startswith(said)


def test_keys_of_another_branch_are_not_offered(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "kind: memo\nweight: 1\ntitle: x\n")

    assert problem == "3: title: unknown key; known keys here: kind, weight"


def test_all_problems_are_handed_over_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "entries:\n  - {count: 0, share: 0}\ntitle: 1\nkind: letter\n"

    assert [problem.partition(": expected")[0] for problem in problems(tmp_path, text)] == [
        "2: entries[0].count",
        "2: entries[0].share",
        "3: title",
    ]


def test_a_number_that_can_only_be_one_is_named(tmp_path: Path) -> None:
    source = tmp_path / "note.yaml"
    source.write_text("version: 2\n", encoding="utf-8")

    with pytest.raises(LabFileError, match="1: version: expected 1, found the number 2"):
        checked(read_document(source, NOTE), Versioned)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("limit: []", "limit: expected text or a number or a whole number, found a list"),
        ("limit: .nan", "limit: expected a finite number, found nan"),
        ("who: nnoe", "who: unknown value 'nnoe'; did you mean 'none'? expected one of all, none"),
        ("who: [1]", "who[0]: expected text, found the number 1; put it in quotes"),
    ],
)
def test_a_value_that_may_be_of_several_kinds_has_one_problem(tmp_path: Path, line: str, said: str) -> None:
    source = tmp_path / "note.yaml"
    source.write_text(f"version: 1\n{line}\n", encoding="utf-8")

    with pytest.raises(LabFileError) as refused:
        checked(read_document(source, NOTE), Versioned)
    assert refused.value.problems == (f"{source}:2: {said}",)
