"""How likely is at least one wrong verdict in a whole run, and the error rate divided so that it stays below a limit.

Every gate with an error rate can be wrong, so a suite of many is wrong somewhere far more often than one. By
Bonferroni's inequality the chance of at least one wrong verdict is at most the sum of the error rates of all
statements, however they depend on each other. So a rate for the suite is divided by the number of statements.

What counts as one statement:

- A gate has two sides, a wrong PASS and a wrong FAIL, each at most α. Of the two only one can happen, for the model
  either fulfils the statement or does not. So a gate is wrong with a chance of at most α, not 2·α, and counts once.
- A soak with a budget for a leak and for a crash rate is two statements: each can be wrong by itself.
- What is counted or weighed (`size`, `peak_rss`, `cold_start`, "no throttling") infers nothing and counts none.
- A marker with an ``alpha`` of its own keeps it and does not share; its α comes on top and is named.

What is divided is the error rate of the tests that were *selected*: with ``-k`` fewer tests share it, and each gets
more. Every worker collects the same tests and so comes to the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_edgehil.gates.gate import Gate, statements
from pytest_edgehil.model.quantity import format_number

_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A gate of a selected test.

    Args:
        test: its node id.
        gate: as the marker declares it; which α it was parsed with does not matter.
        own_alpha: the marker's own error rate, or None.
    """

    test: str
    gate: Gate
    own_alpha: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnRate:
    """A gate that states its own error rate. Args: statements: how many with it."""

    test: str
    gate: str
    alpha: float
    statements: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorBudget:
    """The error rates of a run.

    Args:
        alpha: of each statement whose marker states none.
        suite: rate over the whole suite that was divided, or None.
        tests: selected tests with a statement.
        gates: their gates with a statement.
        statements: how many statements have `alpha`.
        own: gates with a rate of their own.
    """

    alpha: float
    suite: float | None
    tests: int
    gates: int
    statements: int
    own: tuple[OwnRate, ...] = ()

    @classmethod
    def of(cls, declared: Iterable[Declared], *, alpha: float, suite: float | None) -> ErrorBudget:
        """Divide the suite's rate over what is declared, or give each statement `alpha` if there is none."""
        stating = [(one, count) for one in declared if (count := statements(one.gate))]
        shared = sum(count for one, count in stating if one.own_alpha is None)
        own = tuple(
            OwnRate(test=one.test, gate=one.gate.name, alpha=one.own_alpha, statements=count)
            for one, count in stating
            if one.own_alpha is not None
        )
        return cls(
            alpha=alpha if suite is None else suite / max(1, shared),
            suite=suite,
            tests=len({one.test for one, _ in stating}),
            gates=len(stating),
            statements=shared,
            own=own,
        )

    @property
    def at_most(self) -> float:
        """Bound of the chance that at least one verdict of the run is wrong."""
        return min(1.0, self.alpha * self.statements + sum(one.alpha * one.statements for one in self.own))

    def told(self) -> str:
        """One sentence for reports; empty when nothing has an error rate.

        >>> print(ErrorBudget(alpha=0.05, suite=None, tests=5, gates=7, statements=7).told())
        α = 0.05 a gate, 7 gates in the 5 selected tests: the chance that at least one verdict is wrong is up to 35%
        >>> print(ErrorBudget(alpha=0.05 / 7, suite=0.05, tests=5, gates=7, statements=7).told())
        α = 0.05 over the suite, split over the 7 statements of the 5 selected tests: 0.00714 each
        """
        if not self.gates:
            return ""
        selected = f"{self.tests} selected test{'' if self.tests == 1 else 's'}"
        shared = f"{self.statements} statement{'' if self.statements == 1 else 's'}"
        if self.suite is None:
            counted = f"{self.gates} gate{'' if self.gates == 1 else 's'}"
            total = self.statements + sum(one.statements for one in self.own)
            if total != self.gates:
                counted += f" with {total} statements"
            said = [f"α = {format_number(self.alpha)} a gate, {counted} in the {selected}{self._besides()}"]
        elif self.statements:
            split = f"split over the {shared} of the {selected}: {format_number(self.alpha)} each"
            said = [f"α = {format_number(self.suite)} over the suite, {split}{self._besides()}"]
        else:
            said = [f"α = {format_number(self.suite)} over the suite, which no gate shares{self._besides()}"]
        if self.suite is None or self.own:
            said.append(f"the chance that at least one verdict is wrong is up to {format_number(100 * self.at_most)}%")
        return ": ".join(said)

    def _besides(self) -> str:
        if not self.own:
            return ""
        named = [f"{one.gate} of {one.test} with {format_number(one.alpha)}" for one in self.own[:_NAMED]]
        if len(self.own) > _NAMED:
            named.append(f"{len(self.own) - _NAMED} more")
        return f"; with an α of {'its' if len(self.own) == 1 else 'their'} own: {', '.join(named)}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, to cross from a worker to the controller."""
        return {
            "alpha": self.alpha,
            "suite": self.suite,
            "tests": self.tests,
            "gates": self.gates,
            "statements": self.statements,
            "own": [
                {"test": one.test, "gate": one.gate, "alpha": one.alpha, "statements": one.statements}
                for one in self.own
            ],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ErrorBudget:
        """The inverse of `to_json`."""
        return cls(**{**value, "own": tuple(OwnRate(**one) for one in value["own"])})
