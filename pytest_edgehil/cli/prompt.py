"""``edgehil prompt``: check prompt bundles before they are built, and the schema that editors read."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb and its actions."""
    parser = subparsers.add_parser("prompt", help="check prompt bundles", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser(
        "check", help="check prompt bundles and run the tests in them; exit status 1 if one fails"
    )
    check.add_argument("files", nargs="+", type=Path, metavar="FILE")
    check.set_defaults(run=_check)
    schema = actions.add_parser("schema", help="print the JSON Schema of a prompt bundle, for editors")
    schema.set_defaults(run=_schema)


def _check(options: argparse.Namespace) -> int:
    from pytest_edgehil.artifacts.prompts import load_prompts

    failed = False
    for path, bundle in [(path, load_prompts(path)) for path in options.files]:
        failures = bundle.failures()
        failed = failed or bool(failures)
        for one in failures:
            print(f"{path}: {one}", file=sys.stderr)
        passed = len(bundle.tests) - len(failures)
        models = ", ".join(f"{name} {' or '.join(versions)}" for name, versions in bundle.models.items())
        tests = f"{passed} of {len(bundle.tests)} tests passed" if bundle.tests else "no tests"
        print(f"{path}: {len(bundle.templates)} templates for {models}; {tests}")
    return int(failed)


def _schema(_options: argparse.Namespace) -> int:
    from pytest_edgehil.artifacts.prompts import prompt_schema

    print(json.dumps(prompt_schema(), indent=2))
    return 0
