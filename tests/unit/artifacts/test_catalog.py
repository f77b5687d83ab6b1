"""A name means exactly one artifact, or the message says why not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from support.bundles import manifest, sha256

from pytest_edgehil.artifacts.bundle import pack
from pytest_edgehil.artifacts.catalog import Catalog
from pytest_edgehil.errors import ArtifactNotFound, CorruptArtifact
from pytest_edgehil.model.artifact import Artifact, Track


def put(directory: Path, *, contents: bytes = b"weights", **changes: object) -> Artifact:
    return pack(manifest(**changes), {"model.onnx": contents}, directory)


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    put(tmp_path, quantisation="fp32")
    put(tmp_path, quantisation="int8-static")
    put(tmp_path, quantisation="int8-dynamic")
    put(tmp_path, name="digits-bad")
    put(tmp_path, name="edge-os", version="2026.11", track=Track.FIRMWARE, format="firmware-tree", quantisation="none")
    return tmp_path


@pytest.mark.parametrize(
    ("reference", "stem"),
    [
        ("digits-fp32", "digits-1.0.0-pi5-fp32"),
        ("digits-int8", "digits-1.0.0-pi5-int8-static"),
        ("digits-int8-static", "digits-1.0.0-pi5-int8-static"),
        ("digits-int8-dynamic", "digits-1.0.0-pi5-int8-dynamic"),
        ("digits-1.0.0-fp32", "digits-1.0.0-pi5-fp32"),
        ("digits-1.0.0-int8", "digits-1.0.0-pi5-int8-static"),
        ("digits-1.0.0-pi5-fp32", "digits-1.0.0-pi5-fp32"),
        ("digits-1.0.0-pi5-fp32.tar.gz", "digits-1.0.0-pi5-fp32"),
        ("digits-bad", "digits-bad-1.0.0-pi5-int8-static"),
        ("digits-bad-int8", "digits-bad-1.0.0-pi5-int8-static"),
        ("edge-os", "edge-os-2026.11-pi5"),
        ("edge-os-2026.11", "edge-os-2026.11-pi5"),
    ],
)
def test_every_way_to_name_an_artifact_finds_it(shelf: Path, reference: str, stem: str) -> None:
    assert Catalog([shelf]).find(reference).path.name == f"{stem}.tar.gz"


def test_a_path_and_a_digest_find_it_too(shelf: Path, tmp_path: Path) -> None:
    wanted = Catalog([shelf]).find("digits-fp32")
    assert Catalog([]).find(str(wanted.path)) == wanted
    assert Catalog([shelf]).find(wanted.digest) == wanted
    assert Catalog([shelf]).find(wanted.digest[:20], Track.MODEL) == wanted


def test_a_name_that_fits_several_lists_them(shelf: Path) -> None:
    with pytest.raises(ArtifactNotFound) as caught:
        Catalog([shelf]).find("digits")
    for quantisation in ("fp32", "int8-static", "int8-dynamic"):
        assert f"digits-1.0.0-pi5-{quantisation}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_int8_is_not_guessed_between_two_versions(shelf: Path) -> None:
    put(shelf, version="1.1.0")
    with pytest.raises(ArtifactNotFound, match=r"digits-1\.0\.0-pi5-int8-static, digits-1\.1\.0-pi5-int8-static"):
        Catalog([shelf]).find("digits-int8")


def test_int8_means_the_only_int8_when_none_is_static(tmp_path: Path) -> None:
    wanted = put(tmp_path, quantisation="int8-dynamic")
    assert Catalog([tmp_path]).find("digits-int8") == wanted


@pytest.mark.parametrize(("reference", "hint"), [("digits-int", "digits-int8"), ("edgeos", "edge-os")])
def test_a_near_miss_is_suggested(shelf: Path, reference: str, hint: str) -> None:
    with pytest.raises(ArtifactNotFound, match=f"did you mean .*{hint}"):
        Catalog([shelf]).find(reference)


def test_an_unknown_name_says_where_it_looked(shelf: Path) -> None:
    with pytest.raises(ArtifactNotFound) as caught:
        Catalog([shelf, shelf / "missing"]).find("zebra")
    assert str(shelf) in str(caught.value)
    assert "edgehil build" in str(caught.value)


def test_another_track_is_refused_and_named(shelf: Path) -> None:
    with pytest.raises(ArtifactNotFound, match=r"edge-os-2026\.11-pi5 is of track firmware"):
        Catalog([shelf]).find("edge-os", Track.MODEL)
    with pytest.raises(ArtifactNotFound, match="is of track firmware, expected model"):
        Catalog([shelf]).find(str(shelf / "edge-os-2026.11-pi5.tar.gz"), Track.MODEL)


def test_equal_bytes_in_two_directories_are_one_artifact(tmp_path: Path) -> None:
    first, second = put(tmp_path / "one"), put(tmp_path / "two")
    assert first.digest == second.digest
    assert Catalog([tmp_path / "one", tmp_path / "two"]).find("digits").path == first.path
    assert Catalog([tmp_path / "two", tmp_path / "one"]).find(first.digest).path == second.path


def test_equal_names_with_other_bytes_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    put(tmp_path / "one")
    put(tmp_path / "two", contents=b"weighty")
    with pytest.raises(ArtifactNotFound) as caught:
        Catalog([tmp_path / "one", tmp_path / "two"]).find("digits")
    assert str(tmp_path / "one") in str(caught.value)
    assert str(tmp_path / "two") in str(caught.value)


def test_a_broken_bundle_does_not_hide_the_others_and_is_mentioned(shelf: Path) -> None:
    (shelf / "broken.tar.gz").write_bytes(b"junk")
    assert Catalog([shelf]).find("digits-fp32").manifest.quantisation == "fp32"
    with pytest.raises(ArtifactNotFound, match=r"1 unreadable: .*broken\.tar\.gz"):
        Catalog([shelf]).find("zebra")


def test_a_damaged_artifact_is_refused_though_its_manifest_is_fine(shelf: Path) -> None:
    path = shelf / "digits-1.0.0-pi5-fp32.tar.gz"
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(CorruptArtifact):
        Catalog([shelf]).find("digits-fp32")


def test_a_rebuilt_artifact_is_seen(tmp_path: Path) -> None:
    catalog = Catalog([tmp_path])
    put(tmp_path)
    old = catalog.find("digits")
    put(tmp_path, contents=b"other weights")
    assert catalog.find("digits").digest != old.digest


@pytest.mark.parametrize(
    "reference", ["sha256:", "sha256:ab", "sha256:" + "0" * 64, "missing/x.tar.gz", "x.tar.gz", "", "."]
)
def test_what_fits_nothing_is_refused(shelf: Path, reference: str) -> None:
    with pytest.raises(ArtifactNotFound):
        Catalog([shelf]).find(reference)


def from_source(directory: Path, source: bytes, **changes: object) -> Artifact:
    provenance = dataclasses.replace(manifest().provenance, source=sha256(source))
    return put(directory, provenance=provenance, **changes)


def test_the_origin_of_a_model_is_the_artifact_that_holds_its_source(tmp_path: Path) -> None:
    full = put(tmp_path, quantisation="fp32", contents=b"float weights")
    small = from_source(tmp_path, b"float weights", quantisation="int8-static")
    (tmp_path / "broken.tar.gz").write_bytes(b"junk")
    assert Catalog([tmp_path]).origin_of(small) == full


def test_a_damaged_bundle_that_is_not_the_origin_does_not_matter(tmp_path: Path) -> None:
    full = put(tmp_path, quantisation="fp32", contents=b"float weights")
    small = from_source(tmp_path, b"float weights", quantisation="int8-static")
    other = put(tmp_path, name="another")
    other.path.write_bytes(other.path.read_bytes()[:-600])
    assert Catalog([tmp_path]).origin_of(small) == full


def test_a_quantised_model_without_its_origin_is_refused_and_a_float_one_is_its_own(tmp_path: Path) -> None:
    small = from_source(tmp_path, b"gone", quantisation="int8-static")
    full = from_source(tmp_path, b"gone", quantisation="fp32")
    with pytest.raises(ArtifactNotFound, match="build it too, or name another baseline"):
        Catalog([tmp_path]).origin_of(small)
    assert Catalog([tmp_path]).origin_of(full) == full


def test_a_file_name_is_looked_up_in_the_directories(shelf: Path) -> None:
    assert Catalog([shelf]).find("edge-os-2026.11-pi5.tar.gz", Track.FIRMWARE).manifest.name == "edge-os"
