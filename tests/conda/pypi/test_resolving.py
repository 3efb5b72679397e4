"""Requirements become pinned wheels of a local index, on top of a real conda prefix, or are refused at the gate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_conda_run.conda.pypi import WheelInstaller
from mcp_conda_run.errors import InstallError
from mcp_conda_run.models import Environment, PlannedPackage

from ...support.pypi_index import PypiIndex
from ...support.wheels import make_wheel
from .conftest import Resolve, code_of, numpy_version


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
