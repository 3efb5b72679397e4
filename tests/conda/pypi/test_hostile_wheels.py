"""Wheels that nobody should unpack are refused before they are installed."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_conda_run.conda.pypi import WheelInstaller
from mcp_conda_run.errors import InstallError
from mcp_conda_run.models import Environment, PlannedPackage

from ...support.pypi_index import PypiIndex
from ...support.wheels import make_wheel
from .conftest import Resolve, code_of, site_packages


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
