"""A delta is a target whose result is one: a device that takes it ends with what it would have downloaded."""

from __future__ import annotations

import hashlib
import io
import json
import random
from pathlib import Path

import pytest
from support.released import Shop, pack
from tuf.api.exceptions import RepositoryError

from pytest_edgehil.artifacts.delta.create import create
from pytest_edgehil.artifacts.delta.published import Published, peek, publish
from pytest_edgehil.cli import main
from pytest_edgehil.errors import ConfigError, CorruptArtifact, ReleaseRefused
from pytest_edgehil.model import Artifact
from pytest_edgehil.onboard import patch
from pytest_edgehil.onboard.home import Home
from pytest_edgehil.release.deltas import publish_delta
from pytest_edgehil.release.repository import Repository

WEIGHTS = random.Random(0).randbytes(30_000)


def delta_of(old: Artifact, new: Artifact, path: Path) -> Published:
    found = create(new, [old])
    assert found is not None
    return publish(new, found.head, found.pieces(), path)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """With version 1.1.0 released, of which there is a delta from 1.0.0 in ``update.ehdelta``."""
    made = Shop(tmp_path)
    old = pack(tmp_path / "artifacts", version="1.0.0", content=WEIGHTS)
    made.artifact = pack(tmp_path / "artifacts", version="1.1.0", content=WEIGHTS + b"more")
    delta_of(old, made.artifact, tmp_path / "update.ehdelta")
    made.init()
    made.write()
    made.publish()
    return made


def test_a_device_that_takes_the_delta_has_what_was_released(shop: Shop, tmp_path: Path) -> None:
    target, already = publish_delta(tmp_path / "update.ehdelta", repo=shop.repo, keys=shop.keys, now=shop.now)
    assert not already
    client = shop.client()
    client.refresh()
    whole = client.get_targetinfo("models/digits-1.1.0-pi5-int8-static.tar.gz")
    found = client.get_targetinfo(target.path)
    assert whole is not None
    assert found is not None
    assert found.custom["makes"] == f"sha256:{whole.hashes['sha256']}"
    assert (found.custom["seq"], found.custom["evidence"]) == (2, whole.custom["evidence"])
    delta = peek(Path(client.download_target(found)))
    home = Home(tmp_path / "board")
    home.prepare()
    (source,) = found.custom["from"]
    old = tmp_path / "artifacts" / "digits-1.0.0-pi5-int8-static.tar.gz"
    home.bundle(source).write_bytes(old.read_bytes())
    sent = io.BytesIO(b"".join(delta.pieces()))
    made = b"".join(patch.patched(home, patch.read_head(sent.read), sent.read))
    assert hashlib.sha256(made).hexdigest() == whole.hashes["sha256"]


def test_publishing_it_again_changes_nothing(shop: Shop, tmp_path: Path) -> None:
    first, _ = publish_delta(tmp_path / "update.ehdelta", repo=shop.repo, keys=shop.keys, now=shop.now)
    version = Repository(shop.repo, shop.keys).version
    assert publish_delta(tmp_path / "update.ehdelta", repo=shop.repo, keys=shop.keys, now=shop.now) == (first, True)
    assert Repository(shop.repo, shop.keys).version == version


def test_a_mirror_that_alters_a_delta_is_noticed(shop: Shop, tmp_path: Path) -> None:
    target, _ = publish_delta(tmp_path / "update.ehdelta", repo=shop.repo, keys=shop.keys, now=shop.now)
    (stored,) = (shop.repo / "targets" / "models").glob("*.ehdelta")
    stored.write_bytes(stored.read_bytes()[:-1] + b"x")
    client = shop.client()
    client.refresh()
    found = client.get_targetinfo(target.path)
    assert found is not None
    with pytest.raises(RepositoryError):
        client.download_target(found)


def test_a_delta_to_what_is_not_released_is_refused(shop: Shop, tmp_path: Path) -> None:
    newer = pack(tmp_path / "artifacts", version="1.2.0", content=WEIGHTS + b"even more")
    path = delta_of(shop.artifact, newer, tmp_path / "newer.ehdelta").path
    with pytest.raises(ReleaseRefused) as refused:
        publish_delta(path, repo=shop.repo, keys=shop.keys, now=shop.now)
    assert newer.digest in refused.value.reasons[0]
    assert len(Repository(shop.repo, shop.keys).released()) == 1


def test_a_delta_that_is_damaged_and_a_missing_key_are_told(shop: Shop, tmp_path: Path) -> None:
    path = tmp_path / "update.ehdelta"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"EHDELTA2", b"EHDELTAX"))
    with pytest.raises(CorruptArtifact):
        publish_delta(path, repo=shop.repo, keys=shop.keys, now=shop.now)
    path.write_bytes(whole)
    (shop.keys / "gate.pem").unlink()
    with pytest.raises(ConfigError, match="the gate key is not here"):
        publish_delta(path, repo=shop.repo, keys=shop.keys, now=shop.now)


def test_the_command_publishes_lists_and_refuses(
    shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--repo", str(shop.repo), "--keys", str(shop.keys)]
    delta = str(tmp_path / "update.ehdelta")
    assert main(["release", "publish", delta, *where]) == 0
    assert f"makes    {shop.artifact.digest}" in capsys.readouterr().out
    assert main(["release", "publish", delta, *where]) == 0
    assert "nothing was changed" in capsys.readouterr().out
    assert main(["release", "publish", delta, "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out)["makes"] == shop.artifact.digest
    assert main(["release", "list", *where]) == 0
    assert f"makes {shop.artifact.digest}" in capsys.readouterr().out
    assert main(["release", "publish", delta, "--policy", str(shop.policy_file), *where]) == 2
    assert "leave them out" in capsys.readouterr().err
    assert main(["release", "publish", str(shop.artifact.path), *where]) == 2
    assert "pass --evidence and --policy" in capsys.readouterr().err
    newer = pack(tmp_path / "artifacts", version="1.2.0", content=WEIGHTS + b"even more")
    delta_of(shop.artifact, newer, tmp_path / "newer.ehdelta")
    assert main(["release", "publish", str(tmp_path / "newer.ehdelta"), "--json", *where]) == 2
    told = capsys.readouterr()
    assert json.loads(told.out)["released"] is False
    assert "publish that first" in told.err
