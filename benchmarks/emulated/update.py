"""How long an update of the whole root takes on an emulated board: sent, written, read back, booted, proven, committed.

Run it by hand; it wants the image (``edgehil image build farm/images/edge-arm64``) and QEMU. The update is the image
itself under another version, so that every step is taken; most of it is on the board already, in the slot that runs.
``--whole`` sends all of it, as an image would have to be that has nothing in common with the one that runs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMAGE = ROOT / "farm/images/edge-arm64"
OLD, NEW = b'"version": "2026.11"', b'"version": "2026.12"'


def edgehil(*arguments: str) -> None:
    """Run a command, as one would type it."""
    subprocess.run([sys.executable, "-m", "pytest_edgehil", *arguments], cwd=ROOT, check=True)


def main() -> None:
    """Make an update and deploy it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whole", action="store_true", help="use nothing of what the board has")
    way = ["--delta", "never"] if parser.parse_args().whole else []
    with tempfile.TemporaryDirectory(prefix="edgehil-update-") as name:
        place = Path(name)
        os.environ["EDGEHIL_STATE_DIR"] = str(place / "state")
        edgehil("image", "firmware", str(IMAGE), "--out", str(place))
        (recipe,) = place.glob("*.yaml")
        (root,) = place.glob("*.ext4")
        data = root.read_bytes()
        if data.count(OLD) != 1:  # file data carries no checksum in ext4: it may be changed in place
            sys.exit(f"expected one {OLD!r} in {root}")
        root.write_bytes(data.replace(OLD, NEW))
        recipe.write_text(recipe.read_text().replace('2026.11"', '2026.12"'))
        edgehil("build", "--out", str(place / "artifacts"), str(recipe))
        (bundle,) = (place / "artifacts").glob("*.tar.gz")
        whole = _whole_command(bundle, way)
        update, sent = _update_of_a_running_board(bundle, place / "board", way)
        load = os.getloadavg()[0]
        sizes = f"root of {len(data) / 1e6:.0f} MB, bundle of {bundle.stat().st_size / 1e6:.0f} MB"
        print(f"{sizes}, load {load:.1f}")
        print(f"{update:5.1f} s  from the slot that runs to the other one, committed; {sent / 1e6:.1f} MB sent")
        print(f"{whole:5.1f} s  'edgehil deploy', with the start of the board and of the first session on it")


def _whole_command(bundle: Path, way: list[str]) -> float:
    began = time.monotonic()
    edgehil("deploy", "emu-01", "--lab", "farm/emulated.yaml", "--firmware", str(bundle), *way)
    return time.monotonic() - began


def _update_of_a_running_board(bundle: Path, directory: Path, way: list[str]) -> tuple[float, int]:
    """Seconds, and the bytes that were sent."""
    from pytest_edgehil.artifacts.bundle import read
    from pytest_edgehil.board.delivery import DeltaPolicy, Way
    from pytest_edgehil.board.flash import flash, plan_flash
    from pytest_edgehil.board.session import BoardSession
    from pytest_edgehil.emulated.farm import start
    from pytest_edgehil.lab.inventory import load_lab
    from pytest_edgehil.model import Combo

    board = load_lab(ROOT / "farm/emulated.yaml").board("emu-01")
    combo = Combo(firmware=read(bundle))
    with start(board, directory=directory, wait_s=120.0) as running:
        session = BoardSession(running.board, token=1, holder="benchmark")
        plan = plan_flash(combo, session.client.status())
        began = time.monotonic()
        report = flash(plan, session, way=Way(policy=DeltaPolicy(way[1])) if way else None)
        took = time.monotonic() - began
        session.close()
    return took, report.sent_bytes


if __name__ == "__main__":
    main()
