"""Whole runs that need packages of PyPI, from a local index."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mcp_conda_run import RunRequest, Runtime
from mcp_conda_run.environments.provision import Provided
from mcp_conda_run.models import Plan, PlannedPackage, RunResult, Status
from mcp_conda_run.settings import Settings

from ..support.pypi_index import PypiIndex
from ..support.warm import small_settings
from ..support.wheels import make_wheel


@pytest.fixture
def index() -> Iterator[PypiIndex]:
    with PypiIndex() as index:
        yield index


@pytest.fixture
def settings(warm_small_cache: Path, small_channel: Path, index: PypiIndex, tmp_path: Path) -> Callable[..., Settings]:
    def make(**others: object) -> Settings:
        return small_settings(warm_small_cache, small_channel, path=tmp_path / "work", pypi_index=index.url, **others)

    return make


def run(settings: Settings, code: str, *packages: str) -> RunResult:
    async def go() -> RunResult:
        async with Runtime(settings) as runtime:
            return await runtime.run(RunRequest(code=code, packages=packages))

    return asyncio.run(go())


def test_a_package_of_pypi_is_there_and_is_said_to_be_of_pypi(
    index: PypiIndex, settings: Callable[..., Settings], tmp_path: Path
):
    index.add(
        make_wheel(tmp_path, "mcr_one", files={"mcr_one.py": "import numpy\nanswer = int(numpy.arange(4).sum())\n"})
    )
    result = run(settings(), "import mcr_one\nmcr_one.answer", "pypi:Mcr_One")
    assert (result.status, result.value and result.value.json) == (Status.SUCCESS, 6), result
    assert [(package.version, package.channel, package.decision) for package in result.packages] == [
        ("1.0", "pypi", "requested")
    ]
    assert result.unknown_imports == ()


def test_packages_of_conda_and_pypi_come_together(index: PypiIndex, settings: Callable[..., Settings], tmp_path: Path):
    index.add(make_wheel(tmp_path, "mcr_both", requires=("mcr-two<3",)))
    code = "import mcr_both, mcr_two\nmcr_two.version"
    result = run(settings(), code, "pypi:mcr-both", "mcr-two")
    assert (result.status, result.value and result.value.json) == (Status.SUCCESS, "2.0"), result
    assert {(package.name, package.channel == "pypi") for package in result.packages} == {
        ("mcr-both", True),
        ("mcr-two", False),
    }


def test_a_declared_script_gets_its_packages_without_the_template(
    index: PypiIndex, settings: Callable[..., Settings], tmp_path: Path
):
    index.add(make_wheel(tmp_path, "mcr_declared"))
    code = (
        '# /// script\n# dependencies = ["mcr-declared"]\n# ///\n'
        "import mcr_declared, importlib.util\nimportlib.util.find_spec('num' + 'py') is None"
    )
    result = run(settings(), code)
    assert (result.status, result.value and result.value.json) == (Status.SUCCESS, True), result


def test_the_second_run_asks_nobody(index: PypiIndex, settings: Callable[..., Settings], tmp_path: Path):
    index.add(make_wheel(tmp_path, "mcr_twice"))
    first = run(settings(), "import mcr_twice", "pypi:mcr-twice")
    index.stop()
    again = run(settings(), "import mcr_twice", "pypi:mcr-twice")
    assert (again.status, again.environment) == (Status.SUCCESS, first.environment)


def test_an_environment_that_was_removed_is_made_again_offline(
    index: PypiIndex, settings: Callable[..., Settings], tmp_path: Path
):
    index.add(make_wheel(tmp_path, "mcr_again"))
    first = run(settings(), "import mcr_again", "pypi:mcr-again")
    index.stop()

    async def again() -> RunResult:
        async with Runtime(settings(offline=True)) as runtime:
            runtime.store.forget(first.environment)
            return await runtime.run(RunRequest(code="import mcr_again", packages=("pypi:mcr-again",)))

    assert asyncio.run(again()).status is Status.SUCCESS


def test_what_the_template_has_is_not_replaced(index: PypiIndex, settings: Callable[..., Settings], tmp_path: Path):
    index.add(make_wheel(tmp_path, "mcr_old", requires=("numpy<1",)))
    index.add(make_wheel(tmp_path, "numpy", "0.9"))
    result = run(settings(), "import mcr_old", "pypi:mcr-old")
    assert result.status is Status.INSTALL_ERROR
    assert result.error is not None
    assert (result.error.type, "numpy<1" in result.error.traceback) == ("pypi-conflict", True)


def test_what_the_template_has_already_needs_no_new_environment(settings: Callable[..., Settings]):
    plain = run(settings(), "1")
    result = run(settings(), "import numpy", "pypi:numpy>=2")
    assert (result.status, result.environment, result.packages) == (Status.SUCCESS, plain.environment, ())


def test_a_refusal_leaves_no_environment_and_a_good_run_follows(
    index: PypiIndex, settings: Callable[..., Settings], tmp_path: Path, warm_small_cache: Path
):
    index.add(make_wheel(tmp_path, "mcr_bad"))
    index.quarantine("mcr-bad")
    before = sorted(path.name for path in (warm_small_cache / "envs").glob("*.json"))
    result = run(settings(), "import mcr_bad", "pypi:mcr-bad")
    assert result.error is not None
    assert (result.error.type, bool(result.error.hint)) == ("pypi-quarantined", True)
    assert sorted(path.name for path in (warm_small_cache / "envs").glob("*.json")) == before
    assert run(settings(), "1 + 1").status is Status.SUCCESS


def test_code_that_a_wheel_starts_with_the_interpreter_runs_only_in_runs(
    index: PypiIndex, settings: Callable[..., Settings], tmp_path: Path
):
    mark = tmp_path / "ran"
    code = f"import pathlib; pathlib.Path({str(mark)!r}).touch()\n"
    index.add(make_wheel(tmp_path, "mcr_start", files={"mcr_start.py": "", "mcr_start.pth": code}))

    async def build() -> str:
        async with Runtime(settings()) as runtime:
            request = RunRequest(code="1", packages=("pypi:mcr-start",))
            base = await runtime.warmup()
            plan = await runtime.plan(request)
            provided = await runtime.provisioner.extended(base, plan, lambda _: None)
            return provided.environment.modules["mcr_start"]

    assert asyncio.run(build()) == "mcr-start"
    assert not mark.exists()


def test_what_the_table_names_and_cannot_be_had_does_not_stop_the_run(settings: Callable[..., Settings]):
    result = run(settings(), "print('ran')\ntry:\n    import gurobipy\nexcept ImportError:\n    print('without')")
    assert (result.status, result.stdout) == (Status.SUCCESS, "ran\nwithout\n"), result
    result = run(settings(), "import gurobipy")
    assert (result.status, result.error and result.error.type) == (Status.RUN_ERROR, "ModuleNotFoundError")
    assert "cannot be had" in result.unknown_imports[0].reason


def test_what_a_package_of_pypi_needs_comes_from_conda_where_that_has_it(
    index: PypiIndex, settings: Callable[..., Settings], tmp_path: Path
):
    index.add(make_wheel(tmp_path, "mcr_needy", requires=("mcr-two",)))
    index.add(make_wheel(tmp_path, "mcr_two", "2.0"))
    result = run(settings(), "import mcr_needy", "pypi:mcr-needy")
    assert result.status is Status.SUCCESS, result
    assert {(package.name, package.channel == "pypi", package.decision) for package in result.packages} == {
        ("mcr-needy", True, "requested"),
        ("mcr-two", False, "dependency"),
    }


def test_a_dependency_in_a_version_that_conda_has_not_comes_from_pypi(
    index: PypiIndex, settings: Callable[..., Settings], tmp_path: Path
):
    index.add(make_wheel(tmp_path, "mcr_picky", requires=("mcr-two==0.5",)))
    index.add(make_wheel(tmp_path, "mcr_two", "0.5"))
    result = run(settings(), "import mcr_picky", "pypi:mcr-picky")
    assert result.status is Status.SUCCESS, result
    assert {package.name: package.version for package in result.packages} == {"mcr-picky": "1.0"}


def test_a_plan_shows_versions_and_sizes_of_pypis_packages(
    index: PypiIndex, settings: Callable[..., Settings], tmp_path: Path
):
    wheel = make_wheel(tmp_path, "mcr_shown", "1.5")
    index.add(wheel)

    async def go() -> Plan:
        async with Runtime(settings()) as runtime:
            return await runtime.plan(RunRequest(code="1", packages=("pypi:mcr-shown",)))

    plan = asyncio.run(go())
    assert [(package.name, package.version) for package in plan.solution] == [("mcr-shown", "1.5")]
    assert plan.download_bytes == wheel.stat().st_size


def test_any_build_is_taken_where_no_channel_has_the_one_that_is_preferred(settings: Callable[..., Settings]):
    wanted = PlannedPackage("mcr-two * headless_*", "mcr-two", fallback="mcr-two")

    async def go() -> Provided:
        async with Runtime(settings()) as runtime:
            base = await runtime.warmup()
            return await runtime.provisioner.extended(base, Plan((wanted,)), lambda _: None)

    provided = asyncio.run(go())
    assert [package.name for package in provided.added] == ["mcr-two"]
    assert "mcr-two * headless_*" in provided.notes[0]
