"""What the documentation says to type works, and what it names exists.

Every line of a ``console`` block that begins with ``$ `` is a command. The commands of a page run one after the other
in a directory of their own, which looks like a checkout with the artifacts built. HTML comments right before a block,
which no reader sees, say what is special about it:

- ``<!-- exit: 2 -->``: every command of the block ends with this exit status, not with 0.
- ``<!-- not run: REASON -->``: the commands are not run; those of ours are still parsed.
- ``<!-- needs: COMPONENT… -->``: they are run where these components are, and must be where EDGEHIL_REQUIRE names one.
- ``<!-- until: TEXT -->``: the command goes on running; the next one is typed once it has printed this.
- ``<!-- file: NAME -->``: the block (Python or YAML) is a file, and is written where the commands run.
- ``<!-- continues: PAGE -->`` (anywhere): the page goes on in the directory that another page has left.

What a block shows as output must really come: each shown line must be among the real ones. Words with a digit in them
are alike, and so are units after them; ``…`` stands for anything, and a line of only that for any lines.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
from support import allure_cli
from support.quick_pytest import ADDOPTS
from support.standing_farm import once

from pytest_edgehil.cli import parser
from pytest_edgehil.gates.registry import SIGNATURES
from pytest_edgehil.plugin.options import add_options

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    *sorted(
        str(page.relative_to(ROOT))
        for page in (ROOT / "docs").rglob("*.md")
        if not {"_build", "_generated"} & set(page.parts)
    ),
)
CHECKOUT = ("benchmarks", "farm", "suites", "demo", "pyproject.toml", "conftest.py")
RECIPES = (
    "suites/models/digits/digits-fp32.yaml",
    "suites/models/digits/digits-int8.yaml",
    "suites/firmware/edge-os-2026.11.yaml",
)
LONGEST_S = 300.0
NOT_BUILT = "docs/explanation/not-built-yet.md"
UNITS = frozenset(("ns", "µs", "ms", "s", "min", "h", "B", "KiB", "MiB", "GiB", "°C", "%"))


# --- reading a page ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block, and the notes before it."""

    page: str
    line: int
    language: str
    text: str
    notes: Mapping[str, str]

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(slots=True, kw_only=True)
class Command:
    """One command and the output that the page shows for it."""

    where: str
    text: str
    notes: Mapping[str, str]
    shown: list[str] = field(default_factory=list)


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page with a language of their own; directives such as ``{include}`` are none."""
    notes: dict[str, str] = {}
    lines = enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), 1)
    for number, line in lines:
        if note := re.fullmatch(r"\s*<!-- ([a-z ]+): (.+) -->", line):
            notes[note[1]] = note[2]
        elif fence := re.fullmatch(r"(\s*)(`{3,})([\w{}-]*).*", line):
            body = itertools.takewhile(lambda one: one[1].strip() != fence[2], lines)
            text = "\n".join(one.removeprefix(fence[1]) for _, one in body)
            if not fence[3].startswith("{"):
                yield Block(page=page, line=number, language=fence[3], text=f"{text}\n", notes=notes)
            notes = {}
        elif line.strip():
            notes = {}


def commands(block: Block) -> Iterator[Command]:
    """The commands of a console block."""
    command: Command | None = None
    goes_on = False
    for offset, line in enumerate(block.text.splitlines(), 1):
        if goes_on:
            assert command is not None
            command.text += f"\n{line}"
        elif line.startswith("$ "):
            if command is not None:
                yield command
            command = Command(where=f"{block.page}:{block.line + offset}", text=line[2:], notes=block.notes)
        elif command is not None:
            command.shown.append(line)
        goes_on = (goes_on or line.startswith("$ ")) and line.endswith("\\")
    if command is not None:
        yield command


def needed(notes: Mapping[str, str]) -> tuple[str, ...]:
    """The components that a block needs."""
    return tuple(notes.get("needs", "").split())


@cache
def is_here(component: str) -> bool:
    """Is a component here, or installed by now because it is required?"""
    return bool({"npm": lambda: shutil.which("npx"), "allure": allure_cli.find_or_install}[component]())


def skipped(notes: Mapping[str, str]) -> str:
    """Why commands are not run, or nothing; a component that is required is never a reason."""
    required = os.environ.get("EDGEHIL_REQUIRE", "").split(",")
    missing = [one for one in needed(notes) if one not in required and not is_here(one)]
    return notes.get("not run", "") or (f"needs {', '.join(missing)}" if missing else "")


def all_blocks() -> Iterator[Block]:
    for page in PAGES:
        yield from blocks(page)


def all_commands() -> Iterator[Command]:
    for block in all_blocks():
        if block.language == "console":
            yield from commands(block)


def predecessor(page: str) -> str | None:
    """The page that this one continues."""
    found = re.search(r"<!-- continues: (\S+) -->", (ROOT / page).read_text(encoding="utf-8"))
    return None if found is None else f"docs/{found[1]}"


def shape(line: str) -> str:
    """A line without what differs from run to run."""
    words = ["#" if re.search(r"\d", word) else word for word in re.sub(r"\x1b\[[0-9;]*m", "", line).split()]
    bare = " ".join(one for one, before in zip(words, ["", *words], strict=False) if before != "#" or one not in UNITS)
    return bare.replace("# – #", "#")


# --- typing it ---------------------------------------------------------------------------------------


class Desk:
    """A directory in which the commands of a page are typed, and what still runs there."""

    def __init__(self, directory: Path, *, checkout: Path) -> None:
        self.directory = directory / "pytest-edgehil"
        shutil.copytree(checkout, self.directory)
        (directory / "home").mkdir()
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "EDGEHIL_", "COV_"))
        }
        self.environment = {
            **kept,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(directory / "home"),
            "EDGEHIL_STATE_DIR": str(directory / "state"),
            "PYTEST_ADDOPTS": ADDOPTS,
            "COLUMNS": "120",
            "NO_COLOR": "1",
            "PYTHONUNBUFFERED": "1",
        }
        self.going_on: list[tuple[Command, subprocess.Popen[str]]] = []

    def follow(self, block: Block) -> None:
        """Do what a block says."""
        if "file" in block.notes:
            (self.directory / block.notes["file"]).write_text(block.text, encoding="utf-8")
        if block.language == "console" and not skipped(block.notes):
            missing = [one for one in needed(block.notes) if not is_here(one)]
            assert not missing, f"{block.where}: {', '.join(missing)} is not here, but EDGEHIL_REQUIRE says it must be"
            if "allure" in needed(block.notes):  # npx takes what the tests have installed, and asks no network
                (self.directory / "node_modules").symlink_to(allure_cli.modules())
            for command in commands(block):
                self.start(command) if "until" in command.notes else self.run(command)

    def run(self, command: Command) -> None:
        """Type a command, wait for its end, and hold it against what the page says."""
        process = self._start(command)
        try:
            output, _ = process.communicate(timeout=LONGEST_S)
        except subprocess.TimeoutExpired:
            pytest.fail(
                f"{command.where}: not done after {LONGEST_S:g} s: {command.text}\n{ended(process)}", pytrace=False
            )
        except BaseException:
            ended(process)
            raise
        expected = int(command.notes.get("exit", "0"))
        if process.returncode != expected:
            pytest.fail(
                f"{command.where}: exit status {process.returncode}, expected {expected}: {command.text}\n{output}",
                pytrace=False,
            )
        self._compare(command, output)

    def start(self, command: Command) -> None:
        """Type a command that goes on, and wait until it says what the page waits for."""
        process = self._start(command, prefix="exec ")  # no shell stands between it and Ctrl-C
        self.going_on.append((command, process))
        assert process.stdout is not None
        deadline = threading.Timer(LONGEST_S, os.killpg, (process.pid, signal.SIGKILL))
        deadline.start()
        said = []
        for line in process.stdout:
            said.append(line)
            if command.notes["until"] in line:
                break
        deadline.cancel()
        output = "".join(said)
        if not said or command.notes["until"] not in said[-1]:
            pytest.fail(f"{command.where}: ended before it said what was waited for: {command.text}\n{output}")
        self._compare(command, output)

    def clear(self) -> None:
        """Ctrl-C to whatever goes on; it must end well."""
        while self.going_on:
            command, process = self.going_on.pop()
            os.killpg(process.pid, signal.SIGINT)
            try:
                output, _ = process.communicate(timeout=240.0)
            except subprocess.TimeoutExpired:
                output = ended(process)
            assert process.returncode == 0, f"{command.where}: exit status {process.returncode}\n{output}"

    def _start(self, command: Command, *, prefix: str = "") -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["/bin/sh", "-c", f"{prefix}{command.text}"],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def _compare(self, command: Command, output: str) -> None:
        real = [shape(line) for line in output.replace(str(self.directory), "…").splitlines()]
        for line in filter(None, map(shape, command.shown)):
            wanted = re.compile(".*".join(map(re.escape, line.split("…"))))
            if not any(wanted.fullmatch(one) for one in real):
                pytest.fail(f"{command.where}: shows a line that did not come: {line!r}\n{output}", pytrace=False)


def ended(process: subprocess.Popen[str]) -> str:
    """End a command with all that it started; returns what it still had to say."""
    os.killpg(process.pid, signal.SIGKILL)
    return process.communicate()[0]


def runs(page: str) -> bool:
    return any(one.language == "console" and not skipped(one.notes) for one in blocks(page))


def journeys() -> Iterator[tuple[str, ...]]:
    """Each page with commands, together with those that continue it."""
    for page in filter(runs, PAGES):
        if predecessor(page) is None:
            yield (page, *(one for one in PAGES if predecessor(one) == page))


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which the artifacts of the suites are built."""

    def make(directory: Path) -> None:
        for name in CHECKOUT:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, directory / name)
        build = [sys.executable, "-m", "pytest_edgehil", "build", "--quiet", *RECIPES]
        subprocess.run(build, cwd=directory, check=True, timeout=LONGEST_S)

    return once(tmp_path_factory, "checkout", make)


