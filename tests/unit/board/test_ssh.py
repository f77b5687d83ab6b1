"""What is special about SSH: who is at the other end, links that die in every way, and what is left behind."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import asyncssh
import paramiko
import pytest
from asyncssh.packet import UInt32
from paramiko.common import MSG_CHANNEL_CLOSE, MSG_CHANNEL_WINDOW_ADJUST
from support.asyncssh_server import AsyncsshServer
from support.keys import access_to, make_key
from support.openssh import OpenSshServer
from support.processes import alive, until
from support.tcp_proxy import TcpProxy

from pytest_edgehil.board import ssh
from pytest_edgehil.board.command import Command
from pytest_edgehil.board.ssh import SshTransport, connect
from pytest_edgehil.board.ssh_channel import SIGNALLED
from pytest_edgehil.errors import ConnectFailed, DeadlineExceeded, HostKeyMismatch, LinkLost

GENEROUS_S = 60.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AsyncsshServer]:
    with AsyncsshServer(tmp_path) as server:
        yield server


@pytest.fixture
def proxy(server: AsyncsshServer) -> Iterator[TcpProxy]:
    with TcpProxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def link(server: AsyncsshServer, proxy: TcpProxy) -> Iterator[SshTransport]:
    link = connect(server.access_at(proxy.port), board_id="pi5-01", timeout_s=GENEROUS_S)
    yield link
    link.close()


@pytest.fixture
def wary(server: AsyncsshServer, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[SshTransport]:
    """A link that notices soon when it is dead, and does not try for long to kill over a dead one."""
    monkeypatch.setattr(ssh, "KILL_S", 1.0)
    link = connect(
        server.access_at(proxy.port), board_id="pi5-01", timeout_s=GENEROUS_S, keepalive_s=0.2, silence_s=3.0
    )
    yield link
    link.close()


def command(*argv: str, timeout_s: float = GENEROUS_S, **more: object) -> Command:
    return Command(argv=argv, timeout_s=timeout_s, **more)


def listener(behave: Callable[[socket.socket], None]) -> tuple[int, Callable[[], None]]:
    """A TCP server that treats every connection as told; returns its port and what ends it."""
    server = socket.create_server(("127.0.0.1", 0))
    connections: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            connections.append(connection)
            behave(connection)

    thread = threading.Thread(target=accept)
    thread.start()

    def end() -> None:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()
        for connection in connections:
            connection.close()

    return server.getsockname()[1], end


# --- connecting --------------------------------------------------------------------------------------


def test_refused_connection_says_so(server: AsyncsshServer) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # so that nobody else listens there
        access = server.access_at(deaf.getsockname()[1])
        with pytest.raises(ConnectFailed, match=r"pi5-01 at 127.0.0.1:.* refused the connection: the board is up"):
            connect(access, board_id="pi5-01", timeout_s=GENEROUS_S)


def test_address_that_does_not_answer_says_timed_out(server: AsyncsshServer) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(8)]  # fills the backlog: further SYNs are dropped
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        with pytest.raises(ConnectFailed, match=r"timed out: no answer within 0.5 s"):
            connect(server.access_at(port), board_id="pi5-01", timeout_s=0.5)
        for one in waiting:
            one.close()


def test_unknown_host_name_says_so(server: AsyncsshServer) -> None:
    access = replace(server.access, host="no-such-board.invalid")
    with pytest.raises(ConnectFailed, match=r"'no-such-board.invalid' does not resolve"):
        connect(access, board_id="pi5-01", timeout_s=GENEROUS_S)


def test_refused_login_names_user_and_key(server: AsyncsshServer, tmp_path: Path) -> None:
    stranger = make_key(tmp_path / "stranger")
    access = replace(server.access, key_path=stranger.path)
    with pytest.raises(
        ConnectFailed, match=r"refused the login of 'edge' with key .*stranger .*SHA256:.*authorized_keys"
    ):
        connect(access, board_id="pi5-01", timeout_s=GENEROUS_S)


def test_silent_listener_is_a_banner_that_never_came(server: AsyncsshServer) -> None:
    port, end = listener(lambda connection: None)
    with pytest.raises(ConnectFailed, match=r"its SSH banner never came within 2 s"):
        connect(server.access_at(port), board_id="pi5-01", timeout_s=2.0)
    end()


def test_listener_that_hangs_up_is_tried_again_and_then_named(server: AsyncsshServer) -> None:
    port, end = listener(lambda connection: connection.close())
    pauses: list[float] = []
    with pytest.raises(ConnectFailed, match=r"hung up before its SSH banner came"):
        connect(server.access_at(port), board_id="pi5-01", timeout_s=GENEROUS_S, sleep=pauses.append)
    assert pauses == sorted(pauses)
    assert pauses
    end()


def test_a_connection_that_nobody_passes_on_is_not_waited_for_to_the_end(
    server: AsyncsshServer, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "_BANNER_S", 0.1)
    proxy.swallow(2)
    link = connect(server.access_at(proxy.port), board_id="pi5-01", timeout_s=GENEROUS_S)
    assert link.run(command("echo", "in")).stdout_text == "in"
    link.close()


def test_other_service_on_the_port_is_named(server: AsyncsshServer) -> None:
    port, end = listener(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n" * 200))
    with pytest.raises(ConnectFailed, match=r"does not speak SSH: .*HTTP/1.1 400|banner never came"):
        connect(server.access_at(port), board_id="pi5-01", timeout_s=3.0)
    end()


def test_server_that_stops_after_its_banner_is_a_timeout(server: AsyncsshServer) -> None:
    port, end = listener(lambda connection: connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n"))
    with pytest.raises(ConnectFailed, match=r"the key exchange timed out: not finished within 3 s"):
        connect(server.access_at(port), board_id="pi5-01", timeout_s=3.0)
    end()


def test_burst_is_ridden_out(server: AsyncsshServer, proxy: TcpProxy) -> None:
    proxy.slam(2)
    link = connect(server.access_at(proxy.port), board_id="pi5-01", timeout_s=GENEROUS_S)
    assert link.run(command("echo", "in")).stdout_text == "in"
    link.close()


def test_wrong_host_key_shows_both_fingerprints_and_nobody_logs_in(tmp_path: Path, server: AsyncsshServer) -> None:
    other = make_key(tmp_path / "other")
    expected = asyncssh.import_public_key(other.public).get_fingerprint()
    seen = asyncssh.import_public_key(server.host_key.public).get_fingerprint()
    with pytest.raises(HostKeyMismatch) as caught:
        connect(replace(server.access, host_key=other.public), board_id="pi5-01", timeout_s=GENEROUS_S)
    assert f"shows host key ssh-ed25519 {seen}, but the lab pins ssh-ed25519 {expected}" in str(caught.value)
    assert "replace ssh.host_key in the lab file" in str(caught.value)


def test_host_key_of_another_type_is_a_mismatch_too(tmp_path: Path, server: AsyncsshServer) -> None:
    other = make_key(tmp_path / "other", "ecdsa-sha2-nistp256")
    with pytest.raises(HostKeyMismatch, match=r"shows host key ssh-ed25519 .* pins ecdsa-sha2-nistp256"):
        connect(replace(server.access, host_key=other.public), board_id="pi5-01", timeout_s=GENEROUS_S)


@pytest.mark.needs("sshd")
def test_any_of_a_board_s_host_keys_may_be_pinned(tmp_path: Path) -> None:
    with OpenSshServer(tmp_path, host_keys=("ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp384")) as server:
        for key in server.host_keys:
            link = connect(replace(server.access, host_key=key.public), board_id="pi5-01", timeout_s=GENEROUS_S)
            assert link.run(command("true")).exit_status == 0
            link.close()


def test_neither_agent_nor_home_is_asked(
    server: AsyncsshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = socket.socket(socket.AF_UNIX)
    agent.bind(str(tmp_path / "agent"))
    agent.listen()
    agent.settimeout(0)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    connect(server.access, board_id="pi5-01", timeout_s=GENEROUS_S).close()
    with pytest.raises(BlockingIOError):
        agent.accept()
    agent.close()
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.needs("sshd")
def test_settings_are_the_fast_ones(tmp_path: Path) -> None:
    with OpenSshServer(tmp_path, options="LogLevel DEBUG1") as server:
        link = connect(server.access, board_id="pi5-01", timeout_s=GENEROUS_S)
        assert link.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert link._session.remote_cipher == link._session.local_cipher == "aes128-gcm@openssh.com"
        assert "kex: algorithm: curve25519-sha256" in server.log()
        link.close()


# --- links that die ----------------------------------------------------------------------------------


def test_silent_stall_is_noticed_by_a_receiver(wary: SshTransport, proxy: TcpProxy) -> None:
    channel = wary.open(("sleep", "60"), GENEROUS_S)
    proxy.stall()
    with pytest.raises(LinkLost, match=r"nothing was heard from the board for"):
        channel.receive(1, GENEROUS_S)
    channel.close()


def test_silent_stall_is_noticed_by_a_sender(wary: SshTransport, proxy: TcpProxy) -> None:
    channel = wary.open(("cat",), GENEROUS_S)
    proxy.stall()
    with pytest.raises(LinkLost, match=r"nothing was heard from the board for"):
        channel.send(bytes(50_000_000), GENEROUS_S)
    channel.close()


def test_silent_stall_ends_a_command(wary: SshTransport, proxy: TcpProxy, tmp_path: Path) -> None:
    stall = threading.Thread(target=lambda: (until((tmp_path / "running").exists), proxy.stall()))
    stall.start()
    with pytest.raises(LinkLost, match=r"nothing was heard from the board for"):
        wary.run(command("sh", "-c", ': >"$1"; sleep 60', "sh", str(tmp_path / "running")))
    stall.join()


def test_idle_link_that_is_stalled_refuses_the_next_command(wary: SshTransport, proxy: TcpProxy) -> None:
    proxy.stall()
    until(lambda: wary.sock.lost)
    with pytest.raises(LinkLost, match=r"nothing was heard"):
        wary.run(command("true"))


def test_reset_link_is_lost(link: SshTransport, proxy: TcpProxy) -> None:
    channel = link.open(("sleep", "60"), GENEROUS_S)
    proxy.cut(reset=True)
    with pytest.raises(LinkLost, match=r"reset by peer|closed the connection"):
        channel.receive(1, GENEROUS_S)
    channel.close()


def test_quiet_program_on_a_healthy_link_is_waited_for(wary: SshTransport) -> None:
    assert wary.run(command("sh", "-c", "sleep 6; echo done")).stdout == b"done\n"  # silence_s is 3


def test_cut_in_the_middle_of_an_output_is_no_short_output(link: SshTransport, proxy: TcpProxy) -> None:
    proxy.cut_after(3_000_000)
    with pytest.raises(LinkLost):
        link.run(command("head", "-c", "20000000", "/dev/zero"))


STUBBORN = "trap '' TERM HUP; echo $$ >\"$1\"; while :; do sleep 1; done"


def test_deadline_on_a_stalled_link_kills_over_a_connection_of_its_own(server: AsyncsshServer, tmp_path: Path) -> None:
    with TcpProxy(server.port) as proxy:
        link = connect(server.access_at(proxy.port), board_id="pi5-01", timeout_s=GENEROUS_S)
        channel = link.open(("sh", "-c", STUBBORN, "sh", str(tmp_path / "pid")), GENEROUS_S)
        pid = int(until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
        proxy.stall_present()
        with pytest.raises(DeadlineExceeded, match=r"took longer than 0.2 s; its processes on the board were killed"):
            channel.receive(1, 0.2)
        assert not alive(pid)
        channel.close()
        link.close()


def test_deadline_on_a_dead_link_is_bounded_and_the_board_ends_the_command_itself(
    server: AsyncsshServer, proxy: TcpProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "KILL_S", 0.5)
    monkeypatch.setattr(ssh, "LIMIT_GRACE_S", 3.0)
    link = connect(server.access_at(proxy.port), board_id="pi5-01", timeout_s=GENEROUS_S)
    stall = threading.Thread(target=lambda: (until((tmp_path / "pid").exists), proxy.stall()))
    stall.start()
    with pytest.raises(DeadlineExceeded, match=r"could not be killed .* by its own limit on the board"):
        link.run(command("sh", "-c", STUBBORN, "sh", str(tmp_path / "pid"), timeout_s=5.0))
    stall.join()
    pid = int((tmp_path / "pid").read_text())
    until(lambda: not alive(pid))
    link.close()


def test_send_deadline_on_a_stalled_link_is_kept(
    server: AsyncsshServer, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "KILL_S", 0.5)
    link = connect(
        server.access_at(proxy.port), board_id="pi5-01", timeout_s=GENEROUS_S, silence_s=1000, keepalive_s=900
    )
    channel = link.open(("cat",), GENEROUS_S)
    proxy.stall()
    with pytest.raises(DeadlineExceeded, match=r"took longer than 0.5 s"):
        channel.send(bytes(50_000_000), 0.5)
    link.close()


# --- ends that are told badly ------------------------------------------------------------------------


async def status_overtakes_output(process: asyncssh.SSHServerProcess[bytes]) -> None:
    process.stdout.write(b"half of it")
    process.channel._send_request(b"exit-status", UInt32(0))
    await process.stdout.drain()
    process.get_extra_info("connection").abort()


async def closes_without_a_status(process: asyncssh.SSHServerProcess[bytes]) -> None:
    process.stdout.write(b"bye")
    process.close()


@pytest.fixture
def link_to(tmp_path: Path) -> Iterator[Callable[[object], SshTransport]]:
    opened: list[tuple[AsyncsshServer, SshTransport]] = []

    def open_link(handler: object) -> SshTransport:
        server = AsyncsshServer(tmp_path, handler=handler).__enter__()
        link = connect(server.access, board_id="pi5-01", timeout_s=GENEROUS_S)
        opened.append((server, link))
        return link

    yield open_link
    for server, link in opened:
        link.close()
        server.__exit__()


def fails_to_tell(link: SshTransport, monkeypatch: pytest.MonkeyPatch, message: int) -> list[str]:
    """From now on the link breaks when it would tell the board this; returns the threads that would have told it."""
    tell = link._session._send_user_message
    broke: list[str] = []

    def telling(data: paramiko.Message) -> None:
        if data.asbytes()[0] == message:
            broke.append(threading.current_thread().name)
            raise EOFError  # what paramiko raises when the socket takes nothing any more
        tell(data)

    monkeypatch.setattr(link._session, "_send_user_message", telling)
    return broke


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_link_that_breaks_while_the_board_is_told_of_room_is_lost(
    stream: str, link: SshTransport, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    broke = fails_to_tell(link, monkeypatch, MSG_CHANNEL_WINDOW_ADJUST)
    to = {"stdout": ">&1", "stderr": ">&2"}[stream]
    channel = link.open(("sh", "-c", f"head -c 3000000 /dev/zero {to}; sleep 60"), GENEROUS_S)
    cut = threading.Thread(target=lambda: (until(lambda: broke), proxy.cut()))
    cut.start()
    with pytest.raises(LinkLost, match="broke off"):
        channel.wait(GENEROUS_S)  # reads to the end
    cut.join()
    channel.close()


def test_exit_status_without_the_end_of_the_output_is_a_lost_link(link_to: Callable) -> None:
    with pytest.raises(LinkLost):
        link_to(status_overtakes_output).run(command("true"))


def test_channel_that_ends_without_a_status_on_a_healthy_link_is_255(link_to: Callable) -> None:
    outcome = link_to(closes_without_a_status).run(command("true"))
    assert (outcome.exit_status, outcome.stdout) == (SIGNALLED, b"bye")


@pytest.mark.needs("sshd")
def test_leader_that_is_killed_is_255(tmp_path: Path) -> None:
    with OpenSshServer(tmp_path) as server:
        link = connect(server.access, board_id="pi5-01", timeout_s=GENEROUS_S)
        outcome = link.run(command("sh", "-c", "kill -9 $PPID"))
        assert outcome.exit_status == SIGNALLED
        link.close()


class NeverStarts(paramiko.ServerInterface):
    """Lets everybody in and opens sessions, but never says whether a program was started."""

    def __init__(self, end: threading.Event) -> None:
        self._end = end

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return paramiko.AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, line: bytes) -> bool:
        self._end.wait()
        return False


def test_program_that_is_never_started_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "KILL_S", 0.5)
    host, client = make_key(tmp_path / "host"), make_key(tmp_path / "client")
    ending = threading.Event()
    sessions: list[paramiko.Transport] = []

    def serve(connection: socket.socket) -> None:
        session = paramiko.Transport(connection)
        session.daemon = True
        session.add_server_key(paramiko.PKey.from_path(host.path))
        session.start_server(event=threading.Event(), server=NeverStarts(ending))
        sessions.append(session)

    port, end = listener(serve)
    link = connect(
        access_to(port, user="u", client=client, host_key=host.public), board_id="pi5-01", timeout_s=GENEROUS_S
    )
    told = fails_to_tell(link, monkeypatch, MSG_CHANNEL_CLOSE)  # in a timer's thread, where nobody could be told
    with pytest.raises(DeadlineExceeded, match=r"true on pi5-01 was not started within 0.5 s"):
        link.run(command("true", timeout_s=0.5))
    assert set(told) - {threading.current_thread().name}
    ending.set()
    link.close()
    for session in sessions:
        session.close()
        session.join()
    end()


# --- what is left behind -----------------------------------------------------------------------------


def test_no_secret_is_in_errors_or_logs(link: SshTransport, caplog: pytest.LogCaptureFixture) -> None:
    secret = "correct horse"
    script = f"echo '{secret}' >&2; sleep 60"
    with caplog.at_level(logging.DEBUG), pytest.raises(DeadlineExceeded) as caught:
        link.run(command("sh", "-c", script, secret, stdin=secret.encode(), timeout_s=4.0, secrets=(secret,)))
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("edgehil"))
    assert "it had said: ***" in str(caught.value)
    assert "sh -c" in ours
    assert secret not in str(caught.value) + ours


def test_who_sends_to_a_program_that_has_ended_is_told_though_its_channel_is_not_closed_yet(
    link: SshTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server tells of the end first and closes afterwards; until then the window takes what nobody reads."""
    monkeypatch.setitem(paramiko.Transport._channel_handler_table, MSG_CHANNEL_CLOSE, paramiko.Channel._handle_eof)
    channel = link.open(("sh", "-c", "echo i am off >&2; exit 3"), GENEROUS_S)
    assert channel.wait(GENEROUS_S) == 3
    with pytest.raises(LinkLost, match="i am off"):
        channel.send(b"x", GENEROUS_S)


