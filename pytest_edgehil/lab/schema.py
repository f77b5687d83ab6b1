"""What lab.yaml may hold: the boundary, in pydantic, and the JSON Schema that editors read.

Everything is strict: unknown keys are refused, ``"22"`` is no number and ``22`` is no text. What one section can say
about itself is checked here; what needs two sections (ports that two boards share, pools that do not exist) is
checked in `inventory`, where these sections become the frozen values of `model.board` and go no further.

The descriptions serve three readers: an editor's tooltip, ``edgehil lab schema``, and the message about a missing key.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from pytest_edgehil.documents.checking import Section
from pytest_edgehil.documents.reading import FileKind
from pytest_edgehil.errors import LabFileError
from pytest_edgehil.lab import values
from pytest_edgehil.lab.values import Argv, Name, NotNegative, Positive, Text, Word

LAB_FILE = FileKind(
    noun="lab file",
    expected="'lab:' and 'boards:'",
    refusal=lambda message, problems: LabFileError(message, problems=problems),
    see_all="edgehil lab check",
    anchors=True,
    x_keys=True,
)

TimingName = Literal["wall", "icount"]
EnvironmentName = Literal["hardware", "emulated", "virtual"]
AcceleratorKind = Literal["hailo8", "hailo8l", "hailo10h"]
SlotBackend = Literal["tryboot", "virtual", "uboot"]
# the same names as `virtual.faults.KINDS`, which this room cannot import; a test compares them
FaultKind = Literal[
    "link-cut",
    "link-stall",
    "ssh-refused",
    "power-cut",
    "disk-full",
    "out-of-memory",
    "panic",
    "stuck-boot",
    "overheat",
    "slow-link",
]


def _console(value: object) -> object:
    return {"url": value} if isinstance(value, str) else value


class SshSection(Section):
    """How to log in. A board that is not virtual needs every key but `port`."""

    host: Annotated[Word | None, Field(description="name or address of the board")] = None
    port: Annotated[int | None, Field(ge=0, le=65535, description="TCP port; 22 when left out")] = None
    user: Annotated[Word | None, Field(description="login name on the board")] = None
    key: Annotated[Text | None, Field(description="private key file; ~ and paths relative to the lab file work")] = None
    host_key: Annotated[
        Annotated[str, AfterValidator(values.host_key)] | None,
        Field(description="the pinned host key, '<type> <base64>', as 'ssh-keyscan HOST' prints it behind the host"),
    ] = None


class ConsoleSection(Section):
    """The serial console, with its speed."""

    url: Annotated[
        str,
        AfterValidator(values.console_url),
        Field(description="a device, or a pyserial URL: socket://HOST:PORT, rfc2217://HOST:PORT"),
    ]
    baud: Annotated[int, Field(ge=50, le=4_000_000, description="line speed")] = 115200


class CommandPowerSection(Section):
    """Power through commands that run on this host, without a shell."""

    backend: Literal["command"]
    on: Annotated[Argv, Field(description="argument vector that switches the board on")]
    off: Annotated[Argv, Field(description="argument vector that switches the board off")]
    status: Annotated[
        Argv | None, Field(description="argument vector that tells whether the board is on; optional")
    ] = None
    off_for: Annotated[
        float,
        values.duration(at_least="0 s", at_most="10 min"),
        values.quantity("2 s"),
        values.left_out("how long a cycle is off", default="2 s"),
    ] = 2.0
    timeout: Annotated[
        float,
        values.duration(at_least="100 ms", at_most="1 h"),
        values.quantity("30 s"),
        values.left_out("limit for one command", default="30 s"),
    ] = 30.0


class VirtualPowerSection(Section):
    """Power of a virtual board, through its supervisor."""

    backend: Literal["virtual"]


class LabgridPowerSection(Section):
    """Power through a network driver of labgrid (``NetworkPowerPort``)."""

    backend: Literal["labgrid"]
    model: Annotated[Word, Field(description="labgrid's driver: rest, netio, shelly_gen2, poe_mib, …")]
    host: Annotated[Word, Field(description="host or URL, as the model takes it")]
    index: Annotated[Word | int, Field(description="port of the switch")]
    off_for: Annotated[
        float,
        values.duration(at_least="0 s", at_most="10 min"),
        values.quantity("2 s"),
        values.left_out("how long a cycle is off", default="2 s"),
    ] = 2.0
    timeout: Annotated[
        float,
        values.duration(at_least="100 ms", at_most="1 h"),
        values.quantity("30 s"),
        values.left_out("limit for one switching", default="30 s"),
    ] = 30.0


class LabgridSection(Section):
    """An existing labgrid lab: boards with a `place` are acquired there as well, for as long as our lease lasts."""

    coordinator: Annotated[
        Annotated[str, AfterValidator(values.host_and_port)], Field(description="HOST:PORT of its coordinator")
    ] = "127.0.0.1:20408"
    python: Annotated[
        Text | None,
        Field(description="an interpreter that has labgrid, best of an environment of its own; this one by default"),
    ] = None


class QmpPowerSection(Section):
    """Power of an emulated board, through its QEMU."""

    backend: Literal["qmp"]
    socket: Annotated[
        Text | None,
        Field(description="Unix socket of QEMU's machine protocol; left out where the board has an 'emulated' section"),
    ] = None


class SlotsSection(Section):
    """A/B firmware slots."""

    backend: Annotated[SlotBackend, Field(description="how the board changes slots")]
    partitions: Annotated[
        list[Annotated[int, Field(ge=1, le=63)]],
        Field(min_length=2, max_length=2, description="the partition numbers of the two slots"),
    ] = [2, 3]
    names: Annotated[
        list[Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,16}$")]] | None,
        Field(min_length=2, max_length=2, description="names of the two slots in U-Boot's BOOT_ORDER"),
    ] = None
    devices: Annotated[
        dict[
            Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")],
            Annotated[
                list[Annotated[str, Field(pattern=r"^/[A-Za-z0-9/._:+-]{1,200}$")]], Field(min_length=2, max_length=2)
            ],
        ],
        Field(max_length=8, description="image of a firmware: the device that it is written to, for each slot"),
    ] = {}


class ThermalSection(Section):
    """RC model of a virtual board's die: T = ambient + resistance · (idle + busy · utilisation), reached with tau."""

    ambient_c: Annotated[float, Field(ge=-40, le=85, description="air temperature in °C")] = 25.0
    idle_w: Annotated[NotNegative, Field(description="power when idle, in watts")] = 2.7
    busy_w: Annotated[NotNegative, Field(description="additional power at full load, in watts")] = 6.3
    resistance_c_per_w: Annotated[NotNegative, Field(description="thermal resistance to the air, in °C per watt")] = 4.5
    tau_s: Annotated[Positive, Field(description="time constant in seconds")] = 60.0


