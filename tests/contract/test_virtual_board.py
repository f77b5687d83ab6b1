"""A virtual board, seen from outside, behaves as a Raspberry Pi 5 does: plain paramiko, plain ssh, a plain pty."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import asyncssh
import paramiko
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
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

from pytest_edgehil.errors import ConfigError
from pytest_edgehil.model.board import SshAccess, ThermalModel, VirtualPower
from pytest_edgehil.virtual.farm import start


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A board for tests that leave it as it was."""
    with running(tmp_path_factory.mktemp("shared") / "board", board(tags=("cooled",), accelerator="hailo8")) as up:
        yield up


@pytest.fixture(scope="module")
def link(shared):
    with client(shared) as one:
        yield one


@pytest.fixture
def fresh(tmp_path):
    with running(tmp_path / "board") as up:
        yield up


# --- commands ------------------------------------------------------------------------------------------


def test_output_error_and_exit_status_are_kept_apart(link):
    result = run(link, "echo out; echo err >&2; exit 7")
    assert (result.status, result.out, result.err) == (7, "out\n", "err\n")


def test_a_command_finds_itself_at_home_on_the_board(link, shared):
    out = run(link, 'pwd; echo "$HOME"; echo "$EDGEHIL_SYSROOT"; id -un >/dev/null; echo "$USER"; echo "$LANG"').out
    disk = shared.layout.disk
    assert out.splitlines() == [str(disk / "home/edge"), str(disk / "home/edge"), str(disk), "edge", "C"]


def test_the_environment_of_the_host_does_not_leak_onto_the_board(monkeypatch, tmp_path):
    monkeypatch.setenv("SECRET_OF_THE_HOST", "hunter2")
    with running(tmp_path / "board") as up:
        assert "SECRET_OF_THE_HOST" not in run_on(up, "env").out


def test_input_is_streamed_while_the_command_runs(link):
    channel = link.get_transport().open_session()
    channel.settimeout(DEADLINE_S)
    channel.exec_command('while read line; do echo "got $line"; done; echo end')
    for word in ("one", "two"):
        channel.sendall(f"{word}\n".encode())
        assert channel.recv(100).decode() == f"got {word}\n"
    channel.shutdown_write()
    assert channel.makefile("rb").read() == b"end\n"
    assert channel.recv_exit_status() == 0


def test_megabytes_pass_both_ways_unharmed(link):
    blob = os.urandom(5_000_000)
    channel = link.get_transport().open_session()
    channel.settimeout(DEADLINE_S)
    channel.exec_command("cat")
    with ThreadPoolExecutor(1) as pool:
        back = pool.submit(channel.makefile("rb").read)
        channel.sendall(blob)
        channel.shutdown_write()
        assert back.result(DEADLINE_S) == blob
    assert channel.recv_exit_status() == 0


def test_a_command_that_does_not_read_its_input_does_not_block_the_link(link):
    channel = link.get_transport().open_session()
    channel.settimeout(DEADLINE_S)
    channel.exec_command("exec <&-; echo deaf; until [ -e all-is-sent ]; do sleep 0.05; done; echo done")
    assert channel.recv(100) == b"deaf\n"
    channel.sendall(b"x" * 500_000)
    assert run(link, "touch all-is-sent").status == 0  # an ended command would take nothing at all
    assert channel.makefile("rb").read() == b"done\n"
    assert channel.recv_exit_status() == 0


def test_a_reader_that_lags_holds_up_its_own_command_only(link):
    lagging = link.get_transport().open_session()
    lagging.exec_command("yes | head -c 20000000")
    assert run(link, "echo quick").out == "quick\n"
    lagging.settimeout(DEADLINE_S)
    assert len(lagging.makefile("rb").read()) == 20_000_000


@pytest.mark.parametrize("name", ["TERM", "INT", "KILL"])
def test_a_command_that_is_killed_says_by_what(link, name):
    channel = link.get_transport().open_session()
    channel.settimeout(DEADLINE_S)
    channel.exec_command(f"kill -{name} $$")
    assert channel.recv_exit_status() == -1  # paramiko's word for "by a signal"


