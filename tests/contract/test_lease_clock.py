"""A clock that is set neither ends a lease nor prolongs it, and never gives a board two holders."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa
from support.clocks import FakeClock
from support.lab_files import make_lab
from support.postgres import PostgresServer

from pytest_edgehil.errors import LeaseLost
from pytest_edgehil.lab import postgres_store
from pytest_edgehil.lab.inventory import Lab
from pytest_edgehil.lab.leases import Holder
from pytest_edgehil.lab.postgres_store import PostgresLeaseStore, schema_of
from pytest_edgehil.lab.sqlite_store import SqliteLeaseStore
from pytest_edgehil.lab.store import rules_of

ME = Holder(name="ci-840", host="runner-1", pid=11, user="ci")
OTHER = Holder(name="ci-841", host="runner-2", pid=22, user="ci")


class Host:
    """Two clocks: one that can be set, and one that cannot."""

    def __init__(self) -> None:
        self.wall, self.steady = FakeClock(1_800_000_000.0), FakeClock(500.0)

    def pass_s(self, seconds: float) -> None:
        self.wall.advance(seconds)
        self.steady.advance(seconds)


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return make_lab(tmp_path)


@pytest.fixture
def open_one(lab: Lab, host: Host) -> Iterator[functools.partial[SqliteLeaseStore]]:
    with ExitStack() as closing:

        def opened() -> SqliteLeaseStore:
            store = SqliteLeaseStore(lab.lease_url, rules=rules_of(lab), wall=host.wall, steady=host.steady)
            return closing.enter_context(store)

        yield functools.partial(opened)


@pytest.mark.parametrize("step_s", [3600.0, -3600.0, 11.0, -5.0])
def test_a_wall_clock_that_is_set_changes_nothing_also_for_who_comes_anew(
    open_one: functools.partial[SqliteLeaseStore], host: Host, step_s: float
) -> None:
    mine = open_one()
    (lease,) = mine.acquire([["bare-1"]], holder=ME, expiry_s=10) or ()
    host.wall.advance(step_s)
    host.pass_s(9.5)

    newcomer = open_one()
    assert newcomer.acquire([["bare-1"]], holder=OTHER, expiry_s=10) is None
    lease = mine.renew(lease, expiry_s=10)
    assert lease.lasts_s == pytest.approx(10)
    host.wall.advance(step_s)
    host.pass_s(9.5)
    assert newcomer.acquire([["bare-1"]], holder=OTHER, expiry_s=10) is None
    host.pass_s(0.6)
    assert newcomer.acquire([["bare-1"]], holder=OTHER, expiry_s=10) is not None
    with pytest.raises(LeaseLost, match="it is held by ci-841"):
        mine.renew(lease, expiry_s=10)


def test_the_books_tell_the_time_on_the_wall_again_when_nobody_holds_anything(
    open_one: functools.partial[SqliteLeaseStore], host: Host
) -> None:
    store = open_one()
    (lease,) = store.acquire([["bare-1"]], holder=ME, expiry_s=10) or ()
    host.wall.advance(7200)
    store.release(lease)

    store.acquire([["bare-1"]], holder=ME, expiry_s=10)
    store.force_release("bare-1", by=OTHER, reason="next")
    (again,) = store.acquire([["bare-1"]], holder=ME, expiry_s=10) or ()

    assert again.acquired_at == pytest.approx(host.wall())
    assert again.token > lease.token


@pytest.mark.needs("postgres")
@pytest.mark.parametrize("step_s", [3600, -3600])
def test_a_server_s_clock_that_is_set_is_put_right_by_who_was_there_before(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_s: int
) -> None:
    """The server's clock cannot be set here, so a table of ours stands in for it in each statement."""
    lab = postgres.new_lab(tmp_path)
    engine = sa.create_engine(lab.lease_url)
    schema = f'"{schema_of(lab.name)}"'
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE {schema}.wall (off float8); INSERT INTO {schema}.wall VALUES (0)")
    wall = "(SELECT CAST(extract(epoch FROM clock_timestamp()) AS float8) + off FROM wall)"
    monkeypatch.setattr(
        postgres_store,
        "_CLOCK",
        sa.text(f"SELECT offset_s, steps, {wall} FROM clock WHERE name = 'lab'"),
    )
    for name in ("_TAKE_ONE", "_RENEW", "_RETURN"):
        changed = getattr(postgres_store, name).replace(postgres_store._WALL, wall)
        assert changed != getattr(postgres_store, name)
        monkeypatch.setattr(postgres_store, name, changed)

    with (
        PostgresLeaseStore(lab.lease_url, lab=lab.name, rules=rules_of(lab)) as mine,
        PostgresLeaseStore(lab.lease_url, lab=lab.name, rules=rules_of(lab)) as theirs,
    ):
        (lease,) = mine.acquire([["bare-1"]], holder=ME, expiry_s=600) or ()
        with engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE {schema}.wall SET off = {step_s}")

        assert theirs.acquire([["bare-1"]], holder=OTHER, expiry_s=600) is None
        renewed = mine.renew(lease, expiry_s=600)
        assert renewed.expires_at == pytest.approx(lease.expires_at, abs=120)
        assert mine.release(renewed)
    engine.dispose()
