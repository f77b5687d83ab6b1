"""Firmware trees: what cannot be a slot's contents is refused; the shipped ones are healthy, or not, for real."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pytest_edgehil.artifacts.build import build
from pytest_edgehil.artifacts.bundle import file_bytes, unpack
from pytest_edgehil.artifacts.firmware import read_tree
from pytest_edgehil.artifacts.recipe import load_recipe
from pytest_edgehil.errors import RecipeError

SUITE = Path(__file__).parents[3] / "suites" / "firmware"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    directory = tmp_path / "tree"
    (directory / "etc").mkdir(parents=True)
    (directory / "config.txt").write_text("arm_64bit=1\n")
    (directory / "etc" / "empty").write_text("")
    (directory / "health").write_text("#!/bin/sh\n")
    (directory / "health").chmod(0o755)
    return directory


def test_files_and_identity_are_collected(tree: Path) -> None:
    found = read_tree(tree, name="edge-os", version="1")
    assert set(found.files) == {"config.txt", "etc/empty", "health", "firmware.json"}
    assert found.files["firmware.json"] == b'{"name":"edge-os","version":"1"}'
    assert found.executable == {"health"}


def test_the_digest_covers_contents_names_and_executable_bits(tree: Path) -> None:
    digests = {read_tree(tree, name="edge-os", version="1").digest, read_tree(tree, name="edge-os", version="2").digest}
    (tree / "config.txt").chmod(0o755)
    digests.add(read_tree(tree, name="edge-os", version="1").digest)
    (tree / "config.txt").write_text("other")
    digests.add(read_tree(tree, name="edge-os", version="1").digest)
    (tree / "config.txt").rename(tree / "config2.txt")
    digests.add(read_tree(tree, name="edge-os", version="1").digest)
    assert len(digests) == 5


def test_a_link_is_refused(tree: Path) -> None:
    (tree / "link").symlink_to("/etc/passwd")
    with pytest.raises(RecipeError, match="link: is no regular file"):
        read_tree(tree, name="edge-os", version="1")


def test_a_link_to_a_directory_is_refused(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("x")
    (tree / "linked").symlink_to(tmp_path / "outside")
    with pytest.raises(RecipeError, match="linked: is no regular file"):
        read_tree(tree, name="edge-os", version="1")


def test_a_fifo_is_refused(tree: Path) -> None:
    os.mkfifo(tree / "pipe")
    with pytest.raises(RecipeError, match="pipe: is no regular file"):
        read_tree(tree, name="edge-os", version="1")


def test_a_health_check_that_would_be_skipped_is_refused(tree: Path) -> None:
    (tree / "health").chmod(0o644)
    with pytest.raises(RecipeError, match=r"is not executable, so the board would skip it; run chmod \+x"):
        read_tree(tree, name="edge-os", version="1")


def test_an_empty_tree_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecipeError, match="holds no file"):
        read_tree(tmp_path / "empty", name="edge-os", version="1")


def test_a_name_that_cannot_be_packed_is_refused(tree: Path) -> None:
    (tree / "with space").write_text("x")
    with pytest.raises(RecipeError, match="'with space' has characters"):
        read_tree(tree, name="edge-os", version="1")


@pytest.mark.parametrize("said", ["junk", '{"name":"edge-os","version":"9"}'])
def test_an_identity_that_says_something_else_is_refused(tree: Path, said: str) -> None:
    (tree / "firmware.json").write_text(said)
    with pytest.raises(RecipeError, match=r"firmware\.json"):
        read_tree(tree, name="edge-os", version="1")


@pytest.mark.parametrize(("recipe", "status"), [("edge-os-2026.11", 0), ("edge-os-2026.12-bad", 1)])
def test_the_shipped_firmware_is_healthy_and_the_bad_one_is_not(tmp_path: Path, recipe: str, status: int) -> None:
    made = build(load_recipe(SUITE / f"{recipe}.yaml"), out_dir=tmp_path).artifact
    unpack(made.path, tmp_path / "slot")
    ran = subprocess.run(
        [tmp_path / "slot" / "health"], cwd=tmp_path / "slot", capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == status, ran.stdout + ran.stderr
    assert ("healthy" in ran.stdout) is (status == 0)
    assert b'"name":"edge-os"' in file_bytes(made, "firmware.json")
    assert made.manifest.provides == {"firmware.name": "edge-os", "firmware.version": made.manifest.version}
