"""A real labgrid lab on loopback: coordinator, exporter and an HTTP relay, in an environment of its own.

The environment is the one of ``$EDGEHIL_LABGRID_PYTHON``, else ``.venv-labgrid`` beside this repository's own
(``make labgrid``): labgrid's fork of pyserial clashes with ours.
"""

from __future__ import annotations

import contextlib
import http.server
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from support.processes import until

EXPORTED = """
rpi5-01:
  NetworkService: {{address: 127.0.0.1, username: edge, port: 2201}}
  NetworkSerialPort: {{host: 127.0.0.1, port: 4001, protocol: rfc2217}}
  NetworkPowerPort: {{model: rest, host: 'http://127.0.0.1:{relay}/relay/{{index}}/value', index: 3}}
rpi5-02:
  NetworkService: {{address: 127.0.0.1, username: edge, port: 2202}}
"""
PLACES = ("rpi5-01", "rpi5-02")


def labgrid_python() -> Path | None:
    """The interpreter that has labgrid, if there is one."""
    named = os.environ.get("EDGEHIL_LABGRID_PYTHON")
    python = Path(named) if named else Path(__file__).parents[2] / ".venv-labgrid" / "bin" / "python"
    return python if python.exists() else None


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class _Relay(http.server.BaseHTTPRequestHandler):
    """A relay board as labgrid's power model `rest` expects one."""

    states: dict[str, bytes]

    def do_GET(self) -> None:
        self._answer(self.states.get(self.path, b"0"))

    def do_PUT(self) -> None:
        self.states[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(b"")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@dataclass
class LabgridLab:
    """A running one; `client` runs ``labgrid-client``, as a colleague at another host would."""

    path: Path
    python: Path
    address: str
    relay_port: int
    relays: dict[str, bytes]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def client(
        self, *words: str, user: str = "colleague", place: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.python.parent / "labgrid-client"), *(["-p", place] if place else []), *words],
            env={**os.environ, "LG_COORDINATOR": self.address, "LG_USERNAME": user, "LG_HOSTNAME": "elsewhere"},
            capture_output=True,
            check=False,
            text=True,
            timeout=120,
        )

    def holder(self, place: str) -> str | None:
        shown = self.client("show", place=place).stdout
        (line,) = (line for line in shown.splitlines() if line.strip().startswith("acquired:"))
        said = line.split(":", 1)[1].strip()
        return None if said == "None" else said

    def start(self, name: str) -> None:
        arguments = {
            "coordinator": ["-l", self.address],
            "exporter": ["-c", self.address, "-n", "lab1", str(self.path / "exported.yaml")],
        }[name]
        with (self.path / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [str(self.python.parent / f"labgrid-{name}"), *arguments],
                cwd=self.path,
                env={**os.environ, "PATH": f"{self.python.parent}:{os.environ['PATH']}"},
                stdout=log,
                stderr=log,
            )

    def stop(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def make_places(self) -> None:
        """Those that are not there: a coordinator that is killed forgets what it has not saved yet.

        The match comes last: from then on whoever waits for a place may hold it, and it can no longer be changed.
        """
        there = self.client("places").stdout
        for place in PLACES:
            if place not in there:
                for words in (("create",), ("set-tags", "board=rpi5"), ("add-match", f"lab1/{place}/*")):
                    done = self.client(*words, place=place)
                    assert done.returncode == 0, done.stderr

    def exported(self) -> bool:
        return self.client("resources").stdout.count("NetworkService") == len(PLACES)


@contextlib.contextmanager
def labgrid_lab(path: Path) -> Iterator[LabgridLab]:
    """Run one below `path`, with the places of `PLACES`."""
    python = labgrid_python()
    assert python is not None, "tests that use this are marked with needs('labgrid')"
    relays: dict[str, bytes] = {}
    handler = type("Relay", (_Relay,), {"states": relays})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    lab = LabgridLab(
        path=path,
        python=python,
        address=f"127.0.0.1:{_free_port()}",
        relay_port=server.server_port,
        relays=relays,
    )
    (path / "exported.yaml").write_text(EXPORTED.format(relay=server.server_port))
    try:
        lab.start("coordinator")
        until(lambda: lab.client("places").returncode == 0, timeout_s=120)
        lab.start("exporter")
        until(lab.exported, timeout_s=120)
        lab.make_places()
        yield lab
    finally:
        for name in list(lab.processes):
            lab.stop(name)
        server.shutdown()
        serving.join()
        server.server_close()
