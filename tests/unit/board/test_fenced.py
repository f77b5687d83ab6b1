"""Every program on a board is started under a lease, and none outlives it: the guard, and who comes in after it."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import sys
import threading
from pathlib import Path

import pytest
from support.processes import alive, argued_with, until

from pytest_edgehil.board.command import Command
from pytest_edgehil.board.fenced import FencedTransport
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.errors import BoardError, DeadlineExceeded, Fenced
from pytest_edgehil.model.fencing import Bearer


def under(world, token: int, holder: str = "ci-841", home: str = ".edgehil") -> FencedTransport:
    return FencedTransport(world.connect(30.0), Bearer(token=token, holder=holder), home=home, board_id="bench")


def seen(bench) -> dict[str, object]:
    return json.loads((bench.edgehil / "fence").read_text())


def command(*argv: str, **more: object) -> Command:
    return Command(argv=argv, timeout_s=60.0, **more)


def test_a_command_runs_as_it_is_and_its_token_is_written_down(bench, world):
    link = under(world, 1_763_700_000_123)
    outcome = link.run(command("sh", "-c", 'cat; echo "$1" >&2; exit 7', "name", "it's; $HOME", stdin=b"in"))
    assert (outcome.exit_status, outcome.stdout, outcome.stderr) == (7, b"in", b"it's; $HOME\n")
    assert seen(bench) == {"token": 1_763_700_000_123, "holder": "ci-841"}


def test_a_lower_token_is_refused_before_anything_has_run(bench, world, tmp_path):
    under(world, 7).run(command("true"))
    mark = tmp_path / "mark"
    with pytest.raises(Fenced, match=r"^bench: token 5 is refused: the board has seen token 7 of ci-841$"):
        under(world, 5, "sleeper").run(command("touch", str(mark)))
    channel = under(world, 5, "sleeper").open(("touch", str(mark)), 30.0)
    with pytest.raises(Fenced, match="token 7 of ci-841"):
        channel.receive(100, 30.0)
    channel.close()
    assert not mark.exists()
    assert seen(bench)["token"] == 7


def test_the_same_token_again_writes_nothing(bench, world):
    under(world, 7).run(command("true"))
    before = (bench.edgehil / "fence").stat().st_ino
    link = under(world, 7)
    link.run(command("true"))
    channel = link.open(("cat",), 30.0)
    channel.send(b"still ours")
    channel.close_input()
    assert channel.receive(100, 30.0) == b"still ours"
    assert channel.wait(30.0) == 0
    channel.close()
    assert (bench.edgehil / "fence").stat().st_ino == before


def test_a_link_whose_token_the_board_knew_is_refused_as_soon_as_there_is_a_higher_one(bench, world, tmp_path):
    link, mark = under(world, 5, "sleeper"), tmp_path / "mark"
    for _ in range(2):
        assert link.run(command("sh", "-c", "echo $EDGEHIL_LEASE")).stdout_text == f"5@{bench.edgehil}"
    under(world, 7).run(command("true"))
    with pytest.raises(Fenced, match="token 5 is refused: the board has seen token 7 of ci-841"):
        link.run(command("touch", str(mark)))
    assert not mark.exists()


def test_a_link_whose_token_the_board_has_forgotten_writes_it_again(bench, world):
    link = under(world, 5)
    link.run(command("true"))
    (bench.edgehil / "fence").unlink()
    assert link.run(command("sh", "-c", "cat; exit 3", stdin=b"in")).stdout == b"in"
    assert seen(bench)["token"] == 5


def test_guard_and_on_board_program_read_each_other(bench, world):
    session = BoardSession(bench.board, token=5, holder="it's “me”", connect=world.connect)
    assert session.client.status().fence_token == 5
    session.close()
    assert seen(bench) == {"token": 5, "holder": "it's “me”"}
    with pytest.raises(Fenced, match="token 5 of it's"):
        under(world, 4).run(command("true"))
    under(world, 6, "guard").run(command("true"))
    late = BoardSession(bench.board, token=5, holder="it's “me”", connect=world.connect)
    with pytest.raises(Fenced, match="token 5 is refused: the board has seen token 6 of guard"):
        late.client.status()
    late.close()


@pytest.mark.parametrize("text", ["nonsense\n", '{"token": 99999999999999999999, "holder": "x"}'])
def test_a_fence_file_that_cannot_be_read_lets_nobody_in(bench, world, text):
    bench.put("home/.edgehil/fence", text)
    with pytest.raises(BoardError, match=r"fence file .* cannot be read; restore it"):
        under(world, 7).run(command("true"))


def test_a_program_that_ends_with_the_guard_s_status_is_not_taken_for_it(world):
    outcome = under(world, 7).run(command("sh", "-c", "echo edgehil is fine >&2; exit 97"))
    assert outcome.exit_status == 97


def test_an_error_shows_the_command_and_not_its_guard(world):
    with pytest.raises(DeadlineExceeded) as told:
        under(world, 7).run(Command(argv=("sleep", "600"), timeout_s=0.3))
    assert "sleep 600" in str(told.value)
    assert "edgehil-fence" not in str(told.value)


# --- who comes in later makes an end of what runs ----------------------------------------------------------


def start(link, *argv: str) -> tuple[object, int]:
    """A program that says its process id first."""
    channel = link.open(argv, 60.0)
    return channel, int(channel.receive(100, 60.0).split()[0])


HARD = "trap '' TERM HUP; echo $$; while :; do sleep 0.05; done"
CLEARED = f"echo $$; exec env -i /bin/sh -c {shlex.quote('while :; do /bin/sleep 0.05; done')}"
DAEMON = "setsid sh -c 'echo $$; while :; do sleep 0.05; done' & wait"


AS_SUDO = f"setsid env -i /bin/sh -c {shlex.quote('echo $$; while :; do /bin/sleep 0.05; done')} & wait"


@pytest.mark.parametrize(
    "script", [HARD, CLEARED, DAEMON, AS_SUDO], ids=["ignores-sigterm", "env-cleared", "own-session", "both"]
)
def test_a_program_of_an_earlier_lease_is_gone_before_the_next_one_is_told_that_it_is_in(bench, world, script):
    old, pid = start(under(world, 5, "sleeper"), "sh", "-c", script)
    with BoardSessionOf(bench, world, token=6) as later:
        assert later.client.status().fence_token == 6
        assert not alive(pid)
    old.close()


def test_programs_of_the_same_lease_and_of_another_board_live_on(bench, world, tmp_path):
    with BoardSessionOf(bench, world, token=6) as first:
        ours, our_pid = start(under(world, 6, "me"), "sh", "-c", HARD)
        beside = tmp_path / "another-board"
        other, other_pid = start(under(world, 3, "other", home=str(beside)), "sh", "-c", HARD)
        first.drop()
        assert first.client.status().fence_token == 6
        with BoardSessionOf(bench, world, token=6) as again:
            assert again.client.status().fence_token == 6
        assert alive(our_pid)
        assert alive(other_pid)
    with BoardSessionOf(bench, world, token=7) as later:
        assert later.client.status().fence_token == 7
        assert not alive(our_pid)
        assert alive(other_pid)
    for channel in (ours, other):
        channel.close()


def test_what_a_guard_let_in_is_swept_by_the_session_that_follows(bench, world):
    old, pid = start(under(world, 5, "sleeper"), "sh", "-c", HARD)
    under(world, 6, "me").run(command("true"))  # raises the limit, and sweeps nothing
    assert alive(pid)
    with BoardSessionOf(bench, world, token=6) as later:
        assert later.client.status().fence_token == 6
        assert not alive(pid)
    assert seen(bench) == {"token": 6, "holder": "me"}
    old.close()


def test_a_session_of_an_earlier_lease_tells_its_holder_who_came(bench, world):
    with BoardSessionOf(bench, world, token=5, holder="sleeper") as earlier:
        assert earlier.client.status().fence_token == 5
        with BoardSessionOf(bench, world, token=6) as later:
            assert later.client.status().fence_token == 6
        error = until(lambda: earlier.client._conversation.error)
        assert isinstance(error, Fenced)
        assert str(error) == "bench: token 5 is refused: the board has seen token 6 of me"


def programs_of(bench) -> list[int]:
    """The program itself, without the shells around it; a tool that it is about to execute still looks like it."""
    found = []
    for pid in argued_with("serve\0--token"):
        with contextlib.suppress(OSError):
            process = Path(f"/proc/{pid}")
            python = (process / "cmdline").read_bytes().startswith(os.fsencode(sys.executable))
            if python and (process / "cwd").readlink() == bench.home:
                found.append(pid)
    return found


def test_a_session_that_a_busy_board_does_not_let_answer_at_once_tells_it_all_the_same(bench, world):
    with BoardSessionOf(bench, world, token=5, holder="sleeper") as earlier:
        assert earlier.client.status().fence_token == 5
        (program,) = until(lambda: len(found := programs_of(bench)) == 1 and found)
        os.kill(program, signal.SIGSTOP)
        threading.Timer(1.5, os.kill, (program, signal.SIGCONT)).start()
        with BoardSessionOf(bench, world, token=6) as later:
            assert later.client.status().fence_token == 6
        assert isinstance(until(lambda: earlier.client._conversation.error), Fenced)


class BoardSessionOf:
    """A session that is closed at the end."""

    def __init__(self, bench, world, *, token: int, holder: str = "me") -> None:
        self._session = BoardSession(bench.board, token=token, holder=holder, connect=world.connect)

    def __enter__(self) -> BoardSession:
        return self._session

    def __exit__(self, *_: object) -> None:
        self._session.close()


def test_a_session_under_a_known_token_writes_nothing(bench, world):
    with BoardSessionOf(bench, world, token=5) as session:
        assert session.client.status().fence_holder == "me"
    inode = (bench.edgehil / "fence").stat().st_ino
    with BoardSessionOf(bench, world, token=5) as session:
        assert session.client.status().fence_holder == "me"
    assert (bench.edgehil / "fence").stat().st_ino == inode
