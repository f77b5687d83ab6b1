"""A YAML file as plain data, with the line of every key and value.

PyYAML's own constructors lose the lines, silently keep the last of two equal keys, and read YAML 1.1, in which
``on:`` and ``off:`` are booleans and ``22:22`` is the number 1342; a power section has exactly the keys ``on`` and
``off``. So the node graph is composed by PyYAML and read here, by the core schema of YAML 1.2
(https://yaml.org/spec/1.2.2/#103-core-schema). Keys are always text.

Anchors, aliases and merge keys (``<<: *common``) work, and top-level keys that begin with ``x-`` are left out: they
are the place where a big lab keeps what its boards have in common.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from pytest_edgehil.errors import LabFileError

KeyPath = tuple[str | int, ...]

# expanded by aliases; a real lab of 500 boards has about 10 000 nodes
_MOST_NODES = 250_000
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: Mapping[str, object] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_LONGEST_NUMBER = 64  # int() refuses thousands of digits with an error of its own
_PLAIN_TAGS = frozenset(("!", *(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with a document."""

    line: int
    where: KeyPath
    what: str

    def text(self, source: Path) -> str:
        """``farm/virtual.yaml:14: boards.pi5-02.ssh.port: what``."""
        dotted = f"{dotted_path(self.where)}: " if self.where else ""
        return f"{source}:{self.line}: {dotted}{self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Plain data (dict, list, str, int, float, bool, None), and the line of every path in it, counted from 1."""

    source: Path
    data: object
    lines: Mapping[KeyPath, int]

    def line(self, where: KeyPath) -> int:
        """The line of a path, or of the innermost part of it that is written down."""
        for length in range(len(where), -1, -1):
            if where[:length] in self.lines:
                return self.lines[where[:length]]
        return 1

    def problem(self, where: KeyPath, what: str) -> Problem:
        """A problem at a path."""
        return Problem(line=self.line(where), where=where, what=what)


def dotted_path(where: KeyPath) -> str:
    """Write a path as people do.

    >>> dotted_path(("boards", "pi5-02", "tags", 1))
    'boards.pi5-02.tags[1]'
    """
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def refuse(source: Path, problems: list[Problem]) -> LabFileError:
    """The error for a file that has problems: the first in the message, all of them in `problems`."""
    ordered = sorted(problems, key=lambda problem: (problem.line, dotted_path(problem.where)))
    texts = tuple(dict.fromkeys(problem.text(source) for problem in ordered))
    rest = len(texts) - 1
    more = f" (and {rest} more problem{'s' if rest > 1 else ''}: run 'edgehil lab check {source}')" if rest else ""
    return LabFileError(texts[0] + more, problems=texts)


def read_document(source: Path) -> Document:
    """Read a YAML file.

    Raises:
        LabFileError: the file cannot be read, is not YAML, is empty, holds several documents, tags or equal keys.
    """
    try:
        text = source.read_text(encoding="utf-8")
    except FileNotFoundError as missing:
        raise LabFileError(f"{source}: there is no such lab file") from missing
    except IsADirectoryError as wrong:
        raise LabFileError(f"{source}: this is a directory; pass the lab file in it") from wrong
    except UnicodeDecodeError as wrong:
        raise LabFileError(f"{source}: the lab file is not UTF-8 text: {wrong.reason} at byte {wrong.start}") from wrong
    except OSError as wrong:
        raise LabFileError(f"{source}: cannot read the lab file: {wrong.strerror}") from wrong
    try:
        # not libyaml's CBaseLoader: 50 000 nested brackets are a RecursionError here and a segmentation fault there
        root = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as wrong:
        mark = wrong.problem_mark or wrong.context_mark
        line = mark.line + 1 if mark else 1
        said = ", ".join(part for part in (wrong.context, wrong.problem) if part)
        raise LabFileError(f"{source}:{line}: not valid YAML: {said}") from wrong
    except yaml.YAMLError as wrong:  # a character that YAML forbids: this error has no mark, only a position
        position = getattr(wrong, "position", None)
        line = text.count("\n", 0, position) + 1 if isinstance(position, int) else 1
        raise LabFileError(f"{source}:{line}: not valid YAML: {' '.join(str(wrong).split())}") from wrong
    except RecursionError as deep:
        raise LabFileError(f"{source}:1: not a lab file: it is nested too deeply") from deep
    if root is None:
        raise LabFileError(f"{source}:1: the lab file is empty; expected 'lab:' and 'boards:'")
    reader = _Reader()
    try:
        data = reader.read(root, ())
    except RecursionError as deep:
        raise LabFileError(f"{source}:1: not a lab file: it is nested too deeply") from deep
    if reader.problems:
        raise refuse(source, reader.problems)
    if isinstance(data, dict):
        data = {key: value for key, value in data.items() if not key.startswith("x-")}
    return Document(source=source, data=data, lines=reader.lines)