@pytest.mark.needs("ssh")
def test_openssh_is_at_home_too(shared, tmp_path):
    options = ["-o", f"UserKnownHostsFile={shared.layout.known_hosts}", "-o", "BatchMode=yes", "-F", "none"]
    options += ["-i", str(shared.board.ssh.key_path)]
    where = f"edge@{shared.board.ssh.host}"
    port = str(shared.board.ssh.port)
    done = subprocess.run(
        ["ssh", *options, "-p", port, where, "cat; exit 3"],
        check=False,
        input=b"hello",
        capture_output=True,
        timeout=DEADLINE_S,
    )
    assert (done.returncode, done.stdout) == (3, b"hello")
    killed = subprocess.run(["ssh", *options, "-p", port, where, "kill -9 $$"], check=False, timeout=DEADLINE_S)
    assert killed.returncode == 255
    (tmp_path / "file").write_bytes(os.urandom(300_000))
    subprocess.run(["scp", "-q", *options, "-P", port, tmp_path / "file", f"{where}:copied"], check=True, timeout=60)
    assert (shared.layout.home / "copied").read_bytes() == (tmp_path / "file").read_bytes()


def test_a_signal_request_reaches_the_whole_process_group(link):
    channel = link.get_transport().open_session()
    channel.settimeout(DEADLINE_S)
    channel.exec_command("sleep 600 & echo $!; wait")
    pid = int(channel.recv(100))
    message = paramiko.Message()
    message.add_byte(b"\x62")  # SSH_MSG_CHANNEL_REQUEST
    message.add_int(channel.remote_chanid)
    message.add_string("signal")
    message.add_boolean(False)
    message.add_string("KILL")
    link.get_transport()._send_user_message(message)
    eventually(lambda: not alive(pid))


def test_closing_the_channel_ends_the_commands_process_group(shared, link):
    channel = link.get_transport().open_session()
    channel.settimeout(DEADLINE_S)
    channel.exec_command("trap '' HUP; sleep 600 & echo $$ $!; wait")
    pids = [int(pid) for pid in channel.recv(100).split()]
    channel.close()
    eventually(lambda: not any(alive(pid) for pid in pids))


def test_losing_the_connection_hangs_up_and_a_command_may_clean_up(shared, tmp_path):
    note = tmp_path / "note"
    with client(shared) as one:
        channel = one.get_transport().open_session()
        channel.settimeout(DEADLINE_S)
        channel.exec_command(f"trap 'echo cleaned > {note}; exit' HUP; echo ready; while :; do sleep 0.05; done")
        assert channel.recv(100) == b"ready\n"
    eventually(lambda: note.exists() and note.read_text() == "cleaned\n")


def test_a_daemon_lives_on_after_its_channel_and_dies_with_the_power(fresh):
    pid = int(run_on(fresh, "setsid sleep 600 >/dev/null 2>&1 </dev/null & echo $!").out)
    assert alive(pid)
    assert fresh.control.status().processes == 1
    fresh.control.power_off()
    assert not alive(pid)


def test_a_channel_stays_open_while_somebody_holds_its_output(link):
    channel = link.get_transport().open_session()
    channel.settimeout(DEADLINE_S)
    channel.exec_command("(sleep 0.3; echo late) & echo early")
    assert channel.makefile("rb").read() == b"early\nlate\n"


# --- who may come in -----------------------------------------------------------------------------------


def test_somebody_elses_key_is_refused(shared, tmp_path):
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(tmp_path / "key")
    with pytest.raises(paramiko.AuthenticationException), client(shared, key_path=tmp_path / "key"):
        pass


@pytest.mark.parametrize("username", ["root", "", "edge2"])
def test_another_user_is_refused_with_the_right_key(shared, username):
    with pytest.raises(paramiko.AuthenticationException), client(shared, username=username):
        pass


def test_passwords_are_not_even_offered(shared):
    sock = paramiko.Transport((shared.board.ssh.host, shared.board.ssh.port))
    try:
        sock.start_client(timeout=DEADLINE_S)
        with pytest.raises(paramiko.BadAuthenticationType) as refusal:
            sock.auth_password("edge", "raspberry")
        assert refusal.value.allowed_types == ["publickey"]
    finally:
        sock.close()


def test_it_listens_on_loopback_only(shared):
    port = f"{shared.board.ssh.port:04X}"
    lines = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    listening = {line.split()[1] for line in lines.splitlines()[1:] if f":{port} " in line and " 0A " in line}
    assert listening == {f"0100007F:{port}"}


def test_a_pinned_host_key_is_handed_on_even_when_it_is_wrong(tmp_path):
    wrong = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    with running(tmp_path / "board", board(ssh_host_key=wrong)) as up:
        assert up.board.ssh.host_key == wrong
        assert up.endpoint.host_key.startswith("ssh-ed25519 AAAA")


