"""The scheduler that xdist asks: it speaks xdist's protocol and leaves every choice to `scheduling.affinity`.

What xdist expects of a scheduler is written down in ``xdist.scheduler.protocol``; what it does not say is kept here:

* A worker begins a test when it knows the next one, or that there is none. So each holds two, and is told to shut down
  when it has one left and nothing more is worth its while. That is final: it will be given nothing again.
* A worker that has been given nothing stays, and is asked again whenever tests come back.
* A test that a worker gives back (its board broke) is told of by `given_back` before xdist calls `mark_test_complete`.

Nothing of xdist is imported when this module is: without it the plugin must load.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest

from pytest_edgehil.plugin.scheduling.affinity import Affinity
from pytest_edgehil.plugin.scheduling.estimates import Estimates
from pytest_edgehil.plugin.scheduling.task import Task

_HOLDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Agenda:
    """All that is to be done.

    Args:
        tasks: one per collected test, in the order of the collection.
        fits: need → ids of the boards that meet it.
        flash_s: combo → how long a flash of it took before, seconds.
    """

    tasks: Sequence[Task]
    fits: Mapping[str, frozenset[str]]
    flash_s: Mapping[str, float] = field(default_factory=dict)


class Seating(Protocol):
    """Who knows which worker has which board."""

    def open(self, workers: Sequence[str], wanted: Mapping[frozenset[str], float]) -> None:
        """Now it is known what the tests need: boards → work for any of them, seconds."""
        ...

    def board(self, worker: str) -> str | None:
        """The board that a worker is to use."""
        ...

    def move(self, worker: str, wanted: Iterable[frozenset[str]]) -> str | None:
        """Give a worker a free board out of the first of these that has one; None: there is none."""
        ...

    def use(self, worker: str, board: str | None) -> None:
        """A worker has this board in fact, or has lost the one it had."""
        ...

    def insist(self, worker: str, nodeid: str) -> None:
        """A worker is given a test that no board here fits: it is to wait for one, or to say why there is none."""
        ...

    def leave(self, worker: str) -> None:
        """A worker is gone; its board is free for others."""
        ...


class AffineScheduler:
    """See above.

    Args:
        config: pytest's.
        agenda: from the collected node ids to what is to be done.
        seating: which worker has which board.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        config: pytest.Config,
        *,
        agenda: Callable[[Sequence[str]], Agenda],
        seating: Seating,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        from xdist.workermanage import parse_tx_spec_config

        self.config = config
        self.numnodes = len(parse_tx_spec_config(config))
        self.collection: list[str] | None = None
        self._agenda = agenda
        self._seating = seating
        self._clock = clock
        self._collections: dict[Any, list[str]] = {}
        self._nodes: dict[Any, bool] = {}  # in the order of their coming; has it joined the choice?
        self._coming: set[str] = set()
        self._choice: Affinity | None = None
        self._fits: Mapping[str, frozenset[str]] = {}
        self._index: dict[str, int] = {}
        self._returned: dict[int, str | None] = {}
        self._flash_s: dict[int, float] = {}
        self._crashed_on: dict[str, str | None] = {}
        self._idle: dict[Any, None] = {}  # may be given more, and have nothing

    # --- what xdist asks -----------------------------------------------------------------------------

    @property
    def nodes(self) -> list[Any]:
        """All workers that are there."""
        return list(self._nodes)

    @property
    def collection_is_completed(self) -> bool:
        """Have all workers that were there at the beginning collected?"""
        return len(self._collections) >= self.numnodes

    @property
    def tests_finished(self) -> bool:
        """Is nothing left to do, or nobody to do it?"""
        if not self.collection_is_completed:
            return False
        if self._choice is None:
            return True
        if self._choice.held:
            return False
        return not self._choice.waiting or not (self._coming or any(map(self._choice.is_open, self._joined)))

    @property
    def has_pending(self) -> bool:
        """Is there a test without an end?"""
        choice = self._choice
        return choice is not None and bool(choice.waiting or choice.held)

    @property
    def _joined(self) -> list[Any]:
        return [node for node, joined in self._nodes.items() if joined]

    def add_node(self, node: Any) -> None:
        """A worker is there; it has not collected yet."""
        assert node not in self._nodes
        self._nodes[node] = False

    def add_node_collection(self, node: Any, collection: Sequence[str]) -> None:
        """A worker has collected these tests."""
        assert node in self._nodes
        self._coming.discard(node.gateway.id)
        if self.collection is not None and list(collection) != self.collection:
            self._tell_difference(next(iter(self._collections)), node, self.collection, collection)
            node.shutdown()  # what replaces a worker must know the same tests; this one would run others
            return
        self._collections[node] = list(collection)

    def schedule(self) -> None:
        """All have collected, or one more has."""
        assert self.collection_is_completed
        if self._choice is None:
            if not self._same_collections():
                return
            self._begin()
        assert self._choice is not None
        now = self._clock()
        for node, joined in self._nodes.items():
            if not joined and node in self._collections and not node.shutting_down:
                self._choice.join(node, self._seating.board(node.gateway.id), now=now)
                self._nodes[node] = True
        self._feed(self._joined)

    def mark_test_complete(self, node: Any, item_index: int, duration: float = 0) -> None:
        """A worker is through with a test."""
        choice = self._choice
        assert choice is not None
        now = self._clock()
        if item_index in self._returned:
            choice.give_back(item_index, without=self._returned.pop(item_index))
            self._feed([node, *self._idle])
            return
        flash_s = self._flash_s.pop(item_index, None)
        choice.finished(node, item_index, took_s=duration or 0.0, flash_s=flash_s, now=now)
        self._feed([node])
        if choice.waiting and self._idle:
            self._feed([next(iter(self._idle))])

    def mark_test_pending(self, item: str) -> None:
        """A test whose worker died is to run again."""
        assert self._choice is not None
        if self._choice.is_waiting(self._index[item]):
            return  # several plugins may ask for it
        self._choice.give_back(self._index[item], without=self._crashed_on.pop(item, None))
        self._feed([*self._idle])

    def remove_pending_tests_from_node(self, node: Any, indices: Sequence[int]) -> None:
        """Tests that were stolen from a worker; this scheduler never steals."""
        raise NotImplementedError("tests are never taken from a worker that has been given them")

    def remove_node(self, node: Any) -> str | None:
        """A worker is gone; returns the test that it died of, if it did."""
        self._coming.discard(node.gateway.id)
        if not self._nodes.pop(node):
            self._seating.leave(node.gateway.id)
            return None
        choice = self._choice
        assert choice is not None
        assert self.collection is not None
        self._idle.pop(node, None)
        board, left = choice.board(node), choice.leave(node)
        self._seating.leave(node.gateway.id)
        for index in left[1:]:
            choice.give_back(index)
        for index in left:
            self._returned.pop(index, None)
        self._feed([*self._idle])
        if not left:
            return None
        crashed = self.collection[left[0]]
        self._crashed_on[crashed] = board
        return crashed

    # --- what the plugin tells -----------------------------------------------------------------------

    def coming(self, worker: str) -> None:
        """A worker is being started."""
        self._coming.add(worker)

    def given_back(self, nodeid: str, *, without: str | None) -> None:
        """A worker will not finish this test: it is for another board than that one."""
        self._returned[self._index[nodeid]] = without

    def flashed(self, nodeid: str, took_s: float) -> None:
        """So much of a test's time was a flash, seconds."""
        index = self._index.get(nodeid)
        if index is not None:
            self._flash_s[index] = self._flash_s.get(index, 0.0) + took_s

    def has_board(self, worker: str, board: str | None) -> None:
        """A worker uses this board now, whichever it was meant to use."""
        choice = self._choice
        if choice is None:
            return
        for node in self._joined:
            if node.gateway.id == worker and choice.board(node) != board:
                self._seating.use(worker, board)
                choice.change_board(node, board, now=self._clock())

    @property
    def waiting(self) -> int:
        """How many tests no worker has been given."""
        return 0 if self._choice is None else self._choice.waiting

    # --- inside --------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self.collection = list(next(iter(self._collections.values())))
        self._index = {nodeid: index for index, nodeid in enumerate(self.collection)}
        agenda = self._agenda(self.collection)
        self._fits = agenda.fits
        estimates = Estimates(agenda.tasks, flash_s=agenda.flash_s)
        self._choice = Affinity(agenda.tasks, fits=agenda.fits, estimates=estimates)
        wanted = {agenda.fits[need]: work_s for need, work_s in self._choice.wanted().items() if need in agenda.fits}
        self._seating.open([node.gateway.id for node in self._nodes if node in self._collections], wanted)

    def _feed(self, nodes: Sequence[Any]) -> None:
        """Give these workers what they should hold: the next test to all of them before a second one to any."""
        choice = self._choice
        assert choice is not None
        given: dict[Any, list[int]] = {node: [] for node in nodes if choice.is_open(node)}
        for _ in range(_HOLDS):
            for node, indices in given.items():
                if len(choice.hand(node)) < _HOLDS:
                    index = self._next(node)
                    if index is not None:
                        indices.append(index)
        closed = False
        for node, indices in given.items():
            self._idle.pop(node, None)
            if closed and choice.waiting and len(choice.hand(node)) < _HOLDS:
                index = self._next(node)  # whoever it would have left that to is not there any more
                if index is not None:
                    indices.append(index)
            if indices:
                node.send_runtest_some(indices)
            if len(choice.hand(node)) == 1:
                choice.close(node)
                node.shutdown()
                closed = True
            elif not choice.hand(node):
                self._idle[node] = None
        if closed and choice.waiting and (idle := [node for node in self._idle if node not in given]):
            self._feed(idle)

    def _next(self, node: Any) -> int | None:
        choice = self._choice
        assert choice is not None
        assert self.collection is not None
        if not choice.waiting:
            return None
        now, worker = self._clock(), node.gateway.id
        if choice.board(node) is None:
            self._reseat(node, choice.wanted())
        index = choice.take(node, now=now)
        if index is None and choice.waiting:  # on its board there is nothing for it to do
            if self._reseat(node, choice.unmet()):
                index = choice.take(node, now=now)
            if index is None:
                index = choice.take_unmet(node, now=now)
        if index is not None and not choice.is_fit(node, index):
            self._seating.insist(worker, self.collection[index])
        return index

    def _reseat(self, node: Any, needs: Iterable[str]) -> bool:
        """Give a worker a free board for one of these needs, if there is one."""
        choice = self._choice
        assert choice is not None
        wanted = [self._fits[need] for need in needs if need in self._fits]
        board = self._seating.move(node.gateway.id, wanted) if wanted else None
        if board is not None:
            choice.change_board(node, board, now=self._clock())
        return board is not None

    def _same_collections(self) -> bool:
        """As xdist's own schedulers have it: workers that collected different tests are an error of the suite."""
        (first, ids), *others = self._collections.items()
        same = True
        for node, collection in others:
            if collection != ids:
                same = False
                self._tell_difference(first, node, ids, collection)
        return same

    def _tell_difference(self, first: Any, other: Any, ids: Sequence[str], collection: Sequence[str]) -> None:
        from xdist.report import report_collection_diff

        told = report_collection_diff(list(ids), list(collection), first.gateway.id, other.gateway.id)
        report = pytest.CollectReport(nodeid=other.gateway.id, outcome="failed", longrepr=told, result=[])
        self.config.hook.pytest_collectreport(report=report)
