"""A golden: the latencies of one earlier run, stored in a file, to hold later runs against.

Format: JSON, schema 1. Every field is there::

    {"schema": "https://pytest-edgehil.dev/golden/v1",
     "source":   {"run": …, "test": …, "measured_at": …, "samples": "sha256:…"},
     "board":    {"id": …, "class": …, "environment": …, "serial": …, "firmware": … or null, "timing": …},
     "runtime":  {"name": …, "version": …},
     "artifact": {"label": …, "digest": "sha256:…"},
     "latencies_ns": [ … ]}

``source`` names where it comes from: the run's id, the test's node id, when it began (Unix time, seconds), and the
digest of the raw samples file, which holds everything else that was measured. ``latencies_ns`` are the per-inference
latencies of a closed loop in the order in which they were measured, at least 300 of them. ``timing`` is what a
nanosecond is on that board: ``wall`` or ``icount`` (one instruction); where it is left out it is ``wall``.

A golden is signed by nobody: who can change the file can change what later runs are held against. Keep it with the
tests, under review; each verdict names its digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_edgehil.errors import UserError
from pytest_edgehil.model.requirement import Timing

SCHEMA = "https://pytest-edgehil.dev/golden/v1"
FEWEST = 300
"""Six blocks of 50: fewer show nothing of how much blocks differ."""

MOST_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """See the format above.

    Args:
        run, test, measured_at, samples: where it comes from.
        board_id, board_class, environment, serial, firmware, timing: the board that it was measured on.
        runtime, runtime_version: that ran the model.
        artifact, artifact_digest: label and bundle of the model.
        latencies_ns: in the order of time.
    """

    run: str
    test: str
    measured_at: float
    samples: str
    board_id: str
    board_class: str
    environment: str
    serial: str
    firmware: str | None
    runtime: str
    runtime_version: str
    artifact: str
    artifact_digest: str
    latencies_ns: tuple[int, ...]
    timing: Timing = Timing.WALL

    @property
    def backend(self) -> str:
        """Runtime and version, as a `BoardRef` has them."""
        return f"{self.runtime} {self.runtime_version}"


def to_bytes(golden: Golden) -> bytes:
    """The file's bytes.

    >>> golden = Golden(run="r", test="t.py::t", measured_at=0.0, samples="sha256:0", board_id="b", board_class="c",
    ...     environment="virtual", serial="1", firmware=None, runtime="replay", runtime_version="1", artifact="a 1",
    ...     artifact_digest="sha256:1", latencies_ns=tuple(range(1, 301)))
    >>> from_bytes(to_bytes(golden), what="golden") == golden
    True
    """
    document = {
        "schema": SCHEMA,
        "source": {
            "run": golden.run,
            "test": golden.test,
            "measured_at": golden.measured_at,
            "samples": golden.samples,
        },
        "board": {
            "id": golden.board_id,
            "class": golden.board_class,
            "environment": golden.environment,
            "serial": golden.serial,
            "firmware": golden.firmware,
            "timing": golden.timing.value,
        },
        "runtime": {"name": golden.runtime, "version": golden.runtime_version},
        "artifact": {"label": golden.artifact, "digest": golden.artifact_digest},
        "latencies_ns": list(golden.latencies_ns),
    }
    head = json.dumps({**document, "latencies_ns": []}, indent=2, ensure_ascii=False)
    latencies = ", ".join(map(str, golden.latencies_ns))  # one line: a diff of them tells nobody anything
    return f"{head[: head.rindex('[]')]}[{latencies}]\n}}\n".encode()


def read_golden(path: Path) -> tuple[Golden, str]:
    """Read a golden.

    Returns:
        The golden and the digest of the file.

    Raises:
        UserError: it is missing or is none.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as problem:
        raise UserError(
            f"{path}: the golden cannot be read: {problem.strerror}; make one with 'edgehil golden store'"
        ) from problem
    if len(data) > MOST_BYTES:
        raise UserError(f"{path}: is larger than {MOST_BYTES} bytes, which no golden is")
    return from_bytes(data, what=str(path)), f"sha256:{hashlib.sha256(data).hexdigest()}"


def from_bytes(data: bytes, *, what: str) -> Golden:
    """The inverse of `to_bytes`.

    Raises:
        UserError: it is no golden; one line with the first thing that is off.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as problem:
        raise UserError(f"{what}: is no JSON: {problem}") from problem
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        found = document.get("schema") if isinstance(document, dict) else type(document).__name__
        raise UserError(f"{what}: schema is {found!a:.60}, expected {SCHEMA!r}: this is no golden")
    top = _Part(document, what, ("schema", "source", "board", "runtime", "artifact", "latencies_ns"))
    source = top.part("source", ("run", "test", "measured_at", "samples"))
    board = top.part("board", ("id", "class", "environment", "serial", "firmware"), optional=("timing",))
    runtime, artifact = top.part("runtime", ("name", "version")), top.part("artifact", ("label", "digest"))
    return Golden(
        run=source.text("run"),
        test=source.text("test"),
        measured_at=source.number("measured_at"),
        samples=source.text("samples"),
        board_id=board.text("id"),
        board_class=board.text("class"),
        environment=board.text("environment"),
        serial=board.text("serial"),
        firmware=board.text_or_none("firmware"),
        runtime=runtime.text("name"),
        runtime_version=runtime.text("version"),
        artifact=artifact.text("label"),
        artifact_digest=artifact.text("digest"),
        latencies_ns=top.latencies("latencies_ns"),
        timing=board.timing("timing"),
    )


class _Part:
    """Takes checked values out of one JSON object."""

    def __init__(
        self, values: Mapping[str, Any], where: str, known: tuple[str, ...], *, optional: tuple[str, ...] = ()
    ) -> None:
        self._values = values
        self._where = where
        missing, unknown = sorted(set(known) - set(values)), sorted(set(values) - {*known, *optional})
        if missing or unknown:
            said = f"{missing[0]!r} is missing" if missing else f"{unknown[0]!r} is unknown"
            raise UserError(f"{where}: {said}; a golden has {', '.join(known)} here")

    def _off(self, name: str, expected: str) -> UserError:
        return UserError(f"{self._where}: {name} is {self._values[name]!a:.60}, expected {expected}")

    def part(self, name: str, known: tuple[str, ...], *, optional: tuple[str, ...] = ()) -> _Part:
        value = self._values[name]
        if not isinstance(value, dict):
            raise self._off(name, "an object")
        return _Part(value, f"{self._where}: {name}", known, optional=optional)

    def timing(self, name: str) -> Timing:
        if self._values.get(name, Timing.WALL) not in list(Timing):
            raise self._off(name, f"one of {', '.join(Timing)}")
        return Timing(self._values.get(name, Timing.WALL))

    def text(self, name: str) -> str:
        value = self._values[name]
        if not isinstance(value, str):
            raise self._off(name, "text")
        return value

    def text_or_none(self, name: str) -> str | None:
        return None if self._values[name] is None else self.text(name)

    def number(self, name: str) -> float:
        value = self._values[name]
        if type(value) not in {int, float} or not abs(value) < 1e12:
            raise self._off(name, "a number of seconds")
        return float(value)

    def latencies(self, name: str) -> tuple[int, ...]:
        values = self._values[name]
        if not isinstance(values, list) or any(type(one) is not int or not 0 < one < 2**63 for one in values):
            raise self._off(name, "a list of whole numbers above zero")
        if len(values) < FEWEST:
            raise UserError(f"{self._where}: {name} holds {len(values)} latencies, at least {FEWEST} are needed")
        return tuple(values)