def test_the_lab_may_choose_port_user_and_client_key(tmp_path):
    import socket

    asyncssh.generate_private_key("ssh-ed25519").write_private_key(tmp_path / "key")
    with running(tmp_path / "board"):
        pass  # makes the host key, which a lab file can then pin
    host_key = " ".join((tmp_path / "board/keys/host_ed25519.pub").read_text().split()[:2])
    with socket.socket() as keeper:  # keeps the port from others; who reuses addresses may listen on it
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind(("127.0.0.1", 0))
        port = keeper.getsockname()[1]
        access = SshAccess(host="127.0.0.1", port=port, user="lab", key_path=tmp_path / "key", host_key=host_key)
        with running(tmp_path / "board", replace(board(), ssh=access)) as up:
            assert up.board.ssh == access
            assert run_on(up, "echo in").out == "in\n"


def test_a_port_that_is_taken_is_a_configuration_error(shared, tmp_path):
    with (
        pytest.raises(ConfigError, match=f"port {shared.board.ssh.port} .* cannot be had"),
        running(tmp_path / "board", board(ssh_port=shared.board.ssh.port)),
    ):
        pass


# --- SFTP ----------------------------------------------------------------------------------------------


@pytest.fixture
def sftp(link):
    with link.open_sftp() as one:
        yield one


def test_files_go_both_ways_relative_to_home(sftp, shared):
    with sftp.open("upload.bin", "wb") as file:
        file.write(b"abc" * 1000)
    assert (shared.layout.home / "upload.bin").read_bytes() == b"abc" * 1000
    assert sftp.open("/home/edge/upload.bin").read() == b"abc" * 1000
    assert sftp.normalize(".") == "/home/edge"
    sftp.posix_rename("upload.bin", "renamed.bin")
    assert "renamed.bin" in sftp.listdir()
    sftp.remove("renamed.bin")


def test_sftp_and_commands_see_the_same_files(sftp, link):
    with sftp.open("seen", "w") as file:
        file.write("both")
    assert run(link, "cat seen").out == "both"


@pytest.mark.parametrize("name", ["../../../../../etc/passwd", "/etc/passwd", "/../etc/passwd"])
def test_names_do_not_lead_out_of_the_disk(sftp, name):
    with pytest.raises(OSError, match=r"No such file|Permission"):
        sftp.open(name).read()


def test_links_do_not_lead_out_of_the_disk(sftp, link, tmp_path):
    (tmp_path / "secret").write_text("host")
    run(link, f"ln -sfn {tmp_path} out-dir; ln -sfn {tmp_path / 'secret'} out-file; ln -sfn /tmp rel")
    for action in (
        lambda: sftp.open("out-file").read(),
        lambda: sftp.open("out-dir/secret").read(),
        lambda: sftp.open("out-dir/new", "w"),
        lambda: sftp.stat("out-file"),
        lambda: sftp.listdir("out-dir"),
        lambda: sftp.remove("out-dir/secret"),
        lambda: sftp.chmod("out-file", 0o777),
        lambda: sftp.rename("out-dir/secret", "mine"),
    ):
        with pytest.raises(OSError, match=r"leads out|Permission"):
            action()
    assert (tmp_path / "secret").read_text() == "host"
    assert not (tmp_path / "new").exists()
    sftp.remove("out-file")


# --- what a Pi 5 says of itself ------------------------------------------------------------------------


def test_the_device_tree_names_model_and_serial_with_a_nul(link, shared):
    tree = shared.layout.disk / "proc/device-tree"
    assert (tree / "model").read_bytes() == b"Raspberry Pi 5 Model B Rev 1.0\0"
    assert (tree / "serial-number").read_bytes() == b"10000000deadbeef\0"
    assert (tree / "chosen/bootloader/partition").read_bytes() == struct.pack(">I", 2)
    assert (tree / "chosen/bootloader/tryboot").read_bytes() == struct.pack(">I", 0)


def test_vcgencmd_prints_what_the_firmware_prints(link):
    assert re.fullmatch(r"temp=\d+\.\d'C\n", run(link, "vcgencmd measure_temp").out)
    assert run(link, "vcgencmd get_throttled").out == "throttled=0x0\n"
    assert run(link, "vcgencmd measure_clock arm").out == "frequency(0)=2400023808\n"
    assert run(link, "vcgencmd nonsense").out == 'error=1 error_msg="Command not registered"\n'
    adc = run(link, "vcgencmd pmic_read_adc").out
    assert len(adc.splitlines()) == 26
    assert re.search(r"^ +VDD_CORE_A current\(7\)=\d+\.\d{8}A$", adc, re.MULTILINE)
    assert re.search(r"^ +EXT5V_V volt\(24\)=5\.\d{8}V$", adc, re.MULTILINE)


