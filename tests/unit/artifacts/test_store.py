"""The store: equal bytes once, whole or not at all, and never other bytes than those that were meant."""

from __future__ import annotations

import builtins
import dataclasses
import hashlib
import os
import random
import shutil
from pathlib import Path

import pytest
from support.bundles import manifest

from pytest_edgehil.artifacts.bundle import pack
from pytest_edgehil.artifacts.catalog import Catalog
from pytest_edgehil.artifacts.delta.create import create
from pytest_edgehil.artifacts.delta.published import publish
from pytest_edgehil.artifacts.store import Store
from pytest_edgehil.cli import main
from pytest_edgehil.errors import ArtifactNotFound, CorruptArtifact, ExtraMissing, UnsafeArchive, UserError
from pytest_edgehil.model import Track


@pytest.fixture
def artifact(tmp_path):
    return pack(manifest(version="1.0.0"), {"model.onnx": b"weights", "labels.txt": b"a"}, tmp_path / "built")


@pytest.fixture
def other(tmp_path):
    return pack(manifest(version="2.0.0"), {"model.onnx": b"others!", "labels.txt": b"a"}, tmp_path / "built")


@pytest.fixture(params=["directory", "url"])
def place(request, tmp_path):
    if request.param == "directory":
        yield str(tmp_path / "store")
        return
    fsspec = pytest.importorskip("fsspec", reason="the extra 'store' is not installed")
    url = f"memory://{tmp_path.name}"
    yield url
    fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)


def test_equal_bytes_are_kept_once_and_come_back_as_they_were(place, artifact, other, tmp_path):
    store = Store.open(place)
    assert store.entries() == ()
    assert [store.add(one.path).new for one in (artifact, artifact, other)] == [True, False, True]
    copy = tmp_path / "elsewhere.tar.gz"
    shutil.copy(artifact.path, copy)
    assert store.add(copy).new is False
    assert {one.digest for one in store.entries()} == {artifact.digest, other.digest}
    back = store.get(artifact.digest, tmp_path / "out")
    assert back.name == artifact.path.name
    assert back.read_bytes() == artifact.path.read_bytes()
    assert "2.0.0" in store.label(other.digest)
    assert [problem for _, problem in store.verify()] == ["", ""]


