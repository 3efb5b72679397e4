"""The JSON forms of numpy's and pandas' objects; `display.py` has those of Python's own.

Called through `display.py`, inside the environment. Imports neither package: whoever has such an object has it already.
No more of a large object becomes Python objects than can fit into the budget.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .display import Converter


WIDE = 200
"""A DataFrame with more columns than this is converted as a whole."""


def array(to: Converter, value: Any) -> Any:
    """Return a numpy array as nested lists; masked elements are null."""
    kind = value.dtype.kind
    masked = hasattr(value, "filled")
    if value.ndim == 0:
        return to.inner(value.tolist() if masked or kind == "O" else value[()])
    rows = rows_that_fit(to, value.shape[0], value.size)
    part = value[:rows]
    if value.ndim == 1 and (kind in "biufUO" or masked):
        return to.items(map(element, part.tolist()), value.shape[0])
    return to.items((part[index] for index in range(rows)), value.shape[0])


def element(value: Any) -> Any:
    """Return a list element as Python's own number (`tolist` leaves long doubles as they are)."""
    return float(value) if type(value).__name__ == "longdouble" else value


def rows_that_fit(to: Converter, rows: int, cells: int) -> int:
    """Return how many rows can fit into the budget at all, so that no more are converted to Python objects."""
    width = max(cells // rows, 1) if rows else 1
    return min(rows, max(to.left, 0) // (2 * width) + 1)


def scalar(to: Converter, value: Any) -> Any:
    """Return a numpy scalar."""
    kind = value.dtype.kind
    if kind == "M":
        text = str(value)
        return to.number(None) if text == "NaT" else to.text(text)
    if kind == "m":
        seconds = value / type(value)(1, "s")
        return to.number(float(seconds))
    if kind == "f":
        return to.number(float(value))
    if kind == "c":
        return to.inner(complex(value))
    if kind == "V" and value.dtype.names:
        return to.pairs((name, value[name]) for name in value.dtype.names)
    return to.inner(value.item())


def frame(to: Converter, value: Any) -> Any:
    """Return a DataFrame in pandas' own `split` orientation, so that `DataFrame(**json)` gives it back."""
    width = value.shape[1]
    columns = to.items(value.columns.tolist(), width)
    rows = rows_that_fit(to, len(value), len(value) * max(width, 1))
    part = value.iloc[:rows, : len(columns)]
    rows_of_cells = cells_by_row(part)
    index: list[Any] = []
    data: list[Any] = []
    for label, cells in zip(part.index.tolist(), rows_of_cells):  # noqa: B905 - equal lengths by construction
        if to.full():
            break
        name, row = to.inner(label), [to.inner(cell) for cell in cells]
        if to.left < 0:  # no part of a row
            to.left = 0
            break
        index.append(name)
        data.append(row)
    to.truncated = to.truncated or len(index) < len(value)
    return {"columns": columns, "index": index, "data": data}


def cells_by_row(part: Any) -> Any:
    """Return the cells of a DataFrame as Python objects, row by row.

    Taking its columns one by one keeps their types apart, but takes a tenth of a millisecond for each.
    """
    width = part.shape[1]
    if width > WIDE:
        return part.to_numpy(dtype=object).tolist()
    columns = [part.iloc[:, position].tolist() for position in range(width)]
    return [[column[row] for column in columns] for row in range(len(part))]


def series(to: Converter, value: Any) -> Any:
    """Return a Series as its name, index and data."""
    rows = rows_that_fit(to, len(value), 2 * len(value))
    part = value.iloc[:rows]
    name = to.inner(value.name)
    index: list[Any] = []
    data: list[Any] = []
    for label, item in zip(part.index.tolist(), part.tolist()):  # noqa: B905 - equal lengths by construction
        if to.full():
            break
        index.append(to.inner(label))
        data.append(to.inner(item))
    to.truncated = to.truncated or len(index) < len(value)
    return {"name": name, "index": index, "data": data}


def labels(to: Converter, value: Any) -> Any:
    """Return a pandas Index or extension array as a list."""
    return to.items(value[: rows_that_fit(to, len(value), len(value))].tolist(), len(value))


FORMS: dict[str, Callable[[Converter, Any], Any]] = {
    "numpy.ndarray": array,
    "numpy.generic": scalar,
    "pandas.DataFrame": frame,
    "pandas.Series": series,
    "pandas.Index": labels,
    "pandas.ExtensionArray": labels,
    "pandas.NaTType": lambda to, _: to.number(None),
    "pandas.NAType": lambda to, _: to.number(None),
    "pandas._Period": lambda to, value: to.text(str(value)),
    "pandas.Interval": lambda to, value: to.text(str(value)),
}
"""As `display.FORMS`."""