class _Reader:
    """Walks a node graph once; what it finds wrong is collected, so that one run shows every problem."""

    def __init__(self) -> None:
        self.lines: dict[KeyPath, int] = {}
        self.problems: list[Problem] = []
        self._open: list[yaml.Node] = []
        self._nodes = 0

    def read(self, node: yaml.Node, where: KeyPath) -> object:
        line = node.start_mark.line + 1
        if not isinstance(node, yaml.ScalarNode):
            self.lines.setdefault(where, line)
        else:
            self.lines[where] = line
        if any(node is outer for outer in self._open):
            self._refuse(line, where, "an alias must not contain itself")
            return None
        if self._too_many(line, where):
            return None
        if node.tag not in _PLAIN_TAGS:
            self._refuse(line, where, f"tags such as {node.tag!r} are not used in a lab file")
            return None
        self._open.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, where)
            if isinstance(node, yaml.SequenceNode):
                return [self.read(item, (*where, index)) for index, item in enumerate(node.value)]
            assert isinstance(node, yaml.ScalarNode)
            return _scalar(node)
        finally:
            self._open.pop()

    def _too_many(self, line: int, where: KeyPath) -> bool:
        """Whether aliases of aliases blow up; said once."""
        self._nodes += 1
        if self._nodes == _MOST_NODES + 1:
            self._refuse(line, where, "the aliases of this file expand to too many values")
        return self._nodes > _MOST_NODES

    def _refuse(self, line: int, where: KeyPath, what: str) -> None:
        self.problems.append(Problem(line=line, where=where, what=what))

    def _mapping(self, node: yaml.MappingNode, where: KeyPath) -> dict[str, object]:
        own: dict[str, object] = {}
        first: dict[str, int] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._refuse(line, where, "a key must be plain text")
                continue
            key = str(key_node.value)
            if key == "<<" and key_node.style is None:
                merged.extend(value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node])
                continue
            if key in first:
                self._refuse(line, (*where, key), f"this key is already given in line {first[key]}")
                continue
            first[key] = line
            self.lines[(*where, key)] = line
            own[key] = self.read(value_node, (*where, key))
        inherited: dict[str, object] = {}
        for source in merged:
            if not isinstance(source, yaml.MappingNode):
                self._refuse(source.start_mark.line + 1, where, "'<<' merges mappings only")
                continue
            if self._too_many(source.start_mark.line + 1, where):
                break
            # read under this path, so that a problem is reported where the merged value stands and counts
            lines, self.lines = self.lines, {}
            values = self._mapping(source, where)
            merged_lines, self.lines = self.lines, lines
            for known, line in merged_lines.items():
                self.lines.setdefault(known, line)
            for key, value in values.items():
                if key not in own:
                    inherited.setdefault(key, value)
        return {**inherited, **own}


def _scalar(node: yaml.ScalarNode) -> object:
    text = str(node.value)
    if node.style is not None or len(text) > _LONGEST_NUMBER:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
