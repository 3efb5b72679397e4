"""An index that is down, slow, strange or private, and one that must not be asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_conda_run.errors import InstallError

from ...support.pypi_index import PypiIndex
from ...support.wheels import make_wheel
from .conftest import Resolve, code_of


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
