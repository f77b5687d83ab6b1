"""What counts as a crash on a console, and which of several reasons is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.console_lines import PtyLine
from support.processes import until

from pytest_edgehil.board.console import Console
from pytest_edgehil.model.board import ConsoleAccess

OOM = "Out of memory: Killed process 4711 (python3) total-vm:9000kB"
PANIC = "Kernel panic - not syncing: Fatal exception in interrupt"


class Said:
    """A console and what is said to it."""

    def __init__(self, line: PtyLine, console: Console) -> None:
        self.line = line
        self.console = console

    def say(self, text: str) -> None:
        before = self.console.position
        self.line.say(text.encode())
        until(lambda: self.console.position == before + len(text.encode()))


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Said]:
    line = PtyLine(tmp_path)
    console = Console.open(ConsoleAccess(url=line.url), log_path=tmp_path / "log", board_id="pi5-01")
    yield Said(line, console)
    console.close()
    line.close()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (f"[  9.1] {PANIC}\r\n", PANIC),
        (f"[  9.1] {OOM}\r\n", OOM),
        ("[  9.1] Rebooting in 5 seconds..\r\n", "Rebooting in 5 seconds.."),
        ("[  9.1] reboot: Restarting system\r\n", "reboot: Restarting system"),
        (
            "[ 9.1] thermal thermal_zone0: cpu-thermal: critical temperature reached (110.00 C)\r\n",
            "thermal thermal_zone0: cpu-thermal: critical temperature reached (110.00 C)",
        ),
        ("[ 17.2] softdog: Initiating system reboot\r\n", "softdog: Initiating system reboot"),
        ("\r\nU-Boot 2023.01+dfsg-2 (Jun 22 2026)\r\n", "U-Boot 2023.01+dfsg-2 (Jun 22 2026)"),
        (
            "[  0.0] Booting Linux on physical CPU 0x0000000000 [0x414fd0b1]\r\n",
            "Booting Linux on physical CPU 0x0000000000 [0x414fd0b1]",
        ),
        (PANIC, PANIC),  # it may die in the middle of a line
        ("raspberrypi login: ", None),
        ("---[ end Kernel panic - not syncing ]---\r\n", None),
    ],
)
def test_crash_reason(said: str, reason: str | None, board: Said) -> None:
    board.say(said)
    assert board.console.crash_reason() == reason


def test_panic_outweighs_what_led_to_it_and_what_follows(board: Said) -> None:
    board.say(f"{OOM}\r\n{PANIC}\r\nRebooting in 5 seconds..\r\nU-Boot 2023.01\r\n")
    assert board.console.crash_reason() == PANIC


def test_reason_is_looked_for_from_a_position(board: Said) -> None:
    board.say(PANIC + "\r\n")
    position = board.console.position
    board.say(OOM + "\r\n")
    assert board.console.crash_reason(position) == OOM


def test_intended_reboot_is_no_crash(board: Said) -> None:
    board.say("reboot: Restarting system\r\n")
    board.console.expect_reboot()
    assert board.console.crash_reason() is None
    board.say(PANIC)
    assert board.console.crash_reason() == PANIC


def test_text_has_plain_line_ends_and_replaces_what_is_no_text(board: Said) -> None:
    board.line.say(b"a\r\nb\xff\r\n")
    until(lambda: board.console.position == 7)
    assert board.console.text() == "a\nb\N{REPLACEMENT CHARACTER}\n"
    assert board.console.text(since=3) == "b\N{REPLACEMENT CHARACTER}\n"


def test_memory_is_bounded_and_positions_go_on(board: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_edgehil.board.console._KEPT_BYTES", 100)
    for number in range(50):
        board.say(f"line {number:04}\n")
    assert board.console.position == 500
    assert board.console.text() == "".join(f"line {number:04}\n" for number in range(40, 50))
    assert board.console.text(since=490) == "line 0049\n"
