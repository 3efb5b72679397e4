"""What a zygote imports ahead of all runs, and the little work by which it gets warm.

Called by `zygote.py`: `load` once, `touch` in each forked process that waits for its run, so that the memory pages
which every run writes to are copied before the run is there. Warming up means doing once what code usually does: the
modules that packages import late are there then, and so are their caches.
"""

from __future__ import annotations

import importlib
import io
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

STANDARD = (
    *("abc", "argparse", "ast", "base64", "bisect", "collections", "collections.abc", "concurrent.futures"),
    *("contextlib", "copy", "csv", "dataclasses", "datetime", "decimal", "enum", "fractions", "functools", "glob"),
    *("hashlib", "heapq", "inspect", "io", "itertools", "json", "logging", "math", "numbers", "operator", "os"),
    *("pathlib", "pickle", "platform", "pprint", "random", "re", "shutil", "statistics", "string", "struct"),
    *("subprocess", "tempfile", "textwrap", "threading", "time", "traceback", "types", "typing", "unicodedata"),
    *("uuid", "warnings", "weakref", "zlib"),
)
"""Standard modules that most programs or packages import."""

PROGRAM = "import math\nvalues = [n * n for n in range(10)]\nprint(end='')\nf'{math.fsum(values):.2f}'"


def load(modules: Iterable[str], execute: Any) -> None:
    """Import the modules and warm up.

    Raises:
        ImportError: or whatever else a package raises: then this zygote is of no use.
    """
    for name in STANDARD:
        try:
            importlib.import_module(name)
        except ImportError:  # this Python has it not
            continue
    for name in modules:
        importlib.import_module(name)
    work(execute)
    for name in modules:
        WARM_UP.get(name, nothing)(sys.modules[name], execute)


def touch(modules: Iterable[str], execute: Any) -> None:
    """Write to the memory pages that runs write to; whatever fails here, the run will say better."""
    try:
        work(execute)
        for name in modules:
            TOUCH.get(name, nothing)(sys.modules[name], execute)
    except Exception:
        return


def work(execute: Any) -> None:
    """Compile, run and describe a small program, one that fails included."""
    source = execute.source
    code = source.compile_code(PROGRAM, "<warm-up>", source.Mounts({}))
    names: dict[str, Any] = {"__builtins__": __builtins__}
    exec(code, names)
    execute.display.describe(names[source.VALUE], 1000, 1000)
    try:
        exec(compile("1 / 0", "<warm-up>", "exec"), {"__builtins__": __builtins__})
    except ZeroDivisionError as error:
        execute.failures.describe(error, None, 1000)


def nothing(*_: Any) -> None:
    """Do nothing."""


def numpy_warm_up(numpy: Any, execute: Any) -> None:
    """Add, solve, draw random numbers, print."""
    numpy.linalg.solve(numpy.eye(3), numpy.ones(3))
    numpy.random.rand(3)
    numpy.random.default_rng().normal(size=3)
    numpy_touch(numpy, execute)


def numpy_touch(numpy: Any, execute: Any) -> None:
    """Add and print."""
    values = numpy.arange(10.0)
    str(values * 2 + numpy.sin(values))
    execute.display.describe(values.sum(), 1000, 1000)


def pandas_warm_up(pandas: Any, execute: Any) -> None:
    """Read, write, group, merge, sort, pivot."""
    frame = pandas.DataFrame({"g": list("aab"), "x": [1.0, 2.0, 3.0]})
    text = frame.to_csv(index=False)
    pandas.read_csv(io.StringIO(text)).describe()
    frame.groupby("g").agg({"x": ["mean", "sum"]})
    frame.merge(frame, on="g").sort_values("x_x").pivot_table(index="g", values="x_y")
    pandas.to_datetime(["2020-01-01"])
    execute.display.describe(frame, 10_000, 10_000)
    pandas_touch(pandas, execute)


def pandas_touch(pandas: Any, _: Any) -> None:
    """Group and print."""
    str(pandas.DataFrame({"g": ["a", "b"], "x": [1.0, 2.0]}).groupby("g").x.sum())


def pyplot_warm_up(pyplot: Any, _: Any) -> None:
    """Draw and save a figure."""
    figure, axes = pyplot.subplots()
    axes.plot([1, 2, 3], label="x")
    axes.set_title("x")
    axes.legend()
    figure.savefig(io.BytesIO(), format="png")
    pyplot.close("all")


WARM_UP = {"numpy": numpy_warm_up, "pandas": pandas_warm_up, "matplotlib.pyplot": pyplot_warm_up}
TOUCH = {"numpy": numpy_touch, "pandas": pandas_touch}
