"""What both demos are made of: commands that are typed and shown, one after the other, and an end that leaves nothing.

Whatever a demo starts ends with it, also when it is interrupted or killed. Two demos never write to one directory.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BOLD, PLAIN = "\033[1m", "\033[0m"
PR_SET_PDEATHSIG = 1
MARK = ".edgehil-demo"
ENDING_S = 20.0


def die_with_parent() -> None:
    """Ask the kernel to end this process when the one that started it ends, however that happens."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Demo:
    """Runs the commands one after the other and remembers how they ended.

    Args:
        out: directory for everything that it makes.
        steps: how many titles there will be.
    """

    def __init__(self, out: Path, *, steps: int) -> None:
        self.started = time.monotonic()
        self.steps = steps
        self.environment = {
            **os.environ,
            "EDGEHIL_STATE_DIR": str(out / "state"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
        }
        self.running: subprocess.Popen[bytes] | None = None

    def say(self, text: str = "") -> None:
        """A line for whoever watches."""
        print(text, flush=True)

    def title(self, number: int, text: str) -> None:
        """What comes now, and how long it took until here."""
        self.say(f"\n{BOLD}[{number}/{self.steps} {time.monotonic() - self.started:4.0f} s] {text}{PLAIN}")

    def ask(self, *arguments: str) -> Any:
        """What an ``edgehil … --json`` answers."""
        argv = (str(Path(sys.executable).with_name("edgehil")), *arguments)
        done = subprocess.run(argv, cwd=ROOT, env=self.environment, check=True, capture_output=True, text=True)
        return json.loads(done.stdout)

    def run(self, *argv: str, expect: Sequence[int] = (0,)) -> int:
        """Run a command in the foreground; its output is shown as it comes."""
        self.say(f"$ {shlex.join(argv)}")
        parent = os.getpid()

        def tied() -> None:
            die_with_parent()
            if os.getppid() != parent:  # the parent was gone before the kernel was asked
                os._exit(1)

        self.running = subprocess.Popen(
            argv,
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C of a terminal is for us; the command is told once, by `end`
            preexec_fn=tied,  # noqa: PLW1509 - this process has one thread
        )
        status = self.running.wait()
        self.running = None
        if status not in expect:
            self.say(f"\ndemo: this ended with {status}, expected {' or '.join(map(str, expect))}; stopping here")
            sys.exit(1)
        return status

    def end(self) -> None:
        """End what still runs."""
        if self.running is None or self.running.poll() is not None:
            return
        os.killpg(self.running.pid, signal.SIGINT)
        try:
            self.running.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            self.running.kill()
            self.running.wait()


def perform(out: Path, tell: Callable[[Demo], int], *, steps: int) -> int:
    """Clear a demo's directory and tell the story in it; returns the exit status."""
    die_with_parent()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    directory = _taken(out)
    demo = Demo(out, steps=steps)
    try:
        return tell(demo)
    except KeyboardInterrupt:
        demo.say("\ndemo: interrupted")
        return 130
    finally:
        demo.end()
        os.close(directory)


def _taken(out: Path) -> int:
    """Empty the directory, and keep it locked until the descriptor is closed."""
    if out.exists() and any(out.iterdir()) and not (out / MARK).exists():
        sys.exit(f"demo: {out} holds other files; name a new or an empty directory")
    out.mkdir(parents=True, exist_ok=True)
    directory = os.open(out, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(
            f"demo: another one is running in {relative(out)}; wait until it has ended, or run this one elsewhere: "
            f"{relative(Path(sys.executable))} {relative(Path(sys.argv[0]))} DIRECTORY"
        )
    (out / MARK).touch()
    for old in out.iterdir():
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old, ignore_errors=True)
        elif old.name != MARK:
            old.unlink()
    return directory


def relative(path: Path) -> str:
    """As one would type it."""
    return os.path.relpath(path, ROOT)
