"""How long tests and flashes will take: from earlier runs, else from what this run has seen so far.

A test that never ran is taken to last as long as its family does (a test function runs with many combos, and is slow
or quick with all of them), and a family that never ran as long as the mean of all. Such guesses are made anew when the
number of observations has doubled, so that all of them together cost little.

What earlier runs tell of a test is believed as far as it proves true. How far a test's figure lies from those of its
family is partly the test's own way and partly the chance of an earlier run; the slope of what is observed now on what
was foreseen, both taken from the family's mean in the logarithm, says how large the first part is (a random effect, and
its best linear prediction: Robinson 1991, doi 10.1214/ss/1177011926). The slope is not led astray by which tests come
first, though they are chosen by what was foreseen.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from pytest_edgehil.plugin.scheduling.task import Task

FIRST_GUESS_S = 10.0
FIRST_FLASH_S = 10.0
_PRIOR = 0.5  # how many observations the guess before is worth
_BELIEVED = 16  # likewise, of what earlier runs tell
_MOSTLY_TRUE = 0.5  # a history of which more than this proves true is believed as it is
_WORTH_TELLING = 0.05
_LEAST_S = 0.001


class _Mean:
    """A mean that begins with a guess."""

    __slots__ = ("_guess", "_sum_s", "_told", "count")

    def __init__(self, guess_s: float) -> None:
        self._guess = guess_s
        self._sum_s = 0.0
        self._told = 0
        self.count = 0

    def add(self, value_s: float) -> bool:
        """Take an observation; is it time to tell others of the new mean?"""
        self._sum_s += value_s
        self.count += 1
        if self.count < 2 * self._told:
            return False
        self._told = self.count
        return True

    @property
    def value_s(self) -> float:
        return (self._sum_s + _PRIOR * self._guess) / (self.count + _PRIOR)


class _Trust:
    """How much of a test's distance from its family is its own: 1 as long as nothing else was seen.

    Args:
        known_s: expected durations by index, of the tests that ran before.
        families: of these tests.
    """

    __slots__ = ("_foreseen", "_means", "_of_both", "_of_foreseen", "_seen", "_told", "share")

    def __init__(self, known_s: Mapping[int, float], families: Mapping[int, str]) -> None:
        logs = {index: math.log(max(value_s, _LEAST_S)) for index, value_s in known_s.items()}
        members: dict[str, list[float]] = defaultdict(list)
        for index, log in logs.items():
            members[families[index]].append(log)
        means = {family: sum(told) / len(told) for family, told in members.items() if len(told) > 1}
        self._means = {index: means[families[index]] for index in logs if families[index] in means}
        self._foreseen = {index: logs[index] - mean for index, mean in self._means.items()}
        squares = sum(one * one for one in self._foreseen.values())
        # as if so many tests had done what was foreseen of them
        self._of_both = self._of_foreseen = _BELIEVED * squares / max(1, len(self._foreseen))
        self._seen, self._told = 0, _BELIEVED
        self.share = 1.0

    def observe(self, index: int, took_s: float) -> bool:
        """A test took so long; is it time to expect something else of the others?"""
        foreseen = self._foreseen.get(index)
        if foreseen is None:
            return False
        self._of_both += foreseen * (math.log(max(took_s, _LEAST_S)) - self._means[index])
        self._of_foreseen += foreseen * foreseen
        self._seen += 1
        if self._seen < self._told:
            return False
        self._told *= 2
        before = self.share
        found = self._of_both / self._of_foreseen if self._of_foreseen else 1.0
        self.share = 1.0 if found >= _MOSTLY_TRUE else max(0.0, found)
        return abs(self.share - before) > _WORTH_TELLING

    def expected_s(self) -> dict[int, float]:
        """What is expected now, by index, of those tests that have a family."""
        return {index: math.exp(mean + self.share * self._foreseen[index]) for index, mean in self._means.items()}


class Estimates:
    """See above.

    Args:
        tasks: all of them, by index.
        flash_s: combo → how long flashing it took in earlier runs, seconds.
    """

    def __init__(self, tasks: Sequence[Task], *, flash_s: Mapping[str, float] | None = None) -> None:
        self._tasks = tasks
        known = [one.expected_s for one in tasks if one.expected_s is not None]
        self._all = _Mean(sum(known) / len(known) if known else FIRST_GUESS_S)
        self._families: dict[str, _Mean] = {}
        self._unknown: dict[str, list[int]] = defaultdict(list)
        self._known_s: list[float | None] = []
        for task in tasks:
            known_s = task.expected_s
            if known_s is None and task.at_least_s > 0.0:
                known_s = task.at_least_s
            self._known_s.append(None if known_s is None else max(known_s, task.at_least_s))
            if known_s is None:
                self._unknown[task.family].append(task.index)
            else:
                self._family(task.family).add(known_s)
        before_s = {
            task.index: one
            for task, one in zip(tasks, self._known_s, strict=True)
            if one is not None and task.expected_s is not None
        }
        self._trust = _Trust(before_s, {index: tasks[index].family for index in before_s})
        self._flash_s = dict(flash_s or {})
        told = list(self._flash_s.values())
        self._any_flash = _Mean(sum(told) / len(told) if told else FIRST_FLASH_S)

    def _family(self, name: str) -> _Mean:
        if name not in self._families:
            self._families[name] = _Mean(self._all.value_s)
        return self._families[name]

    def of(self, index: int) -> float:
        """Expected duration of a test, seconds, without the flash."""
        known_s = self._known_s[index]
        if known_s is not None:
            return known_s
        family = self._families.get(self._tasks[index].family)
        return self._all.value_s if family is None else family.value_s

    def is_blind(self, index: int) -> bool:
        """Is there nothing at all that tells how long it takes?"""
        return self._known_s[index] is None and self._tasks[index].family not in self._families

    def flash_s(self, combo: str) -> float:
        """Expected duration of a flash of this combo, seconds; nothing is flashed for the empty one."""
        return self._flash_s.get(combo, self._any_flash.value_s) if combo else 0.0

    @property
    def typical_flash_s(self) -> float:
        """Of any combo."""
        told = self._flash_s.values()
        return sum(told) / len(told) if told else self._any_flash.value_s

    def observe(self, index: int, took_s: float) -> Sequence[int]:
        """A test took so long; returns the tests whose expected durations are different now."""
        task = self._tasks[index]
        changed: list[int] = []
        if self._known_s[index] is None:
            if self._all.add(took_s):
                changed += [
                    one
                    for family, members in self._unknown.items()
                    if family not in self._families and family != task.family
                    for one in members
                ]
            if self._family(task.family).add(took_s):
                changed += self._unknown[task.family]
        elif self._trust.observe(index, took_s):
            for one, expected_s in self._trust.expected_s().items():
                self._known_s[one] = max(expected_s, self._tasks[one].at_least_s)
                changed.append(one)
        return changed

    def observe_flash(self, combo: str, took_s: float) -> None:
        """Flashing a combo took so long."""
        if combo not in self._flash_s:
            self._any_flash.add(took_s)
