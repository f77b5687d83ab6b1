"""Nobody is given a board that has not been looked at: which one is taken, what becomes of the others."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.clocks import FakeClock
from support.lab_files import make_lab
from support.memory_leases import MemoryLeaseStore

from pytest_edgehil.errors import BoardError, ConfigError, ConnectFailed, LeaseLost, LeaseTimeout
from pytest_edgehil.handout import HandOut
from pytest_edgehil.lab.health import Checkup
from pytest_edgehil.lab.leases import AuditEvent, BoardStatus, Holder
from pytest_edgehil.lab.reservation import Reservation
from pytest_edgehil.model.requirement import Requirement

ME = Holder(name="ci-840", host="runner-1", pid=11, user="ci")
OTHER = Holder(name="ci-841", host="runner-2", pid=22, user="ci")
LAB = """\
lab: three
lease_expiry: 600 s
health: {fresh: 10 s, recheck: 60 s}
boards:
  b1: {class: pi5, environment: virtual}
  b2: {class: pi5, environment: virtual}
  b3: {class: pi4, environment: virtual}
"""
PI5 = Requirement(cls="pi5")
HOT = "it is at 91.0 °C, expected 80 °C at most"


class World:
    """Boards as they are: what is wrong with each, and who was looked at."""

    def __init__(self, directory: Path, text: str = LAB) -> None:
        self.clock = FakeClock()
        self.lab = make_lab(directory, text)
        self.store = MemoryLeaseStore.of(self.lab, clock=self.clock)
        self.wrong: dict[str, str | Exception] = {}
        self.looked_at: list[str] = []
        self.opened: list[str] = []
        self.closed: list[str] = []
        self.unfit: list[tuple[str, str]] = []
        self.leased: list[str] = []
        self.at_look: Callable[[str], None] = lambda _board_id: None

    @property
    def handing_out(self) -> HandOut:
        return HandOut(
            self.lab,
            self.store,
            ME,
            hold=lambda reservation: FakeHolding(self, reservation),
            on_unfit=lambda board_id, why: self.unfit.append((board_id, why)),
            look_s=0.01,
        )

    def board(self, requirement: Requirement = PI5, *, wait_s: float = 0.0) -> str:
        holding = self.handing_out.board(
            requirement, wait_s=wait_s, on_lease=lambda holding: self.leased.append(holding.id)
        )
        return holding.id

    def state(self, board_id: str) -> BoardStatus:
        return next(one.state for one in self.store.boards() if one.board_id == board_id)


class FakeHolding:
    def __init__(self, world: World, reservation: Reservation) -> None:
        self.id = reservation.boards[0].id
        self._world = world
        self._reservation = reservation

    @contextlib.contextmanager
    def doing(self, _what: str) -> Iterator[None]:
        yield

    def open(self) -> None:
        self._world.opened.append(self.id)
        problem = self._world.wrong.get(self.id)
        if isinstance(problem, Exception) and not isinstance(problem, ConnectFailed):
            raise problem

    def check_up(self) -> Checkup:
        self._world.looked_at.append(self.id)
        self._world.at_look(self.id)
        problem = self._world.wrong.get(self.id)
        if isinstance(problem, Exception):
            raise problem
        return Checkup(complaint=problem or "", temperature_c=41.0)

    def close(self) -> None:
        self._world.closed.append(self.id)
        self._reservation.release()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_board_that_is_not_there_is_quarantined_and_the_next_one_is_handed_out(world):
    world.wrong["b1"] = ConnectFailed("b1: nobody answers at 10.0.0.1:22")
    assert world.board() == "b2"
    assert world.unfit == [("b1", "b1: nobody answers at 10.0.0.1:22")]
    assert (world.leased, world.closed) == (["b1", "b2"], ["b1"])
    states = {one.board_id: one for one in world.store.boards()}
    assert (states["b1"].state, states["b1"].reason) == (BoardStatus.QUARANTINED, "b1: nobody answers at 10.0.0.1:22")
    assert states["b1"].next_check_at == world.clock.now + 60
    assert states["b2"].holder == ME


@pytest.mark.parametrize("wrong", [HOT, BoardError("its supervisor died")], ids=["complaint", "not-brought-up"])
def test_where_no_board_is_fit_that_is_said_of_each(world, wrong):
    world.wrong = {"b1": wrong, "b2": "its clock is 2 d behind ours"}
    with pytest.raises(LeaseTimeout, match=rf"no healthy board is left .*b1 is quarantined \({wrong}\), b2 is quar"):
        world.board(wait_s=3600)
    assert world.closed == ["b1", "b2"]
    assert world.state("b3") is BoardStatus.FREE


def test_a_check_that_was_passed_counts_for_the_next_holder_too_but_not_for_long(world):
    for looked_at in (["b1"], ["b1"]):
        holding = world.handing_out.board(PI5, wait_s=0, on_lease=None)
        holding.close()
        assert world.looked_at == looked_at
        world.clock.advance(9)
    world.clock.advance(1)
    assert world.board() == "b1"
    assert world.looked_at == ["b1", "b1"]
    assert world.opened == ["b1"] * 3


def test_a_board_that_cannot_be_brought_up_is_taken_out_although_its_last_check_is_fresh(world):
    world.handing_out.board(PI5, wait_s=0, on_lease=None).close()
    world.wrong["b1"] = BoardError("its supervisor died")
    assert world.board() == "b2"
    assert world.unfit == [("b1", "its supervisor died")]


def test_a_lab_may_say_that_boards_are_not_looked_at(tmp_path):
    world = World(tmp_path, LAB.replace("fresh: 10 s", "check: false"))
    assert world.board() == "b1"
    assert world.looked_at == []
    world.wrong["b2"] = BoardError("its supervisor died")
    with pytest.raises(BoardError, match="its supervisor died"):
        world.board()
    assert world.state("b2") is BoardStatus.LEASED  # whoever asked has it in hand, and quarantines it with its reason


def test_a_mistake_in_the_lab_file_is_no_fault_of_the_board(world):
    world.wrong["b1"] = ConfigError("the key file /k is not there")
    with pytest.raises(ConfigError):
        world.board()
    assert world.state("b1") is BoardStatus.FREE


def test_a_lease_that_is_lost_while_the_board_is_looked_at_is_tried_again(world):
    lost = iter([True, False])

    def look(_board_id: str) -> None:
        if next(lost):
            raise LeaseLost("lease on b1 expired 1 s ago")

    world.at_look = look
    assert world.board() == "b1"
    assert world.unfit == []
    world.at_look = lambda _board_id: (_ for _ in ()).throw(LeaseLost("lease expired"))
    with pytest.raises(LeaseLost):
        world.board()


def test_several_boards_are_handed_out_together_and_an_unfit_one_costs_nobody_the_others(world):
    world.wrong["b1"] = HOT
    first, second = world.handing_out.boards((PI5, Requirement(cls="pi4")), wait_s=0)
    assert (first.id, second.id) == ("b2", "b3")
    assert world.closed == ["b3", "b1"]
    assert world.unfit == [("b1", HOT)]
    assert [world.state(one) for one in ("b1", "b2", "b3")] == [
        BoardStatus.QUARANTINED,
        BoardStatus.LEASED,
        BoardStatus.LEASED,
    ]
    first.close()
    assert world.state("b2") is BoardStatus.LEASED  # they are given back together
    second.close()
    assert world.state("b2") is BoardStatus.FREE


# --- boards whose time has come ------------------------------------------------------------------------------


def broken(world: World, *board_ids: str) -> None:
    for board_id in board_ids:
        world.store.quarantine(board_id, reason="kernel panic", by=OTHER, automatic=True)


def test_a_broken_board_is_looked_at_again_by_whoever_cannot_have_another_one(world):
    broken(world, "b1", "b2", "b3")
    with pytest.raises(LeaseTimeout, match="no healthy board is left"):
        world.board()
    assert world.looked_at == []
    world.clock.advance(60)
    world.wrong["b1"] = HOT
    assert world.board() == "b2"
    assert world.looked_at == ["b1", "b2"]  # b3 would not do; b2 was looked at once, for both
    events = [(line.board_id, line.event) for line in world.store.audit() if line.by == ME]
    assert (("b1", AuditEvent.CHECK_FAILED)) in events
    assert (("b2", AuditEvent.RESTORED)) in events
    assert world.store.due() == ("b3",)


def test_while_others_are_free_nobody_waits_for_a_broken_one(world):
    broken(world, "b1")
    world.clock.advance(60)
    assert world.board() == "b2"
    assert world.looked_at == ["b2"]


def test_a_broken_board_that_becomes_due_while_somebody_waits_is_looked_at_and_handed_out(world):
    world.store.acquire([["b1"]], holder=OTHER, expiry_s=100_000)
    broken(world, "b2")
    waiting = threading.Event()
    handing_out = HandOut(
        world.lab,
        world.store,
        ME,
        hold=lambda reservation: FakeHolding(world, reservation),
        on_wait=lambda _why: waiting.set(),
        look_s=0.01,
    )
    got: list[str] = []

    def wait_for_it() -> None:
        got.append(handing_out.board(PI5, wait_s=600).id)

    somebody = threading.Thread(target=wait_for_it)
    somebody.start()
    assert waiting.wait(60)
    assert world.looked_at == []
    world.clock.advance(60)
    somebody.join(60)
    assert got == ["b2"]
    assert world.looked_at[0] == "b2"


def test_a_check_by_hand_needs_nobody_s_turn_and_no_healthy_board(world):
    world.store.quarantine("b1", reason="new fan", by=OTHER)
    assert world.handing_out.check("b1").passed
    assert world.state("b1") is BoardStatus.QUARANTINED  # a person closed it
    broken(world, "b2")
    assert world.handing_out.check("b2").passed
    assert world.state("b2") is BoardStatus.FREE
    world.wrong["b3"] = HOT
    assert world.handing_out.check("b3").complaint == HOT
    assert world.state("b3") is BoardStatus.QUARANTINED
    assert world.closed == ["b1", "b2", "b3"]


def test_a_board_that_somebody_holds_is_left_alone(world):
    world.store.acquire([["b1"]], holder=OTHER, expiry_s=600)
    assert world.handing_out.check("b1") is None
    assert world.handing_out.closed("b1") is None
    assert world.looked_at == []
