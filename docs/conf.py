"""Sphinx configuration; warnings are errors (``make docs``).

Pages that would only repeat the code are made from the code: options, gates, the command line, the schema of lab.yaml.
"""

import argparse
from pathlib import Path


project = "pytest-edgehil"
author = "The pytest-edgehil maintainers"
copyright = "2026, the pytest-edgehil maintainers; Apache-2.0"

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "reference/_generated"]
html_theme = "furo"
html_title = "pytest-edgehil"
nitpicky = True

GENERATED = Path(__file__).parent / "reference" / "_generated"


def _definition(term: str, text: str) -> str:
    return f"`{term}`\n: {text}\n"


def _gates() -> str:
    from pytest_edgehil.gates.registry import SIGNATURES

    lines = (signature.split("): ", 1) for signature in SIGNATURES.values())
    return "\n".join(_definition(f"{call})", f"{text[0].upper()}{text[1:]}") for call, text in lines)


def _options() -> str:
    import pytest

    from pytest_edgehil.plugin.options import add_options

    parser = pytest.Parser(_ispytest=True)
    add_options(parser)
    group = parser.getgroup("edgehil")
    options = "\n".join(
        _definition(
            f"{option.names()[0]} {option.attrs().get('metavar', '')}".strip(),
            option.attrs()["help"] % {"default": option.attrs().get("default")},
        )
        for option in group.options
    )
    ini = "\n".join(_definition(name, text[0]) for name, text in parser._inidict.items() if name.startswith("edgehil_"))
    return f"{options}\nIn the ini file:\n\n{ini}"


def _commands() -> str:
    from pytest_edgehil.cli import parser

    found: list[str] = []

    def walk(one: argparse.ArgumentParser, level: int) -> None:
        found.append(f"{'#' * level} `{one.prog}`\n\n```text\n{one.format_help().rstrip()}\n```\n")
        for action in one._actions:
            if isinstance(action, argparse._SubParsersAction):
                for child in dict.fromkeys(action.choices.values()):
                    walk(child, min(level + 1, 4))

    walk(parser(), 2)
    return "\n".join(found)


def _generate(_app: object) -> None:
    GENERATED.mkdir(exist_ok=True)
    for name, make in (("gates", _gates), ("options", _options), ("commands", _commands)):
        (GENERATED / f"{name}.md").write_text(make())


def setup(app) -> None:
    app.connect("builder-inited", _generate)
