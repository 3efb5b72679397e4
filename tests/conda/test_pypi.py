"""Wheels from a local index into a real conda prefix, by the real worker and the real uv."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
import zipfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import psutil
import pytest

from mcp_conda_run.conda.pypi import WheelInstaller
from mcp_conda_run.errors import InstallError
from mcp_conda_run.models import Environment, LockedPackage, PlannedPackage, Progress
from mcp_conda_run.settings import Settings

from ..support.pypi_index import PypiIndex
from ..support.wheels import make_wheel

Resolve = Callable[..., Awaitable[tuple[LockedPackage, ...]]]


@pytest.fixture
def index() -> Iterator[PypiIndex]:
    with PypiIndex() as index:
        yield index


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """Where the test makes its wheels."""
    return tmp_path / "dist"


@pytest.fixture
def base(small_prefix: Path) -> Environment:
    """The environment with python and numpy. Not to be written to."""
    library = next(small_prefix.glob("lib/python3.*/site-packages")).parent.name
    return Environment(
        key="0" * 16,
        prefix=small_prefix,
        python_version=f"{library.removeprefix('python')}.0",
        python=f"bin/{library}",
        modules={},
        stdlib=frozenset(),
        packages=(),
        variables={},
    )


@pytest.fixture
def prefix(small_prefix: Path, tmp_path: Path) -> Path:
    """A prefix with python and numpy that may be added to."""
    return shutil.copytree(small_prefix, tmp_path / "prefix", symlinks=True, copy_function=os.link)


@pytest.fixture
def make(index: PypiIndex, tmp_path: Path) -> Callable[..., WheelInstaller]:
    def installer(**others: object) -> WheelInstaller:
        settings = Settings(**{"cache_dir": tmp_path, "pypi_index": index.url, "install_timeout_s": 60, **others})
        return WheelInstaller(settings, tmp_path / "pypi")

    return installer


@pytest.fixture
def resolve(make: Callable[..., WheelInstaller], base: Environment) -> Resolve:
    """`await resolve("humanize", pip_cooldown_days=0)`; `import_name=` is that of the first one."""

    async def ask(*specs: str, import_name: str = "", **settings: object) -> tuple[LockedPackage, ...]:
        wanted = [PlannedPackage(spec, spec, "pypi") for spec in specs]
        wanted[0] = PlannedPackage(specs[0], specs[0], "pypi", import_name)
        return await make(**settings).resolve(wanted, base)

    return ask


async def code_of(answer: Awaitable[object]) -> str:
    """Return the code of the error that comes; it must say what to do."""
    with pytest.raises(InstallError) as caught:
        await answer
    assert caught.value.hint
    return caught.value.code


def site_packages(prefix: Path) -> Path:
    return next(prefix.glob("lib/python3.*/site-packages"))


def numpy_version(prefix: Path) -> str:
    return next(site_packages(prefix).glob("numpy-*.dist-info")).name.split("-")[1].removesuffix(".dist")


# --- resolving --------------------------------------------------------------------------------------------------------


async def test_a_requirement_becomes_a_pinned_wheel(index: PypiIndex, wheels: Path, resolve: Resolve):
    index.add(make_wheel(wheels, "mcr_pip"))
    (wheel,) = await resolve("mcr-pip")
    assert (wheel.manager, wheel.channel, wheel.name, wheel.version) == ("pypi", "pypi", "mcr-pip", "1.0")
    assert wheel.url == f"http://{index.address}/files/mcr_pip-1.0-py3-none-any.whl"
    assert wheel.sha256 == index.pages["mcr-pip"]["files"][0]["hashes"]["sha256"]
    assert wheel.size_bytes == len(index.files["mcr_pip-1.0-py3-none-any.whl"])


async def test_what_a_wheel_needs_comes_with_it(index: PypiIndex, wheels: Path, resolve: Resolve):
    index.add(make_wheel(wheels, "mcr_pip", requires=("mcr-dep>=2",)))
    index.add(make_wheel(wheels, "mcr_dep", "2.0"))
    assert [wheel.name for wheel in await resolve("mcr-pip")] == ["mcr-dep", "mcr-pip"]


async def test_what_conda_has_is_not_installed_again(index: PypiIndex, wheels: Path, resolve: Resolve):
    index.add(make_wheel(wheels, "mcr_pip", requires=("numpy",)))
    assert [wheel.name for wheel in await resolve("mcr-pip")] == ["mcr-pip"]


async def test_what_would_come_is_known_without_fetching_it(
    index: PypiIndex, wheels: Path, make: Callable[..., WheelInstaller], base: Environment, tmp_path: Path
):
    index.add(make_wheel(wheels, "mcr_pip", requires=("mcr-dep", "numpy")))
    index.add(make_wheel(wheels, "mcr_dep", "2.0"))
    foreseen = await make().foresee([PlannedPackage("mcr-pip", "mcr-pip", "pypi")], base)
    assert [(wheel.name, wheel.version) for wheel in foreseen] == [("mcr-dep", "2.0"), ("mcr-pip", "1.0")]
    assert not (tmp_path / "pypi" / "wheels").exists()


async def test_alone_a_package_needs_what_the_environment_has_too(
    index: PypiIndex, wheels: Path, make: Callable[..., WheelInstaller], base: Environment
):
    index.add(make_wheel(wheels, "mcr_pip", requires=("numpy",)))
    index.add(make_wheel(wheels, "numpy", "0.9"))
    foreseen = await make().foresee([PlannedPackage("mcr-pip", "mcr-pip", "pypi")], base, alone=True)
    assert [wheel.name for wheel in foreseen] == ["mcr-pip", "numpy"]


async def test_what_conda_has_is_not_even_looked_up(index: PypiIndex, resolve: Resolve):
    assert await resolve("numpy") == ()


async def test_another_version_than_condas_is_a_conflict_that_names_it(
    index: PypiIndex, wheels: Path, resolve: Resolve, small_prefix: Path
):
    index.add(make_wheel(wheels, "mcr_pip", requires=("numpy<1",)))
    index.add(make_wheel(wheels, "numpy", "0.9"))
    with pytest.raises(InstallError, match=f"numpy {numpy_version(small_prefix)}") as caught:
        await resolve("mcr-pip")
    assert caught.value.code == "pypi-conflict"
    assert "numpy<1" in caught.value.details


async def test_the_best_wheel_for_the_environments_python_is_taken(
    index: PypiIndex, wheels: Path, resolve: Resolve, base: Environment
):
    tag = "cp" + "".join(base.python_version.split(".")[:2])
    for its in ("py3-none-any", f"{tag}-none-any", "cp27-none-any"):
        index.add(make_wheel(wheels, "mcr_pip", tag=its))
    (wheel,) = await resolve("mcr-pip")
    assert wheel.url.endswith(f"-{tag}-none-any.whl")


# --- the gate ---------------------------------------------------------------------------------------------------------


async def test_a_project_that_does_not_exist_is_refused(resolve: Resolve):
    assert await code_of(resolve("mcr-nothing")) == "pypi-not-found"


async def test_a_dependency_that_does_not_exist_is_refused(index: PypiIndex, wheels: Path, resolve: Resolve):
    index.add(make_wheel(wheels, "mcr_pip", requires=("mcr-nothing",)))
    assert await code_of(resolve("mcr-pip")) == "pypi-not-found"


async def test_a_version_that_does_not_exist_is_refused(index: PypiIndex, wheels: Path, resolve: Resolve):
    index.add(make_wheel(wheels, "mcr_pip"))
    assert await code_of(resolve("mcr-pip>=2")) == "pypi-not-found"


async def test_source_code_is_never_built(index: PypiIndex, wheels: Path, resolve: Resolve):
    wheels.mkdir()
    (wheels / "mcr_pip-1.0.tar.gz").write_bytes(b"x")
    index.add(wheels / "mcr_pip-1.0.tar.gz")
    assert await code_of(resolve("mcr-pip")) == "pypi-no-wheel"
    assert not [path for path in index.asked if path.startswith("/files/")]


async def test_a_dependency_that_has_only_source_code_is_refused(index: PypiIndex, wheels: Path, resolve: Resolve):
    index.add(make_wheel(wheels, "mcr_pip", requires=("mcr-dep",)))
    (wheels / "mcr_dep-1.0.tar.gz").write_bytes(b"x")
    index.add(wheels / "mcr_dep-1.0.tar.gz")
    assert await code_of(resolve("mcr-pip")) == "pypi-no-wheel"


async def test_a_wheel_for_another_machine_is_refused(index: PypiIndex, wheels: Path, resolve: Resolve):
    index.add(make_wheel(wheels, "mcr_pip", tag="py3-none-win32"))
    assert await code_of(resolve("mcr-pip")) == "pypi-no-wheel"


async def test_a_young_project_is_refused(index: PypiIndex, wheels: Path, resolve: Resolve):
    index.add(make_wheel(wheels, "mcr_pip"), days_old=30)
    assert await code_of(resolve("mcr-pip")) == "pypi-too-new"
    assert len(await resolve("mcr-pip", pip_min_age_days=20)) == 1


async def test_a_young_dependency_of_an_old_project_is_refused(index: PypiIndex, wheels: Path, resolve: Resolve):
    index.add(make_wheel(wheels, "mcr_pip", requires=("mcr-dep",)))
    index.add(make_wheel(wheels, "mcr_dep"), days_old=30)
    assert await code_of(resolve("mcr-pip")) == "pypi-too-new"


async def test_a_project_of_unknown_age_is_refused(index: PypiIndex, wheels: Path, resolve: Resolve):
    index.add(make_wheel(wheels, "mcr_pip"), **{"upload-time": None})
    assert await code_of(resolve("mcr-pip", pip_cooldown_days=0)) == "pypi-too-new"


async def test_fresh_files_of_an_old_project_do_not_exist(index: PypiIndex, wheels: Path, resolve: Resolve):
    index.add(make_wheel(wheels, "mcr_pip"))
    index.add(make_wheel(wheels, "mcr_pip", "2.0"), days_old=1)
    assert [wheel.version for wheel in await resolve("mcr-pip")] == ["1.0"]
    assert [wheel.version for wheel in await resolve("mcr-pip", pip_cooldown_days=0)] == ["2.0"]


async def test_a_fresh_version_that_was_asked_for_is_refused_as_too_new(
    index: PypiIndex, wheels: Path, resolve: Resolve
):
    index.add(make_wheel(wheels, "mcr_pip"))
    index.add(make_wheel(wheels, "mcr_pip", "2.0"), days_old=1)
    assert await code_of(resolve("mcr-pip==2.0")) == "pypi-too-new"


async def test_exclude_newer_holds_for_pypi_too(index: PypiIndex, wheels: Path, resolve: Resolve):
    index.add(make_wheel(wheels, "mcr_pip"))
    assert await code_of(resolve("mcr-pip", exclude_newer="2020-01-01")) == "pypi-too-new"


async def test_a_quarantined_project_is_refused_and_nothing_of_it_is_fetched(
    index: PypiIndex, wheels: Path, resolve: Resolve
):
    index.add(make_wheel(wheels, "mcr_pip"))
    index.quarantine("mcr-pip")
    assert await code_of(resolve("mcr-pip")) == "pypi-quarantined"
    assert not [path for path in index.asked if path.startswith("/files/")]


async def test_a_denied_dependency_is_refused(index: PypiIndex, wheels: Path, resolve: Resolve):
    index.add(make_wheel(wheels, "mcr_pip", requires=("mcr-dep",)))
    index.add(make_wheel(wheels, "mcr_dep"))
    assert await code_of(resolve("mcr-pip", deny_packages=("pypi:MCR_dep",))) == "package-not-allowed"


async def test_a_wheel_without_the_module_that_was_asked_for_is_refused(
    index: PypiIndex, wheels: Path, resolve: Resolve
):
    index.add(make_wheel(wheels, "mcr_pip"))
    assert await code_of(resolve("mcr-pip", import_name="mcr_wanted")) == "pypi-wrong-module"
    assert len(await resolve("mcr-pip", import_name="mcr_pip")) == 1


async def test_a_file_without_a_digest_is_refused(index: PypiIndex, wheels: Path, resolve: Resolve):
    index.add(make_wheel(wheels, "mcr_pip"), hashes={})
    assert await code_of(resolve("mcr-pip")) == "no-checksum"


# --- the index --------------------------------------------------------------------------------------------------------


async def test_an_index_that_is_down_is_named(index: PypiIndex, resolve: Resolve):
    index.stop()
    with pytest.raises(InstallError, match=index.address) as caught:
        await resolve("mcr-pip")
    assert caught.value.code == "pypi-unreachable"


@pytest.mark.parametrize("status", [401, 403, 500])
async def test_an_index_that_fails_is_unreachable(index: PypiIndex, resolve: Resolve, status: int):
    index.status = status
    assert await code_of(resolve("mcr-pip")) == "pypi-unreachable"


async def test_an_index_that_never_answers_is_given_up(index: PypiIndex, resolve: Resolve):
    index.hold()
    assert await code_of(resolve("mcr-pip", install_timeout_s=1)) == "pypi-timeout"


async def test_an_index_without_json_is_refused(index: PypiIndex, wheels: Path, resolve: Resolve):
    index.add(make_wheel(wheels, "mcr_pip"))
    index.kind = "text/html"
    assert await code_of(resolve("mcr-pip")) == "pypi-unreachable"


@pytest.mark.parametrize("page", [{}, {"files": 5}, {"files": [{"filename": "x"}]}, {"files": None}])
async def test_an_index_that_talks_nonsense_is_refused(index: PypiIndex, resolve: Resolve, page: dict[str, object]):
    index.pages["mcr-pip"] = page or {"nothing": 1}
    assert await code_of(resolve("mcr-pip")) == "pypi-unreachable"


async def test_credentials_of_the_index_are_used_and_not_kept(index: PypiIndex, wheels: Path, resolve: Resolve):
    index.add(make_wheel(wheels, "mcr_pip"))
    index.login = "me:secret"
    (wheel,) = await resolve("mcr-pip", pypi_index=f"http://me:secret@{index.address}/simple")
    assert "secret" not in wheel.url


async def test_credentials_of_the_index_are_not_shown(index: PypiIndex, resolve: Resolve):
    index.status = 403
    with pytest.raises(InstallError) as caught:
        await resolve("mcr-pip", pypi_index=f"http://me:secret@{index.address}/simple")
    assert "secret" not in str(caught.value)


async def test_another_host_does_not_get_the_credentials_of_the_index(index: PypiIndex, wheels: Path, resolve: Resolve):
    index.login = "me:secret"
    with PypiIndex() as other:
        other.login = "me:secret"
        wheel = make_wheel(wheels, "mcr_pip")
        index.add(wheel, url=f"http://{other.address}/files/{wheel.name}")
        other.add(wheel)
        assert await code_of(resolve("mcr-pip", pypi_index=f"http://me:secret@{index.address}/simple")) == (
            "pypi-unreachable"
        )


async def test_offline_what_was_resolved_before_is_resolved_again(index: PypiIndex, wheels: Path, resolve: Resolve):
    index.add(make_wheel(wheels, "mcr_pip", requires=("mcr-dep",)))
    index.add(make_wheel(wheels, "mcr_dep"))
    before = await resolve("mcr-pip")
    index.asked.clear()
    assert await resolve("mcr-pip", offline=True) == before
    assert index.asked == []


async def test_offline_what_was_never_fetched_is_said_to_be_missing(index: PypiIndex, wheels: Path, resolve: Resolve):
    index.add(make_wheel(wheels, "mcr_pip"))
    assert await code_of(resolve("mcr-pip", offline=True)) == "offline-missing"
    assert index.asked == []


# --- wheels that nobody should unpack ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "member",
    [
        *("../evil.py", "/tmp/evil.py", "a/../../evil.py", "a\\..\\evil.py", "C:/evil.py", "./evil.py", "a//b.py"),
        *("mcr_pip-1.0.data/data/conda-meta/evil.json", "mcr_pip-1.0.data/data/pyvenv.cfg"),
        *("mcr_pip-1.0.data/data/etc/conda/activate.d/evil.sh", "mcr_pip-1.0.data/elsewhere/evil.py"),
        *("MCR_PIP.py", "numpy-99.dist-info/METADATA"),
    ],
)
async def test_a_wheel_with_a_member_that_has_no_business_there_is_refused(
    index: PypiIndex, wheels: Path, resolve: Resolve, member: str
):
    index.add(make_wheel(wheels, "mcr_pip", files={"mcr_pip.py": "", member: "evil"}))
    assert await code_of(resolve("mcr-pip")) == "pypi-bad-wheel"


async def test_a_wheel_that_adds_to_the_standard_library_is_refused(
    index: PypiIndex, wheels: Path, resolve: Resolve, base: Environment
):
    library = Path(base.python).name
    member = f"mcr_pip-1.0.data/data/lib/{library}/evil.py"
    index.add(make_wheel(wheels, "mcr_pip", files={"mcr_pip.py": "", member: "evil"}))
    assert await code_of(resolve("mcr-pip")) == "pypi-bad-wheel"


async def test_a_wheel_with_a_link_is_refused(index: PypiIndex, wheels: Path, resolve: Resolve):
    wheel = make_wheel(wheels, "mcr_pip")
    link = zipfile.ZipInfo("mcr_link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr(link, "/etc")
    index.add(wheel)
    assert await code_of(resolve("mcr-pip")) == "pypi-bad-wheel"


async def test_a_file_that_is_no_wheel_is_refused(index: PypiIndex, wheels: Path, resolve: Resolve):
    wheel = make_wheel(wheels, "mcr_pip")
    wheel.write_bytes(b"nonsense")
    index.add(wheel, **{"core-metadata": False})
    with pytest.raises(InstallError):
        await resolve("mcr-pip")


@pytest.mark.parametrize("command", ["python", "../evil", "a/b"])
async def test_a_wheel_whose_command_would_take_a_place_is_refused(
    index: PypiIndex, wheels: Path, resolve: Resolve, command: str
):
    index.add(make_wheel(wheels, "mcr_pip", scripts={command: "mcr_pip:main"}))
    assert await code_of(resolve("mcr-pip")) in {"pypi-bad-wheel", "pypi-conflict"}


async def test_a_wheel_that_would_replace_a_file_of_conda_is_refused(index: PypiIndex, wheels: Path, resolve: Resolve):
    index.add(make_wheel(wheels, "mcr_pip", files={"mcr_pip.py": "", "numpy/__init__.py": "evil"}))
    with pytest.raises(InstallError, match=r"numpy/__init__\.py") as caught:
        await resolve("mcr-pip")
    assert caught.value.code == "pypi-conflict"


async def test_a_file_that_is_there_with_the_same_content_is_no_conflict(
    index: PypiIndex, wheels: Path, make: Callable[..., WheelInstaller], base: Environment, prefix: Path
):
    (site_packages(prefix) / "mcr_shared").mkdir()
    (site_packages(prefix) / "mcr_shared/__init__.py").write_text("# shared\n")
    files = {"mcr_shared/mine.py": "", "mcr_shared/__init__.py": "# shared\n"}
    index.add(make_wheel(wheels, "mcr_pip", files=files))
    found = await make().resolve([PlannedPackage("mcr-pip", "mcr-pip", "pypi", "mcr_shared.mine")], base)
    await make().install(found, prefix, base.python_version)
    assert (site_packages(prefix) / "mcr_shared/mine.py").exists()


# --- installing -------------------------------------------------------------------------------------------------------


async def test_wheels_are_installed_with_their_commands(
    index: PypiIndex,
    wheels: Path,
    resolve: Resolve,
    make: Callable[..., WheelInstaller],
    base: Environment,
    prefix: Path,
):
    index.add(make_wheel(wheels, "mcr_pip", scripts={"mcr-pip": "mcr_pip:main"}))
    heard: list[Progress] = []
    await make().install(await resolve("mcr-pip"), prefix, base.python_version, heard.append)
    assert await asyncio.to_thread(subprocess.check_output, [prefix / "bin/mcr-pip"]) == b"1.0\n"
    assert "link" in {progress.phase for progress in heard}


async def test_nothing_but_the_wheels_own_files_is_added(
    index: PypiIndex,
    wheels: Path,
    resolve: Resolve,
    make: Callable[..., WheelInstaller],
    base: Environment,
    prefix: Path,
):
    index.add(make_wheel(wheels, "mcr_pip"))
    before = set(prefix.rglob("*"))
    await make().install(await resolve("mcr-pip"), prefix, base.python_version)
    added = {str(path.relative_to(site_packages(prefix))) for path in set(prefix.rglob("*")) - before}
    assert {name for name in added if not name.startswith("mcr_pip-1.0.dist-info")} == {"mcr_pip.py"}


async def test_installing_runs_no_code_of_the_wheel(
    index: PypiIndex,
    wheels: Path,
    resolve: Resolve,
    make: Callable[..., WheelInstaller],
    base: Environment,
    prefix: Path,
):
    evil = f"import pathlib; pathlib.Path({str(prefix / 'ran')!r}).touch()\n"
    index.add(make_wheel(wheels, "mcr_pip", files={"mcr_pip.py": evil, "sitecustomize.py": evil, "evil.pth": evil}))
    await make().install(await resolve("mcr-pip"), prefix, base.python_version)
    assert (site_packages(prefix) / "evil.pth").exists()
    assert not (prefix / "ran").exists()


async def test_a_wheel_that_was_exchanged_between_resolving_and_installing_is_refused(
    index: PypiIndex, wheels: Path, resolve: Resolve, make: Callable[..., WheelInstaller], base: Environment,
    prefix: Path, tmp_path: Path,
):  # fmt: skip
    index.add(make_wheel(wheels, "mcr_pip"))
    found = await resolve("mcr-pip")
    shutil.rmtree(tmp_path / "pypi")
    index.files["mcr_pip-1.0-py3-none-any.whl"] = make_wheel(
        wheels, "mcr_pip", files={"mcr_pip.py": "evil"}
    ).read_bytes()
    assert await code_of(make().install(found, prefix, base.python_version)) == "checksum-mismatch"
    assert not (site_packages(prefix) / "mcr_pip.py").exists()


async def test_a_wheel_that_was_damaged_in_the_store_is_fetched_again(
    index: PypiIndex, wheels: Path, resolve: Resolve, make: Callable[..., WheelInstaller], base: Environment,
    prefix: Path, tmp_path: Path,
):  # fmt: skip
    index.add(make_wheel(wheels, "mcr_pip"))
    found = await resolve("mcr-pip")
    (stored,) = tmp_path.glob("pypi/wheels/*/*.whl")
    make_wheel(stored.parent, "mcr_pip", files={"mcr_pip.py": "evil"})
    await make().install(found, prefix, base.python_version)
    assert "evil" not in (site_packages(prefix) / "mcr_pip.py").read_text()


async def test_a_wheel_is_installed_offline_from_the_store(
    index: PypiIndex,
    wheels: Path,
    resolve: Resolve,
    make: Callable[..., WheelInstaller],
    base: Environment,
    prefix: Path,
):
    index.add(make_wheel(wheels, "mcr_pip"))
    found = await resolve("mcr-pip")
    index.stop()
    await make(offline=True).install(found, prefix, base.python_version)
    assert (site_packages(prefix) / "mcr_pip.py").exists()


async def test_a_wheel_without_a_digest_is_never_installed(
    make: Callable[..., WheelInstaller], base: Environment, prefix: Path
):
    url = "http://127.0.0.1:9/mcr_pip-1.0-py3-none-any.whl"
    wheel = LockedPackage(name="mcr-pip", version="1.0", url=url, manager="pypi")
    with pytest.raises(InstallError) as caught:
        await make().install([wheel], prefix, base.python_version)
    assert caught.value.code == "bad-package"


def descendants() -> list[psutil.Process]:
    return [process for process in psutil.Process().children(recursive=True) if process.is_running()]


async def test_a_cancelled_resolution_leaves_no_process(index: PypiIndex, resolve: Resolve):
    before = set(descendants())
    index.hold()
    task = asyncio.ensure_future(resolve("mcr-pip"))
    assert await asyncio.to_thread(index.reached.wait, 30)
    assert set(descendants()) > before
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert set(descendants()) == before


async def test_a_cancelled_uv_dies(index: PypiIndex, wheels: Path, resolve: Resolve):
    index.add(make_wheel(wheels, "mcr_pip", requires=("mcr-dep",)))
    before = set(descendants())
    index.hold("/simple/mcr-dep/")  # which only uv asks for before all is solved
    task = asyncio.ensure_future(resolve("mcr-pip"))
    assert await asyncio.to_thread(index.reached.wait, 30)
    assert "uv" in {process.name() for process in descendants()}
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert set(descendants()) == before
