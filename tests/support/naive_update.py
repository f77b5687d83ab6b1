"""The update that most begin with: the model copied over the old one, then the bootloader told. A peer for power cuts.

It begins where ours has only its commit left to do: the new firmware runs on trial, and the new model is on the board,
unpacked. It flushes all that it writes; only it changes in place what runs, and in two steps.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.emulated_cuts import Cut, Stand, copy_sparse, shell
from support.write_log import Medium, WriteLog

from pytest_edgehil.emulated.farm import start
from pytest_edgehil.errors import BoardError
from pytest_edgehil.model.artifact import Artifact

_PATH = "commit"


@dataclass(frozen=True, slots=True, kw_only=True)
class NaiveUpdate:
    """A recording of it.

    Args:
        began: the disk at its beginning.
        first: entry of the log with which it begins.
    """

    began: Path
    log: WriteLog
    first: int

    @classmethod
    def record(cls, stand: Stand) -> NaiveUpdate:
        """Do it once, with every write kept."""
        path = stand.directory / "naive.log"
        new = _model(stand, -1)
        with start(
            stand.board, directory=stand.directory / "naive", wait_s=stand.start_s, disk=stand.before(_PATH),
            write_log=path,
        ) as running, contextlib.closing(stand.session(running)) as session:  # fmt: skip
            source = f"{stand.board.home}/trees/{new.digest.removeprefix('sha256:')}/{new.manifest.files[0].path}"
            shell(session, f"cp {source} /tmp/new && sync")
            size = path.stat().st_size
            said = shell(
                session,
                f"cat /tmp/new >{stand.board.home}/current/model/{new.manifest.files[0].path} && sync && "
                "fw_setenv BOOT_ORDER 'B A' && fw_setenv BOOT_B_LEFT 3 && sync && echo done",
            )
            if said != "done\n":
                raise ValueError(f"the update in place did not end: {said!r}")
        log = WriteLog(path)
        return cls(began=stand.before(_PATH), log=log, first=log.number_at(size))

    def replay(self, stand: Stand, count: int, chance: random.Random) -> Iterator[Cut]:
        """Cut it at random writes, and look which model and which firmware the board is on then."""
        medium = Medium(copy_sparse(self.began, stand.directory / "naive.raw"), self.log)
        at_risk = self.log.at_risk(self.first, len(self.log.writes))
        for at, seed in sorted((chance.choice(at_risk), chance.randrange(2**32)) for _ in range(count)):
            with medium.cut(at, random.Random(seed)) as told:
                how = f"before write {at} of {len(self.log.writes)} (seed {seed}; {told})"
                try:
                    yield self._look(stand, how, medium.path)
                except BoardError as problem:
                    yield Cut(path=_PATH, how=how, outcome="", faults=(f"{type(problem).__name__}: {problem}",))

    def _look(self, stand: Stand, how: str, disk: Path) -> Cut:
        old, new = stand.allowed(_PATH)
        with (
            start(stand.board, directory=stand.directory / "after", wait_s=stand.start_s, disk=disk) as running,
            contextlib.closing(stand.session(running)) as session,
        ):
            (file,) = _model(stand, -1).manifest.files
            digest = shell(session, f"sha256sum {stand.board.home}/current/model/{file.path}").split()[0]
            slot = session.client.status().firmware.partition
        models = {_model(stand, at).manifest.files[0].digest: name for at, name in ((-2, "old"), (-1, "new"))}
        model, firmware = models.get(f"sha256:{digest}", "torn"), {old.slot: "old", new.slot: "new"}.get(slot or 0)
        outcome = f"{firmware} combo" if model == firmware else f"{model} model with {firmware} firmware"
        return Cut(path=_PATH, how=how, outcome=outcome, faults=() if model == firmware else (outcome,))


def _model(stand: Stand, at: int) -> Artifact:
    model = stand.combos[at].combo.model
    assert model is not None
    return model
