"""Making room on a board, and going back: what is needed stays, whatever the limit."""

from __future__ import annotations

import os

import pytest
from support.boards import BenchBoard, bundle, model_bundle

from pytest_edgehil.model import Track
from pytest_edgehil.onboard import combos
from pytest_edgehil.onboard.collect import collect, used
from pytest_edgehil.onboard.home import Home
from pytest_edgehil.onboard.problem import Problem
from pytest_edgehil.onboard.unpack import install


@pytest.fixture
def home(tmp_path, monkeypatch):
    board = BenchBoard(tmp_path / "board", new=True)
    for name, value in board.env.items():
        monkeypatch.setenv(name, value)
    home = Home(board.edgehil)
    home.prepare()
    return home


def keep(home: Home, artifact, *, age_s: int = 0) -> str:
    home.bundle(artifact.digest).write_bytes(artifact.path.read_bytes())
    install(home, artifact.digest)
    os.utime(home.bundle(artifact.digest), (1_700_000_000 - age_s,) * 2)
    return artifact.digest


def models(home: Home, tmp_path, number: int) -> list[str]:
    """Bundles, the first one used longest ago."""
    return [
        keep(home, bundle(tmp_path, {"model.onnx": bytes([at]) * 10_000}), age_s=number - at) for at in range(number)
    ]


def good(home: Home, digest: str) -> None:
    combos.activate(home, {"model": digest})
    combos.mark_good(home)


def test_what_was_used_longest_ago_goes_first_and_only_as_much_as_needed(home, tmp_path):
    oldest, older, newer, newest = models(home, tmp_path, 4)
    used(home, oldest)
    whole = collect(home, keep_bytes=10**9)["kept_bytes"]
    found = collect(home, keep_bytes=whole - 1)
    assert found["removed"] == [older]
    assert found["freed_bytes"] + found["kept_bytes"] == whole
    assert not home.bundle(older).exists()
    assert not home.tree(older).exists()
    assert all(home.bundle(one).exists() and home.tree(one).exists() for one in (oldest, newer, newest))


def test_the_active_the_known_good_and_the_spared_always_stay(home, tmp_path):
    first, second, spared, unused = models(home, tmp_path, 4)
    good(home, first)
    combos.activate(home, {"model": second})
    assert collect(home, keep_bytes=0, spare=[spared])["removed"] == [unused]
    assert combos.current(home) == {"model": second}
    assert combos.last_known_good(home) == {"model": first}


def test_what_a_journal_is_about_to_activate_stays(home, tmp_path):
    first, second = models(home, tmp_path, 2)
    combos.activate(home, {"model": second})
    combos.activate(home, {"model": first})
    home.journal.write_text(f'{{"combo": "{combos.combo_id({"model": second})}", "partition": 3, "other": 2}}')
    assert collect(home, keep_bytes=0)["removed"] == []


def test_a_combo_that_lost_a_part_is_no_longer_there_to_go_back_to(home, tmp_path):
    first, second, third = models(home, tmp_path, 3)
    for one in (first, second, third):
        good(home, one)
    combos.activate(home, {"model": third})
    assert collect(home, keep_bytes=0)["removed"] == [first, second]
    with pytest.raises(Problem, match="no other good combo"):
        combos.revert(home)


def test_going_back_leads_to_the_last_good_combo_and_then_to_the_one_before(home, tmp_path):
    first, second, third = models(home, tmp_path, 3)
    good(home, first)
    good(home, second)
    combos.activate(home, {"model": third})
    assert combos.revert(home, reason="it stutters")["combo"] == {"model": second}
    assert combos.setback(home)["reason"] == "it stutters"
    assert combos.setback(home)["combo"] == {"model": third}
    assert combos.revert(home)["combo"] == {"model": first}
    combos.mark_good(home)
    assert combos.setback(home) is None


def test_a_combo_with_another_firmware_is_not_gone_back_to_by_a_link_alone(home, tmp_path):
    old, new = (
        keep(home, bundle(tmp_path, {"a": text}, track=Track.FIRMWARE, kind="firmware-tree")) for text in (b"1", b"2")
    )
    model = keep(home, model_bundle(tmp_path))
    combos.activate(home, {"firmware": old, "model": model})
    combos.mark_good(home)
    combos.activate(home, {"firmware": new, "model": model})
    with pytest.raises(Problem, match="has another firmware"):
        combos.revert(home)
    assert "stays on it" in combos.fall_back(home, "the model died")
    assert combos.current(home) == {"firmware": new, "model": model}
    assert combos.setback(home)["reason"] == "the model died"


def test_the_last_known_good_combo_itself_is_stayed_on(home, tmp_path):
    (only,) = models(home, tmp_path, 1)
    good(home, only)
    assert "stays on it" in combos.fall_back(home, "bad day")
    assert combos.current(home) == {"model": only}
