"""A program in a guest behaves as the same program does as a script."""

from __future__ import annotations

import textwrap

import pytest


def code(text: str) -> str:
    return textwrap.dedent(text).strip() + "\n"


def value(conversation):
    assert conversation.record is not None, conversation
    assert conversation.record.error is None, conversation.record.error.traceback
    return conversation.record.value.json if conversation.record.value else None


def failure(conversation):
    assert conversation.record is not None, conversation
    assert conversation.record.error is not None, conversation
    return conversation.record.error


# --- the value --------------------------------------------------------------------------------------------------------


async def test_the_last_expression_is_the_value(run_any):
    assert value(await run_any("x = 20\nx + 1")) == 21


async def test_a_last_statement_that_is_no_expression_has_no_value(run_any):
    said = await run_any("1\nx = 2")
    assert said.record.value is None
    assert said.exit.code == 0


async def test_none_is_no_value(run):
    assert (await run("print('x')")).record.value is None


async def test_a_lone_string_is_both_docstring_and_value(run_any):
    said = await run_any('"hello"\n')
    assert value(said) == "hello"
    assert value(await run_any('"""doc"""\n__doc__')) == "doc"


async def test_the_value_is_as_it_was_when_the_code_ended(run):
    said = await run("import atexit\nx = [1]\natexit.register(x.append, 2)\nx")
    assert value(said) == [1]


async def test_no_helper_name_is_left_in_the_globals(run_any):
    usual = "__annotations__ __builtins__ __cached__ __doc__ __file__ __loader__ __name__ __package__ __spec__"
    said = await run_any("a = 1\n' '.join(sorted(globals()))")
    assert value(said) == f"{usual} a"


async def test_top_level_await_works_and_has_a_value(run_any):
    said = await run_any(
        code(
            """
            import asyncio
            async def f(x):
                await asyncio.sleep(0)
                return x
            first = await f(1)
            async with asyncio.Lock():
                pass
            [first, await f(2), [y async for y in (x async for x in g())]] if (g := None) else first + await f(2)
            """
        )
    )
    assert value(said) == 3


async def test_all_awaits_share_one_event_loop(run_any):
    said = await run_any(
        code(
            """
            import asyncio
            task = asyncio.create_task(asyncio.sleep(0, "done"))
            await asyncio.sleep(0)
            await task
            """
        )
    )
    assert value(said) == "done"


async def test_code_without_await_may_run_its_own_event_loop(run_any):
    assert value(await run_any("import asyncio\nasync def f(): return 5\nasyncio.run(f())")) == 5


# --- the main module --------------------------------------------------------------------------------------------------


async def test_the_code_is_the_main_module(run_any):
    said = await run_any(
        code(
            """
            import sys, types
            main = sys.modules["__main__"]
            if __name__ == "__main__":
                ok = type(main) is types.ModuleType and vars(main) is globals() and main.__file__ == __file__
            ok
            """
        )
    )
    assert value(said) is True


async def test_arguments_and_paths_are_those_of_a_script(run_any, tmp_path):
    (tmp_path / "beside.py").write_text("name = 'beside'\n")
    said = await run_any("import sys, beside\n[sys.argv, sys.path[0], beside.name, __file__]", args=["a", "-b"])
    main = f"{tmp_path}/main.py"
    assert value(said) == [[main, "a", "-b"], str(tmp_path), "beside", main]


async def test_a_module_of_the_user_named_like_one_of_ours_is_found(run_any, tmp_path):
    for name in ("display", "execute", "source", "figures"):
        (tmp_path / f"{name}.py").write_text("mine = True\n")
    said = await run_any(
        "import display, execute, source, figures\n[m.mine for m in (display, execute, source, figures)]"
    )
    assert value(said) == [True] * 4


async def test_the_guest_directory_is_not_on_the_path(run_any):
    assert value(await run_any("import sys\n[p for p in sys.path if p.endswith('/guest')]")) == []


