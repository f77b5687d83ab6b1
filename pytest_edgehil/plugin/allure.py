"""Joining allure-pytest: only when it is installed *and* ``--alluredir`` was given."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_edgehil.plugin.stash import OPTIONS, WORKBENCH

if TYPE_CHECKING:
    from pytest_edgehil.model.record import TestRecord
    from pytest_edgehil.reporting.allure_sink import AllureSink

SINK = "edgehil_allure"


def join(config: pytest.Config) -> None:
    """Register the sink that puts verdicts, steps and attachments into the Allure results."""
    from pytest_edgehil.reporting.allure_sink import AllureSink

    options, workbench = config.stash[OPTIONS], config.stash[WORKBENCH]
    lab = "" if options.lab is None else workbench.lab.name
    config.pluginmanager.register(AllureSink(workbench.run.directory, inconclusive=options.inconclusive, lab=lab), SINK)


def sink_of(config: pytest.Config) -> AllureSink | None:
    """The sink, if there is one."""
    found: AllureSink | None = config.pluginmanager.get_plugin(SINK)
    return found


def write_run(
    config: pytest.Config,
    records: Sequence[TestRecord],
    *,
    run_id: str,
    error_rate: str,
    quarantined: Mapping[str, str],
) -> None:
    """Controller: what belongs to the whole run."""
    from pytest_edgehil.reporting.allure_files import write_run_files

    sink = sink_of(config)
    if sink is None:
        return
    options, workbench = config.stash[OPTIONS], config.stash[WORKBENCH]
    sink.report_quarantined(quarantined)
    write_run_files(
        Path(config.option.allure_report_dir),
        records,
        lab="" if options.lab is None else workbench.lab.name,
        run={"id": run_id, **({"error rate": error_rate} if error_rate else {})},
        environ=os.environ,
    )
