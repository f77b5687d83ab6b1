"""The board's own answer to whether a combo fits: all clashes, and the same ones that the host finds."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bundles import DIGEST

from pytest_edgehil.artifacts.compat import clashes
from pytest_edgehil.artifacts.manifest import to_bytes
from pytest_edgehil.errors import CorruptArtifact
from pytest_edgehil.model import Board, Environment
from pytest_edgehil.model.artifact import (
    Artifact,
    Budgets,
    Combo,
    FileEntry,
    Manifest,
    Provenance,
    Target,
    Track,
)
from pytest_edgehil.model.board import Accelerator
from pytest_edgehil.onboard import fits
from pytest_edgehil.onboard.home import Home
from pytest_edgehil.onboard.manifest import parse_manifest
from pytest_edgehil.onboard.problem import Problem

HERE = fits.Here(
    cls="pi5-8gb-hat2",
    machine="aarch64",
    page_size_bytes=16384,
    accelerator="hailo10h",
    runtimes=lambda: {"onnxruntime": "1.23.2", "replay": "1"},
    firmware=("edge-os", "2026.11"),
)


def made(track: Track = Track.MODEL, **changes) -> Manifest:
    target = Target(name="any", board_classes=("*",), **changes.pop("target", {}))
    kind = {Track.MODEL: "onnx", Track.PROMPT: "prompt-bundle", Track.FIRMWARE: "firmware-tree"}[track]
    return Manifest(
        schema=1, name=str(track), version="1", track=track, format=kind,
        quantisation="fp32" if track is Track.MODEL else "none", target=target,
        files=(FileEntry(path="a", digest=DIGEST, size_bytes=1),), entry="a",
        **{"provides": {}, "depends": {}, **changes}, budgets=Budgets(),
        provenance=Provenance(source=DIGEST, recipe=DIGEST),
    )  # fmt: skip


def on_board(manifest: Manifest):
    return parse_manifest(to_bytes(manifest))


def told(*manifests: Manifest, board: fits.Here = HERE) -> list[str]:
    return list(fits.clashes({str(one.track): on_board(one) for one in manifests}, board))


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ({"architectures": ("armv7l",)}, "made for armv7l, this board is aarch64"),
        ({"accelerators": ("hailo8", "hailo8l")}, "needs the accelerator hailo8 or hailo8l, this board has hailo10h"),
        ({"page_sizes_bytes": (4096,)}, "made for pages of 4096 bytes, this kernel has 16384"),
        ({"runtime": "hailort"}, "needs the runtime hailort, this board has onnxruntime 1.23.2, replay 1"),
        ({"runtime": "onnxruntime", "min_runtime_version": "1.24"}, "needs onnxruntime 1.24 or newer"),
        ({"runtime": "onnxruntime", "below_runtime_version": "1.23"}, "needs a onnxruntime before 1.23"),
    ],
)
def test_what_an_artifact_is_not_made_for_is_told(target, said):
    (found,) = told(made(target=target))
    assert said in found


@pytest.mark.parametrize(
    "target",
    [
        {"architectures": ("arm64", "x86_64")},
        {"accelerators": ("hailo10*",)},
        {"page_sizes_bytes": (4096, 16384)},
        {"runtime": "onnxruntime", "min_runtime_version": "1.23.2", "below_runtime_version": "1.24"},
        {"runtime": "replay"},
    ],
)
def test_what_fits_has_no_clash(target):
    assert told(made(target=target)) == []


def test_every_clash_of_a_combo_is_listed():
    model = made(target={"page_sizes_bytes": (4096,), "runtime": "hailort"}, depends={"firmware.version": ("2027.*",)})
    prompt = made(Track.PROMPT, depends={"model.name": ("digits",)})
    found = told(model, prompt)
    assert len(found) == 4
    assert "model 1 needs firmware.version 2027.*, but it is 2026.11" in found
    assert "prompt 1 needs model.name digits, which nothing in the combo or on this board provides" in found


def test_a_missing_runtime_alone_is_the_boards_fault():
    lacking = made(target={"runtime": "hailort"})
    for combo, code in (
        ({"model": on_board(lacking)}, "runtime-missing"),
        ({"model": on_board(made(target={"runtime": "hailort", "architectures": ("armv7l",)}))}, "wrong-target"),
    ):
        with pytest.raises(Problem) as refused:
            fits.check(combo, HERE)
        assert refused.value.code == code
    fits.check_alone(on_board(lacking), HERE)  # whoever loads it finds out
    with pytest.raises(Problem, match="made for armv7l"):
        fits.check_alone(on_board(made(target={"architectures": ("armv7l",)})), HERE)


def test_a_class_is_judged_once_somebody_says_it(tmp_path):
    home = Home(tmp_path)
    home.prepare()
    picky = made()
    picky = dataclasses.replace(picky, target=dataclasses.replace(picky.target, board_classes=("pi4-*",)))
    unknown = fits.here(home, {}, runtimes=dict)
    assert unknown.cls is None
    assert told(picky, board=unknown) == []
    (found,) = told(picky, board=fits.here(home, {}, runtimes=dict, cls="pi5-8gb"))
    assert "made for board class pi4-*, this board is a pi5-8gb" in found
    (tmp_path / "board.json").write_text(json.dumps({"class": "pi4-2gb"}))
    assert told(picky, board=fits.here(home, {}, runtimes=dict)) == []
    with pytest.raises(Problem, match="takes this board for a pi5-8gb"):
        fits.here(home, {}, runtimes=dict, cls="pi5-8gb")


WORDS = st.sampled_from(["aarch64", "arm64", "x86_64", "hailo8", "hailo10h", "pi5-*", "pi4-*", "*"])
VERSIONS = st.none() | st.sampled_from(["1", "1.20", "1.23.2", "1.23.10", "2"])


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_host_and_board_say_the_same(data):
    runtime = data.draw(st.none() | st.sampled_from(["onnxruntime", "hailort", "replay"]))
    lowest, below = (data.draw(VERSIONS) if runtime else None for _ in range(2))
    target = Target(
        name="any",
        board_classes=tuple(data.draw(st.lists(WORDS, min_size=1, max_size=2))),
        architectures=tuple(data.draw(st.lists(st.sampled_from(["aarch64", "arm64", "x86_64"]), max_size=2))),
        accelerators=tuple(data.draw(st.lists(WORDS, max_size=2))),
        page_sizes_bytes=tuple(data.draw(st.sets(st.sampled_from([4096, 16384])))),
        runtime=runtime,
        min_runtime_version=lowest,
        below_runtime_version=below,
    )
    depends = data.draw(
        st.dictionaries(st.sampled_from(["board.accelerator", "firmware.version", "other"]), st.just(("2026.*", "h*")))
    )
    manifest = dataclasses.replace(made(), target=target, depends=depends)
    board = Board(
        id="b", cls=str(HERE.cls), environment=Environment.VIRTUAL, accelerator=Accelerator(kind=str(HERE.accelerator))
    )
    combo = Combo(model=Artifact(digest=DIGEST, size_bytes=1, path=None, manifest=manifest))  # type: ignore[arg-type]
    host = clashes(
        combo,
        board,
        machine=HERE.machine,
        page_size_bytes=HERE.page_size_bytes,
        runtimes=HERE.runtimes(),
        provided={"firmware.name": "edge-os", "firmware.version": "2026.11"},
    )
    try:
        seen = on_board(manifest)
    except CorruptArtifact as problem:
        refused = str(problem)
        seen = None
    if seen is None:
        assert "no version is at least" in refused
        return
    assert len(host) == len(list(fits.clashes({"model": seen}, HERE)))


@pytest.mark.parametrize(("bootloader", "fine"), [("2025-09-22", True), ("2024-12-31", False), (None, False)])
def test_a_firmware_may_need_a_bootloader_that_is_new_enough(bootloader, fine):
    needs = made(Track.FIRMWARE, depends={"board.bootloader": (">=2025-01-22",)})
    said = told(needs, board=dataclasses.replace(HERE, bootloader=bootloader))
    assert (said == []) is fine
    assert fine or "needs board.bootloader >=2025-01-22" in said[0]
