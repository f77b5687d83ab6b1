"""The markers: what they mean to pytest, and their check at collection.

A marker with a bad argument fails the *collection* of its test with one line that says what and where. That is done
in ``pytest_generate_tests``, the one hook in which a failure is a clean collection error with and without xdist
(a ``UsageError`` from ``pytest_collection_modifyitems`` is an internal error under xdist).
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from pytest_edgehil.errors import MarkerError
from pytest_edgehil.gates.signatures import SIGNATURES
from pytest_edgehil.model.requirement import Environment, Requirement, Timing

if TYPE_CHECKING:
    from pytest_edgehil.gates.gate import Gate
    from pytest_edgehil.plugin.options import Options

COMBO = (
    "combo(model=None, *, firmware=None, prompt=None): what is flashed on the board, each by name, version or digest"
)
BOARD = (
    "board(cls=None, *, tags=(), environment=None, id=None, accelerator=None, timing=None): what the test asks of its "
    "board, for example board('pi5-8gb-*', tags=['cooled'])"
)
_KindT = TypeVar("_KindT", bound=enum.StrEnum)
DUT_FIXTURES = frozenset({"dut"})
BOARD_FIXTURES = frozenset({"board", "dut", "console"})
COMBO_FIXTURES = BOARD_FIXTURES | {"combo", "baseline", "on_host", "boards"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ComboRequest:
    """The references of a combo marker, not looked up yet."""

    model: str | None = None
    firmware: str | None = None
    prompt: str | None = None

    def or_else(self, other: ComboRequest) -> ComboRequest:
        """This one, with `other`'s references where it has none."""
        return ComboRequest(
            model=self.model or other.model,
            firmware=self.firmware or other.firmware,
            prompt=self.prompt or other.prompt,
        )


def register(config: pytest.Config) -> None:
    """Make the markers known, with their signatures (``pytest --markers``)."""
    from pytest_edgehil.plugin.boards import MARKER

    for line in (COMBO, BOARD, MARKER, *SIGNATURES.values()):
        config.addinivalue_line("markers", line)


def check(metafunc: pytest.Metafunc, options: Options) -> None:
    """Fail the collection of a test whose markers cannot be understood."""
    marks = list(metafunc.definition.iter_markers())
    complaint = ""
    try:
        gates = gates_of(marks, options, alpha=options.loosest_alpha)
        combo_of(marks)
        requirement_for(requirement_of(marks), gates)
        _check_several(marks, metafunc.fixturenames)
        _refuse_gates_without_dut(gates, metafunc.fixturenames, marks)
        _refuse_several_baselines(gates)
    except MarkerError as problem:
        complaint = str(problem)
    if complaint:  # outside the handler: pytest would show the whole chain of exceptions
        path, line, _ = metafunc.definition.location
        pytest.fail(f"{path}:{(line or 0) + 1}: {metafunc.definition.name}: {complaint}", pytrace=False)