@pytest.mark.timeout(900)  # as long as its commands together
@pytest.mark.parametrize("pages", [pytest.param(pages, id=" then ".join(pages)) for pages in journeys()])
def test_what_pages_say_to_type_works(pages: tuple[str, ...], tmp_path: Path, checkout: Path) -> None:
    desk = Desk(tmp_path, checkout=checkout)
    for page in pages:
        try:
            for block in blocks(page):
                desk.follow(block)
        finally:
            desk.clear()


@pytest.mark.parametrize("command", [pytest.param(one, id=one.where) for one in all_commands() if skipped(one.notes)])
def test_a_command_that_is_not_run(command: Command) -> None:
    """It can at least be parsed if it is ours; skipped, so that every run lists what was not run, and why."""
    words = shlex.split(command.text.replace("\\\n", " "), comments=True)
    words = list(itertools.takewhile(lambda word: word not in {">", "|"}, words))
    if words[0] == "edgehil":
        parser().parse_args(words[1:])  # ends the test if it is wrong
    pytest.skip(f"{command.where}: {command.text.splitlines()[0]}: {skipped(command.notes)}")


def test_every_python_and_yaml_block_is_a_file_that_a_command_uses() -> None:
    for block in all_blocks():
        if block.language not in {"python", "yaml"} or "not run" in block.notes:
            continue
        name = block.notes.get("file")
        assert name, f"{block.where}: say which file this is, or why it is not run"
        using = [command for command in all_commands() if command.where.startswith(block.page) and name in command.text]
        assert any("not run" not in command.notes for command in using), f"{block.where}: nothing uses {name}"


