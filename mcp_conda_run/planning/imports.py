"""The imports of a piece of code, each with the context that says whether it counts.

Called by the planner on every run, so it is quick: one parse, one walk over statements, and a walk over expressions
only where the text holds a word that can matter there. Never runs or imports anything.
"""

from __future__ import annotations

import ast
import gc
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..models import FoundImport, ImportContext
from .conditions import Target, name_of, truth
from .marks import Marks

LARGE = 1 << 16
DYNAMIC_WORDS = re.compile(r"import_module|__import__|importorskip")
IMPORT_ERRORS = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}
IMPORT_LINE = re.compile(
    r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import\b[ \t]*\(?([\w ,\t]*)|import[ \t]+([\w., \t]+))", re.MULTILINE
)
MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
PYTHON_FILE = re.compile(r"""([^\W\d]\w*)\.py["']""")

HOLDERS = frozenset(
    {
        ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.If, ast.Try, ast.TryStar,
        ast.With, ast.AsyncWith, ast.For, ast.AsyncFor, ast.While, ast.Match,
    }
)  # fmt: skip
"""The statements that are imports, or hold other statements."""

SEVERITY = {
    context: rank
    for rank, context in enumerate(
        (
            ImportContext.PLAIN,
            ImportContext.DYNAMIC,
            ImportContext.LAZY,
            ImportContext.OPTIONAL,
            ImportContext.ALTERNATIVE,
            ImportContext.TYPE_CHECKING,
            ImportContext.OTHER_PLATFORM,
        )
    )
}
"""Of two contexts that an import stands in at once, the higher one says whether it counts."""


@dataclass(slots=True)
class Found:
    """What was found in a piece of code.

    Attributes:
        imports: in the order of the walk; the same module may occur more than once.
        tree: the parsed code; None if it was not parsed (see `parse`; then the imports come from its lines).
        local: names of `.py` files that the code itself mentions, without the ending: modules that it may write.
    """

    imports: list[FoundImport] = field(default_factory=list)
    tree: ast.Module | None = None
    local: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Place:
    """The context of a statement and the number of the try statement that it is an alternative in."""

    context: ImportContext = ImportContext.PLAIN
    group: int = 0

    def within(self, context: ImportContext, group: int = 0) -> Place:
        """Return the place of what stands inside a statement of that context."""
        if SEVERITY[context] < SEVERITY[self.context]:
            return self
        return Place(context, group or self.group)


@contextmanager
def collector_paused(size: int) -> Iterator[None]:
    """Pause the cyclic garbage collector while a large tree grows: it would walk all of it again and again."""
    if size < LARGE or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


MAX_STATEMENTS = 200_000
"""Code of more statements than this is read by its lines: Python's parser alone takes seconds for it."""


def parse(code: str) -> ast.Module | None:
    """Parse code without any warning; None if it cannot be parsed, or not in reasonable time."""
    if code.count("\n") + code.count(";") > MAX_STATEMENTS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def find_imports(code: str, target: Target | None = None) -> Found:
    """Find the imports of code."""
    return imports_of(code, parse(code), target or Target())


def imports_of(code: str, tree: ast.Module | None, target: Target) -> Found:
    """Find the imports of code that was parsed already; `tree` is None where it has a syntax error."""
    local = frozenset(PYTHON_FILE.findall(code)) if ".py" in code else frozenset()
    if tree is None:
        return Found(list(imports_of_lines(code)), None, local)
    walk = Walk(target, Marks(code, DYNAMIC_WORDS))
    try:
        walk.statements(tree)
    except RecursionError:  # conditions may nest deeper than Python recurses
        return Found(list(imports_of_lines(code)), tree, local)
    return Found(walk.found, tree, local)


def imports_of_lines(code: str) -> Iterator[FoundImport]:
    """Find imports in code that cannot be parsed, line by line."""
    for match in IMPORT_LINE.finditer(code):
        line = code.count("\n", 0, match.start()) + 1 if len(code) < 1 << 16 else 0
        if match[1]:
            names = tuple(part.split()[0] for part in match[2].split(",") if part.strip())
            modules = [(match[1], names)]
        else:
            modules = [(part.split()[0], ()) for part in match[3].split(",") if part.strip()]
        for module, names in modules:
            if MODULE.fullmatch(module) and module != "__future__":
                yield FoundImport(module, names, ImportContext.PLAIN, line)


