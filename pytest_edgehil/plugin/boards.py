"""Several boards for one test: the marker ``boards``, and what the fixture of that name returns.

All of them are reserved at once or none is, so two tests that each want two boards cannot wait for each other; for the
same reason a worker gives its own board back before it asks for several.

Each role is a part of the test's attempt (`attempt.Attempt.parts`): its board, what is flashed there, and the gates
that are judged there. The gates of the markers hold on every board on which a model is flashed, unless its role says
``"gates": False``; they are judged on one board after the other.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pytest_edgehil.errors import MarkerError
from pytest_edgehil.model.requirement import Requirement
from pytest_edgehil.plugin.markers import ComboRequest, combo_of, did_you_mean, merged, requirement_of

if TYPE_CHECKING:
    from pytest_edgehil.board.dut import Dut
    from pytest_edgehil.holding import Holding
    from pytest_edgehil.model.verdict import Verdict
    from pytest_edgehil.plugin.attempt import Attempt

MARKER = (
    "boards(count=None, *, cls=None, tags=(), environment=None, accelerator=None, timing=None, ROLE={…}): the boards "
    "of the fixture 'boards', for example boards(3, cls='pi5-*') or "
    "boards(server={'model': 'digits'}, client={'gates': False})"
)
_MOST = 1000
_ALL = ("cls", "tags", "environment", "accelerator", "timing")
_BOARD = (*_ALL, "id")
_COMBO = ("model", "firmware", "prompt")
_GATES = "gates"
_KEYS = (*_BOARD, *_COMBO, _GATES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """One of the boards that a test asks for.

    Args:
        name: how the test calls it; its number, where the marker gives a count.
        requirement: what the board must be.
        combo: what `Boards.dut` puts on it.
        judged: do the gates of the test hold on this board?
    """

    name: str
    requirement: Requirement
    combo: ComboRequest
    judged: bool = True


def roles_of(marks: Iterable[pytest.Mark]) -> tuple[Role, ...]:
    """The boards that the closest marker ``boards`` asks for; ``combo`` markers hold for those that name no model.

    Raises:
        MarkerError: it cannot be understood.
    """
    marks = list(marks)
    mark = next((one for one in marks if one.name == "boards"), None)
    if mark is None:
        return ()
    everyone = combo_of(marks)
    common = {name: mark.kwargs[name] for name in _ALL if name in mark.kwargs}
    named = {name: value for name, value in mark.kwargs.items() if name not in (*_ALL, "count")}
    counts = [*mark.args, *([mark.kwargs["count"]] if "count" in mark.kwargs else [])]
    for name, value in named.items():
        if not isinstance(value, Mapping):
            near = did_you_mean(name, ("count", *_ALL))
            raise MarkerError(
                f"boards: {name!r} must be a role with what its board must be, such as {name}={{'cls': 'pi5-*'}}, "
                f"not {value!r}{near}"
            )
    if len(counts) > 1 or (counts and named) or not (counts or named):
        raise MarkerError(
            "boards: expected either a count, as in boards(3), or roles, as in boards(server={}, client={})"
        )
    if counts:
        (count,) = counts
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= _MOST:
            raise MarkerError(f"boards: count must be a number from 1 to {_MOST}, not {count!r}")
        return tuple(_role(str(number), {}, common, everyone) for number in range(count))
    return tuple(_role(name, value, common, everyone) for name, value in named.items())


def _role(name: str, asked: Mapping[str, Any], common: Mapping[str, Any], everyone: ComboRequest) -> Role:
    for key in asked:
        if key not in _KEYS:
            known = did_you_mean(str(key), _KEYS) or f"; known: {', '.join(_KEYS)}"
            raise MarkerError(f"boards: {name}: unknown argument {key!r}{known}")
    judged = asked.get(_GATES, True)
    if not isinstance(judged, bool):
        raise MarkerError(
            f"boards: {name}: gates must be True or False (are those of the test judged here?), not {judged!r}"
        )
    try:
        requirement = merged(
            requirement_of([_as_mark("board", {key: asked[key] for key in _BOARD if key in asked})]),
            requirement_of([_as_mark("board", common)]),
        )
        combo = combo_of([_as_mark("combo", {key: asked[key] for key in _COMBO if key in asked})])
    except MarkerError as problem:
        raise MarkerError(f"boards: {name}: {problem}") from problem
    return Role(name=name, requirement=requirement, combo=combo.or_else(everyone), judged=judged)


def _as_mark(name: str, kwargs: Mapping[str, Any]) -> pytest.Mark:
    return getattr(pytest.mark, name)(**kwargs).mark  # type: ignore[no-any-return]


class Boards:
    """The boards of one test, by role, or by number in the order of the marker. Each is what the fixture ``board`` is.

    Args:
        holdings: by role.
        flash: opens a board with its role's combo on it.
    """

    def __init__(self, holdings: Mapping[str, Holding], flash: Callable[[str, Holding], Dut]) -> None:
        self._holdings = dict(holdings)
        self._flash = flash
        self._duts: dict[str, Dut] = {}

    @property
    def roles(self) -> tuple[str, ...]:
        """In the order of the marker."""
        return tuple(self._holdings)

    def dut(self, role: str | int) -> Dut:
        """The board of a role with the combo of the role on it, flashed when it is first asked for."""
        name = self._name(role)
        if name not in self._duts:
            self._duts[name] = self._flash(name, self._holdings[name])
        return self._duts[name]

    def __getitem__(self, role: str | int) -> Holding:
        return self._holdings[self._name(role)]

    def __iter__(self) -> Iterator[Holding]:
        return iter(self._holdings.values())

    def __len__(self) -> int:
        return len(self._holdings)

    def _name(self, role: str | int) -> str:
        if isinstance(role, int):
            return self.roles[role]
        if role not in self._holdings:
            known = ", ".join(map(repr, self._holdings))
            raise KeyError(f"no board has the role {role!r}{did_you_mean(role, self.roles)}; there are {known}")
        return role

    def close(self, *, broken: Mapping[str, str], condemn: Callable[[str, str], None]) -> None:
        """Let go of all; boards that broke are quarantined first.

        Args:
            broken: id of each board that broke, and why.
            condemn: quarantines a board, by its id and for a reason.
        """
        with contextlib.ExitStack() as last_first:
            for holding in self:
                last_first.callback(holding.close)
            for dut in self._duts.values():
                last_first.callback(dut.close)
            for board_id, why in broken.items():
                condemn(board_id, why)


def in_all(parts: Mapping[str, Attempt]) -> tuple[Verdict, ...]:
    """The verdicts of all parts as those of the whole test: each names its role, and its reason the board."""
    return tuple(
        dataclasses.replace(
            verdict,
            gate=of_role(verdict.gate, role),
            reason=verdict.reason if part.holding is None else f"on {part.holding.id}: {verdict.reason}",
        )
        for role, part in parts.items()
        for verdict in part.verdicts
    )


def of_role(gate: str, role: str) -> str:
    """A gate's name in a test on several boards.

    >>> of_role("p95_latency", "server")
    'p95_latency[server]'
    """
    return f"{gate}[{role}]"