class FaultSection(Section):
    """A fault that is armed when the virtual board is powered on."""

    kind: Annotated[FaultKind, Field(description="what breaks")]
    after_bytes: Annotated[int | None, Field(ge=0, description="once so many bytes have come in over the link")] = None
    after_s: Annotated[NotNegative | None, Field(description="so many seconds after power-on")] = None
    options: Annotated[dict[str, float], Field(description="what the kind needs, e.g. {rate_bytes_per_s: 20000}")] = {}


class VirtualSection(Section):
    """What a virtual board imitates."""

    serial: Annotated[
        Annotated[str, AfterValidator(values.one_word)] | None,
        Field(description="serial number in the device tree; made from the names of lab and board when left out"),
    ] = None
    memory: Annotated[
        int,
        values.size(at_least="64 MiB"),
        values.quantity("2 GiB"),
        values.left_out("memory of the whole board", default="8 GiB"),
    ] = 8 * 2**30
    thermal: Annotated[ThermalSection, Field(description="how it heats up")] = ThermalSection()
    runtimes: Annotated[list[Word], Field(description="runtimes that the board has")] = ["onnxruntime"]
    faults: Annotated[list[FaultSection], Field(description="faults armed at power-on")] = []


class EmulatedSection(Section):
    """An emulated board that is started here."""

    image: Annotated[Text, Field(description="directory with image.yaml; 'edgehil image build' builds it")]
    serial: Annotated[
        Annotated[str, AfterValidator(values.one_word)] | None,
        Field(description="serial number in the device tree; made from the names of lab and board when left out"),
    ] = None
    memory: Annotated[
        int,
        values.size(at_least="256 MiB", whole="MiB"),
        values.quantity("2 GiB"),
        values.left_out("memory of the board, in whole MiB", default="2 GiB"),
    ] = 2 * 2**30
    cores: Annotated[
        int,
        Field(
            ge=1, le=8, description="cores of the board's processor, each at most one of this host's; one with icount"
        ),
    ] = 1
    clean_for: Annotated[
        Literal["lease", "test"],
        Field(description="what it is started anew for; for each test, its combo is flashed each time, too"),
    ] = "lease"


