"""YAML with lines: what is read, and what is refused before anybody looks at its meaning."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_edgehil.documents.reading import Document, FileKind, first_only, read_document
from pytest_edgehil.errors import ConfigError, LabFileError
from pytest_edgehil.lab.schema import LAB_FILE

# the plainest kind there is; a lab file may do the most
NOTE = FileKind(noun="note", expected="'note:'", refusal=first_only(ConfigError), most_bytes=1000)


def read(tmp_path: Path, text: str, kind: FileKind = LAB_FILE) -> Document:
    source = tmp_path / "lab.yaml"
    source.write_text(text, encoding="utf-8")
    return read_document(source, kind)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on: [x]", {"on": ["x"]}),
        ("off: yes", {"off": "yes"}),
        ("a: 22:22", {"a": "22:22"}),
        ("a: 2026-11-01", {"a": "2026-11-01"}),
        ("a: 010", {"a": 10}),
        ("a: 0x10", {"a": 16}),
        ("a: '10'", {"a": "10"}),
        ("a: 1.5e3", {"a": 1500.0}),
        ("a: true", {"a": True}),
        ("a: ~", {"a": None}),
        ("a:", {"a": None}),
        ("1: b", {"1": "b"}),
        ("a: " + "9" * 5000, {"a": "9" * 5000}),
        ("x-common: 1\na: 2", {"a": 2}),
    ],
)
def test_scalars_are_those_of_yaml_1_2_and_keys_are_text(tmp_path: Path, text: str, value: object) -> None:
    assert read(tmp_path, text).data == value


def test_every_key_and_item_knows_its_line(tmp_path: Path) -> None:
    document = read(tmp_path, "a: 1\nb:\n  c:\n    - x\n    - y\n")

    assert [document.line(where) for where in [("a",), ("b",), ("b", "c"), ("b", "c", 0), ("b", "c", 1)]] == [
        1,
        2,
        3,
        4,
        5,
    ]


def test_a_path_that_is_not_written_down_has_the_line_of_what_is_around_it(tmp_path: Path) -> None:
    assert read(tmp_path, "a: 1\nb:\n  c: 2\n").line(("b", "missing", "deeper")) == 2


def test_merged_values_have_the_line_where_they_are_written_and_own_values_win(tmp_path: Path) -> None:
    document = read(tmp_path, "x-a: &a\n  p: 1\n  q: 2\nb:\n  <<: *a\n  q: 3\n")

    assert document.data == {"b": {"p": 1, "q": 3}}
    assert [document.line(("b", "p")), document.line(("b", "q"))] == [2, 6]


def test_of_several_merged_mappings_the_first_wins(tmp_path: Path) -> None:
    assert read(tmp_path, "x-a: &a {p: 1}\nx-b: &b {p: 2, q: 2}\nc: {<<: [*a, *b]}\n").data == {"c": {"p": 1, "q": 2}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "lab.yaml:3: a: this key is already given in line 1"),
        ("b:\n  c: 1\n  c: 2\n", "lab.yaml:3: b.c: this key is already given in line 2"),
        ("", "lab.yaml:1: the lab file is empty; expected 'lab:' and 'boards:'"),
        ("# only a comment\n", "lab.yaml:1: the lab file is empty; expected 'lab:' and 'boards:'"),
        ("a: [1\nb: 2\n", "lab.yaml:2: not valid YAML: while parsing a flow sequence, expected ',' or ']'"),
        ("a:\n\tb: 1\n", "lab.yaml:2: not valid YAML: "),
        ("a: 1\n---\nb: 1\n", "lab.yaml:2: not valid YAML: expected a single document in the stream"),
        ("a: 1\nb: \x07\n", "lab.yaml:2: not valid YAML: unacceptable character"),
        ("a: !!python/object:os.system x\n", "lab.yaml:1: a: tags such as 'tag:yaml.org,2002:python/object:os.system'"),
        ("a: *missing\n", "lab.yaml:1: not valid YAML: found undefined alias"),
        ("[a, b]: 1\n", "lab.yaml:1: a key must be plain text"),
        ("a: {<<: 1}\n", "lab.yaml:1: a: '<<' merges mappings only"),
        ("a: &a [*a]\n", "lab.yaml:1: a[0]: an alias must not contain itself"),
        ("a: &a {<<: *a}\n", "lab.yaml:1: not a lab file: it is nested too deeply"),
        ("[" * 50_000, "lab.yaml:1: not a lab file: it is nested too deeply"),
    ],
)
def test_what_is_no_document_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(LabFileError) as refused:
        read(tmp_path, text)
    assert str(refused.value).removeprefix(f"{tmp_path}/").startswith(said)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["[*a{0}, *a{0}]", "{{<<: [*a{0}, *a{0}]}}"])
def test_aliases_that_blow_up_are_refused_instead_of_filling_the_memory(tmp_path: Path, kind: str) -> None:
    levels = [f"a{i}: &a{i} {kind.format(i - 1)}" for i in range(1, 60)]

    with pytest.raises(LabFileError, match="expand to too many values"):
        read(tmp_path, "\n".join(["a0: &a0 {k: 1}", *levels]))


def test_a_missing_file_a_directory_and_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"lab: caf\xe9\n")

    with pytest.raises(LabFileError, match=r"none\.yaml: there is no such lab file"):
        read_document(tmp_path / "none.yaml", LAB_FILE)
    with pytest.raises(LabFileError, match="this is a directory"):
        read_document(tmp_path, LAB_FILE)
    with pytest.raises(LabFileError, match=r"latin\.yaml: the lab file is not UTF-8 text: .* at byte 8"):
        read_document(tmp_path / "latin.yaml", LAB_FILE)


def test_the_bytes_of_a_file_are_kept_as_they_are(tmp_path: Path) -> None:
    source = tmp_path / "note.yaml"
    source.write_bytes(b"a: 1 # \xc3\xa9\r\n")

    assert read_document(source, NOTE).raw == b"a: 1 # \xc3\xa9\r\n"


def test_keys_that_begin_with_x_are_keys_like_others_unless_their_kind_leaves_them_out(tmp_path: Path) -> None:
    assert read(tmp_path, "x-common: 1\na: 2", NOTE).data == {"x-common": 1, "a": 2}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &a 1\n", "lab.yaml:1: anchors and aliases are not read here; write the value out"),
        ("a: 1\nb:\n- *a\n", "lab.yaml:3: anchors and aliases are not read here"),
        ("a: 1\na: 2\nb: 1\nb: 2", "lab.yaml:2: a: this key is already given in line 1 (and 1 more problem)"),
        ("a: !x 1\n", "lab.yaml:1: a: tags such as '!x' are not used in a note"),
        ("", "lab.yaml:1: the note is empty; expected 'note:'"),
        ("a:\n" + "[" * 100, "lab.yaml:2: not a note: it is nested too deeply"),
        ("#" * 1001, "lab.yaml: the note is too large: at most 1000 bytes are read"),
    ],
)
def test_a_kind_without_anchors_is_refused_in_its_own_words_and_with_its_own_error(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, text, NOTE)
    assert str(refused.value).removeprefix(f"{tmp_path}/").startswith(said)


def test_an_error_at_one_path_says_file_line_and_path(tmp_path: Path) -> None:
    document = read(tmp_path, "a:\n  b: [1, 2]\n", NOTE)

    assert document.place(("a", "b", 1)) == f"{tmp_path}/lab.yaml:2: a.b[1]"
    assert str(document.error(("a", "b", 1), "too many")) == f"{tmp_path}/lab.yaml:2: a.b[1]: too many"
