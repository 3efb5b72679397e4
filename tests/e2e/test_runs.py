"""Whole runs through the library: code in, result out, nothing left."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mcp_conda_run import RunRequest, Runtime
from mcp_conda_run.models import Progress, Status
from mcp_conda_run.sandbox.files_out import now_ns

from ..support.warm import small_settings


@pytest.fixture
async def runtime(warm_small_cache: Path, small_channel: Path, tmp_path: Path) -> AsyncIterator[Runtime]:
    async with Runtime(small_settings(warm_small_cache, small_channel, path=tmp_path)) as runtime:
        yield runtime


async def test_output_and_value_come_back(runtime: Runtime):
    result = await runtime.run(RunRequest(code="print('hello')\n6 * 7"))
    assert (result.status, result.stdout, result.value and result.value.json) == (Status.SUCCESS, "hello\n", 42)


async def test_code_runs_with_the_packages_of_the_template(runtime: Runtime):
    result = await runtime.run(RunRequest(code="import numpy\nnumpy.arange(10).sum()"))
    assert (result.status, result.value and result.value.json, result.packages) == (Status.SUCCESS, 45, ())


async def test_a_missing_import_is_installed_before_the_code_runs(runtime: Runtime):
    result = await runtime.run(RunRequest(code="print('once')\nimport mcr_two\nmcr_two.version"))
    assert (result.status, result.stdout, len(result.attempts)) == (Status.SUCCESS, "once\n", 1)
    assert [(package.name, package.version, package.import_name) for package in result.packages] == [
        ("mcr-two", "2.0", "mcr_two")
    ]
    assert result.packages[0].reason


async def test_a_package_can_be_asked_for_in_a_version(runtime: Runtime):
    result = await runtime.run(RunRequest(code="import mcr_two\nmcr_two.version", packages=("mcr-two <2",)))
    assert result.value is not None
    assert result.value.json == "1.0"


async def test_what_a_run_adds_is_not_there_in_the_next_one(runtime: Runtime):
    await runtime.run(RunRequest(code="import mcr_two"))
    result = await runtime.run(RunRequest(code="from importlib.util import find_spec as f\nf('mcr_' + 'two') is None"))
    assert result.value is not None
    assert result.value.json is True


async def test_what_a_run_writes_to_its_prefix_is_gone_afterwards(runtime: Runtime):
    code = "import sys, os\nopen(os.path.join(sys.prefix, 'mark'), 'w').close()\nsys.prefix"
    await runtime.run(RunRequest(code=code))
    again = await runtime.run(RunRequest(code="import sys, os\nos.path.exists(os.path.join(sys.prefix, 'mark'))"))
    assert again.value is not None
    assert again.value.json is False


async def test_nothing_of_a_run_is_left(runtime: Runtime):
    await runtime.run(
        RunRequest(code="open('x', 'w').close(); import os; os.makedirs(os.path.expanduser('~/deep/er'))")
    )
    assert await asyncio.to_thread(runtime.store.trash.wait, 30)
    assert (list(runtime.store.runs.iterdir()), list(runtime.store.scratch.iterdir())) == ([], [])


async def test_files_are_read_and_written_where_the_mount_is(runtime: Runtime, tmp_path: Path):
    (tmp_path / "in.txt").write_text("seven")
    code = "text = open('/working/in.txt').read()\nopen('/working/out.txt', 'w').write(text.upper())"
    result = await runtime.run(RunRequest(code=code))
    assert (result.status, (tmp_path / "out.txt").read_text()) == (Status.SUCCESS, "SEVEN")


async def test_a_file_runs_under_its_own_name_with_its_arguments_and_its_neighbours(runtime: Runtime, tmp_path: Path):
    (tmp_path / "helper.py").write_text("VALUE = 5\n")
    (tmp_path / "job.py").write_text("import sys, helper\nprint(sys.argv[1:], helper.VALUE)\n1 / 0\n")
    result = await runtime.run(RunRequest(file="/working/job.py", args=("a", "b c")))
    assert (result.status, result.stdout) == (Status.RUN_ERROR, "['a', 'b c'] 5\n")
    assert result.error is not None
    assert "job.py" in result.error.traceback
    assert "1 / 0" in result.error.traceback


async def test_given_variables_are_there(runtime: Runtime):
    result = await runtime.run(RunRequest(code="a + b['c']", global_variables={"a": 1, "b": {"c": 2}}))
    assert result.value is not None
    assert result.value.json == 3


async def test_an_unknown_import_runs_and_fails_in_pythons_own_words(runtime: Runtime):
    result = await runtime.run(RunRequest(code="print('ran')\nimport surely_no_such_module_anywhere"))
    assert (result.status, result.stdout) == (Status.RUN_ERROR, "ran\n")
    assert result.error is not None
    assert result.error.type == "ModuleNotFoundError"
    assert [unknown.import_name for unknown in result.unknown_imports] == ["surely_no_such_module_anywhere"]


async def test_packages_that_do_not_fit_together_are_an_install_error_with_the_solvers_reasons(runtime: Runtime):
    result = await runtime.run(RunRequest(code="1", packages=("mcr-conflict",)))
    assert result.status is Status.INSTALL_ERROR
    assert result.error is not None
    assert "mcr-two" in result.error.traceback


async def test_code_that_never_ends_is_ended_by_its_timeout(runtime: Runtime):
    result = await runtime.run(RunRequest(code="print('begun', flush=True)\nwhile True: pass", timeout_s=1))
    assert (result.status, result.stdout) == (Status.TIMEOUT, "begun\n")


async def test_a_cancelled_run_leaves_no_process_and_no_prefix(runtime: Runtime, tmp_path: Path):
    code = "import time\nopen('/working/begun', 'w').close()\ntime.sleep(1000)"
    task = asyncio.create_task(runtime.run(RunRequest(code=code, timeout_s=1000)))
    async with asyncio.timeout(60):
        while not (tmp_path / "begun").exists():  # noqa: ASYNC110 - only the file says that the code runs
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(runtime.store.trash.wait, 30)
    assert list(runtime.store.runs.iterdir()) == []


async def test_a_good_run_follows_a_bad_one(runtime: Runtime):
    bad = await runtime.run(RunRequest(code="import os; os.kill(os.getpid(), 11)"))
    good = await runtime.run(RunRequest(code="1 + 1"))
    assert (bad.status, bad.signal, good.status) == (Status.RUN_ERROR, "SIGSEGV", Status.SUCCESS)


async def test_a_syntax_error_is_pythons_own(runtime: Runtime):
    result = await runtime.run(RunRequest(code="x = = 1\n"))
    assert result.error is not None
    assert (result.status, result.error.type) == (Status.RUN_ERROR, "SyntaxError")
    assert "main.py" in result.error.traceback


async def test_runs_at_the_same_time_do_not_see_each_other(runtime: Runtime):
    code = (
        "from pathlib import Path as P\n(P.home() / 'mine').write_text(tag)\nsorted(p.name for p in P.home().iterdir())"
    )
    results = await asyncio.gather(
        *(runtime.run(RunRequest(code=code, global_variables={"tag": str(n)})) for n in range(4))
    )
    assert [result.value and result.value.json for result in results] == [["mine"]] * 4


async def test_two_callers_who_need_the_same_new_packages_share_one_build(runtime: Runtime):
    seen: list[list[Progress]] = [[], []]
    code = "import six\nsix.PY3"
    results = await asyncio.gather(*(runtime.run(RunRequest(code=code), heard.append) for heard in seen))
    assert {result.environment for result in results} != {""}
    assert len({result.environment for result in results}) == 1
    assert all(result.status is Status.SUCCESS for result in results)


async def test_a_cancelled_caller_does_not_stop_the_build(warm_small_cache: Path, small_channel: Path, tmp_path: Path):
    settings = small_settings(warm_small_cache, small_channel, path=tmp_path)
    began = asyncio.Event()
    async with Runtime(settings) as runtime:
        request = RunRequest(code="import mcr_two, six, requests\n1")
        task = asyncio.create_task(
            runtime.run(request, lambda progress: began.set() if progress.phase in {"link", "download"} else None)
        )
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        result = await runtime.run(request)
        assert result.status is Status.SUCCESS


async def test_phases_are_timed_and_add_up(runtime: Runtime):
    result = await runtime.run(RunRequest(code="1"))
    assert set(result.timings_ms) == {"environment", "plan", "start", "run", "clean", "files", "total"}
    parts = sum(ms for phase, ms in result.timings_ms.items() if phase != "total")
    assert parts <= result.timings_ms["total"]


async def test_the_result_says_what_held_the_run(runtime: Runtime):
    result = await runtime.run(RunRequest(code="1"))
    assert result.isolation is not None
    assert result.isolation.tier


async def test_a_run_without_a_warmup_warms_up_and_says_so(small_channel: Path, tmp_path: Path):
    heard: list[Progress] = []
    async with Runtime(small_settings(tmp_path / "cache", small_channel)) as runtime:
        result = await runtime.run(RunRequest(code="1 + 1"), heard.append)
        assert await asyncio.to_thread(runtime.store.trash.wait, 30)
    assert result.status is Status.SUCCESS
    assert any("was not ready" in note for note in result.notes)
    assert {"lock", "link", "compile"} <= {progress.phase for progress in heard}


async def test_planning_installs_nothing(runtime: Runtime):
    before = len(runtime.store.environments())
    plan = await runtime.plan(RunRequest(code="import yaml, requests"))
    assert {package.name for package in plan.packages} == {"pyyaml", "requests"}
    assert {"pyyaml", "requests", "urllib3"} <= {package.name for package in plan.solution}
    assert plan.download_bytes > 100_000
    assert len(runtime.store.environments()) == before


async def test_a_package_that_only_shows_at_run_time_is_added_and_the_code_runs_again(runtime: Runtime):
    code = "name = 'mcr' + '_two'\nprint(__import__(name).version)"
    result = await runtime.run(RunRequest(code=code))
    assert (result.status, result.stdout) == (Status.SUCCESS, "2.0\n"), result
    assert len(result.attempts) == 2
    assert "mcr-two" in result.attempts[1]


async def test_a_missing_attribute_of_an_installed_module_installs_nothing(runtime: Runtime):
    result = await runtime.run(RunRequest(code="from numpy import mcr_two"))
    assert (result.status, len(result.attempts), result.packages) == (Status.RUN_ERROR, 1, ())


async def test_a_c_library_of_the_imports_name_is_not_taken_for_it(runtime: Runtime):
    result = await runtime.run(RunRequest(code="import mcrclib"))
    assert (result.status, result.packages) == (Status.RUN_ERROR, ())
    assert [unknown.import_name for unknown in result.unknown_imports] == ["mcrclib"]


async def test_a_metadata_block_is_the_only_truth(runtime: Runtime):
    code = "# /// script\n# dependencies = ['mcr-two<2']\n# ///\nimport mcr_two\nmcr_two.version"
    result = await runtime.run(RunRequest(code=code))
    assert result.value is not None, result.error
    assert result.value.json == "1.0"


async def test_an_install_line_is_a_request_and_is_taken_out_of_the_code(runtime: Runtime):
    result = await runtime.run(RunRequest(code="%pip install mcr-two==1.0\nimport mcr_two\nmcr_two.version"))
    assert result.value is not None, result.error
    assert result.value.json == "1.0"


async def test_where_the_templates_versions_do_not_fit_others_are_taken_and_named(runtime: Runtime):
    result = await runtime.run(RunRequest(code="import numpy\nnumpy.__version__", packages=("numpy <2.4",)))
    assert result.status is Status.SUCCESS, result.error
    assert any("Other versions than the template's" in note and "numpy" in note for note in result.notes)


async def test_a_run_says_how_it_was_started(runtime: Runtime):
    result = await runtime.run(RunRequest(code="1"))
    assert result.start in {"pool", "fork", "exec"}


async def test_what_a_run_changed_below_the_mount_is_listed(runtime: Runtime, tmp_path: Path):
    (tmp_path / "old.txt").write_text("old")
    old = (tmp_path / "old.txt").stat().st_ctime_ns
    while now_ns() <= old:  # noqa: ASYNC110 - the clock of files ticks every few milliseconds
        await asyncio.sleep(0)
    code = (
        "import os\nos.makedirs('/working/a')\nopen('/working/a/new.txt', 'w').write('new')\n"
        "os.symlink('/etc', '/working/link')"
    )
    result = await runtime.run(RunRequest(code=code))
    assert [(file.path, file.size_bytes) for file in result.files] == [("/working/a/new.txt", 3)]
    assert result.files_complete


async def test_a_package_without_python_modules_can_be_asked_for(runtime: Runtime):
    code = "import os, sys\nos.environ.get('MCR_ENV_VAR'), os.environ.get('MCR_ACTIVATED') == sys.prefix + '/share/mcr'"
    result = await runtime.run(RunRequest(code=code, packages=("mcr-activate",)))
    assert result.value is not None, result.error
    assert result.value.json == ["1", True]


async def test_another_python_is_an_install_error_where_the_channel_has_none(runtime: Runtime):
    other = "3.13" if sys.version_info[:2] != (3, 13) else "3.12"
    result = await runtime.run(RunRequest(code="1", python=other))
    assert (result.status, result.error and result.error.type) == (Status.INSTALL_ERROR, "unsatisfiable")