class Walk:
    """One walk over the statements of a module, by a stack: foreign code may nest deeper than Python recurses."""

    def __init__(self, target: Target, dynamic: Marks) -> None:
        self.found: list[FoundImport] = []
        self._target = target
        self._dynamic = dynamic
        self._groups = 0

    def statements(self, tree: ast.Module) -> None:
        """Walk over all statements in the order of the text and collect the imports."""
        stack = [(node, Place()) for node in reversed(self._worth(tree.body))]
        while stack:
            node, place = stack.pop()
            if isinstance(node, ast.Import):
                self.found += [FoundImport(a.name, (), place.context, node.lineno, place.group) for a in node.names]
                continue
            if isinstance(node, ast.ImportFrom):
                self._from(node, place)
                continue
            if self._dynamic:
                self._expressions(node, place)
            blocks = self._blocks(node, place)
            stack += [(child, inner) for body, inner in reversed(blocks) for child in reversed(self._worth(body))]

    def _worth(self, body: list[ast.stmt]) -> list[ast.stmt]:
        """Return the statements of a block that can bring an import, which are few in most code."""
        if not self._dynamic:
            return [node for node in body if type(node) in HOLDERS]
        return [node for node in body if type(node) in HOLDERS or self._dynamic.touch(node)]

    def _from(self, node: ast.ImportFrom, place: Place) -> None:
        if node.level or not node.module or node.module == "__future__":
            return
        names = tuple(alias.name for alias in node.names)
        self.found.append(FoundImport(node.module, names, place.context, node.lineno, place.group))

    def _blocks(self, node: ast.stmt, place: Place) -> list[tuple[list[ast.stmt], Place]]:  # noqa: PLR0911 - one return a kind
        """Return the blocks of statements inside a statement, each with its place."""
        match node:  # what is not named here holds no statements
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                return [(node.body, place.within(ImportContext.LAZY))]
            case ast.If():
                return self._branches(node, place)
            case ast.Try() | ast.TryStar():
                return self._attempts(node, place)
            case ast.With() | ast.AsyncWith():
                suppressed = any(suppresses_import_errors(item.context_expr) for item in node.items)
                return [(node.body, place.within(ImportContext.OPTIONAL) if suppressed else place)]
            case ast.For() | ast.AsyncFor() | ast.While():
                return [(node.body, place), (node.orelse, place)]
            case ast.ClassDef():
                return [(node.body, place)]
            case ast.Match():
                return [(case.body, place) for case in node.cases]
        return []

    def _branches(self, node: ast.If, place: Place) -> list[tuple[list[ast.stmt], Place]]:
        holds = truth(node.test, self._target)
        if isinstance(holds, bool):
            never = place.within(ImportContext.OTHER_PLATFORM)
            return [(node.body, place if holds else never), (node.orelse, never if holds else place)]
        if holds is not None:
            negated = isinstance(node.test, ast.UnaryOp)
            inner = place.within(holds)
            return [(node.body, place if negated else inner), (node.orelse, inner if negated else place)]
        return [(node.body, place), (node.orelse, place)]

    def _attempts(self, node: ast.Try | ast.TryStar, place: Place) -> list[tuple[list[ast.stmt], Place]]:
        guards = [handler for handler in node.handlers if catches_import_errors(handler)]
        if not guards or all(ends_the_run(handler.body) for handler in guards):
            inside = ImportContext.ALTERNATIVE if guards else ImportContext.LAZY
            handlers = [(handler.body, place.within(inside)) for handler in node.handlers]
            return [(node.body, place), *handlers, (node.orelse, place), (node.finalbody, place)]
        self._groups += 1
        group = self._groups
        body = place.within(ImportContext.OPTIONAL, group)
        blocks = [(node.body, body)]
        for handler in node.handlers:
            inside = ImportContext.ALTERNATIVE if handler in guards else ImportContext.LAZY
            blocks.append((handler.body, place.within(inside, group)))
        return [*blocks, (node.orelse, body), (node.finalbody, place)]

    def _expressions(self, statement: ast.stmt, place: Place) -> None:
        """Collect `import_module("x")`, `__import__("x")` and `importorskip("x")` outside of nested statements."""
        for node in self._dynamic.walk(statement, without=(ast.stmt,)):
            if not isinstance(node, ast.Call) or not node.args or not DYNAMIC_WORDS.fullmatch(name_of(node.func)):
                continue
            name = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
            if isinstance(name, str) and MODULE.fullmatch(name):
                inner = place.within(ImportContext.DYNAMIC) if place.context == ImportContext.PLAIN else place
                self.found.append(FoundImport(name, (), inner.context, node.lineno, inner.group))


def catches_import_errors(handler: ast.ExceptHandler) -> bool:
    """Say whether a failing import would end up in this handler."""
    if handler.type is None:
        return True
    types = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(name_of(node) in IMPORT_ERRORS for node in types)


def suppresses_import_errors(node: ast.expr) -> bool:
    """Say whether this is `suppress(ImportError)`."""
    return (
        isinstance(node, ast.Call)
        and name_of(node.func) == "suppress"
        and any(name_of(argument) in IMPORT_ERRORS for argument in node.args)
    )


def ends_the_run(body: list[ast.stmt]) -> bool:
    """Say whether a handler gives up: then what it guards is not optional."""
    last = body[-1] if body else None
    if isinstance(last, ast.Raise):
        return True
    return (
        isinstance(last, ast.Expr)
        and isinstance(last.value, ast.Call)
        and name_of(last.value.func) in {"exit", "_exit", "quit", "skip"}
    )