async def test_globals_are_there_before_the_code_starts(run_any):
    said = await run_any("[x, y['a']]", globals={"x": 1, "y": {"a": [None, "é"]}})
    assert value(said) == [1, [None, "é"]]


async def test_future_imports_work(run_any):
    said = await run_any("'''doc'''\nfrom __future__ import annotations\ndef f(x: Nowhere): pass\nf.__annotations__")
    assert value(said) == {"x": "Nowhere"}


async def test_our_own_future_imports_do_not_leak_into_the_code(run_any):
    said = await run_any("def f(x: int): pass\nf.__annotations__['x'] is int")
    assert value(said) is True


async def test_the_source_is_found_by_inspect(run_any):
    said = await run_any("import inspect\ndef f():\n    return 1  # here\ninspect.getsource(f)")
    assert value(said) == "def f():\n    return 1  # here\n"


async def test_classes_of_main_can_be_pickled_and_be_dataclasses(run_any):
    said = await run_any(
        code(
            """
            import dataclasses, pickle
            @dataclasses.dataclass
            class Point:
                x: int
                y: float = 2.0
            pickle.loads(pickle.dumps(Point(1)))
            """
        )
    )
    assert value(said) == {"x": 1, "y": 2.0}
    assert said.record.value.text == "Point(x=1, y=2.0)"
    assert said.record.value.type == "__main__.Point"


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
async def test_multiprocessing_works(run_any, method):
    said = await run_any(
        code(
            f"""
            import multiprocessing
            def square(x):
                return x * x
            if __name__ == "__main__":
                with multiprocessing.get_context({method!r}).Pool(2) as pool:
                    print(pool.map(square, range(4)))
            """
        )
    )
    assert said.stdout == "[0, 1, 4, 9]\n", said.stderr


async def test_a_bom_is_no_error(run_any):
    assert value(await run_any("\ufeffx = 1\nx")) == 1


async def test_code_is_written_only_if_that_is_asked_for(run, tmp_path):
    (tmp_path / "mine.py").write_text("# as it was\n")
    said = await run("1 + 1", filename=f"{tmp_path}/mine.py", write=False)
    assert value(said) == 2
    assert (tmp_path / "mine.py").read_text() == "# as it was\n"


@pytest.mark.parametrize("name", ["script", "my script.txt", "sub/dir/x.py", "ü.py"])
async def test_the_file_may_have_any_name(run_any, tmp_path, name):
    said = await run_any("import os\n[__file__, os.path.exists(__file__)]", filename=f"{tmp_path}/{name}")
    assert value(said) == [f"{tmp_path}/{name}", True]


async def test_a_name_that_no_file_can_have_is_a_note(run_any):
    said = await run_any("1 + 1", filename="a\ud800.py")
    assert value(said) == 2
    assert "could not be written" in said.record.notes[0]


async def test_a_relative_file_name_works(run_any, tmp_path):
    assert value(await run_any("__file__", filename="main.py")) == "main.py"
    assert (tmp_path / "main.py").exists()


async def test_a_file_that_cannot_be_written_is_a_note_and_tracebacks_still_have_source(run, tmp_path):
    (tmp_path / "file").write_text("")
    said = await run("1 / 0", filename=f"{tmp_path}/file/main.py")
    assert "could not be written" in said.record.notes[0]
    assert "\n    1 / 0\n" in failure(said).traceback


async def test_a_megabyte_of_code_runs(run):
    said = await run("x = 1\n" * 170_000 + "x")
    assert value(said) == 1


async def test_deeply_nested_code_is_an_error_of_the_code(run_any):
    said = await run_any("(" * 5000 + ")" * 5000)
    assert failure(said).type in ("SyntaxError", "MemoryError", "RecursionError")


async def test_code_that_only_the_compiler_alone_can_nest_still_runs(run):
    said = await run("x = " + "+".join(["1"] * 2000) + "\nprint(x)")
    assert said.stdout == "2000\n" or failure(said).type == "RecursionError"


# --- output -----------------------------------------------------------------------------------------------------------


