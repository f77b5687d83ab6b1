"""Several boards for one test: all at once or none, by count or by role, alone and between two workers."""

from __future__ import annotations

import pytest
from support.farm import Farm, replay_artifact
from support.standing_farm import Ran, StandingFarm, run_once

from pytest_edgehil.errors import MarkerError
from pytest_edgehil.plugin.boards import roles_of

SUITE = """
    import numpy as np
    import pytest
    from pathlib import Path
    from pytest_edgehil.model import Fault

    X = {"image": np.ones((1, 4), dtype=np.float32)}
    BROKEN = Path(__file__).parent / "broken"

    def test_one(board):
        assert board.run("true").exit_status == 0

    @pytest.mark.boards(server={"cls": "pi5-8gb-*", "model": "steady"}, client={"id": "b3"})
    def test_pair(boards):
        assert boards.roles == ("server", "client")
        assert boards["server"].board.cls == "pi5-8gb-hat2"
        assert boards["client"].id == "b3"
        assert len({holding.token for holding in boards}) == 2
        for holding in boards:
            assert holding.run("true").exit_status == 0
        assert "logits" in boards.dut("server").run(X)

    @pytest.mark.boards(2)
    def test_two(boards):
        assert len({holding.id for holding in boards}) == 2
        assert boards[0].run("true").exit_status == boards[1].run("true").exit_status == 0

    @pytest.mark.p95_latency("12 ms")
    @pytest.mark.boards(server={"id": "b1", "model": "steady"}, client={"id": "b3", "model": "slow"})
    def test_one_misses(boards):
        boards.dut("server").run(X)
        boards.dut("client").run(X)

    @pytest.mark.p95_latency("12 ms")
    @pytest.mark.boards(server={"model": "steady"}, client={"model": "slow", "gates": False})
    def test_not_on_the_client(boards):
        boards.dut("server").run(X)
        boards.dut("client").run(X)

    @pytest.mark.p95_latency("12 ms")
    @pytest.mark.boards(server={}, client={})
    def test_nothing_to_judge(boards): ...

    # of three boards of this class it breaks one; nobody else needs that class
    @pytest.mark.p95_latency("12 ms")
    @pytest.mark.boards(2, cls="pi5-4gb")
    @pytest.mark.combo(model="steady")
    def test_put_back(boards):
        boards.dut(0).run(X)
        if not BROKEN.exists():
            BROKEN.write_text(" ".join(holding.id for holding in boards))
            boards[1].virtual.inject(Fault(kind="panic"))
            boards[1].power.off()
        boards.dut(1).run(X)
"""


@pytest.fixture(scope="module", params=[(), ("-n2",)], ids=["alone", "n2"])
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    def prepare(farm: StandingFarm) -> None:
        farm.boards(6)  # three of each class
        replay_artifact(farm.artifacts, name="steady")
        replay_artifact(farm.artifacts, name="slow", p95_ms=30.0)
        farm.suite(SUITE)

    arguments = (*request.param, "--edgehil-wait=3 min")
    return run_once(tmp_path_factory, f"several{''.join(request.param)}", prepare, *arguments)


def test_boards_are_reserved_together_and_given_back(ran: Ran) -> None:
    for name in ("test_one", "test_pair", "test_two"):
        assert [one["status"] for one in ran.attempts[name]] == ["passed"], ran.output
    (broken,) = (name for name, one in ran.states.items() if one["state"] == "quarantined")
    assert {name for name, one in ran.states.items() if one["state"] == "free"} == {*ran.states} - {broken}


def test_gates_hold_on_each_board(ran: Ran) -> None:
    judged = {name: ran.attempts[name] for name in ("test_one_misses", "test_not_on_the_client")}
    told = {
        name: (one["status"], [(v["gate"], v["outcome"]) for v in one["verdicts"]]) for name, (one,) in judged.items()
    }
    assert told == {
        "test_one_misses": ("failed", [("p95_latency[server]", "PASS"), ("p95_latency[client]", "FAIL")]),
        "test_not_on_the_client": ("passed", [("p95_latency[server]", "PASS")]),
    }, ran.output
    (missed,) = judged["test_one_misses"]
    assert [one["name"] for one in missed["gates"]] == ["p95_latency[server]", "p95_latency[client]"]
    assert [one["name"] for one in missed["combo"]] == ["steady", "slow"]
    assert missed["verdicts"][1]["reason"].startswith("on b3: ")
    assert "p95_latency[client]" in ran.output


