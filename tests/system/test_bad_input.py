"""Bad input: one clear line and no traceback, an exit status that says so, and every other test runs as if nothing was.

One suite with a test for each bad input runs alone and with two workers; the tests below look at what it said.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from support import bundles
from support.farm import Farm, onnx_artifact, replay_artifact
from support.keys import make_key
from support.standing_farm import Ran, StandingFarm, run_once

from pytest_edgehil.board.hostkey import fingerprint

WORKERS = pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "n2"])

PRELUDE = """
    import json
    import shutil
    from pathlib import Path

    import numpy as np
    import pytest

    pytestmark = [pytest.mark.combo(model="steady"), pytest.mark.board("plain")]
    X = {"image": np.ones((1, 4), dtype=np.float32)}
    HERE = Path(__file__).parent
"""

# test → decorators, body, what its one line must say
BAD: dict[str, tuple[str, str, str]] = {
    "unknown_class": (
        "board('pain')",
        "pass",
        (
            r"no board of \S*lab.yaml can ever fulfil the requirement: a board of class pain; nearest is \w+: "
            r"class is \w+, not pain; did you mean 'plain'\?"
        ),
    ),
    "unknown_id": ("board(None, id='p11')", "pass", r"board p11.*did you mean 'p1'"),
    "unknown_tag": (
        "board(tags=['cooled'])",
        "pass",
        r"with tag cooled; no board has tag cooled; p1 has everything else",
    ),
    "impossible": ("board(environment='hardware')", "pass", r"that is hardware.*environment is virtual, not hardware"),
    "near_miss": (
        "combo(model='stedy')",
        "pass",
        r"no model artifact answers to 'stedy' in \S+; did you mean steady\?",
    ),
    "several": (
        "combo(model='twin')",
        "pass",
        r"'twin' fits several artifacts: twin-1\S+, twin-2\S+; name one of them",
    ),
    "wrong_track": ("combo(firmware='steady')", "pass", r"no firmware artifact answers to 'steady': .*track model"),
    "corrupt": (
        "combo(model='rotten')",
        "pass",
        r"rotten-1\.0\.0\S*\.tar\.gz: .*(corrupt|damaged|crc|CRC|digest|gzip)",
    ),
    "lying": ("combo(model='liar')", "pass", r"liar\.tar\.gz: .*model\.onnx.*sha256:\w+.*sha256:\w+"),
    "traversal": ("combo(model='climber')", "pass", r"climber\.tar\.gz: .*\.\./\.\./evil.*refused"),
    "wrong_target": (
        "combo(model='elsewhere')",
        "pass",
        r"elsewhere 1\.0\.0\S* .*fits no board of lab bad: on p1: .*made for board class pi6-\*, the board is plain",
    ),
    "no_heldout": ("filterwarnings('error')", "heldout('digits')", r"held-out set 'digits' not found; looked at \S+"),
    "wrong_feeds": (
        "filterwarnings('error')",
        "dut.run({'picture': X['image']})",
        r"the model takes image float32.*; the feeds are picture",
    ),
    "no_names": ("filterwarnings('error')", "dut.run(X['image'])", r"the feeds are a ndarray, expected a mapping"),
}
GOOD = {"test_good", "test_wrong_host_key", "test_no_runtime"}


def suite() -> str:
    bad = "".join(
        f"\n    @pytest.mark.{decorator}\n    def test_{name}(dut, heldout):\n        {body}\n"
        for name, (decorator, body, _) in BAD.items()
    )
    return f"""{PRELUDE}
    @pytest.mark.board("keyed")
    def test_wrong_host_key(dut):
        dut.run(X)

    @pytest.mark.board("bare")
    @pytest.mark.combo(model="digits")
    def test_no_runtime(dut):
        dut.run({{"image": np.zeros((1, 1, 8, 8), dtype=np.float32)}})
{bad}
    def test_good(dut):
        dut.run(X)
