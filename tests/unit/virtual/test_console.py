from __future__ import annotations

import termios

import pytest
from support.virtual_boards import Terminal, eventually

from pytest_edgehil.virtual import console as module
from pytest_edgehil.virtual.console import Console


@pytest.fixture
def console():
    one = Console()
    yield one
    one.close()


@pytest.fixture
def listener(console):
    one = Terminal(console.path)
    yield one
    one.close()


def test_what_is_said_to_nobody_is_lost(console):
    console.write("Kernel panic\n")
    terminal = Terminal(console.path)
    console.write("after\n")
    terminal.wait_for("after")
    terminal.close()
    assert "panic" not in terminal.text


def test_it_knows_whether_somebody_listens(console):
    assert not console.listened_to()
    terminal = Terminal(console.path)
    assert console.listened_to()
    terminal.close()
    assert not console.listened_to()


def test_lines_end_as_on_a_serial_line(console, listener):
    console.write("one\ntwo\n")
    eventually(lambda: listener.read(0) or "two\n" in listener.text)
    assert listener.raw == b"one\r\ntwo\r\n"


def test_getty_answers_a_line_with_a_prompt(console, listener):
    console.prompt(lambda: "vb-1 login: ")
    listener.type("\n")
    eventually(lambda: console.poll() or listener.read(0) or "login:" in listener.text)


def test_getty_lets_nobody_in(console, listener):
    console.prompt(lambda: "vb-1 login: ")
    listener.type("root\r")
    eventually(lambda: console.poll() or listener.read(0) or listener.text.endswith("login: "))
    assert "Login incorrect" in listener.text


def test_whoever_opens_the_line_is_greeted_once(console, monkeypatch):
    monkeypatch.setattr(module, "GREETING_DELAY_S", 0.0)
    console.prompt(lambda: "vb-1 login: ")
    terminal = Terminal(console.path)
    for _ in range(3):
        console.poll()
    terminal.wait_for("vb-1 login: ")
    console.write("end")
    terminal.wait_for("end")
    terminal.close()
    assert terminal.text.count("login") == 1


def test_who_throws_the_greeting_away_is_greeted_again(console, monkeypatch):
    monkeypatch.setattr(module, "GREETING_DELAY_S", 0.0)
    console.prompt(lambda: "vb-1 login: ")
    terminal = Terminal(console.path)
    console.poll()
    terminal.wait_for("vb-1 login: ")
    console.write("what nobody reads")
    termios.tcflush(terminal._descriptor, termios.TCIFLUSH)
    eventually(lambda: console.poll() or terminal.read(0) or terminal.text.count("login") == 2)
    terminal.close()
    assert "nobody" not in terminal.text


def test_a_silent_console_neither_answers_nor_goes_on(console, listener):
    console.prompt(lambda: "vb-1 login: ")
    console.write("x" * 100_000)  # more than a pty holds: the rest is under way
    console.silence()
    listener.type("\n")
    console.poll()
    console.write("on again\n")
    eventually(lambda: console.poll() or listener.read(0) or "on again" in listener.text)
    assert "login" not in listener.text
    assert listener.text.count("x") < 100_000


def test_a_listener_that_lags_loses_what_is_too_much_and_the_board_goes_on(console, listener):
    console.write("y" * (module.BACKLOG_BYTES * 3))
    eventually(lambda: console.poll() or listener.read(0) or listener.text.count("y") >= module.BACKLOG_BYTES)
    console.write("end")
    eventually(lambda: console.poll() or listener.read(0) or listener.text.endswith("end"))
