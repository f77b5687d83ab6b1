"""A test whose board broke is put back once: whoever notices the broken board, and whatever the test did about it.

Every case below makes its first board panic, and is content with the second one. All of them run in one pytest run, and
one for each stage of a test with two workers; the tests of this module look at what came of it from different sides.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections import Counter

import pytest
from support.farm import Farm, replay_artifact
from support.standing_farm import Ran, StandingFarm, run_once

WORKERS = pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "n2"])

PRELUDE = """
    import os
    import subprocess
    import sys
    import time
    from pathlib import Path

    import numpy as np
    import pytest

    from pytest_edgehil.errors import BoardError, DeadlineExceeded
    from pytest_edgehil.model import Demand, Fault

    X = {"image": np.ones((1, 4), dtype=np.float32)}
    HERE = Path(__file__).parent

    def first_time(request):
        try:
            (HERE / f"{request.node.name}.first").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def breaks_once(request, board):
        if first_time(request):
            board.virtual.inject(Fault(kind="panic"))  # its last words on the console spare us the wait for some
            board.power.off()

    def note(text):
        with (HERE / "noted").open("a") as file:
            file.write(f"{os.getpid()} {text}\\n")

    def lasting(scope):
        @pytest.fixture(scope=scope)
        def fixture():
            note(f"{scope} up")
            yield scope
            note(f"{scope} down")
        return fixture

    of_session, of_module, of_class = lasting("session"), lasting("module"), lasting("class")
"""

SUITE = (
    PRELUDE
    + """
    pytestmark = [pytest.mark.combo(model="steady"), pytest.mark.usefixtures("of_session", "of_module")]

    @pytest.fixture
    def prepared(request, board):
        breaks_once(request, board)
        assert board.run("true").exit_status == 0

    def test_in_setup(prepared):
        pass

    def test_in_call(request, board, dut):
        dut.run(X)
        breaks_once(request, board)
        dut.run(X)

    @pytest.fixture
    def tidied(request, board):
        yield
        breaks_once(request, board)
        assert board.run("true").exit_status == 0

    def test_in_teardown(tidied):
        pass

    def test_swallowed(request, board, dut):
        breaks_once(request, board)
        try:
            dut.run(X)
        except BoardError:
            pass

    def test_swallowed_command(request, board):
        breaks_once(request, board)
        try:
            board.run("true")
        except BoardError:
            pass

    def test_comes_back(request, board):
        assert board.run("true").exit_status == 0
        if first_time(request):
            with pytest.raises(DeadlineExceeded):
                board.run("sleep", "600", timeout_s=0.2)
            board.virtual.inject(Fault(kind="link-cut"))
            with pytest.raises(BoardError):
                while True:
                    board.run("true")
            board.forget_link()
            assert board.run("true").exit_status == 0

    def test_assertion_after_it_broke(request, board, dut):
        breaks_once(request, board)
        try:
            answer = dut.run(X)
        except BoardError:
            answer = None
        assert answer is not None

    def test_skip_after_it_broke(request, board, dut):
        breaks_once(request, board)
        try:
            dut.run(X)
        except BoardError as problem:
            pytest.skip(str(problem))

    @pytest.mark.xfail(reason="the model is known to be wrong", strict=True)
    def test_expected_failure(request, board, dut):
        breaks_once(request, board)
        assert dut.run(X)["logits"].sum() == 99

    @pytest.mark.p95_latency("12 ms")
    def test_gate(request, board, dut):
        dut.run(X)
        breaks_once(request, board)

    class TestClass:
        @pytest.mark.parametrize("number", [1, 2])
        def test_parametrised(self, request, of_class, number, board, dut):
            note(f"class has {of_class}")
            if number == 1:
                breaks_once(request, board)
            dut.run(X)

    def test_last(of_module, of_session, board):
        assert board.run("true").exit_status == 0
