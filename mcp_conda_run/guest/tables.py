"""The head of a pandas table as Markdown, with its shape: what a model reads with the fewest tokens.

Called through `representations.py`, inside the environment. Imports no package, and asks a table for no more cells than
it shows.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_ROWS, MAX_COLUMNS, MAX_CELL = 20, 20, 100


def markdown(value: Any) -> str | None:
    """Return a DataFrame or a Series as a Markdown table of its first rows and columns, and what its shape is."""
    if len(value.shape) == 1:
        head = value.iloc[:MAX_ROWS]
        name = "" if value.name is None else cell(value.name)
        rows = [[cell(label), cell(item)] for label, item in zip(head.index.tolist(), head.tolist())]  # noqa: B905
        lines = table(["", name], rows)
        return "\n".join([*lines, "", f"{value.shape[0]} rows, {cell(value.dtype)}{more(value.shape[0], 1)}"])
    height, width = value.shape
    head = value.iloc[:MAX_ROWS, :MAX_COLUMNS]
    columns = [head.iloc[:, position].tolist() for position in range(head.shape[1])]
    rows = [
        [cell(label), *(cell(column[position]) for column in columns)]
        for position, label in enumerate(head.index.tolist())
    ]
    lines = table(["", *map(cell, head.columns.tolist())], rows)
    return "\n".join([*lines, "", f"{height} rows x {width} columns{more(height, width)}"])


def more(height: int, width: int) -> str:
    """Say what of a table is shown, if not all."""
    parts = [f"{MAX_ROWS} rows"] if height > MAX_ROWS else []
    parts += [f"{MAX_COLUMNS} columns"] if width > MAX_COLUMNS else []
    return f" (the first {' and '.join(parts)} shown)" if parts else ""


def table(names: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [line(names), line(["---"] * len(names)), *map(line, rows)]


def line(cells: list[str]) -> str:
    """Return one row."""
    return f"| {' | '.join(cells)} |"


def cell(value: Any) -> str:
    """Return one cell, on one line."""
    text = f"{value:.6g}" if type(value) is float else str(value)
    text = text if len(text) <= MAX_CELL else f"{text[: MAX_CELL - 3]}..."
    return text.replace("|", "\\|").replace("\r", " ").replace("\n", " ")
