"""A record as JUnit properties, for the dashboards that read nothing else.

Values are bare numbers in the verdict's unit, so that a machine can plot them; the sentence for people is the
property ``…reason``. They belong into `item.user_properties`: pytest writes those below the test case
(``record_property`` warns under the xunit2 family).
"""

from __future__ import annotations

from collections import Counter

from pytest_edgehil.model.record import TestRecord
from pytest_edgehil.model.verdict import Verdict


def properties(record: TestRecord) -> list[tuple[str, str]]:
    """Names and values, in a stable order; what a record does not know is left out.

    A gate that was applied twice gets ``[2]`` behind its name the second time.
    """
    found: list[tuple[str, str]] = [("edgehil.status", record.status.value), ("edgehil.attempt", str(record.attempt))]
    if record.board is not None:
        found += [
            ("edgehil.board", record.board.id),
            ("edgehil.board_class", record.board.cls),
            ("edgehil.environment", record.board.environment.value),
            ("edgehil.timing", record.board.timing.value),
            ("edgehil.board_serial", record.board.serial),
        ]
    for artifact in record.combo:
        found += [
            (f"edgehil.{artifact.track}", artifact.label),
            (f"edgehil.{artifact.track}_digest", artifact.digest),
        ]
    if record.lease_token is not None:
        found.append(("edgehil.lease_token", str(record.lease_token)))
    if record.quarantined:
        found.append(("edgehil.quarantined", record.quarantined))
    times: Counter[str] = Counter()
    for verdict in record.verdicts:
        times[verdict.gate] += 1
        again = f"[{times[verdict.gate]}]" if times[verdict.gate] > 1 else ""
        found += _of(verdict, f"edgehil.gate.{verdict.gate}{again}")
    return found


def _of(verdict: Verdict, prefix: str) -> list[tuple[str, str]]:
    found = [
        (f"{prefix}.verdict", verdict.outcome.value),
        (f"{prefix}.unit", verdict.unit),
        (f"{prefix}.n", str(verdict.n)),
    ]
    if verdict.observed is not None:
        found.append((f"{prefix}.observed", repr(float(verdict.observed))))
    if verdict.budget is not None:
        found.append((f"{prefix}.budget", repr(float(verdict.budget))))
    if verdict.interval is not None:
        low, high = verdict.interval
        found += [(f"{prefix}.interval_low", repr(float(low))), (f"{prefix}.interval_high", repr(float(high)))]
    found.append((f"{prefix}.reason", verdict.reason))
    return found
