"""One run: its id, when it began, and where its files go.

The directory is made ready when the session starts, not before: ``pytest --collect-only`` or ``--markers`` must not
touch the results of the run before. A report directory belongs to one run at a time, and only what an earlier run of
ours wrote there is replaced.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import Any

from pytest_edgehil.errors import ConfigError

SCHEDULE = ".schedule"
"""In a report directory, while the run lasts: what the workers and the scheduler tell each other."""
OWN_FILES = ("results.json", "samples", "console", "evidence", "plots", "summary.md", SCHEDULE)
MARK = ".edgehil-run"
"""In a report directory: who writes to it now, or did last. Locked as long as that run lives."""
_TEMPORARY, _UNMARKED = "edgehil-run-", "edgehil-new-"


class Run:
    """Made once by the controller; workers get it through xdist's ``workerinput``.

    Args:
        run_id: unique.
        started_at: Unix time, seconds.
        directory: where files go; None: a temporary directory, made when it is first asked for.
    """

    def __init__(self, *, run_id: str, started_at: float, directory: Path | None) -> None:
        self.run_id = run_id
        self.started_at = started_at
        self._directory = directory
        self._temporary: Path | None = None
        self._mark: int | None = None

    @classmethod
    def begin(cls, report: Path | None) -> Run:
        """Begin a run; nothing is written before `prepare`."""
        started_at = time.time()
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(started_at))
        return cls(run_id=f"{stamp}-{secrets.token_hex(4)}", started_at=started_at, directory=report)

    @classmethod
    def join(cls, told: dict[str, Any]) -> Run:
        """In a worker: the run that the controller began."""
        return cls(run_id=told["run_id"], started_at=told["started_at"], directory=Path(told["directory"]))

    @property
    def directory(self) -> Path:
        """The report directory, or a temporary one that `close` removes."""
        if self._directory is None:
            _remove_strays(Path(tempfile.gettempdir()))
            self._temporary, self._mark = _temporary()
            self._directory = self._temporary
        return self._directory

    @property
    def schedule(self) -> Path:
        """Where workers and scheduler tell each other what they know; made by whoever writes there first."""
        return self.directory / SCHEDULE

    def prepare(self) -> None:
        """Take the report directory, if there is one; files of an earlier run are replaced, as ``--junitxml`` does.

        Raises:
            ConfigError: it cannot be written, another run uses it, or it holds files that are not ours.
        """
        report = self._directory
        if report is None or self._mark is not None:
            return
        try:
            report.mkdir(parents=True, exist_ok=True)
            self._refuse_foreign(report)
            self._mark = self._take(report)
            for name in OWN_FILES:
                old = report / name
                if old.is_dir():
                    shutil.rmtree(old)
                else:
                    old.unlink(missing_ok=True)
        except OSError as problem:
            where = problem.filename or report
            raise ConfigError(
                f"--edgehil-report: {where} cannot be written: {problem.strerror}; name another directory"
            ) from problem

    @staticmethod
    def _refuse_foreign(report: Path) -> None:
        if (report / MARK).exists() or (report / "results.json").is_file():
            return
        found = [name for name in OWN_FILES if (report / name).exists()]
        if found:
            raise ConfigError(
                f"--edgehil-report: {report} holds {', '.join(found)}, which would be replaced, but no run of "
                "pytest-edgehil wrote them; name an empty or a new directory"
            )

    def _take(self, report: Path) -> int:
        mark = os.open(report / MARK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as problem:
                raise ConfigError(
                    f"--edgehil-report: {report} is in use by {_told_of(mark)}; wait for it, or name another directory"
                ) from problem
            os.truncate(mark, 0)
            os.pwrite(mark, json.dumps({"run": self.run_id, "pid": os.getpid()}).encode() + b"\n", 0)
        except BaseException:
            os.close(mark)
            raise
        return mark

    def to_worker(self) -> dict[str, Any]:
        """What `join` takes."""
        return {"run_id": self.run_id, "started_at": self.started_at, "directory": str(self.directory)}

    def describe(self, *, finished_at: float) -> dict[str, Any]:
        """For ``results.json``."""
        return {"id": self.run_id, "started_at": self.started_at, "finished_at": finished_at}

    def close(self) -> None:
        """Leave the directory to others, or remove it if it was a temporary one. Safe to call twice."""
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
        elif self._directory is not None and self._mark is not None:
            shutil.rmtree(self._directory / SCHEDULE, ignore_errors=True)
        mark, self._mark = self._mark, None
        if mark is not None:
            os.close(mark)


def _temporary() -> tuple[Path, int]:
    """A temporary directory, and its mark: locked before the directory gets the name that strays are known by."""
    unmarked = Path(tempfile.mkdtemp(prefix=_UNMARKED))
    mark = os.open(unmarked / MARK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(mark, fcntl.LOCK_EX)
    return unmarked.rename(unmarked.with_name(unmarked.name.replace(_UNMARKED, _TEMPORARY, 1))), mark


def _remove_strays(directory: Path) -> None:
    """Remove our temporary directories of runs that were killed: those whose mark nobody has locked any more."""
    for path in directory.glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(OSError):  # somebody else's, still in use, or gone just now
            found = path.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                continue
            mark = os.open(path / MARK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(mark)


def _told_of(mark: int) -> str:
    """Who has the lock, as far as the file says: it may be empty for a moment."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        told = json.loads(os.pread(mark, 4096, 0))
        return f"process {told['pid']} (run {told['run']})"
    return "another run"