def threads_since(before: set[threading.Thread]) -> set[threading.Thread]:
    """Those that are new; the server in this process has asyncio's."""
    return {thread for thread in set(threading.enumerate()) - before if not thread.name.startswith("asyncio")}


def test_no_thread_is_left_after_close(server: AsyncsshServer) -> None:
    before = set(threading.enumerate())
    link = connect(server.access, board_id="pi5-01", timeout_s=GENEROUS_S)
    link.run(command("cat", stdin=bytes(200_000)))
    channel = link.open(("cat",), GENEROUS_S)
    channel.close()
    link.close()
    until(lambda: threads_since(before) == set())


@pytest.mark.parametrize("key", ["client", "stranger"])
def test_no_thread_is_left_after_a_failed_connect(key: str, server: AsyncsshServer, tmp_path: Path) -> None:
    make_key(tmp_path / "stranger")
    before = set(threading.enumerate())
    access = replace(server.access, key_path=tmp_path / key)
    if key == "client":
        access = replace(access, host_key=make_key(tmp_path / "other").public)
    with pytest.raises((ConnectFailed, HostKeyMismatch)):
        connect(access, board_id="pi5-01", timeout_s=GENEROUS_S)
    until(lambda: threads_since(before) == set())  # paramiko's timer of the handshake is told to end, and ends later


