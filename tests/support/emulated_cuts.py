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
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from support.emulated import START_S, emulated_board
from support.small_image import SLOT_MIB, firmware, model, small_image
from support.write_log import BLOCK, SECTOR, Medium, WriteLog

from pytest_edgehil.board.command import Command
from pytest_edgehil.board.firmware_trial import leave_trial
from pytest_edgehil.board.flash import FlashProgress, flash, plan_flash
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.board.ssh import connect
from pytest_edgehil.board.transport import Transport
from pytest_edgehil.emulated.farm import RunningBoard, start
from pytest_edgehil.emulated.image.built import Image
from pytest_edgehil.emulated.image.disk import MIB, copy_sparsely
from pytest_edgehil.errors import BoardError
from pytest_edgehil.model.artifact import Artifact, Combo
from pytest_edgehil.model.board import Board, Slots

BOOT_S = 600.0
COMMAND_S = 300.0
PATHS = ("model write", "firmware write", "commit")
"""Commit: all from the slot that is written and read back: its mark, the bootloader told, the trial, the switch."""
VARIABLES_AT = MIB  # the slots' variables: the first sector of the first partition
REPAIRED = "/data cannot be mounted and is repaired"
"""What the board says on its console then."""
COMMIT_RECORD = bytes.fromhex("c03b3998 00000002")
"""How a block of a journal begins that ends a transaction: jbd2's magic and type (linux/include/linux/jbd2.h)."""
DATA_AT = (2 + 2 * SLOT_MIB) * MIB  # the partition behind the slots: what outlives a firmware


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
    """One power cut and what came of it; `faults` is empty when all was well.

    Args:
        path: of `PATHS`.
        how: when it was, and what was lost.
        outcome: the combo that the board was on, in words; empty when it did not come up.
    """

    path: str
    how: str
    outcome: str
    faults: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.path}, {self.how}: {'; '.join(self.faults) or self.outcome}"


