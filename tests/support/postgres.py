"""A PostgreSQL server of our own: its data in a directory, reached over a Unix socket, nobody else's business."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from support.lab_files import FARM, make_lab

from pytest_edgehil.lab.inventory import Lab
from pytest_edgehil.lab.postgres_store import migrate_postgres

PATIENCE_S = 180


def binaries() -> Path | None:
    """Where the server's programs are: Debian keeps them off the path."""
    found = shutil.which("pg_ctl")
    if found is not None and (Path(found).resolve().parent / "initdb").exists():
        return Path(found).resolve().parent
    newest = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda path: path.parts[-3].zfill(4))
    return newest[-1].parent if newest else None


class PostgresServer:
    """Started by ``with``; its directory is gone at the end.

    Args:
        settings: as in postgresql.conf. Durable unless ``fsync=off`` is among them.
    """

    def __init__(self, *settings: str) -> None:
        found = binaries()
        assert found is not None, "PostgreSQL is not installed"
        self._bin = found
        self._settings = settings
        # the server refuses to run as root
        names = {entry.pw_name for entry in pwd.getpwall()}
        self._user = None if os.getuid() else next(name for name in ("postgres", "nobody") if name in names)
        # short: a socket's path has at most 107 bytes
        self.directory = Path(tempfile.mkdtemp(prefix="edgehil-pg-"))
        self._names = itertools.count(1)

    def __enter__(self) -> PostgresServer:
        if self._user is not None:
            entry = pwd.getpwnam(self._user)
            os.chown(self.directory, entry.pw_uid, entry.pw_gid)
            self.directory.chmod(0o755)
        quick = ["--no-sync"] if "fsync=off" in self._settings else []
        self._run("initdb", "-U", "edgehil", "-A", "trust", "-E", "UTF8", "--locale=C", *quick)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if (self.directory / "data" / "postmaster.pid").exists():
            self.stop("immediate")
        shutil.rmtree(self.directory)

    def start(self) -> None:
        options = " ".join(
            f"-c {setting}"
            for setting in ("listen_addresses=", f"unix_socket_directories={self.directory}", *self._settings)
        )
        self._run("pg_ctl", "-w", "-t", str(PATIENCE_S), "-o", options, "-l", str(self.directory / "log"), "start")

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "-w", "-t", str(PATIENCE_S), "-m", mode, "stop")

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://edgehil@/postgres?host={self.directory}"

    @property
    def dsn(self) -> str:
        """For psycopg itself."""
        return f"host={self.directory} user=edgehil dbname=postgres"

    def new_lab(self, directory: Path, text: str = FARM, *, migrated: bool = True) -> Lab:
        """A lab in this server with a name of its own, and so with tables of its own."""
        head, name = f"leases: {self.url}\n", f"lab-{next(self._names)}"
        first = text.splitlines()[0]
        lab = make_lab(directory, head + text.replace(first, f"lab: {name}", 1))
        if migrated:
            migrate_postgres(lab.lease_url, lab=lab.name)
        return lab

    def _run(self, program: str, *arguments: str) -> None:
        command: Sequence[str] = [str(self._bin / program), "-D", str(self.directory / "data"), *arguments]
        with (self.directory / f"{program}.out").open("ab") as output:
            done = subprocess.run(
                command,
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                user=self._user,
                group=None if self._user is None else pwd.getpwnam(self._user).pw_gid,
                extra_groups=None if self._user is None else [],
            )
        if done.returncode:
            told = (self.directory / f"{program}.out").read_text() + (
                (self.directory / "log").read_text() if (self.directory / "log").exists() else ""
            )
            raise RuntimeError(f"{program} failed with status {done.returncode}: {told[-2000:]}")
