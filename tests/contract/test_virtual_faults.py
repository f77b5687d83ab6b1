"""Every fault of a virtual board really happens, once or as long as it is said to, and the journal says so."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading

import paramiko
import pytest
from support.virtual_boards import (
    DEADLINE_S,
    alive,
    board,
    client,
    events,
    eventually,
    reconnect,
    run,
    run_on,
    running,
    terminal,
)

from pytest_edgehil.errors import ConfigError, PowerError
from pytest_edgehil.model.board import Fault
from pytest_edgehil.virtual import faults

MIB = 2**20
HOLD_100_MIB = (
    "python3 -S -E -c 'import os,time; x = b\"1\" * (100 << 20); print(os.getpid(), flush=True); time.sleep(600)'"
)


@pytest.fixture
def up(tmp_path):
    with running(tmp_path / "board") as one:
        yield one


def triggered(up) -> list[str]:
    return [line.details["kind"] for line in events(up, "fault-triggered")]


@contextlib.contextmanager
def raw(up):
    """A bare TCP connection to the SSH port: bytes can be counted."""
    with socket.create_connection((up.board.ssh.host, up.board.ssh.port), timeout=DEADLINE_S) as sock:
        yield sock


def read_until_reset(sock: socket.socket) -> None:
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        return
    raise AssertionError("the connection ended in an orderly way")


def push_until_it_breaks(channel: paramiko.Channel, size_bytes: int = 10_000_000) -> None:
    with contextlib.suppress(OSError, EOFError):
        for _ in range(size_bytes // 100_000):
            channel.sendall(b"x" * 100_000)
        raise AssertionError(f"{size_bytes} bytes went through")


def run_until_it_breaks(one: paramiko.SSHClient) -> None:
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        for _ in range(1000):
            run(one, "wc -c", stdin=b"x" * 3000)
        raise AssertionError("it never broke")


def test_every_kind_is_tested_here():
    text = __import__("pathlib").Path(__file__).read_text()
    assert all(f'"{kind}"' in text for kind in faults.KINDS)


# --- the link ------------------------------------------------------------------------------------------


def test_a_link_is_cut_after_exactly_so_many_bytes(up):
    up.control.inject(Fault(kind="link-cut", after_bytes=1000))
    before = up.control.status().bytes_in
    with raw(up) as sock:
        sock.sendall(b"SSH-2.0-test\r\n" + b"x" * 5000)
        read_until_reset(sock)
    eventually(lambda: triggered(up) == ["link-cut"])
    assert up.control.status().bytes_in - before == 1000
    assert up.control.status().armed == ()


def test_a_link_is_cut_by_a_reset_and_only_once(up):
    with raw(up) as sock, raw(up) as other:
        sock.recv(100)
        other.recv(100)
        up.control.inject(Fault(kind="link-cut"))
        read_until_reset(sock)
        read_until_reset(other)
    assert run_on(up, "echo again").out == "again\n"
    assert triggered(up) == ["link-cut"]


def test_a_cut_in_the_middle_of_a_push_loses_the_rest(up):
    with client(up) as one:
        channel = one.get_transport().open_session()
        channel.settimeout(DEADLINE_S)
        channel.exec_command("exec 3> pushed; echo ready; exec cat >&3")
        assert channel.recv(10) == b"ready\n"
        up.control.inject(Fault(kind="link-cut", after_bytes=1_000_000))
        push_until_it_breaks(channel)
    size = (up.layout.home / "pushed").stat().st_size
    assert size < 1_000_000


def test_a_cut_waits_for_somebody_to_cut_off(up):
    up.control.inject(Fault(kind="link-cut"))
    assert up.control.status().armed == ("link-cut",)
    with pytest.raises((OSError, paramiko.SSHException, EOFError)):
        run_on(up, "true")
    assert reconnect(up).status == 0


def test_a_cut_link_may_stay_down_for_a_while(up):
    with raw(up) as sock:
        sock.recv(100)
        up.control.inject(Fault(kind="link-cut", options={"down_s": 3600}))
        read_until_reset(sock)
    with pytest.raises(ConnectionRefusedError), raw(up):
        pass
    up.control.clear_faults()
    assert reconnect(up).status == 0
    with raw(up) as sock:
        sock.recv(100)
        up.control.inject(Fault(kind="link-cut", options={"down_s": 0.2}))
        read_until_reset(sock)
    assert reconnect(up).status == 0, "it comes up again by itself"


def test_a_stalled_link_is_silent_but_open_and_new_connections_work(up):
    with client(up) as one:
        channel = one.get_transport().open_session()
        channel.settimeout(DEADLINE_S)
        channel.exec_command("cat")
        channel.sendall(b"one")
        assert channel.recv(10) == b"one"
        up.control.inject(Fault(kind="link-stall"))
        channel.sendall(b"two")
        channel.settimeout(0.5)
        with pytest.raises(TimeoutError):
            channel.recv(10)
        assert one.get_transport().is_active()
        assert run_on(up, "echo new").out == "new\n"
    assert triggered(up) == ["link-stall"]


def test_a_stall_that_ends_loses_nothing(up):
    blob = os.urandom(3_000_000)
    with client(up) as one:
        channel = one.get_transport().open_session()
        channel.settimeout(DEADLINE_S)
        channel.exec_command("cat")
        up.control.inject(Fault(kind="link-stall", after_bytes=500_000, options={"for_s": 0.5}))
        sender = threading.Thread(target=lambda: (channel.sendall(blob), channel.shutdown_write()), daemon=True)
        sender.start()
        assert channel.makefile("rb").read() == blob
        sender.join()
    assert triggered(up) == ["link-stall"]


def test_clearing_lets_a_stalled_link_go_on_if_it_was_to(up):
    with client(up) as one:
        channel = one.get_transport().open_session()
        channel.settimeout(DEADLINE_S)
        channel.exec_command("cat")
        up.control.inject(Fault(kind="link-stall", options={"for_s": 3600}))
        channel.sendall(b"late")
        up.control.clear_faults()
        assert channel.recv(10) == b"late"


def test_a_slow_link_is_slow_both_ways_until_it_is_cleared(up):
    """By its rate this takes half an hour in either direction; what rate it keeps is told by its unit tests."""
    size = 4_000_000
    with client(up) as one:
        up.control.inject(Fault(kind="slow-link", options={"rate_bytes_per_s": 2000}))
        assert up.control.status().levels == ("slow-link",)
        there, back = (one.get_transport().open_session() for _ in range(2))
        for channel, command in ((there, "wc -c"), (back, f"head -c {size} /dev/zero")):
            channel.settimeout(DEADLINE_S)
            channel.exec_command(command)
        before = up.control.status()
        sender = threading.Thread(target=lambda: (there.sendall(b"x" * size), there.shutdown_write()))
        sender.start()
        assert back.recv(1) == b"\0"
        eventually(lambda: up.control.status().bytes_in > before.bytes_in)
        status = up.control.status()
        assert status.bytes_in - before.bytes_in < size / 2
        assert status.bytes_out - before.bytes_out < size / 2
        up.control.clear_faults()
        assert len(back.makefile("rb").read()) == size - 1
        sender.join()
        assert there.makefile("rb").read() == f"{size}\n".encode()
    assert triggered(up) == ["slow-link"]


def test_a_fast_sender_is_held_back_by_a_slow_link(up):
    with client(up) as one:
        up.control.inject(Fault(kind="slow-link", options={"rate_bytes_per_s": 50_000}))
        channel = one.get_transport().open_session()
        channel.settimeout(1.0)
        channel.exec_command("cat >/dev/null")
        with pytest.raises(TimeoutError):
            channel.sendall(b"x" * 50_000_000)
        up.control.clear_faults()


def test_refused_ssh_leaves_connections_alone_and_refuses_new_ones(up):
    with client(up) as one:
        up.control.inject(Fault(kind="ssh-refused"))
        assert run(one, "echo still").out == "still\n"
        with pytest.raises(ConnectionRefusedError), raw(up):
            pass
        up.control.power_cycle()
        eventually(lambda: up.control.status().state == "running")
        with pytest.raises(ConnectionRefusedError), raw(up):
            pass
        up.control.clear_faults()
        assert reconnect(up).status == 0


# --- power ---------------------------------------------------------------------------------------------


def test_power_goes_at_exactly_so_many_bytes_and_the_file_is_torn(up):
    with client(up) as one, terminal(up) as console:
        channel = one.get_transport().open_session()
        channel.settimeout(DEADLINE_S)
        channel.exec_command("exec 3> pushed; echo $$; exec cat >&3")
        pid = int(channel.recv(100))
        up.control.inject(Fault(kind="power-cut", after_bytes=300_000))
        push_until_it_breaks(channel)
        eventually(lambda: not alive(pid))
        status = up.control.status()
        assert (status.power, status.state, status.armed) == ("off", "off", ())
        length = len(console.raw)
        up.control.power_on()
        console.wait_for("login:", start=length)
    assert int(reconnect(up, "wc -c < pushed").out) < 300_000
    assert triggered(up) == ["power-cut"]


def test_power_may_come_back_by_itself(up):
    boot_id = up.control.status().boot_id
    up.control.inject(Fault(kind="power-cut", options={"off_s": 0.3}))
    eventually(lambda: (s := up.control.status()).state == "running" and s.boot_id != boot_id)


def test_a_panic_is_on_the_console_and_everything_is_dead_and_silent(up):
    with client(up) as one, terminal(up) as console:
        channel = one.get_transport().open_session()
        channel.settimeout(DEADLINE_S)
        channel.exec_command("echo $$; exec sleep 600")
        pid = int(channel.recv(100))
        up.control.inject(Fault(kind="panic"))
        console.wait_for(r"\] Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b\n")
        console.wait_for(r"end Kernel panic - not syncing[^\n]*\n")  # its last line, to the end
        eventually(lambda: not alive(pid))
        channel.settimeout(0.5)
        with pytest.raises(TimeoutError):
            channel.recv(10)
        assert one.get_transport().is_active(), "nobody has told the client"
        with pytest.raises(ConnectionRefusedError), raw(up):
            pass
        console.type("\n")
        length = len(console.raw)
        console.read(0.4)
        assert len(console.raw) == length, "a dead kernel does not echo"
        assert up.control.status().state == "panicked"
        up.control.power_cycle()
        console.wait_for("login:", start=length)
    assert reconnect(up).status == 0
    assert triggered(up) == ["panic"]


def test_a_panic_may_reboot_by_itself(up):
    with terminal(up) as console:
        up.control.inject(Fault(kind="panic", options={"reboot_s": 0.3}))
        console.wait_for(r"Kernel panic[\s\S]*Rebooting in 0\.3 seconds[\s\S]*Booting Linux[\s\S]*login:")
    assert reconnect(up).status == 0


def test_a_stuck_boot_hangs_before_the_kernel_until_cleared_and_cycled(up):
    up.control.inject(Fault(kind="stuck-boot"))
    assert run_on(up, "echo fine until the next boot").status == 0
    with terminal(up) as console:
        console.wait_for("login:")
        length = len(console.raw)
        for _ in range(2):
            up.control.power_cycle()
            eventually(lambda: up.control.status().state == "stuck")
        console.wait_for("RPi: BOOTLOADER", start=length)
        assert "Linux" not in console.text[length:]
        assert "login" not in console.text[length:]
        up.control.clear_faults()
        assert up.control.status().state == "stuck"
        up.control.power_cycle()
        console.wait_for("login:", start=length)
    assert triggered(up) == ["stuck-boot"]


# --- disk, memory, heat --------------------------------------------------------------------------------

WRITE = 'python3 -S -E -c \'open("big", "wb").write(b"x" * 1000000)\''


def test_a_full_disk_refuses_running_and_new_commands_and_sftp(up):
    with client(up) as one:
        writing = one.get_transport().open_session()
        writing.settimeout(DEADLINE_S)
        code = 'import sys; print(1, flush=True); sys.stdin.readline(); f = open("held", "w"); f.write("x"); f.close()'
        writing.exec_command(f"python3 -S -E -c '{code}'")
        assert writing.recv(10) == b"1\n"
        run(one, "echo small > before")
        up.control.inject(Fault(kind="disk-full"))
        writing.sendall(b"\n")
        complaint = writing.makefile_stderr("rb").read().decode()
        assert (writing.recv_exit_status(), f"[Errno {errno.EFBIG}]" in complaint) == (1, True), complaint
        assert f"[Errno {errno.EFBIG}]" in run(one, WRITE).err
        assert run(one, "echo x > after").status != 0
        assert run(one, "cat before; echo x | cat").out == "small\nx\n", "reading and pipes still work"
        with one.open_sftp() as sftp:
            file = sftp.open("over-sftp", "wb")
            with pytest.raises(OSError, match="No space left"):
                file.write(b"x" * 100_000)
            file.close()
        up.control.clear_faults()
        assert run(one, WRITE + " && wc -c < big").out.strip() == "1000000"
    assert triggered(up) == ["disk-full"]


def test_a_disk_may_have_some_room_left_and_stays_full_over_a_power_cycle(up):
    up.control.inject(Fault(kind="disk-full", options={"free_bytes": 512 * 1024}))
    up.control.power_cycle()
    assert reconnect(up, "head -c 100000 /dev/zero > small && wc -c < small").out.strip() == "100000"
    assert f"[Errno {errno.EFBIG}]" in run_on(up, WRITE).err
    assert (up.layout.home / "big").stat().st_size == 512 * 1024


def test_the_biggest_process_is_killed_when_memory_is_out(up):
    with client(up) as one, terminal(up) as console:
        small = one.get_transport().open_session()
        small.settimeout(DEADLINE_S)
        small.exec_command("echo $$; exec sleep 600")
        small_pid = int(small.recv(100))
        big = one.get_transport().open_session()
        big.settimeout(DEADLINE_S)
        big.exec_command(f"exec {HOLD_100_MIB}")
        pid = int(big.recv(100))
        up.control.inject(Fault(kind="out-of-memory"))
        assert big.recv_exit_status() == -1
        match = console.wait_for(
            r"Out of memory: Killed process (\d+) \(python3?[\d.]*\) total-vm:\d+kB, anon-rss:(\d+)kB"
        )
        assert int(match[1]) == pid
        assert int(match[2]) > 100 * 1024
        assert alive(small_pid)
    (line,) = events(up, "out-of-memory")
    assert line.details["pid"] == pid
    assert triggered(up) == ["out-of-memory"]


def test_the_killer_waits_until_there_is_somebody_worth_killing(up):
    up.control.inject(Fault(kind="out-of-memory"))
    assert run_on(up, "echo small").out == "small\n"
    assert up.control.status().armed == ("out-of-memory",)
    with client(up) as one:
        channel = one.get_transport().open_session()
        channel.settimeout(DEADLINE_S)
        channel.exec_command(f"exec {HOLD_100_MIB}")
        assert channel.recv_exit_status() == -1


def test_a_board_has_no_more_memory_than_the_lab_says(tmp_path):
    with running(tmp_path / "board", board(memory_bytes=80 * MIB)) as up, client(up) as one:
        assert "MemTotal:" in run(one, "cat $EDGEHIL_SYSROOT/proc/meminfo").out
        channel = one.get_transport().open_session()
        channel.settimeout(DEADLINE_S)
        channel.exec_command(f"exec {HOLD_100_MIB}")
        assert channel.recv_exit_status() == -1
        assert events(up, "out-of-memory")
        assert run(one, "echo alive").out == "alive\n"


def test_runaway_heat_throttles_then_shuts_the_board_down(up):
    with terminal(up) as console:
        up.control.inject(Fault(kind="overheat", options={"rate_c_per_s": 150}))
        console.wait_for(r"cpu-thermal: critical temperature reached \(1\d\d\.\d\d C\)")
        eventually(lambda: up.control.status().state == "halted")
        assert up.control.status().throttled == 0xE000E
        assert up.control.status().arm_hz == 1_500_000_000
    assert triggered(up) == ["overheat"]


def test_heat_may_stop_below_the_limit_and_ends_when_cleared(up):
    up.control.inject(Fault(kind="overheat", options={"limit_c": 90}))
    eventually(lambda: run_on(up, "vcgencmd get_throttled").out == "throttled=0xe000e\n")
    assert run_on(up, "vcgencmd measure_temp").out == "temp=90.0'C\n" or up.control.status().temperature_c > 89
    hot_c = up.control.status().temperature_c
    up.control.clear_faults()
    eventually(lambda: up.control.status().temperature_c < hot_c)
    assert up.control.status().state == "running"


# --- when ----------------------------------------------------------------------------------------------


def test_a_fault_may_wait_for_time_and_then_for_bytes(up):
    up.control.inject(Fault(kind="link-cut", after_s=3600, after_bytes=10_000))
    assert up.control.status().armed == ("link-cut",)
    with client(up) as one:
        assert run(one, "wc -c", stdin=b"x" * 50_000).out.strip() == "50000", "bytes before the time do not count"
        assert up.control.status().armed == ("link-cut",)
        up.control.clear_faults()
        before = up.control.status().bytes_in
        up.control.inject(Fault(kind="link-cut", after_s=0.1, after_bytes=10_000))
        run_until_it_breaks(one)
    eventually(lambda: triggered(up) == ["link-cut"])
    assert up.control.status().bytes_in - before >= 10_000, "time alone is not enough"


def test_faults_of_the_blueprint_are_armed_at_power_on(tmp_path):
    armed = (
        Fault(kind="slow-link", options={"rate_bytes_per_s": 1e9}),
        Fault(kind="power-cut", after_bytes=50_000),
    )
    with running(tmp_path / "board", board(faults=armed)) as up:
        assert (up.control.status().levels, up.control.status().armed) == (("slow-link",), ("power-cut",))
        with client(up) as one:
            run_until_it_breaks(one)
        eventually(lambda: up.control.status().power == "off")
        up.control.power_on()
        assert reconnect(up, "head -c 1000").status == 0, "what has triggered once is gone"
        assert up.control.status().levels == ("slow-link",)


def test_an_armed_fault_survives_a_power_cycle(up):
    up.control.inject(Fault(kind="link-cut", after_bytes=100_000))
    up.control.power_cycle()
    assert up.control.status().armed == ("link-cut",)


def test_a_board_that_starts_stuck_is_returned_stuck(tmp_path):
    with running(tmp_path / "board", board(faults=(Fault(kind="stuck-boot"),))) as up:
        assert up.control.status().state == "stuck"
        with pytest.raises(ConnectionRefusedError), raw(up):
            pass


def test_a_board_whose_power_is_cut_at_once_is_returned_without_power(tmp_path):
    with running(tmp_path / "board", board(faults=(Fault(kind="power-cut"),))) as up:
        eventually(lambda: up.control.status().power == "off")


def test_clearing_disarms(up):
    up.control.inject(Fault(kind="power-cut", after_bytes=1000))
    up.control.inject(Fault(kind="panic", after_s=5))  # enough to clear it in time, however busy this host is
    status = up.control.clear_faults()
    assert (status.armed, status.levels) == ((), ())
    with client(up) as one:
        assert run(one, "wc -c", stdin=b"x" * 50_000).out.strip() == "50000"
        assert run(one, "sleep 6").status == 0
    assert triggered(up) == []


def test_what_is_wrong_with_a_request_is_said_and_the_board_lives_on(up):
    with pytest.raises(ConfigError, match="unknown: expected one of"):
        up.control.inject(Fault(kind="earthquake"))
    with socket.socket(socket.AF_UNIX) as sock, contextlib.ExitStack() as stack:
        sock.settimeout(DEADLINE_S)
        sock.connect(up.endpoint.socket)
        answers = stack.enter_context(sock.makefile("rb"))
        for line, complaint in (
            (b"nonsense\n", "is no request"),
            (b"[1]\n", "is no request"),
            (b'{"do": "explode"}\n', "unknown verb"),
            (b'{"do": "inject"}\n', "expected kind"),
            (b'{"do": "inject", "fault": {"kind": "earthquake"}}\n', "unknown"),
        ):
            sock.sendall(line)
            answer = __import__("json").loads(answers.readline())
            assert answer["ok"] is False
            assert complaint in answer["error"]
        with contextlib.suppress(ConnectionError):  # a line without end is not listened to
            sock.sendall(b"x" * 3_000_000)
    assert run_on(up, "echo alive").out == "alive\n"


def test_after_stop_there_is_no_board(up):
    up.control.stop()
    with pytest.raises(PowerError):
        eventually(lambda: up.control.status() and None, within_s=DEADLINE_S)
    eventually(lambda: events(up, "supervisor-stop"))
