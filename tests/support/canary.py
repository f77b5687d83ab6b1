"""Telemetry of canaries and controls, as devices would write it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

NEW = "sha256:" + "aa" * 32
OLD = "sha256:" + "bb" * 32
NOW = 1_790_000_000.0

PLAN = """\
plan: canary
seq: 1
environment: virtual
strategy:
  canary:
    steps:
      - setWeight: 10
      - setWeight: 50
      - pause: {duration: 1 h}
      - setWeight: 100
    analysis:
      minDevices: 3
      minInferences: 60
      metrics:
        - name: latency
          measure: p95-ratio-upper
          successCondition: result < 2
          failureCondition: result >= 2
        - name: answers
          measure: shadow-disagreement
          successCondition: result <= 0.05
          failureCondition: result > 0.05
"""


def line(device: str, group: str, **changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(sum(device.encode()))
    latencies = (5e6 * rng.lognormal(0, 0.1, size=100)).astype(np.int64)
    value: dict[str, Any] = {
        "device": device,
        "group": group,
        "artifact": NEW if group == "canary" else OLD,
        "environment": "virtual",
        "started_at": NOW - 600,
        "device_hours": 1.0,
        "inferences": 100,
        "latencies_ns": latencies.tolist(),
        "sessions": 20,
        "crashes": 0,
        "shadow_compared": 50 if group == "canary" else 0,
        "shadow_disagreements": 0,
    }
    if "slower" in changes:
        value["latencies_ns"] = (latencies * changes.pop("slower")).astype(np.int64).tolist()
    return {**value, **changes}


def write(directory: Path, lines: list[dict[str, Any]]) -> Path:
    """One file per device."""
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("*.jsonl"):
        old.unlink()
    for one in lines:
        with (directory / f"{one['device']}.jsonl").open("a") as file:
            file.write(json.dumps(one) + "\n")
    return directory


def fleet(*, devices: int = 4, **canary: Any) -> list[dict[str, Any]]:
    return [
        *(line(f"c{i}", "canary", **canary) for i in range(devices)),
        *(line(f"d{i}", "control") for i in range(devices)),
    ]