class BoardSection(Section):
    """One board."""

    cls: Annotated[Word, Field(alias="class", description="board class such as pi5-8gb-hat2")]
    environment: Annotated[
        EnvironmentName, Field(description="what the board really is; evidence carries it and policies ask for it")
    ]
    tags: Annotated[list[Word], Field(description="free words that a test may ask for")] = []
    ssh: Annotated[SshSection | None, Field(description="how to log in; a virtual board needs none")] = None
    console: Annotated[
        ConsoleSection | None,
        BeforeValidator(_console),
        WithJsonSchema({"anyOf": [{"type": "string"}, ConsoleSection.model_json_schema(), {"type": "null"}]}),
        Field(description="serial console: a device, a pyserial URL, or {url: …, baud: …}"),
    ] = None
    power: Annotated[
        Annotated[
            CommandPowerSection | VirtualPowerSection | LabgridPowerSection | QmpPowerSection,
            Field(discriminator="backend"),
        ]
        | None,
        Field(description="how to switch the board on and off"),
    ] = None
    accelerator: Annotated[AcceleratorKind | None, Field(description="kind of the HAT's accelerator")] = None
    slots: Annotated[SlotsSection | None, Field(description="A/B firmware slots, when the board has them")] = None
    pool: Annotated[Word | None, Field(description="pool whose limit counts this board")] = None
    place: Annotated[
        Word | None, Field(description="its place in the labgrid lab: acquired there while we hold the board")
    ] = None
    home: Annotated[Text, Field(description="directory for our files on the board")] = ".edgehil"
    serial: Annotated[
        Word | None,
        Field(
            description="serial number that the board must have ('cat /proc/device-tree/serial-number'); checked "
            "before it is handed out. Of a virtual board it stands below 'virtual'"
        ),
    ] = None
    identity_key: Annotated[
        Text | None, Field(description="PEM public key (ECDSA P-256) that the board's evidence must be signed with")
    ] = None
    steady_state: Annotated[
        Annotated[float, values.duration(at_least="0 s", at_most="1 h")] | None,
        WithJsonSchema({"type": "string", "examples": ["30 s"]}),
        values.left_out(
            "a latency must have been watched for so long before it may pass: ten cycles of the slowest thing that "
            "comes and goes on this board (throttling, fan, governor); say in a comment why less is enough",
            default="30 s",
        ),
    ] = None
    timing: Annotated[
        TimingName,
        Field(
            description="what its time is: that of a clock, or the number of its instructions (of an emulated board "
            "only): the same however busy this host is, and refused by whatever is held against seconds"
        ),
    ] = "wall"
    virtual: Annotated[VirtualSection | None, Field(description="only with environment: virtual")] = None
    emulated: Annotated[
        EmulatedSection | None,
        Field(description="only with environment: emulated: the board is started here, and needs no 'ssh:'"),
    ] = None


class PoolSection(Section):
    """A limit on boards that are leased at the same time."""

    limit: Annotated[int, Field(ge=1, description="at most so many boards of the pool are leased at once")]


class HealthSection(Section):
    """What is looked at before a board is handed out, and when a quarantined one is looked at again."""

    check: Annotated[bool, Field(description="look at a board before it is handed out")] = True
    fresh: Annotated[
        float,
        values.duration(at_least="0 s", at_most="1 h"),
        values.quantity("10 s"),
        values.left_out("a check that was passed counts for so long, for whoever gets the board next", default="10 s"),
    ] = 10.0
    disk: Annotated[
        int,
        values.size(at_least="1 MiB"),
        values.quantity("64 MiB"),
        values.left_out("so much room there must be on it", default="64 MiB"),
    ] = 64 * 2**20
    temperature_c: Annotated[float, Field(ge=0, le=110, description="no hotter than this, in °C")] = 80.0
    clock: Annotated[
        float,
        values.duration(at_least="1 s", at_most="30 d"),
        values.quantity("5 min"),
        values.left_out("its clock is no further from this host's than this", default="5 min"),
    ] = 300.0
    runtimes: Annotated[list[Word], Field(description="what every board's Python must be able to import")] = []
    recheck: Annotated[
        float,
        values.duration(at_least="1 s", at_most="30 d"),
        values.quantity("1 min"),
        values.left_out(
            "a board that was quarantined by an error is looked at again after so long, by whoever wants it next; "
            "after each further failure it takes twice as long",
            default="1 min",
        ),
    ] = 60.0
    longest_recheck: Annotated[
        float,
        values.duration(at_least="1 s", at_most="30 d"),
        values.quantity("1 h"),
        values.left_out("but never longer than this", default="1 h"),
    ] = 3600.0
    give_up: Annotated[
        int,
        Field(ge=0, le=100, description="after so many failures in a row a person has to restore it; 0: at once"),
    ] = 6


