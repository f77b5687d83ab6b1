"""One run: its id, when it began, and where its files go."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

OWN_FILES = ("results.json", "samples", "console", "evidence", "summary.md")


class Run:
    """Made once by the controller; workers get it through xdist's ``workerinput``.

    Args:
        run_id: unique.
        started_at: Unix time, seconds.
        directory: the report directory, or a temporary one that `close` removes.
        temporary: is it a temporary one?
    """

    def __init__(self, *, run_id: str, started_at: float, directory: Path, temporary: bool) -> None:
        self.run_id = run_id
        self.started_at = started_at
        self.directory = directory
        self._temporary = temporary

    @classmethod
    def begin(cls, report: Path | None) -> Run:
        """Begin a run; files of an earlier run in the report directory are replaced, as ``--junitxml`` does."""
        started_at = time.time()
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(started_at))
        run_id = f"{stamp}-{secrets.token_hex(4)}"
        if report is None:
            return cls(
                run_id=run_id,
                started_at=started_at,
                directory=Path(tempfile.mkdtemp(prefix="edgehil-")),
                temporary=True,
            )
        report.mkdir(parents=True, exist_ok=True)
        for name in OWN_FILES:
            old = report / name
            if old.is_dir():
                shutil.rmtree(old)
            else:
                old.unlink(missing_ok=True)
        return cls(run_id=run_id, started_at=started_at, directory=report, temporary=False)

    @classmethod
    def join(cls, told: dict[str, Any]) -> Run:
        """In a worker: the run that the controller began."""
        return cls(
            run_id=told["run_id"], started_at=told["started_at"], directory=Path(told["directory"]), temporary=False
        )

    def to_worker(self) -> dict[str, Any]:
        """What `join` takes."""
        return {"run_id": self.run_id, "started_at": self.started_at, "directory": str(self.directory)}

    def describe(self, *, finished_at: float) -> dict[str, Any]:
        """For ``results.json``."""
        return {"id": self.run_id, "started_at": self.started_at, "finished_at": finished_at}

    def close(self) -> None:
        """Remove the directory if it was a temporary one."""
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)
