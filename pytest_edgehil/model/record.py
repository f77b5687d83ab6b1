"""What became of one test on one board: the value that travels from a worker to the controller.

A record crosses process borders (pytest-xdist) and ends in ``results.json``, so it is made of plain JSON types at
the edges: `TestRecord.to_json` and `TestRecord.from_json` are inverse to each other.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_edgehil.model.requirement import Environment, Timing
from pytest_edgehil.model.series import HeldOut
from pytest_edgehil.model.verdict import Outcome, Verdict


class Status(enum.StrEnum):
    """How an attempt at a test ended."""

    PASSED = "passed"
    FAILED = "failed"  # a gate was missed, or an assertion of the test failed
    INCONCLUSIVE = "inconclusive"  # a gate could not be decided
    INVALID = "invalid"  # the measurement must not be used
    INFRASTRUCTURE = "infrastructure"  # a board, link or lab broke
    ERROR = "error"  # a bug of the test or of ours
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardRef:
    """Which board it was, as the board itself and the lab say."""

    id: str
    cls: str
    environment: Environment
    serial: str
    hardware_model: str
    accelerator: str | None = None
    runtime: str | None = None
    firmware: str | None = None
    timing: Timing = Timing.WALL


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactRef:
    """Which artifact it was; `label` is what people read."""

    track: str
    label: str
    name: str
    version: str
    quantisation: str
    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step on the way: ``reserve``, ``flash``, ``warm-up``, ``measure``, ``judge``.

    Args:
        started_at: Unix time, seconds.
        failed: the step ended in an error; `detail` says which.
    """

    name: str
    started_at: float
    duration_s: float
    detail: str = ""
    failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GateUse:
    """A gate as it was applied: its name and every argument, defaults filled in (see `gates.from_arguments`)."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestation:
    """A statement about this test, and the board's signature over its DSSE pre-authentication encoding.

    Args:
        payload: the in-toto Statement, base64.
        key_id: key id of the board's key.
        signature: hexadecimal.
    """

    payload: str
    key_id: str
    signature: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TestRecord:
    """One attempt at one test.

    Args:
        nodeid: pytest's node id.
        attempt: 1 for the first.
        requeued: this attempt does not count: the board broke and the test was put back.
        message: one line for people; empty when it passed.
        verdicts: one per gate, in the order of `gates`.
        files: what for → path relative to the report directory (``samples``, ``console``).
        lease_token: fencing token of the lease, or None without a board.
        nonce: single-use nonce of this attempt's evidence, hexadecimal.
        attestations: one per statement that the board signed.
        quarantined: why the board was quarantined after this attempt, or empty.
        reruns: how many earlier runs of this test the verdicts go on from.
        continued: what became of the earlier run of this test, as one sentence; empty when there is none.
        heldout: the held-out sets that were evaluated, and what the outputs were compared with.
        order_seed: what the order of their items was drawn with, or None (see `Sample.order_seed`).
    """

    __test__ = False  # not a test class, whatever its name looks like to pytest

    nodeid: str
    status: Status
    started_at: float
    duration_s: float
    attempt: int = 1
    requeued: bool = False
    worker: str = "main"
    message: str = ""
    board: BoardRef | None = None
    combo: tuple[ArtifactRef, ...] = ()
    gates: tuple[GateUse, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    steps: tuple[Step, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    lease_token: int | None = None
    nonce: str = ""
    attestations: tuple[Attestation, ...] = ()
    quarantined: str = ""
    reruns: int = 0
    continued: str = ""
    heldout: tuple[HeldOut, ...] = ()
    order_seed: int | None = None

    @property
    def combo_label(self) -> str:
        """For reports: the labels joined by " + "."""
        return " + ".join(one.label for one in self.combo)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return _plain(dataclasses.asdict(self))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TestRecord:
        """The inverse of `to_json`."""
        fields = dict(value)
        board = fields.get("board")
        if board is not None:
            kinds = {"environment": Environment(board["environment"]), "timing": Timing(board.get("timing", "wall"))}
            fields["board"] = BoardRef(**{**board, **kinds})
        fields["status"] = Status(fields["status"])
        fields["combo"] = tuple(ArtifactRef(**one) for one in fields.get("combo", ()))
        fields["gates"] = tuple(GateUse(**one) for one in fields.get("gates", ()))
        fields["verdicts"] = tuple(verdict_from_json(one) for one in fields.get("verdicts", ()))
        fields["steps"] = tuple(Step(**one) for one in fields.get("steps", ()))
        fields["attestations"] = tuple(Attestation(**one) for one in fields.get("attestations", ()))
        fields["heldout"] = tuple(HeldOut(**one) for one in fields.get("heldout", ()))
        return cls(**fields)


def verdict_to_json(verdict: Verdict) -> dict[str, Any]:
    """A verdict in plain JSON types."""
    return _plain(dataclasses.asdict(verdict))  # type: ignore[no-any-return]


def verdict_from_json(value: Mapping[str, Any]) -> Verdict:
    """The inverse of `verdict_to_json`."""
    fields = dict(value)
    interval = fields.get("interval")
    fields["outcome"] = Outcome(fields["outcome"])
    fields["interval"] = None if interval is None else (interval[0], interval[1])
    fields["not_checked"] = tuple(fields.get("not_checked", ()))
    return Verdict(**fields)


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (tuple, list, frozenset)):
        return [_plain(one) for one in value]
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        return value.item()  # a numpy scalar that slipped into a verdict
    return value
