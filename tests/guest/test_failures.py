"""What a record says of an exception: Python's own words, without our frames."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from .test_execute import code, failure


def as_a_script(path, text: str) -> str:
    """Return what Python itself prints of the same program."""
    path.write_text(text)
    return subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=False).stderr


def without_counts(text: str) -> str:
    """Leave out how deep a recursion went, which depends on the frames below the program."""
    return re.sub(r"repeated \d+ more", "repeated N more", text)


PROGRAMS = {
    "plain": "def f(x):\n    return 1 / x\n\nf(0)",
    "last expression": "x = {}\nx['a']['b']",
    "chained": "try:\n    {}['a']\nexcept KeyError as e:\n    raise ValueError('bad') from e",
    "during handling": "def g():\n    raise TypeError('two')\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    g()",
    "suppressed": "try:\n    1 / 0\nexcept ZeroDivisionError:\n    raise ValueError('x') from None",
    "group": "raise ExceptionGroup('both', [ValueError(1), ExceptionGroup('in', [TypeError(2)])])",
    "group of raised": code(
        """
        errors = []
        for i in range(2):
            try:
                [][i]
            except IndexError as e:
                errors.append(e)
        raise ExceptionGroup("all", errors)
        """
    ),
    "note": "e = ValueError('x')\ne.add_note('a note')\nraise e",
    "recursion": "def f(n):\n    return f(n + 1)\nf(0)",
    "import of a missing module": "import json.nothing_here",
    "name": "import math\nmath.sqroot(2)",
    "exec": "exec('1/0')",
    "bad str": "class E(Exception):\n    def __str__(self): raise RuntimeError('no')\nraise E",
    "syntax": "x = (1,\ny = 2",
    "indentation": "if True:\nx = 1",
    "return outside": "x = 1\nreturn x",
    "await in function": "def f():\n    await g()",
    "bad escape": "'\\N{nope}'",
    "multi-line": "raise ValueError('one\\ntwo')",
    "assert": "assert 1 == 2, 'no'",
    "ring": "a = ValueError('a')\nb = ValueError('b')\na.__cause__ = b\nb.__cause__ = a\nraise a",
}


@pytest.mark.parametrize("name", PROGRAMS)
async def test_the_traceback_is_what_python_prints(run, tmp_path, name):
    if name == "name" and sys.version_info < (3, 12):
        pytest.skip("before Python 3.12 only the interpreter itself can make suggestions")
    program = PROGRAMS[name] + "\n"
    expected = as_a_script(tmp_path / "main.py", program)
    error = failure(await run(program))
    assert without_counts(error.traceback) == without_counts(expected)


@pytest.mark.parametrize("name", [name for name in PROGRAMS if "group" not in name and name != "note"])
async def test_no_frame_of_ours_is_seen_under_any_python(run_any, name):
    error = failure(await run_any(PROGRAMS[name]))
    assert "execute.py" not in error.traceback
    assert "asyncio" not in error.traceback


async def test_no_frame_of_ours_or_of_asyncio_is_seen_with_top_level_await(run_any):
    said = await run_any("import asyncio\nasync def f():\n    1 / 0\nawait asyncio.sleep(0)\nawait f()")
    lines = failure(said).traceback.splitlines()
    assert [line.split(", ")[-1] for line in lines if line.startswith("  File")] == ["in <module>", "in f"]


async def test_the_source_is_shown_even_if_the_file_is_gone(run_any, tmp_path):
    said = await run_any("import os\nos.remove(__file__)\n1 / 0")
    assert "\n    1 / 0\n" in failure(said).traceback


@pytest.mark.parametrize(
    "damage",
    [
        "sys.path.clear(); sys.meta_path.clear(); sys.path_hooks.clear()",
        "sys.path = sys.meta_path = []",
        "sys.modules.clear()",
        "import builtins; builtins.__import__ = None",
        "import builtins; builtins.len = builtins.isinstance = builtins.str = None",
        "sys.modules['traceback'] = sys.modules['linecache'] = None",
        "sys.setrecursionlimit(60)",
    ],
)
async def test_the_traceback_of_a_program_that_broke_its_interpreter_is_there(run_any, damage):
    error = failure(await run_any(f"import sys\n{damage}\n1 / 0"))
    assert error.type == "ZeroDivisionError"
    assert "1 / 0" in error.traceback


async def test_a_keyboard_interrupt_is_an_error_of_its_own(run_any):
    said = await run_any("raise KeyboardInterrupt")
    assert failure(said).type == "KeyboardInterrupt"
    assert said.exit.code == 130


async def test_the_message_is_one_line(run_any):
    error = failure(await run_any("raise ValueError('one\\ntwo')"))
    assert (error.type, error.message) == ("ValueError", "one")


async def test_a_nul_byte_is_a_syntax_error_with_its_place(run_any):
    error = failure(await run_any("x = 1\ny = '\0'"))
    assert error.type == "SyntaxError"
    assert "line 2" in error.traceback
    assert "null bytes" in error.message


async def test_a_lone_surrogate_is_a_syntax_error_with_its_place(run_any):
    error = failure(await run_any("x = 1\ny = '\ud800'"))
    assert error.type == "SyntaxError"
    assert "line 2" in error.traceback


async def test_a_traceback_is_bounded_and_keeps_its_end(run_any):
    program = """
        def f(n):
            return g(n)
        def g(n):
            return f(n)
        try:
            f(0)
        except RecursionError:
            raise ValueError("x" * 300_000 + "the end")
        """
    said = await run_any(code(program))
    error = failure(said)
    assert len(error.traceback) < 70_000
    assert error.traceback.endswith("the end\n")


async def test_a_traceback_is_bounded_as_json_wherever_its_long_characters_are(run):
    said = await run("raise ValueError('x' * 300_000 + '\U0001f600' * 100_000)")
    assert failure(said).traceback.endswith("\U0001f600\n")


@pytest.mark.parametrize(
    "hostile",
    [
        "class E(Exception):\n    __cause__ = property(lambda s: 1 / 0)\n    __context__ = __traceback__ = __cause__",
        "class E(Exception):\n    def with_traceback(s, t): 1 / 0\n    def __getattribute__(s, n): raise SystemExit",
        "class M(type):\n    __name__ = property(lambda s: 1/0)\nclass E(Exception, metaclass=M):\n    __module__ = 5",
        "class E(Exception):\n    __class__ = int\n    def __str__(self): return 5",
        "class E(ImportError):\n    name = property(lambda s: 1 / 0)\n    path = name",
        "class S(str):\n    def __getitem__(s, i): 1 / 0\nclass E(Exception):\n    def __str__(self): return S('x')",
    ],
)
async def test_a_hostile_exception_is_still_reported(run_any, hostile):
    said = await run_any(f"{hostile}\nraise E")
    assert failure(said).type == "E"
    assert said.exit.code == 1


async def test_a_replaced_excepthook_is_called_and_the_record_is_still_pythons(run_any):
    said = await run_any("import sys\nsys.excepthook = lambda t, e, tb: print('hook', t.__name__, tb.tb_lineno)\n1 / 0")
    assert said.stdout == "hook ZeroDivisionError 3\n"
    assert failure(said).traceback.startswith("Traceback (most recent call last):\n")


async def test_an_excepthook_that_fails_changes_nothing_else(run_any):
    said = await run_any("import sys\nsys.excepthook = lambda *a: {}['x']\n1 / 0")
    assert failure(said).type == "ZeroDivisionError"
    assert "KeyError" in said.stderr


# --- missing modules --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "missing"),
    [
        ("import nope_a.b", ("nope_a",)),
        ("import json.nope", ("json.nope",)),
        ("try:\n    import nope_a\nexcept ImportError as e:\n    raise RuntimeError('x') from e", ("nope_a",)),
        ("try:\n    import nope_a\nexcept ImportError:\n    raise RuntimeError('x') from None", ("nope_a",)),
        ("try:\n    import nope_a\nexcept ImportError:\n    import nope_b", ("nope_b", "nope_a")),
        ("from json import nope", ()),
        ("raise ImportError('no name')", ()),
        ("raise ImportError('x', name=5)", ()),
        ("raise ImportError('x', name='nope_c')", ("nope_c",)),
        ("1 / 0", ()),
    ],
)
async def test_missing_modules_are_named(run_any, program, missing):
    said = await run_any(program)
    assert said.record.missing == missing


async def test_a_part_of_a_namespace_package_counts_as_missing(run_any, tmp_path):
    (tmp_path / "space").mkdir()
    (tmp_path / "space" / "there.py").write_text("")
    said = await run_any("import space.there\nfrom space import elsewhere")
    assert said.record.missing == ("space.elsewhere",)


async def test_missing_modules_in_a_group_are_named(run):
    said = await run("raise ExceptionGroup('g', [ModuleNotFoundError('x', name='nope_d')])")
    assert said.record.missing == ("nope_d",)
