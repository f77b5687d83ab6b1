"""Something big is made by one process at a time, and a maker that was killed leaves nothing for good."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_edgehil.emulated.image.built import image_key
from pytest_edgehil.emulated.image.workplace import one_at_a_time, workplace
from pytest_edgehil.emulated.layout import Layout
from pytest_edgehil.emulated.template import restore

MAKER = """
import sys
from pathlib import Path
from pytest_edgehil.emulated.image.workplace import one_at_a_time, workplace
with one_at_a_time(Path(sys.argv[1], "lock"), say=print), workplace(Path(sys.argv[1]), prefix=".build-") as work:
    (work / "half").write_text("of it")
    print(work.name, flush=True)
    sys.stdin.read()
"""


def maker(parent: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", MAKER, str(parent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, parent / process.stdout.readline().strip()


def test_what_a_killed_maker_has_left_goes_and_what_is_being_made_stays(tmp_path: Path) -> None:
    process, half = maker(tmp_path)
    with process:
        with workplace(tmp_path, prefix=".build-"):
            assert (half / "half").exists()
        process.kill()
        process.wait()
    assert (half / "half").exists()
    with workplace(tmp_path, prefix=".build-") as mine:
        assert not half.exists()
        assert list(mine.iterdir()) == []
        mine.rename(tmp_path / "whole")
    assert (tmp_path / "whole").is_dir()
    assert not list(tmp_path.glob(".build-[!l]*"))


def test_what_has_just_been_put_in_its_place_is_held_by_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / ".build-old"
    old.mkdir()
    looked_at = os.open

    def renamed_meanwhile(path: str | Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == old and old.exists():
            old.rename(tmp_path / "whole")
        return looked_at(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", renamed_meanwhile)
    with workplace(tmp_path, prefix=".build-") as work:
        assert work.is_dir()
    assert (tmp_path / "whole").is_dir()


def test_only_one_makes_it_and_who_waits_is_told(tmp_path: Path) -> None:
    process, _ = maker(tmp_path)
    told: list[str] = []

    def say(line: str) -> None:
        told.append(line)
        process.kill()  # else it would be waited for as long as it lives

    with process, one_at_a_time(tmp_path / "lock", say=say):
        assert told == ["another process is at it already; waiting for that"]


def test_a_template_below_any_directory_is_restored() -> None:
    asked: dict[str, object] = {}
    template = Layout(root=Path("/home/a user/it's cache/templates/1"))
    qemu = SimpleNamespace(do=lambda verb, **arguments: asked.update({verb: arguments}))
    process = SimpleNamespace(wait_for_migration=lambda _qemu: None, wait_for_state=lambda _qemu, _state: None)
    restore(qemu, template, process)  # type: ignore[arg-type]
    uri = asked["migrate-incoming"]["uri"]  # type: ignore[index]
    said = subprocess.run(["/bin/sh", "-c", uri.removeprefix("exec:")], capture_output=True, text=True, check=False)
    assert f"{template.state}" in said.stderr


def test_an_image_whose_links_have_changed_is_another_image(tmp_path: Path) -> None:
    root = tmp_path / "root/etc"
    root.mkdir(parents=True)
    for name in ("image.yaml", "image.lock", "boot.cmd", "init"):
        (tmp_path / name).touch()
    keys = set()
    for leads_to in ("/run/one", "/run/another"):
        (root / "resolv.conf").unlink(missing_ok=True)
        (root / "resolv.conf").symlink_to(leads_to)
        keys.add(image_key(tmp_path))
    assert len(keys) == 2
