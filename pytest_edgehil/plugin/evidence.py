"""Where the plugin meets `pytest_edgehil.evidence`: statements in the worker, envelopes in the controller."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_edgehil.model.record import TestRecord
    from pytest_edgehil.plugin.options import Options
    from pytest_edgehil.plugin.run import Run


def write(options: Options, run: Run, records: Sequence[TestRecord]) -> Path:
    """Controller: seal what the boards signed; see `evidence.write.write_evidence`."""
    raise RuntimeError
