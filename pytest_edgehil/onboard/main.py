"""The verbs of the on-board program: ``serve``, ``sink``, and those that it calls itself.

These are ``child`` (the model's process), ``detached`` (a measurement without a link) and ``probe`` and ``compile``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import sys
from pathlib import Path

from .durable import write_all
from .home import Home
from .problem import Problem

TYPE_CHECKING = False  # importing `typing` takes a board longer than this module
if TYPE_CHECKING:
    import argparse

    from .frames import Message

EXIT_TROUBLE = 3


def main(arguments: list[str]) -> int:
    """Run one verb."""
    if arguments == ["child"]:
        from . import child

        return child.main()
    if arguments == ["probe"]:
        from . import child
        from .frames import claim_standard_streams

        _, outgoing = claim_standard_streams()  # a runtime may print while it is imported
        answer = child.probe()
        answer["places"] = [path for path in sys.path if path.endswith("-packages")]
        os.write(outgoing, json.dumps(answer).encode())
        return 0
    if arguments[:1] == ["compile"]:
        from .compiled import compile_all

        if arguments[1:] == ["--patiently"]:
            os.nice(19)
        compile_all(Home(_home()), Path(sys.argv[0]).resolve())
        return 0
    if arguments[:1] == ["detached"]:
        from .detached import Detached

        home = Home(_home())
        return Detached(home, home.jobs / arguments[-1], Path(sys.argv[0]).resolve()).run()
    if arguments[:1] == ["sink"]:
        status = _sink(Home(_home()), arguments[1:])
        os._exit(status)  # the host waits for the end, and there is nothing left to tidy up
    return _serve(_parser().parse_args(arguments))


def _serve(options: argparse.Namespace) -> int:
    from .frames import FrameWriter, claim_standard_streams, error_message

    home = Home(_home())
    incoming, outgoing = claim_standard_streams()
    program = Path(sys.argv[0]).resolve()
    from .compiled import later
    from .serve import Server
    from .slots import chosen

    try:
        _check_program(program)
        slots = chosen(options.slots)
    except Problem as problem:
        FrameWriter(outgoing).write(error_message(problem))
        return EXIT_TROUBLE
    server = Server(
        home,
        token=options.token,
        holder=options.holder,
        program=program,
        incoming=incoming,
        outgoing=outgoing,
        slots=slots,
        silence_s=options.silence,
    )
    later(home, program, idle=lambda: server.idle)
    return server.serve()


def _parser() -> argparse.ArgumentParser:
    import argparse

    parser = argparse.ArgumentParser(prog="onboard", description="The on-board program of pytest-edgehil.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("serve")
    one.add_argument("--token", type=int, required=True)
    one.add_argument("--holder", required=True)
    one.add_argument("--silence", type=float, default=15.0, help="end after so many seconds without the host")
    one.add_argument("--slots", help="JSON: the firmware slots that the lab declares")
    return parser


def _home() -> Path:
    """The directory above ``bin/``, where this program lies."""
    return Path(sys.argv[0]).resolve().parent.parent


def _check_program(program: Path) -> None:
    """Is this file still what its name says?

    Raises:
        Problem: ``corrupt-program``.
    """
    match = re.fullmatch(r"onboard-([0-9a-f]{64})\.pyz", program.name)
    if match is None:
        raise Problem("corrupt-program", f"{program.name} is no name of an on-board program")
    found = hashlib.sha256(program.read_bytes()).hexdigest()
    if found != match[1]:
        raise Problem("corrupt-program", f"{program} hashes to {found}")


def _sink(home: Home, arguments: list[str]) -> int:
    from .fence import Fence
    from .sink import sink

    # Read by hand: a push waits for this, and importing argparse takes as long as several of our own modules.
    given = dict(zip(arguments[::2], arguments[1::2], strict=False))
    needed = {"--digest", "--holder", "--size", "--token"}
    if given.keys() - {"--slots"} != needed or len(arguments) != 2 * len(given):
        _say({"ok": False, "code": "bad-request", "message": "sink was started with other arguments than it takes"})
        return EXIT_TROUBLE

    def look(*_: object) -> None:
        Fence(home).check(int(given["--token"]))  # somebody has come in, and asks us to end: say so
        sys.exit(128 + signal.SIGTERM)

    try:
        signal.signal(signal.SIGTERM, look)
        home.prepare()
        answer = sink(
            home,
            digest=given["--digest"],
            size=int(given["--size"]),
            token=int(given["--token"]),
            holder=given["--holder"],
            source=0,
            tell=_offer,
            slots=given.get("--slots"),
        )
    except Problem as problem:
        answer = {"ok": False, "code": problem.code, "message": problem.message}
    with contextlib.suppress(BrokenPipeError):  # the host is gone; the exit status says the same to nobody
        _say(answer)
    return 0 if answer["ok"] else EXIT_TROUBLE


def _offer(message: Message) -> None:
    """Say what is there already; a host that does not hear it any more has gone away."""
    try:
        _say(message)
    except BrokenPipeError as exc:
        raise Problem("truncated", "the host went away before the push began") from exc


def _say(message: Message) -> None:
    """One line, so that the host can tell a complete answer from one that was cut off."""
    write_all(1, json.dumps(message).encode() + b"\n")