async def test_output_is_in_the_order_of_printing(run_any):
    said = await run_any("import sys\nfor i in range(3):\n    print(i)\n    print(-i, file=sys.stderr)")
    assert said.stdout == "0\n1\n2\n"
    assert said.stderr == "0\n-1\n-2\n"


async def test_output_without_a_newline_is_flushed_at_the_end(run_any):
    said = await run_any("import sys\nsys.stdout.write('a')\nsys.stderr.write('b')")
    assert (said.stdout, said.stderr) == ("a", "b")


async def test_output_before_a_hard_exit_is_kept(run_any):
    said = await run_any("import os\nprint('before')\nos._exit(7)")
    assert said.stdout == "before\n"
    assert (said.record, said.exit.code) == (None, 7)


async def test_output_is_utf_8_whatever_the_locale(run_any):
    said = await run_any("print('ö€𝄞')", variables={"LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
    assert said.stdout == "ö€𝄞\n"


async def test_warnings_look_as_usual(run_any, tmp_path):
    said = await run_any("import warnings\nwarnings.warn('careful')\nwarnings.warn('old', DeprecationWarning)")
    assert f"{tmp_path}/main.py:2: UserWarning: careful\n  warnings.warn('careful')\n" in said.stderr
    assert f"{tmp_path}/main.py:3: DeprecationWarning: old\n" in said.stderr


async def test_a_warning_of_the_compiler_comes_once(run_any):
    said = await run_any("x = 1\nprint(x is 1)")
    assert said.stderr.count("SyntaxWarning") == 1


async def test_standard_input_is_empty(run_any):
    assert failure(await run_any("input()")).type == "EOFError"


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("leaving", "code_", "stderr"),
    [
        ("sys.exit()", 0, ""),
        ("sys.exit(0)", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit(True)", 1, ""),
        ("sys.exit(-1)", 255, ""),
        ("sys.exit(256)", 0, ""),
        ("sys.exit('bad thing')", 1, "bad thing\n"),
        ("raise SystemExit", 0, ""),
        ("exit(4)", 4, ""),
    ],
)
async def test_sys_exit_means_what_it_means_in_a_script(run, leaving, code_, stderr):
    said = await run(f"import sys\n{leaving}\nprint('not reached')")
    assert (said.exit.code, said.record.exit_code) == (code_, code_)
    assert (said.stdout, said.stderr) == ("", stderr)
    assert (said.record.error is None) == (code_ == 0)


async def test_sys_exit_says_why_in_the_record(run_any):
    error = failure(await run_any("import sys\nsys.exit('bad thing\\nmore')"))
    assert (error.type, error.message, error.traceback) == ("SystemExit", "bad thing", "")


async def test_threads_then_exit_functions_run_at_the_end(run_any):
    said = await run_any(
        code(
            """
            import atexit, threading
            atexit.register(print, "exit function")
            go = threading.Event()
            threading.Thread(target=lambda: (go.wait(), print("thread"))).start()
            print("end of code")
            go.set()
            """
        )
    )
    assert said.stdout.splitlines() == ["end of code", "thread", "exit function"]


async def test_executors_finish_what_was_submitted(run_any):
    said = await run_any(
        "from concurrent.futures import ThreadPoolExecutor\np = ThreadPoolExecutor(2)\nf = p.submit(print, 'late')"
    )
    assert said.stdout == "late\n"
    assert said.exit.code == 0


async def test_exit_functions_run_after_an_error_too(run_any):
    said = await run_any("import atexit\natexit.register(print, 'bye')\n1 / 0")
    assert said.stdout == "bye\n"
    assert failure(said).type == "ZeroDivisionError"


async def test_an_exit_function_that_fails_changes_nothing_else(run_any):
    said = await run_any("import atexit\natexit.register(lambda: 1 / 0)\n5")
    assert value(said) == 5
    assert "ZeroDivisionError" in said.stderr


async def test_daemon_threads_do_not_hold_up_the_end(run_any):
    said = await run_any(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n'done'"
    )
    assert value(said) == "done"


@pytest.mark.parametrize(
    "holder",
    [
        "f = open(path, 'w'); f.write('kept')",
        "import io\nf = io.TextIOWrapper(open(path, 'wb')); f.write('kept')",
        "class Node: pass\nn = Node(); n.me = n; n.f = open(path, 'w'); n.f.write('kept')",
        "import types, sys\nm = sys.modules['m'] = types.ModuleType('m'); m.f = open(path, 'w'); m.f.write('kept')",
        "import threading\nf = open(path, 'w'); f.write('kept')\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()",
    ],
    ids=["global", "wrapped", "cycle", "module", "daemon-thread"],
)
async def test_files_left_open_are_written_out(run_any, tmp_path, holder):
    said = await run_any(f"path = {str(tmp_path / 'out.txt')!r}\n{holder}\nx = 1")
    assert said.exit.code == 0
    assert (tmp_path / "out.txt").read_text() == "kept"


async def test_objects_are_finalized_at_the_end(run_any):
    said = await run_any("class A:\n    def __del__(self):\n        print('deleted')\na = A()\nprint('end')")
    assert said.stdout == "end\ndeleted\n"


async def test_what_c_code_printed_is_not_lost(run_any):
    said = await run_any("import ctypes\nctypes.CDLL(None).printf(b'from C\\n')\nx = 1")
    assert said.stdout == "from C\n"


async def test_a_crash_is_seen_as_its_signal(run_any):
    said = await run_any("import os, signal\nprint('x')\nos.kill(os.getpid(), signal.SIGSEGV)")
    assert (said.exit.signal, said.record, said.stdout) == ("SIGSEGV", None, "x\n")


async def test_a_forked_child_that_runs_to_the_end_says_nothing_to_the_host(run_any):
    said = await run_any(
        "import os\npid = os.fork()\nif pid:\n    os.waitpid(pid, 0)\nprint('p' if pid else 'c')\n'value'"
    )
    assert sorted(said.stdout.split()) == ["c", "p"]
    assert value(said) == "value"


async def test_a_forked_child_that_fails_prints_its_traceback(run_any):
    said = await run_any(
        "import os\npid = os.fork()\nif not pid:\n    1 / 0\nos.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])"
    )
    assert value(said) == 1
    assert "ZeroDivisionError: division by zero" in said.stderr


# --- programs that change the ground they stand on --------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        "import builtins\nfor n in ('len', 'str', 'isinstance', 'repr', 'print', 'open'): setattr(builtins, n, None)",
        "import builtins\nbuiltins.repr = lambda x: 'fake'",
        "import sys\nsys.stdout = sys.stderr = None",
        "import sys\nsys.stdout = object()",
        "import io, sys\nsys.stdout = io.StringIO()",
        "import sys\nsys.stdout.close()",
        "import os\nos.close(1); os.close(2)",
        "import sys\nsys.setrecursionlimit(50)",
        "import sys\nsys.settrace(lambda *a: 1 / 0)",
        "import sys\nsys.path.clear(); sys.meta_path.clear()",
        "import sys\nsys.modules.clear()",
        "import os, json\nos._exit = os.write = os.getpid = json.dumps = None",
        "globals().clear()",
        "import gc\ngc.disable()",
        "import signal, os\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)",
        "import threading\nthreading._shutdown = None",
    ],
)
async def test_a_program_that_breaks_its_interpreter_still_reports_its_value(run_any, damage):
    said = await run_any(f"{damage}\n[1, 'two']")
    assert value(said) == [1, "two"]
    assert said.record.value.text == "[1, 'two']"
    assert said.exit.code == 0


async def test_a_program_that_closes_the_channel_still_ends_with_its_code(run_any):
    said = await run_any("import os\nos.closerange(3, 256)\n1 / 0")
    assert (said.record, said.exit.code) == (None, 1)
    assert "ZeroDivisionError" in said.stderr