@dataclass(slots=True, kw_only=True)
class Stand:
    """A board, the combos that it is put on one after the other, and the log of all that was written meanwhile.

    Args:
        spans: path → the entries of the log that belong to it, first and behind the last.
        durations_s: path → how long it took when it was recorded.
        final: the disk when all of it was done.
        start_s: how long a board may take to come up before it is lost.
    """

    directory: Path
    board: Board
    image: Image
    combos: tuple[Deployed, ...]
    log: WriteLog | None = None
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    durations_s: dict[str, float] = field(default_factory=dict)
    final: Path = Path()
    start_s: float = START_S
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
        update, new_root = firmware(directory, image)
        old_root = hashlib.sha256(image.root.read_bytes()).hexdigest()
        models = [model(directory, number) for number in range(3)]
        combos = (
            Deployed(combo=Combo(model=models[0]), slot=2, root=old_root),
            Deployed(combo=Combo(model=models[1]), slot=2, root=old_root),
            Deployed(combo=Combo(model=models[2], firmware=update), slot=3, root=new_root),
        )
        return cls(directory=directory, board=board, image=image, combos=combos)

    def beside(self, directory: Path, *, start_s: float = START_S) -> Stand:
        """One that cuts the same recording at the same time, in a directory of its own."""
        directory.mkdir(exist_ok=True)
        return dataclasses.replace(self, directory=directory, start_s=start_s)

    def before(self, path: str) -> Path:
        """The disk before a path; before the commit the board has been told to boot on trial."""
        return self._ready[path]

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
        for name, first, last in zip(PATHS, (0, 1, 2), (1, 2, 4), strict=True):
            self.spans[name] = at[first], at[last]
            self.durations_s[name] = marks[last][1] - marks[first][1]
        self.durations_s["commit"] = marks[4][1] - marks[3][1]  # `kill` has the trial's boot behind it
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

        Always while something is not flushed: a cut right after a flush is the same as one that loses what follows.

        Args:
            counts: path → how many cuts.
            honest: does the disk carry flushes out?
            next_run_of: of so many cuts one is followed by the deployment that was cut, which must end well.
        """
        assert self.log is not None
        medium = self._medium()
        cuts = sorted(
            (chance.choice(self.log.at_risk(*self.spans[name])), name, chance.randrange(2**32))
            for name, count in counts.items()
            for _ in range(count)
        )
        followed = set(chance.sample(range(len(cuts)), len(cuts) // next_run_of))
        for number, (at, name, seed) in enumerate(cuts):
            with medium.cut(at, random.Random(seed), honest=honest) as told:
                how = f"before write {at} of {len(self.log.writes)} (seed {seed}; {told})"
                yield self._look(name, how, medium.path, next_run=number in followed)

    def with_a_torn_commit_record(self) -> Path:
        """The disk after a cut within the write that ends a transaction of ext4's: only its first sector is there."""
        assert self.log is not None
        medium, torn = self._medium(), self.directory / "torn.raw"
        with self.log.path.open("rb") as log:
            for number in range(*self.spans["commit"]):
                one = self.log.writes[number]
                log.seek(one.data_at)
                new = log.read(one.size)
                if one.size != BLOCK or not new.startswith(COMMIT_RECORD):
                    continue
                with medium.cut(number, None), medium.path.open("rb") as disk:
                    disk.seek(one.at)
                    if disk.read(one.size)[SECTOR:] == new[SECTOR:]:
                        continue  # nothing would be torn
                    copy_sparse(medium.path, torn)
                with torn.open("r+b") as disk:
                    disk.seek(one.at)
                    disk.write(new[:SECTOR])
                return torn
        raise ValueError("no transaction ended while the combo was committed")

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
            qemu, cut, faults = _qemu_of(running), threading.Event(), list[str]()

            def fall() -> None:
                cut.set()
                os.kill(qemu, signal.SIGKILL)

            power = threading.Timer(after_s, fall)
            power.start()
            try:
                if name == "commit":
                    session.client.request("activate", asked, timeout_s=COMMAND_S)
                else:
                    self.deploy(session, self.allowed(name)[1])
            except BoardError as problem:
                if not cut.is_set():
                    faults = [f"before the power went: {problem}"]
            power.join()
            session.close()
        left = self.directory / "left.qcow2"
        (self.directory / "killed/disk.qcow2").replace(left)
        found = self._look(name, f"QEMU killed after {after_s:.2f} s", left, next_run=next_run)
        return dataclasses.replace(found, faults=(*faults, *found.faults))

    # --- inside ----------------------------------------------------------------------------------------------

    def _look(self, name: str, how: str, disk: Path, *, next_run: bool) -> Cut:
        """Boot what a cut has left, and say what is wrong with it."""
        old, new = self.allowed(name)
        try:
            with start(self.board, directory=self.directory / "after", wait_s=self.start_s, disk=disk) as running:
                session = self.session(running)
                try:
                    left_trial = leave_trial(session, boot_timeout_s=BOOT_S)
                    found = self.faults_on(session, old, new)
                    digests = dict(session.client.status().combo)
                    on = next((one for one in (old, new) if one.combo.digests == digests), None)
                    outcome = f"{'neither' if on is None else 'new' if on is new else 'old'} combo"
                    outcome += ", after a trial that nobody had committed" if left_trial else ""
                    outcome += ", its file system repaired" if REPAIRED in _console(running) else ""
                    if next_run and not found:
                        found, outcome = self._go_on(session, new), f"{outcome}, and the next run ends well"
                finally:
                    session.close()
        except BoardError as problem:
            return Cut(path=name, how=how, outcome="", faults=(f"{type(problem).__name__}: {problem}",))
        if (
            on is not None and self._slot(disk, on.slot) != on.root
        ):  # as the cut has left it: the board wrote to an overlay
            found += [f"slot of partition {on.slot} holds something else"]
        return Cut(path=name, how=how, outcome=outcome, faults=tuple(found))

    def _go_on(self, session: BoardSession, to: Deployed) -> list[str]:
        """Deploy what was cut and boot again; what is wrong then."""
        self.deploy(session, to)
        before = session.client.hello.boot_id
        shell(session, "(sleep 1; reboot) </dev/null >/dev/null 2>&1 &")
        session.renew(old_boot_id=before, timeout_s=BOOT_S)
        return [f"after the next run: {one}" for one in self.faults_on(session, to)]

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
        assert on.combo.model is not None
        return found + self._faults_in_files(session, on.combo.model)

    def _faults_in_files(self, session: BoardSession, model: Artifact) -> list[str]:
        """What is wrong with what the board keeps: the active model, and all that it could go back to."""
        (file,) = model.manifest.files
        home = session.board.home
        said = shell(
            session,
            f"""cd {home}
            echo '= active'; sha256sum current/model/{file.path}
            echo '= left'; find . -name '.*.tmp'; test -e journal && echo journal
            echo '= store'; find store -type f ! -name '.*' -exec sha256sum {{}} +
            echo '= trees'; find trees ! -path '*/.*' -name {file.path} -exec sha256sum {{}} +
            echo '= kernel'; dmesg | grep -E 'EXT4-fs|I/O error'
            echo '= end'""",
        )
        sections = {name: lines.splitlines() for name, _, lines in (one.partition("\n") for one in said.split("= "))}
        active, found = sections["active"], list[str]()
        if not active or not file.digest.endswith(active[0].split()[0]):
            found.append(f"the active {file.path} hashes to {active}")
        found += [f"left over: {one}" for one in sections["left"]]
        found += [f"{one} does not hash to its name" for one in sections["store"] if len(set(_names(one))) > 1]
        models = {one.combo.model.manifest.files[0].digest for one in self.combos if one.combo.model is not None}
        found += [f"{one} is no model" for one in sections["trees"] if f"sha256:{_names(one)[0]}" not in models]
        if not sections["store"] or not sections["trees"] or "end" not in sections:
            found.append(f"the board could not be looked at: {said!r}")
        return found + [f"the kernel says {one!r}" for one in complaints(sections["kernel"])]

    def _slot(self, disk: Path, partition: int) -> str:
        """SHA-256 of what a partition holds."""
        if disk.suffix != ".raw":  # an overlay
            overlay, disk = disk, self.directory / "left.raw"
            subprocess.run(["qemu-img", "convert", "-O", "raw", overlay, disk], check=True, timeout=COMMAND_S)
        with disk.open("rb") as file:
            file.seek((2 + (partition - 2) * SLOT_MIB) * MIB)  # behind the table and the slots' variables
            return hashlib.sha256(file.read(SLOT_MIB * MIB)).hexdigest()


