"""Every clash between a combo and a board is listed; what nobody knows yet is not judged."""

from __future__ import annotations

from typing import Any

import pytest
from support.bundles import DIGEST, artifact

from pytest_edgehil.artifacts.compat import check_combo, clashes, firmware_clashes, missing_runtimes
from pytest_edgehil.errors import WrongTarget
from pytest_edgehil.model.artifact import Artifact, Combo, FileEntry, Target, Track
from pytest_edgehil.model.board import Accelerator, Board, Environment, Slots

BOARD = Board(
    id="pi5-01", cls="pi5-8gb-hat2", environment=Environment.VIRTUAL, accelerator=Accelerator(kind="hailo10h")
)


def model(**changes: Any) -> Any:
    return artifact(provides={"model.name": "digits", "model.version": "1.0.0"}, **changes)


def prompt(**depends: tuple[str, ...]) -> Any:
    named = {key.replace("_", "."): value for key, value in depends.items()}
    target = Target(name="any", board_classes=("*",))
    return artifact(
        name="reader", track=Track.PROMPT, format="prompt-bundle", quantisation="none", target=target, depends=named
    )


def test_a_fitting_combo_has_no_clash() -> None:
    combo = Combo(model=model(), prompt=prompt(model_name=("digits",), model_version=("1.*",)))
    assert clashes(combo, BOARD, machine="aarch64", runtimes={"onnxruntime": "1.20.1"}) == ()
    check_combo(combo, BOARD)


def test_an_empty_combo_fits_everywhere() -> None:
    assert clashes(Combo(), BOARD, machine="riscv64", runtimes={}) == ()


def test_every_clash_is_listed_not_the_first() -> None:
    target = Target(
        name="pi4", board_classes=("pi4-*",), architectures=("armv7l",), runtime="hailort", min_runtime_version="4.20"
    )
    combo = Combo(
        model=model(target=target, depends={"firmware.name": ("edge-os",)}), prompt=prompt(model_name=("other",))
    )
    with pytest.raises(WrongTarget) as caught:
        check_combo(combo, BOARD, machine="aarch64", runtimes={"onnxruntime": "1.20"})
    line = str(caught.value)
    assert "\n" not in line
    for part in (
        "does not fit board pi5-01 (pi5-8gb-hat2)",
        "made for board class pi4-*, the board is pi5-8gb-hat2",
        "made for armv7l, the board is aarch64",
        "needs the runtime hailort, the board has onnxruntime 1.20",
        "needs firmware.name edge-os, which nothing in the combo or on the board provides",
        "needs model.name other, but it is digits",
    ):
        assert part in line


def test_what_nobody_has_asked_the_board_yet_is_not_judged() -> None:
    target = Target(name="x", board_classes=("*",), architectures=("armv7l",), runtime="hailort")
    assert clashes(Combo(model=model(target=target)), BOARD) == ()


@pytest.mark.parametrize(
    ("have", "fits"),
    [
        *[(version, True) for version in ("1.20", "1.20.0", "1.21.3", "2", "1.100", "1.20.1rc1")],
        *[(version, False) for version in ("1.19.9", "1.3", "1", "unknown", "")],
    ],
)
def test_versions_of_runtimes_are_compared_as_numbers(have: str, fits: bool) -> None:
    found = clashes(Combo(model=model()), BOARD, runtimes={"onnxruntime": have})
    assert (found == ()) is fits


def test_a_missing_runtime_is_told_apart_from_other_clashes() -> None:
    target = Target(name="x", board_classes=("pi4-*",), runtime="hailort")
    combo = Combo(model=model(target=target))
    assert missing_runtimes(combo, {}) == (
        "digits 1.0.0 int8-static needs the runtime hailort, the board has no runtime",
    )
    assert missing_runtimes(combo, {"hailort": "4"}) == ()


def test_the_replay_runtime_is_always_there() -> None:
    combo = Combo(model=model(target=Target(name="any", board_classes=("*",), runtime="replay")))
    assert clashes(combo, BOARD, runtimes={}) == ()


def test_names_of_one_machine_are_equal() -> None:
    target = Target(name="x", board_classes=("*",), architectures=("arm64",))
    assert clashes(Combo(model=model(target=target)), BOARD, machine="aarch64") == ()


def test_a_board_provides_its_class_and_accelerator() -> None:
    needs = {"board.accelerator": ("hailo10h",), "board.class": ("pi5-*",)}
    assert clashes(Combo(model=model(depends=needs)), BOARD) == ()
    bare = Board(id="pi5-02", cls="pi5-8gb", environment=Environment.VIRTUAL)
    (found,) = clashes(Combo(model=model(depends=needs)), bare)
    assert "needs board.accelerator hailo10h, which nothing in the combo or on the board provides" in found


def test_firmware_that_stays_on_the_board_counts() -> None:
    combo = Combo(model=model(depends={"firmware.version": ("2026.*",)}))
    assert clashes(combo, BOARD, provided={"firmware.version": "2026.11"}) == ()
    assert len(clashes(combo, BOARD, provided={"firmware.version": "2025.1"})) == 1


def test_an_artifact_does_not_fulfil_its_own_dependency() -> None:
    assert len(clashes(Combo(model=model(depends={"model.name": ("digits",)})), BOARD)) == 1


def test_an_artifact_in_the_wrong_place_of_the_combo_is_named() -> None:
    found = clashes(Combo(firmware=model()), BOARD)
    assert found == ("digits 1.0.0 int8-static is of track model, but stands in the combo as firmware",)


SLOTS = Slots(backend="tryboot", devices={"root": ("/dev/a", "/dev/b")})


def system(**changes: Any) -> Artifact:
    changes = {"format": "firmware-tree", "quantisation": "none", **changes}
    return artifact(name="edge-os", track=Track.FIRMWARE, **changes)


@pytest.mark.parametrize(("floor", "fine"), [(None, True), ("1.0", True), ("1.0.0", True), ("1.0.1", False)])
def test_a_firmware_below_the_boards_floor_is_a_clash(floor: str | None, fine: bool) -> None:
    found = firmware_clashes(Combo(firmware=system()), floor=floor, slots=SLOTS)
    assert (found == ()) is fine
    assert fine or "is below the board's firmware floor 1.0.1" in found[0]


def test_every_reason_why_a_firmware_cannot_go_into_a_slot_is_listed() -> None:
    names = ("boot.img", "firmware.json", "root.img")
    files = tuple(FileEntry(path=path, digest=DIGEST, size_bytes=1) for path in names)
    named = system(format="firmware-image", files=files, provides={"firmware.floor": "7"})
    found = firmware_clashes(Combo(firmware=named), floor="2", slots=SLOTS)
    assert [one.partition("1.0.0 ")[2] for one in found] == [
        "is below the board's firmware floor 2: a downgrade is refused",
        "provides firmware.floor '7', expected a version up to its own",
        "has an image 'boot', and the board's slots name no device for it (they name root)",
    ]
    (said,) = firmware_clashes(Combo(firmware=system()), floor=None, slots=None)
    assert "needs firmware slots, and the board has none" in said
    assert firmware_clashes(Combo(model=model()), floor="2", slots=None) == ()
