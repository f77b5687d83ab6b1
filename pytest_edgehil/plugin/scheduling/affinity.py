"""The board- and combo-affine choice of the next test.

A board stays on the combo that it has, for flashing another one costs time and wears out its storage. The rules, first
to last; each looks only at tests that the board can run:

0. *Several boards at once*, while there are enough that no other such test has: later each of them is in somebody's
   hands, who would have to give it up between two tests.
1. *Long ones first.* A test that lasts a quarter of the whole run, but at least ten flashes, begins before anything
   else: whatever begins late ends late.
2. *Who else?* Where some tests can be run by few boards only, and those have more to do than the average board, they
   do nothing else.
3. *Stay*: of what the loaded combo has left, the longest.
4. *Join* the combo with the largest share of work for one board more. One that others work on is worth a flash only if
   each of them has more than a flash left to do.
5. *Anybody's*: tests that need no board. Tests that no board here can run come last, and only when they are asked for.

A worker is always told of a test before it begins the one before (xdist does not start a test before it knows the next
one), so a test may be committed behind a long one. What is committed so must be done before the others are through with
everything else; the follower of a soak of an hour is tiny, or there is none.

Nothing here is random, and no clock is read: every call brings the time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from heapq import heappop, heappush

from pytest_edgehil.plugin.scheduling.estimates import Estimates
from pytest_edgehil.plugin.scheduling.lanes import Lane
from pytest_edgehil.plugin.scheduling.needs import Need, Needs
from pytest_edgehil.plugin.scheduling.task import NO_BOARD, Task

_FLASHES_OF_A_LONG_TEST = 10
_SHARE_OF_A_LONG_TEST = 0.25
_SOON = 0.25
"""A long test may be committed behind work of this part of its own duration."""
_NEARLY_AS_LONG = 0.8
"""A long test of the loaded combo goes before one that needs a flash, if it is at least this much as long."""
_TINY = 0.02
"""A follower that takes no longer than this part of what it waits for does not matter."""

_LEAST_S = 0.01


class _Seat:
    """A worker and the board that it has.

    Args:
        board: None if it has none.
        needs: what its board meets, the widest first.
        at_s: since when it waits for work.
    """

    __slots__ = ("began_s", "board", "combo", "end_s", "hand", "helping", "loaded", "needs", "open")

    def __init__(self, *, board: str | None, needs: list[Need], at_s: float) -> None:
        self.board = board
        self.needs = needs
        self.combo = ""  # after what it was given
        self.loaded = ""  # after what it has finished
        self.hand: list[int] = []
        self.began_s = at_s
        self.end_s = at_s
        self.open = True
        self.helping = False


class Affinity:
    """Which worker runs which test next.

    Args:
        tasks: all tests; each `Task.index` is its place here.
        fits: need → ids of the boards that meet it; `NO_BOARD` need not be there.
        estimates: of these tasks.

    Attributes:
        held: how many tests workers have been given and have not finished.
    """

    def __init__(self, tasks: Sequence[Task], *, fits: Mapping[str, frozenset[str]], estimates: Estimates) -> None:
        self._tasks = tasks
        self._estimates = estimates
        self._needs = Needs()
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._of_combo: dict[str, list[Lane]] = defaultdict(list)
        self._seats: dict[Hashable, _Seat] = {}
        self._lane_of: dict[int, Lane] = {}
        self._seen: set[str] = set()
        self._ends: list[tuple[float, int, _Seat]] = []
        self._told = 0
        self.held = 0
        self._long_s = float("inf")
        self._several = {task.need for task in tasks if task.boards > 1}
        for need in dict.fromkeys([NO_BOARD, *(task.need for task in tasks)]):
            self._needs.add(need, None if need == NO_BOARD else fits[need])
        for task in tasks:
            self._put(task.index, task.need)

    # --- what there is -------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many tests have not been given to a worker."""
        return len(self._lane_of)

    def hand(self, worker: Hashable) -> tuple[int, ...]:
        """What a worker was given and has not finished, in order."""
        return tuple(self._seats[worker].hand)

    def board(self, worker: Hashable) -> str | None:
        """The board of a worker."""
        return self._seats[worker].board

    def is_open(self, worker: Hashable) -> bool:
        """May it be given more?"""
        return self._seats[worker].open

    def is_waiting(self, index: int) -> bool:
        """Has this test not been given to a worker, or come back?"""
        return index in self._lane_of

    def is_fit(self, worker: Hashable, index: int) -> bool:
        """Does a worker's board do for a test?"""
        return self._needs[self._tasks[index].need].is_met_by(self._seats[worker].board)

    def wanted(self) -> dict[str, float]:
        """Need → the work that waits for it, seconds; without those that nothing waits for."""
        return {need.key: need.work_s for need in self._needs if need.pending}

    def unmet(self) -> tuple[str, ...]:
        """Needs that tests wait for and no open seat meets."""
        return tuple(need.key for need in self._needs if need.pending and not need.seats)

    # --- who comes and goes --------------------------------------------------------------------------

    def join(self, worker: Hashable, board: str | None, *, now: float) -> None:
        """A worker is there, with this board or none."""
        needs = sorted((need for need in self._needs if need.is_met_by(board)), key=_narrowness)
        seat = self._seats[worker] = _Seat(board=board, needs=needs, at_s=now)
        for need in needs:
            self._needs.seat(need, 1, seat.end_s)

    def close(self, worker: Hashable) -> None:
        """A worker gets nothing more; it finishes what it has."""
        seat = self._seats[worker]
        if seat.open:
            self._help(seat, None)
            for need in seat.needs:
                self._needs.seat(need, -1, seat.end_s)
            seat.open = False

    def leave(self, worker: Hashable) -> tuple[int, ...]:
        """A worker is gone; returns what it had not finished, which is not waiting again: see `give_back`."""
        self.close(worker)
        hand = self._seats.pop(worker).hand
        self.held -= len(hand)
        return tuple(hand)

    def change_board(self, worker: Hashable, board: str | None, *, now: float) -> None:
        """A worker has another board now, and still what it was given."""
        seat = self._seats[worker]
        hand, was_open = seat.hand, seat.open
        self.leave(worker)
        self.join(worker, board, now=now)
        new = self._seats[worker]
        new.hand = hand
        self.held += len(hand)
        self._reckon(new, now)
        if not was_open:
            self.close(worker)

    def give_back(self, index: int, *, without: str | None = None) -> None:
        """A test waits again, not for that board if any other will do.

        Args:
            index: the test.
            without: a board that broke, or on which the test broke its worker.
        """
        for seat in self._seats.values():
            if index in seat.hand:
                seat.hand.remove(index)
                self.held -= 1
        need = self._needs[self._tasks[index].need]
        key = need.key
        if without is not None and need.fits is not None and need.fits - {without}:
            key = f"{need.key} without {without}"
            if key not in self._needs:
                narrower = self._needs.add(key, need.fits - {without})
                for seat in self._seats.values():
                    if seat.open and narrower.is_met_by(seat.board):
                        seat.needs = sorted([*seat.needs, narrower], key=_narrowness)
                        self._needs.seat(narrower, 1, seat.end_s)
        self._put(index, key)

    # --- what they do --------------------------------------------------------------------------------

    def finished(self, worker: Hashable, index: int, *, took_s: float, flash_s: float | None, now: float) -> None:
        """A worker is through with a test.

        Args:
            worker: which.
            index: the test.
            took_s: how long it took, with the flash if there was one.
            flash_s: how long the flash took; None if that is not known.
        """
        seat = self._seats[worker]
        seat.hand.remove(index)
        self.held -= 1
        seat.loaded = self._tasks[index].combo or seat.loaded
        if flash_s is not None and flash_s > 0.0:
            self._estimates.observe_flash(self._tasks[index].combo, flash_s)
        self._learn(self._estimates.observe(index, max(0.0, took_s - (flash_s or 0.0))))
        self._reckon(seat, now)

    def take(self, worker: Hashable, *, now: float) -> int | None:
        """The next test for a worker, which is its own from now on; None if nothing is worth its while."""
        seat = self._seats[worker]
        if not seat.open or not self._lane_of:
            return None
        if seat.end_s < now and not seat.hand:
            seat.began_s = now
            self._end(seat, now)
        self._extend_overdue(now)
        if self._long_s == float("inf"):
            self._say_what_is_long(now)
        chosen = self._choose(seat, now)
        if chosen is None:
            self._help(seat, None)
            return None
        return self._give(seat, *chosen)

    def take_unmet(self, worker: Hashable, *, now: float) -> int | None:
        """A test that no open seat can run, for a worker that has nothing else to do: somebody must say so.

        And any other, if nobody has anything to do: whatever the rules make of it, the run must go on.
        """
        seat = self._seats[worker]
        if not seat.open:
            return None
        if seat.end_s < now and not seat.hand:
            self._end(seat, now)
        for need in self._needs:
            if need.pending and (not need.seats or (not self.held and need in seat.needs)):
                lane = next(one for one in need.lanes if one)
                return self._give(seat, lane, lane.longest)
        return None

    def _give(self, seat: _Seat, lane: Lane, index: int) -> int:
        long = self._is_long(lane, index)
        self._seen.add(self._tasks[index].family)
        expected_s = self._take_from(lane, index)
        flash_s = self._flash_s(seat, lane)
        if lane.combo:
            self._help(seat, None if long else lane.combo)
            seat.combo = lane.combo
        seat.hand.append(index)
        self.held += 1
        self._end(seat, seat.end_s + flash_s + expected_s)
        return index

    # --- the choice ----------------------------------------------------------------------------------

    def _choose(self, seat: _Seat, now: float) -> tuple[Lane, int] | None:
        needs, due_s = self._allowed(seat, now)
        if self._several:
            several = self._several_at_once(seat)
            if several is not None:
                return several
            needs = [need for need in needs if need.key not in self._several]
        long = self._long(seat, needs, now)
        if long is not None:
            return long
        here = (
            [lane for lane in self._of_combo.get(seat.combo, ()) if lane and self._needs[lane.need] in needs]
            if seat.combo
            else []
        )
        if here:
            lane = min(here, key=lambda one: (self._needs[one.need].seats, -one.longest_s, one.number))
            index = self._fitting(lane, seat, now=now, due_s=due_s)
            if index is not None:
                return lane, index
        else:
            for lane in self._joinable(needs):
                index = self._fitting(lane, seat, now=now, due_s=due_s)
                if index is not None:
                    return lane, index
        return self._for_anybody(seat, now=now, due_s=due_s) or self._for_it_alone(seat)

    def _allowed(self, seat: _Seat, now: float) -> tuple[list[Need], float]:
        """What a seat may work for, and when all of that is done if everybody shares it."""
        widest = seat.needs[0]
        tightest, most_s, average_s = widest, 0.0, widest.pressure_s(now)
        for need in seat.needs:
            pressure_s = need.pressure_s(now)
            if pressure_s > most_s:
                tightest, most_s = need, pressure_s
        due_s = now + max(most_s, average_s)
        if most_s <= average_s + self._estimates.typical_flash_s:
            return seat.needs, due_s
        within = [need for need in seat.needs if tightest in need.wider and need.pending]
        return within or seat.needs, due_s

    def _several_at_once(self, seat: _Seat) -> tuple[Lane, int] | None:
        lanes = [lane for need in seat.needs if need.key in self._several for lane in need.lanes if lane]
        if not lanes:
            return None
        lane = max(lanes, key=lambda one: one.longest_s)
        held = [self._tasks[index].boards for one in self._seats.values() for index in one.hand]
        taken = sum(boards for boards in held if boards > 1)
        fits = not taken or taken + self._tasks[lane.longest].boards <= len(self._seats)
        return (lane, lane.longest) if fits else None

    def _long(self, seat: _Seat, needs: list[Need], now: float) -> tuple[Lane, int] | None:
        best: tuple[float, Lane] | None = None
        for need in needs:
            top = need.big.top()
            if top is not None and (best is None or top[0] > best[0]):
                best = top
        if best is None:
            return None
        lane = best[1]
        for other in self._of_combo.get(seat.combo, ()) if seat.combo else ():
            if other and self._needs[other.need] in needs and other.longest_s >= _NEARLY_AS_LONG * best[0]:
                lane = other
                break
        return (lane, lane.longest) if seat.end_s - now <= _SOON * lane.longest_s else None

    def _joinable(self, needs: list[Need]) -> Iterator[Lane]:
        """Combos worth a flash, the one with the most to do for a board more first; at most one of each kind."""
        free = max((top for need in needs if (top := need.unhelped.top()) is not None), default=None, key=_claim)
        shared = max((top for need in needs if (top := need.helped.top()) is not None), default=None, key=_claim)
        if shared is not None and shared[0] <= self._estimates.flash_s(shared[1].combo):
            shared = None
        if shared is not None:
            lane = shared[1]
            shared = (lane.work_s / (lane.helpers + 1), lane)
        if free is not None:
            # many small combos are together as much work as a large one, and want their share of boards from the start
            together_s = sum(need.unhelped_s for need in needs) / (sum(need.sole for need in needs) + 1)
            free = (max(free[0], together_s), free[1])
        for top in sorted((one for one in (free, shared) if one is not None), key=_claim, reverse=True):
            yield top[1]

    def _fitting(self, lane: Lane, seat: _Seat, *, now: float, due_s: float) -> int | None:
        """The test of a lane that this seat should be given; None if it is better done by somebody else.

        Args:
            due_s: when everything is done, if all share it.
        """
        start_s = seat.end_s + self._flash_s(seat, lane)
        if not seat.hand or start_s <= due_s:
            scout = lane.scout(self._seen)
            if scout is not None:
                return scout
        if not seat.hand or start_s + lane.longest_s <= due_s:
            return lane.longest
        index = lane.longest_within(due_s - start_s)
        if index is not None:
            return index
        if seat.end_s <= due_s or lane.tiniest_s <= _TINY * (seat.end_s - now):
            return lane.tiniest
        return None

    def _for_anybody(self, seat: _Seat, *, now: float, due_s: float) -> tuple[Lane, int] | None:
        lanes = [lane for lane in self._needs[NO_BOARD].lanes if lane]
        if not lanes:
            return None
        lane = max(lanes, key=lambda one: one.work_s)
        index = self._fitting(lane, seat, now=now, due_s=due_s)
        return None if index is None else (lane, index)

    def _for_it_alone(self, seat: _Seat) -> tuple[Lane, int] | None:
        """What nobody would run if this seat went."""
        for need in self._needs:
            if need.pending and need.seats == 1 and need in seat.needs:
                lane = next(one for one in need.lanes if one)
                return lane, lane.longest
        return None

    # --- keeping the account -------------------------------------------------------------------------

    def _flash_s(self, seat: _Seat, lane: Lane) -> float:
        return 0.0 if lane.combo in ("", seat.combo) else self._estimates.flash_s(lane.combo)

    def _is_long(self, lane: Lane, index: int) -> bool:
        return lane.longest_s >= self._long_s and lane.longest == index

    def _say_what_is_long(self, now: float) -> None:
        """Once it is known who is there."""
        # not the longest test, whose duration may be grossly mistaken
        average_s = max((need.pressure_s(now) for need in self._needs if need.seats), default=0.0)
        self._long_s = max(
            _FLASHES_OF_A_LONG_TEST * self._estimates.typical_flash_s, _SHARE_OF_A_LONG_TEST * average_s, 1e-9
        )
        for lane in self._lanes.values():
            self._touch(lane)

    def _put(self, index: int, need: str) -> None:
        task = self._tasks[index]
        lane = self._lanes.get((task.combo, need))
        if lane is None:
            lane = self._lanes[task.combo, need] = Lane(number=len(self._lanes), combo=task.combo, need=need)
            self._needs[need].lanes.append(lane)
            self._of_combo[task.combo].append(lane)
            lane.helpers = sum(
                seat.helping and seat.combo == lane.combo and self._needs[need] in seat.needs
                for seat in self._seats.values()
            )
        blind = self._estimates.is_blind(index)
        lane.put(index, self._estimates.of(index), blind_as=task.family if blind else None)
        self._lane_of[index] = lane
        self._needs[need].pending += 1
        self._touch(lane)

    def _take_from(self, lane: Lane, index: int) -> float:
        expected_s = lane.take(index)
        del self._lane_of[index]
        self._needs[lane.need].pending -= 1
        self._touch(lane)
        return expected_s

    def _touch(self, lane: Lane) -> None:
        """Its work or the number of its helpers changed."""
        need = self._needs[lane.need]
        claim_s = lane.work_s
        if lane and not lane.helpers:
            claim_s += self._estimates.flash_s(lane.combo)
        self._needs.load(need, claim_s - lane.claimed_s)
        lane.claimed_s = claim_s
        lane.stamp += 1
        unhelped_s, sole = lane.counted
        on_boards = need.fits is not None
        lane.counted = claim_s if lane and not lane.helpers and on_boards else 0.0, bool(lane) and lane.helpers == 1
        need.unhelped_s += lane.counted[0] - unhelped_s
        need.sole += lane.counted[1] - sole
        if not lane:
            return
        if lane.helpers:
            need.helped.push(lane.work_s / lane.helpers, lane)
        elif on_boards:
            need.unhelped.push(lane.work_s, lane)
        if lane.longest_s >= self._long_s:
            need.big.push(lane.longest_s, lane)

    def _help(self, seat: _Seat, combo: str | None) -> None:
        """A seat works on a combo from now on, or on none."""
        if seat.helping and seat.combo == combo:
            return
        if seat.helping:
            self._count_helper(seat, seat.combo, -1)
        seat.helping = combo is not None
        if combo is not None:
            self._count_helper(seat, combo, 1)

    def _count_helper(self, seat: _Seat, combo: str, more: int) -> None:
        for lane in self._of_combo[combo]:
            if self._needs[lane.need] in seat.needs:
                lane.helpers += more
                self._touch(lane)

    def _learn(self, changed: Sequence[int]) -> None:
        by_lane: dict[Lane, list[tuple[int, float]]] = defaultdict(list)
        for index in changed:
            lane = self._lane_of.get(index)
            if lane is not None:
                by_lane[lane].append((index, self._estimates.of(index)))
        for lane, told in by_lane.items():
            lane.expect(told)
            self._touch(lane)

    def _reckon(self, seat: _Seat, now: float) -> None:
        """When will a seat have done what it has? It is about to begin with the first of it."""
        seat.began_s = now
        if not seat.open:
            return
        end_s, before = now, seat.loaded
        for index in seat.hand:
            combo = self._tasks[index].combo
            if combo not in ("", before):
                end_s += self._estimates.flash_s(combo)
            before = combo or before
            end_s += self._estimates.of(index)
        self._end(seat, end_s)

    def _end(self, seat: _Seat, end_s: float) -> None:
        for need in seat.needs:
            need.ends_s += end_s - seat.end_s
        seat.end_s = end_s
        if seat.hand:
            self._told += 1
            heappush(self._ends, (end_s, self._told, seat))

    def _extend_overdue(self, now: float) -> None:
        """What should have ended and has not will take longer still: by a half of what it has taken already."""
        while self._ends and self._ends[0][0] < now:
            end_s, _, seat = heappop(self._ends)
            if seat.open and seat.hand and seat.end_s == end_s:
                self._end(seat, now + max(0.5 * (now - seat.began_s), _LEAST_S))


def _narrowness(need: Need) -> tuple[bool, int]:
    return need.fits is not None, 0 if need.fits is None else -len(need.fits)


def _claim(one: tuple[float, Lane]) -> tuple[float, int]:
    return one[0], -one[1].number
