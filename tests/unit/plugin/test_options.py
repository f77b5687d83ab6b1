"""What the options of a run come to: here, where artifacts and held-out sets are looked for."""

from __future__ import annotations

import pytest

from pytest_edgehil.plugin.options import read_options


def test_artifacts_are_found_where_build_writes_them_and_sets_beside_them(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]")
    options = read_options(pytester.parseconfig())
    assert options.artifacts == (pytester.path / "artifacts",)
    assert options.datasets == (pytester.path / "datasets",)


def test_directories_that_are_named_stand_instead_of_the_defaults(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nedgehil_artifacts = built\nedgehil_datasets = sets more\n")
    options = read_options(pytester.parseconfig())
    assert options.artifacts == (pytester.path / "built",)
    assert options.datasets == (pytester.path / "sets", pytester.path / "more")


def test_a_directory_on_the_command_line_comes_first(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nedgehil_artifacts = built\n")
    options = read_options(pytester.parseconfig(f"--edgehil-artifacts={pytester.path / 'mine'}"))
    assert options.artifacts == (pytester.path / "mine", pytester.path / "built")
    pytester.makeini("[pytest]")
    options = read_options(pytester.parseconfig(f"--edgehil-artifacts={pytester.path / 'mine'}"))
    assert options.artifacts == (pytester.path / "mine",)