def test_vcgencmd_without_its_device_fails_as_the_real_one_does(fresh):
    result = run_on(fresh, "rm -r $EDGEHIL_SYSROOT/run/edgehil/vcgencmd; vcgencmd measure_temp")
    assert (result.status, result.out) == (255, "Can't open device file: /dev/vcio_gencmd\n")


def test_sysfs_and_vcgencmd_agree(link):
    script = (
        "cd $EDGEHIL_SYSROOT/sys; cat class/thermal/thermal_zone0/temp;"
        "for d in class/hwmon/*; do [ $(cat $d/name) = cpu_thermal ] && cat $d/temp1_input; done;"
        "cat devices/system/cpu/cpu0/cpufreq/scaling_cur_freq devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"
    )
    zone, hwmon, now, most = (int(line) for line in run(link, script).out.split())
    assert abs(zone - hwmon) <= 550
    assert (450_000 - zone) % 550 == 0
    assert (now, most) == (2_400_000, 2_400_000)


def test_a_cooled_board_has_a_fan_and_another_has_none(shared, fresh):
    def names(up):
        return set(run_on(up, "cat $EDGEHIL_SYSROOT/sys/class/hwmon/*/name").out.split())

    assert names(shared) == {"cpu_thermal", "rp1_adc", "pwmfan"}
    assert names(fresh) == {"cpu_thermal", "rp1_adc"}


IDENTIFY_8 = """\
Executing on device: 0001:01:00.0
Identifying board
Control Protocol Version: 2
Firmware Version: 4.23.0 (release,app,extended context switch buffer)
Logger Version: 0
Board Name: Hailo-8
Device Architecture: HAILO8
"""


def test_hailortcli_knows_the_boards_accelerator(link):
    assert run(link, "hailortcli --version").out == "HailoRT-CLI version 4.23.0\n"
    assert run(link, "hailortcli scan").out == "Hailo Devices:\n[-] Device: 0001:01:00.0\n"
    assert run(link, "hailortcli fw-control identify").out.startswith(IDENTIFY_8)


def test_hailortcli_of_a_hailo_10h_has_its_own_version_and_no_board_name(tmp_path):
    with running(tmp_path / "board", board(accelerator="hailo10h")) as up:
        identify = run_on(up, "hailortcli fw-control identify").out
        assert "Firmware Version: 5.1.1 (release,app)\n" in identify
        assert "Device Architecture: HAILO10H\n" in identify
        assert "Board Name" not in identify
        assert run_on(up, "cat $EDGEHIL_SYSROOT/sys/bus/pci/devices/0001:01:00.0/device").out == "0x45c4\n"


def test_without_an_accelerator_none_is_found(fresh):
    assert run_on(fresh, "hailortcli scan").out == "Hailo devices not found\n"
    assert run_on(fresh, "hailortcli fw-control identify").status == 74


def test_the_eeprom_is_up_to_date(link):
    lines = run(link, "sudo rpi-eeprom-update").out.splitlines()
    assert lines[0] == "BOOTLOADER: up to date"
    assert re.fullmatch(r"   CURRENT: .+ \(\d+\)", lines[1])
    assert lines[3].startswith("   RELEASE: default (")


def test_evidence_is_signed_with_a_key_that_stays_off_the_disk(link, shared):
    run(link, "printf 'the payload' > message; rpi-fw-crypto sign --in message --key-id 1 --alg ec --out sig")
    run(link, "rpi-fw-crypto pubkey --key-id 1 --out $HOME/pub")
    public = load_pem_public_key((shared.layout.home / "pub").read_bytes())
    assert (shared.layout.home / "pub").read_bytes() == shared.board.identity_key.read_bytes()
    signature = (shared.layout.home / "sig").read_bytes()
    public.verify(signature, b"the payload", ec.ECDSA(hashes.SHA256()))
    with pytest.raises(InvalidSignature):
        public.verify(signature, b"the payloae", ec.ECDSA(hashes.SHA256()))
    on_disk = b"".join(path.read_bytes() for path in shared.layout.disk.rglob("*.pem"))
    assert b"PRIVATE" not in on_disk


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("sign --in missing --key-id 1 --alg ec --out x", "cannot read"),
        ("sign --in /etc/hostname --key-id 2 --alg ec --out x", "key 2 does not exist"),
        ("sign --in /etc/hostname --key-id 1 --alg rsa --out x", "rsa is not supported"),
        ("sign --in /etc/hostname --key-id 1", "--out is missing"),
        ("forge --key-id 1 --out x", "unknown command forge"),
        ("pubkey --key-id 1 --out /nonexistent/dir/x", "Permission denied|No such file|denied"),
    ],
)
def test_rpi_fw_crypto_says_what_is_wrong(link, arguments, complaint):
    if "nonexistent" in arguments and os.geteuid() == 0:
        arguments = arguments.replace("/nonexistent/dir", "/proc/nonexistent")
    result = run(link, f"rpi-fw-crypto {arguments}")
    assert result.status == 1
    assert re.search(complaint, result.err), result.err


