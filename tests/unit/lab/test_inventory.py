"""lab.yaml as values, and every way in which it can be wrong."""

# ruff: noqa: E501 -- a table of what is written and what is said about it reads only with one case in one line

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, get_args

import pytest
from support.json_schema import violations
from support.lab_files import FARM

from pytest_edgehil.errors import BoardUnavailable, LabFileError
from pytest_edgehil.lab.inventory import Lab, lab_schema, load_lab
from pytest_edgehil.lab.schema import FaultKind
from pytest_edgehil.model.board import (
    Accelerator,
    Board,
    CommandPower,
    ConsoleAccess,
    Environment,
    Fault,
    Slots,
    SshAccess,
    ThermalModel,
    VirtualSpec,
)
from pytest_edgehil.virtual.faults import KINDS

ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICe+Trt8L4XG7uDvaE071axUmRumN3feXeyd+hX+0zWS"
REAL = f"""\
lab: rack
boards:
  pi5-01:
    class: pi5-8gb-hat2
    environment: hardware
    ssh: {{host: 10.0.3.11, user: edge, key: keys/id, host_key: {ED25519}}}
"""


def load(directory: Path, text: str) -> Lab:
    path = directory / "lab.yaml"
    path.write_text(text, encoding="utf-8")
    return load_lab(path)


def problems(directory: Path, text: str) -> tuple[str, ...]:
    """What is wrong with a lab, without the directory in front."""
    with pytest.raises(LabFileError) as refused:
        load(directory, text)
    assert "\n" not in str(refused.value)
    return tuple(problem.removeprefix(f"{directory}/") for problem in refused.value.problems)


def with_board(lines: str) -> str:
    """A lab of one virtual board; `lines` begin at line 6 of the file."""
    indented = "".join(f"    {line}\n" for line in lines.splitlines())
    return f"lab: demo\nboards:\n  b:\n    class: c\n    environment: virtual\n{indented}"


# --- what a lab becomes ---------------------------------------------------------------------------------


def test_a_board_says_how_long_it_takes_to_show_what_comes_and_goes_on_it(tmp_path: Path) -> None:
    assert load(tmp_path, with_board("steady_state: 2 s")).boards[0].steady_state_s == 2.0
    assert load(tmp_path, with_board("steady_state: 0 s")).boards[0].steady_state_s == 0.0
    assert load(tmp_path, with_board("tags: []")).boards[0].steady_state_s is None, (
        "undeclared: the gates have a default"
    )
    with pytest.raises(LabFileError, match=r"6: boards\.b\.steady_state: '2 h' is out of range: expected 0 ns to 1 h"):
        load(tmp_path, with_board("steady_state: 2 h"))


def test_a_real_board_becomes_a_value_with_everything_in_it(tmp_path: Path) -> None:
    text = REAL + (
        "    tags: [cooled, cooled]\n"
        "    console: {url: rfc2217://10.0.3.2:2001, baud: 9600}\n"
        "    power: {backend: command, on: [p, on], off: [p, off], status: [p], off_for: 5 s, timeout: 1 min}\n"
        "    accelerator: hailo10h\n"
        "    slots: {backend: tryboot, partitions: [2, 3]}\n"
        "    pool: hat2\n"
        "    home: /srv/edgehil\n"
        "    identity_key: keys/pi5-01.pem\n"
        "pools: {hat2: {limit: 2}}\n"
    )

    assert load(tmp_path, text).boards == (
        Board(
            id="pi5-01",
            cls="pi5-8gb-hat2",
            environment=Environment.HARDWARE,
            tags=frozenset({"cooled"}),
            ssh=SshAccess(host="10.0.3.11", port=22, user="edge", key_path=tmp_path / "keys" / "id", host_key=ED25519),
            console=ConsoleAccess(url="rfc2217://10.0.3.2:2001", baud=9600),
            power=CommandPower(on=("p", "on"), off=("p", "off"), status=("p",), off_s=5.0, timeout_s=60.0),
            accelerator=Accelerator(kind="hailo10h"),
            slots=Slots(backend="tryboot", partitions=(2, 3)),
            pool="hat2",
            home="/srv/edgehil",
            identity_key=tmp_path / "keys" / "pi5-01.pem",
            virtual=None,
        ),
    )


