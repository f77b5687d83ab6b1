"""The short forms of the benchmarks of leases. What is judged is what must never happen; no duration is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LEASES = Path(__file__).parents[3] / "benchmarks/leases"


def ran(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(LEASES / script), "--json", "--quick", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


@pytest.mark.timeout(450)
@pytest.mark.parametrize("store", ["sqlite", pytest.param("postgres", marks=pytest.mark.needs("postgres"))])
def test_killed_stopped_and_lied_to_processes_never_use_one_board_at_once(store: str) -> None:
    done = ran("exclusivity.py", "--store", store)

    assert done.returncode == 0, done.stdout + done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    found = told[store]
    assert (found["overlaps"], found["books"], found["leaked"]) == (0, 0, 0)
    happened = {"leases", "commands", "kills", "stops", "clock_steps", "late"}
    assert not [name for name in happened if found[name] == 0], found  # or nothing was shown
    assert told["peer_value"] > 0  # overlaps are found where there are some


@pytest.mark.timeout(450)
@pytest.mark.needs("postgres")
def test_nothing_is_lost_when_holders_are_killed_and_postgres_is_restarted_under_load() -> None:
    done = ran("crash.py")

    told: dict[str, Any] = json.loads(done.stdout)  # its status would be a judgement of durations
    after = told["restarts"]
    assert after["restarts"] > 0
    assert after["leases"] > 0
    assert (after["lost"], after["failed"], after["first_error"]) == (0, 0, "")
    assert (after["overlaps"], after["books"], after["leaked"]) == (0, 0, 0)
    assert {"sqlite", "postgres", "flock"} <= set(told)  # each board of the dead came into the next hands