def test_many_signatures_at_once_do_not_mix(fresh):
    script = (
        "for i in 1 2 3 4 5 6 7 8; do (echo message $i > m$i; rpi-fw-crypto sign --in m$i --key-id 1 --out s$i) & "
        "done; wait; ls s? | wc -l"
    )
    assert run_on(fresh, script).out.strip() == "8"
    public = load_pem_public_key(fresh.board.identity_key.read_bytes())
    for number in range(1, 9):
        signature = (fresh.layout.home / f"s{number}").read_bytes()
        public.verify(signature, f"message {number}\n".encode(), ec.ECDSA(hashes.SHA256()))


# --- runtimes ------------------------------------------------------------------------------------------


def test_python_has_the_runtime(link):
    assert run(link, "python3 -E -c 'import onnxruntime, numpy; print(1)'").out == "1\n"


def test_python_takes_its_options_and_its_input(link):
    result = run(link, "python3 -S -E -c 'import sys; print(sys.flags.no_site, sys.stdin.read())'", stdin=b"in")
    assert result.out == "1 in\n"


def test_a_board_without_the_runtime_really_cannot_import_it(tmp_path):
    with running(tmp_path / "board", board(runtimes=())) as up, client(up) as one:
        assert run(one, "python3 -c 'print(6*7)'").out == "42\n"
        assert run(one, "python3 -S -E -c 'import json; print(1)'").out == "1\n"
        for package in ("onnxruntime", "numpy"):
            assert "ModuleNotFoundError" in run(one, f"python3 -E -c 'import {package}'").err
        again = 'python3 -c \'import subprocess,sys; subprocess.run([sys.executable,"-c","import onnxruntime"])\''
        assert "ModuleNotFoundError" in run(one, again).err


# --- heat ----------------------------------------------------------------------------------------------

SPIN = "python3 -S -E -c 'while True: pass'"


def test_work_heats_the_die_and_rest_cools_it(tmp_path):
    # one busy core of four: 93 °C at most, so that the board never halts at 110; 40 °C where it gets 12 % of that core
    model = ThermalModel(ambient_c=25, idle_w=2, busy_w=60, resistance_c_per_w=4, tau_s=0.5)
    with running(tmp_path / "board", board(thermal=model)) as up, client(up) as one:
        assert up.control.status().temperature_c == pytest.approx(33, abs=1)
        spinning = one.get_transport().open_session()
        spinning.exec_command(f"echo $$; exec {SPIN}")
        hot = eventually(lambda: (s := up.control.status()).temperature_c > 40 and s)
        assert hot.processes >= 1
        spinning.close()
        eventually(lambda: up.control.status().temperature_c < 38)
        assert "temp=" in run(one, "vcgencmd measure_temp").out


def test_work_of_a_daemon_and_of_short_lived_children_counts(tmp_path):
    model = ThermalModel(ambient_c=25, idle_w=2, busy_w=60, resistance_c_per_w=4, tau_s=0.5)
    with running(tmp_path / "board", board(thermal=model)) as up:
        burst = 'python3 -S -E -c "import time; t = time.process_time()\nwhile time.process_time() - t < 0.03: pass"'
        run_on(up, f"setsid sh -c 'while :; do {burst}; done' >/dev/null 2>&1 </dev/null &")
        eventually(lambda: up.control.status().temperature_c > 40)


def test_beyond_85_degrees_it_throttles_and_remembers_until_the_next_boot(tmp_path):
    model = ThermalModel(ambient_c=84, idle_w=1, busy_w=0, resistance_c_per_w=4, tau_s=0.05)
    with running(tmp_path / "board", board(thermal=model)) as up:
        eventually(lambda: run_on(up, "vcgencmd get_throttled").out == "throttled=0xe000e\n")
        assert run_on(up, "vcgencmd measure_clock arm").out == "frequency(0)=1500023808\n"
        assert (
            run_on(up, "cat $EDGEHIL_SYSROOT/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq").out == "1500000\n"
        )