"""
)

BREAKING = {
    "test_in_setup",
    "test_in_call",
    "test_in_teardown",
    "test_swallowed",
    "test_swallowed_command",
    "test_assertion_after_it_broke",
    "test_skip_after_it_broke",
    "test_expected_failure",
    "test_gate",
    "test_parametrised[1]",
}
CALM = {"test_parametrised[2]", "test_last", "test_comes_back"}
ONLY_ALONE = {"test_in_call", "test_swallowed_command", "test_assertion_after_it_broke", "test_skip_after_it_broke"}
"""What these find is reported as for others: with workers it comes to the controller in the same way."""


def breaking(ran: Ran) -> set[str]:
    """Those of `BREAKING` that are in this run."""
    return BREAKING if ran.farm.path.name == "requeue" else BREAKING - ONLY_ALONE


@pytest.fixture(scope="module", params=[(), ("-n2",)], ids=["alone", "n2"])
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    left_out = ONLY_ALONE if request.param else ()

    def prepare(farm: StandingFarm) -> None:
        farm.boards(len(BREAKING) - len(left_out) + 2)
        replay_artifact(farm.artifacts, name="steady")
        farm.suite(SUITE)

    deselected = (f"--deselect=test_suite.py::{name}" for name in left_out)
    arguments = ("-v", "-rA", "--junitxml=junit.xml", "--alluredir=allure", *deselected, *request.param)
    return run_once(tmp_path_factory, f"requeue{''.join(request.param)}", prepare, *arguments)


def noted(ran: Ran) -> list[str]:
    return (ran.farm.path / "noted").read_text().splitlines()


def test_every_test_runs_again_and_the_second_attempt_counts(ran: Ran):
    ran.result.assert_outcomes(passed=len(breaking(ran) | CALM) - 1, xfailed=1)
    assert ran.result.ret == 0
    ran.result.stdout.fnmatch_lines([f"*{len(breaking(ran))} requeued*"])


def test_both_attempts_are_in_the_results(ran: Ran):
    assert set(ran.attempts) == breaking(ran) | CALM
    for name in breaking(ran):
        first, second = ran.attempts[name]
        assert (first["status"], first["requeued"]) == ("infrastructure", True), name
        assert second["status"] == ("skipped" if name == "test_expected_failure" else "passed"), name
        assert not second["requeued"]
        assert second["board"]["id"] != first["board"]["id"]
    for name in CALM:
        assert [one["status"] for one in ran.attempts[name]] == ["passed"]


def test_each_broken_board_is_quarantined_with_the_reason_in_the_record(ran: Ran):
    broken = {ran.attempts[name][0]["board"]["id"]: ran.attempts[name][0] for name in breaking(ran)}
    assert len(broken) == len(breaking(ran))
    for board, attempt in broken.items():
        assert ran.states[board]["state"] == "quarantined"
        assert ran.states[board]["reason"] == attempt["quarantined"] == attempt["message"]
    assert all(one["state"] == "free" for board, one in ran.states.items() if board not in broken)


def test_what_the_test_made_of_the_broken_board_is_not_held_against_it(ran: Ran):
    told = {name: ran.attempts[name][0]["message"] for name in breaking(ran)}
    for name in {"test_assertion_after_it_broke", "test_skip_after_it_broke", "test_swallowed"} & told.keys():
        assert "panic" in told[name], name
    assert "the link to" in told.get("test_swallowed_command", "the link to")
    assert "assert answer is not None" not in ran.result.stdout.str()


def test_fixtures_of_class_module_and_session_survive(ran: Ran):
    # once per process, however many attempts there were
    assert set(Counter(line for line in noted(ran) if line.split()[1] in {"module", "session"}).values()) == {1}
    ups = Counter(line for line in noted(ran) if line.endswith("class up"))
    assert set(ups.values()) == {1}
    assert sum(line.endswith("class has class") for line in noted(ran)) == 3


def test_junit_has_one_case_per_test_and_it_is_the_last_attempt(ran: Ran):
    (suite,) = ET.parse(ran.farm.path / "junit.xml").getroot().iter("testsuite")
    names = Counter(case.get("name") for case in suite.iter("testcase"))
    assert names == dict.fromkeys(breaking(ran) | CALM, 1)
    assert suite.get("tests") == str(len(breaking(ran) | CALM))
    for case in suite.iter("testcase"):
        told = {one.get("name"): one.get("value") for one in case.iter("property")}
        assert told["edgehil.attempt"] == ("2" if case.get("name") in breaking(ran) else "1")


def test_allure_shows_the_first_attempt_as_a_retry(ran: Ran):
    results = [json.loads(path.read_text()) for path in (ran.farm.path / "allure").glob("*-result.json")]
    by_test: dict[str, list[str]] = {}
    for one in sorted(results, key=lambda one: one["start"]):
        by_test.setdefault(one["historyId"], []).append(one["status"])
    assert Counter(map(tuple, by_test.values())) == {
        ("broken", "passed"): len(breaking(ran)) - 1,
        ("broken", "skipped"): 1,
        ("passed",): len(CALM),
    }


def test_only_the_second_attempt_is_signed(ran: Ran):
    told = ran.farm.edgehil("evidence", "verify", str(ran.farm.report / "evidence"))
    assert "1 statement" in told.stdout
    assert [bool(one["verdicts"]) for one in ran.attempts["test_gate"]] == [False, True]


def test_nothing_is_left_in_the_temporary_directory(ran: Ran):
    assert [name for name in ran.farm.left_in_tmp if "edgehil" in name] == []


# --- rights to a board, and what is no fault of it ----------------------------------------------------------------

LEASES = (
    PRELUDE
    + """
    pytestmark = [pytest.mark.combo(model="steady")]

    def edgehil(*arguments):
        subprocess.run([sys.executable, "-m", "pytest_edgehil", *arguments], check=True, capture_output=True)

    def release(board):
        edgehil("lab", "release", board.id, "--lab", str(HERE / "lab.yaml"), "--reason", "a test of ours")

    def rival(board):
        from pytest_edgehil.lab.inventory import load_lab
        from pytest_edgehil.lab.leases import default_holder
        from pytest_edgehil.lab.reservation import reserve
        from pytest_edgehil.lab.store import open_store
        from pytest_edgehil.model.requirement import Requirement

        lab = load_lab(HERE / "lab.yaml")
        return reserve(
            lab, (Requirement(board_id=board.id),), store=open_store(lab), holder=default_holder(), wait_s=60
        )

    def test_lease_is_taken_away(request, board, dut):
        if first_time(request):
            release(board)
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                dut.run(X)
                time.sleep(0.05)
        dut.run(X)

    @pytest.mark.combo(model="digits")
    def test_lease_is_taken_away_during_a_measurement(request, board, dut):
        dut.run({"image": np.zeros((1, 1, 8, 8), dtype=np.float32)})
        if first_time(request):
            release(board)
            dut.measure_more(Demand(seconds=60.0))

    def lose(board):
        release(board)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                board.check()
            except BoardError:
                return
            time.sleep(0.05)

    def test_lease_is_lost_after_the_last_word(request, board):
        if first_time(request):
            lose(board)

    @pytest.fixture
    def lost_at_last(board):
        yield
        lose(board)

    def test_lease_is_lost_when_nothing_can_happen_to_it_any_more(lost_at_last, dut):
        dut.run(X)

    def test_next_one_does_not_care(board, dut):
        dut.run(X)

    @pytest.fixture
    def rivals():
        held = []
        yield held
        for one in held:
            one.release()

    def test_fenced_by_a_rival(request, board, dut, rivals):
        from pytest_edgehil.board.session import BoardSession

        dut.run(X)
        if first_time(request):
            release(board)
            rivals.append(rival(board))
            session = BoardSession(board.board, token=rivals[0].leases[0].token, holder="rival")
            session.client
            session.close()
            dut.run(X)

    def test_rival_switches_the_board_off(request, board, dut, rivals):
        dut.run(X)
        if first_time(request):
            release(board)
            rivals.append(rival(board))
            board.virtual.inject(Fault(kind="power-cut"))
            dut.run(X)

    def test_wrong(board):
        assert board.id == "somebody else's"

    def test_never_reached(board):
        raise AssertionError("never reached")
