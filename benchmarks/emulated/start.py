"""How long an emulated board takes to its first SSH command: of a template, and cold through U-Boot and kernel.

``start.py [ROUNDS]``; it wants the image and QEMU. The template is made before anything is timed.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from pytest_edgehil.board.command import Command
from pytest_edgehil.board.ssh import connect
from pytest_edgehil.emulated.farm import start
from pytest_edgehil.model.board import Board, EmulatedSpec, Environment

IMAGE = Path(__file__).resolve().parents[2] / "farm/images/edge-arm64"


def first_command_s(board: Board, directory: Path, *, cold: bool) -> float:
    """Start a board, run a command on it, and stop it."""
    began = time.monotonic()
    with start(board, directory=directory, cold=cold) as running:
        assert running.board.ssh is not None
        link = connect(running.board.ssh, board_id=board.id, timeout_s=120)
        link.run(Command(argv=("true",), timeout_s=120))
        took_s = time.monotonic() - began
        link.close()
    return took_s


def main() -> None:
    """Measure both ways."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    board = Board(
        id="emu-01", cls="c", environment=Environment.EMULATED, emulated=EmulatedSpec(image=IMAGE, serial="1")
    )
    with tempfile.TemporaryDirectory(prefix="edgehil-start-") as name:
        first_command_s(board, Path(name) / "board", cold=False)
        for kind, cold in (("template", False), ("cold", True)):
            times = [first_command_s(board, Path(name) / "board", cold=cold) for _ in range(rounds)]
            print(
                f"{kind:<9} {min(times):.2f} … {statistics.median(times):.2f} … {max(times):.2f} s of {rounds}, "
                f"load {os.getloadavg()[0]:.1f}"
            )


if __name__ == "__main__":
    main()