Count = Annotated[int, Field(ge=0, le=1_000_000)]


class LimitsSection(Section):
    """How long a lease may last, and how many boards somebody may have at a time."""

    max_lease: Annotated[
        Annotated[float, values.duration(at_least="1 s", at_most="365 d")] | None,
        WithJsonSchema({"anyOf": [{"type": "string", "examples": ["4 h"]}, {"type": "null"}]}),
        Field(description="a lease ends so long after it began, renewed or not; no limit when left out"),
    ] = None
    extend: Annotated[
        Literal["never", "while-idle"],
        Field(description="what happens then: it ends, or goes on while nobody waits for a board"),
    ] = "never"
    per_user: Annotated[Count | None, Field(description="boards that each user may have at a time")] = None
    users: Annotated[dict[str, Count], Field(description="other limits for some users, by login")] = {}
    per_project: Annotated[Count | None, Field(description="boards that each project may have at a time")] = None
    projects: Annotated[dict[str, Count], Field(description="other limits for some projects, by name")] = {}


class PrioritySection(Section):
    """Who goes first in the queue: work on some branches."""

    branch: Annotated[Text, Field(description="shell pattern for the branch's name, such as release/*")]
    priority: Annotated[int, Field(ge=-100, le=100, description="the higher one goes first; 0 is everybody else's")]


class MaintenanceSection(Section):
    """A time in which boards are not handed out. Who holds one then keeps it."""

    start: Annotated[
        Text, Field(description="when it begins: 'Sun 02:00' each week, '02:00' each day, '2026-11-22 02:00' once")
    ]
    lasts: Annotated[
        float, values.duration(at_least="1 min", at_most="30 d"), values.quantity("2 h"), Field(description="how long")
    ]
    zone: Annotated[Text, Field(description="time zone of the start, such as Europe/Berlin")] = "UTC"
    drain: Annotated[
        float,
        values.duration(at_least="0 s", at_most="7 d"),
        values.quantity("10 min"),
        values.left_out("boards are not handed out any more so long before it begins", default="0 s"),
    ] = 0.0
    boards: Annotated[list[Word], Field(description="ids of the boards; all of the lab when neither is given")] = []
    classes: Annotated[list[Word], Field(description="shell patterns for classes of boards")] = []
    reason: Annotated[Text, Field(description="what those are told who wait")] = "maintenance"


class LabSection(Section):
    """The whole file."""

    lab: Annotated[
        Name, Field(description="name of the lab; it keys the state directory, so labs of one name share leases")
    ]
    boards: Annotated[dict[str, BoardSection], Field(min_length=1, description="the boards by id")]
    state_dir: Annotated[
        Text | None, Field(description="where leases and virtual boards are kept; ~ and relative paths work")
    ] = None
    leases: Annotated[
        Text | None,
        Field(
            description="database of leases: sqlite:////absolute/path.db for one host (in the state directory by "
            "default), or postgresql+psycopg://user@host/database for several"
        ),
    ] = None
    lease_expiry: Annotated[
        float,
        values.duration(at_least="500 ms", at_most="1 d"),
        values.quantity("15 s"),
        values.left_out("a holder that is silent for so long has lost its boards", default="15 s"),
    ] = 15.0
    pools: Annotated[dict[str, PoolSection], Field(description="limits for groups of boards, by name")] = {}
    health: Annotated[
        HealthSection,
        Field(description="looking at boards before they are handed out", json_schema_extra={"default": {}}),
    ] = HealthSection()
    limits: Annotated[LimitsSection, Field(description="how long and how many boards somebody may have")] = (
        LimitsSection()
    )
    priorities: Annotated[list[PrioritySection], Field(description="the first that fits the branch counts")] = []
    maintenance: Annotated[list[MaintenanceSection], Field(description="when boards are not handed out")] = []
    labgrid: Annotated[
        LabgridSection | None, Field(description="the labgrid lab that boards with a 'place' belong to")
    ] = None


def lab_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a lab file; editors take it through ``# yaml-language-server: $schema=…``."""
    schema = LabSection.model_json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://pytest-edgehil.dev/lab.schema.json",
        **schema,
        "title": "pytest-edgehil lab",
        "patternProperties": {"^x-": {"description": "ignored: a place for anchors"}},
    }
