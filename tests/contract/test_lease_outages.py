"""PostgreSQL that is not there, goes away, or is restarted while leases are held and awaited."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.postgres import PostgresServer

from pytest_edgehil.errors import ConfigError, LeaseError
from pytest_edgehil.lab.inventory import Lab
from pytest_edgehil.lab.leases import BoardStatus, Holder, Waiting
from pytest_edgehil.lab.postgres_store import PostgresLeaseStore, schema_of
from pytest_edgehil.lab.reservation import reserve
from pytest_edgehil.lab.store import rules_of
from pytest_edgehil.model.board import Requirement

pytestmark = pytest.mark.needs("postgres")

ME = Holder(name="ci-840", host="runner-1", pid=11, user="ci")
OTHER = Holder(name="ci-841", host="runner-2", pid=22, user="ci")
DEADLINE_S = 90.0
LONG_S = 600.0  # an expiry that no outage outlives, however slow the machine


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One that may be stopped: the others' is shared."""
    with PostgresServer("fsync=off", "max_connections=20", "shared_buffers=16MB") as started:
        yield started


def opened(lab: Lab, *, patience_s: float = DEADLINE_S) -> PostgresLeaseStore:
    return PostgresLeaseStore(lab.lease_url, lab=lab.name, rules=rules_of(lab), patience_s=patience_s)


def test_leases_outlive_a_server_that_is_restarted_at_once_and_so_do_those_who_wait(
    server: PostgresServer, tmp_path: Path
) -> None:
    lab = server.new_lab(tmp_path)
    waiting, served = threading.Event(), threading.Event()

    def wait_for_it() -> None:
        with (
            opened(lab) as theirs,
            reserve(
                lab,
                [Requirement(board_id="bare-1")],
                store=theirs,
                holder=OTHER,
                wait_s=DEADLINE_S,
                expiry_s=LONG_S,
                on_wait=lambda _: waiting.set(),
            ),
        ):
            served.set()

    with opened(lab) as mine:
        held = reserve(lab, [Requirement(board_id="bare-1")], store=mine, holder=ME, wait_s=DEADLINE_S, expiry_s=LONG_S)
        waiter = threading.Thread(target=wait_for_it, daemon=True)
        waiter.start()
        assert waiting.wait(DEADLINE_S)

        server.stop("immediate")
        server.start()
        before = held.leases[0]
        held.beat()
        held.check()

        assert held.leases[0].token == before.token
        assert held.leases[0].expires_at > before.expires_at
        assert [one.holder.name for one in mine.queue()] == ["ci-841"]
        held.release()
        assert served.wait(DEADLINE_S)
        waiter.join()
        assert {state.state for state in mine.boards()} == {BoardStatus.FREE}


def test_places_in_the_queue_are_kept_and_leases_renewed_while_somebody_else_decides(
    server: PostgresServer, tmp_path: Path
) -> None:
    import psycopg

    lab = server.new_lab(tmp_path)
    wanted = [["bare-1"]]
    with opened(lab) as store, store.queue_up(wanted, holder=OTHER, expiry_s=LONG_S) as place:
        (lease,) = store.acquire(wanted, holder=ME, expiry_s=LONG_S) or ()
        assert isinstance(place.advance(), Waiting)
        with psycopg.connect(server.dsn) as other:
            other.execute(f'SELECT 1 FROM "{schema_of(lab.name)}".clock FOR UPDATE')

            assert place.stay()  # a lock that is not given in time is an error
            assert store.renew(lease, expiry_s=LONG_S).token == lease.token


def test_a_server_that_is_down_is_a_lease_error_that_names_it(server: PostgresServer, tmp_path: Path) -> None:
    lab = server.new_lab(tmp_path)
    with opened(lab, patience_s=0.2) as store:
        (lease,) = store.acquire([["bare-1"]], holder=ME, expiry_s=LONG_S) or ()
        server.stop("immediate")
        try:
            for verb in (
                lambda: store.renew(lease, expiry_s=LONG_S),
                lambda: store.acquire([["bare-2"]], holder=ME, expiry_s=LONG_S),
                store.boards,
                lambda: opened(lab, patience_s=0.2),
            ):
                with pytest.raises(LeaseError, match=r"the lease database postgresql\+psycopg://\S+ does not answer: "):
                    verb()
        finally:
            server.start()
        assert store.renew(lease, expiry_s=LONG_S).token == lease.token


def test_a_database_or_a_login_that_does_not_exist_is_said_without_waiting(
    server: PostgresServer, tmp_path: Path
) -> None:
    lab = server.new_lab(tmp_path)
    for url in (server.url.replace("/postgres?", "/nowhere?"), server.url.replace("edgehil@", "nobody@")):
        with pytest.raises(ConfigError, match=r'cannot be used: .*"(nowhere|nobody)" does not exist'):
            PostgresLeaseStore(url, lab=lab.name, rules=rules_of(lab), patience_s=LONG_S)


def test_an_answer_that_was_lost_on_the_way_does_not_lease_twice(
    server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_edgehil.lab import postgres_store

    lab = server.new_lab(tmp_path)
    with opened(lab) as store:
        real = postgres_store._row_of
        broken: list[str] = []

        def break_off(connection, statement, parameters):
            row = real(connection, statement, parameters)
            if not broken:
                broken.append(statement)
                raw = connection.connection.driver_connection
                raw.close()
                return real(connection, statement, parameters)  # on a closed connection: nobody heard the answer
            return row

        monkeypatch.setattr(postgres_store, "_row_of", break_off)
        (lease,) = store.acquire([["bare-1", "bare-2"]], holder=ME, expiry_s=LONG_S) or ()

        held = [state for state in store.boards() if state.holder is not None]
        assert [(state.board_id, state.token) for state in held] == [(lease.board_id, lease.token)]