def test_a_virtual_board_becomes_a_value_that_starting_it_completes(tmp_path: Path) -> None:
    board = load(
        tmp_path,
        with_board(
            "power: {backend: virtual}\n"
            f"ssh: {{port: 2022, user: pi, host_key: {ED25519} with a comment}}\n"
            "virtual:\n"
            '  serial: "1000000000000001"\n'
            "  memory: 2 GiB\n"
            "  thermal: {ambient_c: 30, tau_s: 5}\n"
            "  runtimes: []\n"
            "  faults:\n"
            "    - {kind: link-cut, after_bytes: 100000}\n"
            "    - {kind: slow-link, after_s: 1.5, options: {rate_bytes_per_s: 20000}}\n"
        ),
    ).boards[0]

    assert (board.ssh, board.power, board.console) == (None, None, None)
    assert board.virtual == VirtualSpec(
        serial="1000000000000001",
        memory_bytes=2 * 2**30,
        thermal=ThermalModel(ambient_c=30, tau_s=5),
        runtimes=(),
        faults=(
            Fault(kind="link-cut", after_bytes=100000),
            Fault(kind="slow-link", after_s=1.5, options={"rate_bytes_per_s": 20000}),
        ),
        ssh_port=2022,
        ssh_user="pi",
        ssh_host_key=ED25519,
    )


def test_a_virtual_board_needs_no_more_than_a_class_and_has_a_serial_number_of_its_own(tmp_path: Path) -> None:
    first, again = load(tmp_path, FARM), load(tmp_path, FARM)
    serials = [board.virtual.serial for board in first.boards if board.virtual]

    assert len(set(serials)) == 4
    assert {len(serial) for serial in serials} == {16}
    assert first == again


def test_a_virtual_board_whose_access_is_given_whole_has_that_access(tmp_path: Path) -> None:
    board = load(tmp_path, with_board(f"ssh: {{port: 2022, key: id, host_key: {ED25519}}}")).boards[0]

    assert board.ssh == SshAccess(host="127.0.0.1", port=2022, user="edge", key_path=tmp_path / "id", host_key=ED25519)


def test_a_console_may_be_a_url_alone(tmp_path: Path) -> None:
    board = load(tmp_path, with_board("console: socket://10.0.3.2:2001")).boards[0]

    assert board.console == ConsoleAccess(url="socket://10.0.3.2:2001", baud=115200)


def test_on_and_off_are_words_and_not_booleans(tmp_path: Path) -> None:
    text = REAL + "    power: {backend: command, on: [hub, -a, on], off: [hub, -a, off]}\n"

    assert load(tmp_path, text).boards[0].power == CommandPower(on=("hub", "-a", "on"), off=("hub", "-a", "off"))


def test_leases_are_kept_in_the_state_directory_by_default(tmp_path: Path, own_state: Path) -> None:
    lab = load(tmp_path, FARM)

    assert lab.state_dir == own_state / "labs" / "test-farm"
    assert lab.lease_url == f"sqlite:///{own_state}/labs/test-farm/leases.db"
    assert not own_state.exists()


def test_state_directory_and_lease_database_can_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    lab = load(tmp_path, f"state_dir: ~/labs\nleases: sqlite:////var/lib/leases.db\n{FARM}")
    assert (lab.state_dir, lab.lease_url) == (tmp_path / "home" / "labs", "sqlite:////var/lib/leases.db")

    lab = load(tmp_path, f"state_dir: state\n{FARM}")
    assert (lab.state_dir, lab.lease_url) == (tmp_path / "state", f"sqlite:///{tmp_path}/state/leases.db")


def test_paths_do_not_depend_on_where_the_lab_is_loaded_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lab.yaml").write_text(f"state_dir: state\n{REAL}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    lab = load_lab(Path("lab.yaml"))

    assert lab.path == Path("lab.yaml")
    assert lab.state_dir == tmp_path / "state"
    assert lab.boards[0].ssh is not None
    assert lab.boards[0].ssh.key_path == tmp_path / "keys" / "id"


