"""Where in a text a pattern occurs, to walk over the parts of its syntax tree that lie there and over no others.

Called by the walks over imports and hints: a walk over all of a large tree costs as much as parsing it. Reads only.
"""

from __future__ import annotations

import ast
import re
from bisect import bisect_left
from collections.abc import Iterator


class Marks:
    """The lines of a text on which a pattern occurs."""

    def __init__(self, code: str, pattern: re.Pattern[str]) -> None:
        self._lines: list[int] = []
        if "\r" in code:  # which ends a line for Python, too
            code = code.replace("\r\n", "\n").replace("\r", "\n")
        at, line = 0, 1
        for match in pattern.finditer(code):
            line += code.count("\n", at, match.start())
            at = match.start()
            if not self._lines or self._lines[-1] != line:
                self._lines.append(line)

    def __bool__(self) -> bool:
        return bool(self._lines)

    def touch(self, node: ast.AST) -> bool:
        """Say whether any of the lines belongs to a node; what has no place in the text always does."""
        first = getattr(node, "lineno", None)
        if first is None:
            return True
        decorators = getattr(node, "decorator_list", None)
        if decorators:  # they stand before the line on which their function begins
            first = decorators[0].lineno
        index = bisect_left(self._lines, first)
        return index < len(self._lines) and self._lines[index] <= node.end_lineno  # type: ignore[attr-defined]

    def walk(self, root: ast.AST, *, without: tuple[type[ast.AST], ...] = ()) -> Iterator[ast.AST]:
        """Yield the nodes below a node that lie on these lines, except those of some types with all that is in them."""
        stack = [root]
        while stack:
            node = stack.pop()
            below = [child for child in ast.iter_child_nodes(node) if not isinstance(child, without)]
            below = [child for child in below if self.touch(child)]
            yield from below
            stack += reversed(below)
