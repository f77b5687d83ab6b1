"""Images and templates that nobody has used for long are removed, and nothing else is."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import pytest
from support.empty_image import empty_image

from pytest_edgehil.cli import main
from pytest_edgehil.emulated import pruning
from pytest_edgehil.emulated.farm import start
from pytest_edgehil.emulated.image.workplace import workplace
from pytest_edgehil.errors import ConfigError
from pytest_edgehil.model.board import Board, EmulatedSpec, Environment

DAY_S = 86400.0


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With an image and a template that were used yesterday, and ones that were not for forty days."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("EDGEHIL_CACHE_DIR", str(cache))
    for name, version, days in (("old", "1", 40), ("new", "2", 1)):
        directory = tmp_path / name
        empty_image(directory, cache=cache / name, files={"disk.raw": 300_000})
        (cache / "images").mkdir(exist_ok=True)
        (built,) = (cache / name / "images").iterdir()
        described = (built / "image.json").read_text().replace("2026.11", version)
        (built / "image.json").write_text(described)
        aged(built.replace(cache / "images" / name), days)
        template = cache / "templates" / name
        template.mkdir(parents=True)
        (template / "memory.bin").write_bytes(bytes(100_000))
        aged(template, days)
    (cache / "packages").mkdir()
    (cache / "packages" / "0123").write_text("a package")
    aged(cache / "packages" / "0123", 400)
    return cache


def aged(path: Path, days: float) -> None:
    then_s = time.time() - days * DAY_S
    os.utime(path, (then_s, then_s))


def kept(cache: Path) -> set[str]:
    return {
        f"{room}/{one.name}"
        for room in ("images", "templates", "packages")
        for one in (cache / room).iterdir()
        if one.is_dir() or room == "packages"
    }


NEW = {"images/new", "templates/new", "packages/0123"}


def test_what_was_not_used_for_long_is_removed_and_said(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["image", "prune"]) == 0
    assert kept(cache) == NEW
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{cache / 'images' / 'old'}: image edge 1, 30")
    assert said[0].endswith(" KiB, not used for 40 days: removed")
    assert said[1].startswith(f"{cache / 'templates' / 'old'}: template, ")
    assert said[2].startswith(f"{cache}: ")
    assert said[2].endswith(" KiB freed")
    assert main(["image", "prune"]) == 0
    assert capsys.readouterr().out == f"{cache}: 0 B freed\n"


def test_a_dry_run_says_the_same_and_removes_nothing(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = kept(cache)
    assert main(["image", "prune", "--dry-run"]) == 0
    assert kept(cache) == before
    dry = capsys.readouterr().out
    assert main(["image", "prune"]) == 0
    assert capsys.readouterr().out == dry.replace("would be removed", "removed").replace("would be freed", "freed")


def test_everything_goes_that_was_not_used_for_no_time_at_all(cache: Path) -> None:
    assert main(["image", "prune", "--unused-for", "0s"]) == 0
    assert kept(cache) == {"packages/0123"}, "their sources may not have the old versions any more"


def test_an_empty_cache_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("EDGEHIL_CACHE_DIR", str(tmp_path / "none"))
    assert main(["image", "prune"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'none'}: 0 B freed\n"
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("text", ["30", "soon", "-1d"])
def test_a_time_that_is_none_is_one_line_and_nothing_is_removed(
    cache: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    before = kept(cache)
    assert main(["image", "prune", f"--unused-for={text}"]) == 2
    said = capsys.readouterr().err
    assert f"--unused-for: '{text}' is no duration" in said
    assert said.count("\n") == 1
    assert kept(cache) == before


@pytest.mark.parametrize("room", ["images", "templates"])
def test_what_somebody_is_making_just_now_stays(cache: Path, capsys: pytest.CaptureFixture[str], room: str) -> None:
    with (cache / room / "old.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["image", "prune"]) == 0
    assert kept(cache) == NEW | {f"{room}/old"}
    assert f"{room}/old: " in (said := capsys.readouterr().out)
    assert "kept: it is in use again" in said


def test_what_was_used_since_it_was_looked_at_stays(cache: Path) -> None:
    now_s = time.time()
    found = pruning.unused(cache, now_s=now_s, for_s=30 * DAY_S)
    assert {one.path.name for one in found} == {"old"}
    pruning.mark_used(cache / "images" / "old")
    assert [pruning.remove(one, now_s=now_s, for_s=30 * DAY_S) for one in found] == [False, True]
    assert kept(cache) == NEW | {"images/old"}


@pytest.mark.parametrize(("room", "prefix"), [("images", ".build-"), ("templates", ".making-")])
def test_what_a_killed_maker_has_left_goes_at_any_age_and_what_a_living_one_has_stays(
    cache: Path, capsys: pytest.CaptureFixture[str], room: str, prefix: str
) -> None:
    left = cache / room / f"{prefix}killed"
    left.mkdir()
    (left / "disk.raw").write_bytes(bytes(50_000))
    with workplace(cache / room, prefix=prefix) as living:  # removes what was left, as every maker does
        left.mkdir()
        assert main(["image", "prune"]) == 0
        assert living.is_dir()
        assert not left.exists()
        assert not list((cache / room).glob(f"{prefix}killed*"))
    assert f"{left}: what a killed process has left" in capsys.readouterr().out


def test_the_logs_of_a_template_that_failed_go_with_the_rest(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed = cache / "templates" / "bad.failed"
    failed.mkdir()
    aged(failed, 31)
    assert main(["image", "prune"]) == 0
    assert not failed.exists()
    assert "bad.failed: logs of a template that failed" in capsys.readouterr().out


def test_a_damaged_image_can_be_removed(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cache / "images" / "old" / "image.json").write_text("torn")
    aged(cache / "images" / "old", 40)
    assert main(["image", "prune"]) == 0
    assert kept(cache) == NEW
    assert "damaged image" in capsys.readouterr().out


def test_what_cannot_be_removed_is_told(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (one, *_) = pruning.unused(cache, now_s=time.time(), for_s=30 * DAY_S)

    def refuse(path: Path, target: Path) -> Path:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(ConfigError, match="images/old cannot be removed: Permission denied"):
        pruning.remove(one, now_s=time.time(), for_s=30 * DAY_S)
    assert one.path.is_dir()


@pytest.mark.needs("qemu")
def test_a_boards_start_marks_its_image_as_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEHIL_CACHE_DIR", str(tmp_path / "cache"))
    image = empty_image(tmp_path / "image", cache=tmp_path / "cache")
    (built,) = (tmp_path / "cache" / "images").iterdir()
    aged(built, 40)
    spec = EmulatedSpec(image=image, serial="e1", memory_bytes=2**31)
    board = Board(id="emu-01", cls="c", environment=Environment.EMULATED, emulated=spec)
    with pytest.raises(ConfigError, match="cannot be"):  # nothing boots this image
        start(board, directory=tmp_path / "board", disk=tmp_path / "none.qcow2")
    assert pruning.unused(tmp_path / "cache", now_s=time.time(), for_s=DAY_S) == []
