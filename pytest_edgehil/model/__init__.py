"""Frozen values that every layer speaks. Nothing here does anything, and nothing heavy is imported."""

from pytest_edgehil.model.artifact import Artifact, Budgets, Combo, FileEntry, Manifest, Provenance, Target, Track
from pytest_edgehil.model.board import (
    Accelerator,
    Board,
    CommandPower,
    ConsoleAccess,
    Environment,
    Fault,
    PowerAccess,
    Requirement,
    Slots,
    SshAccess,
    ThermalModel,
    VirtualPower,
    VirtualSpec,
)
from pytest_edgehil.model.record import ArtifactRef, Attestation, BoardRef, GateUse, Status, Step, TestRecord
from pytest_edgehil.model.sample import ColdStart, Conditions, Sample, SensorReading
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
    "Environment",
    "Fault",
    "FileEntry",
    "GateUse",
    "Manifest",
    "Outcome",
    "PowerAccess",
    "Provenance",
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
    "Track",
    "Verdict",
    "VirtualPower",
    "VirtualSpec",
]
