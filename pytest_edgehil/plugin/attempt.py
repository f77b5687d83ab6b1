"""One attempt at one test: what it asked for, what happened, and the record of it in the end.

This is the plugin's only mutable account of a test. It lives in the item's stash while the test runs and ends as a
frozen `TestRecord`. A test gets a second attempt when a board broke in the first.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_edgehil.errors import BoardError, GateFailure, Inconclusive, InvalidMeasurement, LeaseError
from pytest_edgehil.model.artifact import Artifact, Combo
from pytest_edgehil.model.board import Requirement
from pytest_edgehil.model.record import ArtifactRef, Attestation, BoardRef, GateUse, Status, Step, TestRecord
from pytest_edgehil.model.verdict import Outcome, Verdict

if TYPE_CHECKING:
    from pytest_edgehil.board.dut import Dut
    from pytest_edgehil.gates.gate import Gate
    from pytest_edgehil.holding import Holding
    from pytest_edgehil.model.sample import EarlierRun, Sample
    from pytest_edgehil.plugin.boards import Boards


class Attempt:
    """What happens in one attempt.

    Args:
        nodeid: pytest's node id.
        number: 1 for the first attempt.
        worker: name of the process that runs it.
        gates: what the markers declare.
        requirement: what the test asks of its board.
        directory: where files of this attempt go.
        role: of the board, where this is a part of an attempt on several; see `plugin.boards`.
    """

    def __init__(
        self,
        *,
        nodeid: str,
        number: int,
        worker: str,
        gates: tuple[Gate, ...],
        requirement: Requirement,
        directory: Path,
        role: str = "",
    ) -> None:
        self.nodeid = nodeid
        self.number = number
        self.worker = worker
        self.gates = gates
        self.requirement = requirement
        self.directory = directory
        self.role = role
        self.parts: dict[str, Attempt] = {}  # role → what happens on its board
        self.boards: Boards | None = None  # of all parts
        self.condemned: dict[str, str] = {}  # boards of parts that broke, and why, when they have been let go
        self.started_at = time.time()
        self.steps: list[Step] = []
        self.combo = Combo()
        self.against: dict[str, Artifact] = {}  # name in a gate's marker → baseline on the board itself
        self.holding: Holding | None = None
        self.dut: Dut | None = None
        self.board: BoardRef | None = None
        self.verdicts: tuple[Verdict, ...] = ()
        self.earlier: tuple[EarlierRun, ...] = ()
        self.continued = ""
        self.files: dict[str, str] = {}
        self.attestations: tuple[Attestation, ...] = ()
        self.error: BaseException | None = None
        self.requeued = False
        self.skipped = ""
        self.quarantined = ""
        self.nonce = secrets.token_hex(16)

    def part(self, role: str, *, requirement: Requirement, gates: tuple[Gate, ...]) -> Attempt:
        """The part of this attempt that happens on one of several boards."""
        part = self.parts[role] = Attempt(
            nodeid=self.nodeid,
            number=self.number,
            worker=self.worker,
            gates=gates,
            requirement=requirement,
            directory=self.directory,
            role=role,
        )
        part.steps = self.steps
        return part

    @contextlib.contextmanager
    def step(self, name: str, detail: str = "") -> Iterator[None]:
        """Note a step with its real start and duration, also when it fails."""
        started_at, started = time.time(), time.perf_counter()
        failure = ""
        try:
            yield
        except BaseException as problem:
            failure = f"{type(problem).__name__}: {problem}"
            raise
        finally:
            self.steps.append(
                Step(
                    name=name,
                    started_at=started_at,
                    duration_s=time.perf_counter() - started,
                    detail=failure
                    or detail
                    or (f"{self.role}: {self.holding.id}" if self.role and self.holding else ""),
                    failed=bool(failure),
                )
            )

    def note_progress(self, text: str) -> None:
        """Note how far a long measurement is, as a step of no duration."""
        self.steps.append(Step(name="progress", started_at=time.time(), duration_s=0.0, detail=text, failed=False))

    def note_error(self, problem: BaseException) -> None:
        """Remember what went wrong; a board that broke outranks whatever it made the test do afterwards."""
        if self.error is None or (isinstance(problem, BoardError) and not isinstance(self.error, BoardError)):
            self.error = problem

    @property
    def sample(self) -> Sample:
        """What this attempt measured, with the earlier runs that it goes on from."""
        assert self.dut is not None
        return self.dut.sample.replace(earlier=self.earlier)

    @property
    def slug(self) -> str:
        """For file names: unique within the run, readable, safe on every file system."""
        name = re.sub(r"[^A-Za-z0-9.-]+", "-", self.nodeid.rpartition("/")[2]).strip("-")[:80]
        return f"{name}-{hashlib.sha256(self.nodeid.encode()).hexdigest()[:8]}-{self.number}"

    @property
    def board_error(self) -> BoardError | None:
        """The board's failure, if that is what ended this attempt."""
        if isinstance(self.error, BoardError):
            return self.error
        return self.broken

    @property
    def broken(self) -> BoardError | None:
        """Why the board cannot be used any more, also where the test caught that error itself."""
        broken = None if self.dut is None else self.dut.broken
        broken = broken or (None if self.holding is None else self.holding.broken)
        return broken or next((part.broken for part in self.parts.values() if part.broken is not None), None)

    @property
    def blames_board(self) -> bool:
        """Did the board itself break, so that it must be quarantined? A lost lease is not its fault."""
        return bool(self.blamed)

    @property
    def blamed(self) -> dict[str, str]:
        """The boards that broke, and why. A lost lease is not their fault."""
        problem = self.board_error
        if problem is None or isinstance(problem, LeaseError):
            return {}
        if self.holding is not None:
            return {self.holding.id: str(problem)}
        if self.condemned:
            return self.condemned
        held = {part.holding.id: part.broken for part in self.parts.values() if part.holding is not None}
        broken = {board_id: str(why) for board_id, why in held.items() if why is not None}
        # an error of a board that was caught and raised again by the test, or came from elsewhere: it names its board
        named = {word.strip(",:;()'\"") for word in str(problem).split()}
        return broken or {board_id: str(problem) for board_id in held if board_id in named}

    @property
    def held(self) -> Holding | None:
        """The board in our hands, or the first of several: their leases are lost together."""
        return self.holding or next((part.holding for part in self.parts.values()), None)

    @property
    def status(self) -> Status:
        """How this attempt ended."""
        if self.board_error is not None:
            return Status.INFRASTRUCTURE
        if self.skipped and self.error is None:
            return Status.SKIPPED
        return _status_of(self.error)

    def record(self) -> TestRecord:
        """The frozen account of this attempt."""
        status = self.status
        return TestRecord(
            nodeid=self.nodeid,
            status=status,
            started_at=self.started_at,
            duration_s=time.time() - self.started_at,
            attempt=self.number,
            requeued=self.requeued,
            worker=self.worker,
            message="" if status is Status.PASSED else _one_line(self.board_error or self.error) or self.skipped,
            board=self.board,
            combo=tuple(dict.fromkeys(artifact_ref(one) for combo in self._combos for one in combo.artifacts)),
            gates=self._uses,
            verdicts=self.verdicts,
            steps=tuple(self.steps),
            files=dict(self.files),
            lease_token=None if self.holding is None else self.holding.token,
            nonce=self.nonce,
            attestations=self.attestations,
            quarantined=self.quarantined,
            reruns=len(self.earlier),
            continued=self.continued,
            heldout=() if self.dut is None else self.dut.sample.heldout,
            order_seed=None if self.dut is None else self.dut.sample.order_seed,
        )

    @property
    def _combos(self) -> tuple[Combo, ...]:
        return tuple(part.combo for part in self.parts.values()) or (self.combo,)

    @property
    def _uses(self) -> tuple[GateUse, ...]:
        if not self.parts:
            return tuple(GateUse(name=gate.name, arguments=gate.arguments()) for gate in self.gates)
        from pytest_edgehil.plugin.boards import of_role

        return tuple(
            GateUse(name=of_role(gate.name, role), arguments=gate.arguments())
            for role, part in self.parts.items()
            for gate in part.gates
        )