# --- power ---------------------------------------------------------------------------------------------


def test_power_off_kills_everything_cuts_the_link_and_silences_the_console(fresh):
    with client(fresh) as one, terminal(fresh) as console:
        channel = one.get_transport().open_session()
        channel.settimeout(DEADLINE_S)
        script = (
            "sleep 600 & a=$!; setsid sleep 600 & b=$!; trap '' TERM HUP INT;"
            "python3 -S -E -c 'import os,time\nif os.fork(): os._exit(0)\nos.setsid()\n"
            "if os.fork(): os._exit(0)\nprint(os.getpid(), flush=True); time.sleep(600)';"
            "echo $a $b $$; wait"
        )
        channel.exec_command(script)
        text = b""
        while len(text.split()) < 4:
            text += channel.recv(100)
        pids = [int(pid) for pid in text.split()]
        assert all(alive(pid) for pid in pids)
        status = fresh.control.power_off()
        assert (status.power, status.state, status.processes) == ("off", "off", 0)
        assert not any(alive(pid) for pid in pids)
        eventually(lambda: not one.get_transport().is_active())
        with pytest.raises(OSError, match="Unable to connect"):
            run_on(fresh, "true")
        before = -1
        while before < len(console.raw):  # what it said before may not have been read yet
            before = len(console.raw)
            console.read(0.0)
        console.type("\n")
        console.read(0.5)
        assert len(console.raw) == before


def test_power_on_boots_again_with_a_log_and_the_disk_as_it_was(fresh):
    run_on(fresh, "echo kept > file; sync")
    first = fresh.control.status().boot_id
    fresh.control.power_off()
    with terminal(fresh) as console:
        fresh.control.power_on()
        console.wait_for(r"boot_partition 2\n")
        console.wait_for(r"Booting Linux on physical CPU")
        console.wait_for(r"Machine model: Raspberry Pi 5 Model B Rev 1\.0")
        console.wait_for(r"vb-1 login: ")
    assert reconnect(fresh, "cat file").out == "kept\n"
    second = run_on(fresh, "cat $EDGEHIL_SYSROOT/proc/sys/kernel/random/boot_id").out.strip()
    assert second == fresh.control.status().boot_id
    assert uuid.UUID(second) != uuid.UUID(first)


def test_a_cycle_is_off_and_on(fresh):
    pid = int(run_on(fresh, "setsid sleep 600 >/dev/null 2>&1 </dev/null & echo $!").out)
    fresh.control.power_cycle()
    assert not alive(pid)
    assert reconnect(fresh).status == 0
    assert [line.event for line in events(fresh, "power-off")] == ["power-off"]
    assert len(events(fresh, "power-on")) == 2


def test_power_verbs_may_be_repeated(fresh):
    boot_id = fresh.control.status().boot_id
    assert fresh.control.power_on().boot_id == boot_id
    fresh.control.power_off()
    assert fresh.control.power_off().power == "off"
    fresh.control.power_on()
    reconnect(fresh)


def test_run_and_tmp_are_empty_after_a_boot(fresh):
    run_on(fresh, "touch $TMPDIR/x $EDGEHIL_SYSROOT/run/y $HOME/z")
    fresh.control.power_cycle()
    assert reconnect(fresh, "ls $TMPDIR; ls $EDGEHIL_SYSROOT/run; ls").out.split() == ["edgehil", "z"]


def test_a_power_cycle_in_the_middle_of_a_boot_boots_once(fresh):
    for _ in range(5):
        fresh.control.power_cycle()
    reconnect(fresh)
    assert fresh.control.status().state == "running"
    assert len(events(fresh, "power-on")) == 6


def test_poweroff_halts_until_the_power_is_cycled(fresh):
    with terminal(fresh) as console:
        run_on(fresh, "sudo poweroff")
        console.wait_for(r"reboot: Power down")
        eventually(lambda: fresh.control.status().state == "halted")
        assert fresh.control.power_on().state == "halted"
        fresh.control.power_cycle()
        reconnect(fresh)


# --- console -------------------------------------------------------------------------------------------


def test_the_console_is_a_terminal_that_greets_and_answers(shared):
    with terminal(shared) as console:
        console.wait_for("vb-1 login: ")
        console.type("root\n")
        console.wait_for("Login incorrect")


