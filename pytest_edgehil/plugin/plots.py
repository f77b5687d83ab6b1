"""Where the plugin meets `pytest_edgehil.reporting.plots`: the worker promises pictures, the controller draws them.

Without matplotlib, or with ``--edgehil-plots=off``, none are promised; no test ever fails because of one.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_edgehil.errors import ConfigError
from pytest_edgehil.plugin.allure import sink_of

if TYPE_CHECKING:
    from pytest_edgehil.model.record import TestRecord
    from pytest_edgehil.plugin.attempt import Attempt
    from pytest_edgehil.plugin.options import Options
    from pytest_edgehil.plugin.run import Run
    from pytest_edgehil.plugin.workbench import Workbench
    from pytest_edgehil.reporting.plots.album import Drawn


def promise(attempt: Attempt, workbench: Workbench, *, allure: bool) -> None:
    """Worker: name the pictures of this attempt among its files, and keep the sample that they are drawn from.

    Raises:
        ConfigError: the directory of the run cannot be written to.
    """
    options = workbench.options
    if not attempt.verdicts or not (allure or options.report is not None) or not _wanted(options):
        return
    from pytest_edgehil.evidence import raw
    from pytest_edgehil.reporting.plots import album

    sample = attempt.sample
    promised = album.pictures(attempt.slug, attempt.gates, attempt.verdicts, sample, file_format=options.plots)
    if not promised:
        return
    if "samples" not in attempt.files:  # there is no report, but Allure
        path = attempt.directory / "samples" / f"{attempt.slug}.json.gz"
        try:
            raw.write_sample(path, sample, attempt.record().gates)
        except OSError as problem:
            raise ConfigError(f"{path} cannot be written: {problem.strerror}; set TMPDIR to another place") from problem
        attempt.files["samples"] = str(path.relative_to(attempt.directory))
    attempt.files |= {one.purpose: one.path for one in promised}


def draw(
    config: pytest.Config, options: Options, records: Sequence[TestRecord], *, run: Run, hurried: bool = False
) -> Drawn:
    """Controller: draw what was promised, into the report and into Allure's results.

    Args:
        hurried: somebody has pressed Ctrl-C and waits: only as many as a few seconds allow.
    """
    from pytest_edgehil.reporting.plots import album, canvas

    if not any(album.is_picture(path) for one in records for path in one.files.values()):
        return album.Drawn(records=tuple(records), count=0, problems=())
    results = None if sink_of(config) is None else Path(config.option.allure_report_dir)

    def publish(record: TestRecord, path: str, drawn: Path | str) -> None:
        if results is None:
            return
        target = results / album.allure_name(record, path)
        if isinstance(drawn, Path):
            shutil.copyfile(drawn, target)
        else:
            target.write_bytes(canvas.apology(f"no picture: {drawn}", file_format=options.plots))

    return album.draw_all(
        records,
        run.directory,
        file_format=options.plots,
        clock=time.monotonic,
        publish=publish,
        time_s=album.HURRIED_S if hurried else album.TIME_S,
    )


def hint(options: Options, records: Sequence[TestRecord], *, allure: bool) -> str:
    """One line when there would have been pictures, had matplotlib been there; otherwise empty."""
    if options.plots == "off" or not (allure or options.report is not None) or _wanted(options):
        return ""
    from pytest_edgehil.reporting.plots.canvas import EXTRA

    judged = any(one.verdicts for one in records)
    return f"no plots: matplotlib is not installed; run: pip install '{EXTRA}'" if judged else ""


def _wanted(options: Options) -> bool:
    from pytest_edgehil.reporting.plots.canvas import available

    return options.plots != "off" and available()
