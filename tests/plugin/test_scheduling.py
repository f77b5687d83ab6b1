"""Under ``-n`` with a lab: who runs what on which board, what comes of boards and workers that die, and beside whom."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict

import pytest
from support.farm import Farm, replay_artifact
from support.standing_farm import Ran, StandingFarm, run_once

COMBOS, EACH = 3, 4

PRELUDE = """
    import os
    import signal
    from pathlib import Path

    import numpy as np
    import pytest

    from pytest_edgehil.model import Fault

    X = {"image": np.ones((1, 4), dtype=np.float32)}
    HERE = Path(__file__).parent

    def first_time(name):
        try:
            (HERE / f"{name}.first").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True
"""

# the last parameter varies most slowly: every test is of another combo than the one before
MANY = f"""
    @pytest.mark.parametrize("combo", [f"m{{at}}" for at in range({COMBOS})], indirect=True)
    @pytest.mark.parametrize("number", range({EACH}))
    def test_many(dut, number):
        dut.run(X)

    @pytest.mark.board("pi5-8gb-*")
    @pytest.mark.parametrize("number", range(3))
    def test_of_a_class(board, number):
        assert board.board.cls == "pi5-8gb-hat2"

    @pytest.mark.board("pi6-*")
    def test_of_a_class_that_is_not_there(board):
        raise AssertionError("never run")

    def test_on_the_host(worker_id):
        assert worker_id in ("gw0", "gw1")
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    def prepare(farm: StandingFarm) -> None:
        farm.boards(2)
        for at in range(COMBOS):
            replay_artifact(farm.artifacts, name=f"m{at}")
        farm.suite(PRELUDE + MANY)

    return run_once(tmp_path_factory, "scheduling-many", prepare, "-n", "auto", "-v")


def test_auto_is_one_worker_for_each_free_board(many: Ran):
    assert {one["worker"] for found in many.attempts.values() for one in found} == {"gw0", "gw1"}
    many.result.assert_outcomes(passed=COMBOS * EACH + 4, errors=1)
    many.result.stdout.fnmatch_lines(["scheduling tests via AffineScheduler"])


def test_a_board_is_flashed_once_for_each_combo_that_it_runs(many: Ran):
    of_board: dict[str, list[str]] = defaultdict(list)
    for name, (one,) in sorted(many.attempts.items(), key=lambda found: found[1][0]["started_at"]):
        if name.startswith("test_many"):
            of_board[one["board"]["id"]].append(one["combo"][0]["name"])
    assert len(of_board) == 2
    for combos in of_board.values():
        switches = sum(a != b for a, b in zip(["", *combos], combos, strict=False))
        assert switches == len(set(combos)), combos
    assert sum(len(set(combos)) for combos in of_board.values()) <= COMBOS + 1


def test_each_test_runs_on_a_board_that_does_for_it_and_who_fits_none_says_so(many: Ran):
    told = {name: found[0] for name, found in many.attempts.items()}
    assert {told[f"test_of_a_class[{at}]"]["board"]["id"] for at in range(3)} == {"b1"}
    assert told["test_of_a_class_that_is_not_there"]["status"] == "error"
    assert "can ever fulfil" in told["test_of_a_class_that_is_not_there"]["message"]


def test_durations_and_flash_costs_are_kept_for_the_next_run(many: Ran):
    (path,) = many.farm.state.glob("labs/*/durations.json")
    rows = json.loads(path.read_text())["took"]
    tests = {(nodeid.rpartition("::")[2], combo) for nodeid, combo, *_ in rows if nodeid}
    assert ("test_many[0-m1]", "model=m1") in tests
    assert ("test_on_the_host", "") in tests
    assert not any("not_there" in name for name, _ in tests)
    assert {combo for nodeid, combo, *_ in rows if not nodeid} == {f"model=m{at}" for at in range(COMBOS)}


def test_nothing_is_left_of_what_workers_and_scheduler_told_each_other(many: Ran):
    assert not (many.farm.report / ".schedule").exists()
    assert [name for name in many.farm.left_in_tmp if "edgehil" in name] == []


# --- boards and workers that die ----------------------------------------------------------------------------------

DYING = """
    pytestmark = [pytest.mark.combo(model="m0")]

    @pytest.mark.parametrize("number", range(2))
    def test_breaks_its_board(request, board, dut, number):
        dut.run(X)
        if number == 0 and first_time("breaks"):
            board.virtual.inject(Fault(kind="panic"))
            board.power.off()
            dut.run(X)

    def test_kills_its_worker(board):
        if first_time("kills"):
            os.kill(os.getpid(), signal.SIGKILL)

    def test_always_kills_its_worker(board):
        os.kill(os.getpid(), signal.SIGKILL)

    @pytest.mark.parametrize("number", range(4))
    def test_calm(board, dut, number):
        dut.run(X)
"""


