"""Joining allure-pytest: only when it is installed *and* ``--alluredir`` was given."""

from __future__ import annotations

import pytest

from pytest_edgehil.plugin.fixtures import OPTIONS, WORKBENCH

SINK = "edgehil_allure"


def join(config: pytest.Config) -> None:
    """Register the sink that puts verdicts, steps and attachments into the Allure results."""
    from pytest_edgehil.reporting.allure_sink import AllureSink

    sink = AllureSink(config.stash[WORKBENCH].run.directory, inconclusive=config.stash[OPTIONS].inconclusive)
    config.pluginmanager.register(sink, SINK)
