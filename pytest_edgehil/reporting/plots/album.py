"""The pictures of one attempt at a test: promised by the worker that measured, drawn by the controller in the end.

Drawing takes time and, on a virtual board, the processor that is being measured. So a worker only names the pictures
that there will be, which needs no matplotlib; when no test runs any more, the controller draws them from the raw
samples that it finds in the report directory. What cannot be drawn is said, and never fails a test.
"""

from __future__ import annotations

import dataclasses
import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_edgehil.gates.gate import Gate
from pytest_edgehil.model.record import Status, TestRecord
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.verdict import Verdict
from pytest_edgehil.reporting.plots import registry

DIRECTORY: Final = "plots"
"""Below the report directory."""

TIME_S: Final = 60.0
"""No picture is begun after so long; those of tests that did not pass come first."""

HURRIED_S: Final = 5.0
"""The same after an interrupt: somebody waits for the prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture that is called for.

    Args:
        purpose: what it shows, as a key of `TestRecord.files`: ``plot p95_latency evidence``.
        path: relative to the report directory.
        name: of the kind, see `registry`.
        gate, verdict: what it is about.
    """

    purpose: str
    path: str
    name: str
    gate: Gate
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What became of the pictures of a run.

    Args:
        records: all of them, in the same order; what was not drawn is no longer among their files.
        count: how many pictures were drawn.
        problems: why others were not, one line each.
    """

    records: tuple[TestRecord, ...]
    count: int
    problems: tuple[str, ...]


Publish = Callable[[TestRecord, str, Path | str], None]
"""Takes a record, a promised path, and the file that was drawn or the reason why there is none."""


def pictures(
    slug: str, gates: Sequence[Gate], verdicts: Sequence[Verdict], sample: Sample, *, file_format: str
) -> tuple[Picture, ...]:
    """The pictures that these gates call for, with file names that begin with `slug`."""
    found: list[Picture] = []
    seen: dict[str, int] = {}
    for gate, verdict in zip(gates, verdicts, strict=False):
        seen[gate.name] = seen.get(gate.name, 0) + 1
        again = f" {seen[gate.name]}" if seen[gate.name] > 1 else ""  # a gate may be applied twice
        for name in registry.names(gate, sample, verdict):
            file = re.sub(r"[^a-z0-9.]+", "-", f"{gate.name}{again} {name}")
            found.append(
                Picture(
                    purpose=f"plot {gate.name}{again} {name}",
                    path=f"{DIRECTORY}/{slug}-{file}.{file_format}",
                    name=name,
                    gate=gate,
                    verdict=verdict,
                )
            )
    return tuple(found)


def is_picture(path: str) -> bool:
    """Is this one of `TestRecord.files` a promised picture?"""
    return path.startswith(f"{DIRECTORY}/")


def allure_name(record: TestRecord, path: str) -> str:
    """The name that a picture has among Allure's results, known before it is drawn."""
    return f"{uuid.uuid5(uuid.NAMESPACE_URL, f'{record.nonce}/{path}')}-attachment{Path(path).suffix}"


def draw_all(
    records: Sequence[TestRecord],
    directory: Path,
    *,
    file_format: str,
    clock: Callable[[], float],
    publish: Publish,
    time_s: float = TIME_S,
) -> Drawn:
    """Draw what was promised, into ``directory / DIRECTORY``.

    Args:
        records: every attempt.
        directory: what the paths of `TestRecord.files` are relative to.
        file_format: ``svg`` or ``png``, as it was promised.
        clock: monotonic seconds.
        publish: is told of every picture, and of every one that there will not be.
        time_s: no picture is begun after so long.
    """
    deadline = clock() + time_s
    kept = list(records)
    problems: dict[str, None] = {}
    count = late = 0
    for at in sorted(range(len(kept)), key=lambda one: kept[one].status is Status.PASSED):
        record = kept[at]
        promised = {purpose: path for purpose, path in record.files.items() if is_picture(path)}
        if not promised:
            continue
        missing: dict[str, str] = {}
        if clock() >= deadline:
            missing = dict.fromkeys(promised.values(), f"the {time_s:g} s for drawing were spent")
            late += len(missing)
        else:
            missing = _draw(record, promised, directory, file_format=file_format)
            problems |= {f"{path}: {why}": None for path, why in missing.items()}
        for path in promised.values():
            publish(record, path, missing[path] if path in missing else directory / path)
        count += len(promised) - len(missing)
        files = {purpose: path for purpose, path in record.files.items() if path not in missing}
        kept[at] = dataclasses.replace(record, files=files)
    if late:
        problems[f"{late} were not drawn, for the {time_s:g} s for drawing were spent"] = None
    return Drawn(records=tuple(kept), count=count, problems=tuple(problems))


def _draw(record: TestRecord, promised: dict[str, str], directory: Path, *, file_format: str) -> dict[str, str]:
    """Draw the pictures of one record; returns those that could not be drawn, with the reason."""
    from pytest_edgehil.evidence import raw
    from pytest_edgehil.gates import continued
    from pytest_edgehil.gates.registry import from_arguments

    missing = dict.fromkeys(promised.values(), "it is not what these samples call for")
    try:
        samples = record.files["samples"]
        sample = raw.read_sample(directory / samples)
        gates = [from_arguments(one.name, one.arguments) for one in record.gates]
        slug = Path(samples).name.removesuffix(".json.gz")
        wanted = pictures(
            slug, gates, [continued.evaluate(gate, sample) for gate in gates], sample, file_format=file_format
        )
        (directory / DIRECTORY).mkdir(exist_ok=True)
    except Exception as problem:  # noqa: BLE001 - a picture is for convenience: whatever is wrong, the run goes on
        return dict.fromkeys(promised.values(), _said(problem))
    for one in wanted:
        if one.path not in missing:
            continue
        try:
            drawn = registry.draw(one.name, one.gate, sample, file_format=file_format, verdict=one.verdict)
            (directory / one.path).write_bytes(drawn)
        except Exception as problem:  # noqa: BLE001 - see above
            missing[one.path] = _said(problem)
        else:
            del missing[one.path]
    return missing


def _said(problem: Exception) -> str:
    return " ".join(f"{type(problem).__name__}: {problem}".split())[:300]
