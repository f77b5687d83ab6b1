"""The files around Allure's test results: categories, environment, executor, configuration, metrics.

Only the controller writes the run-wide ones: several workers would overwrite each other. Nothing of Allure is
imported here, the formats are files:

* ``categories.json`` is read by Allure 2, ``allurerc.json`` by Allure 3 (``allure generate --config``), which ignores
  the former. Both say the same.
* ``environment.properties`` is a Java properties file, which Allure 2 reads as ISO 8859-1.
* ``*-perf.json`` is a list of metric samples for Allure 3. It averages all samples that share a key, so the key
  carries everything that makes two numbers incomparable, but no version: the page shows what a new one changed.
"""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pytest_edgehil.model.record import TestRecord
from pytest_edgehil.model.requirement import Environment, Timing
from pytest_edgehil.model.verdict import Outcome, Verdict
from pytest_edgehil.reporting import format as fmt

INVALID, INCONCLUSIVE, INFRASTRUCTURE = "invalid measurement", "inconclusive", "board or lab"
"""How the message of such a result begins; Allure 2 has nothing else to tell categories apart by."""

_CATEGORIES: Final = (
    # name, verdict label, statuses, how the message begins
    ("Gate or assertion missed", "fail", ("failed",), ""),
    ("Gate not decided", "inconclusive", ("broken", "skipped", "unknown"), INCONCLUSIVE),
    ("Measurement not valid", "invalid", ("broken",), INVALID),
    ("Board, link or lab broke", "infrastructure", ("broken",), INFRASTRUCTURE),
    ("Bug of a test or of its tools", "error", ("broken",), ""),
)


def write_run_files(
    directory: Path,
    records: Sequence[TestRecord],
    *,
    lab: str,
    run: Mapping[str, str],
    environ: Mapping[str, str],
) -> None:
    """Write what belongs to the whole run; call it once, in the controller, when the last test is done.

    Args:
        directory: what ``--alluredir`` names.
        records: every attempt; boards, runtimes and firmware of the run are taken from them.
        lab: name of the lab, or empty.
        run: further facts for the environment page, such as ``run`` (its id), ``python`` and ``pytest-edgehil``.
        environ: the process environment, from which the CI system is told.
    """
    directory.mkdir(parents=True, exist_ok=True)
    _write_json(directory / "categories.json", _allure2_categories())
    _write_json(directory / "allurerc.json", allure3_configuration())
    _write_json(directory / "executor.json", _executor(environ, run_id=run.get("run", "")))
    facts = {**({"lab": lab} if lab else {}), **_farm_facts(records), **run}
    _write(directory / "environment.properties", "".join(_property(*one) for one in facts.items()).encode("ascii"))


def allure3_configuration() -> dict[str, Any]:
    """What ``allurerc.json`` says: the categories, each by board and then by message; labels that only clutter."""
    return {
        "name": "Hardware-in-the-loop",
        # said elsewhere on a test's page: without them the verdict table moves up to where it is seen at once.
        # Not "board": what is hidden cannot be grouped by.
        "hideLabels": [
            "parentSuite",
            "suite",
            "subSuite",
            "package",
            "framework",
            "language",
            "host",
            "thread",
            "board_class",
            "board_environment",
            "board_timing",
        ],
        "categories": [
            {
                "name": name,
                "matchers": {"labels": {"verdict": f"^{verdict}$"}},
                "groupBy": [{"label": "board"}],
                "groupByMessage": True,
                "expand": verdict == "fail",
            }
            for name, verdict, _, _ in _CATEGORIES
        ],
    }


def _allure2_categories() -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "matchedStatuses": list(statuses),
            **({"messageRegex": f"(?s){beginning}: .*"} if beginning else {}),
        }
        for name, _, statuses, beginning in _CATEGORIES
    ]


def _farm_facts(records: Iterable[TestRecord]) -> dict[str, str]:
    boards = {one.board.id: one.board for one in records if one.board is not None}
    facts = {
        "boards": sorted(boards),
        "board classes": sorted({one.cls for one in boards.values()}),
        "environments": sorted({one.environment.value for one in boards.values()}),
        "runtimes": sorted({one.runtime for one in boards.values() if one.runtime}),
        "firmware": sorted({one.firmware for one in boards.values() if one.firmware}),
    }
    return {name: ", ".join(values) for name, values in facts.items() if values}


