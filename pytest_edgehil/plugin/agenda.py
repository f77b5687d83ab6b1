"""What the collected tests ask for, on its way from the workers, who collect, to the controller, who schedules.

xdist tells the controller the node ids and nothing else. So the first worker that has collected writes down the rest,
in the directory of the run, before it tells xdist that it is through.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_edgehil.errors import EdgehilError, MarkerError
from pytest_edgehil.model.requirement import Environment, Requirement, Timing
from pytest_edgehil.plugin import markers
from pytest_edgehil.plugin.boards import roles_of
from pytest_edgehil.plugin.markers import ComboRequest
from pytest_edgehil.plugin.scheduling.history import History
from pytest_edgehil.plugin.scheduling.task import NO_BOARD, Task

if TYPE_CHECKING:
    from pytest_edgehil.plugin.options import Options
    from pytest_edgehil.plugin.scheduler import Agenda
    from pytest_edgehil.plugin.workbench import Workbench

FILE = "collected.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a test asks for, by its markers and the command line.

    Args:
        combo: by names; None if nothing is flashed for it.
        board: what its board must fulfil; None if it needs none.
        compatible: the combo that its board must be able to take, flashed or not.
        at_least_s: what its gates measure in any case.
        several: what each of its boards must fulfil and be able to take, if it has several at once.
    """

    combo: ComboRequest | None
    board: Requirement | None
    compatible: ComboRequest
    at_least_s: float = 0.0
    several: tuple[tuple[Requirement, ComboRequest], ...] = ()


def asked_by(item: pytest.Item, options: Options) -> Asked:
    """See `Asked`.

    Raises:
        MarkerError: a marker, or a parameter of ``combo``, cannot be understood.
    """
    names = set(getattr(item, "fixturenames", ()))
    default = ComboRequest(model=options.model, firmware=options.firmware, prompt=options.prompt)
    compatible = markers.combo_with(item, markers.combo_of(item.iter_markers())).or_else(default)
    roles = roles_of(item.iter_markers()) if "boards" in names else ()
    needs_board = bool(markers.BOARD_FIXTURES & names)
    asked = markers.merged(markers.requirement_of(item.iter_markers()), options.board) if needs_board else None
    gates = markers.gates_of(item.iter_markers(), options, alpha=options.loosest_alpha)
    return Asked(
        combo=compatible if markers.DUT_FIXTURES & names else None,
        board=None if asked is None else markers.requirement_for(asked, gates),
        compatible=compatible,
        at_least_s=max((getattr(gate, "required_ns", 0) for gate in gates), default=0) / 1e9,
        several=tuple(
            (
                markers.requirement_for(
                    markers.merged(role.requirement, options.board), gates if role.judged and combo.model else ()
                ),
                combo,
            )
            for role, combo in ((role, role.combo.or_else(default)) for role in roles)
        ),
    )


class Spooling:
    """In a worker: write it down.

    Args:
        options: what the command line says.
        directory: of the run.
    """

    def __init__(self, options: Options, directory: Path) -> None:
        self._options = options
        self._path = directory / FILE

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if self._path.exists():
            return  # all workers collect the same
        rows: list[Any] = []
        for item in session.items:
            try:
                rows.append([item.nodeid, _to_json(asked_by(item, self._options))])
            except MarkerError:
                rows.append([item.nodeid, None])  # the test itself will say what is wrong
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f"{FILE}.{os.getpid()}")
        temporary.write_text(json.dumps(rows), encoding="utf-8")
        os.replace(temporary, self._path)  # noqa: PTH105 - several workers may do so


