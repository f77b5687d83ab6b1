"""Power cuts of an emulated board: a deployment whose every write is known, cut anywhere, booted, and looked at.

For `tests/system/test_emulated_faults.py` and ``benchmarks/emulated/cuts.py``. The board boots a small image: the one
of the repository without its Python wheels. Kernel, bootloader, file systems, slots and the on-board program are the
same; no model runs, models are only put there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import random
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from support.boards import bundle
from support.emulated import START_S, emulated_board
from support.write_log import Medium, WriteLog

from pytest_edgehil.board.command import Command
from pytest_edgehil.board.firmware_trial import leave_trial
from pytest_edgehil.board.flash import FlashProgress, flash, plan_flash
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.board.ssh import connect
from pytest_edgehil.board.transport import Transport
from pytest_edgehil.emulated.farm import RunningBoard, start
from pytest_edgehil.emulated.image.build import Image, build_image
from pytest_edgehil.emulated.image.disk import MIB, copy_sparsely
from pytest_edgehil.errors import BoardError
from pytest_edgehil.model.artifact import Artifact, Combo, Track
from pytest_edgehil.model.board import Board, Slots

SLOT_MIB = 80
BOOT_S = 600.0
COMMAND_S = 300.0
PATHS = ("model write", "firmware write", "commit")
OLD, NEW = b'"version": "2026.11"', b'"version": "2026.12"'
VARIABLES_AT = MIB  # the slots' variables: the first sector of the first partition
_MODEL_BYTES = 2 * MIB


def small_image(directory: Path, source: Path) -> tuple[Path, Image]:
    """An image without wheels, so that its root is a third as large; built, or found built."""
    directory.mkdir(exist_ok=True)
    target = directory / "small"
    shutil.copytree(source, target)
    recipe, lock = (target / "image.yaml").read_text(), (target / "image.lock").read_text()
    recipe = re.sub(r"(?m)^wheels: .*$", "wheels: []", recipe)
    recipe = re.sub(r"(?m)^sizes: .*$", f"sizes: {{slot: {SLOT_MIB} MiB, data: 256 MiB}}", recipe)
    (target / "image.yaml").write_text(recipe)
    (target / "image.lock").write_text(lock[: lock.index("wheels:")] + "wheels: []\n")
    return target, build_image(target, say=lambda _line: None)


def _model(directory: Path, number: int) -> Artifact:
    weights = random.Random(number).randbytes(_MODEL_BYTES)
    return bundle(directory, {"model.onnx": weights}, version=f"1.0.{number}", runtime=None, compresslevel=1)


def _firmware(directory: Path, image: Image) -> tuple[Artifact, str]:
    """The image's own root under another version, and the digest of what is in the slot then."""
    root = image.root.read_bytes()
    if root.count(OLD) != 1:  # file data carries no checksum in ext4: it may be changed in place
        raise ValueError(f"expected one {OLD!r} in {image.root}")
    root = root.replace(OLD, NEW)
    files = {"firmware.json": b'{"name": "edge-arm64", "version": "2026.12"}', "root.img": root}
    artifact = bundle(
        directory, files, track=Track.FIRMWARE, kind="firmware-image", runtime=None, entry="firmware.json",
        name="edge-arm64", version="2026.12", compresslevel=1,
    )  # fmt: skip
    return artifact, hashlib.sha256(root).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """A combo as it is on the board.

    Args:
        slot: partition that runs with it.
        root: SHA-256 of what that partition holds.
    """

    combo: Combo
    slot: int
    root: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """One power cut and what came of it; `faults` is empty when all was well."""

    what: str
    outcome: str
    faults: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.what}: {'; '.join(self.faults) or self.outcome}"


