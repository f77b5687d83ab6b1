"""Boards below a directory with each way of having slots, and what their bootloaders do, for one contract.

The tools of U-Boot are shell scripts over a file; devices are files, as a loop device would be.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

from support.boards import BenchBoard, bundle

from pytest_edgehil.model import Artifact, Slots, Track

DEVICE_BYTES = 3 * 2**20
NUMBERS = {2: "254:2", 3: "254:3"}


class SlotBoard(BenchBoard):
    """With slots of one kind; it boots as its bootloader would.

    Args:
        root: for everything.
        kind: ``tryboot`` (a Pi, images), ``virtual`` (directories) or ``uboot`` (images).
        device_bytes: room in a slot.
    """

    boots = 0

    def __init__(self, root: Path, kind: str, *, device_bytes: int = DEVICE_BYTES) -> None:
        super().__init__(root)
        self.kind = kind
        for number in self.slots.devices and (2, 3):
            self.put(f"dev/vda{number}", bytes(device_bytes))
            self.put(f"sys/class/block/vda{number}/dev", f"{NUMBERS[number]}\n")
        if kind != "virtual":
            (root / "partitions/2/firmware.json").unlink()
            self.put("dev/vda2", _image("edge-os", "1.0").ljust(device_bytes, b"\0"))
        if kind == "uboot":
            (root / "boot/autoboot.txt").unlink()
            self.environment({"bootcmd": "run a=b", "BOOT_ORDER": "A B", "BOOT_A_LEFT": "3", "BOOT_B_LEFT": "3"})
            self.shim("fw_printenv", 'cat "$EDGEHIL_SYSROOT/uboot.env"')
            self.shim("fw_setenv", _SETENV)
        self.boot_now(2, trial=False)

    @classmethod
    def existing(cls, root: Path, kind: str) -> SlotBoard:
        """A board that is there already, or a copy of one."""
        board = cls.__new__(cls)
        board.root, board.kind = root, kind
        return board

    @property
    def slots(self) -> Slots:
        """As the lab declares them."""
        devices = {} if self.kind == "virtual" else {"root": ("/dev/vda2", "/dev/vda3")}
        return Slots(backend=self.kind, partitions=(2, 3), devices=devices)

    @property
    def declared(self) -> str:
        """As the host tells it."""
        slots = self.slots
        return json.dumps(
            {"backend": slots.backend, "partitions": slots.partitions, "names": slots.names, "devices": slots.devices}
        )

    def environment(self, wanted: Mapping[str, str] | None = None) -> dict[str, str]:
        """U-Boot's; after writing it, if asked to."""
        path = self.root / "uboot.env"
        if wanted is not None:
            known = self.environment() if path.exists() else {}
            path.write_text("".join(f"{name}={value}\n" for name, value in {**known, **wanted}.items()))
        return dict(line.split("=", 1) for line in path.read_text().splitlines())

    def firmware(self, directory: Path, *, version: str = "2.0", padding: int = 2**20 + 700) -> Artifact:
        """A firmware for such a board."""
        identity = json.dumps({"name": "edge-os", "version": version}).encode()
        files = {"firmware.json": identity, "kernel": b"k" * padding}
        if self.kind != "virtual":
            files = {"firmware.json": identity, "root.img": _image("edge-os", version, padding)}
        kind = "firmware-tree" if self.kind == "virtual" else "firmware-image"
        return bundle(
            directory, files, track=Track.FIRMWARE, kind=kind, runtime=None, entry="firmware.json", name="edge-os",
            version=version,
        )  # fmt: skip

    def power_cycle(self, *arguments: str, comes_up: bool = True) -> int:
        """What the bootloader does, after ``reboot`` with these arguments or without any; the partition that runs.

        Args:
            arguments: of ``reboot``.
            comes_up: does what is on trial come up? If not, a watchdog resets the board.
        """
        if self.kind == "uboot":
            return self._boot_by_uboot(comes_up=comes_up)
        lines = (self.root / "boot/autoboot.txt").read_text().splitlines()
        default, tried = (int(line.partition("=")[2]) for line in lines if line.startswith("boot_partition="))
        trial = arguments == ("0 tryboot",) and comes_up
        self.boot_now(tried if trial else default, trial=trial)
        return tried if trial else default

    def boot_now(self, partition: int, *, trial: bool) -> None:
        """This partition runs."""
        self.booted(partition, tryboot=trial)
        nodes = self.root / "proc/device-tree/chosen/bootloader"
        if self.kind == "uboot":
            for name in ("partition", "tryboot"):
                (nodes / name).write_bytes(b"")  # U-Boot has no such nodes; removing them would be an operation of ours
            self.put(
                "proc/cmdline", f"console=ttyAMA0 root=/dev/vda{partition} rauc.slot={'AB'[partition - 2]} quiet\n"
            )
        else:
            (nodes / "partition").write_bytes(struct.pack(">I", partition))
        if self.kind != "virtual":
            self.put("proc/self/mountinfo", f"1 0 {NUMBERS[partition]} / / ro,relatime - ext4 /dev/root ro\n")
            said = (self.root / f"dev/vda{partition}").read_bytes().partition(b"\n")[0]
            self.put("etc/edgehil/firmware.json", said)

    def carries(self, partition: int) -> bytes:
        """What a slot holds, at its beginning."""
        tree = self.root / f"partitions/{partition}/firmware.json"
        return tree.read_bytes() if self.kind == "virtual" else (self.root / f"dev/vda{partition}").read_bytes()[:60]

    def _boot_by_uboot(self, *, comes_up: bool) -> int:
        while True:
            variables = self.environment()
            spare = [name for name in variables["BOOT_ORDER"].split() if int(variables[f"BOOT_{name}_LEFT"]) > 0]
            if not spare:
                self.environment({"BOOT_A_LEFT": "3", "BOOT_B_LEFT": "3"})
                continue
            left = int(variables[f"BOOT_{spare[0]}_LEFT"]) - 1
            self.environment({f"BOOT_{spare[0]}_LEFT": str(left)})
            if left == 0 and not comes_up:
                continue
            partition = 2 + "AB".index(spare[0])
            self.boot_now(partition, trial=False)
            return partition


def _image(name: str, version: str, padding: int = 0) -> bytes:
    """An image of which the first line is what stands in it as ``/etc/edgehil/firmware.json``."""
    return json.dumps({"name": name, "version": version}).encode() + b"\n" + b"k" * padding


_SETENV = r"""
[ "$1" = -s ] && [ $# = 2 ] || { echo "fw_setenv: expected -s FILE" >&2; exit 2; }
env="$EDGEHIL_SYSROOT/uboot.env"
cp "$env" "$env.new"
while IFS= read -r line; do
    name=${line%%=*}
    grep -v "^$name=" "$env.new" > "$env.rest"
    { cat "$env.rest"; printf '%s\n' "$line"; } > "$env.new"
done < "$2"
rm -f "$env.rest"
mv "$env.new" "$env"
"""
