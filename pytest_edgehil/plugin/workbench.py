"""What one pytest process works with: the lab, its lease store, the artifacts, and at most one board.

Made when the first test asks for a board, so a run that needs none never reads the lab's database. Everything
heavy is imported here, inside functions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_edgehil.errors import (
    BoardUnavailable,
    ConfigError,
    DatasetError,
    EdgehilError,
    LeaseLost,
    LeaseTimeout,
    WrongTarget,
)
from pytest_edgehil.model.requirement import Requirement
from pytest_edgehil.plugin.markers import ComboRequest
from pytest_edgehil.plugin.rerun import Reruns

if TYPE_CHECKING:
    from pytest_edgehil.artifacts.catalog import Catalog
    from pytest_edgehil.artifacts.dataset import Dataset
    from pytest_edgehil.artifacts.reference import ReferenceModel
    from pytest_edgehil.evidence.trust import Trust
    from pytest_edgehil.gates.gate import Gate
    from pytest_edgehil.handout import HandOut
    from pytest_edgehil.holding import Holding
    from pytest_edgehil.lab.inventory import Lab
    from pytest_edgehil.lab.leases import Holder, LabStore
    from pytest_edgehil.lab.reservation import Reservation, Share
    from pytest_edgehil.model.artifact import Artifact, Combo, Track
    from pytest_edgehil.model.board import Board
    from pytest_edgehil.plugin.options import Options
    from pytest_edgehil.plugin.run import Run
    from pytest_edgehil.plugin.seats import SeatBook

    Wanted = tuple[Requirement, Combo, Sequence[Artifact]]
    """What a board must be, what it must be able to take, and the baselines beside that."""

log = logging.getLogger("edgehil.lab")
HELDOUT = "heldout.npz"
MAIN = "main"
"""The worker's name where there are no workers."""


