"""Commands and outcomes, and that no secret is seen where one is shown."""

from __future__ import annotations

import pytest

from pytest_edgehil.board.command import Command, Outcome, require_success
from pytest_edgehil.board.redact import redact, show_argv, tail
from pytest_edgehil.errors import BoardError

SECRET = "hunter2"


def outcome(status: int, *, stdout: bytes = b"", stderr: bytes = b"") -> Outcome:
    return Outcome(exit_status=status, stdout=stdout, stderr=stderr, duration_s=0.1)


@pytest.mark.parametrize("argv", [(), ("",), ("a", "b\0c")])
def test_argv_that_no_system_can_run_is_refused(argv: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="argv"):
        Command(argv=argv, timeout_s=1)


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan")])
def test_command_needs_a_deadline(timeout_s: float) -> None:
    with pytest.raises(ValueError, match="deadline"):
        Command(argv=("true",), timeout_s=timeout_s)


def test_secret_too_short_to_be_hidden_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="at least 3"):
        Command(argv=("true",), timeout_s=1, secrets=("ab",))


def test_neither_repr_nor_str_of_a_command_shows_a_secret() -> None:
    command = Command(argv=("login", f"--token={SECRET}"), timeout_s=1, stdin=SECRET.encode(), secrets=(SECRET,))
    assert SECRET not in repr(command) + str(command)
    assert str(command) == "login --token=***"


def test_secret_is_hidden_also_when_the_shell_quotes_it() -> None:
    for secret in ("it's", "a b", "$HOME", "new\nline"):
        assert secret not in show_argv(("sh", "-c", f"login {secret}"), [secret])
        assert "***" in show_argv(("login", secret), [secret])


def test_secret_within_a_repr_is_hidden() -> None:
    assert redact(repr("x\ny"), ["x\ny"]) == "'***'"


def test_overlapping_secrets_leave_nothing_of_each_other() -> None:
    assert redact("abcdef", ["abc", "abcdef"]) == "***"


def test_tail_hides_a_secret_that_would_be_cut_in_half() -> None:
    shown = tail(b"x" * 400 + SECRET.encode() + b"y" * 295, [SECRET], limit=300)
    assert "hunter" not in shown
    assert "er2" not in shown


def test_require_success_returns_a_success() -> None:
    good = outcome(0)
    assert require_success(Command(argv=("true",), timeout_s=1), good, board_id="pi5-01") is good


def test_require_success_says_what_where_observed_and_expected() -> None:
    command = Command(argv=("login", SECRET), timeout_s=1, secrets=(SECRET,))
    with pytest.raises(BoardError) as caught:
        require_success(command, outcome(5, stderr=b"bad token hunter2\n"), board_id="pi5-01")
    assert str(caught.value) == ("login *** on pi5-01 ended with exit status 5, expected 0; it said: bad token ***")


def test_texts_replace_what_is_not_utf_8() -> None:
    assert outcome(0, stdout=b" caf\xc3\xa9 \xff\n").stdout_text == "café \N{REPLACEMENT CHARACTER}"
