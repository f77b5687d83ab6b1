"""What ``edgehil lab`` prints and returns."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.lab_files import FARM, write_lab

from pytest_edgehil.cli import lab as verb
from pytest_edgehil.errors import BoardUnavailable, ConfigError, LabFileError, LeaseLost
from pytest_edgehil.lab.inventory import Lab, load_lab
from pytest_edgehil.lab.leases import AuditEvent, Holder, LabStore, Lease
from pytest_edgehil.lab.store import open_store

CI = Holder(name="ci-841", host="runner-2", pid=22, user="ci")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return load_lab(write_lab(tmp_path))


@pytest.fixture
def store(lab: Lab) -> Iterator[LabStore]:
    with open_store(lab) as opened:
        yield opened


def edgehil(*arguments: str | Path) -> int:
    """Run the verb as the command does, errors included."""
    parser = argparse.ArgumentParser(prog="edgehil")
    verb.add(parser.add_subparsers())
    options = parser.parse_args([str(argument) for argument in ("lab", *arguments)])
    return int(options.run(options))


def lease(store: LabStore, board_id: str) -> Lease:
    leases = store.acquire([[board_id]], holder=CI, expiry_s=600)
    assert leases is not None
    return leases[0]


# --- check and schema -----------------------------------------------------------------------------------


def test_check_says_what_a_good_lab_holds(lab: Lab, own_state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert edgehil("check", lab.path) == 0

    assert capsys.readouterr().out == (
        f"{lab.path}: ok\n"
        "  lab:     test-farm\n"
        "  boards:  4 (4 virtual)\n"
        "  classes: 2 pi5-4gb, 2 pi5-8gb-hat2\n"
        f"  leases:  sqlite:///{own_state}/labs/test-farm/leases.db, expiry 10 s\n"
    )
    assert not own_state.exists()


def test_check_prints_every_problem_in_one_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_lab(tmp_path, FARM.replace("class: pi5-4gb", "clas: pi5-4gb").replace("limit: 1", "limit: 0"))

    assert edgehil("check", path) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert [line.removeprefix(f"edgehil: {path}:").split(":")[0] for line in err.splitlines()] == [
        "3",
        "7",
        "7",
        "8",
        "8",
    ]


def test_check_asks_for_key_files_unless_told_not_to(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rack = repository / "farm" / "rack-example.yaml"

    assert edgehil("check", rack) == 2
    assert "boards.rack-a1.identity_key: there is no file " in capsys.readouterr().err
    assert edgehil("check", "--no-keys", rack) == 0


def test_check_knows_the_options_of_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faults = "    virtual:\n      faults:\n        - {kind: panic}\n        - {kind: slow-link, options: {rate: 5}}\n"
    path = write_lab(tmp_path, f"lab: demo\nboards:\n  b:\n    class: c\n    environment: virtual\n{faults}")

    assert edgehil("check", path) == 2
    assert f"edgehil: {path}:9: boards.b.virtual.faults[1]: fault slow-link: unknown option 'rate'" in (
        capsys.readouterr().err
    )


def test_check_of_a_missing_file_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert edgehil("check", tmp_path / "none.yaml") == 2
    assert capsys.readouterr().err == f"edgehil: {tmp_path}/none.yaml: there is no such lab file\n"


def test_schema_prints_json_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert edgehil("schema") == 0

    schema = json.loads(capsys.readouterr().out)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(schema["required"]) == {"lab", "boards"}


# --- which lab ------------------------------------------------------------------------------------------


def test_the_lab_is_the_option_else_the_variable_else_the_file_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("here", "variable", "option"):
        (tmp_path / name).mkdir()
        write_lab(tmp_path / name, FARM.replace("test-farm", name))
    monkeypatch.delenv("EDGEHIL_LAB", raising=False)
    monkeypatch.chdir(tmp_path / "here")

    def used(*arguments: str | Path) -> str:
        assert edgehil("boards", "--json", *arguments) == 0
        return str(json.loads(capsys.readouterr().out)["lab"])

    assert used() == "here"
    monkeypatch.setenv("EDGEHIL_LAB", str(tmp_path / "variable" / "lab.yaml"))
    assert used() == "variable"
    assert used("--lab", tmp_path / "option" / "lab.yaml") == "option"


def test_without_any_lab_one_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEHIL_LAB", raising=False)
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ConfigError, match="which lab\\? pass --lab FILE, set EDGEHIL_LAB"):
        edgehil("boards")


def test_a_wrong_lab_is_an_error_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(LabFileError):
        edgehil("boards", "--lab", write_lab(tmp_path, "lab: x\n"))


# --- boards ---------------------------------------------------------------------------------------------


def test_boards_prints_who_holds_what_and_why_not(
    lab: Lab, store: LabStore, capsys: pytest.CaptureFixture[str]
) -> None:
    lease(store, "bare-1")
    store.quarantine("hat-1", reason="kernel panic while flashing", by=CI)

    assert edgehil("boards", "--lab", lab.path) == 0

    header, hat_1, hat_2, bare_1, _ = capsys.readouterr().out.splitlines()
    assert header.split() == ["BOARD", "CLASS", "ENVIRONMENT", "STATE", "SINCE", "HOLDER", "REASON"]
    assert hat_1.split()[:4] == ["hat-1", "pi5-8gb-hat2", "virtual", "quarantined"]
    assert hat_1.endswith(" kernel panic while flashing")
    assert hat_2.split() == ["hat-2", "pi5-8gb-hat2", "virtual", "free", "-", "-", "-"]
    assert bare_1.split()[:4] == ["bare-1", "pi5-4gb", "virtual", "leased"]
    assert "ci-841 (pid 22 on runner-2)" in bare_1
    assert " ago " in bare_1


def test_boards_as_json_has_everything_for_scripts(
    lab: Lab, store: LabStore, capsys: pytest.CaptureFixture[str]
) -> None:
    held = lease(store, "bare-2")
    store.quarantine("bare-2", reason="hot", by=CI)

    assert edgehil("boards", "--json", "--lab", lab.path) == 0

    found = json.loads(capsys.readouterr().out)
    assert (found["lab"], found["file"]) == ("test-farm", str(lab.path))
    board = {board["id"]: board for board in found["boards"]}["bare-2"]
    assert board.pop("since").endswith("+00:00")
    assert board.pop("expires_at").endswith("+00:00")
    assert board == {
        "id": "bare-2",
        "class": "pi5-4gb",
        "tags": ["cooled"],
        "environment": "virtual",
        "timing": "wall",
        "pool": None,
        "state": "quarantined",
        "reason": "hot",
        "holder": {"name": "ci-841", "host": "runner-2", "pid": 22, "user": "ci"},
        "token": held.token,
        "failures": 0,
        "next_check_at": None,
        "last_check": None,
    }


# --- release and restore --------------------------------------------------------------------------------


def test_release_takes_a_board_away_and_leaves_an_audit_line(
    lab: Lab, store: LabStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGEHIL_HOLDER", "ada")
    held = lease(store, "bare-1")

    assert edgehil("release", "bare-1", "--reason", "job was cancelled", "--lab", lab.path) == 0

    assert capsys.readouterr().out.startswith("bare-1: taken away from ci-841 (pid 22 on runner-2)")
    with pytest.raises(LeaseLost, match=r"was taken away by ada \(pid \d+ on .*: job was cancelled"):
        store.renew(held, expiry_s=10)
    line = store.audit()[-1]
    assert (line.event, line.by.name, line.reason, line.token) == (
        AuditEvent.FORCE_RELEASED,
        "ada",
        "job was cancelled",
        held.token,
    )


def test_release_of_a_board_that_nobody_holds_says_so(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert edgehil("release", "bare-1", "--reason", "stuck", "--lab", lab.path) == 0
    assert capsys.readouterr().out == "bare-1: nobody holds it\n"


def test_release_needs_a_reason(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        edgehil("release", "bare-1", "--lab", lab.path)
    assert refused.value.code == 2
    assert "--reason" in capsys.readouterr().err


def test_restore_hands_a_board_out_again(lab: Lab, store: LabStore, capsys: pytest.CaptureFixture[str]) -> None:
    store.quarantine("bare-1", reason="hot", by=CI)

    assert edgehil("restore", "bare-1", "--reason", "new fan", "--lab", lab.path) == 0
    assert edgehil("restore", "bare-1", "--lab", lab.path) == 0

    assert capsys.readouterr().out == "bare-1: handed out again\nbare-1: it was not quarantined\n"
    assert (store.audit()[-1].event, store.audit()[-1].reason) == (AuditEvent.RESTORED, "new fan")
    lease(store, "bare-1")


@pytest.mark.parametrize("action", [("release", "--reason", "x"), ("restore",)])
def test_an_unknown_board_is_named_with_the_near_miss(lab: Lab, action: tuple[str, ...]) -> None:
    with pytest.raises(BoardUnavailable, match="has no board 'bare1'; did you mean 'bare-1'"):
        edgehil(action[0], "bare1", *action[1:], "--lab", lab.path)