"""


def lab(*, wrong_host_key: str) -> str:
    """Two boards each: plain ones, of which nothing is wrong; of two others the first one is not as it should be."""
    boards: dict[str, dict[str, Any]] = {
        name: {
            "class": cls,
            "environment": "virtual",
            "power": {"backend": "virtual"},
            "virtual": {"serial": f"{number:016x}"},
        }
        for number, (name, cls) in enumerate(
            {"p1": "plain", "p2": "plain", "k1": "keyed", "k2": "keyed", "r1": "bare", "r2": "bare"}.items(), start=1
        )
    }
    boards["k1"]["ssh"] = {"host_key": wrong_host_key}
    boards["r1"]["virtual"]["runtimes"] = []
    return json.dumps({"lab": "bad", "lease_expiry": "60 s", "boards": boards})


def bad_artifacts(directory: Path) -> None:
    replay_artifact(directory, name="steady")
    onnx_artifact(directory)
    onnx_artifact(directory, name="elsewhere", board_classes=("pi6-*",))
    for version in ("1.0.0", "2.0.0"):
        contents = {"model.onnx": version.encode()}
        told = bundles.manifest_json(contents, name="twin", version=version)
        bundles.archive(
            directory / f"twin-{version}.tar.gz",
            [bundles.member("manifest.json", told), bundles.member("model.onnx", contents["model.onnx"])],
        )
    rotten = replay_artifact(directory, name="rotten").path
    data = bytearray(rotten.read_bytes())
    data[-12] ^= 0x10
    rotten.write_bytes(data)
    bundles.archive(
        directory / "liar.tar.gz",
        [
            bundles.member("manifest.json", bundles.manifest_json({"model.onnx": b"honest"}, name="liar")),
            bundles.member("model.onnx", b"forged"),
        ],
    )
    contents = {"model.onnx": b"weights"}
    bundles.archive(
        directory / "climber.tar.gz",
        [
            bundles.member("manifest.json", bundles.manifest_json(contents, name="climber")),
            bundles.member("../../evil", b"weights"),
            bundles.member("model.onnx", b"weights"),
        ],
    )


@pytest.fixture(scope="module", params=[(), ("-n2",)], ids=["alone", "n2"])
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    def prepare(farm: StandingFarm) -> None:
        farm.lab.write_text(lab(wrong_host_key=make_key(farm.path / "other").public))
        bad_artifacts(farm.artifacts)
        farm.suite(suite())

    return run_once(tmp_path_factory, f"bad-input{''.join(request.param)}", prepare, "-rA", *request.param)


@pytest.mark.parametrize("name", BAD)
def test_each_bad_input_is_one_line_that_says_what_is_wrong(ran: Ran, name: str):
    (attempt,) = ran.attempts[f"test_{name}"]
    assert attempt["status"] == "error"
    assert re.search(BAD[name][2], attempt["message"]), attempt["message"]
    assert attempt["message"][0].islower() or not attempt["message"][0].isalpha() or attempt["message"][0] == "'"
    assert sum(attempt["message"] == line for line in ran.result.outlines) == 1, "the line itself, once, unbroken"


def test_nothing_is_a_traceback(ran: Ran):
    assert "Traceback" not in ran.output
    assert [line for line in ran.result.outlines if re.match(r"(>|E ) ", line)] == []


def test_nothing_is_lost_and_the_exit_status_says_that_something_is_wrong(ran: Ran):
    assert set(ran.attempts) == {f"test_{name}" for name in BAD} | GOOD
    assert {name: ran.attempts[name][-1]["status"] for name in GOOD} == dict.fromkeys(GOOD, "passed")
    assert ran.result.ret == pytest.ExitCode.TESTS_FAILED
    assert not (ran.farm.path.parent / "evil").exists()


def test_a_wrong_host_key_quarantines_the_board_and_names_both_fingerprints(ran: Ran):
    (attempt,) = ran.attempts["test_wrong_host_key"]  # it is found out before the board is handed out
    assert attempt["board"]["id"] == "k2"
    assert ran.states["k1"]["state"] == "quarantined"
    reason = ran.states["k1"]["reason"]
    pinned = json.loads(ran.farm.lab.read_text())["boards"]["k1"]["ssh"]["host_key"]
    assert fingerprint(base64.b64decode(pinned.split()[1])) in reason
    assert len(set(re.findall(r"SHA256:[A-Za-z0-9+/]{43}", reason))) == 2


def test_a_board_without_the_runtime_is_passed_over_for_one_that_has_it(ran: Ran):
    first, second = ran.attempts["test_no_runtime"]
    assert (first["board"]["id"], second["board"]["id"]) == ("r1", "r2")
    assert ran.states["r1"]["state"] == "quarantined"
    assert "onnxruntime" in ran.states["r1"]["reason"]


def test_no_bad_input_costs_a_board(ran: Ran):
    assert {one: ran.states[one]["state"] for one in ("p1", "p2", "k2", "r2")} == dict.fromkeys(
        ("p1", "p2", "k2", "r2"), "free"
    )


# --- options ----------------------------------------------------------------------------------------------------

ONE = """
    def test_it(board):
        pass