def read_agenda(
    path: Path,
    collection: Sequence[str],
    *,
    fits: Callable[[Requirement, ComboRequest], frozenset[str]],
    classes: Mapping[str, str],
    history: History,
) -> Agenda:
    """In the controller: what is to be done.

    Args:
        path: the file that a worker wrote.
        collection: node ids, in order.
        fits: ids of the boards that meet a requirement and can take a combo.
        classes: board → its class.
        history: of earlier runs.
    """
    from pytest_edgehil.plugin.scheduler import Agenda

    told = dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
    known: dict[str, frozenset[str]] = {}
    names: dict[tuple[frozenset[str], bool], str] = {}
    tasks: list[Task] = []
    for index, nodeid in enumerate(collection):
        asked = told.get(nodeid)
        if asked is None:
            tasks.append(Task(index=index, family=family_of(nodeid), expected_s=history.expected_s(nodeid, "", ())))
            continue
        combo, wanted = asked["combo"], asked["several"]
        if asked["board"] is not None:
            wanted = [[asked["board"], asked["compatible"]]]
        boards: frozenset[str] = frozenset()
        for board, compatible in wanted:
            key = json.dumps([board, compatible], sort_keys=True)
            if key not in known:
                known[key] = fits(_requirement(board), ComboRequest(**compatible))
            boards |= known[key]
        named = "" if combo is None else combo_name(ComboRequest(**combo))
        several = len(wanted) > 1
        tasks.append(
            Task(
                index=index,
                combo=named,
                # boards that do are all that matters, not in which words they were asked for
                need=names.setdefault((boards, several), f"need {len(names)}") if wanted else NO_BOARD,
                family=family_of(nodeid),
                expected_s=history.expected_s(nodeid, named, (classes[one] for one in boards)),
                at_least_s=asked["at_least_s"],
                boards=max(1, len(wanted)),
            )
        )
    flash_s = {
        combo: took_s for combo in {one.combo for one in tasks} if (took_s := history.flash_s(combo)) is not None
    }
    return Agenda(tasks=tasks, fits={name: boards for (boards, _), name in names.items()}, flash_s=flash_s)


def combos_of(path: Path) -> dict[str, str]:
    """Node id → name of the combo that is flashed for it, of the tests in that file that have one."""
    told = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return {
        nodeid: combo_name(ComboRequest(**asked["combo"]))
        for nodeid, asked in told
        if asked is not None and asked["combo"] is not None
    }


def combo_name(combo: ComboRequest) -> str:
    """One word for a combo, the same from run to run: names, not digests, for a new build takes as long as the old one.

    >>> combo_name(ComboRequest(model="digits-int8"))
    'model=digits-int8'
    """
    parts = asdict(combo)
    return " ".join(f"{track}={parts[track]}" for track in sorted(parts) if parts[track])


def family_of(nodeid: str) -> str:
    """The test function, whatever its parameters.

    >>> family_of("test_a.py::test_b[x-1]")
    'test_a.py::test_b'
    """
    return nodeid.partition("[")[0] if nodeid.endswith("]") else nodeid


def boards_for(workbench: Workbench) -> Callable[[Requirement, ComboRequest], frozenset[str]]:
    """The `fits` of `read_agenda`; none where the test itself will say why there is none."""

    def fits(requirement: Requirement, combo: ComboRequest) -> frozenset[str]:
        try:
            return frozenset(board.id for board in workbench.suitable(requirement, workbench.combo(combo)))
        except EdgehilError:
            return frozenset()

    return fits


def _to_json(asked: Asked) -> dict[str, Any]:
    return {
        "combo": None if asked.combo is None else asdict(asked.combo),
        "compatible": asdict(asked.compatible),
        "at_least_s": asked.at_least_s,
        "board": None if asked.board is None else _board_to_json(asked.board),
        "several": [[_board_to_json(board), asdict(combo)] for board, combo in asked.several],
    }


def _board_to_json(board: Requirement) -> dict[str, Any]:
    return {
        "cls": board.cls,
        "tags": sorted(board.tags),
        "environment": None if board.environment is None else board.environment.value,
        "board_id": board.board_id,
        "accelerator": board.accelerator,
        "among": _listed(board.among),
        "timing": None if board.timing is None else board.timing.value,
    }


def _listed(ids: Iterable[str] | None) -> list[str] | None:
    return None if ids is None else sorted(ids)


def _requirement(told: Mapping[str, Any]) -> Requirement:
    return Requirement(
        cls=told["cls"],
        tags=frozenset(told["tags"]),
        environment=None if told["environment"] is None else Environment(told["environment"]),
        board_id=told["board_id"],
        accelerator=told["accelerator"],
        among=None if told["among"] is None else frozenset(told["among"]),
        timing=None if told["timing"] is None else Timing(told["timing"]),
    )
