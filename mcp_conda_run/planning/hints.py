"""Packages that code needs without importing them, as far as its calls and strings show.

Called by the planner on every run, so a plain search over the text comes first, and the tree is walked only if a word
of a rule occurs in it. The rules are data (`hints.toml`). Never looks at values that only exist at run time.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..models import FoundImport, ImportContext, PlannedPackage
from .conditions import name_of
from .marks import Marks
from .tables import names, read

MAX_NODES = 400_000


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; see `hints.toml` for what its fields mean."""

    imports: frozenset[str]
    calls: frozenset[str]
    attributes: frozenset[str]
    keyword: str
    text: re.Pattern[str] | None
    unless: re.Pattern[str] | None
    needs: tuple[str, ...]
    packages: tuple[str, ...]


@dataclass(frozen=True)
class Rules:
    """All rules, with one pattern that finds whether any of them can hold for a text."""

    rules: tuple[Rule, ...]
    words: re.Pattern[str]


@dataclass(slots=True)
class Hints:
    """What the calls of a piece of code ask for: modules and conda packages."""

    imports: list[FoundImport]
    packages: list[PlannedPackage]


@dataclass(slots=True)
class Use:
    """One call in the code: what is called, with which keywords and strings."""

    name: str
    line: int
    keywords: dict[str, str]
    strings: list[str]


@cache
def load_rules() -> Rules:
    """Read the rules once."""
    rules = tuple(read_rule(row) for row in read("hints.toml")["rule"])
    words = {word for rule in rules for word in (*rule.calls, *rule.attributes, rule.keyword) if word}
    schemes = r"[a-z0-9+]+://|NETCDF:|HDF[45]|PG:|\.[a-z0-9]{2,7}[\"']"
    return Rules(rules, re.compile(rf"\b(?:{'|'.join(sorted(map(re.escape, words)))})\b|{schemes}"))


def read_rule(row: dict[str, Any]) -> Rule:
    """Read one rule."""
    return Rule(
        imports=frozenset(names(row.get("imports", ()))),
        calls=frozenset(names(row.get("calls", ()))),
        attributes=frozenset(names(row.get("attributes", ()))),
        keyword=row.get("keyword", ""),
        text=re.compile(row["text"]) if "text" in row else None,
        unless=re.compile(row["unless"]) if "unless" in row else None,
        needs=names(row.get("needs", ())),
        packages=names(row.get("packages", ())),
    )


def find_hints(code: str, tree: ast.Module, imported: Collection[str]) -> Hints:
    """Find what code needs without importing it; `imported` are the roots of its imports."""
    rules = load_rules()
    hints = Hints([], [])
    possible = [rule for rule in rules.rules if not rule.imports or not rule.imports.isdisjoint(imported)]
    marks = Marks(code, rules.words) if possible else None
    if not marks:
        return hints
    uses, attributes, strings = read_uses(tree, marks)
    for rule in possible:
        found = first_match(rule, uses, attributes, strings)
        if found is None:
            continue
        why, line = found
        hints.imports += [FoundImport(module, (), ImportContext.HINT, line, why=why) for module in rule.needs]
        hints.packages += [
            PlannedPackage(name, name, "conda", "", "hint", f"{why} needs {name}", 0.9) for name in rule.packages
        ]
    return hints


def read_uses(tree: ast.Module, marks: Marks) -> tuple[list[Use], dict[str, int], dict[str, int]]:
    """Collect the calls, the attributes read and the strings on marked lines, the last two with their lines."""
    uses: list[Use] = []
    attributes: dict[str, int] = {}
    strings: dict[str, int] = {}
    for count, node in enumerate(marks.walk(tree)):
        if count > MAX_NODES:
            break
        if isinstance(node, ast.Call):
            uses.append(read_call(node))
        elif isinstance(node, ast.Attribute):
            attributes.setdefault(node.attr, node.lineno)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            strings.setdefault(node.value, node.lineno)
    return uses, attributes, strings


def read_call(node: ast.Call) -> Use:
    """Read one call: its constant strings, and its keywords with theirs."""
    keywords = {keyword.arg: constant(keyword.value) for keyword in node.keywords if keyword.arg}
    return Use(name_of(node.func), node.lineno, keywords, [constant(value) for value in node.args])


def constant(node: ast.expr) -> str:
    """Return a constant string, or the constant end of a formatted or joined one; else an empty string."""
    match node:
        case ast.Constant(value=str() as value):
            return value
        case ast.JoinedStr(values=[*_, ast.Constant(value=str() as value)]):
            return value
        case ast.BinOp(right=right):
            return constant(right) if isinstance(right, ast.Constant) else ""
    return ""


def first_match(
    rule: Rule, uses: list[Use], attributes: dict[str, int], strings: dict[str, int]
) -> tuple[str, int] | None:
    """Return what in the code makes a rule hold, with its line; None if it does not hold."""
    for name in sorted(rule.attributes & attributes.keys()):
        return f".{name}", attributes[name]
    if rule.calls or rule.keyword:
        return next(matching_calls(rule, uses), None)
    for value, line in strings.items():
        if rule.text is not None and rule.text.search(value):
            return value[:60], line
    return None


def matching_calls(rule: Rule, uses: list[Use]) -> Iterator[tuple[str, int]]:
    """Yield the calls that make a rule hold."""
    for use in uses:
        if rule.calls and use.name not in rule.calls:
            continue
        if rule.keyword and rule.keyword not in use.keywords:
            continue
        texts = [use.keywords[rule.keyword]] if rule.keyword else [*use.strings, *use.keywords.values()]
        if rule.unless and any(rule.unless.search(text) for text in texts if text):
            continue
        if rule.text is None or any(rule.text.search(text) for text in texts if text):
            yield use.name, use.line