def test_what_has_rotted_is_never_given_out_and_is_mended_by_adding_it_again(artifact, tmp_path):
    store = Store.open(str(tmp_path / "store"))
    store.add(artifact.path)
    kept = tmp_path / "store/sha256" / f"{artifact.digest[7:]}.tar.gz"
    data = bytearray(kept.read_bytes())
    data[len(data) // 2] ^= 1
    kept.write_bytes(bytes(data))
    with pytest.raises(CorruptArtifact, match="hashes to"):
        store.get(artifact.digest, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(CorruptArtifact):
        Catalog([tmp_path / "store"]).find(artifact.manifest.name)
    with pytest.raises(ArtifactNotFound):
        Catalog([tmp_path / "store"]).find(artifact.digest)
    assert [bool(problem) for _, problem in store.verify()] == [True]
    assert store.add(artifact.path).new is True
    assert [problem for _, problem in store.verify()] == [""]


def test_a_bundle_under_another_ones_name_is_refused_also_by_the_catalog(artifact, other, tmp_path):
    store = Store.open(str(tmp_path / "store"))
    store.add(artifact.path)
    shutil.copy(other.path, tmp_path / "store/sha256" / f"{artifact.digest[7:]}.tar.gz")
    with pytest.raises(CorruptArtifact):
        Catalog([tmp_path / "store"]).find(other.manifest.name)


def test_a_store_is_a_place_where_names_and_sources_of_deltas_are_looked_up(artifact, other, tmp_path):
    store = Store.open(str(tmp_path / "store"))
    for one in (artifact, other):
        store.add(one.path)
    catalog = Catalog([tmp_path / "store"])
    assert catalog.find(other.digest).digest == other.digest
    held = frozenset({artifact.digest})
    assert [one.digest for one in catalog.holding(held, Track.MODEL)] == [artifact.digest]


def test_room_is_made_from_the_oldest_but_not_of_what_is_to_stay(artifact, other, tmp_path):
    store = Store.open(str(tmp_path / "store"))
    for age, one in enumerate((artifact, other)):
        store.add(one.path)
        os.utime(tmp_path / "store/sha256" / f"{one.digest[7:]}.tar.gz", (1e9 + age, 1e9 + age))
    assert store.sweep(keep_bytes=10**9) == ()
    assert [one.digest for one in store.sweep(keep_bytes=other.size_bytes)] == [artifact.digest]
    assert store.sweep(keep_bytes=0, never={other.digest}) == ()
    assert [one.digest for one in store.entries()] == [other.digest]


@pytest.fixture
def update(tmp_path):
    """Old bundle, new bundle, and the delta from one to the other."""
    weights = random.Random(0).randbytes(30_000)
    old, new = (
        pack(manifest(version=version), {"model.onnx": data}, tmp_path / "built")
        for version, data in (("1.0.0", weights), ("2.0.0", weights + b"more"))
    )
    found = create(new, [old])
    return old, new, publish(new, found.head, found.pieces(), tmp_path / "built" / "x.ehdelta")


def test_a_published_delta_is_kept_and_comes_back_too(place, update, tmp_path):
    artifact, _, delta = update
    store = Store.open(place)
    added = store.add(delta.path)
    assert (added.new, store.add(delta.path).new) == (True, False)
    assert added.digest == f"sha256:{hashlib.sha256(delta.path.read_bytes()).hexdigest()}"
    assert store.label(added.digest) == f"delta to digits 2.0.0 from {artifact.digest[:19]}…"
    back = store.get(added.digest, tmp_path / "out")
    assert back.name == f"digits-2.0.0-from-{artifact.digest[7:15]}.ehdelta"
    assert back.read_bytes() == delta.path.read_bytes()
    assert [(one.digest, one.suffix) for one in store.entries()] == [(added.digest, ".ehdelta")]
    assert [problem for _, problem in store.verify()] == [""]
    assert [one.digest for one in store.sweep(keep_bytes=0)] == [added.digest]
    assert store.entries() == ()


def test_a_delta_in_a_store_is_used_while_it_has_the_digest_that_names_it(update, tmp_path):
    artifact, other, delta = update
    store = Store.open(str(tmp_path / "store"))
    digest = store.add(delta.path).digest
    wanted = dataclasses.replace(other, path=tmp_path / "elsewhere" / "x.tar.gz")
    held = frozenset({artifact.digest})
    assert [one.digest for one in Catalog([tmp_path / "store"]).deltas_to(wanted, held)] == [other.digest]
    kept = tmp_path / "store/sha256" / f"{digest[7:]}.ehdelta"
    kept.write_bytes(delta.path.read_bytes() + b"\0")
    assert Catalog([tmp_path / "store"]).deltas_to(wanted, held) == ()
    assert [bool(problem) for _, problem in store.verify()] == [True]
    with pytest.raises(CorruptArtifact, match="hashes to"):
        store.get(digest, tmp_path / "out")


def test_what_only_calls_itself_a_delta_is_not_kept(update, tmp_path):
    artifact, _, delta = update
    store = Store.open(str(tmp_path / "store"))
    altered = bytearray(delta.path.read_bytes())
    altered[altered.index(b"EHDELTA2") + 7] ^= 1
    for name, data in {"a": b"", "b": artifact.path.read_bytes(), "c": bytes(altered)}.items():
        path = tmp_path / f"{name}.ehdelta"
        path.write_bytes(data)
        with pytest.raises((CorruptArtifact, UnsafeArchive)):
            store.add(path)
    assert not (tmp_path / "store").exists()


def test_what_is_no_digest_or_not_there_is_said(artifact, tmp_path):
    store = Store.open(str(tmp_path / "store"))
    for wrong in ("sha256:../../etc", "md5:1", artifact.digest):
        with pytest.raises(ArtifactNotFound):
            store.get(wrong, tmp_path / "out")
    with pytest.raises(ArtifactNotFound):
        store.add(tmp_path / "nothing.tar.gz")


def test_a_url_without_its_package_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without(name: str, *arguments: object) -> object:
        if name == "fsspec":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ExtraMissing, match=r"pytest-edgehil\[store\]"):
        Store.open("s3://bucket/place")


def test_a_url_of_no_known_kind_is_a_users_mistake():
    pytest.importorskip("fsspec", reason="the extra 'store' is not installed")
    with pytest.raises(UserError, match="nonsense"):
        Store.open("nonsense://place")


def test_the_commands_say_what_they_did(artifact, other, tmp_path, capsys, monkeypatch):
    place = ["--store", str(tmp_path / "store")]

    def said(*arguments: str, status: int = 0) -> str:
        assert main(["store", *arguments]) == status
        told = capsys.readouterr()
        return told.out + told.err

    assert artifact.digest in said("add", *place, str(artifact.path), str(other.path))
    assert "was there already" in said("add", *place, str(artifact.path))
    assert "2 bundles" in said("list", *place)
    assert "2 files read, 0 damaged" in said("verify", *place)
    assert other.path.name in said("get", *place, other.digest, "--out", str(tmp_path / "out"))
    (tmp_path / "store/sha256" / f"{other.digest[7:]}.tar.gz").write_bytes(b"rotten")
    assert "1 damaged" in said("verify", *place, status=1)
    assert "unreadable" in said("list", *place)
    assert "2 files removed" in said("gc", *place, "--keep", "0 B")
    monkeypatch.delenv("EDGEHIL_STORE", raising=False)
    assert "set EDGEHIL_STORE" in said("list", status=2)


def test_a_store_that_is_a_file_or_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    for place, line in ((tmp_path / "file", "is a file; a store is a directory"), (tmp_path / "none", "no such store")):
        assert main(["store", "verify", "--store", str(place)]) == 2
        error = capsys.readouterr().err.strip()
        assert line in error
        assert "\n" not in error
