"""The ``edgehil`` command: one file per verb.

A verb module has ``add(subparsers)``, which adds its parser and sets ``run`` as a default: a function that takes
the parsed arguments and returns the exit status. A `UserError` ends as one line on stderr and exit status 2; a
`BoardError` as one line and exit status 3; anything else is our bug and keeps its traceback.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from pytest_edgehil.errors import BoardError, ReleaseRefused, UserError

VERBS = (
    "lab",
    "build",
    "judge",
    "golden",
    "board",
    "deploy",
    "delta",
    "store",
    "prompt",
    "evidence",
    "release",
    "rollout",
    "farm",
    "image",
)


def parser() -> argparse.ArgumentParser:
    """The whole command line; the docs are generated from it."""
    top = argparse.ArgumentParser(
        prog="edgehil", description="Hardware-in-the-loop testing of AI models on edge boards."
    )
    subparsers = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in VERBS:
        importlib.import_module(f"pytest_edgehil.cli.{verb}").add(subparsers)
    return top


def main(arguments: Sequence[str] | None = None) -> int:  # noqa: PLR0911 - one status for each way to end
    """Run one verb; returns the exit status."""
    try:
        options = parser().parse_args(arguments)
        status = int(options.run(options))
        sys.stdout.flush()  # a full disk shows here, where it can be told
        return status
    except ReleaseRefused as problem:
        print(f"edgehil: {problem}", file=sys.stderr)
        for reason in problem.reasons:
            print(f"  - {reason}", file=sys.stderr)
        return 2
    except UserError as problem:
        print(f"edgehil: {problem}", file=sys.stderr)
        return 2
    except BoardError as problem:
        print(f"edgehil: board error: {problem}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("edgehil: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # the reader of our output went away (`edgehil … | head`); there is nobody left to tell
        sys.stderr.close()
        return 141
    except OSError as problem:
        if problem.strerror is None:
            raise
        return _unusable_file(problem)


def _unusable_file(problem: OSError) -> int:
    if problem.filename is None:
        _forget_output()
    where = problem.filename if problem.filename is not None else "standard output"
    print(f"edgehil: {where}: {problem.strerror}", file=sys.stderr)
    return 2


def _forget_output() -> None:
    """What could not be written would be tried again, and complained about, when Python ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