@pytest.fixture(scope="module")
def dying(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    def prepare(farm: StandingFarm) -> None:
        farm.boards(3)
        replay_artifact(farm.artifacts, name="m0")
        farm.suite(PRELUDE + DYING)

    return run_once(
        tmp_path_factory, "scheduling-dying", prepare, "-n3", "-v", "--alluredir=allure", "--clean-alluredir"
    )


def test_a_test_whose_board_died_runs_on_another_worker_s_when_none_is_free(dying: Ran):
    first, second = dying.attempts["test_breaks_its_board[0]"]
    assert (first["status"], first["requeued"], first["attempt"]) == ("infrastructure", True, 1)
    assert (second["status"], second["requeued"], second["attempt"]) == ("passed", False, 2)
    assert first["board"]["id"] != second["board"]["id"]
    assert dying.states[first["board"]["id"]]["state"] == "quarantined"


def test_a_test_that_killed_its_worker_runs_again_once(dying: Ran):
    once, always = dying.attempts["test_kills_its_worker"], dying.attempts["test_always_kills_its_worker"]
    assert [one["status"] for one in once] == ["infrastructure", "passed"]
    assert [(one["status"], one["requeued"]) for one in always] == [("infrastructure", True), ("error", False)]
    assert all("died while it ran this test" in one["message"] for one in (once[0], *always))


def test_no_other_test_is_touched_by_that_and_every_board_is_given_back(dying: Ran):
    dying.result.assert_outcomes(passed=7, failed=1)
    assert dying.result.ret == pytest.ExitCode.TESTS_FAILED
    assert "NOT RUN" not in dying.output
    for name in ("test_breaks_its_board[1]", *(f"test_calm[{at}]" for at in range(4))):
        assert [one["status"] for one in dying.attempts[name]] == ["passed"]
    assert Counter(one["state"] for one in dying.states.values()) == {"free": 2, "quarantined": 1}


def test_allure_has_every_attempt_although_workers_were_replaced(dying: Ran):
    shown = [json.loads(path.read_text()) for path in (dying.farm.path / "allure").glob("*-result.json")]
    by_name: dict[str, list[str]] = defaultdict(list)
    for one in sorted(shown, key=lambda one: one["start"]):
        by_name[one["name"]].append(one["status"])
    assert by_name["test_kills_its_worker"] == ["broken", "passed"]
    assert by_name["test_always_kills_its_worker"] == ["broken", "broken"]
    assert by_name["test_breaks_its_board[0]"] == ["broken", "passed"]
    assert len(by_name) == 8


# --- beside others ------------------------------------------------------------------------------------------------


def test_it_works_beside_rerunfailures_timeout_randomly_and_cov(farm: Farm, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PYTEST_ADDOPTS")  # which keeps randomly out of all other tests
    farm.pytester.makepyfile(
        PRELUDE
        + """
    pytestmark = [pytest.mark.timeout(120), pytest.mark.combo(model="steady")]

    def test_flaky_host():
        assert not first_time("host")

    def test_flaky_board(board):
        assert not first_time("board")

    def test_flaky_worker(board):
        if first_time("worker"):
            os.kill(os.getpid(), signal.SIGKILL)

    @pytest.mark.parametrize("number", range(4))
    def test_calm(dut, number):
        dut.run(X)
    """
    )
    result = farm.run("-n2", "--reruns=1", "-p", "randomly", "-p", "no:cacheprovider", "--cov=.", "-v")
    output = result.stdout.str()
    assert "Using --randomly-seed=" in output
    assert "TOTAL" in output
    result.assert_outcomes(passed=6, failed=1)  # a test on a board is not run again for having failed
    result.stdout.fnmatch_lines(["FAILED *test_flaky_board*"])
    counts = re.fullmatch(r"=+ (.*) in .* =+", result.outlines[-1])
    assert counts is not None, output
    # pytest names its own first, and what plugins count in the order in which it happened, here by chance
    assert set(counts[1].split(", ")) == {"1 failed", "6 passed", "1 requeued", "1 rerun"}
    assert "NOT RUN" not in output


def test_a_dist_of_the_user_is_respected_and_all_is_learned_there_too(farm: Farm):
    farm.pytester.makepyfile(
        PRELUDE + '\n    @pytest.mark.combo(model="steady")\n    def test_it(dut):\n        pass\n'
    )
    result = farm.run("-n2", "--dist=worksteal", "-v", "--edgehil-history=kept/durations.json")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["scheduling tests via WorkStealingScheduling"])
    kept = json.loads((farm.pytester.path / "kept" / "durations.json").read_text())
    assert {(nodeid != "", combo) for nodeid, combo, *_ in kept["took"]} == {
        (True, "model=steady"),
        (False, "model=steady"),
    }


def test_maxfail_says_why_the_rest_was_not_run(farm: Farm):
    farm.pytester.makepyfile(
        PRELUDE
        + """
    @pytest.mark.parametrize("number", range(12))
    def test_it(board, number):
        assert 0
    """
    )
    result = farm.run("-n2", "--maxfail=2", "--edgehil-history=off")
    assert result.ret != pytest.ExitCode.OK
    assert len(farm.results["not_run"]) >= 6
    result.stdout.fnmatch_lines(["NOT RUN: *", "note: not all tests were run: stopping after 2 failures"])
    assert list(farm.state.glob("labs/*/durations.json")) == []