"""
)


@WORKERS
def test_a_lost_right_to_a_board_is_nobody_s_fault(farm: Farm, workers):
    farm.boards(2, expiry="15 s")  # that a lease is lost is noticed when it is to be renewed: every 5 s
    farm.pytester.makepyfile(LEASES)
    more = (
        ("-x",)
        if not workers
        else ("--deselect=test_a_lost_right_to_a_board_is_nobody_s_fault.py::test_never_reached",)
    )
    result = farm.run("-v", *more, *workers)
    result.assert_outcomes(passed=7, failed=1)
    by_test: dict[str, list[str]] = {}
    for one in farm.results["tests"]:
        by_test.setdefault(one["nodeid"].rpartition("::")[2], []).append(one["status"])
        assert not one["quarantined"]
    assert by_test.pop("test_wrong") == ["failed"]
    assert by_test.pop("test_lease_is_lost_when_nothing_can_happen_to_it_any_more") == ["passed"]
    assert by_test.pop("test_next_one_does_not_care") == ["passed"]
    assert by_test == {
        name: ["infrastructure", "passed"]
        for name in (
            "test_lease_is_taken_away",
            "test_lease_is_taken_away_during_a_measurement",
            "test_lease_is_lost_after_the_last_word",
            "test_fenced_by_a_rival",
            "test_rival_switches_the_board_off",
        )
    }
    assert {one["state"] for one in farm.board_states().values()} == {"free"}
    if not workers:  # -x stopped at the failure, and not at a requeued attempt
        assert "test_never_reached" in "".join(farm.results["not_run"])


@WORKERS
def test_books_that_cannot_be_read_are_no_internal_error(farm: Farm, workers):
    # nobody renews a lease in unreadable books: it must not run out before the board is to be quarantined
    farm.boards(2, expiry="10 min")
    farm.pytester.makepyfile(
        PRELUDE
        + """
    def test_it(request, board):
        (books,) = (Path(os.environ["EDGEHIL_STATE_DIR"]) / "labs" / "farm").glob("*.db")
        for path in books.parent.glob("*.db*"):
            path.write_bytes(b"rubbish" * 1000)
        board.virtual.inject(Fault(kind="power-cut"))
        board.run("true")

    def test_host():
        pass
    """
    )
    result = farm.run(*workers)
    result.assert_outcomes(passed=1, errors=1)
    (attempt,) = [one for one in farm.results["tests"] if "test_it" in one["nodeid"]]
    assert attempt["status"] == "infrastructure"
    assert "could not be quarantined" in attempt["message"]
    assert "Traceback" not in result.stdout.str()


def test_a_board_is_only_asked_for_in_the_open(farm: Farm):
    farm.pytester.makepyfile(
        PRELUDE
        + """
    @pytest.mark.combo(model="steady")
    def test_in_secret(request):
        request.getfixturevalue("dut")

    @pytest.mark.combo(model="steady")
    def test_without_a_board(combo):
        assert combo.model.manifest.name == "steady"

    @pytest.mark.xfail(strict=True, reason="it must not pass")
    def test_passes_against_expectation(board):
        pass

    def test_skips(board):
        pytest.skip("not today")
    """
    )
    result = farm.run("-ra")
    result.assert_outcomes(passed=1, failed=2, skipped=1)
    result.stdout.fnmatch_lines(["*test_in_secret asks for 'combo' with getfixturevalue only; name 'board' or 'dut'*"])
    assert "Traceback" not in result.stdout.str()
    told = {one["nodeid"].rpartition("::")[2]: one["status"] for one in farm.results["tests"]}
    assert told["test_passes_against_expectation"] == "failed"
    assert told["test_skips"] == "skipped"


def test_a_wait_that_ends_names_who_holds_the_board(farm: Farm):
    farm.boards(1)
    farm.pytester.makepyfile(
        PRELUDE
        + """
    def test_outer(board):
        told = subprocess.run(
            [
                sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", "inner", __file__,
                f"--edgehil-lab={HERE / 'lab.yaml'}", "--edgehil-wait=1 s",
            ],
            capture_output=True, text=True,
            env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        )
        assert told.returncode == 1, told.stdout + told.stderr
        assert "1 error" in told.stdout
        assert f"no board became free within 1 s for a board among b1: b1 is held by {board.holder}" in told.stdout
        assert "Traceback" not in told.stdout

    def test_inner(board):
        pass
    """
    )
    farm.run("-k", "outer").assert_outcomes(passed=1)
