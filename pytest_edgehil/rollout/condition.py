"""Conditions of a plan such as ``result < 2`` or ``result >= 0.01 && result < 3``.

A language of comparisons of ``result`` with numbers, joined by ``and``/``&&``, ``or``/``||``, ``not``/``!`` and
parentheses; nothing else parses, and nothing is ever evaluated by Python itself.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

_COMPARE: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_MAX_LENGTH = 200


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on one number.

    >>> parse("result > 1 && !(result >= 2)").holds(1.5)
    True
    """

    text: str
    _tree: ast.expr

    def holds(self, result: float) -> bool:
        """Is it true of this number?

        Raises:
            ValueError: the number is NaN; ``not (result > 2)`` would be true of it, so it must be sorted out before.
        """
        if math.isnan(result):
            raise ValueError("a condition has no answer for NaN")
        return bool(_value(self._tree, result))


def parse(text: str) -> Condition:
    """Read a condition.

    Raises:
        ValueError: it is something else than described above.
    """
    if len(text) > _MAX_LENGTH:
        raise ValueError(f"a condition of {len(text)} characters is too long (at most {_MAX_LENGTH})")
    python = re.sub(r"!(?!=)", " not ", text.replace("&&", " and ").replace("||", " or "))
    try:
        tree = ast.parse(python.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as problem:
        raise ValueError(f"{text!r} is no condition: expected something such as 'result < 2'") from problem
    _check(tree, text, boolean=True)
    return Condition(text, tree)


def _check(node: ast.expr, text: str, *, boolean: bool) -> None:
    if boolean and isinstance(node, ast.BoolOp):
        for one in node.values:
            _check(one, text, boolean=True)
    elif boolean and isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        _check(node.operand, text, boolean=True)
    elif boolean and isinstance(node, ast.Compare) and all(type(one) in _COMPARE for one in node.ops):
        for one in (node.left, *node.comparators):
            _check(one, text, boolean=False)
        if not any(isinstance(one, ast.Name) for one in (node.left, *node.comparators)):
            raise ValueError(f"{text!r} compares no result: it would always say the same")
    elif boolean or not (_is_result(node) or _number(node) is not None):
        raise ValueError(
            f"{text!r} is no condition: {ast.unparse(node)!r} is not understood; expected comparisons of "
            f"'result' with numbers, joined by &&, || and !"
        )


def _is_result(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "result"


def _number(node: ast.expr) -> float | None:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _number(node.operand)
        return None if inner is None else -inner
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        return float(node.value) if math.isfinite(node.value) else None
    return None


def _value(node: ast.expr, result: float) -> float | bool:
    if isinstance(node, ast.BoolOp):
        join = all if isinstance(node.op, ast.And) else any
        return join(bool(_value(one, result)) for one in node.values)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return not _value(node.operand, result)
    if isinstance(node, ast.Compare):
        numbers = [float(_value(one, result)) for one in (node.left, *node.comparators)]
        return all(
            _COMPARE[type(op)](left, right) for op, left, right in zip(node.ops, numbers, numbers[1:], strict=False)
        )
    if isinstance(node, ast.Name):
        return result
    number = _number(node)
    assert number is not None  # `parse` has let nothing else through
    return number
