"""Python modules of an image, compiled on this host: a board would take seconds for them, each time it starts.

Interpreter and library are the pinned tools' own. An interpreter that is not told where its library is takes this
host's ``/usr/lib/python3.11``, whatever version that is of, and does not start where there is none.
"""

from __future__ import annotations

from pathlib import Path

from pytest_edgehil.emulated.image.ext4 import Tools
from pytest_edgehil.errors import ConfigError

_COMPILE = """
import importlib.util, importlib._bootstrap_external as external, os, sys
for path in sys.stdin.read().splitlines():
    with open(path, "rb") as file: source = file.read()
    shown = path[len(sys.argv[1]):]
    try: code = compile(source, shown, "exec", dont_inherit=True)
    except (SyntaxError, ValueError): continue
    target = importlib.util.cache_from_source(path)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target, "wb") as file:
        file.write(external._code_to_hash_pyc(code, importlib.util.source_hash(source), False))
"""


def compile_modules(tools: Tools, tree: Path, *, python: str) -> None:
    """Compile what is below ``usr/lib`` of a tree; a module that is no Python of this version is left as it is.

    Args:
        python: version of the interpreter, as ``3.11``.

    Raises:
        ConfigError: the tools have no interpreter of this version, or not its library.
    """
    prefix = tools.path("usr")
    for needed, package in ((f"bin/python{python}", "python"), (f"lib/python{python}/encodings", "libpython")):
        if not (prefix / needed).exists():
            raise ConfigError(
                f"the image's tools have no usr/{needed}, and its Python modules are compiled with it; add "
                f"{package}{python}-minimal to 'tools:' in image.yaml and run 'edgehil image pin'"
            )
    library = tree / "usr/lib"
    for cached in (*library.rglob("__pycache__"), *library.rglob("*.pyc")):
        if cached.is_symlink():  # what is compiled would be written wherever on this host it leads
            cached.unlink()
    sources = sorted(str(path) for path in library.rglob("*.py") if path.is_file() and not path.is_symlink())
    settings = {
        "PYTHONHOME": str(prefix),  # which -I would have it ignore
        "PYTHONSAFEPATH": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "LC_ALL": "C.UTF-8",
    }
    arguments = ("-S", "-s", "-c", _COMPILE, str(tree))
    tools.run(f"usr/bin/python{python}", *arguments, env=settings, stdin="\n".join(sources))
