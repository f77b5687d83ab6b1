"""Hardware-in-the-loop testing of AI models on edge boards.

The public names. Importing this imports nothing heavy: the plugin is loaded by every pytest run.
"""

from pytest_edgehil.errors import (
    BoardError,
    EdgehilError,
    GateFailure,
    Inconclusive,
    InvalidMeasurement,
    ModelError,
    UserError,
)

__all__ = [
    "BoardError",
    "EdgehilError",
    "GateFailure",
    "Inconclusive",
    "InvalidMeasurement",
    "ModelError",
    "UserError",
]
