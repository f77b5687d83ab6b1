"""What a `Console` does over every kind of serial line that a lab has: a device, a raw TCP port, RFC 2217."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.console_lines import Line, PtyLine, Rfc2217Line, SocketLine
from support.processes import until

from pytest_edgehil.board.console import Console
from pytest_edgehil.errors import ConsoleError
from pytest_edgehil.model.board import ConsoleAccess

GENEROUS_S = 30.0


@pytest.fixture(params=["pty", "socket", "rfc2217"])
def line(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Line]:
    kinds = {"pty": lambda: PtyLine(tmp_path), "socket": SocketLine, "rfc2217": lambda: Rfc2217Line(tmp_path)}
    line = kinds[request.param]()
    yield line
    line.close()


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "pi5-01.log"


@pytest.fixture
def console(line: Line, log_path: Path) -> Iterator[Console]:
    console = Console.open(ConsoleAccess(url=line.url), log_path=log_path, board_id="pi5-01")
    yield console
    console.close()


def test_log_file_has_the_raw_bytes(line: Line, console: Console, log_path: Path) -> None:
    said = b"[ 0.000000] Booting Linux\r\n\x00\x1b[1m\xff\xfeend\r\n"
    line.say(said)
    until(lambda: console.position == len(said))
    assert log_path.read_bytes() == said


def test_no_byte_of_a_megabyte_is_lost(line: Line, console: Console, log_path: Path) -> None:
    said = bytes(range(256)) * 4096
    for start in range(0, len(said), 1024):
        line.say(said[start : start + 1024])
    until(lambda: console.position == len(said))
    assert log_path.read_bytes() == said


def test_wait_for_returns_the_match(line: Line, console: Console) -> None:
    start = console.position
    threading.Timer(0.1, line.say, [b"Linux version 6.12.34-rpi\r\npi5 login: "]).start()
    match = console.wait_for(r"Linux version (\S+)$", GENEROUS_S, since=start)  # it may have come before we wait
    assert match.group(1) == "6.12.34-rpi"


def test_wait_for_finds_what_comes_in_pieces(line: Line, console: Console) -> None:
    for said, piece in ((2, b"lo"), (3, b"g"), (5, b"in"), (7, b": ")):
        line.say(piece)
        until(lambda said=said: console.position == said)
    assert console.wait_for("login: ", GENEROUS_S, since=0)


def test_wait_for_ignores_what_was_said_before_it(line: Line, console: Console) -> None:
    line.say(b"login: ")
    until(lambda: console.position == 7)
    with pytest.raises(ConsoleError, match="it said nothing at all"):
        console.wait_for("login: ", 0.3)
    assert console.wait_for(re.compile("login: "), 0.3, since=0)


def test_wait_for_that_fails_shows_the_end_of_what_was_said(line: Line, console: Console) -> None:
    start = console.position
    threading.Timer(0.1, line.say, [b"x" * 1000 + b"U-Boot> "]).start()
    console.wait_for("U-Boot> ", GENEROUS_S, since=start)
    with pytest.raises(
        ConsoleError, match=r"'login' did not come within 0.2 s; the last it said: 'x+U-Boot> '"
    ) as caught:
        console.wait_for("login", 0.2, since=start)
    assert len(str(caught.value)) < 600


def test_what_is_written_reaches_the_board(line: Line, console: Console) -> None:
    console.write(b"root\n")
    assert line.heard(5) == b"root\n"


def test_console_comes_back_after_its_line_was_gone(line: Line, console: Console, log_path: Path) -> None:
    line.say(b"before\r\n")
    until(lambda: console.position == 8)
    line.go_away()
    until(lambda: console._gone)
    with pytest.raises(ConsoleError, match="gone"):
        console.write(b"x")
    with pytest.raises(ConsoleError, match="gone"):
        console.wait_for("login", 0.2)
    line.come_back()
    until(lambda: not console._gone)
    line.say(b"after\r\n")
    console.wait_for("after", GENEROUS_S, since=0)
    assert log_path.read_bytes() == b"before\r\nafter\r\n"


def test_closing_ends_a_wait_and_the_reader(line: Line, console: Console) -> None:
    threading.Timer(0.2, console.close).start()
    with pytest.raises(ConsoleError, match="closed while waiting"):
        console.wait_for("never", GENEROUS_S)
    console.close()
    assert not any(thread.name == "edgehil-console-pi5-01" for thread in threading.enumerate())
    with pytest.raises(ConsoleError, match="closed"):
        console.write(b"x")


def test_a_second_lease_appends_to_the_log(line: Line, log_path: Path) -> None:
    if isinstance(line, SocketLine):
        pytest.skip("this test server takes one client in its life")
    for word in (b"first", b"second"):
        console = Console.open(ConsoleAccess(url=line.url), log_path=log_path, board_id="pi5-01")
        line.say(word)
        until(lambda console=console, word=word: console.position == len(word))
        console.close()
    assert log_path.read_bytes() == b"firstsecond"


def test_a_crash_is_noticed(line: Line, console: Console) -> None:
    assert console.crash_reason() is None
    line.say(b"[   42.1] Kernel panic - not syncing: Attempted to kill init!\r\n")
    console.wait_for("init!", GENEROUS_S, since=0)
    assert console.crash_reason() == "Kernel panic - not syncing: Attempted to kill init!"


def test_a_device_that_is_open_already_is_refused(line: Line, console: Console, tmp_path: Path) -> None:
    if not isinstance(line, PtyLine):
        pytest.skip("a terminal server decides for itself")
    with pytest.raises(ConsoleError, match="cannot be opened"):
        Console.open(ConsoleAccess(url=line.url), log_path=tmp_path / "other.log", board_id="pi5-01")


@pytest.mark.parametrize("url", ["/dev/ttyNOTHERE", "socket://127.0.0.1:1", "rfc2217://127.0.0.1:1", "bogus://x"])
def test_a_console_that_is_not_there_is_one_clear_error(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConsoleError, match=rf"console of pi5-01: {url} cannot be opened"):
        Console.open(ConsoleAccess(url=url), log_path=tmp_path / "log", board_id="pi5-01")