class Workbench:
    """See above.

    Args:
        options: what the command line says.
        run: the whole run, the same in all its workers.
        worker: ``gw0``, …, or ``main`` without xdist.
        lab: if it has been read already.
        book: where the controller tells its workers which board to use; None: it does not.
    """

    def __init__(
        self, *, options: Options, run: Run, worker: str, lab: Lab | None = None, book: SeatBook | None = None
    ) -> None:
        self.options = options
        self.run = run
        self.worker = worker
        self.reruns = Reruns(options.rerun, run_id=run.run_id, trust=lambda: _trust_of(options))
        self.book = book
        self._lab = lab
        self._holding: Holding | None = None
        self._references: dict[str, ReferenceModel] = {}
        self._datasets: dict[str, Dataset] = {}

    @cached_property
    def lab(self) -> Lab:
        """The lab; only to be asked for when one was given. A file that changes during the run changes nothing."""
        from pytest_edgehil.lab.inventory import load_lab

        if self._lab is not None:
            return self._lab
        if self.options.lab is None:
            raise ConfigError("no lab: pass --edgehil-lab FILE, for example --edgehil-lab farm/virtual.yaml")
        return load_lab(self.options.lab)

    @cached_property
    def store(self) -> LabStore:
        """The lease store of that lab."""
        from pytest_edgehil.lab.store import open_store

        return open_store(self.lab)

    @cached_property
    def catalog(self) -> Catalog:
        """The artifacts that names are looked up in."""
        from pytest_edgehil.artifacts.catalog import Catalog

        return Catalog(self.options.artifacts)

    @property
    def holder(self) -> Holder:
        """Who we are in the lab's books."""
        return holder_of(self.run.run_id, self.worker)

    @property
    def priority(self) -> int:
        """Ours in the lab's queue: the command line's, else what the lab file says for the branch."""
        asked = self.options.priority
        return self.lab.limits.priority(os.environ) if asked is None else asked

    # --- artifacts and data --------------------------------------------------------------------------

    def combo(self, asked: ComboRequest) -> Combo:
        """Look the references up.

        Raises:
            ArtifactNotFound: a name fits no artifact, or several.
        """
        from pytest_edgehil.model.artifact import Combo, Track

        default = ComboRequest(model=self.options.model, firmware=self.options.firmware, prompt=self.options.prompt)
        asked = asked.or_else(default)
        return Combo(
            firmware=self._find(asked.firmware, Track.FIRMWARE),
            model=self._find(asked.model, Track.MODEL),
            prompt=self._find(asked.prompt, Track.PROMPT),
        )

    def baselines(self, gates: Iterable[Gate]) -> dict[str, Artifact]:
        """The models that gates compare with on the board itself, by the names in their markers.

        Raises:
            ArtifactNotFound: a name fits no model, or several.
        """
        from pytest_edgehil.model.artifact import Track

        names = [getattr(gate, "on_board", None) for gate in gates]
        return {name: self.catalog.find(name, Track.MODEL) for name in names if name is not None}

    def _find(self, reference: str | None, track: Track) -> Artifact | None:
        return None if reference is None else self.catalog.find(reference, track)

    def reference(self, artifact: Artifact) -> ReferenceModel:
        """The artifact's model in a session on the host, kept open for the next test."""
        from pytest_edgehil.artifacts.reference import ReferenceModel

        if artifact.digest not in self._references:
            self._references[artifact.digest] = ReferenceModel(artifact)
        return self._references[artifact.digest]

    def dataset(self, name: str) -> Dataset:
        """A held-out set by name: ``<dir>/<name>/heldout.npz`` or ``<dir>/<name>.npz``, from the first that has it.

        Raises:
            DatasetError: no directory has it.
        """
        from pytest_edgehil.artifacts.dataset import load_dataset

        if name not in self._datasets:
            self._datasets[name] = load_dataset(self.dataset_path(name))
        return self._datasets[name]

    def dataset_path(self, name: str) -> Path:
        """The file of a held-out set.

        Raises:
            DatasetError: no directory has it; with near misses.
        """
        tried = [
            candidate
            for directory in self.options.datasets
            for candidate in (directory / name / HELDOUT, directory / f"{name}.npz")
        ]
        found = next((one for one in tried if one.is_file()), None)
        if found is not None:
            return found
        raise DatasetError(
            f"held-out set {name!r} not found{self._near(name)}; looked at {', '.join(map(str, tried))}; "
            "the ini value edgehil_datasets names the directories"
        )

    def _near(self, name: str) -> str:
        import difflib

        there = [
            known
            for directory in self.options.datasets
            for known in (
                *(path.parent.relative_to(directory).as_posix() for path in directory.glob(f"*/{HELDOUT}")),
                *(path.stem for path in directory.glob("*.npz")),
            )
        ]
        near = difflib.get_close_matches(name, sorted(set(there)), n=3, cutoff=0.6)
        return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""

    # --- the board -----------------------------------------------------------------------------------

    def suitable(self, requirement: Requirement, combo: Combo, *, beside: Sequence[Artifact] = ()) -> tuple[Board, ...]:
        """The boards of the lab that fulfil the requirement and can take the combo, and the baselines beside it.

        Raises:
            BoardUnavailable: no board fulfils the requirement.
            WrongTarget: boards do, but the combo is made for none of them.
        """
        from pytest_edgehil.artifacts.compat import clashes
        from pytest_edgehil.lab.matching import candidates

        matching = candidates(self.lab, requirement)
        loaded = (combo, *(dataclasses.replace(combo, model=one) for one in beside))
        told = {
            board.id: tuple(dict.fromkeys(clash for one in loaded for clash in clashes(one, board)))
            for board in matching
        }
        fitting = tuple(board for board in matching if not told[board.id])
        if not fitting:
            first = matching[0]
            raise WrongTarget(
                f"{combo.label} fits no board of lab {self.lab.name}: on {first.id}: {'; '.join(told[first.id])}"
            )
        return fitting

    def hold(
        self,
        requirement: Requirement,
        combo: Combo,
        on_lease: Callable[[Holding], None],
        *,
        beside: Sequence[Artifact] = (),
        on_unfit: Callable[[str, str], None] = lambda _board_id, _why: None,
    ) -> Holding:
        """The board in our hands if it will do, else another one, waiting for it if need be.

        Args:
            on_lease: told of the new board as soon as it is leased, before it is brought up.
            beside: baselines that it must be able to take as well.
            on_unfit: told of each board that did not pass its check and was quarantined, and why.
        """
        fitting = self.suitable(requirement, combo, beside=beside)
        ids = frozenset(board.id for board in fitting)
        held = None if self._holding is None else self._holding.id
        if self._holding is not None and held in ids and not self._is_to_move(ids) and not self._awaited(held):
            with contextlib.suppress(LeaseLost):  # this test has not touched it yet: it gets another one
                self._holding.check()
                on_lease(self._holding)
                self._holding.between_tests()
                return self._holding
        self.let_go()
        handing_out = self._handing_out(on_unfit)

        def leased(holding: Holding) -> None:
            self._holding = holding
            on_lease(holding)

        for preferred in self._obtainable(ids):
            with contextlib.suppress(LeaseTimeout):  # somebody was quicker, or it is not fit
                self._holding = handing_out.board(
                    Requirement(among=preferred), wait_s=0.0, priority=self.priority, on_lease=leased
                )
                return self._holding
        self._holding = handing_out.board(
            Requirement(among=ids), wait_s=self.options.wait_s, priority=self.priority, on_lease=leased
        )
        return self._holding

    def _handing_out(self, on_unfit: Callable[[str, str], None]) -> HandOut:
        from pytest_edgehil.handout import HandOut

        return HandOut(
            self.lab,
            self.store,
            self.holder,
            hold=self._holding_of,
            on_wait=log.info,
            tied_to_parent=self.worker != MAIN,  # a worker that outlives its controller must not keep its board
            on_unfit=on_unfit,
        )

    def _holding_of(self, reservation: Reservation | Share) -> Holding:
        from pytest_edgehil.holding import Holding

        token = reservation.leases[0].token
        console_log = self.run.directory / "console" / f"{reservation.boards[0].id}-{token}.log"
        return Holding(lab=self.lab, reservation=reservation, console_log=console_log)

    def _awaited(self, board_id: str) -> bool:
        """Does another worker of this run wait for the board in our hands? Then it is its turn between two tests.

        Other runs wait until we are done: a run keeps its boards. But our own workers would wait for each other, where
        one of them needs several boards at once.
        """
        if self.worker == MAIN:
            return False
        run = holder_suffix(self.run.run_id, "")
        return any(
            run in one.holder.name and board_id in {board for request in one.wanted for board in request}
            for one in self.store.queue()
        )

    def hold_several(
        self,
        wanted: Sequence[Wanted],
        on_unfit: Callable[[str, str], None] = lambda _board_id, _why: None,
    ) -> tuple[Holding, ...]:
        """Boards for all of these at once, waiting for them if need be; they are up, and each has to be closed.

        Args:
            wanted: what each must be, and be able to take, with the baselines beside it.
            on_unfit: told of each board that did not pass its check and was quarantined, and why.

        Raises:
            BoardUnavailable: the lab can never fulfil them at once.
            LeaseTimeout: they did not become free in time.
        """
        among = [self.suitable(requirement, combo, beside=beside) for requirement, combo, beside in wanted]
        self.let_go()  # who keeps one while he waits for others may wait for somebody who does the same
        return self._handing_out(on_unfit).boards(
            [Requirement(among=frozenset(board.id for board in fitting)) for fitting in among],
            wait_s=self.options.wait_s,
            priority=self.priority,
        )

    def quarantine(self, board_id: str, reason: str) -> None:
        """Quarantine a board.

        Raises:
            LeaseError: the lease store cannot be reached.
        """
        self.store.quarantine(board_id, reason=reason, by=self.holder, automatic=True)

    def _is_to_move(self, fitting: frozenset[str]) -> bool:
        """Does the controller want us on another board than the one in our hands, that would do too?"""
        assert self._holding is not None
        seat = None if self.book is None else self.book.read(self.worker).board
        return seat is not None and seat != self._holding.id and seat in fitting

    def _obtainable(self, fitting: frozenset[str]) -> list[frozenset[str]]:
        """Sets of boards of which we may take one now: our seat, and the free ones that are nobody's seat."""
        from pytest_edgehil.lab.leases import BoardStatus

        if self.book is None:
            return []
        free = {state.board_id for state in self.store.boards() if state.state is BoardStatus.FREE}
        seat, taken = self.book.read(self.worker).board, self.book.taken(but=self.worker)
        ours = fitting & free & {seat}
        return [one for one in (ours, (fitting & free) - taken - {seat}) if one]

    def is_stranded(self, nodeid: str, requirement: Requirement, combo: ComboRequest) -> bool:
        """Is there no board for a test that we could have without taking another worker's or waiting for it?

        Where the controller insists on our running the test, nobody else could.
        """
        if self.book is None or nodeid in self.book.read(self.worker).insisted:
            return False
        try:
            fitting = frozenset(board.id for board in self.suitable(requirement, self.combo(combo)))
            held = self._holding is not None and self._holding.id in fitting
            return not held and not self._obtainable(fitting)
        except EdgehilError:
            return False  # the test itself will say what is wrong

    def another_board_now(self, requirement: Requirement, combo: Combo, *, than: str | None) -> bool:
        """Could we have another board than the named one at once?"""
        fitting = frozenset(board.id for board in self.suitable(requirement, combo))
        return bool(self._obtainable(fitting - {than}))

    def other_boards(self, wanted: Sequence[Wanted], *, than: Collection[str]) -> bool:
        """Are there boards, other than the named ones, that are not quarantined and could take the test together?"""
        from pytest_edgehil.lab.assignment import assign
        from pytest_edgehil.lab.leases import BoardStatus

        usable = {state.board_id for state in self.store.boards() if state.state is not BoardStatus.QUARANTINED}
        try:
            fitting = [
                tuple(board.id for board in self.suitable(requirement, combo, beside=beside))
                for requirement, combo, beside in wanted
            ]
        except (BoardUnavailable, WrongTarget):
            return False
        pools = {board.id: board.pool for board in self.lab.boards if board.pool is not None}
        return assign(fitting, available=usable.difference(than), pools=pools, room=self.lab.pool_limits) is not None

    def condemn(self, reason: str) -> None:
        """Quarantine the board in our hands and let go of it, also if it cannot be quarantined.

        Raises:
            LeaseError: the lease store cannot be reached.
        """
        if self._holding is not None:
            try:
                self.store.quarantine(self._holding.id, reason=reason, by=self.holder, automatic=True)
            finally:
                self.let_go()

    def let_go(self) -> None:
        """Give the board back, if we have one."""
        holding, self._holding = self._holding, None
        if holding is not None:
            holding.close()

    def close(self) -> None:
        """End of the run."""
        self.let_go()
        if "store" in self.__dict__:
            self.store.close()


def holder_of(run_id: str, worker: str) -> Holder:
    """How the lab's books name a worker of a run: the CI job or login, then the run and the worker."""
    from pytest_edgehil.lab.leases import default_holder

    holder = default_holder()
    return dataclasses.replace(holder, name=f"{holder.name}{holder_suffix(run_id, worker)}")


def holder_suffix(run_id: str, worker: str) -> str:
    """What the name of a run's worker ends with."""
    return f"-{run_id[-8:]}-{worker}"


def _trust_of(options: Options) -> Trust:
    from pytest_edgehil.plugin.evidence import trust_of

    return trust_of(options)