def _status_of(problem: BaseException | None) -> Status:
    match problem:
        case None:
            return Status.PASSED
        case Inconclusive():
            return Status.INCONCLUSIVE
        case InvalidMeasurement():
            return Status.INVALID
        case GateFailure() | AssertionError() | pytest.fail.Exception():
            return Status.FAILED
        case _:
            return Status.ERROR


def artifact_ref(artifact: Artifact) -> ArtifactRef:
    """What a record says of an artifact."""
    manifest = artifact.manifest
    return ArtifactRef(
        track=manifest.track.value,
        label=artifact.label,
        name=manifest.name,
        version=manifest.version,
        quantisation=manifest.quantisation,
        digest=artifact.digest,
        size_bytes=artifact.size_bytes,
    )


def failure_of(verdicts: tuple[Verdict, ...]) -> Exception | None:
    """The one error that these verdicts amount to: a miss outranks an invalid measurement outranks indecision."""
    for outcome, kind in (
        (Outcome.FAIL, GateFailure),
        (Outcome.INVALID, InvalidMeasurement),
        (Outcome.INCONCLUSIVE, Inconclusive),
    ):
        told = [f"{one.gate}: {one.reason}" for one in verdicts if one.outcome is outcome]
        if told:
            return kind("; ".join(told))
    return None


def _one_line(problem: BaseException | None) -> str:
    if problem is None:
        return ""
    text = " ".join(str(problem).split()) or type(problem).__name__
    return text if len(text) <= 500 else text[:497] + "…"
