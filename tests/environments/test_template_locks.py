"""Which lock serves a template: one beside it, one of another tool, or one that is made; with the real engine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_conda_run import RunRequest, Runtime
from mcp_conda_run.conda.engine import current_platform
from mcp_conda_run.conda.lock_writer import write_lock
from mcp_conda_run.conda.lockfile import input_digest, read_environment, read_lock
from mcp_conda_run.environments.provision import Provided
from mcp_conda_run.environments.store import Store, environment_key
from mcp_conda_run.environments.template_locks import Fitness, fitness_of, serving_lock
from mcp_conda_run.environments.templates import find_template
from mcp_conda_run.errors import CondaRunError, InstallError
from mcp_conda_run.models import LockedPackage, Status, no_progress
from mcp_conda_run.settings import Settings

from ..support.pypi_index import PypiIndex
from ..support.warm import small_settings
from ..support.wheels import make_wheel

HERE = current_platform()
TEXT = "channels: [conda-forge]\ndependencies: [python, pip, numpy]\n"

MakeSettings = Callable[..., Settings]


@pytest.fixture
def settings(warm_small_cache: Path, small_channel: Path, tmp_path: Path) -> MakeSettings:
    def make(**others: object) -> Settings:
        return small_settings(warm_small_cache, small_channel, templates_dir=tmp_path / "templates", **others)

    return make


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A template of the user's with the content of the warm one."""
    path = tmp_path / "mine.yml"
    path.write_text(TEXT)
    return path


def provide(settings: Settings, template: Path | str) -> Provided:
    async def go() -> Provided:
        async with Runtime(settings) as runtime:
            return await runtime.warmup(str(template))

    return asyncio.run(go())


def refusal(settings: Settings, template: Path | str) -> CondaRunError:
    with pytest.raises(CondaRunError) as caught:
        provide(settings, template)
    return caught.value


@pytest.fixture
def pinned(settings: MakeSettings) -> tuple[LockedPackage, ...]:
    """What the warm template's lock pins."""
    warm = settings()
    template = find_template(warm.template, warm.channels)
    return read_lock(Store(warm.cache_dir).locks / template.lock_name(HERE), HERE)


def lock_beside(template: Path, packages: tuple[LockedPackage, ...], settings: Settings, **others: object) -> Path:
    """Write the lock that `mcp-conda-run lock` would, of packages that are installed already."""
    path = template.with_name("mine.conda-lock.yml")
    digest = input_digest(read_environment(template), settings.channels)
    write_lock(path, {HERE: packages}, digest=digest, **others)
    return path


# --- locks beside a template ------------------------------------------------------------------------------------------


def test_a_lock_beside_a_template_serves(settings: MakeSettings, mine: Path, pinned: tuple[LockedPackage, ...]) -> None:
    lock = lock_beside(mine, pinned, settings())
    provided = provide(settings(), mine)
    assert not provided.built
    assert provided.notes == ()
    assert serving_lock(provided.template, Store(settings().cache_dir), settings(), HERE).path == lock


def test_a_lock_of_conda_lock_itself_serves_an_environment_yml(
    settings: MakeSettings, mine: Path, pinned: tuple[LockedPackage, ...]
) -> None:
    environment = mine.rename(mine.with_name("environment.yml"))
    write_lock(environment.with_name("conda-lock.yml"), {HERE: pinned})
    template = find_template(str(environment), settings().channels)
    path = serving_lock(template, Store(settings().cache_dir), settings(), HERE).path
    assert path == environment.with_name("conda-lock.yml")


def test_a_stale_lock_is_passed_over_and_said(
    settings: MakeSettings, mine: Path, pinned: tuple[LockedPackage, ...]
) -> None:
    lock_beside(mine, pinned, settings())
    mine.write_text(TEXT.replace("numpy", "'numpy >=2'"))
    provided = provide(settings(), mine)
    assert "is stale" in provided.notes[0]


def test_the_note_on_a_stale_lock_reaches_the_result(
    settings: MakeSettings, mine: Path, pinned: tuple[LockedPackage, ...]
) -> None:
    lock_beside(mine, pinned, settings())
    mine.write_text(TEXT.replace("numpy", "'numpy >=2'"))

    async def go() -> tuple[str, ...]:
        async with Runtime(settings(pool_mb=0)) as runtime:
            return (await runtime.run(RunRequest(code="1", template=str(mine)))).notes

    assert any("is stale" in note for note in asyncio.run(go()))


def test_a_stale_lock_can_be_refused(settings: MakeSettings, mine: Path, pinned: tuple[LockedPackage, ...]) -> None:
    lock_beside(mine, pinned, settings())
    mine.write_text(TEXT.replace("numpy", "'numpy >=2'"))
    error = refusal(settings(stale_lock="refuse"), mine)
    assert error.code == "lock-stale"
    assert f"mcp-conda-run lock {mine}" in error.hint