@dataclass(slots=True, kw_only=True)
class Stand:
    """A board, the combos that it is put on one after the other, and the log of all that was written meanwhile.

    Args:
        spans: path → the entries of the log that belong to it, first and behind the last.
        durations_s: path → how long it took when it was recorded.
        final: the disk when all of it was done.
    """

    directory: Path
    board: Board
    image: Image
    combos: tuple[Deployed, ...]
    log: WriteLog | None = None
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    durations_s: dict[str, float] = field(default_factory=dict)
    final: Path = Path()
    _ready: dict[str, Path] = field(default_factory=dict)
    _token: int = 0

    @classmethod
    def make(cls, directory: Path, source: Path) -> Stand:
        """Build what is needed."""
        place, image = small_image(directory, source)
        board = emulated_board(place)
        assert board.emulated is not None
        slots = Slots(backend="uboot", partitions=(2, 3), devices={"root": ("/dev/vda2", "/dev/vda3")})
        spec = dataclasses.replace(board.emulated, memory_bytes=512 * MIB)
        board = dataclasses.replace(board, emulated=spec, slots=slots, home="/data/edgehil")
        firmware, new_root = _firmware(directory, image)
        old_root = hashlib.sha256(image.root.read_bytes()).hexdigest()
        models = [_model(directory, number) for number in range(3)]
        combos = (
            Deployed(combo=Combo(model=models[0]), slot=2, root=old_root),
            Deployed(combo=Combo(model=models[1]), slot=2, root=old_root),
            Deployed(combo=Combo(model=models[2], firmware=firmware), slot=3, root=new_root),
        )
        return cls(directory=directory, board=board, image=image, combos=combos)

    def allowed(self, path: str) -> tuple[Deployed, Deployed]:
        """The combo before and the one after what is cut."""
        return self.combos[:2] if path == "model write" else self.combos[1:]  # type: ignore[return-value]

    def session(self, running: RunningBoard) -> BoardSession:
        """A session under a lease of its own."""
        self._token += 1
        return BoardSession(running.board, token=self._token, holder=f"cut-{self._token}")

    def deploy(self, session: BoardSession, to: Deployed, **more: object) -> None:
        """Put the board on a combo, from wherever it is."""
        leave_trial(session, boot_timeout_s=BOOT_S)
        plan = plan_flash(to.combo, session.client.status())
        flash(plan, session, boot_timeout_s=BOOT_S, **more)  # type: ignore[arg-type]

    def first(self, session: BoardSession) -> None:
        """The first combo, and the program compiled, so that sessions start as on a board that has been in use."""
        self.deploy(session, self.combos[0])
        shell(session, f"python3 -S -E {self.board.home}/bin/onboard-*.pyz compile && sync")

    # --- cuts of a deployment that was recorded --------------------------------------------------------------

    def record(self) -> None:
        """Deploy all of it once, with every write kept."""
        path, marks = self.directory / "writes.log", list[tuple[int, float]]()
        links = list[Transport]()

        def mark() -> None:
            marks.append((path.stat().st_size, time.monotonic()))

        def told(progress: FlashProgress) -> None:
            if progress.phase == "verify" and progress.sent_bytes == progress.total_bytes and len(marks) == 2:
                mark()

        with start(
            self.board, directory=self.directory / "board", wait_s=START_S, cold=True, write_log=path
        ) as running:

            def link(timeout_s: float) -> Transport:
                assert running.board.ssh is not None
                opened = connect(running.board.ssh, board_id=running.board.id, timeout_s=timeout_s)
                links.append(opened)
                if len(marks) == 3:  # the firmware on trial has come up: what is left is to commit it
                    mark()
                return opened

            session = BoardSession(running.board, token=1, holder="recording", connect=link)
            self.first(session)
            mark()
            self.deploy(session, self.combos[1])
            mark()
            self.deploy(session, self.combos[2], on_progress=told)
            shell(session, "sync")
            mark()
            session.close()
            for each in links:
                with contextlib.suppress(BoardError):
                    each.close()
        self.log = WriteLog(path)
        at = [self.log.number_at(size) for size, _ in marks]
        for name, first, last in (("model write", 0, 1), ("firmware write", 1, 2), ("commit", 3, 4)):
            self.spans[name] = at[first], at[last]
            self.durations_s[name] = marks[last][1] - marks[first][1]
        # what U-Boot writes when it boots the slot on trial: until then the board is as it was told to reboot
        armed = max(n for n, one in enumerate(self.log.writes[: at[3]]) if one.size and one.at == VARIABLES_AT)
        medium = self._medium()
        for name, number in (("model write", at[0]), ("firmware write", at[1]), ("commit", armed)):
            self._ready[name] = self.directory / f"ready-{name.replace(' ', '-')}.raw"
            with medium.cut(number, None):
                copy_sparse(medium.path, self._ready[name])
        self.final = self.directory / "final.raw"
        with medium.cut(len(self.log.writes), None):
            copy_sparse(medium.path, self.final)

    def _medium(self) -> Medium:
        """The disk as it was when the log began."""
        assert self.log is not None
        path = self.directory / "medium.raw"
        copy_sparse(self.image.disk, path)
        return Medium(path, self.log)

    def replay(
        self, counts: Mapping[str, int], chance: random.Random, *, honest: bool = True, next_run_of: int = 1
    ) -> Iterator[Cut]:
        """Cut the recorded deployment, at random writes of each path.

        Args:
            counts: path → how many cuts.
            next_run_of: of so many cuts one is followed by the deployment that was cut, which must end well.
        """
        assert self.log is not None
        medium = self._medium()
        cuts = sorted(
            (chance.randint(*self.spans[name]), name, chance.randrange(2**32))
            for name, count in counts.items()
            for _ in range(count)
        )
        for number, (at, name, seed) in enumerate(cuts):
            with medium.cut(at, random.Random(seed), honest=honest) as told:
                what = f"{name}, cut before write {at} of {len(self.log.writes)} (seed {seed}; {told})"
                yield self._look(what, name, medium.path, next_run=(number + 1) % next_run_of == 0)

    # --- cuts by killing QEMU --------------------------------------------------------------------------------

    def kill(self, name: str, chance: random.Random, *, next_run: bool = True) -> Cut:
        """Cut at a random moment of what takes as long as when it was recorded: QEMU is killed.

        Args:
            next_run: is it followed by the deployment that was cut, which must end well?
        """
        after_s = chance.uniform(0, 1.2 * self.durations_s[name])
        with start(self.board, directory=self.directory / "killed", wait_s=START_S, disk=self._ready[name]) as running:
            session = self.session(running)
            asked = {"combo": self.combos[2].combo.digests, "board_class": self.board.cls, "partition": 3}
            session.client.status()
            power = threading.Timer(after_s, os.kill, (_qemu_of(running), signal.SIGKILL))
            power.start()
            with contextlib.suppress(BoardError):
                if name == "commit":
                    session.client.request("activate", asked, timeout_s=COMMAND_S)
                else:
                    self.deploy(session, self.allowed(name)[1])
            power.join()
            session.close()
        left = self.directory / "left.qcow2"
        (self.directory / "killed/disk.qcow2").replace(left)
        return self._look(f"{name}, QEMU killed after {after_s:.2f} s", name, left, next_run=next_run)

    # --- inside ----------------------------------------------------------------------------------------------

    def _look(self, what: str, name: str, disk: Path, *, next_run: bool) -> Cut:
        """Boot what a cut has left, and say what is wrong with it."""
        old, new = self.allowed(name)
        try:
            with start(self.board, directory=self.directory / "after", wait_s=START_S, disk=disk) as running:
                session = self.session(running)
                try:
                    left_trial = leave_trial(session, boot_timeout_s=BOOT_S)
                    found = self.faults_on(session, old, new)
                    outcome = "new" if dict(session.client.status().combo) == new.combo.digests else "old"
                    outcome += " combo, after a trial that nobody had committed" if left_trial else " combo"
                    if next_run and not found:
                        self.deploy(session, new)
                        found = [f"after the next run: {one}" for one in self.faults_on(session, new)]
                        outcome += ", and the next run ends well"
                finally:
                    session.close()
        except BoardError as problem:
            return Cut(what=what, outcome="", faults=(f"{type(problem).__name__}: {problem}",))
        if disk.suffix == ".raw":  # else it is an overlay, which only QEMU can read
            found += [
                f"slot of partition {one.slot} holds something else"
                for one in {id(old): old, id(new): new}.values()
                if outcome.startswith("old" if one is old else "new") and self._slot(disk, one.slot) != one.root
            ]
        return Cut(what=what, outcome=outcome, faults=tuple(found))

    def faults_on(self, session: BoardSession, *allowed: Deployed) -> list[str]:
        """What is wrong with a board that must be on one of these."""
        status = session.client.status()
        combo, firmware = dict(status.combo), status.firmware
        on = next((one for one in allowed if one.combo.digests == combo), None)
        if on is None:
            return [f"the board is on {combo}"]
        found = []
        if (firmware.partition, firmware.default_partition) != (on.slot, on.slot):
            found.append(f"partition {firmware.partition} runs, {firmware.default_partition} is the default: {on.slot}")
        wanted = on.combo.firmware
        if wanted is not None and firmware.digest != wanted.digest:
            found.append(f"firmware {firmware.digest} runs, and the combo has {wanted.digest}")
        model = on.combo.model
        assert model is not None
        (file,) = model.manifest.files
        home = session.board.home
        said = shell(
            session, f"sha256sum {home}/current/model/{file.path}; find {home} -name '.*.tmp'; ls {home}/journal"
        )
        digest, *left = said.split()
        if f"sha256:{digest}" != file.digest:
            found.append(f"{file.path} hashes to {digest}")
        found += [f"left over: {one}" for one in left[1:]]
        return found

    def _slot(self, disk: Path, partition: int) -> str:
        at = (2 + (partition - 2) * SLOT_MIB) * MIB  # behind the table and the slots' variables
        with disk.open("rb") as file:
            file.seek(at)
            return hashlib.sha256(file.read(SLOT_MIB * MIB)).hexdigest()


def shell(session: BoardSession, script: str) -> str:
    """What a script of the board prints."""
    return session.transport.run(Command(argv=("sh", "-c", script), timeout_s=COMMAND_S)).stdout.decode()


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a disk; what is zeros there is a hole here."""
    with source.open("rb") as one, target.open("wb") as other:
        other.truncate(source.stat().st_size)
        copy_sparsely(one, other, 0, block_bytes=MIB)


def _qemu_of(running: RunningBoard) -> int:
    warden = running.endpoint.warden_pid
    return int(Path(f"/proc/{warden}/task/{warden}/children").read_text().split()[0])