def _check_several(marks: list[pytest.Mark], fixtures: Iterable[str]) -> None:
    from pytest_edgehil.plugin.boards import roles_of

    roles, wanted = roles_of(marks), set(fixtures)
    if "boards" in wanted and not roles:
        raise MarkerError("boards: how many? add @pytest.mark.boards(2), or roles as in boards(server={}, client={})")
    if "boards" in wanted and wanted & BOARD_FIXTURES:
        other = max(wanted & BOARD_FIXTURES, key=("board", "console", "dut").index)  # the others come with a board
        raise MarkerError(
            f"boards: a test that asks for 'boards' and for {other!r} would hold one while it waits for the others; "
            "make it one more of the boards"
        )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'client'?``, or nothing."""
    import difflib

    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _refuse_gates_without_dut(gates: tuple[Gate, ...], fixtures: Iterable[str], marks: list[pytest.Mark]) -> None:
    if not gates or DUT_FIXTURES & set(fixtures):
        return
    from pytest_edgehil.plugin.boards import roles_of

    named = ", ".join(gate.name for gate in gates)
    if "boards" not in set(fixtures):
        raise MarkerError(f"{named}: nothing can be measured; the test must ask for the fixture 'dut' (or 'boards')")
    if not any(role.judged for role in roles_of(marks)):
        raise MarkerError(f'{named}: no board is judged; take "gates": False from one of the roles')


def _refuse_several_baselines(gates: tuple[Gate, ...]) -> None:
    """What a test evaluates is compared once, so its gates cannot each have a baseline of their own."""
    named = {
        gate.name: name
        for gate in gates
        if not hasattr(gate, "on_board") and (name := getattr(gate, "baseline", None)) is not None
    }
    if len(set(named.values())) > 1:
        told = ", ".join(f"{gate} names {name!r}" for gate, name in named.items())
        raise MarkerError(
            f"baseline: outputs are compared with one baseline in a test, but {told}; make two tests of it"
        )


def gates_of(marks: Iterable[pytest.Mark], options: Options, *, alpha: float) -> tuple[Gate, ...]:
    """The gates that these markers declare; of several markers of one name the closest wins.

    Args:
        alpha: error rate of gates whose markers state none.
    """
    closest = _closest(marks)
    if not closest:
        return ()
    from pytest_edgehil.gates.registry import GateSettings, parse

    settings = GateSettings(alpha=alpha, soak_ns=options.soak_ns, root=options.root)
    return tuple(parse(name, mark.args, mark.kwargs, settings=settings) for name, mark in closest.items())


def own_alphas(marks: Iterable[pytest.Mark]) -> frozenset[str]:
    """Names of the gates whose markers state an error rate of their own."""
    return frozenset(name for name, mark in _closest(marks).items() if mark.kwargs.get("alpha") is not None)


def _closest(marks: Iterable[pytest.Mark]) -> dict[str, pytest.Mark]:
    found: dict[str, pytest.Mark] = {}
    for mark in marks:
        if mark.name in SIGNATURES:
            found.setdefault(mark.name, mark)
    return found


def combo_of(marks: Iterable[pytest.Mark]) -> ComboRequest:
    """The combo that these markers ask for; closer markers win, reference by reference."""
    asked = ComboRequest()
    for mark in marks:
        if mark.name == "combo":
            bound = _bind(mark, _combo_signature)
            for name, value in bound.items():
                if value is not None and not (isinstance(value, str) and value):
                    raise MarkerError(f"combo: {name} must be the name or digest of an artifact, not {value!r}")
            asked = asked.or_else(ComboRequest(**bound))
    return asked


def combo_with(item: pytest.Item, asked: ComboRequest) -> ComboRequest:
    """The combo with what a parameter of the fixture ``combo`` says instead.

    Raises:
        MarkerError: the parameter is neither a model's name nor a mapping of track to name.
    """
    callspec = getattr(item, "callspec", None)
    override: Any = None if callspec is None else callspec.params.get("combo")
    if override is None:
        return asked
    if isinstance(override, str):
        return ComboRequest(model=override).or_else(asked)
    if isinstance(override, Mapping) and set(override) <= {"model", "firmware", "prompt"}:
        return ComboRequest(**override).or_else(asked)
    raise MarkerError(f"combo: a parameter must be a model's name or a mapping of track to name, not {override!r}")


def requirement_of(marks: Iterable[pytest.Mark]) -> Requirement:
    """What these markers ask of a board; closer markers win, field by field, and tags add up."""
    asked = Requirement()
    for mark in marks:
        if mark.name != "board":
            continue
        bound = _bind(mark, _board_signature)
        environment = _one_of(Environment, "environment", bound["environment"])
        tags = bound["tags"]
        if not isinstance(tags, (list, tuple, set, frozenset)) or not all(isinstance(tag, str) for tag in tags):
            raise MarkerError(f"board: tags must be a list of words such as ['cooled'], not {tags!r}")
        asked = merged(
            asked,
            Requirement(
                cls=bound["cls"],
                tags=frozenset(tags),
                environment=environment,
                board_id=bound["id"],
                accelerator=bound["accelerator"],
                timing=_one_of(Timing, "timing", bound["timing"]),
            ),
        )
    return asked


def _one_of(kinds: type[_KindT], name: str, value: Any) -> _KindT | None:
    if value is None:
        return None
    try:
        return kinds(value)
    except ValueError as problem:
        known = ", ".join(one.value for one in kinds)
        raise MarkerError(f"board: {name} {value!r} is none of {known}") from problem


def requirement_for(asked: Requirement, gates: Sequence[Gate]) -> Requirement:
    """What a test asks of its board, with what its gates need: some are held against seconds, which takes a clock.

    Raises:
        MarkerError: the board's time must be of one kind, and a gate needs another.
    """
    if not gates:
        return asked
    from pytest_edgehil.gates.time_base import clash, common_timing

    needed, gate = common_timing(gates)
    if needed is None:
        return asked
    if asked.timing not in {None, needed}:
        assert asked.timing is not None
        raise MarkerError(clash(gate, needed, asked.timing))
    return dataclasses.replace(asked, timing=needed)


def merged(first: Requirement, second: Requirement) -> Requirement:
    """Both requirements; where they differ in a single-valued field, `first` wins."""
    return Requirement(
        cls=first.cls or second.cls,
        tags=first.tags | second.tags,
        environment=first.environment or second.environment,
        board_id=first.board_id or second.board_id,
        accelerator=first.accelerator or second.accelerator,
        timing=first.timing or second.timing,
    )


# what the two markers that are no gates take; their bodies are never run


def _combo_signature(model: object = None, *, firmware: object = None, prompt: object = None) -> None: ...


def _board_signature(
    cls: object = None,
    *,
    tags: object = (),
    environment: object = None,
    id: object = None,  # noqa: A002 - the marker reads best so
    accelerator: object = None,
    timing: object = None,
) -> None: ...


def _bind(mark: pytest.Mark, shape: Callable[..., None]) -> dict[str, Any]:
    signature = inspect.signature(shape)
    for name in mark.kwargs:
        if name not in signature.parameters:
            hint = did_you_mean(name, signature.parameters) or f"; known: {', '.join(signature.parameters)}"
            raise MarkerError(f"{mark.name}: unknown argument {name!r}{hint}")
    try:
        bound = signature.bind(*mark.args, **mark.kwargs)
    except TypeError as problem:
        raise MarkerError(f"{mark.name}: {problem}; expected {mark.name}{signature}") from problem
    bound.apply_defaults()
    return bound.arguments
