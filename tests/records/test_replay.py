"""A run again: in an environment of the same packages, here and in an empty store; what differs is said."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mcp_conda_run.errors import RequestError
from mcp_conda_run.models import RunRequest
from mcp_conda_run.records.export_code import export
from mcp_conda_run.records.record import read_record
from mcp_conda_run.records.replay import replay as run_again
from mcp_conda_run.records.writing import records_shelf, without_credentials
from mcp_conda_run.runtime import Runtime
from mcp_conda_run.sandbox.files_out import now_ns
from mcp_conda_run.settings import Settings

from .conftest import RunOnRecord, record

SettingsWith = Callable[..., Settings]


async def settled(file: Path) -> None:
    """Return when the file is older than what begins now, by the clock of the file system."""
    while now_ns() <= file.stat().st_ctime_ns:
        pass


async def test_a_run_is_replayed_in_an_empty_store_without_solving(
    on_record: RunOnRecord, settings_with: SettingsWith, tmp_path: Path, small_channel: Path
):
    code = "import mcr_two, numpy\n[mcr_two.version, int(numpy.arange(4).sum())]"
    result, kept = await on_record(RunRequest(code=code, packages=("mcr-two <2",)))
    (tmp_path / "run.json").write_text(kept.document())
    elsewhere = settings_with().model_copy(
        update={"cache_dir": tmp_path / "other", "channels": ("https://nowhere.invalid/c",), "template": "base"}
    )
    replayed = await run_again(read_record(tmp_path / "run.json"), elsewhere)
    assert result.value is not None
    assert replayed.result.value is not None
    assert replayed.result.value.json == result.value.json == ["1.0", 6]
    assert (replayed.same, replayed.differences) == (True, ())
    shutil.rmtree(tmp_path / "other")


async def test_what_pip_had_put_into_an_environment_of_the_users_is_told(
    settings_with: SettingsWith, small_prefix: Path, tmp_path: Path
):
    own = tmp_path / "own"
    shutil.copytree(small_prefix, own, symlinks=True)
    (site,) = own.glob("lib/python3.*/site-packages")
    (site / "mine-1.0.dist-info").mkdir()
    (site / "mine.py").write_text("")
    (site / "mine-1.0.dist-info/RECORD").write_text("mine.py,,\nmine-1.0.dist-info/RECORD,,\n")
    settings = settings_with(prefix=str(own))
    async with Runtime(settings) as runtime:
        result = await runtime.run(RunRequest(code="import mine"))
    kept = records_shelf(settings.cache_dir).find(result.run_id)
    assert kept.place.beside == ("mine",)
    assert any("mine" in difference for difference in (await run_again(kept, settings_with())).differences)
    assert any("mine" in note for note in export(kept, "explicit").notes)


async def test_a_result_that_differs_is_told_from_the_same(on_record: RunOnRecord, settings_with: SettingsWith):
    _, kept = await on_record(RunRequest(code="import time\ntime.time_ns()"))
    assert not (await run_again(kept, settings_with())).same


async def test_output_that_differs_is_told_though_the_value_is_the_same(
    on_record: RunOnRecord, settings_with: SettingsWith
):
    _, kept = await on_record(RunRequest(code="import time\nprint(time.time_ns())\n1"))
    replayed = await run_again(kept, settings_with())
    assert (replayed.same, replayed.same_output) == (True, False)


async def test_an_object_without_a_natural_form_is_the_same_at_another_address(
    on_record: RunOnRecord, settings_with: SettingsWith
):
    _, kept = await on_record(RunRequest(code="class Thing: pass\nimport os\n_ = [0] * os.getpid()\nThing()"))
    assert (await run_again(kept, settings_with())).same


async def test_arguments_variables_and_limits_are_those_of_the_run(on_record: RunOnRecord, settings_with: SettingsWith):
    request = RunRequest(
        code="import sys, resource\n[sys.argv[1:], x, resource.getrlimit(resource.RLIMIT_NOFILE)[0]]",
        args=("a b",),
        global_variables={"x": {"y": [1]}},
        limits={"open_files": 77},
    )
    result, kept = await on_record(request)
    replayed = await run_again(kept, settings_with())
    assert result.value is not None
    assert result.value.json == [["a b"], {"y": [1]}, 77]
    assert replayed.same


async def test_a_file_runs_again_under_its_own_name_though_it_is_gone(
    on_record: RunOnRecord, settings_with: SettingsWith, tmp_path: Path
):
    (tmp_path / "job.py").write_text("__file__")
    _, kept = await on_record(RunRequest(file="/working/job.py"), path=tmp_path)
    (tmp_path / "job.py").unlink()
    assert (await run_again(kept, settings_with(path=tmp_path))).same


async def test_input_files_that_are_missing_or_others_are_named(
    on_record: RunOnRecord, settings_with: SettingsWith, tmp_path: Path
):
    for name in ("kept.txt", "changed.txt", "gone.txt"):
        (tmp_path / name).write_text(name)
        await settled(tmp_path / name)
    _, kept = await on_record(RunRequest(code="len(open('kept.txt').read())"), path=tmp_path)
    (tmp_path / "changed.txt").write_text("other")
    (tmp_path / "gone.txt").unlink()
    replayed = await run_again(kept, settings_with(path=tmp_path))
    said = " ".join(replayed.differences)
    assert "Not the same as then: /working/changed.txt." in said
    assert "Not there, or not readable: /working/gone.txt." in said
    assert "kept.txt" not in said


async def test_a_bound_that_is_not_allowed_here_is_lowered_and_said(
    on_record: RunOnRecord, settings_with: SettingsWith
):
    _, kept = await on_record(RunRequest(code="1"))
    replayed = await run_again(kept, settings_with(memory_mb=512))
    assert "The limit memory_mb was 4096 and is 512." in replayed.differences


async def test_a_failed_run_fails_the_same_way(on_record: RunOnRecord, settings_with: SettingsWith):
    _, kept = await on_record(RunRequest(code="1 / 0"))
    assert (await run_again(kept, settings_with())).same


async def test_code_that_is_not_on_record_can_be_given(on_record: RunOnRecord, settings_with: SettingsWith):
    _, kept = await on_record(RunRequest(code="6 * 7", args=()), records_code=False)
    assert kept.code.text is None
    with pytest.raises(RequestError, match="only the hash"):
        await run_again(kept, settings_with())
    with pytest.raises(RequestError, match="not the code of the run"):
        await run_again(kept, settings_with(), code="6 * 8")
    assert (await run_again(kept, settings_with(), code="6 * 7")).same


async def test_a_variable_that_seems_secret_is_not_on_record_and_must_be_given(
    on_record: RunOnRecord, settings_with: SettingsWith
):
    request = RunRequest(code="len(api_token) + n", global_variables={"api_token": "hush-hush", "n": 1})
    _, kept = await on_record(request)
    assert "hush-hush" not in kept.document()
    with pytest.raises(RequestError, match="api_token"):
        await run_again(kept, settings_with())
    assert (await run_again(kept, settings_with(), variables={"api_token": "hush-hush"})).same


async def test_runs_leave_nothing_if_no_records_are_wanted(settings_with: SettingsWith):
    settings = settings_with(records=0)
    async with Runtime(settings) as runtime:
        result = await runtime.run(RunRequest(code="1"))
    assert not list((settings.cache_dir / "records").glob(f"runs/*{result.run_id}*"))


async def test_a_run_whose_packages_could_not_be_had_is_on_record_and_not_replayed(
    on_record: RunOnRecord, settings_with: SettingsWith
):
    _, kept = await on_record(RunRequest(code="1", packages=("mcr-unsat",)))
    assert kept.outcome.status == "install-error"
    with pytest.raises(RequestError, match="cannot be replayed"):
        await run_again(kept, settings_with())


async def test_a_run_of_another_platform_is_refused_with_a_way_out(settings_with: SettingsWith):
    foreign = record(platform="win-64")
    mine = foreign.model_copy(update={"packages": (replace(foreign.packages[0], subdir="win-64"),)})
    with pytest.raises(RequestError, match="was on win-64") as caught:
        await run_again(mine, settings_with())
    assert "--format script" in caught.value.hint


def test_credentials_of_channels_are_not_on_record():
    whole = replace(record().packages[0], url="https://me:secret@example.org/t/tk-1/c/noarch/six-1.0-0.conda")
    assert without_credentials(whole).url == "https://example.org/t/***/c/noarch/six-1.0-0.conda"
