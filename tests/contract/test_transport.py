"""What every `Transport` does, whoever is at the other end: OpenSSH, asyncssh, or a child process (the local fake)."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.asyncssh_server import AsyncsshServer
from support.local_transport import LocalTransport
from support.openssh import OpenSshServer
from support.processes import alive, argued_with, until
from support.tcp_proxy import TcpProxy

from pytest_edgehil.board import ssh
from pytest_edgehil.board.command import Command, Outcome
from pytest_edgehil.board.ssh import connect
from pytest_edgehil.board.transport import Transport
from pytest_edgehil.errors import DeadlineExceeded, LinkLost

GENEROUS_S = 60.0

# Ignores what can be ignored, and starts a child that does so too. Both write their process numbers.
STUBBORN = """
trap '' TERM HUP INT
echo $$ >"$1/parent"
(trap '' TERM HUP INT; while :; do sleep 1; done) &
echo $! >"$1/child"
while :; do sleep 1; done
"""


class Rig:
    """A transport under test and the ways to break its link."""

    def __init__(self, kind: str, transport: Transport, cut: Callable[[], None]) -> None:
        self.kind = kind
        self.transport = transport
        self.cut = cut


@contextlib.contextmanager
def rig_of(kind: str, directory: Path) -> Iterator[Rig]:
    with contextlib.ExitStack() as stack:
        if kind == "local":
            local = LocalTransport(directory)
            stack.callback(local.close)
            yield Rig(kind, local, local.cut)
            return
        server = stack.enter_context(OpenSshServer(directory) if kind == "openssh" else AsyncsshServer(directory))
        proxy = stack.enter_context(TcpProxy(server.port))
        transport = connect(server.access_at(proxy.port), board_id="pi5-01", timeout_s=GENEROUS_S)
        stack.callback(transport.close)
        yield Rig(kind, transport, proxy.cut)


@pytest.fixture(params=[pytest.param("openssh", marks=pytest.mark.needs("sshd")), "asyncssh", "local"])
def rig(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(ssh, "KILL_S", GENEROUS_S)  # what is killed here is to be dead, however long that takes
    with rig_of(request.param, tmp_path) as rig:
        yield rig


@pytest.fixture
def transport(rig: Rig) -> Transport:
    return rig.transport


def command(*argv: str, timeout_s: float = GENEROUS_S, stdin: bytes = b"") -> Command:
    return Command(argv=argv, timeout_s=timeout_s, stdin=stdin)


def pids(directory: Path) -> tuple[int, int]:
    def read() -> tuple[int, int] | None:
        try:
            return int((directory / "parent").read_text()), int((directory / "child").read_text())
        except (FileNotFoundError, ValueError):
            return None

    return until(read)


def place(directory: Path) -> Path:
    """A directory that no server has among its arguments."""
    (directory / "stubborn").mkdir(exist_ok=True)
    return directory / "stubborn"


# --- run ---------------------------------------------------------------------------------------------


def test_outcome_has_status_and_both_outputs_apart(transport: Transport) -> None:
    outcome = transport.run(command("sh", "-c", "echo out; echo err >&2; exit 7"))
    assert (outcome.exit_status, outcome.stdout, outcome.stderr) == (7, b"out\n", b"err\n")
    assert outcome.duration_s > 0


def test_arguments_reach_the_program_unchanged(transport: Transport) -> None:
    odd = ("a b", "it's", '"q"', "$HOME", "`id`", "$(id)", "*", "", "x\ny", ";exit 9", "-n", "\\", "ünïcödé", "!", "~")
    outcome = transport.run(command("printf", "%s\\0", *odd))
    assert outcome.stdout.decode().split("\0")[:-1] == list(odd)


def test_shell_builtins_are_not_run_by_a_shell(transport: Transport) -> None:
    assert transport.run(command("exit", "3")).exit_status == 127
    channel = transport.open(("exit", "3"), GENEROUS_S)
    assert channel.wait(GENEROUS_S) == 127
    channel.close()


def test_missing_program_is_an_outcome_with_status_127(transport: Transport) -> None:
    outcome = transport.run(command("no-such-program"))
    assert outcome.exit_status == 127
    assert "no-such-program" in outcome.stderr_text


def test_program_killed_by_a_signal_has_status_128_and_the_signal(transport: Transport) -> None:
    assert transport.run(command("sh", "-c", "kill -9 $$")).exit_status == 137


def test_stdin_is_given_and_ended(transport: Transport) -> None:
    assert transport.run(command("cat", stdin=b"\x00\xff\r\n")).stdout == b"\x00\xff\r\n"
    assert transport.run(command("cat")).stdout == b""


def test_fifty_megabytes_both_ways_at_once_do_not_deadlock(transport: Transport) -> None:
    blob = bytes(range(256)) * (50_000_000 // 256)
    assert transport.run(command("cat", stdin=blob, timeout_s=100)).stdout == blob


def test_fifty_megabytes_out_while_the_input_is_not_read(transport: Transport) -> None:
    outcome = transport.run(command("head", "-c", "50000000", "/dev/zero", stdin=b"x" * 5_000_000, timeout_s=100))
    assert len(outcome.stdout) == 50_000_000


def test_megabytes_of_stderr_do_not_block_the_program(transport: Transport) -> None:
    outcome = transport.run(command("sh", "-c", "head -c 8000000 /dev/zero >&2; echo done"))
    assert outcome.stdout == b"done\n"
    assert len(outcome.stderr) == 8_000_000


def test_several_threads_share_one_transport(transport: Transport) -> None:
    def run(n: int) -> Outcome:
        return transport.run(command("sh", "-c", f"cat; echo {n}", stdin=b"in "))

    with ThreadPoolExecutor(6) as pool:
        outcomes = list(pool.map(run, range(30)))
    assert [outcome.stdout for outcome in outcomes] == [f"in {n}\n".encode() for n in range(30)]


def test_more_threads_than_the_board_allows_sessions_take_turns(transport: Transport) -> None:
    with ThreadPoolExecutor(16) as pool:  # sshd allows 10 by default
        outcomes = list(pool.map(lambda _: transport.run(command("sleep", "0.3")), range(20)))
    assert {outcome.exit_status for outcome in outcomes} == {0}


# --- deadlines ---------------------------------------------------------------------------------------


def test_expired_command_is_dead_with_a_child_that_ignores_signals(transport: Transport, tmp_path: Path) -> None:
    with pytest.raises(DeadlineExceeded, match=r"took longer than 3 s"):
        transport.run(command("sh", "-c", STUBBORN, "stubborn", str(place(tmp_path)), timeout_s=3))
    assert argued_with(str(place(tmp_path))) == []  # however far they had come on a busy machine


def test_expired_receive_kills_the_program_and_its_child(transport: Transport, tmp_path: Path) -> None:
    channel = transport.open(("sh", "-c", STUBBORN, "stubborn", str(tmp_path)), GENEROUS_S)
    parent, child = pids(tmp_path)
    with pytest.raises(DeadlineExceeded):
        channel.receive(1, 0.2)
    assert not alive(parent)
    assert not alive(child)
    channel.close()


def test_expired_wait_kills_the_program(transport: Transport, tmp_path: Path) -> None:
    channel = transport.open(("sh", "-c", STUBBORN, "stubborn", str(tmp_path)), GENEROUS_S)
    parent, child = pids(tmp_path)
    with pytest.raises(DeadlineExceeded):
        channel.wait(0.2)
    assert not alive(parent)
    assert not alive(child)
    channel.close()


def test_expired_send_kills_a_program_that_does_not_read(transport: Transport, tmp_path: Path) -> None:
    channel = transport.open(("sh", "-c", STUBBORN, "stubborn", str(tmp_path)), GENEROUS_S)
    parent, child = pids(tmp_path)
    with pytest.raises(DeadlineExceeded):
        channel.send(b"x" * 20_000_000, 1.0)
    assert not alive(parent)
    assert not alive(child)
    channel.close()


def test_expired_command_that_does_not_read_its_input_is_dead(transport: Transport, tmp_path: Path) -> None:
    stubborn = ("sh", "-c", STUBBORN, "stubborn", str(place(tmp_path)))
    with pytest.raises(DeadlineExceeded):
        transport.run(command(*stubborn, stdin=b"x" * 20_000_000, timeout_s=3))
    assert argued_with(str(place(tmp_path))) == []


def test_transport_is_usable_after_a_deadline(transport: Transport) -> None:
    with pytest.raises(DeadlineExceeded):
        transport.run(command("sleep", "60", timeout_s=0.3))
    assert transport.run(command("echo", "still here")).stdout_text == "still here"


def test_closing_a_channel_kills_its_program(transport: Transport, tmp_path: Path) -> None:
    channel = transport.open(("sh", "-c", STUBBORN, "stubborn", str(tmp_path)), GENEROUS_S)
    parent, child = pids(tmp_path)
    channel.close()
    channel.close()
    assert not alive(parent)
    assert not alive(child)
    with pytest.raises(LinkLost):
        channel.receive(1, GENEROUS_S)


def test_closing_the_transport_kills_its_programs(transport: Transport, tmp_path: Path) -> None:
    transport.open(("sh", "-c", STUBBORN, "stubborn", str(tmp_path)), GENEROUS_S)
    parent, child = pids(tmp_path)
    transport.close()
    transport.close()
    assert not alive(parent)
    assert not alive(child)


# --- channels ----------------------------------------------------------------------------------------


def test_channel_carries_a_conversation(transport: Transport) -> None:
    channel = transport.open(("cat",), GENEROUS_S)
    for n in range(20):
        line = f"line {n}\n".encode()
        channel.send(memoryview(line))
        got = b""
        while len(got) < len(line):
            got += channel.receive(1 << 16, GENEROUS_S)
        assert got == line
    channel.close_input()
    assert channel.receive(1, GENEROUS_S) == b""
    assert channel.receive(1, GENEROUS_S) == b""
    assert channel.wait(GENEROUS_S) == 0
    channel.close()


def test_receive_gives_at_most_what_was_asked_for(transport: Transport) -> None:
    channel = transport.open(("printf", "abcdef"), GENEROUS_S)
    got = []
    while chunk := channel.receive(2, GENEROUS_S):
        got.append(chunk)
    assert b"".join(got) == b"abcdef"
    assert max(map(len, got)) <= 2
    assert channel.wait(GENEROUS_S) == 0
    channel.close()


def test_end_of_output_comes_with_the_exit_status(transport: Transport) -> None:
    channel = transport.open(("sh", "-c", "echo bye; exit 5"), GENEROUS_S)
    assert channel.receive(100, GENEROUS_S) == b"bye\n"
    assert channel.receive(100, GENEROUS_S) == b""
    assert channel.wait(GENEROUS_S) == 5
    channel.close()


def test_wait_throws_away_what_nobody_received(transport: Transport) -> None:
    channel = transport.open(("sh", "-c", "head -c 6000000 /dev/zero; exit 4"), GENEROUS_S)
    assert channel.wait(GENEROUS_S) == 4
    channel.close()


def test_big_views_are_sent_while_the_other_side_answers(transport: Transport) -> None:
    blob = memoryview(bytes(range(256)) * 40_000)
    channel = transport.open(("cat",), GENEROUS_S)
    sender = threading.Thread(target=lambda: (channel.send(blob), channel.close_input()))
    sender.start()
    got = bytearray()
    while chunk := channel.receive(1 << 20, GENEROUS_S):
        got += chunk
    sender.join()
    assert bytes(got) == bytes(blob)
    assert channel.wait(GENEROUS_S) == 0
    channel.close()


def test_stderr_tail_is_kept_and_bounded(transport: Transport) -> None:
    channel = transport.open(("sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x >&2; echo the end >&2"), GENEROUS_S)
    assert channel.wait(GENEROUS_S) == 0
    assert channel.stderr_tail.endswith("xthe end\n")
    assert len(channel.stderr_tail) <= 8192
    channel.close()


def test_sending_to_a_program_that_has_ended_says_so(transport: Transport) -> None:
    channel = transport.open(("sh", "-c", "echo i am off >&2; exit 3"), GENEROUS_S)
    assert channel.wait(GENEROUS_S) == 3
    with pytest.raises(LinkLost, match="i am off"):
        channel.send(b"x" * 100_000, GENEROUS_S)
    channel.close()


# --- a link that breaks ------------------------------------------------------------------------------


def test_cut_link_is_no_end_of_file(rig: Rig) -> None:
    channel = rig.transport.open(("sh", "-c", "echo first; sleep 30; echo last"), GENEROUS_S)
    assert channel.receive(100, GENEROUS_S) == b"first\n"
    rig.cut()
    with pytest.raises(LinkLost):
        channel.receive(100, GENEROUS_S)
    with pytest.raises(LinkLost):
        channel.wait(GENEROUS_S)
    channel.close()


def test_cut_link_is_noticed_by_a_receiver_that_waits(rig: Rig) -> None:
    channel = rig.transport.open(("sleep", "30"), GENEROUS_S)
    puller = threading.Timer(0.3, rig.cut)
    puller.start()
    with pytest.raises(LinkLost):
        channel.receive(100, GENEROUS_S)
    puller.join()
    channel.close()


def test_cut_link_ends_a_command(rig: Rig, tmp_path: Path) -> None:
    def cut_when_running() -> None:
        until((tmp_path / "running").exists)
        rig.cut()

    puller = threading.Thread(target=cut_when_running)
    puller.start()
    with pytest.raises(LinkLost):
        rig.transport.run(command("sh", "-c", 'echo half; : >"$1"; sleep 9; echo rest', "x", str(tmp_path / "running")))
    puller.join()


def test_cut_link_is_noticed_by_a_sender(rig: Rig) -> None:
    channel = rig.transport.open(("cat",), GENEROUS_S)
    rig.cut()

    def send_for_long() -> None:
        for _ in range(1000):
            channel.send(b"x" * 100_000, GENEROUS_S)

    with pytest.raises(LinkLost):
        send_for_long()
    channel.close()


def test_nothing_starts_on_a_cut_link(rig: Rig) -> None:
    rig.cut()

    def run_for_long() -> None:
        for _ in range(100):
            rig.transport.run(command("true"))

    with pytest.raises(LinkLost):
        run_for_long()
    with pytest.raises(LinkLost):
        rig.transport.open(("true",), GENEROUS_S)


def test_nothing_starts_on_a_closed_transport(transport: Transport) -> None:
    transport.close()
    with pytest.raises(LinkLost, match="closed"):
        transport.run(command("true"))