def test_gates_without_a_model_to_judge_are_an_error_that_says_what_to_add(ran: Ran) -> None:
    (one,) = ran.attempts["test_nothing_to_judge"]
    assert (one["status"], one["verdicts"]) == ("error", [])
    assert "give a role a model, as in boards(server={'model': …})" in ran.output


def test_a_broken_board_has_the_test_put_back_and_the_other_ones_are_free_again(ran: Ran) -> None:
    first, second = (ran.farm.path / "broken").read_text().split()
    broken, again = ran.attempts["test_put_back"]
    assert (broken["status"], broken["requeued"]) == ("infrastructure", True)
    assert (again["status"], again["attempt"], again["requeued"]) == ("passed", 2, False)
    assert [(v["gate"], v["outcome"]) for v in again["verdicts"]] == [
        ("p95_latency[0]", "PASS"),
        ("p95_latency[1]", "PASS"),
    ]
    assert (ran.states[first]["state"], ran.states[second]["state"]) == ("free", "quarantined")


def test_more_than_the_lab_has_is_refused_with_one_line_and_without_waiting(farm: Farm) -> None:
    farm.pytester.makepyfile("""
        import pytest

        @pytest.mark.boards(3)
        def test_three(boards): ...

        @pytest.mark.boards(server={"cls": "pi4"}, client={})
        def test_class(boards): ...
    """)

    result = farm.run("--edgehil-wait=10 min")

    output = result.stdout.str()
    assert "can never fulfil" in output
    assert "2 boards (b1, b2) for 3 requirements" in output
    assert "can ever fulfil the requirement: a board of class pi4; nearest is b1" in output


def test_what_cannot_be_meant_is_said_at_collection(farm: Farm) -> None:
    farm.pytester.makepyfile(
        test_unmarked="def test_it(boards): ...",
        test_both="import pytest\n@pytest.mark.boards(2)\ndef test_it(boards, dut): ...",
        test_unjudged=(
            "import pytest\n@pytest.mark.p95_latency('9 ms')\n@pytest.mark.boards(a={'model': 'm', 'gates': False})\n"
            "def test_it(boards): ..."
        ),
        test_misspelt="import pytest\n@pytest.mark.boards(2, tgas=['cooled'])\ndef test_it(boards): ...",
    )

    output = farm.run("--collect-only").stdout.str()

    assert "boards: how many? add @pytest.mark.boards(2)" in output
    assert "boards: a test that asks for 'boards' and for 'dut' would hold one while it waits" in output
    assert "did you mean 'tags'?" in output
    assert 'p95_latency: no board is judged; take "gates": False from one of the roles' in output


def asked(*args: object, **kwargs: object) -> list[tuple[str, str | None, str | None]]:
    mark = pytest.mark.boards(*args, **kwargs).mark
    return [(role.name, role.requirement.cls, role.combo.model) for role in roles_of([mark])]


def test_a_count_gives_numbered_boards_of_one_kind() -> None:
    assert asked(2, cls="pi5-*") == [("0", "pi5-*", None), ("1", "pi5-*", None)]
    assert asked(count=1) == [("0", None, None)]


def test_roles_keep_their_order_and_what_is_said_of_all_holds_for_each() -> None:
    assert asked(z={"model": "digits"}, a={"cls": "pi4"}, cls="pi5") == [("z", "pi5", "digits"), ("a", "pi4", None)]


@pytest.mark.parametrize(
    ("args", "kwargs", "told"),
    [
        ((), {}, "expected either a count, as in boards"),
        ((2,), {"server": {}}, "expected either a count, as in boards"),
        ((0,), {}, "count must be a number from 1 to 1000, not 0"),
        ((True,), {}, "count must be a number"),
        ((), {"server": "pi5"}, "'server' must be a role with what its board must be"),
        ((), {"server": {"class": "pi5"}}, "server: unknown argument 'class'; did you mean 'cls'"),
        ((), {"server": {"gates": ["p95_latency"]}}, "server: gates must be True or False"),
        ((), {"server": {"environment": "real"}}, "server: board: environment 'real' is none of"),
    ],
)
def test_a_marker_that_cannot_be_understood_says_what_is_wrong(args: tuple, kwargs: dict, told: str) -> None:
    with pytest.raises(MarkerError, match=told):
        asked(*args, **kwargs)
