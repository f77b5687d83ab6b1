"""Raw results: a sample as a file whose digest a statement names, and the judgement made again from it.

The file is JSON, gzipped when its name ends in ``.gz``. Schema, version 1 (times in ns are on the board's clocks)::

    {"schema": "https://pytest-edgehil.dev/raw-sample/v1",
     "gates": [{"name": …, "arguments": {…}}],          # what it was judged by
     "sample": {
       "latencies_ns": [int …], "starts_ns": [int …],   # one per inference, warm-up left out
       "agreed": [0|1 …] | null, "correct": [0|1 …] | null, "baseline_correct": [0|1 …] | null,
       "evaluated_of": int | null,
       "readings": [{"at_s": …, "rss_bytes": …, …} …],  # model.sample.SensorReading
       "cold_starts": [{"load_ns": …, …} …],            # model.sample.ColdStart
       "peak_rss_bytes": int | null, "artifact_size_bytes": int | null, "duration_s": number,
       "conditions": {…} | null}}                       # model.sample.Conditions

It is no RFC 8785 JSON: a board's monotonic clock passes 2^53 ns after 104 days, and rounding is not an option here.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pytest_edgehil.errors import EvidenceError, UserError
from pytest_edgehil.evidence import canonical
from pytest_edgehil.evidence.files import write_atomically
from pytest_edgehil.model.record import GateUse
from pytest_edgehil.model.sample import ColdStart, Conditions, Sample, SensorReading
from pytest_edgehil.model.verdict import Verdict

SCHEMA = "https://pytest-edgehil.dev/raw-sample/v1"
MAX_RAW_BYTES = 2**30

Evaluate = Callable[[GateUse, Sample], Verdict]
"""Judges a sample by one gate as it was used."""

_Row = TypeVar("_Row", SensorReading, ColdStart, Conditions)


def write_sample(path: Path, sample: Sample, gates: Sequence[GateUse]) -> str:
    """Write a raw results file.

    Args:
        path: gzipped if it ends in ``.gz``.
        sample: what was measured.
        gates: what it was judged by.

    Returns:
        The digest of the file's bytes, ``sha256:<hex>``.
    """
    data = sample_to_bytes(sample, gates)
    if path.suffix == ".gz":
        data = gzip.compress(data, compresslevel=6, mtime=0)  # same sample, same bytes
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)
    return canonical.digest_of(data)


def sample_to_bytes(sample: Sample, gates: Sequence[GateUse]) -> bytes:
    """The JSON form of a raw results file."""
    value = {
        "schema": SCHEMA,
        "gates": [{"name": one.name, "arguments": dict(one.arguments)} for one in gates],
        "sample": {
            "latencies_ns": sample.latencies_ns.tolist(),
            "starts_ns": sample.starts_ns.tolist(),
            "agreed": _bits(sample.agreed),
            "correct": _bits(sample.correct),
            "baseline_correct": _bits(sample.baseline_correct),
            "evaluated_of": sample.evaluated_of,
            "readings": [dataclasses.asdict(one) for one in sample.readings],
            "cold_starts": [dataclasses.asdict(one) for one in sample.cold_starts],
            "peak_rss_bytes": sample.peak_rss_bytes,
            "artifact_size_bytes": sample.artifact_size_bytes,
            "duration_s": sample.duration_s,
            "conditions": None if sample.conditions is None else dataclasses.asdict(sample.conditions),
        },
    }
    try:
        return json.dumps(value, allow_nan=False, sort_keys=True, separators=(",", ":")).encode("utf-8")
    except (TypeError, ValueError) as problem:
        raise EvidenceError(f"the sample cannot be written as JSON: {problem}") from problem


def read_sample(path: Path) -> Sample:
    """Read a raw results file.

    Raises:
        EvidenceError: it is missing or is none.
    """
    try:
        data = path.read_bytes()
    except OSError as problem:
        raise EvidenceError(f"{path}: the raw results cannot be read: {problem.strerror}") from problem
    return sample_from_bytes(data, what=str(path))


def sample_from_bytes(data: bytes, *, what: str) -> Sample:
    """The inverse of `sample_to_bytes`; takes gzipped bytes as well.

    Raises:
        EvidenceError: they are no raw results.
    """
    if data[:2] == b"\x1f\x8b":
        data = _gunzip(data, what)
    top = canonical.Fields(canonical.from_bytes(data, what=what), what)
    if top.text("schema") != SCHEMA:
        raise EvidenceError(f"{what}.schema: {top.text('schema')!r} is not understood; expected {SCHEMA!r}")
    found = top.fields("sample")
    latencies = _integers(found.each("latencies_ns"), f"{what}: latencies_ns")
    starts = _integers(found.each("starts_ns"), f"{what}: starts_ns")
    if latencies.shape != starts.shape:
        raise EvidenceError(f"{what}: {latencies.shape[0]} latencies but {starts.shape[0]} start times")
    conditions = found.raw("conditions")
    return Sample(
        latencies_ns=latencies,
        starts_ns=starts,
        agreed=_booleans(found.raw("agreed"), f"{what}: agreed"),
        correct=_booleans(found.raw("correct"), f"{what}: correct"),
        baseline_correct=_booleans(found.raw("baseline_correct"), f"{what}: baseline_correct"),
        evaluated_of=None if found.raw("evaluated_of") is None else found.integer("evaluated_of"),
        readings=_rows(SensorReading, found.each("readings"), f"{what}: readings"),
        cold_starts=_rows(ColdStart, found.each("cold_starts"), f"{what}: cold_starts"),
        peak_rss_bytes=None if found.raw("peak_rss_bytes") is None else found.integer("peak_rss_bytes"),
        artifact_size_bytes=None if found.raw("artifact_size_bytes") is None else found.integer("artifact_size_bytes"),
        duration_s=found.number("duration_s"),
        conditions=None if conditions is None else _rows(Conditions, [conditions], f"{what}: conditions")[0],
    )


def recompute(sample: Sample, gates: Iterable[GateUse], *, evaluate: Evaluate | None = None) -> tuple[Verdict, ...]:
    """Judge a sample again, by the gates as they were used.

    Args:
        sample: the raw results.
        gates: names and arguments, as the statement says.
        evaluate: how one gate judges; default through `gates.registry`.

    Raises:
        EvidenceError: a gate is unknown or its arguments are not understood.
    """
    judge = evaluate or evaluate_by_registry
    verdicts = []
    for use in gates:
        try:
            verdicts.append(judge(use, sample))
        except (UserError, TypeError, KeyError) as problem:
            raise EvidenceError(f"the gate {use.name} cannot be judged again: {problem}") from problem
    return tuple(verdicts)


def evaluate_by_registry(use: GateUse, sample: Sample) -> Verdict:
    """Judge a sample by the gate of that name."""
    from pytest_edgehil.gates.registry import from_arguments

    return from_arguments(use.name, use.arguments).evaluate(sample)


def _bits(flags: npt.NDArray[np.bool_] | None) -> list[int] | None:
    return None if flags is None else flags.astype(np.int8).tolist()


def _integers(values: list[Any], what: str) -> npt.NDArray[np.int64]:
    if not all(type(one) is int for one in values):
        raise EvidenceError(f"{what}: expected integers only")
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError as problem:
        raise EvidenceError(f"{what}: a value does not fit into 64 bits") from problem


def _booleans(values: Any, what: str) -> npt.NDArray[np.bool_] | None:
    if values is None:
        return None
    if not isinstance(values, list) or not all(type(one) is int and one in (0, 1) for one in values):
        raise EvidenceError(f"{what}: expected a list of 0 and 1, or null")
    return np.array(values, dtype=np.bool_)


def _rows(kind: type[_Row], values: list[Any], what: str) -> tuple[_Row, ...]:
    names = {one.name: str(one.type) for one in dataclasses.fields(kind)}
    rows = []
    for i, value in enumerate(values):
        if not isinstance(value, Mapping) or not set(value) <= set(names):
            raise EvidenceError(f"{what}[{i}]: expected an object with {', '.join(names)}")
        for name, one in value.items():
            if not _fits(one, names[name]):
                raise EvidenceError(f"{what}[{i}].{name}: {one!r} is no {names[name]}")
        try:
            rows.append(kind(**value))
        except TypeError as problem:
            raise EvidenceError(f"{what}[{i}]: {problem}") from problem
    return tuple(rows)


def _fits(value: object, annotation: str) -> bool:
    kinds = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,), "None": (type(None),)}
    allowed = tuple(one for part in annotation.split(" | ") for one in kinds[part])
    if isinstance(value, bool) and bool not in allowed:
        return False
    return isinstance(value, allowed)


def _gunzip(data: bytes, what: str) -> bytes:
    reader = zlib.decompressobj(wbits=31)
    try:
        plain = reader.decompress(data, MAX_RAW_BYTES)
    except zlib.error as problem:
        raise EvidenceError(f"{what}: the gzip stream is damaged: {problem}") from problem
    if not reader.eof or reader.unused_data:
        raise EvidenceError(
            f"{what}: the gzip stream is cut off, too long (limit {MAX_RAW_BYTES} bytes) or followed by more"
        )
    return plain