def test_no_file_descriptor_is_left_after_many_commands(server: AsyncsshServer) -> None:
    link = connect(server.access, board_id="pi5-01", timeout_s=GENEROUS_S)
    link.run(command("true"))

    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    for _ in range(20):
        link.run(command("true"))
    until(lambda: count() <= before)  # the server, which is in this process too, closes its own a little later
    link.close()


def test_the_on_board_program_is_called_that_and_its_board_named_once(link: SshTransport, proxy: TcpProxy) -> None:
    program = "/home/pi/.edgehil/bin/onboard-" + "ab" * 32 + ".pyz"
    channel = link.open(("sh", "-c", "cat >/dev/null", program), GENEROUS_S)
    proxy.cut(reset=True)
    with pytest.raises(LinkLost) as told:
        channel.receive(1, GENEROUS_S)
    assert "before the on-board program had ended" in str(told.value)
    assert "pyz" not in str(told.value)
    assert str(told.value).count(link.board_id) == 1


def test_what_paramiko_says_of_a_failure_is_for_those_who_debug(
    server: AsyncsshServer, caplog: pytest.LogCaptureFixture
) -> None:
    port, end = listener(lambda connection: connection.close())
    for level, heard in ((logging.NOTSET, False), (logging.DEBUG, True)):
        with caplog.at_level(level, logger="edgehil.board"), pytest.raises(ConnectFailed):
            connect(server.access_at(port), board_id="pi5-01", timeout_s=GENEROUS_S, sleep=lambda _s: None)
        assert ("Traceback" in caplog.text) is heard
    end()
