"""Sphinx configuration; warnings are errors (``make docs``).

Pages that would only repeat the code are made from the code: options, gates, the command line, the schema of lab.yaml,
and the file formats, which the modules that read them describe.
"""

import argparse
import ast
import json
import re
import runpy
from collections.abc import Iterator
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

suppress_warnings = ["misc.highlighting_failure"]  # formats are shown with … and comments in them

GENERATED = Path(__file__).parent / "reference" / "_generated"
PACKAGE = Path(__file__).parent.parent / "pytest_edgehil"
DESCRIBED = {  # module whose text describes a format → language of its examples
    "artifacts/firmware.py": "text",
    "artifacts/prompts.py": "yaml",
    "artifacts/guardrails.py": "text",
    "artifacts/recipe.py": "yaml",
    "artifacts/replay.py": "text",
    "gates/gates_file.py": "yaml",
    "gates/golden.py": "text",
    "evidence/index.py": "text",
    "evidence/statement.py": "text",
    "evidence/trust.py": "yaml",
    "evidence/verify.py": "text",
    "release/judging.py": "text",
    "release/policy.py": "yaml",
    "release/repository.py": "text",
    "rollout/analysis.py": "text",
    "rollout/decide.py": "text",
    "rollout/ledger.py": "text",
    "rollout/plan.py": "yaml",
    "rollout/telemetry.py": "text",
    "virtual/faults.py": "text",
}


def _definition(term: str, text: str) -> str:
    inline = " ".join(text.split()).replace("``", "`")  # docstrings mark code as reStructuredText does
    return f"`{term}`\n: {inline}\n"


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
    declared = parser._inidict  # noqa: SLF001 - pytest has no public way to list them
    ini = "\n".join(_definition(name, text[0]) for name, text in declared.items() if name.startswith("edgehil_"))
    return f"{options}\nIn the ini file:\n\n{ini}"


def _commands() -> str:
    from pytest_edgehil.cli import parser

    found: list[str] = []

    def walk(one: argparse.ArgumentParser, level: int) -> None:
        found.append(f"{'#' * level} `{one.prog}`\n\n```text\n{one.format_help().rstrip()}\n```\n")
        for action in one._actions:  # noqa: SLF001 - nor has argparse
            if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
                for child in dict.fromkeys(action.choices.values()):
                    walk(child, min(level + 1, 4))

    walk(parser(), 2)
    return "\n".join(found)


def _lab() -> str:
    """The sections of lab.yaml, from the JSON Schema that editors read."""
    from pytest_edgehil.lab.schema import lab_schema

    return _of_schema(lab_schema())


def _manifest() -> str:
    """The fields of manifest.json, from its JSON Schema."""
    from pytest_edgehil.artifacts.manifest import manifest_schema

    return _of_schema(manifest_schema())


def _of_schema(schema: dict) -> str:
    """The sections of a document."""

    def forms(node: dict) -> list[dict]:
        """What a value may be, with null left out."""
        if "$ref" in node:
            return forms(schema["$defs"][node["$ref"].rpartition("/")[2]])
        found = [form for one in node.get("anyOf", node.get("oneOf", [])) for form in forms(one)]
        return [one for one in found if one.get("type") != "null"] or [node]

    def sections(path: str, node: dict) -> Iterator[tuple[str, dict]]:
        """A section, then those in it."""
        yield path, node
        for key, value in node["properties"].items():
            for form in forms(value):
                members = (
                    (key, form),
                    (f"{key}.NAME", form.get("additionalProperties")),
                    (f"{key}.N", form.get("items")),
                )
                for name, member in members:
                    for inner in forms(member) if isinstance(member, dict) else ():
                        if "properties" in inner:
                            yield from sections(f"{path}.{name}".lstrip("."), inner)

    def entry(key: str, value: dict, *, required: bool) -> str:
        kinds = forms(value)
        said = [_value(one, value) for one in kinds]
        default = _default(value)
        said += ["required"] if required else [] if default is None else [f"default {default}"]
        text = value.get("description", "")
        return _definition(key, f"{text} *({', '.join(dict.fromkeys(said))})*".lstrip())

    found = []
    for path, node in sections("", schema):
        backend = node["properties"].get("backend", {}).get("const")
        title = f"`{path}`" if path else "The whole file"
        found.append(f"## {title}{f' with `backend: {backend}`' if backend else ''}\n")
        found.append(f"{node['description']}\n" if path else "")
        found += [entry(key, one, required=key in node.get("required", ())) for key, one in node["properties"].items()]
    return "\n".join(found)


def _value(form: dict, value: dict) -> str:
    """What kind of value a form is, in words."""
    if "enum" in form:
        return " or ".join(f"`{one}`" for one in form["enum"])
    if "const" in form:
        return f"`{form['const']}`"
    if examples := form.get("examples", value.get("examples")):
        return f"such as `{examples[0]}`"
    names = {"string": "text", "object": "section", "array": "list", "integer": "whole number"}
    return names.get(form["type"], form["type"])


def _default(value: dict) -> str | None:
    """The default as one would write it; None where it says nothing."""
    from pytest_edgehil.model.quantity import format_duration, format_size

    default = value.get("default")
    if default is None or default in ([], {}) or isinstance(default, dict):
        return None
    if isinstance(default, int | float) and value.get("examples"):  # parsed already
        return f"`{format_size(default) if value['examples'][0].endswith('B') else format_duration(default * 1e9)}`"
    return f"`{json.dumps(default) if isinstance(default, list) else default}`"


def _even(text: str) -> str:
    """Two-column tables with the first column as wide as what is in it, which docutils insists on."""

    def widened(table: re.Match[str]) -> str:
        rows = [tuple(re.split(r" {2,}", line, maxsplit=1)) for line in table[0].splitlines()]
        width = max(len(row[0]) for row in rows)
        return "".join(f"{(row[0] if row[0][0] != '=' else '=' * width):{width}}  {row[1]}\n" for row in rows)

    return re.sub(r"^=+  =+\n(?:\S.*  .*\n)+?=+  =+\n", widened, text, flags=re.MULTILINE)


def _described(module: str, language: str) -> str:
    """The text of a module, as reStructuredText; the first line, which is a heading in code, stays a sentence."""
    text = ast.get_docstring(ast.parse((PACKAGE / module).read_text(encoding="utf-8")))
    assert text is not None, module
    literal = re.sub(
        r"(?<!`)`([^`]+)`(?!`)", r"``\1``", _even(f"{text}\n")
    )  # names of the module's surroundings, no references
    return f"````{{eval-rst}}\n.. highlight:: {language}\n\n{literal}\n\n.. highlight:: text\n````\n"


def _generate(_app: object) -> None:
    GENERATED.mkdir(exist_ok=True)
    for name, make in (
        ("gates", _gates),
        ("options", _options),
        ("commands", _commands),
        ("lab", _lab),
        ("manifest", _manifest),
    ):
        (GENERATED / f"{name}.md").write_text(make())
    for module, language in DESCRIBED.items():
        name = module.removesuffix(".py").replace("/", "-")
        (GENERATED / f"{name}.md").write_text(_described(module, language))


def _draw(_app: object) -> None:
    """The figures of statistics.md, simulated anew."""
    drawing = runpy.run_path(str(Path(__file__).parent / "figures" / "draw.py"))
    drawing["main"](Path(__file__).parent / "explanation" / "_figures")


def setup(app) -> None:
    """Make the generated pages and figures before Sphinx reads any."""
    app.connect("builder-inited", _generate)
    app.connect("builder-inited", _draw)
