"""Raw results: a sample as a file whose digest a statement names, and the judgement made again from it.

The file is JSON, gzipped when its name ends in ``.gz``. Schema, version 1 (times in ns are on the board's clocks)::

    {"schema": "https://pytest-edgehil.dev/raw-sample/v1",
     "gates": [{"name": …, "arguments": {…}}],          # what it was judged by
     "sample": {…}}                                    # model.sample.Sample, field by field

Arrays are lists (booleans as 0 and 1, a float that is no number as null), `Sample`'s parts are objects with the names
of their fields. A field that is absent takes its default: older files lack newer fields.

It is no RFC 8785 JSON: a board's monotonic clock passes 2^53 ns after 104 days, and rounding is not an option here.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pytest_edgehil.errors import EvidenceError, UserError
from pytest_edgehil.evidence import canonical, rows
from pytest_edgehil.evidence.files import write_atomically
from pytest_edgehil.model.record import GateUse
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.verdict import Verdict

SCHEMA = "https://pytest-edgehil.dev/raw-sample/v1"
MAX_RAW_BYTES = 2**30

Evaluate = Callable[[GateUse, Sample], Verdict]
"""Judges a sample by one gate as it was used."""


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
        "sample": rows.to_plain(sample),
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
    return _sample(_top(data, what), what)


def parts_from_bytes(data: bytes, *, what: str) -> tuple[Sample, tuple[GateUse, ...]]:
    """The sample, and the gates that it was judged by when it was written.

    Raises:
        EvidenceError: they are no raw results.
    """
    top = _top(data, what)
    uses = tuple(GateUse(name=one.text("name"), arguments=one.mapping("arguments")) for one in top.objects("gates"))
    return _sample(top, what), uses


def _top(data: bytes, what: str) -> canonical.Fields:
    if data[:2] == b"\x1f\x8b":
        data = _gunzip(data, what)
    top = canonical.Fields(canonical.from_bytes(data, what=what), what)
    if top.text("schema") != SCHEMA:
        raise EvidenceError(f"{what}.schema: {top.text('schema')!r} is not understood; expected {SCHEMA!r}")
    return top


def _sample(top: canonical.Fields, what: str) -> Sample:
    return rows.from_plain(Sample, top.mapping("sample"), where=f"{what}: sample")


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
    from pytest_edgehil.gates.continued import evaluate
    from pytest_edgehil.gates.registry import from_arguments

    return evaluate(from_arguments(use.name, use.arguments), sample)


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
