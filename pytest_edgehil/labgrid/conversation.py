"""Talking with `bridge`: one process per conversation, one line each way, every answer within a deadline."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final, Self

from pytest_edgehil.errors import LabgridError

ANSWER_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinator:
    """Where a labgrid lab is, and what to speak with it.

    Args:
        address: ``HOST:PORT`` of the coordinator.
        python: an interpreter that has labgrid; best in an environment of its own, see the package's docstring.
    """

    address: str
    python: Path


def start(python: Path, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start the bridge in labgrid's interpreter.

    Raises:
        LabgridError: there is no such interpreter.
    """
    with as_file(files("pytest_edgehil.labgrid").joinpath("bridge.py")) as script:
        try:
            return subprocess.Popen(
                [str(python), "-I", str(script), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **(env or {})},
                start_new_session=True,  # Ctrl-C is ours to handle: it must live to give the places back
            )
        except OSError as wrong:
            raise LabgridError(
                f"labgrid's interpreter {python} cannot be started: {wrong.strerror}; "
                "make one with 'python3 -m venv DIR && DIR/bin/pip install labgrid' and name DIR/bin/python"
            ) from wrong


def why_it_ended(process: subprocess.Popen[bytes], said: bytes) -> str:
    """What a bridge said last, as a clause."""
    lines = [line for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
    if any("No module named" in line for line in lines):
        return "it has no labgrid: install it there ('pip install labgrid', or our extra 'pytest-edgehil[labgrid]')"
    return f"it ended with exit status {process.poll()}" + (f": {lines[-1].strip()}" if lines else "")


class Conversation:
    """A running bridge: `ask` it, and learn from `lost` which places are not ours any more.

    Args:
        coordinator: where.
        host: the first half of the name under which labgrid shows us.
        user: the second half.
    """

    def __init__(self, coordinator: Coordinator, *, host: str, user: str) -> None:
        self._coordinator = coordinator
        env = {"LG_HOSTNAME": host, "LG_USERNAME": user}
        self._process = start(coordinator.python, "serve", coordinator.address, env=env)
        self._answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._lost: dict[str, str] = {}
        self._said = b""
        self._turn = threading.Lock()
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read, self._listen)]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, do: str, **fields: str) -> dict[str, Any]:
        """One question, one answer.

        Raises:
            LabgridError: the bridge ended, or did not answer in time.
        """
        with self._turn:
            try:
                assert self._process.stdin is not None
                self._process.stdin.write(json.dumps({"do": do, **fields}).encode() + b"\n")
                self._process.stdin.flush()
                answer = self._answers.get(timeout=ANSWER_S)
            except queue.Empty:
                raise LabgridError(
                    f"labgrid at {self._coordinator.address} did not answer '{do}' within {ANSWER_S:g} s"
                ) from None
            except (BrokenPipeError, ValueError):
                answer = None
            if answer is None:
                self._answers.put(None)  # for whoever asks next
                self._process.wait()
                self._readers[1].join()
                raise LabgridError(
                    f"{self._coordinator.python} does not speak with labgrid at {self._coordinator.address}: "
                    + why_it_ended(self._process, self._said)
                )
            return answer

    def lost(self, place: str) -> str | None:
        """Why a place that we acquired is not ours any more; None while it is."""
        if self._process.poll() is not None:
            return "the program that held it in labgrid ended"
        return self._lost.get(place)

    def close(self) -> None:
        """End the bridge, which gives back what it still holds. Harmless when repeated."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it ended before us
            self._process.stdin.close()
        try:
            self._process.wait(timeout=ANSWER_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for reader in self._readers:
            reader.join()
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            if "event" in message:
                self._lost[message["place"]] = message["why"]
            else:
                self._answers.put(message)
        self._answers.put(None)

    def _listen(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said = (self._said + line)[-4000:]


def ask_once(python: Path, *arguments: str, timeout_s: float) -> dict[str, Any]:
    """Run a verb of the bridge that gives one answer and ends.

    Raises:
        LabgridError: it could not be started, ended badly or took too long.
    """
    process = start(python, *arguments)
    began = time.monotonic()
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise LabgridError(
            f"labgrid ({python}) did not do '{' '.join(arguments[:2])}' within {time.monotonic() - began:.0f} s"
        ) from None
    except BaseException:
        process.kill()
        process.communicate()
        raise
    if process.returncode != 0 or not out.strip():
        raise LabgridError(f"{python} does not speak with labgrid: {why_it_ended(process, err)}")
    answer: dict[str, Any] = json.loads(out.splitlines()[-1])
    return answer
