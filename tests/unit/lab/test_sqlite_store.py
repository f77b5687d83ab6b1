"""What only a database file can get wrong."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.clocks import FakeClock
from support.lab_files import FARM, make_lab

from pytest_edgehil.errors import ConfigError, LeaseError
from pytest_edgehil.lab import audit_trail
from pytest_edgehil.lab.inventory import Lab
from pytest_edgehil.lab.leases import BoardStatus, Holder
from pytest_edgehil.lab.migrations import NEWEST
from pytest_edgehil.lab.sqlite_store import SqliteLeaseStore
from pytest_edgehil.lab.store import open_store, rules_of

ME = Holder(name="ci-840", host="runner-1", pid=11, user="ci")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return make_lab(tmp_path)


@pytest.fixture
def database(lab: Lab) -> Path:
    return Path(lab.lease_url.removeprefix("sqlite:///"))


@pytest.fixture
def raw(lab: Lab, database: Path) -> Iterator[sqlite3.Connection]:
    """A second way into the file."""
    open_store(lab).close()
    connection = sqlite3.connect(database, isolation_level=None)
    yield connection
    connection.close()


def take(store: SqliteLeaseStore, board_id: str = "bare-1", *, expiry_s: float = 10) -> int:
    leases = store.acquire([[board_id]], holder=ME, expiry_s=expiry_s)
    assert leases is not None
    return leases[0].token


def open_store_without_waiting(lab: Lab) -> SqliteLeaseStore:
    return SqliteLeaseStore(lab.lease_url, rules=rules_of(lab), busy_s=0.05)


def test_the_database_is_made_in_the_state_directory_of_the_lab(lab: Lab, own_state: Path) -> None:
    open_store(lab).close()

    assert (own_state / "labs" / "test-farm" / "leases.db").exists()


def test_leases_outlive_the_process_that_made_them(lab: Lab) -> None:
    with open_store(lab) as store:
        take(store)
    with open_store(lab) as again:
        assert again.acquire([["bare-1"]], holder=ME, expiry_s=10) is None


def test_readers_do_not_wait_for_writers(raw: sqlite3.Connection, lab: Lab) -> None:
    raw.execute("BEGIN IMMEDIATE")
    with open_store_without_waiting(lab) as store:
        assert {state.state for state in store.boards()} == {BoardStatus.FREE}
    raw.execute("ROLLBACK")


def test_a_request_that_cannot_be_granted_needs_no_write_lock(raw: sqlite3.Connection, lab: Lab) -> None:
    with open_store_without_waiting(lab) as store:
        take(store)
        raw.execute("BEGIN IMMEDIATE")
        assert store.acquire([["bare-1"]], holder=ME, expiry_s=10) is None
        raw.execute("ROLLBACK")


def test_a_database_that_stays_busy_is_a_lease_error_that_names_it(
    raw: sqlite3.Connection, lab: Lab, database: Path
) -> None:
    with open_store_without_waiting(lab) as store:
        raw.execute("BEGIN IMMEDIATE")
        with pytest.raises(LeaseError, match="cannot be used: database is locked") as busy:
            take(store)
        raw.execute("ROLLBACK")
        assert str(database) in str(busy.value)
        take(store)


def test_tokens_grow_although_every_row_was_deleted(raw: sqlite3.Connection, lab: Lab) -> None:
    clock = FakeClock()
    with open_store(lab, clock=clock) as store:
        before = take(store)
        raw.execute("DELETE FROM lease")
        raw.execute("DELETE FROM audit")
        assert take(store) > before


def test_tokens_grow_although_the_database_was_deleted(lab: Lab, database: Path) -> None:
    clock = FakeClock()
    with open_store(lab, clock=clock) as store:
        before = take(store)
    for file in database.parent.glob("leases.db*"):
        file.unlink()
    clock.advance(0.1)  # making a database takes longer than the one lease that it would have to make up for
    with open_store(lab, clock=clock) as store:
        assert take(store) > before


def test_labs_of_one_name_share_leases_and_others_do_not(tmp_path: Path, lab: Lab) -> None:
    for name in ("same", "other"):
        (tmp_path / name).mkdir()
    same = make_lab(tmp_path / "same")
    other = make_lab(tmp_path / "other", FARM.replace("test-farm", "other-farm"))
    with open_store(lab) as store, open_store(same) as same_store, open_store(other) as other_store:
        take(store)
        assert same_store.acquire([["bare-1"]], holder=ME, expiry_s=10) is None
        take(other_store)


def test_the_audit_forgets_its_oldest_lines_only_when_it_grows_too_long(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, raw: sqlite3.Connection
) -> None:
    monkeypatch.setattr(audit_trail, "AUDIT_LINES", 10)
    with open_store(lab) as store:
        raw.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 998) "
            "INSERT INTO audit (at, board_id, event, name, host, pid, user, reason) "
            "SELECT i, 'bare-1', 'restored', 'ada', 'desk', 1, 'ada', 'line ' || i FROM n"
        )
        store.quarantine("bare-1", reason="the last but one", by=ME)
        assert len(store.audit()) == 999
        store.restore("bare-1", by=ME, reason="the last")

        assert [line.reason for line in store.audit()] == [
            *(f"line {i}" for i in range(991, 999)),
            "the last but one",
            "the last",
        ]


def test_a_file_that_is_no_database_is_refused(lab: Lab, database: Path) -> None:
    database.parent.mkdir(parents=True)
    database.write_text("this is a letter to my aunt, and it is long enough to be mistaken for a page of a database")

    with pytest.raises(ConfigError, match=r"cannot open the lease database .*leases\.db: file is not a database"):
        open_store(lab)


def test_a_database_of_a_newer_version_is_refused(raw: sqlite3.Connection, lab: Lab) -> None:
    raw.execute("PRAGMA user_version=77")

    with pytest.raises(
        ConfigError, match=f"has version 77, this edgehil knows {NEWEST}: use the newer edgehil everywhere"
    ):
        open_store(lab)


def test_a_state_directory_that_cannot_be_made_is_refused(lab: Lab, own_state: Path) -> None:
    own_state.write_text("a file where the directory should be")

    with pytest.raises(ConfigError, match=r"cannot open the lease database .*: Not a directory"):
        open_store(lab)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_database_that_was_deleted_under_way_is_not_used_any_more(
    lab: Lab, database: Path, *, replaced: bool
) -> None:
    with open_store(lab) as store:
        leases = store.acquire([["bare-1"]], holder=ME, expiry_s=10)
        assert leases is not None
        for file in database.parent.glob("leases.db*"):
            file.unlink()
        if replaced:
            with open_store(lab) as anew:
                take(anew)

        with pytest.raises(LeaseError, match=r"leases\.db was deleted or replaced while it was in use"):
            store.renew(leases[0], expiry_s=10)


def test_a_database_in_a_directory_for_a_group_can_be_written_by_the_group(lab: Lab, database: Path) -> None:
    database.parent.mkdir(parents=True)
    database.parent.chmod(0o2775)
    with open_store(lab) as store:
        take(store)
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in database.parent.glob("leases.db*")}

    assert {modes["leases.db"], modes["leases.db-wal"], modes["leases.db-shm"]} == {0o664}


def test_a_database_in_a_directory_of_ones_own_is_not_opened_to_the_group(lab: Lab, database: Path) -> None:
    database.parent.mkdir(parents=True)
    database.parent.chmod(0o755)
    open_store(lab).close()

    assert not database.stat().st_mode & stat.S_IWGRP