def test_a_stale_lock_can_be_used_all_the_same(
    settings: MakeSettings, mine: Path, pinned: tuple[LockedPackage, ...]
) -> None:
    lock_beside(mine, pinned, settings())
    mine.write_text(TEXT.replace("numpy", "'numpy >=99'"))
    provided = provide(settings(stale_lock="use"), mine)
    assert not provided.built
    assert "all the same" in provided.notes[0]


def test_a_comment_makes_no_lock_stale(settings: MakeSettings, mine: Path, pinned: tuple[LockedPackage, ...]) -> None:
    lock = lock_beside(mine, pinned, settings())
    mine.write_text(f"# imports: numpy\n{TEXT}")
    assert fitness_of(lock, find_template(str(mine), settings().channels), HERE) is Fitness.FRESH


def test_a_lock_for_the_files_own_channels_is_not_stale_where_others_are_configured(
    settings: MakeSettings, mine: Path, pinned: tuple[LockedPackage, ...]
) -> None:
    lock = mine.with_name("mine.conda-lock.yml")
    write_lock(lock, {HERE: pinned}, digest=input_digest(read_environment(mine), ()))
    assert fitness_of(lock, find_template(str(mine), settings().channels), HERE) is Fitness.OTHER
    assert provide(settings(), mine).notes == ()


def test_a_lock_for_other_platforms_only_is_passed_over(
    settings: MakeSettings, mine: Path, pinned: tuple[LockedPackage, ...]
) -> None:
    lock = lock_beside(mine, pinned, settings())
    lock.write_text(lock.read_text().replace(HERE, "osx-64"))
    assert fitness_of(lock, find_template(str(mine), settings().channels), HERE) is Fitness.OTHER


def test_a_damaged_lock_beside_a_template_is_one_clear_error(settings: MakeSettings, mine: Path) -> None:
    mine.with_name("mine.conda-lock.yml").write_text("[" * 100_000)
    assert refusal(settings(), mine).code == "bad-lock"


# --- templates that are locks -----------------------------------------------------------------------------------------


def as_conda_lock(folder: Path, packages: tuple[LockedPackage, ...]) -> Path:
    write_lock(folder / "locked.yml", {HERE: packages})
    return folder / "locked.yml"


def as_explicit(folder: Path, packages: tuple[LockedPackage, ...]) -> Path:
    path = folder / "listed.txt"
    path.write_text("\n".join(["@EXPLICIT", *(f"{package.url}#{package.md5}" for package in packages), ""]))
    return path


def as_pixi_lock(folder: Path, packages: tuple[LockedPackage, ...]) -> Path:
    base = os.path.commonpath([package.url for package in packages])
    refs = "".join(f"      - conda: {package.url}\n" for package in packages)
    rows = "".join(f"- conda: {p.url}\n  subdir: {p.subdir}\n  sha256: {p.sha256}\n  md5: {p.md5}\n" for p in packages)
    path = folder / "pixi.lock"
    path.write_text(
        f"version: 6\nenvironments:\n  default:\n    channels:\n    - url: {base}\n    packages:\n      {HERE}:\n"
        f"{refs}packages:\n{rows}"
    )
    return path


@pytest.mark.parametrize("write", [as_conda_lock, as_explicit, as_pixi_lock])
def test_a_lock_is_a_template(
    settings: MakeSettings,
    pinned: tuple[LockedPackage, ...],
    tmp_path: Path,
    write: Callable[[Path, tuple[LockedPackage, ...]], Path],
) -> None:
    provided = provide(settings(), write(tmp_path, pinned))
    assert provided.environment.key == environment_key(pinned)  # the same packages are the same environment
    assert any(spec.startswith("numpy ==") for spec in provided.template.specs)


