"""What can be told of a test's held-out sets before a board is reserved for it.

A set that is missing, or too small for what a gate is to certify, is the user's mistake; it must not cost the time of
a board. Which sets a test will evaluate stands in its source: ``dut.evaluate(heldout("digits"))``. So the source is
read, and a conclusion is drawn only where nothing can be mistaken: every use of ``heldout`` is a call with a name that
is known (written out, or a parameter of the test), and everything that is evaluated or scored comes from such a call.
A test that does anything else with ``dut`` or ``heldout`` is let through, and its verdict says afterwards what was
missing.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pytest_edgehil.errors import DatasetError

if TYPE_CHECKING:
    from pytest_edgehil.artifacts.dataset import Dataset
    from pytest_edgehil.artifacts.reference import ReferenceModel
    from pytest_edgehil.gates.gate import Gate

_FEEDS = frozenset({"evaluate", "score_tokens"})


def refuse_too_small(
    gates: tuple[Gate, ...],
    names: tuple[str, ...],
    *,
    dataset: Callable[[str], Dataset],
    where: Callable[[str], object],
    baseline: Callable[[], ReferenceModel | None],
) -> None:
    """Refuse a test whose held-out sets can never lead to a PASS.

    Args:
        gates: of the test.
        names: of the sets that it evaluates, from `heldout_names`.
        dataset: loads a set.
        where: path of a set.
        baseline: what the test compares with; asked for only where the answer depends on it.

    Raises:
        DatasetError: a set is missing, or one line with how many items are needed and how many there are.
    """
    asked = [gate for gate in gates if hasattr(gate, "too_small")]
    if not asked or not names:
        return
    sets = [dataset(name) for name in dict.fromkeys(names)]
    items = sum(map(len, sets))
    labelled = all(one.labels is not None for one in sets)
    for gate in asked:
        complaint = gate.too_small(items, labelled=labelled)
        if complaint is not None and labelled and getattr(gate, "drop", None) is not None:
            # where the baseline is wrong the model may gain, and then fewer items will do
            reference = baseline()
            if reference is not None:
                complaint = gate.too_small(items, labelled=True, gained=_wrong(reference, sets))
        if complaint is not None:
            paths = ", ".join(str(where(name)) for name in dict.fromkeys(names))
            raise DatasetError(f"{gate.name}: {complaint} ({paths}); no board was reserved")


def _wrong(baseline: ReferenceModel, sets: list[Dataset]) -> int:
    """How many items the baseline has wrong."""
    from pytest_edgehil.board.evaluation import classes

    wrong = 0
    for one in sets:
        outputs = baseline.evaluate(one.inputs)
        wrong += int((classes(next(iter(outputs.values()))) != one.labels).sum())
    return wrong


def heldout_names(function: Callable[..., Any], parameters: Mapping[str, object]) -> tuple[str, ...]:
    """Names of the held-out sets that a test evaluates; empty where its source does not tell for certain.

    Args:
        function: the test function.
        parameters: values of its parameters, by name.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return ()
    reader = _Reader(parameters)
    reader.visit(tree)
    return () if reader.uncertain else tuple(reader.names)


class _Reader(ast.NodeVisitor):
    """Walks through a test function; see the module's docstring."""

    def __init__(self, parameters: Mapping[str, object]) -> None:
        self._parameters = parameters
        self._bound: dict[str, str] = {}
        self.names: list[str] = []
        self.uncertain = False

    def visit_Assign(self, node: ast.Assign) -> None:
        name = self._loaded(node.value)
        target = node.targets[0]
        if (
            name is not None
            and len(node.targets) == 1
            and isinstance(target, ast.Name)
            and target.id not in self._bound
        ):
            self._bound[target.id] = name
            return
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        # the only uses that are understood never come here: see visit_Call and visit_Attribute
        if node.id in {"dut", "heldout"} or (node.id in self._bound and isinstance(node.ctx, ast.Store)):
            self.uncertain = True

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.value, ast.Name) and node.value.id == "dut":
            if node.attr in _FEEDS:
                self.uncertain = True  # taken without being called: it may be called anywhere
            return
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        if isinstance(function, ast.Name) and function.id == "heldout":
            if self._loaded(node) is None:
                self.uncertain = True
            return
        feeds = isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name)
        if feeds and function.value.id == "dut" and function.attr in _FEEDS:  # type: ignore[attr-defined]
            fed = node.args[0] if node.args else next((one.value for one in node.keywords if one.arg), None)
            name = self._bound.get(fed.id) if isinstance(fed, ast.Name) else self._loaded(fed)
            if name is None:
                self.uncertain = True
            else:
                self.names.append(name)
            for one in (*node.args[1:], *(keyword.value for keyword in node.keywords)):
                if one is not fed:
                    self.visit(one)
            return
        self.generic_visit(node)

    def _loaded(self, node: ast.expr | None) -> str | None:
        """The name of the set if this is a call of ``heldout`` with one that is known."""
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id != "heldout":
            return None
        if len(node.args) != 1 or node.keywords:
            return None
        argument = node.args[0]
        if isinstance(argument, ast.Constant):
            return argument.value if isinstance(argument.value, str) else None
        value = self._parameters.get(argument.id) if isinstance(argument, ast.Name) else None
        return value if isinstance(value, str) else None