def test_limits_of_the_lab_are_read(tmp_path: Path) -> None:
    lab = load(tmp_path, FARM)

    assert (lab.lease_expiry_s, lab.pool_limits) == (10.0, {"hats": 1})
    assert load(tmp_path, REAL).lease_expiry_s == 15.0


def test_an_unknown_board_is_named_with_the_near_miss(tmp_path: Path) -> None:
    lab = load(tmp_path, FARM)

    assert lab.board("hat-1").id == "hat-1"
    with pytest.raises(BoardUnavailable, match=r"has no board 'hat_1'; did you mean 'hat-1'\? its boards are hat-1, "):
        lab.board("hat_1")


# --- the labs of this repository ------------------------------------------------------------------------


def test_the_virtual_farm_has_four_boards_of_two_classes_that_stay_cool_under_load(repository: Path) -> None:
    lab = load_lab(repository / "farm" / "virtual.yaml")

    assert [(board.id, board.cls) for board in lab.boards] == [
        ("pi5-01", "pi5-8gb-hat2"),
        ("pi5-02", "pi5-8gb-hat2"),
        ("pi5-03", "pi5-4gb"),
        ("pi5-04", "pi5-4gb"),
    ]
    for board in lab.boards:
        assert board.environment is Environment.VIRTUAL
        assert board.slots == Slots(backend="tryboot", partitions=(2, 3))
        assert board.virtual is not None
        thermal = board.virtual.thermal
        assert thermal.ambient_c + thermal.resistance_c_per_w * (thermal.idle_w + thermal.busy_w) < 80
        assert thermal.tau_s <= 60


def test_the_example_rack_is_a_valid_lab_of_real_boards(repository: Path) -> None:
    lab = load_lab(repository / "farm" / "rack-example.yaml")

    assert {board.environment for board in lab.boards} == {Environment.HARDWARE, Environment.EMULATED}
    assert {board.accelerator.kind for board in lab.boards if board.accelerator} == {"hailo10h", "hailo8l"}
    consoles = {board.console.url.partition("://")[0] for board in lab.boards if board.console}
    assert consoles >= {"rfc2217", "socket"}
    programs = {board.power.on[0] for board in lab.boards if isinstance(board.power, CommandPower)}
    assert programs == {"snmpset", "uhubctl"}