def test_pyserial_opens_the_console(shared):
    import serial

    with serial.serial_for_url(
        shared.board.console.url, baudrate=shared.board.console.baud, timeout=DEADLINE_S
    ) as port:
        port.write(b"\n")
        assert b"login: " in port.read_until(b"login: ")


# --- A/B firmware --------------------------------------------------------------------------------------


def node(up, name: str) -> int:
    return struct.unpack(">I", (up.layout.disk / f"proc/device-tree/chosen/bootloader/{name}").read_bytes())[0]


def install(up, partition: int, *, version: str, health: str | None = None, mode: int = 0o755) -> None:
    directory = up.layout.disk / f"partitions/{partition}"
    (directory / "firmware.json").write_text(f'{{"name": "edge-os", "version": "{version}"}}')
    if health is not None:
        (directory / "health").write_text(health)
        (directory / "health").chmod(mode)


def reboot(up, command: str) -> None:
    before = up.control.status().boot_id
    assert run_on(up, command).status == 0
    eventually(lambda: (s := up.control.status()).boot_id != before and s.state != "booting")


def test_tryboot_boots_the_other_partition_once(fresh):
    install(fresh, 3, version="2026.11", health="#!/bin/sh\nexit 0\n")
    reboot(fresh, 'sudo reboot "0 tryboot"')
    assert (node(fresh, "partition"), node(fresh, "tryboot")) == (3, 1)
    assert fresh.control.status().firmware == "edge-os 2026.11"
    assert "2026.11" in run_on(fresh, "cat $EDGEHIL_SYSROOT/boot/firmware/firmware.json").out
    reboot(fresh, "reboot")
    assert (node(fresh, "partition"), node(fresh, "tryboot")) == (2, 0)


def test_who_asks_for_a_reboot_is_not_killed_before_he_has_ended_however_slow_he_is(fresh):
    with (fresh.layout.disk / "usr/bin/reboot").open("a") as shim:
        shim.write("sleep 1\n")  # he waits for a processor
    reboot(fresh, "sudo reboot")
    reconnect(fresh)


def test_a_power_cut_clears_the_flag_too(fresh):
    install(fresh, 3, version="2026.11")
    reboot(fresh, 'reboot "0 tryboot"')
    fresh.control.power_cycle()
    reconnect(fresh)
    assert node(fresh, "partition") == 2


def test_rewriting_autoboot_commits_the_other_partition(fresh):
    install(fresh, 3, version="2026.11")
    text = "[all]\ntryboot_a_b=1\nboot_partition=3\n[tryboot]\nboot_partition=2\n"
    run_on(fresh, f"printf '{text}' > $EDGEHIL_SYSROOT/boot/autoboot.txt")
    fresh.control.power_cycle()
    reconnect(fresh)
    assert (node(fresh, "partition"), node(fresh, "tryboot")) == (3, 0)


@pytest.mark.parametrize(
    ("health", "mode", "reason"),
    [
        ("#!/bin/sh\necho checking\necho no camera >&2\nexit 4\n", 0o755, r"exit status 4\): no camera; falling back"),
        ("#!/bin/sh\nkill -9 $$\n", 0o755, r"exit status -9\)"),
        ("#!/bin/sh\nexit 0\n", 0o644, "not executable"),
        ("#!/nonexistent/interpreter\n", 0o755, "does not start"),
    ],
)
def test_a_firmware_that_fails_its_health_check_falls_back_with_the_reason(fresh, health, mode, reason):
    install(fresh, 3, version="2026.12-bad", health=health, mode=mode)
    with terminal(fresh) as console:
        reboot(fresh, 'reboot "0 tryboot"')
        console.wait_for(r"edgehil-health: firmware edge-os 2026\.12-bad on partition 3 .*" + reason)
        console.wait_for(r"reboot: Restarting system\n[\s\S]*boot_partition 2\n[\s\S]*login: ")
    assert (node(fresh, "partition"), node(fresh, "tryboot")) == (2, 0)
    assert reconnect(fresh).status == 0
    assert [line.details["partition"] for line in events(fresh, "boot-failed")] == [3]


def test_a_partition_without_firmware_falls_back_with_the_reason(fresh):
    with terminal(fresh) as console:
        reboot(fresh, 'reboot "0 tryboot"')
        console.wait_for(r"partition 3 does not boot: no firmware\.json; falling back")
    assert (node(fresh, "partition"), node(fresh, "tryboot")) == (2, 0)


