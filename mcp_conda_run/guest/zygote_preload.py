"""What a zygote imports ahead of all runs, and the little work by which it gets warm.

Called by `zygote.py`: `load` once, `touch` in each forked process that waits for its run, so that the memory pages
which every run writes to are copied before the run is there. Warming up means doing once what code usually does: the
modules that packages import late are there then, and so are their caches.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import linecache
import os
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

PROGRAM = "import math\nvalues = [n * n for n in range(10)]\nprint(f'{math.fsum(values):.2f}', end='')\nvalues"
FAILING = "def f(n):\n    return 1 / n\nf(0)"
SIZES = ("value_bytes", "text_bytes", "representation_bytes", "figure_bytes")
LIMITS = {**dict.fromkeys(SIZES, 10_000), "figures": 0}


def load(modules: Iterable[str], execute: Any, filename: str) -> None:
    """Import the modules and warm up.

    Args:
        modules: dotted names.
        execute: the module of that name.
        filename: a file that a run may write.

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
    work(execute, filename)
    for name in modules:
        WARM_UP.get(name, nothing)(sys.modules[name], execute)


def touch(modules: Iterable[str], execute: Any, filename: str) -> None:
    """Write to the memory pages that runs write to; whatever fails here, the run will say better."""
    try:
        for name in modules:
            TOUCH.get(name, nothing)(sys.modules[name], execute)
        work(execute, filename)
    except Exception:
        return


def work(execute: Any, filename: str) -> None:
    """Take small programs the whole way that a run's goes; leave nothing of it."""
    state = sys.argv, sys.path[:], sys.meta_path[:], sys.modules["__main__"]
    output = os.dup(1)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    reader, writer = os.pipe()
    channel = execute.Channel(writer)
    channel.read = lambda _, size: os.read(reader, size)
    try:
        for text in (FAILING, PROGRAM):
            request = {"code": text, "filename": filename, "write": True, "args": [], "globals": {}, "path0": "/"}
            channel.send({**request, "mount_map": {}, "limits": LIMITS})
            job = execute.prepare(execute.receive(channel))
            execute.run(job)
            channel.send(execute.record(job))
            channel.receive()
            execute.ending.release(vars(job.module))
    finally:
        sys.argv, sys.path[:], sys.meta_path[:], sys.modules["__main__"] = state
        execute.ending.flush_streams()
        os.dup2(output, 1)
        for descriptor in (output, reader, writer):
            os.close(descriptor)
        linecache.cache.pop(filename, None)
        with contextlib.suppress(OSError):
            os.unlink(filename)


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
