"""``edgehil build``: make artifacts from recipes.

Prints a report of each artifact (size, accuracy against its source, latency on this host) and writes it as JSON and
Markdown beside the artifact. The same inputs give the same bytes, so a second build changes nothing.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_edgehil.artifacts.recipe import Recipe


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser("build", help="make artifacts from recipes", description=__doc__)
    parser.add_argument("recipes", nargs="+", type=Path, metavar="RECIPE.yaml", help="one artifact is made from each")
    parser.add_argument(
        "--out", type=Path, default=Path("artifacts"), metavar="DIR", help="where artifacts go (default: artifacts)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress lines, reports only")
    parser.add_argument(
        "--check",
        metavar="ARTIFACT",
        help="build the one RECIPE again, elsewhere, and say whether it still gives this bundle (path, name or "
        "digest); exit status 1 and the input that differs if not",
    )
    parser.set_defaults(run=_build)


def _build(options: argparse.Namespace) -> int:
    from pytest_edgehil.artifacts.build import build
    from pytest_edgehil.artifacts.recipe import load_recipe
    from pytest_edgehil.artifacts.report import write_report

    # all recipes are read first: a typo in the last one should not show after minutes of building
    recipes = [load_recipe(path) for path in options.recipes]
    if options.check is not None:
        return _check(options.check, recipes, options)
    for at, recipe in enumerate(recipes, 1):
        say = _silent if options.quiet else partial(_say, f"[{at}/{len(recipes)}] {recipe.path.stem}")
        report = build(recipe, out_dir=options.out, progress=say)
        written = write_report(report)
        print(report.artifact.path)
        print(report.to_text())
        print(f"  {'report':<13} {', '.join(path.name for path in written)}", flush=True)
    return 0


def _check(reference: str, recipes: list[Recipe], options: argparse.Namespace) -> int:
    from pytest_edgehil.artifacts.catalog import Catalog
    from pytest_edgehil.artifacts.rebuild import rebuild
    from pytest_edgehil.errors import UserError

    if len(recipes) != 1:
        raise UserError(f"--check {reference}: pass the one recipe that it was built from, not {len(recipes)}")
    artifact = Catalog([options.out]).find(reference)
    say = _silent if options.quiet else partial(_say, recipes[0].path.stem)
    done = rebuild(artifact, recipes[0], progress=say)
    if done.same:
        print(f"{artifact.path}: {recipes[0].path} gives the same bytes again ({done.found})")
        return 0
    print(f"{artifact.path}: {recipes[0].path} gives another bundle ({done.found}, not {done.expected})")
    for one in done.differences:
        print(f"  - {one}")
    return 1


def _say(label: str, line: str) -> None:
    """Progress for people, on stderr: stdout carries the reports."""
    print(f"{label}: {line}", file=sys.stderr, flush=True)


def _silent(_line: str) -> None:
    """Say nothing: ``--quiet``."""
