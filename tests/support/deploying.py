"""A deployment as the host drives it, on the board's own functions and in this process: for cutting it anywhere.

The steps are those of `board/flash.py` and `board/firmware_trial.py`, decided from what the board says: push what its
store lacks, unpack, write the other slot, boot it on trial, have it prove itself, commit and switch, load. Then a
model that is not well, and back. `run` goes on from wherever an earlier one was cut.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import struct
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.slot_boards import SlotBoard

from pytest_edgehil.model import Artifact
from pytest_edgehil.onboard import combos, fence, firmware, home, sink
from pytest_edgehil.onboard.durable import sha256_of, write_atomically
from pytest_edgehil.onboard.slots import chosen, images
from pytest_edgehil.onboard.slots.uboot import UBoot
from pytest_edgehil.onboard.unpack import altered, install, read_manifest

SLOTS = (2, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is on the board at first, what shall be on it, and a combo that will turn out to be unwell.

    Args:
        old, new, unwell: track → digest.
        artifacts: digest → artifact.
        kind: of the board's slots, see `support.slot_boards`.
    """

    old: Mapping[str, str]
    new: Mapping[str, str]
    unwell: Mapping[str, str]
    artifacts: Mapping[str, Artifact]
    kind: str = "virtual"


class Deployment:
    """On a board below a directory (`support.boards.BenchBoard`)."""

    def __init__(self, root: Path, plan: Plan) -> None:
        self.root = root
        self.plan = plan
        self.board = SlotBoard.existing(root, plan.kind)
        self.slots = chosen(self.board.declared)
        if plan.kind == "uboot":
            names = dict(zip("AB", SLOTS, strict=True))
            self.slots = dataclasses.replace(self.slots, chooser=UBoot(names, run=self._tool))
        self.home = home.Home(root / "home/.edgehil")

    def enter(self) -> None:
        """Make this the board that the on-board program runs on."""
        os.environ["EDGEHIL_SYSROOT"] = str(self.root)

    def run(self) -> None:
        """All of it, from wherever the board is."""
        self.come_up()
        self.to(self.plan.new)
        combos.mark_good(self.home)
        if not self.plan.unwell:
            return
        self.push(self.plan.unwell)
        combos.activate(self.home, dict(self.plan.unwell))
        combos.revert(self.home)

    def come_up(self) -> None:
        """What the on-board program does first."""
        self.home.prepare()
        combos.recover(self.home, self.slots)

    def boot(self, *arguments: str) -> None:
        """What the bootloader does: no work of ours, so nothing of it can be cut."""
        self.board.power_cycle(*arguments)

    def to(self, combo: Mapping[str, str]) -> None:
        """Onto a combo, as `board/flash.py` does it."""
        self.push(combo)
        state = self.slots.chooser.state()
        running, default = state.running, state.default
        if running != default:
            self.slots.chooser.retire(running)
            self.boot()  # `leave_trial`: somebody died in the middle of one
            running = default
        wanted, found = combo.get("firmware"), firmware.identity(self.home, running, running=True)
        partitions: dict[str, Any] = {}
        if wanted is not None and (found is None or found["digest"] != wanted):
            trial = next(one for one in SLOTS if one != running)
            firmware.write(self.home, self.slots, wanted, trial)
            self.boot(*self.slots.chooser.arm(trial))
            reasons = firmware.prove(self.home, self.slots, wanted, trial)["reasons"]
            assert reasons == []
            partitions = {"slots": self.slots, "partition": trial}
        if partitions or combos.current(self.home) != dict(combo):
            combos.activate(self.home, dict(combo), **partitions)

    def push(self, combo: Mapping[str, str]) -> None:
        """What the store lacks; then unpack all of it."""
        for digest in combo.values():
            if not self.home.bundle(digest).is_file():
                self.receive(digest)
            install(self.home, digest)

    def receive(self, digest: str, *, cut_at: int | None = None) -> None:
        """A push; the link is cut, or its pusher killed, after `cut_at` bytes."""
        data = self.plan.artifacts[digest].path.read_bytes()
        size = len(data)
        with tempfile.TemporaryFile() as link:
            more: dict[str, Any] = {}
            if "tell" in inspect.signature(sink.sink).parameters:  # it answers first, and is sent frames
                more["tell"] = lambda _message: None
                data = b'{"what": "bytes", "from": 0}\n' + struct.pack(">BII", 0, size, size) + data
                data += struct.pack(">BII", 2, 0, 0) if cut_at is None else b""
            link.write(data[:cut_at])
            link.seek(0)
            sink.sink(self.home, digest=digest, size=size, token=7, holder="me", source=link.fileno(), **more)

    def _tool(self, argv: Sequence[str]) -> str:
        """U-Boot's tools in this process, to be cut: a redundant environment is the old or the new one."""
        path = self.root / "uboot.env"
        if argv[0] == "fw_setenv":
            wanted = dict(line.split("=", 1) for line in Path(argv[2]).read_text().splitlines())
            known = {**self.board.environment(), **wanted}
            write_atomically(path, "".join(f"{name}={value}\n" for name, value in known.items()).encode())
        return path.read_text()

    def status(self) -> dict[str, Any]:
        """What the board says of itself."""
        default = self.slots.chooser.state().default
        return {
            "combo": combos.current(self.home),
            "last_known_good": combos.last_known_good(self.home),
            "default": default,
            "identity": firmware.identity(self.home, default),
            "fence": fence.Fence(self.home).read()[0],
        }

    def faults(self) -> list[str]:
        """Everything that is wrong with the board after it has come up: it must be on one whole combo, always."""
        status, again = self.status(), self.status()
        combo, default = status["combo"], status["default"]
        plan = self.plan
        found = [] if status == again else [f"the status changes by asking: {status} {again}"]
        if combo not in (plan.old, plan.new, plan.unwell):
            found.append(f"the board is on {combo}")
        if (default == SLOTS[0]) != (combo == plan.old):
            found.append(f"partition {default} boots with combo {combo}")
        if default != SLOTS[0] and (status["identity"] or {}).get("digest") != combo.get("firmware"):
            found.append(f"partition {default} carries {status['identity']}")
        if default != SLOTS[0] and combo.get("firmware") in plan.artifacts:
            manifest = read_manifest(self.home.tree(combo["firmware"]))
            found += [f"partition {default}: {one}" for one in images.differences(self.slots, manifest, default)]
        for track, digest in combo.items():
            tree = self.home.current / track
            found += [f"{track}: {one}" for one in altered(read_manifest(tree), tree)]
            if not self.home.bundle(digest).is_file():
                found.append(f"{track}: {digest} is active and not in the store")
        for path in self.home.store.iterdir():
            if not path.name.startswith(".") and sha256_of(path) != f"sha256:{path.name}":
                found.append(f"the store's {path.name} is something else")
        found += [f"left over: {path}" for path in self.home.root.rglob(".*.tmp")]
        if self.home.journal.exists():
            found.append(f"the journal is still there: {json.loads(self.home.journal.read_bytes())}")
        return found