# --- what is refused, and how ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        # unknown keys
        ("shh: {}", "6: boards.b.shh: unknown key; did you mean 'ssh'? known keys here: accelerator, class, "),
        ("ssh: {prot: 22}", "6: boards.b.ssh.prot: unknown key; did you mean 'port'? known keys here: host, host_key, "),
        ("power: {backend: virtual, on: [x]}", "6: boards.b.power.on: unknown key; known keys here: backend"),
        ("virtual:\n  thermal: {tau: 5}", "7: boards.b.virtual.thermal.tau: unknown key; did you mean 'tau_s'?"),
        ("virtual:\n  faults:\n    - {kind: panic, afterbytes: 5}", "8: boards.b.virtual.faults[0].afterbytes: unknown key; did you mean 'after_bytes'?"),
        # unknown words
        ("power: {backend: comand}", "6: boards.b.power.backend: unknown value 'comand'; did you mean 'command'? expected one of command, virtual, labgrid, qmp"),
        ("power: {}", "6: boards.b.power.backend: missing: expected one of command, labgrid, qmp, virtual"),
        ("accelerator: hailo10", "6: boards.b.accelerator: unknown value 'hailo10'; did you mean 'hailo10h'? expected one of hailo8, hailo8l, hailo10h"),
        ("slots: {backend: tryboots}", "6: boards.b.slots.backend: unknown value 'tryboots'; did you mean 'tryboot'? expected one of tryboot, virtual, uboot"),
        ("virtual: {faults: [{kind: link_cut}]}", "6: boards.b.virtual.faults[0].kind: unknown value 'link_cut'; did you mean 'link-cut'?"),
        ("console: tcp://10.0.0.1:2001", "6: boards.b.console: unknown scheme 'tcp'; did you mean 'socket'? pyserial knows "),
        ("ssh: {host_key: ssh-ed2551 AAAA}", "6: boards.b.ssh.host_key: unknown type of host key 'ssh-ed2551'; did you mean 'ssh-ed25519'?"),
        # bad values
        ("ssh:\n  port: 70000", "7: boards.b.ssh.port: expected at most 65535, found the number 70000"),
        ("ssh: {port: '22'}", "6: boards.b.ssh.port: expected a whole number, found the text '22'"),
        ("ssh: {port: true}", "6: boards.b.ssh.port: expected a whole number, found true"),
        ("ssh: {port: 22.5}", "6: boards.b.ssh.port: expected a whole number, found the number 22.5"),
        ("ssh: {user: 'e d'}", "6: boards.b.ssh.user: expected one word, found 'e d'"),
        ("ssh: edge@10.0.0.1", "6: boards.b.ssh: expected a mapping of keys to values, found the text 'edge@10.0.0.1'"),
        ("ssh: {host_key: ssh-ed25519 AA==}", "6: boards.b.ssh.host_key: the host key does not hold a ssh-ed25519 key"),
        ("ssh: {host_key: ssh-ed25519 not/base64!}", "6: boards.b.ssh.host_key: the host key is not base64"),
        (f"ssh: {{host_key: ssh-rsa {ED25519.split()[1]}}}", "6: boards.b.ssh.host_key: the host key does not hold a ssh-rsa key"),
        ("tags: cooled", "6: boards.b.tags: expected a list, found the text 'cooled'"),
        ("tags:\n  - ok\n  - 5", "8: boards.b.tags[1]: expected text, found the number 5; put it in quotes"),
        ("console: 10.0.0.1:2001", "6: boards.b.console: '10.0.0.1:2001' is no console: expected a device such as "),
        ("console: socket://10.0.0.1", "6: boards.b.console: 'socket://10.0.0.1' is no console: expected socket://HOST:PORT"),
        ("console: socket://10.0.0.1:99999", "6: boards.b.console: 'socket://10.0.0.1:99999' is no console: port out of range"),
        ("console: {url: /dev/ttyAMA10, baud: 0}", "6: boards.b.console.baud: expected at least 50, found the number 0"),
        ("console: {baud: 9600}", "6: boards.b.console.url: missing: a device, or a pyserial URL"),
        ("slots: {backend: tryboot, partitions: [2]}", "6: boards.b.slots.partitions: expected at least 2 of them, found 1"),
        ("slots: {backend: tryboot, partitions: [2, 2]}", "6: boards.b.slots.partitions: the two slots must be two partitions"),
        ("slots: {backend: uboot}", "6: boards.b.slots.backend: a virtual board imitates a Pi's bootloader: expected virtual or tryboot"),
        ("slots: {backend: virtual, names: [A, B]}", "6: boards.b.slots.names: only slots of U-Boot have names"),
        ("slots: {backend: virtual, devices: {root: [/dev/a, /dev/b]}}", "6: boards.b.slots.devices: a virtual board's slots are directories"),
        ("slots: {backend: virtual, devices: {root: [a, /dev/b]}}", "6: boards.b.slots.devices.root[0]: "),
        ("virtual: {serial: 1000}", "6: boards.b.virtual.serial: expected text, found the number 1000; put it in quotes"),
        ("virtual: {memory: 2 GiBB}", "6: boards.b.virtual.memory: '2 GiBB' is no size: unknown unit 'GiBB'"),
        ("virtual: {memory: 1 MiB}", "6: boards.b.virtual.memory: '1 MiB' is too little: expected 64 MiB or more"),
        ("virtual: {memory: 2000}", "6: boards.b.virtual.memory: size must be text with a unit such as '180 MiB', not 2000"),
        ("virtual: {thermal: {tau_s: 0}}", "6: boards.b.virtual.thermal.tau_s: expected more than 0"),
        ("virtual: {thermal: {ambient_c: .nan}}", "6: boards.b.virtual.thermal.ambient_c: "),
        ("virtual: {thermal: {busy_w: .inf}}", "6: boards.b.virtual.thermal.busy_w: expected a finite number, found inf"),
        ("power: {backend: command, on: uhubctl -a on, off: [x]}", "6: boards.b.power.on: expected a list of words such as "),
        ("power: {backend: command, on: [], off: [x]}", "6: boards.b.power.on: expected at least 1 of them, found 0"),
        ("power: {backend: command, on: [x], off: [y], off_for: 2}", "6: boards.b.power.off_for: duration must be text with a unit"),
        ("power: {backend: command, on: [x], off: [y], timeout: 1 d}", "6: boards.b.power.timeout: '1 d' is out of range: expected 100 ms to 1 h"),
        ("place: rpi5-01", "6: boards.b.place: the file names no labgrid lab: add 'labgrid: {coordinator: HOST:PORT}' to it"),
        ("pool: hats", "6: boards.b.pool: there is no pool 'hats'; the file has no pools: add 'pools:' to it"),
        # what does not go together
        ("ssh: {host: 10.0.0.1}", "6: boards.b.ssh.host: a virtual board listens on this host only: expected 127.0.0.1"),
        ("ssh: {key: id}", "6: boards.b.ssh.key: a virtual board makes its own key, unless port, key and host_key are all given"),
        ("power: {backend: labgrid, model: rest, host: relay, index: 3}", "6: boards.b.power.backend: a virtual board is switched by its supervisor"),
        ("power: {backend: command, on: [x], off: [y]}", "6: boards.b.power.backend: a virtual board is switched by its supervisor"),
    ],
)  # fmt: skip
def test_a_wrong_board_is_refused_with_line_path_and_what_was_expected(
    tmp_path: Path, lines: str, problem: str
) -> None:
    (said,) = problems(tmp_path, with_board(lines))

    assert said.startswith(f"lab.yaml:{problem}")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- a\n", "1: expected a mapping of keys to values, found a list"),
        ("boards: {b: {class: c, environment: virtual}}\n", "1: lab: missing: name of the lab"),
        ("lab: demo\n", "1: boards: missing: the boards by id"),
        ("lab: demo\nlabgrid: {coordinator: rack}\nboards: {b: {class: c, environment: virtual}}\n", "2: labgrid.coordinator: 'rack' is no address: expected HOST:PORT"),
        ("lab: demo\nlabgrid: {}\nboards:\n  a: {class: c, environment: virtual, place: p}\n  b: {class: c, environment: virtual, place: p}\n", "5: boards.b.place: this place is already that of board a"),
        ("lab: demo\nboards: {}\n", "2: boards: expected at least 1 of them, found 0"),
        ("lab: demo\nboards: [b]\n", "2: boards: expected a mapping of keys to values, found a list"),
        ("lab: demo\nboards:\n  b:\n", "3: boards.b: expected a mapping of keys to values, found nothing"),
        ("lab: demo\nboards:\n  b: {environment: virtual}\n", "3: boards.b.class: missing: board class such as pi5-8gb-hat2"),
        ("lab: demo\nboards:\n  b: {class: c}\n", "3: boards.b.environment: missing: what the board really is"),
        ("lab: demo\nboards:\n  b: {class: c, environment: vitual}\n", "3: boards.b.environment: unknown value 'vitual'; did you mean 'virtual'? expected one of hardware, emulated, virtual"),
        ("lab: demo\nboards:\n  b b: {class: c, environment: virtual}\n", "3: boards.b b: no name for a board: expected letters"),
        ("lab: de/mo\nboards: {b: {class: c, environment: virtual}}\n", "1: lab: 'de/mo' is no name: expected letters"),
        (f"lease_expiry: 15\n{FARM}".replace("lease_expiry: 10 s\n", ""), "1: lease_expiry: duration must be text with a unit"),
        (f"leases: postgresql://db\n{FARM}", "1: leases: unknown database 'postgresql'; did you mean 'postgresql+psycopg'"),
        (f"leases: mysql://db\n{FARM}", "1: leases: unknown database 'mysql'; expected sqlite:////absolute/path.db or "),
        (f"leases: postgresql+psycopg://me@db\n{FARM}", "1: leases: expected postgresql+psycopg://user@host/database: the"),
        (f"leases: postgresql+psycopg://me:x@db/l\n{FARM}", "1: leases: a password in a lab file is known to all who"),
        (f"leases: postgresql+psycopg://db/l?password=x\n{FARM}", "1: leases: a password in a lab file is known to all"),
        (f"leases: sqlite://\n{FARM}", "1: leases: expected sqlite:////absolute/path.db: leases must be in a file"),
        (f"leases: 'sqlite:///:memory:'\n{FARM}", "1: leases: expected sqlite:////absolute/path.db: leases must be in a file"),
        (f"poools: {{}}\n{FARM}", "1: poools: unknown key; did you mean 'pools'? known keys here: boards, health, "),
        (FARM.replace("limit: 1", "limit: 0"), "3: pools.hats.limit: expected at least 1, found the number 0"),
        (FARM.replace("pool: hats}", "pool: hat}"), "6: boards.hat-2.pool: there is no pool 'hat'; did you mean 'hats'? the pools are hats"),
        (FARM + "  bare-1: {class: c, environment: virtual}\n", "9: boards.bare-1: this key is already given in line 7"),
        # hardware
        (REAL.replace(", user: edge", ""), "6: boards.pi5-01.ssh.user: missing: login name on the board"),
        (REAL.replace("user: edge", "user: edge, port: 0"), "6: boards.pi5-01.ssh.port: 0 takes a free port, which only a virtual board can"),
        (REAL + "    virtual: {}\n", "7: boards.pi5-01.virtual: only a board with 'environment: virtual' has this; the board is hardware"),
        (REAL + "    slots: {backend: virtual}\n", "7: boards.pi5-01.slots.backend: only a virtual board has virtual slots; the board is hardware"),
        (REAL + "    slots: {backend: tryboot, devices: {root: [/dev/a, /dev/a]}}\n", "7: boards.pi5-01.slots.devices.root: the two slots must be two devices"),
        (REAL + "    slots: {backend: uboot, names: [A, A]}\n", "7: boards.pi5-01.slots.names: the two slots must have two names"),
        (REAL + "    power: {backend: virtual}\n", "7: boards.pi5-01.power.backend: only a virtual board has virtual power"),
        ("lab: r\nboards:\n  b: {class: c, environment: hardware}\n", "3: boards.b.ssh: missing: a board that is hardware is reached over SSH"),
    ],
)  # fmt: skip
def test_a_wrong_lab_is_refused_with_line_path_and_what_was_expected(tmp_path: Path, text: str, problem: str) -> None:
    (said,) = problems(tmp_path, text)

    assert said.startswith(f"lab.yaml:{problem}")


