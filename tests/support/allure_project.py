"""A pytest project whose tests end in every way there is, reported to Allure through the sink alone.

It stands for the plugin: the records are those of `support.records`, and the hooks call the sink when the plugin
does. The tests really raise what their records say, so that allure-pytest sees what it sees in a farm run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CONFTEST = """
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from support import records as make

from pytest_edgehil.reporting import allure_files

REPORT = Path("report").resolve()


def record_of(name):
    files = {"samples": "samples/" + name + ".json", "console": "console/pi5.log"}
    recorded = {
        "test_digits": make.passed(),
        "test_coarse": make.failed(),
        "test_close_call": make.inconclusive(),
        "test_hot": make.invalid(),
        "test_survives": make.passed(3, test="test_survives"),
        "test_nobody_left": make.infrastructure(),
        "test_typo": make.error(),
        "test_parity[8]": replace(make.passed(2), nodeid="test_parity[8]", verdicts=()),
        "test_parity[16]": replace(make.passed(2), nodeid="test_parity[16]", verdicts=()),
    }.get(name)
    if recorded is None:
        return None
    return replace(recorded, files=files) if recorded.verdicts else recorded


def write_files():
    for directory in ("samples", "console"):
        (REPORT / directory).mkdir(parents=True, exist_ok=True)
    for name in ("test_digits", "test_coarse", "test_close_call", "test_survives"):  # that of test_hot is missing
        (REPORT / "samples" / (name + ".json")).write_text('{"latencies_ns": [9820000, 9710000]}')
    (REPORT / "console" / "pi5.log").write_text("[    0.000000] Booting Linux on physical CPU 0x0\\n")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    if hasattr(config, "workerinput"):
        config.option.clean_alluredir = False


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session):
    config = session.config
    if not config.pluginmanager.has_plugin("allure_listener"):
        return
    from pytest_edgehil.reporting.allure_sink import AllureSink

    write_files()
    sink = AllureSink(REPORT, inconclusive=os.environ.get("INCONCLUSIVE", "broken"), lab="virtual-demo")
    config.pluginmanager.register(sink, "edgehil_allure")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    report = yield
    sink = item.config.pluginmanager.get_plugin("edgehil_allure")
    record = record_of(item.name)
    if report.when == "teardown" and sink is not None and record is not None:
        sink.attach(item.nodeid, replace(record, nodeid=item.nodeid))
    return report


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem, report, sched):
    sink = sched.config.pluginmanager.get_plugin("edgehil_allure")
    worker = report.node.gateway.id
    sink.crashed(
        replace(
            make.error(),
            nodeid=crashitem,
            worker=worker,
            message="worker " + worker + " died",
            started_at=time.time(),
            duration_s=0.0,
        )
    )


def pytest_sessionfinish(session):
    sink = session.config.pluginmanager.get_plugin("edgehil_allure")
    if sink is None or hasattr(session.config, "workerinput"):
        return
    sink.report_quarantined(make.QUARANTINED)
    allure_files.write_run_files(
        Path(session.config.option.allure_report_dir),
        make.farm_run(),
        lab="virtual-demo",
        run={"run": "20261120T120000Z-1234", "pytest-edgehil": "0.1.0"},
        environ={},
    )
"""

TESTS = '''
import os
import signal

import pytest

from pytest_edgehil.errors import BoardError, GateFailure, Inconclusive, InvalidMeasurement


def test_digits():
    """The quantised digits model keeps what was promised for it.

    Accuracy against fp32, p95 latency and memory on one board.
    """


def test_coarse():
    raise GateFailure("accuracy: agrees with digits-fp32 on 81.2% of 540 items")


def test_close_call():
    raise Inconclusive("p95_latency: 1000 inferences could not decide")


def test_hot():
    raise InvalidMeasurement("p95_latency: the board throttled")


def test_survives():
    pass


def test_nobody_left():
    raise BoardError("no board of class pi5-4gb is left")


def test_typo():
    heldot


@pytest.mark.parametrize("size", [8, 16])
def test_parity(size):
    assert size == 8, "logits differ by 0.3"


def test_without_a_board():
    pass


@pytest.mark.skipif("WORKER_DIES" not in os.environ, reason="nobody dies today")
@pytest.mark.parametrize("what", ["kill"])
def test_dies(what):
    os.kill(os.getpid(), signal.SIGKILL)
'''


def make_project(directory: Path) -> None:
    """Write the project into an empty directory."""
    (directory / "pyproject.toml").write_text("[tool.pytest.ini_options]\n", encoding="utf-8")
    (directory / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    suites = directory / "suites"
    suites.mkdir()
    (suites / "test_digits.py").write_text(TESTS, encoding="utf-8")


def run_project(directory: Path, *arguments: str, **environment: str) -> Path:
    """Run it and return the directory with Allure's results.

    The results go where ``--alluredir=`` says: the form with a space shifts pytest's root directory.
    """
    options = ["-p", "no:edgehil", "-p", "no:cacheprovider", "--alluredir=allure-results"]
    outcome = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "suites", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    print(outcome.stdout, outcome.stderr)  # pytest shows it when the test fails
    assert outcome.returncode in {0, 1, 5}, "neither passed, failed nor nothing to run"
    assert "INTERNALERROR" not in outcome.stdout + outcome.stderr
    return directory / "allure-results"
