"""Constant strings that are paths below a mount are mapped where mounts are not real; nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_conda_run.guest.source import Mounts, leaves

from .test_execute import value

MAP = {"/working": "/where/it is"}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("'/working'", "/where/it is"),
        ("'/working/'", "/where/it is/"),
        ("'/working/a//b/../c'", "/where/it is/a//b/../c"),
        ("b'/working/\\xff'[-2:].hex() + b'/working/x'.decode()", "2fff/where/it is/x"),
        ("f'/working/{1}/x'", "/where/it is/1/x"),
        ("f'/working/{1:03}' f'/working/x'", "/where/it is/001/working/x"),
        ("'/working/' + 'x'", "/where/it is/x"),
        ("['/working/%d' % i for i in range(1)][0]", "/where/it is/0"),
        ("(lambda p='/working/d': p)()", "/where/it is/d"),
        ("f'{\"/working/x\"}'", "/where/it is/x"),
    ],
)
async def test_paths_below_the_mount_are_mapped(run_any, expression, expected):
    said = await run_any(f"x = {expression}\nx", mount_map=MAP)
    assert value(said) == expected
    assert said.record.mapped >= 1


@pytest.mark.parametrize(
    "expression",
    [
        "'/workingx'",
        "'/working2/a'",
        "'x/working/a'",
        "' /working/a'",
        "'cat /working/a'",
        "'/working/../etc/passwd'",
        "'/working/a/../../etc'",
        "'/working/..'",
        "'/working/../working/a'",
        "b'/working/../etc'.decode()",
        "'//working/a'",
        "f'{1}/working/a'",
    ],
)
async def test_other_texts_are_left_alone(run_any, expression):
    said = await run_any(f"x = {expression}\nx", mount_map=MAP)
    assert value(said) == eval(expression)
    assert said.record.mapped == 0


async def test_docstrings_are_left_alone(run_any):
    program = "'/working/doc'\ndef f():\n    '/working/f'\nclass C:\n    '/working/c'\n[__doc__, f.__doc__, C.__doc__]"
    said = await run_any(program, mount_map=MAP)
    assert value(said) == ["/working/doc", "/working/f", "/working/c"]
    assert said.record.mapped == 0


async def test_arguments_and_globals_are_mapped_too(run):
    said = await run(
        "import sys\n[sys.argv[1:], g]", mount_map=MAP, args=["/working/a"], globals={"g": {"k": ["/working/b"]}}
    )
    assert value(said) == [["/where/it is/a"], {"k": ["/where/it is/b"]}]
    assert said.record.mapped == 2


async def test_the_longest_mount_wins(run):
    said = await run("x = ['/a/b/c', '/a/c']\nx", mount_map={"/a": "/one", "/a/b": "/two"})
    assert value(said) == ["/two/c", "/one/c"]


async def test_mapping_leaves_lines_and_columns_alone(run):
    said = await run("open('/working/none') if 1 / 0 else None", mount_map=MAP)
    assert "    open('/working/none') if 1 / 0 else None\n" in said.record.error.traceback


async def test_without_a_map_nothing_is_touched(run_any):
    said = await run_any("'/working/x'")
    assert (value(said), said.record.mapped) == ("/working/x", 0)


@given(st.lists(st.sampled_from(["..", ".", "", "a", "working", "where"]), max_size=8).map("/".join))
def test_a_mapped_path_never_leaves_the_mount(rest):
    import posixpath

    path = f"/working/{rest}"
    mapped = Mounts(MAP).text(path)
    if mapped != path:
        assert (posixpath.normpath(mapped) + "/").startswith("/where/it is/")
    elif not leaves(f"/{rest}"):
        raise AssertionError(path)
