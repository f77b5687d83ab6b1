"""The health check of a firmware: a script ``health`` in its tree, run at boot before anybody may log in."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pytest_edgehil.virtual.processes import signal_group
from pytest_edgehil.virtual.table import ProcessTable

DEADLINE_S = 20.0


async def health_complaint(
    table: ProcessTable, directory: Path, *, environment: Mapping[str, str], what: str
) -> str | None:
    """Run the check of the firmware in a partition.

    Args:
        what: how the complaint names the firmware.

    Returns:
        What is wrong, None when it is healthy or has no check. One that cannot be run counts as failed: a firmware
        whose check was damaged on the way must not pass for one that never had any.
    """
    script = directory / "health"
    if not script.exists():
        return None
    if not os.access(script, os.X_OK):
        return f"{what} has a health check that is not executable"
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    with tempfile.TemporaryFile() as output:
        try:
            pid = table.spawn(
                [str(script)],
                cwd=directory,
                environment=environment,
                stdin=subprocess.DEVNULL,
                stdout=output.fileno(),
                stderr=output.fileno(),
                on_exit=lambda status: None if ended.done() else ended.set_result(status),
            )
        except OSError as problem:
            return f"{what} has a health check that does not start: {problem.strerror}"
        try:
            status = await asyncio.wait_for(ended, DEADLINE_S)
        except TimeoutError:
            signal_group(pid, signal.SIGKILL)
            return f"{what} did not finish its health check in {DEADLINE_S:g} s"
        output.seek(0)
        lines = output.read().decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
    code = os.waitstatus_to_exitcode(status)
    return None if code == 0 else f"{what} failed its health check (exit status {code}): {last}"