def test_a_health_check_sees_the_partition_it_runs_from(fresh):
    node_path = "$EDGEHIL_SYSROOT/proc/device-tree/chosen/bootloader/partition"
    script = f'#!/bin/sh\n[ "$(od -An -tu1 {node_path})" = "   0   0   0   3" ]\n'
    install(fresh, 3, version="x", health=script)
    reboot(fresh, 'reboot "0 tryboot"')
    assert node(fresh, "partition") == 3


def test_an_autoboot_that_is_too_long_is_ignored_aloud(fresh):
    (fresh.layout.disk / "boot/autoboot.txt").write_text("[all]\nboot_partition=3\n".ljust(513, "#"))
    with terminal(fresh) as console:
        fresh.control.power_cycle()
        console.wait_for(r"autoboot\.txt: 513 bytes > 512, ignored")
        console.wait_for("login:")
    assert node(fresh, "partition") == 2


def test_a_board_without_any_firmware_does_not_come_up(fresh):
    shutil.rmtree(fresh.layout.disk / "partitions/2")
    with terminal(fresh) as console:
        fresh.control.power_cycle()
        console.wait_for("no bootable partition")
    eventually(lambda: fresh.control.status().state == "stuck")
    with pytest.raises(OSError, match="Unable to connect"):
        run_on(fresh, "true")


def test_reboot_refuses_what_it_does_not_know(link):
    result = run(link, "reboot 17")
    assert result.status == 1
    assert "knows no argument" in result.err


# --- the journal ---------------------------------------------------------------------------------------


def test_the_journal_tells_who_spoke_to_the_board(fresh):
    run_on(fresh, "echo serve --token 17 --holder ci-841")
    run_on(fresh, "EDGEHIL_TOKEN=18 EDGEHIL_HOLDER=ci-842 sh -c true")
    with client(fresh) as one:
        one.exec_command("true", environment={"EDGEHIL_TOKEN": "19", "EDGEHIL_HOLDER": "ci-843"})[1].read()
        run(one, "exit 5")
    opened = [(line.details["holder"], line.details["token"]) for line in events(fresh, "ssh-open")]
    assert opened == [("ci-841", "17"), ("ci-842", "18"), ("ci-843", "19"), (None, None)]
    closed = eventually(lambda: len(lines := events(fresh, "ssh-close")) == 4 and lines)
    assert closed[-1].details["exit_status"] == 5
    assert [line.details["session"] for line in closed] == [1, 2, 3, 4]


# --- from start to start --------------------------------------------------------------------------------


def test_a_board_keeps_keys_and_disk_from_start_to_start(tmp_path):
    with running(tmp_path / "board") as up:
        run_on(up, "echo kept > file")
        first = up.endpoint
    with running(tmp_path / "board") as up:
        assert run_on(up, "cat file").out == "kept\n"
        assert up.endpoint.host_key == first.host_key
        assert up.board.identity_key.read_bytes() == Path(first.identity_key).read_bytes()


def test_what_is_private_is_private(fresh):
    assert fresh.layout.root.stat().st_mode & 0o777 == 0o700
    private = [fresh.layout.endpoint, fresh.layout.journal, Path(fresh.endpoint.socket), fresh.layout.log]
    private += [path for path in fresh.layout.keys.iterdir() if not path.name.endswith((".pub", ".pub.pem"))]
    assert len(private) == 7
    assert {oct(path.stat().st_mode & 0o777) for path in private} == {"0o600"}
    assert isinstance(fresh.board.power, VirtualPower)


def test_a_board_deep_in_the_file_system_works_with_a_short_socket(tmp_path):
    directory = tmp_path.joinpath(*["a rather long 'directory' name"] * 5)
    with running(directory) as up:
        assert len(os.fsencode(up.endpoint.socket)) <= 107
        up.control.power_cycle()
        assert reconnect(up, "vcgencmd get_throttled").out == "throttled=0x0\n"
        assert run_on(up, "rpi-fw-crypto pubkey --key-id 1 --out x && cat x").out.startswith("-----BEGIN PUBLIC KEY")
        where = Path(up.endpoint.socket).parent
    assert not where.exists()


def test_four_boards_at_once_are_four_boards(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        boards = list(pool.map(lambda n: start(board(f"b{n}"), directory=tmp_path / f"b{n}"), range(4)))
        try:
            assert [run_on(up, "cat $EDGEHIL_SYSROOT/etc/hostname").out.strip() for up in boards] == [
                "b0",
                "b1",
                "b2",
                "b3",
            ]
            assert len({up.endpoint.port for up in boards}) == 4
        finally:
            list(pool.map(lambda up: up.stop(), boards))