@pytest.mark.parametrize(
    ("first", "second", "problem"),
    [
        ("console: socket://h:1", "console: socket://h:1", "boards.b.console: this console is already that of board a"),
        ("ssh: {port: 2022}", "ssh: {port: 2022}", "boards.b.ssh.port: this address is already that of board a"),
        (
            "virtual: {serial: x1}",
            "virtual: {serial: x1}",
            "boards.b.virtual.serial: this serial number is already that",
        ),
        ("identity_key: k.pem", "identity_key: ./k.pem", "boards.b.identity_key: this identity key is already that of"),
    ],
)
def test_two_boards_must_not_share_what_a_lease_promises_to_one(
    tmp_path: Path, first: str, second: str, problem: str
) -> None:
    text = (
        "lab: demo\nboards:\n"
        f"  a:\n    class: c\n    environment: virtual\n    {first}\n"
        f"  b:\n    class: c\n    environment: virtual\n    {second}\n"
    )

    (said,) = problems(tmp_path, text)

    assert said.startswith(f"lab.yaml:10: {problem}")


def test_two_real_boards_must_not_share_an_address_or_a_power_switch(tmp_path: Path) -> None:
    power = "    power: {backend: command, on: [snmpset, '1'], off: [snmpset, '2']}\n"
    board = REAL.partition("boards:\n")[2] + power

    assert problems(tmp_path, f"lab: rack\nboards:\n{board}{board.replace('pi5-01', 'pi5-02')}") == (
        "lab.yaml:11: boards.pi5-02.ssh.host: this address is already that of board pi5-01",
        "lab.yaml:12: boards.pi5-02.power.off: this power switch is already that of board pi5-01",
        "lab.yaml:12: boards.pi5-02.power.on: this power switch is already that of board pi5-01",
    )


