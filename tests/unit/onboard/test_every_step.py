"""A deployment is cut at every operation that touches the medium: always one whole combo, and the next run ends well.

Push, unpack, write the slot, trial, prove, commit, switch, load, and back from a combo that is unwell; the power goes
and takes what was not fsynced, the program is killed, the link is cut, the disk is full, read-only or broken.
"""

from __future__ import annotations

import collections
import contextlib
import random
import tempfile
from pathlib import Path

import pytest
from support.cutting import FAULTS, Stand, in_memory
from support.deploying import Deployment
from support.lossy_disk import LossyDisk

from pytest_edgehil.onboard import collect, combos, uncached, unpack
from pytest_edgehil.onboard.problem import Problem
from pytest_edgehil.onboard.slots import images
from pytest_edgehil.onboard.unpack import altered, read_manifest

pytestmark = pytest.mark.timeout(450)


@pytest.fixture
def room(monkeypatch):
    """A directory in memory where there is one: thousands of boards are made and thrown away."""
    with tempfile.TemporaryDirectory(dir=in_memory()) as directory:
        monkeypatch.setenv("EDGEHIL_SYSROOT", directory)  # put back afterwards
        yield Path(directory)


@pytest.fixture
def stand(room):
    return Stand(room / "stand", fresh=False)


def wrong(found: dict[str, list[str]]) -> dict[str, list[str]]:
    return {what: faults for what, faults in found.items() if faults}


def test_a_deployment_touches_the_medium_in_every_way_that_is_watched(stand):
    counted = collections.Counter(stand.steps())
    assert set(counted) >= {"open", "write", "fsync", "replace", "rename", "symlink", "mkdir", "unlink"}
    assert counted.total() > 100


def test_killed_at_every_operation(stand):
    steps = len(stand.steps())
    found = stand.cut(lambda _number: [None])
    assert len(found) == steps
    assert wrong(found) == {}


def test_the_power_goes_at_every_operation(stand):
    found = stand.cut(lambda number: [random.Random(number)])
    assert len(found) > 100
    assert wrong(found) == {}


def test_without_fsync_the_same_cuts_are_not_survived(stand):
    """The disk of these tests does lose what it may lose, and what is wrong afterwards is noticed."""
    found = stand.cut(lambda number: [random.Random(number)] if number % 5 == 0 else [], honest=False)
    assert len(wrong(found)) > 3


def test_fifty_random_power_cuts_of_a_board_that_is_new(room):
    stand = Stand(room / "stand", fresh=True)
    steps = len(stand.steps())
    chances = collections.defaultdict(list)
    for seed in range(50):
        chance = random.Random(f"cut {seed}")
        chances[chance.randint(1, steps)].append(chance)
    assert wrong(stand.cut(lambda number: list(chances[number]))) == {}


def test_the_medium_fails_from_any_operation_on(stand):
    names = sorted(FAULTS)
    found = {}
    for number in range(1, len(stand.steps()), 2):
        fault = names[number // 2 % len(names)]
        found[f"{fault} from operation {number} on"] = stand.fail(number, fault)
    assert wrong(found) == {}


@pytest.fixture(params=["tryboot", "uboot"])
def images_on(request, room, monkeypatch):
    """A board whose slots are devices, and what is written to them in small pieces."""
    sizes = ((unpack, "BLOCK_BYTES", 1000), (uncached, "BLOCK_BYTES", 1000), (images, "FLUSH_BYTES", 2000))
    for module, name, size in sizes:
        monkeypatch.setattr(module, name, size)
    return Stand(room / "stand", fresh=False, kind=request.param)


def test_an_image_is_written_in_pieces_that_are_flushed(images_on):
    counted = collections.Counter(images_on.steps())
    assert counted["fdatasync"] >= 2
    assert counted["write"] > 10


def test_killed_and_without_power_at_every_operation_of_a_firmware_of_images(images_on):
    steps = len(images_on.steps())
    found = images_on.cut(lambda number: [None, random.Random(number)])
    assert len(found) == 2 * steps
    assert wrong(found) == {}


def test_the_medium_fails_from_any_operation_on_of_a_firmware_of_images(images_on):
    found = {}
    for number in range(1, len(images_on.steps())):
        fault = sorted(FAULTS)[number % len(FAULTS)]
        found[f"{fault} from operation {number} on"] = images_on.fail(number, fault)
    assert wrong(found) == {}


def test_short_writes_to_a_device_are_written_to_their_end(images_on):
    with images_on.board() as board:
        with LossyDisk(board.root, at=lambda _number, _name: None, short_writes=300).watching():
            board.run()
        assert board.faults() == []
        assert board.status()["combo"] == images_on.plan.new


@pytest.mark.parametrize("images_on", ["tryboot"], indirect=True)  # U-Boot's redundant environment has a checksum
def test_without_flushing_an_image_the_same_cuts_are_not_survived(images_on):
    found = images_on.cut(lambda number: [random.Random(number)], honest=False)
    assert len(wrong(found)) > 3


def test_the_link_is_cut_at_any_byte(stand):
    assert wrong({f"cut {seed}": stand.unplug(random.Random(seed)) for seed in range(10)}) == {}


def test_the_power_goes_while_room_is_made(stand):
    """Whatever is left, the board stays on its combo, and going back leads to a whole one or is refused."""

    def after(image: Path) -> list[str]:
        found = Deployment(image, stand.plan)
        found.enter()
        found.come_up()
        faults = found.faults()
        with contextlib.suppress(Problem):  # there is no other good combo any more
            combos.revert(found.home)
        return faults + [
            f"back on a {track} of which {one}"
            for track in combos.current(found.home)
            for one in altered(read_manifest(found.home.current / track), found.home.current / track)
        ]

    def at(number: int, _name: str) -> None:
        for chance in (None, random.Random(number)):
            with stand.place() as image:
                disk.image(image, chance)
                faults.extend(after(image))
        cuts.append(number)
        board.enter()

    faults: list[str] = []
    cuts: list[int] = []
    with stand.board() as board:
        board.run()
        disk = LossyDisk(board.root, at=at)
        with disk.watching():
            collect.collect(board.home, keep_bytes=0)
        assert set(combos.current(board.home).values()) == {f"sha256:{one.name}" for one in board.home.store.iterdir()}
    assert faults == []
    assert len(cuts) > 10


def test_writes_that_are_short_are_written_to_their_end(stand):
    with stand.board() as board:
        with LossyDisk(board.root, at=lambda _number, _name: None, short_writes=700).watching():
            board.run()
        assert board.faults() == []
        assert board.status()["combo"] == stand.plan.new
