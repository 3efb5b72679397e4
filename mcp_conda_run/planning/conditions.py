"""Conditions that say whether code runs at all: platform, Python version, `TYPE_CHECKING`, constants.

Called by the walk over imports for every `if`. Knows the few forms that people write; everything else is unknown, and
unknown means that both branches may run.
"""

from __future__ import annotations

import ast
import operator
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..models import ImportContext

SYSTEMS = {"linux": "Linux", "darwin": "Darwin", "win32": "Windows"}
ORDERS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda fact, wanted: fact in wanted,
    ast.NotIn: lambda fact, wanted: fact not in wanted,
}


@dataclass(frozen=True, slots=True)
class Target:
    """Where the code will run: `sys.platform` there and the Python version."""

    platform: str = sys.platform
    version: tuple[int, ...] = sys.version_info[:3]


def truth(test: ast.expr, target: Target) -> bool | ImportContext | None:  # noqa: PLR0911 - one return a form
    """Evaluate a condition: true or false on the target, the context that it guards by, or None for unknown."""
    match test:
        case ast.Constant(value=bool() | int() as value):
            return bool(value)
        case ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING"):
            return ImportContext.TYPE_CHECKING
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            inner = truth(operand, target)
            return not inner if isinstance(inner, bool) else inner
        case ast.BoolOp(op=ast.And(), values=values):
            return conjunction([truth(value, target) for value in values])
        case ast.BoolOp(op=ast.Or(), values=values):
            return disjunction([truth(value, target) for value in values])
        case ast.Compare() | ast.Call():
            return truth_of_fact(test, target)
    return None


def conjunction(truths: list[bool | ImportContext | None]) -> bool | ImportContext | None:
    """Return what `and` makes of its parts: one false part decides, else one guard does."""
    if any(part is False for part in truths):
        return False
    guards = [part for part in truths if isinstance(part, ImportContext)]
    return guards[0] if guards else (True if all(truths) else None)


def disjunction(truths: list[bool | ImportContext | None]) -> bool | None:
    """Return what `or` makes of its parts: one true part decides."""
    if any(part is True for part in truths):
        return True
    return False if all(part is False for part in truths) else None


def truth_of_fact(test: ast.Compare | ast.Call, target: Target) -> bool | ImportContext | None:
    """Evaluate a comparison with a fact of the target, `sys.platform.startswith("x")`, or a `find_spec` guard."""
    match test:
        case ast.Compare(left=left, ops=[comparison], comparators=[right]):
            fact = fact_of(left, target)
            if fact is not None:
                return compare(comparison, fact, right)
        case ast.Call(func=ast.Attribute(value=value, attr="startswith"), args=[ast.Constant(value=str() as start)]):
            fact = fact_of(value, target)
            return fact.startswith(start) if isinstance(fact, str) else None
    if any(isinstance(part, ast.Call) and name_of(part.func) == "find_spec" for part in ast.walk(test)):
        return ImportContext.OPTIONAL
    return None


def compare(comparison: ast.cmpop, fact: object, right: ast.expr) -> bool | None:
    """Compare a fact with a literal; None if that makes no sense."""
    order = ORDERS.get(type(comparison))
    if order is None:
        return None
    try:
        return bool(order(fact, ast.literal_eval(right)))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def fact_of(node: ast.expr, target: Target) -> object:  # noqa: PLR0911 - one return a form
    """Return what `sys.platform`, `os.name`, `platform.system()` or `sys.version_info` will be; None if it is none."""
    match node:
        case ast.Attribute(value=ast.Name(id="sys"), attr="platform"):
            return target.platform
        case ast.Attribute(value=ast.Name(id="os"), attr="name"):
            return "nt" if target.platform == "win32" else "posix"
        case ast.Call(func=ast.Attribute(value=ast.Name(id="platform"), attr="system"), args=[]):
            return SYSTEMS.get(target.platform)
        case ast.Attribute(value=ast.Name(id="sys"), attr="version_info"):
            return target.version
        case ast.Subscript(value=ast.Attribute(value=ast.Name(id="sys"), attr="version_info"), slice=part):
            return part_of(target.version, part)
        case ast.Attribute(value=ast.Attribute(value=ast.Name(id="sys"), attr="version_info"), attr=part_name):
            return {"major": target.version[0], "minor": target.version[1]}.get(part_name)
    return None


def part_of(version: tuple[int, ...], part: ast.expr) -> object:
    """Return `version[0]`, `version[1]` or `version[:n]`."""
    match part:
        case ast.Constant(value=int() as index) if index in {0, 1}:
            return version[index]
        case ast.Slice(lower=None, upper=ast.Constant(value=int() as end), step=None):
            return version[:end]
    return None


def name_of(node: ast.expr) -> str:
    """Return the last part of a name or an attribute; empty for anything else."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