def test_a_run_can_add_to_a_template_that_is_a_lock(
    settings: MakeSettings, pinned: tuple[LockedPackage, ...], tmp_path: Path
) -> None:
    path = as_conda_lock(tmp_path, pinned)

    async def go() -> None:
        async with Runtime(settings(pool_mb=0)) as runtime:
            result = await runtime.run(RunRequest(code="import six, numpy\nsix.__name__", template=str(path)))
            assert result.status is Status.SUCCESS, result
            assert [package.name for package in result.packages] == ["six"]

    asyncio.run(go())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bad.yml", "version: 1\nmetadata: {}\npackage: [1]\n"),
        ("bad.txt", "@EXPLICIT\nrm -rf /\n"),
        ("bad.lock", "version: 6\nenvironments: [\n"),
    ],
)
def test_a_damaged_lock_is_one_clear_error(settings: MakeSettings, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert refusal(settings(), tmp_path / name).code == "bad-lock"


# --- what the machine must have ---------------------------------------------------------------------------------------


def test_a_template_for_another_machine_is_refused_in_one_sentence(
    settings: MakeSettings, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONDA_OVERRIDE_CUDA", "11.2")
    mine.write_text(f"# needs: __cuda >=12\n{TEXT.replace('numpy', 'six')}")
    error = refusal(settings(), mine)
    assert error.code == "machine-lacks"
    assert error.message == (
        "The template mine needs __cuda >=12 (a GPU of NVIDIA with its driver), and this machine has __cuda 11.2."
    )


# --- wheels -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def with_wheel(tmp_path: Path) -> Path:
    path = tmp_path / "wheels.yml"
    path.write_text("dependencies:\n  - python\n  - numpy\n  - pip:\n      - mcr-beside\n")
    return path


def test_wheels_of_a_template_are_locked_with_digests_and_stay_when_a_run_adds_to_it(
    settings: MakeSettings, with_wheel: Path, tmp_path: Path
) -> None:
    with PypiIndex() as index:
        index.add(make_wheel(tmp_path, "mcr_beside", files={"mcr_beside.py": "answer = 6\n"}))

        async def go() -> None:
            async with Runtime(settings(pypi_index=index.url, pool_mb=0)) as runtime:
                result = await runtime.run(
                    RunRequest(code="import mcr_beside, six\nmcr_beside.answer", template=str(with_wheel))
                )
                assert (result.status, result.value and result.value.json) == (Status.SUCCESS, 6), result
                assert [package.name for package in result.packages] == ["six"]
                template = runtime.provisioner.template(str(with_wheel))
                (wheel,) = [p for p in read_lock(runtime.provisioner.lock_path(template), HERE) if p.manager == "pypi"]
                assert (wheel.name, len(wheel.sha256)) == ("mcr-beside", 64)
                assert not (await runtime.provisioner.base(template, no_progress)).built

        asyncio.run(go())


def test_wheels_of_a_template_are_refused_where_pypi_is_switched_off(settings: MakeSettings, with_wheel: Path) -> None:
    assert refusal(settings(pip="off"), with_wheel).code == "package-not-allowed"


def test_wheels_of_a_lock_are_refused_where_pypi_is_switched_off(
    settings: MakeSettings, pinned: tuple[LockedPackage, ...], tmp_path: Path
) -> None:
    wheel = LockedPackage(
        name="mcr-beside",
        version="1.0",
        channel="pypi",
        url="https://files.example/mcr_beside-1.0-py3-none-any.whl",
        sha256="ab" * 32,
        manager="pypi",
    )
    path = as_conda_lock(tmp_path, (*pinned, wheel))
    assert refusal(settings(pip="off"), path).code == "package-not-allowed"


def test_wheels_cannot_be_locked_for_another_platform(settings: MakeSettings, with_wheel: Path, tmp_path: Path) -> None:
    async def go() -> None:
        async with Runtime(settings()) as runtime:
            template = runtime.provisioner.template(str(with_wheel))
            await runtime.provisioner.lock(template, ["osx-64"], tmp_path / "x.yml", no_progress)

    with pytest.raises(CondaRunError, match="osx-64") as caught:
        asyncio.run(go())
    assert caught.value.code == "pip-not-supported"


# --- updating ---------------------------------------------------------------------------------------------------------


def test_an_update_moves_what_is_named_and_nothing_else(settings: MakeSettings, tmp_path: Path) -> None:
    path, lock = tmp_path / "two.yml", tmp_path / "two.conda-lock.yml"

    async def go(text: str, *update: str) -> dict[str, str]:
        path.write_text(text)
        async with Runtime(settings()) as runtime:
            template = runtime.provisioner.template(str(path))
            await runtime.provisioner.lock(template, [HERE], lock, no_progress, update=update, old=lock)
        return {package.name: package.version for package in read_lock(lock, HERE)}

    assert asyncio.run(go("dependencies: [mcr-two 1.0, numpy 2.1.3]\n"))["mcr-two"] == "1.0"
    later = asyncio.run(go("dependencies: [mcr-two, numpy]\n", "mcr-two"))
    assert (later["mcr-two"], later["numpy"]) == ("2.0", "2.1.3")
    with pytest.raises(CondaRunError, match="does not pin nothing-such"):
        asyncio.run(go("dependencies: [mcr-two, numpy]\n", "nothing-such"))


def test_what_cannot_be_solved_keeps_the_lock_and_says_why(settings: MakeSettings, mine: Path) -> None:
    mine.write_text("dependencies: [mcr-conflict]\n")
    with pytest.raises(InstallError, match=r"together|cannot|conflict"):
        provide(settings(), mine)
