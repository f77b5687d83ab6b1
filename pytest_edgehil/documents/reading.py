"""A YAML file as plain data, with the line of every key and value.

PyYAML's own constructors lose the lines, silently keep the last of two equal keys, and read YAML 1.1, in which
``on:`` and ``off:`` are booleans and ``22:22`` is the number 1342; a power section has exactly the keys ``on`` and
``off``. So the node graph is composed by PyYAML and read here, by the core schema of YAML 1.2
(https://yaml.org/spec/1.2.2/#103-core-schema). Keys are always text.

What differs between the files of different rooms is said once, by a `FileKind`: how the file is called, which error
refuses it, and whether it may share values between its parts. Where it may, anchors, aliases and merge keys
(``<<: *common``) work, and top-level keys that begin with ``x-`` can be left out: they are the place where a big lab
keeps what its boards have in common.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from pytest_edgehil.errors import UserError

KeyPath = tuple[str | int, ...]

# expanded by aliases; a real lab of 500 boards has about 10 000 nodes
_MOST_NODES = 250_000
_DEEPEST = 64  # collections within each other; a lab has 6
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
class FileKind:
    """What one kind of file may hold and how it is refused.

    Args:
        noun: what people call it: ``lab file``, ``recipe``.
        expected: what an empty file should have held.
        refusal: makes the error of a message (the first problem, and how many more there are) and all problems.
        see_all: command that shows every problem of a file; the file's name is put behind it. Empty: there is none.
        anchors: whether anchors, aliases and merge keys may be used.
        x_keys: whether top-level keys that begin with ``x-`` are left out; otherwise they are keys like others.
        most_bytes: larger files are refused.
    """

    noun: str
    expected: str
    refusal: Callable[[str, tuple[str, ...]], UserError]
    see_all: str = ""
    anchors: bool = False
    x_keys: bool = False
    most_bytes: int = 16 << 20


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
    """A file, read.

    Args:
        raw: the bytes of the file; their digest pins it.
        data: plain data (dict, list, str, int, float, bool, None).
        lines: the line of every path in it, counted from 1.
    """

    source: Path
    kind: FileKind
    raw: bytes
    data: object
    lines: Mapping[KeyPath, int]

    def line(self, where: KeyPath) -> int:
        """The line of a path, or of the innermost part of it that is written down."""
        for length in range(len(where), -1, -1):
            if where[:length] in self.lines:
                return self.lines[where[:length]]
        return 1

    def place(self, where: KeyPath) -> str:
        """A path as messages begin with it: ``farm/virtual.yaml:14: boards.pi5-02.ssh.port``."""
        return f"{self.source}:{self.line(where)}: {dotted_path(where)}"

    def problem(self, where: KeyPath, what: str) -> Problem:
        """A problem at a path."""
        return Problem(line=self.line(where), where=where, what=what)

    def error(self, where: KeyPath, what: str) -> UserError:
        """The error for a file in which one thing is wrong."""
        return self.refuse([self.problem(where, what)])

    def refuse(self, problems: Iterable[Problem]) -> UserError:
        """The error for a file that has problems: the first in the message, all of them handed to the refusal."""
        return _refuse(self.source, self.kind, problems)


def dotted_path(where: KeyPath) -> str:
    r"""Write a path as people do; a key that would break the line, or the terminal, is quoted.

    >>> dotted_path(("boards", "pi5-02", "tags", 1))
    'boards.pi5-02.tags[1]'
    >>> print(dotted_path(("boards", "pi5\n02", "class")))
    boards.'pi5\n02'.class
    """
    text = ""
    for key in where:
        part = repr(key) if isinstance(key, str) and not key.isprintable() else key
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def first_only(error: type[UserError]) -> Callable[[str, tuple[str, ...]], UserError]:
    """A refusal for errors that hold a message and nothing else."""
    return lambda message, _problems: error(message)


def _refuse(source: Path, kind: FileKind, problems: Iterable[Problem]) -> UserError:
    ordered = sorted(problems, key=lambda problem: (problem.line, dotted_path(problem.where)))
    texts = tuple(dict.fromkeys(problem.text(source) for problem in ordered))
    rest = len(texts) - 1
    see_all = f": run '{kind.see_all} {source}'" if kind.see_all else ""
    more = f" (and {rest} more problem{'s' if rest > 1 else ''}{see_all})" if rest else ""
    return kind.refusal(texts[0] + more, texts)


def read_document(source: Path, kind: FileKind) -> Document:
    """Read a YAML file.

    Raises:
        UserError: of the kind's type: the file cannot be read, is too large, is not YAML, is empty, holds several
            documents, tags, equal keys, or anchors where its kind has none.
    """

    def refused(what: str, *, line: int | None = None) -> UserError:
        message = f"{source}: {what}" if line is None else f"{source}:{line}: {what}"
        return kind.refusal(message, (message,))

    try:
        with source.open("rb") as file:
            raw = file.read(kind.most_bytes + 1)
    except FileNotFoundError as missing:
        raise refused(f"there is no such {kind.noun}") from missing
    except IsADirectoryError as wrong:
        raise refused(f"this is a directory; pass the {kind.noun} in it") from wrong
    except OSError as wrong:
        raise refused(f"cannot read the {kind.noun}: {wrong.strerror}") from wrong
    if len(raw) > kind.most_bytes:
        raise refused(f"the {kind.noun} is too large: at most {kind.most_bytes} bytes are read")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as wrong:
        raise refused(f"the {kind.noun} is not UTF-8 text: {wrong.reason} at byte {wrong.start}") from wrong
    too_deep = f"not a {kind.noun}: it is nested too deeply"
    try:
        root = _compose(text, anchors=kind.anchors)
    except _Unwanted as unwanted:
        raise refused(unwanted.what or too_deep, line=unwanted.line) from unwanted
    except yaml.MarkedYAMLError as wrong:
        mark = wrong.problem_mark or wrong.context_mark
        said = ", ".join(part for part in (wrong.context, wrong.problem) if part)
        raise refused(f"not valid YAML: {said}", line=mark.line + 1 if mark else 1) from wrong
    except yaml.YAMLError as wrong:  # a character that YAML forbids: this error has no mark, only a position
        position = getattr(wrong, "position", None)
        line = text.count("\n", 0, position) + 1 if isinstance(position, int) else 1
        raise refused(f"not valid YAML: {' '.join(str(wrong).split())}", line=line) from wrong
    if root is None:
        raise refused(f"the {kind.noun} is empty; expected {kind.expected}", line=1)
    reader = _Reader(kind)
    try:
        data = reader.read(root, ())
    except RecursionError as deep:  # merges of merges of merges: the text is shallow, what it stands for is not
        raise refused(too_deep, line=1) from deep
    if reader.problems:
        raise _refuse(source, kind, reader.problems)
    if kind.x_keys and isinstance(data, dict):
        data = {key: value for key, value in data.items() if not key.startswith("x-")}
    return Document(source=source, kind=kind, raw=raw, data=data, lines=reader.lines)


class _Unwanted(Exception):
    """Valid YAML that is not read here; found before a graph is made of it."""

    def __init__(self, line: int, what: str = "") -> None:
        super().__init__(what)
        self.line = line
        self.what = what


# not libyaml's CBaseLoader: 50 000 nested brackets are a segmentation fault there
class _Composer(yaml.BaseLoader):
    """Composes a graph whose depth is bounded, and, where anchors are not wanted, which is a tree."""

    anchors_wanted = True
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1 if event.start_mark else 1
        if not self.anchors_wanted and getattr(event, "anchor", None) is not None:  # aliases have one, too
            raise _Unwanted(line, "anchors and aliases are not read here; write the value out")
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _Unwanted(line)
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


def _compose(text: str, *, anchors: bool) -> yaml.Node | None:
    composer = _Composer(text)
    composer.anchors_wanted = anchors
    try:
        return composer.get_single_node()
    finally:
        composer.dispose()


class _Reader:
    """Walks a node graph once; what it finds wrong is collected, so that one run shows every problem."""

    def __init__(self, kind: FileKind) -> None:
        self._kind = kind
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
            self._refuse(line, where, f"tags such as {node.tag!r} are not used in a {self._kind.noun}")
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