def _executor(environ: Mapping[str, str], *, run_id: str) -> dict[str, Any]:
    """Who ran it, as the CI systems tell in their environment."""
    told: dict[str, Any]
    if environ.get("GITHUB_ACTIONS"):
        repository = f"{environ.get('GITHUB_SERVER_URL', '')}/{environ.get('GITHUB_REPOSITORY', '')}"
        told = {
            "name": "GitHub Actions",
            "type": "github",
            "buildName": f"{environ.get('GITHUB_WORKFLOW', '')} #{environ.get('GITHUB_RUN_NUMBER', '')}",
            "buildOrder": environ.get("GITHUB_RUN_NUMBER", ""),
            "buildUrl": f"{repository}/actions/runs/{environ.get('GITHUB_RUN_ID', '')}",
        }
    elif environ.get("GITLAB_CI"):
        told = {
            "name": "GitLab CI",
            "type": "gitlab",
            "buildName": f"{environ.get('CI_JOB_NAME', '')} #{environ.get('CI_PIPELINE_IID', '')}",
            "buildOrder": environ.get("CI_PIPELINE_IID", ""),
            "buildUrl": environ.get("CI_JOB_URL", ""),
        }
    elif environ.get("JENKINS_URL"):
        told = {
            "name": "Jenkins",
            "type": "jenkins",
            "buildName": environ.get("BUILD_TAG", ""),
            "buildOrder": environ.get("BUILD_NUMBER", ""),
            "buildUrl": environ.get("BUILD_URL", ""),
        }
    else:
        told = {"name": "pytest", "type": "local", "buildName": run_id}
    order = told.pop("buildOrder", "")
    return {**told, **({"buildOrder": int(order)} if order.isdecimal() else {})}


# --- metrics -----------------------------------------------------------------------------------------

_METRIC_UNITS: Final = {
    # unit of the verdict → (suffix of the key, unit in the report, divisor)
    "ns": ("ms", "ms", 1e6),
    "s": ("s", "s", 1.0),
    "bytes": ("mib", "MiB", 2.0**20),
    "bytes/h": ("mib_per_h", "MiB/h", 2.0**20),
    "fraction": ("percent", "%", 0.01),
    "ratio": ("ratio", "×", 1.0),
    "°C": ("c", "°C", 1.0),
}


def write_metrics(directory: Path, record: TestRecord) -> Path | None:
    """Write the numbers of one record for Allure 3's metrics page; None if there are none that count.

    What must not be used is left out: put-back attempts and INVALID measurements.
    """
    samples = [
        _metric(record, verdict, value)
        for verdict in record.verdicts
        if (value := verdict.observed) is not None
        and math.isfinite(value)
        and verdict.outcome is not Outcome.INVALID
        and not record.requeued
    ]
    if not samples:
        return None
    path = directory / f"{uuid.uuid4()}-perf.json"
    _write_json(path, samples)
    return path


def _metric(record: TestRecord, verdict: Verdict, value: float) -> dict[str, Any]:
    suffix, unit, divisor = _METRIC_UNITS.get(verdict.unit, (verdict.unit, verdict.unit, 1.0))
    name = f"{verdict.gate}_{suffix}" if suffix else verdict.gate
    incomparable = [fmt.build_name(one) for one in record.combo if one.track != "firmware"]
    if record.board is not None:
        incomparable.append(record.board.cls)
        if record.board.environment is not Environment.HARDWARE:
            incomparable.append(record.board.environment.value)
        if record.board.timing is Timing.ICOUNT:
            incomparable.append(record.board.timing.value)
    incomparable.append(fmt.short_name(record.nodeid))  # another test feeds something else
    started_ms = round(record.started_at * 1000)
    return {
        "id": str(uuid.uuid4()),
        "key": "|".join([name, *incomparable]),
        "title": " · ".join([verdict.gate.replace("_", " "), *incomparable]),
        "value": value / divisor,
        "unit": unit,
        "better": verdict.better,
        "group": record.board.cls if record.board is not None else "no board",
        "groupTitle": record.board.cls if record.board is not None else "no board",
        "start": started_ms,
        "stop": started_ms + round(record.duration_s * 1000),
    }


# --- files -------------------------------------------------------------------------------------------


def _property(name: str, value: str) -> str:
    return f"{_java(name, key=True)}={_java(value)}\n"


def _java(text: str, *, key: bool = False) -> str:
    r"""Text as `java.util.Properties.load` reads it back.

    >>> _java("board classes", key=True), _java("C:\\x é")
    ('board\\ classes', 'C:\\\\x \\u00e9')
    """
    special = "\\=: #!" if key else "\\"
    written = []
    for unit in _utf16(" ".join(text.split())):
        character = chr(unit)
        if character in special:
            written.append(f"\\{character}")
        else:
            written.append(character if unit < 0x7F else f"\\u{unit:04x}")
    return "".join(written)


def _utf16(text: str) -> Iterable[int]:
    raw = text.encode("utf-16-be", "replace")
    return (int.from_bytes(raw[i : i + 2], "big") for i in range(0, len(raw), 2))


def _write_json(path: Path, value: object) -> None:
    _write(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n")


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
