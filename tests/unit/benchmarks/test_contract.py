"""Every benchmark can be run, and says what it found in one shape. No figure is judged here."""

import json
import os
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
NUMBERS = ("value", "peer_value", "ratio")
TEXTS = ("name", "unit", "peer")
QUICK = (
    "plugin/import_cost.py",
    "leases/throughput.py",
    "statistics/accuracy_drop.py",
    pytest.param("transport/commands.py", marks=[pytest.mark.needs("sshd"), pytest.mark.needs("ssh")]),
    pytest.param("flash/push.py", marks=[pytest.mark.needs("sshd"), pytest.mark.needs("ssh")]),
    pytest.param("virtual/start.py", marks=[pytest.mark.needs("sshd"), pytest.mark.needs("ssh")]),
)


@pytest.fixture
def run_all(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = util.spec_from_file_location("benchmarks_run_all", BENCHMARKS / "run_all.py")
    module = util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("bench", None)


def ran(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | environment,
    )


def check(found: dict[str, object]) -> None:
    assert set(found) >= {*NUMBERS, *TEXTS, "machine"}
    assert all(type(found[key]) is float for key in NUMBERS), found
    assert all(isinstance(found[key], str) and found[key] for key in TEXTS), found
    assert set(found["machine"]) >= {"cpu", "cpus", "memory_bytes", "os", "python", "load_average", "date"}


def test_every_script_is_run_by_run_all(run_all):
    scripts = {str(path.relative_to(BENCHMARKS)) for path in BENCHMARKS.glob("*/*.py")}
    assert scripts == {*run_all.SCRIPTS, *run_all.PARTS, *run_all.BY_HAND}


ALL_HELP = """
import contextlib, io, json, runpy, sys
told = {}
for script in sys.argv[1:]:
    said, status = io.StringIO(), None
    sys.argv = [script, "--help"]
    with contextlib.redirect_stdout(said):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as ending:
            status = ending.code
    told[script] = [status, said.getvalue()]
print(json.dumps(told))
"""


def test_every_script_has_the_common_options(run_all):
    scripts = [str(BENCHMARKS / script) for script in run_all.SCRIPTS]
    done = subprocess.run(  # one process for all: what they import costs ten times what they say
        [sys.executable, "-c", ALL_HELP, *scripts], capture_output=True, text=True, check=True, timeout=300
    )
    told = json.loads(done.stdout)
    assert list(told) == scripts
    for script, (status, said) in told.items():
        assert status == 0, script
        assert {"--json", "--json-to", "--quick"} <= set(said.replace(",", " ").split()), script


@pytest.mark.parametrize("script", QUICK)
def test_json_is_one_object_with_the_agreed_keys(script):
    done = ran(script, "--json", "--quick")
    assert done.returncode == 0, done.stderr
    check(json.loads(done.stdout))


def test_a_table_is_printed_without_json_and_the_object_goes_to_the_file(tmp_path):
    done = ran("statistics/accuracy_drop.py", "--quick", "--json-to", str(tmp_path / "figure.json"))
    assert done.returncode == 0, done.stderr
    assert "Wald" in done.stdout
    assert not done.stdout.startswith("{")
    check(json.loads((tmp_path / "figure.json").read_text()))


def test_run_all_collects_the_figures(tmp_path):
    done = ran("run_all.py", "--quick", "--json", str(tmp_path / "all.json"), "accuracy_drop")
    assert done.returncode == 0, done.stderr
    (figure,) = json.loads((tmp_path / "all.json").read_text())
    check(figure)
    assert done.stdout.splitlines()[-1].startswith(figure["name"])


def test_run_all_goes_on_after_a_failure_and_fails_then(run_all, tmp_path, monkeypatch, capfd):
    (tmp_path / "area").mkdir()
    (tmp_path / "area/broken.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "area/absent.py").write_text("raise SystemExit(77)\n")
    monkeypatch.setattr(run_all, "HERE", tmp_path)
    monkeypatch.setattr(run_all, "SCRIPTS", ("area/broken.py", "area/absent.py"))
    monkeypatch.setattr(sys, "argv", ["run_all.py"])
    assert run_all.main() == 1
    told = capfd.readouterr().out
    assert "FAILED: exit status 3" in told
    assert "skipped" in told


def test_run_all_succeeds_when_a_needed_program_is_missing(run_all, tmp_path, monkeypatch):
    (tmp_path / "absent.py").write_text("raise SystemExit(77)\n")
    monkeypatch.setattr(run_all, "HERE", tmp_path)
    monkeypatch.setattr(run_all, "SCRIPTS", ("absent.py",))
    monkeypatch.setattr(sys, "argv", ["run_all.py"])
    assert run_all.main() == 0


def test_a_missing_program_is_an_error_where_it_is_required(tmp_path):
    done = ran("flash/push.py", "--quick", PATH=str(tmp_path), EDGEHIL_REQUIRE="scp")
    if done.returncode == 0:
        pytest.skip("sshd, ssh and scp are all below /usr/sbin")
    assert done.returncode == 1
    assert "not measured" in done.stderr
    assert ran("flash/push.py", "--quick", PATH=str(tmp_path), EDGEHIL_REQUIRE="").returncode == 77


def test_an_interval_encloses_the_median(run_all):
    found = run_all.bench.interval([float(value) for value in range(1, 16)])
    assert (found.median, found.low, found.high, found.n) == (8.0, 4.0, 12.0, 15)
    assert 0.95 <= found.coverage < 1.0
