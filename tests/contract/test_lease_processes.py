"""Leases between processes that contend, are killed, stopped, forked and orphaned (in SQLite; kills in both)."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.lab_files import write_lab
from support.postgres import PostgresServer
from support.processes import state_of

from pytest_edgehil.errors import LeaseTimeout
from pytest_edgehil.lab.inventory import Lab, load_lab
from pytest_edgehil.lab.leases import AuditEvent, BoardStatus, Holder, LabStore
from pytest_edgehil.lab.reservation import reserve
from pytest_edgehil.lab.store import open_store
from pytest_edgehil.model.board import Requirement

WORKER = Path(__file__).parent.parent / "support" / "lease_worker.py"
OTHER = Holder(name="ci-841", host="runner-2", pid=22, user="ci")
DEADLINE_S = 60.0
ONE_BOARD = """\
lab: one
boards:
  bare-1: {class: pi5-4gb, environment: virtual}
"""
TWO_BOARDS = ONE_BOARD + "  bare-2: {class: pi5-4gb, environment: virtual}\n"

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start worker processes; none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def start_one(*arguments: str) -> subprocess.Popen[str]:
        worker = subprocess.Popen(
            [sys.executable, str(WORKER), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(worker)
        return worker

    yield start_one
    for worker in started:
        try:
            os.killpg(worker.pid, signal.SIGKILL)
        except ProcessLookupError:
            assert worker.poll() is not None
        worker.communicate()


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return load_lab(write_lab(tmp_path, ONE_BOARD))


@pytest.fixture
def store(lab: Lab) -> Iterator[LabStore]:
    with open_store(lab) as opened:
        yield opened


def ask(worker: subprocess.Popen[str], question: str) -> str:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(f"{question}\n")
    worker.stdin.flush()
    return worker.stdout.readline().strip()


def holding(worker: subprocess.Popen[str]) -> int:
    """Wait until the worker holds its board; return the token."""
    assert worker.stdout is not None
    words = worker.stdout.readline().split()
    assert words[:2] == ["holding", "bare-1"]
    return int(words[2])


def stop(worker: subprocess.Popen[str], lab: Lab) -> None:
    """Stop it while it is not writing: SQLite lets nobody write beside a writer who has been stopped."""
    books = sqlite3.connect(lab.lease_url.removeprefix("sqlite:///"), isolation_level=None, timeout=DEADLINE_S)
    try:
        books.execute("BEGIN IMMEDIATE")
        os.kill(worker.pid, signal.SIGSTOP)
        wait_until(lambda: state_of(worker.pid) == "T", what="the stop")
        books.execute("ROLLBACK")
    finally:
        books.close()


def wait_until(condition: Callable[[], bool], *, what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {DEADLINE_S} s"
        time.sleep(0.02)


@pytest.mark.timeout(450)
def test_eight_processes_on_two_boards_never_meet_on_one(tmp_path: Path, start: Start) -> None:
    lab_path = write_lab(tmp_path, TWO_BOARDS)
    journals = tmp_path / "journals"
    journals.mkdir()

    workers = [start("contend", str(lab_path), "40", str(journals)) for _ in range(8)]
    statuses = [worker.wait(timeout=400) for worker in workers]

    assert statuses == [0] * 8
    visits = 0
    for board_id in ("bare-1", "bare-2"):
        lines = [line.split() for line in (journals / board_id).read_text().splitlines()]
        came, left = lines[0::2], lines[1::2]
        assert [line[0] for line in came] == ["enter"] * len(left)
        assert [line[0] for line in left] == ["leave"] * len(came)
        assert [line[1:] for line in came] == [line[1:] for line in left]
        tokens = [int(line[1]) for line in came]
        assert tokens == sorted(set(tokens))
        visits += len(came)
    assert visits == 8 * 40
    with open_store(load_lab(lab_path)) as store:
        assert [state.state for state in store.boards()] == [BoardStatus.FREE] * 2


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.needs("postgres"))])
def any_lab(request: pytest.FixtureRequest, tmp_path: Path) -> Lab:
    """One board, in each kind of database."""
    if request.param == "sqlite":
        return load_lab(write_lab(tmp_path, ONE_BOARD))
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_lab(tmp_path, ONE_BOARD)


def test_a_killed_holder_frees_its_board_within_the_expiry(any_lab: Lab, start: Start) -> None:
    with open_store(any_lab) as store:
        frees_its_board_within_the_expiry(any_lab, store, start)


def frees_its_board_within_the_expiry(lab: Lab, store: LabStore, start: Start) -> None:
    worker = start("hold", str(lab.path), "3")
    old_token = holding(worker)
    worker.kill()
    worker.wait(timeout=DEADLINE_S)
    killed_at = time.time()

    with reserve(lab, [Requirement()], store=store, holder=OTHER, wait_s=DEADLINE_S) as reservation:
        lease = reservation.leases[0]

    (ended,) = (line for line in store.audit() if line.event is AuditEvent.EXPIRED)
    assert ended.token == old_token
    assert ended.at <= killed_at + 3  # by the store's own record the board is free by then
    assert lease.acquired_at >= ended.at  # and not a moment before
    assert lease.token > old_token


def test_a_living_holder_keeps_its_board_beyond_the_first_expiry(lab: Lab, store: LabStore, start: Start) -> None:
    worker = start("hold", str(lab.path), "12")
    token = holding(worker)
    first = store.boards()[0].expires_at
    assert first is not None

    wait_until(lambda: time.time() > first + 1, what="the first expiry")

    state = store.boards()[0]
    assert (state.state, state.token) == (BoardStatus.LEASED, token)
    assert ask(worker, "check") == "ok"
    with pytest.raises(LeaseTimeout, match=rf"bare-1 is held by \S+ \(pid {worker.pid} on "):
        reserve(lab, [Requirement()], store=store, holder=OTHER, wait_s=0)


def test_a_holder_that_was_stopped_past_its_expiry_is_told_who_has_the_board(
    lab: Lab, store: LabStore, start: Start
) -> None:
    worker = start("hold", str(lab.path), "1")
    holding(worker)
    stop(worker, lab)
    with reserve(lab, [Requirement()], store=store, holder=OTHER, wait_s=DEADLINE_S, expiry_s=60) as reservation:
        os.kill(worker.pid, signal.SIGCONT)

        answer = ask(worker, "check")

        assert answer.startswith("lost: lease on bare-1 (token ")
        assert "expired" in answer
        assert "it is held by ci-841 (pid 22 on runner-2) now" in answer
        assert ask(worker, "release") == "released"
        reservation.check()
        assert store.boards()[0].token == reservation.leases[0].token


def test_a_holder_that_was_stopped_past_its_expiry_has_lost_the_board_even_if_nobody_took_it(
    lab: Lab, store: LabStore, start: Start
) -> None:
    worker = start("hold", str(lab.path), "1")
    holding(worker)
    stop(worker, lab)
    wait_until(lambda: store.boards()[0].state is BoardStatus.FREE, what="the expiry")
    os.kill(worker.pid, signal.SIGCONT)

    answer = ask(worker, "check")

    assert answer.startswith("lost: lease on bare-1 (token ")
    assert "nobody holds it now" in answer
    assert ask(worker, "check").startswith("lost: ")  # and for good


def test_a_fork_can_neither_use_nor_release_what_its_parent_holds(lab: Lab, start: Start) -> None:
    worker = start("fork", str(lab.path))
    output, _ = worker.communicate(timeout=DEADLINE_S)

    child, child_sees, parent, parent_sees = output.splitlines()
    assert child.startswith(f"child: the reservation of bare-1 belongs to process {worker.pid}, and process ")
    assert child_sees == "child sees: ['leased']"
    assert parent == "parent: ok"
    assert parent_sees == "parent sees: ['free']"


def test_a_worker_whose_controller_is_killed_lets_its_board_go_though_it_lives(
    lab: Lab, store: LabStore, start: Start
) -> None:
    controller = start("parent", str(WORKER), "hold", str(lab.path), "2", "--tied")
    old_token = holding(controller)

    controller.kill()
    # the worker lives on, since we hold its stdin, but it renews no more
    with reserve(lab, [Requirement()], store=store, holder=OTHER, wait_s=DEADLINE_S, expiry_s=60) as reservation:
        assert reservation.leases[0].token > old_token
        answer = ask(controller, "check")

    assert answer.startswith("lost: ")


def test_the_same_worker_untied_outlives_its_starter(lab: Lab, store: LabStore, start: Start) -> None:
    starter = start("parent", str(WORKER), "hold", str(lab.path), "12")
    holding(starter)
    starter.kill()
    starter.wait(timeout=DEADLINE_S)
    first = store.boards()[0].expires_at
    assert first is not None

    wait_until(lambda: time.time() > first + 1, what="the expiry")

    assert ask(starter, "check") == "ok"
    assert ask(starter, "release") == "released"