def test_notes_are_known_and_stand_before_a_block_that_they_suit() -> None:
    known = {"exit", "not run", "until", "file", "needs"}
    used = 0
    for block in all_blocks():
        assert set(block.notes) <= known, block.where
        assert block.language == "console" or not {"exit", "until", "needs"} & set(block.notes), block.where
        used += len(block.notes)
    written = sum(
        len(re.findall(rf"<!-- (?:{'|'.join(known)}): .+ -->", (ROOT / page).read_text(encoding="utf-8")))
        for page in PAGES
    )
    assert used == written, "a note does not stand right before a block"


# --- names -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def options() -> tuple[set[str], set[str]]:
    """Options and ini values that the plugin has."""
    declared = pytest.Parser(_ispytest=True)
    add_options(declared)
    names = {name for option in declared.getgroup("edgehil").options for name in option.names()}
    return names, {name for name in declared._inidict if name.startswith("edgehil")}


@pytest.mark.parametrize("page", PAGES)
def test_options_markers_and_commands_exist(page: str, options: tuple[set[str], set[str]]) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert set(re.findall(r"--edgehil-[a-z-]*[a-z]", text)) <= options[0]
    assert set(re.findall(r"(?<!pytest_)\bedgehil_[a-z_]+", text)) <= options[1] | metrics()
    markers = {*SIGNATURES, "combo", "board", "boards", "parametrize", "timeout"}
    assert set(re.findall(r"@pytest\.mark\.(\w+)", text)) <= markers
    for verbs in re.findall(r"(?:`|\$ )edgehil ([a-z-]+(?: [a-z-]+)?)", text):
        there = is_command(verbs.split())
        assert there != (page == NOT_BUILT), f"{page}: edgehil {verbs} {'exists' if there else 'does not exist'}"


@cache
def metrics() -> set[str]:
    """Names of what ``edgehil lab metrics`` serves; a counter's sample has another one than its family."""
    source = (ROOT / "pytest_edgehil/reporting/metrics.py").read_text(encoding="utf-8")
    families = set(re.findall(r'"(edgehil_[a-z_]+)"', source))
    return families | {f"{name}_total" for name in families}


def is_command(words: list[str]) -> bool:
    """Do the words name a verb, and an action of it if it has any?"""
    level: argparse.ArgumentParser = parser()
    for word in words:
        choices = [one.choices for one in level._actions if isinstance(one, argparse._SubParsersAction)]
        if not choices:
            return True
        if word not in choices[0]:
            return False
        level = choices[0][word]
    return True


@pytest.mark.parametrize("page", PAGES)
def test_files_of_the_repository_that_a_page_names_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    roots = (ROOT, ROOT / "pytest_edgehil")
    rooms = {one.name for root in roots for one in root.iterdir() if one.is_dir()} - {"artifacts", "demo-out"}
    for name in re.findall(r"`([\w.-]+/[\w./-]*)`", text):
        if name.split("/")[0] in rooms and "_build" not in name:
            assert any((root / name).exists() for root in roots), f"{page} names {name}, which is not there"


def test_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
