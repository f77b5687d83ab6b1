"""What devices report while a rollout is under way.

A directory of JSON-lines files, ``*.jsonl``, one file per device, one line per reporting period::

    {"device": "edge-0017",            # the same in every line of the file
     "group": "canary",                # canary | control
     "artifact": "sha256:…",           # what it ran: canaries the new one, controls the old one
     "environment": "hardware",        # hardware | emulated | virtual
     "timing": "wall",                 # of an emulated device: it has a clock, and counts no instructions
     "started_at": 1790000000.0,       # Unix time, seconds
     "device_hours": 1.0,              # how long the device ran in this period
     "inferences": 5000,               # how many there were
     "latencies_ns": [ … ],            # of all of them, or of a random sample
     "sessions": 40, "crashes": 0,     # how often the model's process was started; how often it died
     "shadow_compared": 200,           # inferences that were also run on the other artifact …
     "shadow_disagreements": 1}        # … and how many of those gave another answer

A line that is malformed or speaks of something else is an error, not a line to skip: a filter that drops bad reports
drops the reports of bad devices. So are counted instructions (``"timing": "icount"``): latencies, hours and rates of
such a device are none that anybody would wait. Whether it has them only an emulated one can tell, and must.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError, model_validator

from pytest_edgehil.documents.checking import Section
from pytest_edgehil.errors import EvidenceError, RolloutError
from pytest_edgehil.evidence import canonical
from pytest_edgehil.evidence.verify import CLOCK_SKEW_S
from pytest_edgehil.model.board import Environment


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One line: one device, one period. `latencies_ns` has shape (n,), int64."""

    device: str
    group: Literal["canary", "control"]
    artifact: str
    environment: Environment
    started_at: float
    device_hours: float
    inferences: int
    latencies_ns: npt.NDArray[np.int64]
    sessions: int
    crashes: int
    shadow_compared: int
    shadow_disagreements: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """What a directory holds.

    Args:
        reports: in the order of files and lines.
        digests: file name → ``sha256:<hex>``.
    """

    reports: tuple[Report, ...]
    digests: Mapping[str, str]

    def since(self, unix_s: float) -> Telemetry:
        """Only what began at this time or later."""
        kept = tuple(one for one in self.reports if one.started_at >= unix_s)
        return Telemetry(reports=kept, digests=self.digests)


class _Line(Section):
    device: str = Field(min_length=1)
    group: Literal["canary", "control"]
    artifact: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    environment: Literal["hardware", "emulated", "virtual"]
    timing: Literal["wall", "icount"] | None = None
    started_at: float = Field(gt=0)
    device_hours: float = Field(ge=0)
    inferences: int = Field(ge=0)
    latencies_ns: list[int]
    sessions: int = Field(ge=0)
    crashes: int = Field(ge=0)
    shadow_compared: int = Field(ge=0)
    shadow_disagreements: int = Field(ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> _Line:
        if self.timing is None and self.environment == "emulated":
            raise ValueError("timing: an emulated device must say whether its time is wall or icount")
        if self.timing == "icount":
            raise ValueError(
                "timing: counted instructions (icount) are no seconds; a rollout is decided on devices with a clock"
            )
        if any(not 0 < one < 2**62 for one in self.latencies_ns):
            raise ValueError("latencies_ns: a latency is not positive, or absurd")
        if len(self.latencies_ns) > self.inferences:
            raise ValueError(f"latencies_ns: {len(self.latencies_ns)} latencies of {self.inferences} inferences")
        if self.shadow_disagreements > self.shadow_compared:
            raise ValueError("shadow_disagreements: more than were compared")
        if self.crashes > self.sessions:
            raise ValueError("crashes: more than there were sessions")
        if not math.isfinite(self.started_at + self.device_hours):
            raise ValueError("started_at, device_hours: not finite")
        return self


def read_telemetry(
    directory: Path, *, artifact: str, baseline: str | None, environment: Environment, now: float
) -> Telemetry:
    """Read all reports of a directory.

    Args:
        directory: holds ``*.jsonl``; none is no error, there is no data then.
        artifact: what canaries must have run.
        baseline: what controls must have run; None: any one other artifact.
        environment: where they must have run.
        now: Unix time, seconds.

    Raises:
        RolloutError: naming file and line.
    """
    if not directory.is_dir():
        raise RolloutError(f"{directory}: there is no such directory; --telemetry names a directory of *.jsonl files")
    reports: list[Report] = []
    digests: dict[str, str] = {}
    file_of: dict[str, tuple[str, str]] = {}
    for path in sorted(directory.glob("*.jsonl")):
        data = path.read_bytes()
        digests[path.name] = canonical.digest_of(data)
        for number, line in enumerate(data.split(b"\n"), start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            report = _read_line(line, where)
            _check(report, where, artifact=artifact, baseline=baseline, environment=environment, now=now)
            if report.group == "control" and baseline is None:
                baseline = report.artifact
            known = file_of.setdefault(report.device, (path.name, report.group))
            if known[0] != path.name:
                raise RolloutError(
                    f"{where}: device {report.device} reports in {known[0]} already; one file per device"
                )
            if known[1] != report.group:
                raise RolloutError(f"{where}: device {report.device} is in both groups")
            reports.append(report)
    return Telemetry(reports=tuple(reports), digests=digests)


def _read_line(line: bytes, where: str) -> Report:
    try:
        value = canonical.from_bytes(line, what=where)
    except EvidenceError as problem:
        raise RolloutError(str(problem)) from problem
    try:
        found = _Line.model_validate(value)
    except ValidationError as problem:
        first = problem.errors(include_url=False)[0]
        name = ".".join(str(one) for one in first["loc"])
        text = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
        raise RolloutError(f"{where}: {f'{name}: ' if name else ''}{text[:1].lower()}{text[1:]}") from problem
    return Report(
        device=found.device,
        group=found.group,
        artifact=found.artifact,
        environment=Environment(found.environment),
        started_at=found.started_at,
        device_hours=found.device_hours,
        inferences=found.inferences,
        latencies_ns=np.array(found.latencies_ns, dtype=np.int64),
        sessions=found.sessions,
        crashes=found.crashes,
        shadow_compared=found.shadow_compared,
        shadow_disagreements=found.shadow_disagreements,
    )


def _check(
    report: Report, where: str, *, artifact: str, baseline: str | None, environment: Environment, now: float
) -> None:
    expected = artifact if report.group == "canary" else baseline
    if expected is not None and report.artifact != expected:
        raise RolloutError(
            f"{where}: the {report.group} {report.device} ran {report.artifact[:19]}…, expected {expected[:19]}…"
        )
    if report.group == "control" and report.artifact == artifact:
        raise RolloutError(f"{where}: the control {report.device} ran the artifact that is rolled out")
    if report.environment is not environment:
        raise RolloutError(f"{where}: {report.device} is {report.environment}, the plan is for {environment}")
    if report.started_at > now + CLOCK_SKEW_S:
        raise RolloutError(f"{where}: it began {report.started_at - now:.0f} s in the future; check the clocks")
