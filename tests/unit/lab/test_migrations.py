"""How the tables of a lease database come to be, in both kinds of databases."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from support.lab_files import make_lab
from support.postgres import PostgresServer

from pytest_edgehil.errors import ConfigError
from pytest_edgehil.lab.inventory import Lab
from pytest_edgehil.lab.lease_tables import METADATA
from pytest_edgehil.lab.leases import Holder
from pytest_edgehil.lab.migrations import MIGRATIONS, NEWEST, migrate
from pytest_edgehil.lab.postgres_store import schema_of
from pytest_edgehil.lab.store import migrate_store, open_store

ME = Holder(name="ci-840", host="runner-1", pid=11, user="ci")
KINDS = ("sqlite", pytest.param("postgres", marks=pytest.mark.needs("postgres")))


@pytest.fixture(params=KINDS)
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Lab:
    if request.param == "postgres":
        return request.getfixturevalue("postgres").new_lab(tmp_path, migrated=False)
    return make_lab(tmp_path)


@pytest.fixture
def engine(lab: Lab) -> Iterator[sa.Engine]:
    """A second way into the database."""
    if lab.lease_url.startswith("sqlite"):
        Path(sa.make_url(lab.lease_url).database or "").parent.mkdir(parents=True, exist_ok=True)
    made = sa.create_engine(lab.lease_url)
    yield made
    made.dispose()


def schema(lab: Lab) -> str | None:
    return None if lab.lease_url.startswith("sqlite") else schema_of(lab.name)


def table(lab: Lab, name: str) -> str:
    return name if schema(lab) is None else f'"{schema(lab)}".{name}'


def test_the_steps_are_numbered_without_gaps() -> None:
    assert [step.number for step in MIGRATIONS] == list(range(1, NEWEST + 1))


def test_all_steps_together_make_the_tables_that_the_program_reads_and_writes(lab: Lab, engine: sa.Engine) -> None:
    migrate_store(lab)

    made = sa.inspect(engine)
    for wanted in METADATA.sorted_tables:
        columns = {one["name"]: one for one in made.get_columns(wanted.name, schema=schema(lab))}
        assert set(columns) == {column.name for column in wanted.columns}, wanted.name
        for column in wanted.columns:
            found = columns[column.name]
            assert column.primary_key or found["nullable"] == column.nullable, (wanted.name, column.name)
            kinds = (sa.Integer, sa.Float, sa.String)
            assert [isinstance(found["type"], one) for one in kinds] == [
                isinstance(column.type, one) for one in kinds
            ], (wanted.name, column.name)


def test_migrating_again_does_nothing_and_each_step_is_on_record(lab: Lab, engine: sa.Engine) -> None:
    migrate_store(lab)

    assert migrate_store(lab) == ()
    with engine.connect() as connection:
        found = connection.execute(sa.text(f"SELECT number, name FROM {table(lab, 'migration')} ORDER BY number"))
        assert [tuple(row) for row in found] == [(step.number, step.name) for step in MIGRATIONS]


def test_many_who_migrate_at_once_do_it_once(lab: Lab) -> None:
    done: list[int] = []
    together = threading.Barrier(4)

    def run() -> None:
        together.wait()
        done.extend(step.number for step in migrate_store(lab))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(done) == [step.number for step in MIGRATIONS]


def test_leases_of_an_older_version_outlive_the_migration(
    lab: Lab, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.begin() as connection:
        if schema(lab) is not None:
            connection.exec_driver_sql(f'CREATE SCHEMA "{schema(lab)}"')
            connection.exec_driver_sql(f'SET LOCAL search_path TO "{schema(lab)}"')
        monkeypatch.setattr("pytest_edgehil.lab.migrations.MIGRATIONS", MIGRATIONS[:1])
        migrate(connection, now=lambda: 0.0)
        monkeypatch.undo()
        connection.exec_driver_sql(
            'INSERT INTO lease (board_id, token, name, host, pid, "user", acquired_at, expires_at, expiry_s) '
            "VALUES ('bare-1', 7, 'ci-1', 'runner-9', 5, 'ci', 0, 9e9, 9e9)"
        )
        if schema(lab) is None:
            connection.exec_driver_sql("PRAGMA user_version=1")

    assert [step.number for step in migrate_store(lab)] == [step.number for step in MIGRATIONS[1:]]
    with open_store(lab) as store:
        state = next(state for state in store.boards() if state.board_id == "bare-1")
        assert (state.token, state.holder) == (7, Holder(name="ci-1", host="runner-9", pid=5, user="ci"))
        assert store.acquire([["bare-1"]], holder=ME, expiry_s=10) is None


def test_a_sqlite_file_from_before_the_record_of_steps_is_migrated_by_opening_it(tmp_path: Path) -> None:
    lab = make_lab(tmp_path)
    path = Path(sa.make_url(lab.lease_url).database or "")
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as connection:
        for statement in MIGRATIONS[0].statements:
            connection.execute(statement.format(serial="INTEGER PRIMARY KEY AUTOINCREMENT", float="FLOAT"))
        connection.execute("PRAGMA user_version=1")
    connection.close()

    with open_store(lab) as store:
        assert store.acquire([["bare-1"]], holder=ME, expiry_s=10) is not None


@pytest.mark.needs("postgres")
def test_a_schema_that_is_missing_or_old_is_refused_with_what_to_run(postgres: PostgresServer, tmp_path: Path) -> None:
    lab = postgres.new_lab(tmp_path, migrated=False)

    with pytest.raises(ConfigError, match=rf"has no tables for lab {lab.name}, expected .* run 'edgehil lab migrate'"):
        open_store(lab)


@pytest.mark.needs("postgres")
def test_a_newer_schema_is_refused_by_every_way_in(postgres: PostgresServer, tmp_path: Path) -> None:
    lab = postgres.new_lab(tmp_path)
    engine = sa.create_engine(lab.lease_url)
    with engine.begin() as connection:
        connection.execute(sa.text(f"INSERT INTO {table(lab, 'migration')} VALUES (77, 'time travel', 0)"))
    engine.dispose()

    for way_in in (open_store, migrate_store):
        with pytest.raises(ConfigError, match=f"has version 77, this edgehil knows {NEWEST}: use the newer edgehil"):
            way_in(lab)


def test_tokens_of_a_new_database_are_above_those_of_the_one_before_and_stay_so_when_it_is_restored(
    lab: Lab, engine: sa.Engine
) -> None:
    before_ms = int(time.time() * 1000)  # a lab that is a month old has given out fewer tokens than that
    migrate_store(lab)
    with open_store(lab) as store:
        (first,) = store.acquire([["bare-1"]], holder=ME, expiry_s=60) or ()
    assert first.token >= before_ms

    if schema(lab) is not None:  # a backup from long ago; a file of SQLite looks at the time for each token
        with engine.begin() as connection:
            connection.exec_driver_sql(f"SELECT setval('{table(lab, 'token')}', 5)")
        migrate_store(lab)
    with open_store(lab) as store:
        (second,) = store.acquire([["bare-2"]], holder=ME, expiry_s=60) or ()
    assert second.token > first.token
