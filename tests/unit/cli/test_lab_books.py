"""``edgehil lab quarantine|audit|power`` and what ``boards`` says of boards that are out."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.lab_files import write_lab

from pytest_edgehil.cli import lab as verb
from pytest_edgehil.errors import ConfigError, LeaseTimeout
from pytest_edgehil.lab.health import Checkup
from pytest_edgehil.lab.inventory import Lab, load_lab
from pytest_edgehil.lab.leases import AuditEvent, Holder, LabStore
from pytest_edgehil.lab.store import open_store

CI = Holder(name="ci-841", host="runner-2", pid=22, user="ci")
LAB = """\
lab: hands
health: {{recheck: 1 h}}
boards:
  pi5-01:
    class: pi5
    environment: hardware
    ssh: {{host: 192.0.2.1, user: edge, key: id, host_key: "{key}"}}
    power:
      backend: command
      on: [sh, -c, "echo on >>{log}"]
      off: [sh, -c, "echo off >>{log}"]
      status: [tail, -n1, "{log}"]
      off_for: 0 s
  v1: {{class: pi5, environment: virtual}}
"""
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIVbXIN6Tdr0lmqHaVkbQ7pSLxGK2xXOJ0eOcX3Z9rVq"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "power.log"
    path.write_text("on\n")
    return path


@pytest.fixture
def lab(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("EDGEHIL_HOLDER", "ada")
    lab = load_lab(write_lab(tmp_path, LAB.format(log=log, key=KEY)))
    monkeypatch.setenv("EDGEHIL_LAB", str(lab.path))
    return lab


@pytest.fixture
def store(lab: Lab) -> Iterator[LabStore]:
    with open_store(lab) as opened:
        yield opened


def edgehil(*arguments: str) -> int:
    parser = argparse.ArgumentParser(prog="edgehil")
    verb.add(parser.add_subparsers())
    options = parser.parse_args(["lab", *arguments])
    return int(options.run(options))


def test_a_board_can_be_taken_out_by_hand_and_its_holder_is_named(store, capsys):
    assert edgehil("quarantine", "v1", "--reason", "new fan") == 0
    store.acquire([["pi5-01"]], holder=CI, expiry_s=600)
    assert edgehil("quarantine", "pi5-01", "--reason", "loose cable") == 0
    assert capsys.readouterr().out.splitlines() == [
        "v1: not handed out any more; 'edgehil lab restore v1' ends that",
        (
            "pi5-01: not handed out any more; ci-841 (pid 22 on runner-2) keeps it until it is returned; "
            "'edgehil lab restore pi5-01' ends that"
        ),
    ]
    assert [(line.board_id, line.by.name, line.reason) for line in store.audit()[::2]] == [
        ("v1", "ada", "new fan"),
        ("pi5-01", "ada", "loose cable"),
    ]


def test_boards_says_when_a_broken_one_is_looked_at_again(store, capsys):
    store.quarantine("v1", reason="kernel panic", by=CI, automatic=True)
    store.quarantine("pi5-01", reason="new fan", by=CI)
    assert edgehil("boards") == 0
    _, first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("new fan")
    assert "kernel panic (to be looked at again in " in second
    store.note_check("v1", Checkup(complaint="hot", temperature_c=91.0), by=CI)
    assert edgehil("boards", "--json") == 0
    told = {one["id"]: one for one in json.loads(capsys.readouterr().out)["boards"]}
    assert (told["v1"]["failures"], told["v1"]["last_check"]["complaint"]) == (2, "hot")
    assert told["v1"]["next_check_at"].endswith("+00:00")
    assert told["pi5-01"]["next_check_at"] is None


def test_the_audit_says_when_what_who_from_where_and_why(store, capsys):
    (mine,) = store.acquire([["v1"]], holder=CI, expiry_s=600)
    store.release(mine)
    store.quarantine("pi5-01", reason="new fan", by=CI)
    assert edgehil("audit") == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == ["WHEN", "(UTC)", "BOARD", "WHAT", "WHO", "FROM", "TOKEN", "WHY"]
    assert [line.split()[2:5] for line in lines] == [
        ["v1", "leased", "ci-841"],
        ["v1", "released", "ci-841"],
        ["pi5-01", "quarantined", "ci-841"],
    ]
    assert "ci@runner-2, pid 22" in lines[0]
    assert str(mine.token) in lines[0]
    assert lines[2].endswith("new fan")

    assert edgehil("audit", "--json", "--board", "v1", "--since", "1 h") == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["board"], one["event"], one["token"]) for one in told] == [
        ("v1", "leased", mine.token),
        ("v1", "released", mine.token),
    ]
    assert told[0]["by"] == {"name": "ci-841", "host": "runner-2", "pid": 22, "user": "ci"}
    assert edgehil("audit", "--json", "--since", "2999-01-01") == 0
    assert capsys.readouterr().out == ""
    with pytest.raises(ConfigError, match="--since: 'yesterday' is no time; expected for example '2 h'"):
        edgehil("audit", "--since", "yesterday")


def test_power_is_switched_under_a_lease_and_written_down(store, log, capsys):
    assert edgehil("power", "pi5-01", "off", "--reason", "it hangs") == 0
    assert edgehil("power", "pi5-01", "status") == 0
    assert edgehil("power", "pi5-01", "cycle") == 0
    assert log.read_text().split() == ["on", "off", "off", "on"]
    assert capsys.readouterr().out.splitlines() == [
        "pi5-01: power off, done; it is off now",
        "pi5-01: off",
        "pi5-01: power cycle, done; it is on now",
    ]
    written = [line for line in store.audit() if line.event is AuditEvent.POWER]
    assert [(line.by.name, line.reason) for line in written] == [("ada", "off: it hangs"), ("ada", "cycle")]
    assert all(line.token is not None for line in written)
    assert store.boards()[0].holder is None


def test_a_quarantined_board_can_be_switched_and_one_that_is_held_cannot(store, log):
    store.quarantine("pi5-01", reason="it hangs", by=CI, automatic=True)
    assert edgehil("power", "pi5-01", "cycle") == 0
    held = store.acquire_closed("pi5-01", holder=CI, expiry_s=600)
    assert held is not None
    before = log.read_text()
    with pytest.raises(LeaseTimeout, match=r"pi5-01 is held by ci-841 .*'edgehil lab release pi5-01 --reason"):
        edgehil("power", "pi5-01", "off")
    assert log.read_text() == before
    assert edgehil("power", "pi5-01", "status") == 0  # looking needs no lease


def test_a_virtual_board_that_nobody_runs_has_no_power(store, capsys):
    assert edgehil("power", "v1", "status") == 0
    assert capsys.readouterr().out == "v1: off (a virtual board that nobody runs)\n"


def test_check_without_a_file_takes_the_usual_lab(lab, capsys):
    assert edgehil("check", "--no-keys") == 0
    assert capsys.readouterr().out.startswith(f"{lab.path}: ok\n")
