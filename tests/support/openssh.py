"""A private OpenSSH server on loopback: own configuration, host key and port; works with and without being root."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from support.keys import KeyPair, access_to, make_key

from pytest_edgehil.model.board import SshAccess


def sshd_path() -> str:
    found = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    assert found is not None, "tests that use this are marked with needs('sshd')"
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class OpenSshServer:
    """`with OpenSshServer(directory) as server: connect(server.access, …)`.

    Args:
        directory: where keys, configuration and log go.
        host_keys: algorithms of the host keys; `access` pins the first one.
        options: further lines of sshd_config.
    """

    def __init__(self, directory: Path, *, host_keys: tuple[str, ...] = ("ssh-ed25519",), options: str = "") -> None:
        self._directory = directory
        self.user = getpass.getuser()
        self.client: KeyPair = make_key(directory / "client")
        self.host_keys = [make_key(directory / f"host-{n}", name) for n, name in enumerate(host_keys)]
        (directory / "authorized_keys").write_text(self.client.public + "\n")
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def __enter__(self) -> OpenSshServer:
        for _ in range(5):  # somebody else may take the port between asking for it and using it
            if self._start():
                return self
        raise AssertionError(f"sshd did not start: {self.log()}")

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def access(self) -> SshAccess:
        return self.access_at(self.port)

    def access_at(self, port: int) -> SshAccess:
        """The same server through another port, such as that of a `TcpProxy`."""
        return access_to(port, user=self.user, client=self.client, host_key=self.host_keys[0].public)

    def log(self) -> str:
        path = self._directory / "sshd.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _start(self) -> bool:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd insists on it when it is root
        self.port = free_port()
        lines = [
            "ListenAddress 127.0.0.1",
            f"Port {self.port}",
            f"PidFile {self._directory / 'sshd.pid'}",
            *(f"HostKey {key.path}" for key in self.host_keys),
            f"AuthorizedKeysFile {self._directory / 'authorized_keys'}",
            "StrictModes no",  # temporary directories are below a directory that everybody may write
            "UsePAM no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin prohibit-password",
            "PrintMotd no",
            "Subsystem sftp internal-sftp",
            f"SetEnv HOME={self._directory}",  # what the login shell's start-up files say is not our matter
            self._options,
        ]
        config = self._directory / "sshd_config"
        config.write_text("\n".join(lines) + "\n")
        (self._directory / "sshd.log").unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [sshd_path(), "-D", "-f", str(config), "-E", str(self._directory / "sshd.log")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + 120
        while self._process.poll() is None and time.monotonic() < until:
            if "Server listening" in self.log():
                return True
            time.sleep(0.01)
        self.stop()
        return False
