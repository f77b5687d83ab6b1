"""``edgehil lab serve``: the lab as a web page for people.

It listens on this host only unless told otherwise: put a web server with TLS in front of it before others reach it,
since whoever reads along between them reads the token, too.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_edgehil.errors import ConfigError, ExtraMissing

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_edgehil.lab.inventory import Lab

SHORTEST_TOKEN = 16


def add(actions: argparse._SubParsersAction[argparse.ArgumentParser], *, chosen: Callable[[Path | None], Lab]) -> None:
    """Add the action.

    Args:
        actions: those of ``edgehil lab``.
        chosen: which lab a command line means.
    """
    serve = actions.add_parser("serve", help="serve the lab's status page", description=__doc__)
    serve.add_argument("--lab", type=Path, metavar="FILE", help="lab file (default: $EDGEHIL_LAB, or lab.yaml)")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this host only)")
    serve.add_argument("--port", type=int, default=8765, help="port to listen on; 0 takes a free one (default: 8765)")
    serve.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"whoever knows what is in it (at least {SHORTEST_TOKEN} characters) may release, quarantine and restore; "
        "without it the page only shows",
    )
    serve.set_defaults(run=lambda options: _serve(options, chosen(options.lab)))


def _serve(options: argparse.Namespace, lab: Lab) -> int:
    token = _token(options.token_file) if options.token_file is not None else None
    if not 0 <= options.port < 65536:
        raise ConfigError(f"--port {options.port} is no port: expected 0 to 65535")
    try:
        import uvicorn

        from pytest_edgehil.reporting.status_page.app import StatusPage
    except ModuleNotFoundError as missing:
        raise ExtraMissing(extra="serve", feature="the status page") from missing
    from pytest_edgehil.lab.store import open_store

    with open_store(lab):
        pass  # a database that cannot be reached is said now, and not to the first visitor
    page = StatusPage(lab, open_store=open_store, token=token, clock=time.time)
    try:
        listening = socket.create_server((options.host, options.port))  # listens now: what is printed can be opened
    except (OSError, UnicodeError) as wrong:
        raise ConfigError(
            f"cannot listen on {options.host}:{options.port}: {wrong}; choose another --host or --port"
        ) from wrong
    server = uvicorn.Server(uvicorn.Config(page.application(), log_level="warning"))
    host, port = listening.getsockname()[:2]
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is how it ends; visitors have been served until here
        print(
            f"{lab.name}: http://{host}:{port}/" + ("" if token else " (read-only; --token-file lets people act)"),
            flush=True,
        )
        server.run(sockets=[listening])
    print("edgehil: the status page has ended", file=sys.stderr)
    return 0


def _token(path: Path) -> str:
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as wrong:
        raise ConfigError(
            f"the token file {path} cannot be read: {getattr(wrong, 'strerror', None) or wrong}"
        ) from wrong
    if len(token) < SHORTEST_TOKEN:
        raise ConfigError(
            f"the token in {path} has {len(token)} characters, expected at least {SHORTEST_TOKEN}; "
            "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return token
