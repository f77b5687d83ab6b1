"""A delta as a file: what it says of itself, where it is found, and everything else that is refused."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bundles import manifest

from pytest_edgehil.artifacts.bundle import pack
from pytest_edgehil.artifacts.catalog import Catalog
from pytest_edgehil.artifacts.delta.create import Delta, create
from pytest_edgehil.artifacts.delta.published import Published, peek, publish
from pytest_edgehil.errors import ArtifactNotFound, CorruptArtifact, UnsafeArchive
from pytest_edgehil.model import Artifact, Track


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    directory = tmp_path_factory.mktemp("versions")
    data = np.random.default_rng(0).integers(0, 256, 200_000, dtype=np.uint8).tobytes()
    old = pack(manifest(version="1.0.0"), {"model.onnx": data}, directory)
    return old, pack(manifest(version="1.0.1"), {"model.onnx": data[:100_000] + b"new" + data[100_000:]}, directory)


@pytest.fixture(scope="module")
def delta(versions: tuple[Artifact, Artifact]) -> Delta:
    old, new = versions
    found = create(new, [old])
    assert found is not None
    return found


def published(delta: Delta, path: Path) -> Published:
    return publish(delta.new, delta.head, delta.pieces(), path)


def test_it_says_what_it_makes_and_of_what_and_gives_the_delta(versions, delta, tmp_path):
    old, new = versions
    one = published(delta, tmp_path / "a" / "update.ehdelta")
    assert (one.name, one.version, one.track) == ("digits", "1.0.1", Track.MODEL)
    assert (one.digest, one.size_bytes, one.sources) == (new.digest, new.size_bytes, frozenset({old.digest}))
    assert b"".join(one.pieces()) == b"".join(delta.pieces())
    assert one.delta_bytes == delta.size_bytes
    again = published(delta, tmp_path / "b" / "update.ehdelta")
    assert again.path.read_bytes() == one.path.read_bytes()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["update.ehdelta"]


def test_it_is_found_in_the_directories_in_stores_and_beside_the_artifact(versions, delta, tmp_path):
    old, new = versions
    held = frozenset({old.digest, new.digest})
    elsewhere = dataclasses.replace(new, path=tmp_path / "elsewhere" / "new.tar.gz")
    for place in ("here", "store/sha256", "elsewhere"):
        one = published(delta, tmp_path / place / "x.ehdelta")
        if place.endswith("sha256"):  # there, its name is its digest
            named = one.path.with_name(f"{hashlib.sha256(one.path.read_bytes()).hexdigest()}.ehdelta")
            one = dataclasses.replace(one, path=one.path.rename(named))
        catalog = Catalog([tmp_path / "here", tmp_path / "store"])
        assert [found.path for found in catalog.deltas_to(elsewhere, held)] == [one.path]
        assert catalog.deltas_to(elsewhere, frozenset({new.digest})) == ()
        assert catalog.deltas_to(old, held) == ()
        one.path.write_bytes(b"no delta")
        assert Catalog([one.path.parent]).deltas_to(elsewhere, held) == ()
        one.path.unlink()


def test_what_was_altered_is_refused_at_the_latest_when_it_ends(delta, tmp_path):
    one = published(delta, tmp_path / "x.ehdelta")
    whole = one.path.read_bytes()
    other = published(
        dataclasses.replace(delta, head=dataclasses.replace(delta.head, size_bytes=7)), tmp_path / "y.ehdelta"
    )
    for altered in (whole[:-600], whole.replace(b"EHDELTA2", b"EHDELTA3"), other.path.read_bytes()):
        one.path.write_bytes(altered)
        with pytest.raises(CorruptArtifact):
            list(one.pieces())
    one.path.unlink()
    with pytest.raises(ArtifactNotFound, match="cannot be read"):
        list(one.pieces())


def test_a_delta_of_nothing_is_none(versions, delta, tmp_path):
    head = dataclasses.replace(delta.head, sources=())
    with pytest.raises(CorruptArtifact, match="nothing in common"):
        publish(versions[1], head, [], tmp_path / "x.ehdelta")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_other_bytes_are_refused_in_one_line(delta, tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzzed") / "x.ehdelta"
    whole = bytearray(published(delta, path).path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 1500) | st.integers(0, len(whole) - 1))
        whole[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    path.write_bytes(whole)
    try:
        sent, said = b"".join(peek(path).pieces()), ""
    except (CorruptArtifact, UnsafeArchive) as problem:
        sent, said = b"", str(problem)
    # what is accepted has changed in nothing but what nobody looks at
    assert said.isprintable() if said else sent == b"".join(delta.pieces())
