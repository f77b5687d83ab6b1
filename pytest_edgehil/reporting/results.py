"""``results.json``: everything that a run found out, for machines.

The schema is documented in docs/reference/results.md. Written by the controller only, in one atomic step: a reader
sees the old file or the whole new one. JSON has no word for infinities and NaN, and confidence bounds may be
infinite; such numbers are written as the strings ``"Infinity"``, ``"-Infinity"`` and ``"NaN"``, as Protocol Buffers'
JSON mapping does.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pytest_edgehil.errors import UserError
from pytest_edgehil.model.record import Status, TestRecord
from pytest_edgehil.model.requirement import Environment, Timing
from pytest_edgehil.model.verdict import Outcome

SCHEMA_VERSION: Final = 1
FILE_NAME: Final = "results.json"
SCHEMA_ID: Final = "https://pytest-edgehil.dev/schemas/results-1.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """A results file, read.

    Args:
        run: what the run said of itself (see `write`).
        quarantined: board id → reason.
        not_run: node ids without a result.
    """

    records: tuple[TestRecord, ...]
    run: Mapping[str, str | int | float | None]
    quarantined: Mapping[str, str]
    not_run: tuple[str, ...]


def write(
    directory: Path,
    records: Sequence[TestRecord],
    *,
    run: Mapping[str, str | int | float | None],
    quarantined: Mapping[str, str],
    not_run: Sequence[str],
) -> Path:
    """Write ``results.json`` into a directory, which is made if it is missing.

    Args:
        directory: the report directory.
        records: every attempt, put-back ones included, in any order.
        run: facts about the run; the plugin gives ``id``, ``started_at``, ``duration_s``, ``lab``, ``tool_version``,
            ``python``, ``exit_status``. Any flat mapping is accepted.
        quarantined: board id → reason.
        not_run: node ids that were collected and have no result.

    Returns:
        The file.
    """
    ordered = sorted(records, key=lambda one: (one.nodeid, one.attempt, one.started_at))
    counted = [one for one in ordered if not one.requeued]
    document = {
        "schema_version": SCHEMA_VERSION,
        "run": dict(run),
        "totals": {
            "tests": _counts(Status, Counter(one.status for one in counted)),
            "verdicts": _counts(Outcome, Counter(verdict.outcome for one in counted for verdict in one.verdicts)),
            "put_back": len(ordered) - len(counted),
            "not_run": len(not_run),
        },
        "tests": [one.to_json() for one in ordered],
        "quarantined": [{"board": board, "reason": reason} for board, reason in sorted(quarantined.items())],
        "not_run": sorted(not_run),
    }
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / FILE_NAME
    _replace(path, to_text(document).encode())
    return path


def to_text(document: Mapping[str, Any]) -> str:
    """Plain JSON types as JSON, with names for the numbers that JSON has no word for."""
    return json.dumps(_named(dict(document)), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read(path: Path) -> Results:
    """Read a results file.

    Raises:
        UserError: the file is missing, is no results file, or has a schema version that this release does not know.
    """
    try:
        document = json.loads(path.read_bytes())
    except OSError as exc:
        raise UserError(f"{path}: cannot read the results: {exc.strerror or exc}") from exc
    except ValueError as exc:
        raise UserError(f"{path}: this is no JSON: {exc}") from exc
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path}: schema_version is {version!r}, expected {SCHEMA_VERSION}; "
            "read it with the release of pytest-edgehil that wrote it"
        )
    try:
        return Results(
            records=tuple(TestRecord.from_json(_numbered_record(one)) for one in document["tests"]),
            run=document["run"],
            quarantined={one["board"]: one["reason"] for one in document["quarantined"]},
            not_run=tuple(document["not_run"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise UserError(f"{path}: this is no results file of schema version {SCHEMA_VERSION}: {exc!r}") from exc


def results_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of ``results.json``."""
    text, flag, count = {"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": 0}
    seconds = {"type": "number"}
    optional_text = {"type": ["string", "null"]}
    number = {"anyOf": [{"type": "number"}, {"enum": [*_NAMES.values()]}]}
    optional_number = {"anyOf": [*number["anyOf"], {"type": "null"}]}
    digest = {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"}
    board = _object(
        id=text, cls=text, environment={"enum": [one.value for one in Environment]}, serial=text, hardware_model=text,
        accelerator=optional_text, runtime=optional_text, firmware=optional_text,
        timing={"enum": [one.value for one in Timing]},
    )  # fmt: skip
    artifact = _object(
        track={"enum": ["firmware", "model", "prompt"]}, label=text, name=text, version=text, quantisation=text,
        digest=digest, size_bytes=count,
    )  # fmt: skip
    verdict = _object(
        gate=text,
        outcome={"enum": [one.value for one in Outcome]},
        unit=text,
        n=count,
        reason=text,
        observed=optional_number,
        budget=optional_number,
        interval={"anyOf": [{"type": "null"}, {"type": "array", "items": number, "minItems": 2, "maxItems": 2}]},
        better={"enum": ["lower", "higher"]},
        decided=flag,
        not_checked=_list(text),
        statistics={"type": "object", "additionalProperties": number},
        would_change=text,
    )
    test = _object(
        nodeid=text,
        status={"enum": [one.value for one in Status]},
        started_at=seconds,
        duration_s=seconds,
        attempt={"type": "integer", "minimum": 1},
        requeued=flag,
        worker=text,
        message=text,
        board={"anyOf": [{"type": "null"}, board]},
        combo=_list(artifact),
        gates=_list(_object(name=text, arguments={"type": "object"})),
        verdicts=_list(verdict),
        steps=_list(_object(name=text, started_at=seconds, duration_s=seconds, detail=text, failed=flag)),
        files={"type": "object", "additionalProperties": text},
        lease_token={"type": ["integer", "null"]},
        nonce={"type": "string", "pattern": "^([0-9a-f]{2})*$"},
        attestations=_list(_object(payload=text, key_id=text, signature=text)),
        quarantined=text,
        reruns=count,
        continued=text,
        heldout=_list(_object(name=text, digest=text, items=count, of=count, baseline=text, baseline_digest=text)),
        order_seed={"type": ["integer", "null"]},
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "results.json of pytest-edgehil",
        **_object(
            schema_version={"const": SCHEMA_VERSION},
            run={"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}},
            totals=_object(
                tests=_object(**{one.value: count for one in Status}),
                verdicts=_object(**{one.value: count for one in Outcome}),
                put_back=count,
                not_run=count,
            ),
            tests=_list(test),
            quarantined=_list(_object(board=text, reason=text)),
            not_run=_list(text),
        ),
    }


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _list(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _counts(kinds: Any, counted: Mapping[Any, int]) -> dict[str, int]:
    return {kind.value: counted.get(kind, 0) for kind in kinds}


# --- numbers that JSON has no word for ---------------------------------------------------------------

_NAMES: Final = {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}
_NUMBERS: Final = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}


def _named(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return _NAMES[repr(float(value))]
    if isinstance(value, dict):
        return {key: _named(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_named(one) for one in value]
    return value


def _numbered_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `_named`, only where numbers are meant: a test may well be called "NaN"."""
    verdicts = []
    for verdict in record["verdicts"]:
        changed = {key: _number(verdict[key]) for key in ("observed", "budget")}
        if verdict["interval"] is not None:
            changed["interval"] = [_number(one) for one in verdict["interval"]]
        changed["statistics"] = {key: _number(one) for key, one in verdict["statistics"].items()}
        verdicts.append({**verdict, **changed})
    return {**record, "verdicts": verdicts}


def _number(value: Any) -> Any:
    return _NUMBERS[value] if isinstance(value, str) else value


# --- files -------------------------------------------------------------------------------------------


def _replace(path: Path, content: bytes) -> None:
    """Replace a file in one step: a reader, or a machine that loses power, never sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