def test_every_problem_is_listed_in_the_order_of_the_file_and_the_message_counts_them(tmp_path: Path) -> None:
    text = with_board("shh: {}\ntags: cooled\naccelerator: npu")

    assert [problem.split(": ")[0] for problem in problems(tmp_path, text)] == [
        "lab.yaml:6",
        "lab.yaml:7",
        "lab.yaml:8",
    ]
    with pytest.raises(
        LabFileError, match=r"lab.yaml:6: boards.b.shh: .* \(and 2 more problems: run 'edgehil lab check"
    ):
        load(tmp_path, text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabFileError, match=f"^{tmp_path}/none.yaml: there is no such lab file$"):
        load_lab(tmp_path / "none.yaml")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(FARM, encoding="utf-8")
    path.chmod(0)

    with pytest.raises(LabFileError, match="cannot read the lab file: Permission denied"):
        load_lab(path)


# --- the schema -----------------------------------------------------------------------------------------


def test_the_schema_names_every_key_with_what_it_means_and_refers_to_nothing_that_is_missing() -> None:
    schema = lab_schema()
    seen: list[str] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if "$ref" in node:
                assert node["$ref"].removeprefix("#/$defs/") in schema["$defs"]
            for key, described in node.get("properties", {}).items():
                seen.append(key)
                assert "description" in described or "const" in described, key
            for child in node.values():
                walk(child)
        if isinstance(node, list):
            for child in node:
                walk(child)

    walk({key: value for key, value in schema.items() if key != "$defs"})
    for definition in schema["$defs"].values():
        assert definition["additionalProperties"] is False or "patternProperties" in definition
        walk(definition)
    assert {"lab", "boards", "class", "ssh", "host_key", "console", "power", "tau_s", "limit", "off_for"} <= set(seen)


