"""From source text to one code object: the last expression's value is kept, mount paths are mapped.

Called by `execute.py`, inside the environment. Works on the syntax tree, never on the text, so line and column numbers
in tracebacks stay true. Never runs anything.
"""

from __future__ import annotations

import _ast as nodes  # ast itself imports enum and more, which takes as long as a short program

TYPE_CHECKING = False  # as `typing.TYPE_CHECKING`, without the time that importing typing costs each run
if TYPE_CHECKING:
    import ast
    from collections.abc import Iterator, Mapping
    from types import CodeType
    from typing import Any

VALUE = "<value>"
"""The global that takes the last expression's value: no identifier, so no code can name it by accident."""

FLAGS = nodes.PyCF_ALLOW_TOP_LEVEL_AWAIT
SCOPES = (nodes.Module, nodes.FunctionDef, nodes.AsyncFunctionDef, nodes.ClassDef)
PLACE = ("lineno", "col_offset", "end_lineno", "end_col_offset")


def compile_code(code: str, filename: str, mounts: Mounts) -> CodeType:
    """Return the code object of a program; running it leaves the last expression's value in the global `VALUE`.

    Raises:
        SyntaxError: in Python's own words.
    """
    text = code.removeprefix("\ufeff")
    check_characters(text, filename)
    try:
        try:
            tree = compile(text, filename, "exec", FLAGS | nodes.PyCF_ONLY_AST, dont_inherit=True)
            keep_last_value(tree)
            mounts.map_tree(tree)
            compiled: CodeType = compile(tree, filename, "exec", FLAGS, dont_inherit=True)
        except RecursionError:  # the way over the tree allows less nesting than the compiler alone
            compiled = compile(text, filename, "exec", FLAGS, dont_inherit=True)
    except SyntaxError as error:
        add_source_line(error, text)
        raise
    return compiled


def check_characters(text: str, filename: str) -> None:
    """Refuse what no file of Python source can hold, in the words of the newest Python, the same on all of them."""
    position = text.find("\0")
    reason = "source code cannot contain null bytes"
    if position < 0:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            position, reason = error.start, "source code cannot contain surrogates"
        else:
            return
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    raise SyntaxError(reason, (filename, line, column, None))


def add_source_line(error: SyntaxError, text: str) -> None:
    """Give the error its line of source if Python could not read it from the file."""
    if error.text is not None or not error.lineno:
        return
    lines = text.splitlines()
    if error.lineno <= len(lines):
        error.text = lines[error.lineno - 1].replace("\0", "\\0").encode("utf-8", "backslashreplace").decode() + "\n"


def keep_last_value(tree: ast.Module) -> None:
    """Turn a last statement that is an expression into an assignment to `VALUE`."""
    if not tree.body or not isinstance(tree.body[-1], nodes.Expr):
        return
    last = tree.body[-1]
    place = {name: getattr(last, name) for name in PLACE}
    value = last.value
    if len(tree.body) == 1 and docstring(tree) is not None:
        assert isinstance(value, nodes.Constant)  # noqa: S101 - that is what a docstring is
        value = nodes.Constant(value=value.value, **{name: getattr(value, name) for name in PLACE})
    else:
        tree.body.pop()  # a lone string is both the docstring and the value
    target = nodes.Name(id=VALUE, ctx=nodes.Store(), **place)
    tree.body.append(nodes.Assign(targets=[target], value=value, type_comment=None, **place))


def docstring(scope: ast.AST) -> ast.Constant | None:
    """Return the node of a scope's docstring, if it has one."""
    body = getattr(scope, "body", None)
    if not isinstance(scope, SCOPES) or not body or not isinstance(body[0], nodes.Expr):
        return None
    first = body[0].value
    return first if isinstance(first, nodes.Constant) and isinstance(first.value, str) else None


class Mounts:
    """Maps paths below a mount to where the mount really is, where the kernel does not do it.

    Attributes:
        mapped: how many texts were mapped so far.
    """

    def __init__(self, mapping: Mapping[str, str]) -> None:
        pairs = [(mount.rstrip("/"), target.rstrip("/")) for mount, target in mapping.items()]
        self.pairs = sorted(pairs, key=lambda pair: -len(pair[0]))
        self.mapped = 0

    def text(self, text: str) -> str:
        """Return the text with its mount replaced; what is no path below a mount, or leaves it, stays as it is."""
        for mount, target in self.pairs:
            if text != mount and not text.startswith(mount + "/"):
                continue
            rest = text[len(mount) :]
            if leaves(rest):
                return text
            self.mapped += 1
            return target + rest
        return text

    def data(self, value: Any) -> Any:
        """Map the texts in a JSON value (not the keys)."""
        if not self.pairs:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.data(item) for item in value]
        if isinstance(value, dict):
            return {key: self.data(item) for key, item in value.items()}
        return value

    def map_tree(self, tree: ast.AST) -> None:
        """Map the constant strings and bytes of a program, except docstrings and the inner parts of f-strings."""
        if not self.pairs:
            return
        import ast

        skipped: set[int] = set()
        for node in ast.walk(tree):  # parents come before their children
            skipped.update(map(id, unmapped_constants(node)))
            if not isinstance(node, ast.Constant) or id(node) in skipped:
                continue
            if isinstance(node.value, str):
                node.value = self.text(node.value)
            elif isinstance(node.value, bytes):
                node.value = self.text(node.value.decode("latin-1")).encode("latin-1", "replace")


def unmapped_constants(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the constants below this node that are no path even if they look like one."""
    doc = docstring(node)
    if doc is not None:
        yield doc
    values = getattr(node, "values", None)
    if type(node).__name__ in ("JoinedStr", "TemplateStr") and values:
        yield from values[1:]
    specification = getattr(node, "format_spec", None)
    if isinstance(specification, nodes.JoinedStr):
        yield from specification.values


def leaves(rest: str) -> bool:
    """Say whether the rest of a path climbs above where it begins, at any point."""
    depth = 0
    for part in rest.split("/"):
        if part == "..":
            depth -= 1
        elif part not in ("", "."):
            depth += 1
        if depth < 0:
            return True
    return False
