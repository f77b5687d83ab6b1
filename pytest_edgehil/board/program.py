"""Putting the on-board program on a board that does not have it, with its bytecode if the board can use it."""

from __future__ import annotations

import json
import time

from pytest_edgehil.board.bytecode import onboard_bytecode
from pytest_edgehil.board.command import Command
from pytest_edgehil.board.transport import Transport
from pytest_edgehil.board.trouble import error_of
from pytest_edgehil.errors import EdgehilError, FlashError, RuntimeMissing

# Runs on the board before the program is there: read stdin into files beside, read them back, compare, rename.
_RECEIVE = """
import errno, hashlib, importlib.util, json, os, sys
home, files = sys.argv[1], json.loads(sys.argv[2])

def put(place, name, expected, data):
    os.makedirs(place, exist_ok=True)
    beside = f"{place}/.{name}.{os.getpid()}"
    try:
        with open(beside, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        with open(beside, "rb") as back:
            found = hashlib.sha256(back.read()).hexdigest()
        if found != expected:
            raise OSError(errno.EIO, f"it reads back as {found}")
        os.replace(beside, f"{place}/{name}")
        directory = os.open(place, os.O_RDONLY)
        os.fsync(directory)
    finally:
        if os.path.exists(beside):
            os.unlink(beside)

try:
    for name, expected, size, magic in files:
        data = sys.stdin.buffer.read(size)
        if magic is None:
            put(home + "/bin", name, expected, data)
        elif magic == importlib.util.MAGIC_NUMBER.hex():
            for other in os.listdir(home + "/compiled") if os.path.isdir(home + "/compiled") else ():
                if not os.path.exists(home + "/bin/" + other.partition(".")[0] + ".pyz"):
                    os.unlink(home + "/compiled/" + other)
            try:
                put(home + "/compiled", name, expected, data)
            except OSError as exc:  # the program starts without it, only later
                print(exc, file=sys.stderr)
    print(json.dumps({"ok": True}))
except OSError as exc:
    full = exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    print(json.dumps({"ok": False, "code": "disk-full" if full else "storage", "message": str(exc)}))
"""


def put_program(
    transport: Transport, data: bytes, name: str, digest: str, *, board_id: str, home: str, deadline: float
) -> None:
    """Put the program on the board, verified there, and its bytecode in case the board can use it."""
    files: list[tuple[str, str, int, str | None]] = [(name, digest, len(data), None)]
    compiled = onboard_bytecode()
    if compiled is not None:
        files.append((compiled.name, compiled.digest, len(compiled.data), compiled.magic))
        data += compiled.data
    argv = ("python3", "-S", "-E", "-c", _RECEIVE, home, json.dumps(files))
    left = max(0.1, deadline - time.monotonic())
    outcome = transport.run(Command(argv=argv, timeout_s=left, stdin=data))
    if outcome.exit_status in {126, 127}:
        raise RuntimeMissing(f"{board_id}: the board has no python3: {outcome.stderr_text[-200:]}")
    try:
        answer = json.loads(outcome.stdout)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise FlashError(
            f"{board_id}: the on-board program cannot be put there: exit status {outcome.exit_status}: "
            f"{outcome.stderr_text[-300:]}"
        )
    if answer.get("ok") is not True:
        code = answer.get("code")
        why = "no space left on the board" if code == "disk-full" else "storage failed"
        said = f"{why} while the on-board program was put there: {answer.get('message')}"
        problem: EdgehilError = error_of(code, said, board_id=board_id)
        raise problem