def test_every_default_in_the_schema_can_be_written_into_the_file() -> None:
    schema = lab_schema()
    seen = 0
    for section in (schema, *schema["$defs"].values()):
        for key, described in section.get("properties", {}).items():
            if "default" in described:
                assert list(violations(described["default"], {**described, "$defs": schema["$defs"]})) == [], key
                seen += 1
    assert seen > 20


def test_quantities_that_are_left_out_are_what_the_schema_says(tmp_path: Path) -> None:
    definitions = lab_schema()["$defs"]
    command = definitions["CommandPowerSection"]["properties"]
    memory = definitions["VirtualSection"]["properties"]["memory"]["default"]
    expiry = lab_schema()["properties"]["lease_expiry"]["default"]
    cycle = f", off_for: {command['off_for']['default']}, timeout: {command['timeout']['default']}"
    power = "    power: {{backend: command, on: [a], off: [b]{}}}\n"
    virtual = "  v:\n    class: c\n    environment: virtual\n    virtual: {}\n"
    silent = load(tmp_path, REAL + power.format("") + virtual.format("{}"))
    told = load(
        tmp_path, REAL + power.format(cycle) + virtual.format(f"{{memory: {memory}}}") + f"lease_expiry: {expiry}\n"
    )
    assert (silent.boards, silent.lease_expiry_s) == (told.boards, told.lease_expiry_s)


def test_a_board_whose_name_breaks_the_line_is_refused_in_one_line(tmp_path: Path) -> None:
    text = 'lab: x\nboards:\n  "b\\n1\\e[2J":\n    class: c\n    environment: virtuall\n'
    for problem in problems(tmp_path, text):
        assert problem.isprintable(), problem
        assert r"boards.'b\n1\x1b[2J'" in problem


def test_the_kinds_of_faults_are_those_that_virtual_boards_know() -> None:
    assert sorted(get_args(FaultKind)) == sorted(KINDS)