def _console(running: RunningBoard) -> str:
    return running.layout.console_log.read_text(errors="replace")


def _names(line: str) -> list[str]:
    """Of a line of ``sha256sum``: the digest and the file's own name."""
    digest, path = line.split(maxsplit=1)
    return [digest, path.rpartition("/")[2]]


def complaints(kernel: Sequence[str]) -> list[str]:
    """What a kernel's lines say of damage, without what it said of `/data` before it mounted it.

    A file system that it refuses is repaired by the board, and mounted then. It refuses one with a torn superblock, and
    one with a torn commit record in its journal (jbd2: "journal transaction … is corrupt"), which is that of a
    transaction that nobody has been told to be safe.
    """
    mounted = max((at for at, line in enumerate(kernel) if "(vda4): mounted filesystem" in line), default=0)
    return [
        line
        for at, line in enumerate(kernel)
        if re.search(r"EXT4-fs.* error|EXT4-fs.*with errors|I/O error", line)
        and not ("EXT4-fs (vda4)" in line and at < mounted)
    ]


def shell(session: BoardSession, script: str) -> str:
    """What a script of the board prints."""
    return session.transport.run(Command(argv=("sh", "-c", script), timeout_s=COMMAND_S)).stdout.decode()


def copy_sparse(source: Path, target: Path) -> Path:
    """Copy a disk; what is zeros there is a hole here."""
    with source.open("rb") as one, target.open("wb") as other:
        other.truncate(source.stat().st_size)
        copy_sparsely(one, other, 0, block_bytes=MIB)
    return target


def _qemu_of(running: RunningBoard) -> int:
    warden = running.endpoint.warden_pid
    return int(Path(f"/proc/{warden}/task/{warden}/children").read_text().split()[0])
