"""Frozen values that every layer speaks. Nothing here does anything, and nothing heavy is imported.

A name's module is imported when the name is asked for: making so many dataclasses takes some 20 ms, and every pytest
run in an environment that has the plugin would pay for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_edgehil.model.artifact import Artifact, Budgets, Combo, FileEntry, Manifest, Provenance, Target, Track
    from pytest_edgehil.model.board import (
        Accelerator,
        Board,
        CommandPower,
        ConsoleAccess,
        EmulatedSpec,
        Environment,
        Fault,
        PowerAccess,
        QmpPower,
        Requirement,
        Slots,
        SshAccess,
        ThermalModel,
        Timing,
        VirtualPower,
        VirtualSpec,
    )
    from pytest_edgehil.model.record import ArtifactRef, Attestation, BoardRef, GateUse, Status, Step, TestRecord
    from pytest_edgehil.model.sample import ColdStart, Conditions, EarlierRun, Sample, SensorReading
    from pytest_edgehil.model.verdict import Demand, Outcome, Verdict

__all__ = [
    "Accelerator",
    "Artifact",
    "ArtifactRef",
    "Attestation",
    "Board",
    "BoardRef",
    "Budgets",
    "ColdStart",
    "Combo",
    "CommandPower",
    "Conditions",
    "ConsoleAccess",
    "Demand",
    "EarlierRun",
    "EmulatedSpec",
    "Environment",
    "Fault",
    "FileEntry",
    "GateUse",
    "Manifest",
    "Outcome",
    "PowerAccess",
    "Provenance",
    "QmpPower",
    "Requirement",
    "Sample",
    "SensorReading",
    "Slots",
    "SshAccess",
    "Status",
    "Step",
    "Target",
    "TestRecord",
    "ThermalModel",
    "Timing",
    "Track",
    "Verdict",
    "VirtualPower",
    "VirtualSpec",
]

_HOMES = {
    "artifact": ("Artifact", "Budgets", "Combo", "FileEntry", "Manifest", "Provenance", "Target", "Track"),
    "board": (
        *("Accelerator", "Board", "CommandPower", "ConsoleAccess", "EmulatedSpec", "Environment"),
        *(
            "Fault",
            "PowerAccess",
            "QmpPower",
            "Requirement",
            "Slots",
            "SshAccess",
            "ThermalModel",
            "Timing",
            "VirtualPower",
            "VirtualSpec",
        ),
    ),
    "record": ("ArtifactRef", "Attestation", "BoardRef", "GateUse", "Status", "Step", "TestRecord"),
    "sample": ("ColdStart", "Conditions", "EarlierRun", "Sample", "SensorReading"),
    "verdict": ("Demand", "Outcome", "Verdict"),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """A value's class, imported now."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