"""


def refused(farm: Farm, *arguments: str) -> str:
    """The one line that a run is refused with."""
    result = farm.run(*arguments)
    output = result.stdout.str() + result.stderr.str()
    assert result.ret == pytest.ExitCode.USAGE_ERROR, output
    assert "Traceback" not in output
    (line,) = [one for one in result.errlines + result.outlines if one.startswith("ERROR: ")]
    return line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--edgehil-board-class=pi5-16gb"], r"class pi5-16gb; nearest is b1"),
        (["--edgehil-board-class=pi5-16gb", "-n", "auto"], r"class pi5-16gb; nearest is b1"),
        (["--edgehil-board=b9", "-n2"], r"board b9; nearest is b1: it is b1, not b9"),
        (["--edgehil-trust=nowhere.yaml"], r"--edgehil-trust: nowhere.yaml is no file"),
        (["--edgehil-policy=nowhere.yaml"], r"--edgehil-policy: nowhere.yaml is no file"),
        (["--edgehil-trust=rubbish.yaml"], r"rubbish.yaml:2: "),
        (["--edgehil-policy=rubbish.yaml", "-n2"], r"rubbish.yaml:2: "),
    ],
)
def test_an_option_that_cannot_be_used_is_refused_before_anything_runs(farm: Farm, arguments, says):
    farm.pytester.makepyfile(ONE)
    (farm.pytester.path / "rubbish.yaml").write_text("rubbish: [1\n")
    line = refused(farm, *arguments)
    assert re.search(says, line), line
    assert not farm.report.exists()


@WORKERS
def test_a_report_directory_that_cannot_be_written_is_one_line(farm: Farm, workers):
    farm.pytester.makepyfile(ONE)
    farm.report.write_text("a file")
    line = refused(farm, *workers)
    assert re.search(r"--edgehil-report: \S+report cannot be written: .*; name another directory", line), line


def test_files_that_are_not_ours_are_never_replaced(farm: Farm):
    farm.pytester.makepyfile(ONE)
    (farm.report / "samples").mkdir(parents=True)
    (farm.report / "samples" / "thesis.txt").write_text("three years of work")
    line = refused(farm)
    assert re.search(r"--edgehil-report: \S+report holds samples, which would be replaced, but", line), line
    assert (farm.report / "samples" / "thesis.txt").read_text() == "three years of work"


@WORKERS
def test_a_report_directory_in_use_is_left_to_who_uses_it(farm: Farm, workers):
    farm.pytester.makepyfile(
        test_outer=f"""
        import os
        import subprocess
        import sys

        def test_second_run_is_refused(board):
            told = subprocess.run(
                [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "inner.py", *{farm.arguments(*workers)!r}],
                capture_output=True,
                text=True,
                env={{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}},
            )
            assert told.returncode == 4, told.stdout
            assert "is in use by process" in told.stderr, told.stderr
            assert "wait for it, or name another directory" in told.stderr
        """,
        inner=ONE,
    )
    farm.run("test_outer.py", *workers).assert_outcomes(passed=1)
    assert len(farm.results["tests"]) == 1
    farm.run("test_outer.py", "-k", "nothing_at_all", *workers)  # and when it has ended, the directory is free again


# --- what changes during a run ------------------------------------------------------------------------------------

CHANGES = """
    import json
    import shutil
    from pathlib import Path

    import numpy as np
    import pytest

    HERE = Path(__file__).parent
    SAMPLES = HERE / "report" / "samples"
    X = {"image": np.ones((1, 4), dtype=np.float32)}
    pytestmark = [pytest.mark.combo(model="steady"), pytest.mark.p95_latency("12 ms")]

    def test_the_lab_file_goes(dut):
        (HERE / "lab.yaml").write_text("boards: gone\\n")
        dut.run(X)

    def test_samples_cannot_be_written(dut):
        shutil.rmtree(SAMPLES)
        SAMPLES.write_text("a file")
        dut.run(X)

    def test_after(dut):
        SAMPLES.unlink()
        dut.run(X)
"""


def test_what_changes_during_a_run_costs_at_most_the_test_it_hits(farm: Farm):
    farm.pytester.makepyfile(CHANGES)
    result = farm.run()
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*--edgehil-report: *samples* cannot be written: *"])
    assert "Traceback" not in result.stdout.str()
    statuses = {one["nodeid"].rpartition("::")[2]: one["status"] for one in farm.results["tests"]}
    assert statuses == {
        "test_the_lab_file_goes": "passed",
        "test_samples_cannot_be_written": "error",
        "test_after": "passed",
    }


def test_a_lab_file_that_breaks_between_two_workers_is_one_line_and_no_internal_error(farm: Farm):
    shutil.copy(farm.lab, farm.pytester.path / "lab.bak")
    farm.pytester.makepyfile(
        conftest="""
        from pathlib import Path

        def pytest_sessionstart(session):
            if hasattr(session.config, "workerinput"):  # after the controller has read it, before any worker does
                Path(__file__).with_name("lab.yaml").write_text("boards: gone\\n")
        """,
        test_suite="""
        def test_it(board):
            pass

        def test_host():
            pass
        """,
    )
    result = farm.run("-n2")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*lab.yaml:1: boards: *"])
    assert "Traceback" not in result.stdout.str()
