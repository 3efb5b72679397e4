"""The engine's answers to solve requests, by a real solver on a real channel."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mcp_conda_run.conda.engine import SolveRequest, current_platform
from mcp_conda_run.conda.process import child_environment
from mcp_conda_run.errors import InstallError
from mcp_conda_run.models import LockedPackage, Progress

from ..support.http_channel import ChannelServer
from .conftest import Derive, Engine, Row, Solve

Serve = Callable[[Path], ChannelServer]


def versions(packages: tuple[LockedPackage, ...]) -> dict[str, str]:
    return {package.name: package.version for package in packages}


async def refusal(solve: Solve, *specs: str, **more: object) -> InstallError:
    with pytest.raises(InstallError) as caught:
        await solve(*specs, **more)
    return caught.value


async def test_a_solution_has_the_dependencies_too(solve: Solve) -> None:
    assert {"numpy", "python", "python_abi", "tzdata"} <= set(versions(await solve("numpy")))


async def test_dependencies_come_before_what_needs_them(solve: Solve) -> None:
    names = [package.name for package in await solve("requests", "numpy")]
    assert names.index("python_abi") < names.index("python") < names.index("numpy")
    assert names.index("urllib3") < names.index("requests")


async def test_every_package_of_a_solution_can_be_fetched_and_verified(solve: Solve) -> None:
    for package in await solve("numpy"):
        assert package.url.startswith("file:///")
        assert len(package.sha256) == 64
        assert package.size_bytes > 0


async def test_a_package_says_its_channel_as_the_user_named_it(solve: Solve, channel: str) -> None:
    assert {package.channel for package in await solve("numpy")} == {channel}


async def test_the_same_request_has_the_same_answer(solve: Solve) -> None:
    assert await solve("numpy", "requests") == await solve("numpy", "requests")


async def test_solving_reports_progress(engine: Engine, channel: str) -> None:
    seen: list[Progress] = []
    request = SolveRequest(specs=["mcr-clib"], channels=[channel], platform=current_platform())
    await engine.solve(request, seen.append)
    assert seen[-1] == Progress("solve", "Solved: 1 packages", 1, 1, "packages")


async def test_a_missing_dependency_is_shown_as_the_solvers_tree(solve: Solve) -> None:
    error = await refusal(solve, "python", "mcr-unsat")
    assert error.code == "unsatisfiable"
    assert "mcr-unsat" in error.details
    assert "mcr-does-not-exist" in error.details
    assert error.hint


async def test_packages_that_exclude_each_other_are_shown_as_the_solvers_tree(solve: Solve) -> None:
    error = await refusal(solve, "mcr-conflict")
    assert error.code == "unsatisfiable"
    assert "mcr-two" in error.details
    assert "conflict" in error.details


async def test_a_version_that_does_not_exist_is_unsatisfiable(solve: Solve) -> None:
    error = await refusal(solve, "numpy 17.*")
    assert error.code == "unsatisfiable"
    assert "numpy" in error.details
    assert "17" in error.details


async def test_a_name_that_no_channel_has_is_named(solve: Solve, channel: str) -> None:
    error = await refusal(solve, "nosuchpackage", "numpy", "alsonot >=2")
    assert error.code == "package-not-found"
    assert "alsonot, nosuchpackage" in error.message
    assert channel in error.message


async def test_a_misspelt_name_gets_the_right_one_as_a_hint(solve: Solve) -> None:
    error = await refusal(solve, "nunpy")
    assert error.code == "package-not-found"
    assert "numpy" in error.hint


@pytest.mark.parametrize("spec", ["numpy===>>>3", "numpy[version", "", "numpy >="])
async def test_a_bad_spec_is_quoted(solve: Solve, spec: str) -> None:
    error = await refusal(solve, "python", spec)
    assert error.code == "bad-spec"
    assert repr(spec) in error.message


@pytest.mark.parametrize("spec", ["https://host/x/noarch/six-1.17.0-py_0.conda", "file:///tmp/six-1.17.0-py_0.conda"])
async def test_an_address_is_no_spec(solve: Solve, spec: str) -> None:
    assert (await refusal(solve, spec)).code == "bad-spec"


async def test_a_spec_can_be_bound_to_a_channel(solve: Solve, channel: str) -> None:
    assert versions(await solve(f"{channel}::mcr-clib")) == {"mcr-clib": "1.0"}


async def test_a_channel_that_is_not_there_is_named(solve: Solve, tmp_path: Path) -> None:
    error = await refusal(solve, "python", channels=((tmp_path / "none").as_uri(),))
    assert error.code == "channel-unreachable"
    assert str(tmp_path / "none") in error.message
    assert error.hint


async def test_a_channel_without_the_platform_still_offers_its_noarch_packages(
    solve: Solve, small_channel: Path, tmp_path: Path
) -> None:
    (tmp_path / "noarch").symlink_to(small_channel / "noarch")
    assert versions(await solve("mcr-activate", channels=(tmp_path.as_uri(),))) == {"mcr-activate": "1.0"}


async def test_a_channel_name_that_is_none_is_refused(solve: Solve) -> None:
    assert (await refusal(solve, "python", channels=("ht!tp://x y",))).code == "channel-unreachable"


async def test_no_channel_at_all_is_an_error(solve: Solve) -> None:
    assert (await refusal(solve, "python", channels=())).code == "bad-channel"


async def test_a_refused_connection_ends_long_before_the_time_out(solve: Solve) -> None:
    error = await refusal(solve, "python", channels=("http://127.0.0.1:9/channel",))
    assert error.code == "channel-unreachable"
    assert "refused" in error.message.lower() or "could not connect" in error.message.lower()


async def test_credentials_of_a_channel_are_not_in_the_error(solve: Solve) -> None:
    error = await refusal(solve, "python", channels=("http://user:secret@127.0.0.1:9/t/to-ken/channel",))
    assert "secret" not in str(error)
    assert "to-ken" not in str(error)


async def test_credentials_of_a_channel_are_not_in_a_packages_channel(
    solve: Solve, small_channel: Path, http_channel: Serve
) -> None:
    url = http_channel(small_channel).url.replace("://", "://user:secret@")
    (package,) = await solve("mcr-clib", channels=(url,))
    assert "secret" not in package.channel
    assert "secret" not in package.url


async def test_a_server_that_answers_500_is_an_unreachable_channel(
    solve: Solve, small_channel: Path, http_channel: Serve
) -> None:
    server = http_channel(small_channel)
    server.fail("*", 500)
    assert (await refusal(solve, "python", channels=(server.url,))).code == "channel-unreachable"


async def test_refused_credentials_have_a_hint_of_their_own(
    solve: Solve, small_channel: Path, http_channel: Serve
) -> None:
    server = http_channel(small_channel)
    server.fail("*", 401)
    error = await refusal(solve, "python", channels=(server.url,))
    assert error.code == "channel-unreachable"
    assert "credentials" in error.hint


async def test_the_first_channel_that_has_a_name_wins(solve: Solve, channel: str, derive: Derive) -> None:
    old = derive(lambda name, row: row if name.startswith("numpy-2.1.3-") else None).as_uri()
    assert versions(await solve("numpy", channels=(old, channel)))["numpy"] == "2.1.3"
    assert versions(await solve("numpy", channels=(channel, old)))["numpy"] != "2.1.3"


# --- pins -------------------------------------------------------------------------------------------------------------


async def test_pinned_packages_stay_exactly_as_they_are(solve: Solve) -> None:
    old = await solve("numpy 2.1.*")
    pinned = {package.name: package for package in old}
    for package in await solve("numpy", "requests", pinned=old):
        assert package == pinned.get(package.name, package)
    assert versions(await solve("numpy", "requests", pinned=old))["numpy"] == "2.1.3"


async def test_pinned_packages_that_nothing_needs_are_not_added(solve: Solve) -> None:
    old = await solve("numpy 2.1.*")
    assert "numpy" not in versions(await solve("six", pinned=old))


async def test_a_pin_in_the_way_is_named_with_both_versions(solve: Solve) -> None:
    old = await solve("numpy 2.1.*")
    error = await refusal(solve, "numpy >2.1.3", pinned=old)
    assert error.code == "unsatisfiable"
    assert "numpy 2.1.3 (it would have to be" in error.message
    assert error.details


async def test_a_pin_that_the_channel_no_longer_has_still_holds(solve: Solve, derive: Derive) -> None:
    old = await solve("numpy 2.1.*")
    without = derive(lambda name, row: None if name.startswith("numpy-2.1.3-") else row).as_uri()
    assert versions(await solve("numpy", channels=(without,), pinned=old))["numpy"] == "2.1.3"


async def test_rows_of_a_lock_can_be_pinned(solve: Solve) -> None:
    rows = [replace(package, size_bytes=0, depends=()) for package in await solve("numpy 2.1.*")]
    assert versions(await solve("numpy", pinned=rows))["numpy"] == "2.1.3"


# --- the machine and the calendar -------------------------------------------------------------------------------------


async def test_a_virtual_package_that_the_machine_lacks_is_shown(solve: Solve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDA_OVERRIDE_CUDA", "")
    error = await refusal(solve, "mcr-cuda")
    assert error.code == "unsatisfiable"
    assert "__cuda" in error.details


async def test_a_virtual_package_can_be_overridden(solve: Solve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDA_OVERRIDE_CUDA", "12.4")
    assert "mcr-cuda" in versions(await solve("mcr-cuda"))


async def test_another_platform_is_solved_with_that_platforms_virtual_packages(engine: Engine, channel: str) -> None:
    request = SolveRequest(specs=["numpy"], channels=[channel], platform="osx-arm64")
    assert {package.subdir for package in await engine.solve(request)} == {"osx-arm64", "noarch"}


async def test_a_platform_that_conda_does_not_know_is_refused(engine: Engine, channel: str) -> None:
    with pytest.raises(InstallError) as caught:
        await engine.solve(SolveRequest(specs=["python"], channels=[channel], platform="plan-9"))
    assert caught.value.code == "unknown-platform"


@pytest.mark.parametrize(
    ("cutoff", "version"),
    [
        ("2025-01-01", "1.0"),
        ("2025-05-31", "1.0"),
        ("2025-06-01", "2.0"),  # a date includes its whole day
        ("2025-06-01T09:00:00+10:00", "1.0"),  # the evening before, in UTC
        ("2025-05-31T19:00:00-10:00", "2.0"),  # five hours later, in UTC
        ("2025-06-01T00:00:01Z", "2.0"),
        ("2025-05-31T23:59:59", "1.0"),  # UTC where no zone is given
    ],
)
async def test_packages_after_the_cutoff_do_not_exist(solve: Solve, derive: Derive, cutoff: str, version: str) -> None:
    def without_time_of_indexing(_: str, row: Row) -> Row:  # the moment when the test channel was built; it would win
        return {key: value for key, value in row.items() if key != "indexed_timestamp"}

    dated = derive(without_time_of_indexing).as_uri()
    assert versions(await solve("mcr-two", channels=(dated,), exclude_newer=cutoff))["mcr-two"] == version


async def test_a_cutoff_that_is_no_date_is_refused(solve: Solve) -> None:
    assert (await refusal(solve, "mcr-clib", exclude_newer="yesterday")).code == "bad-date"


# --- offline ----------------------------------------------------------------------------------------------------------


async def test_offline_what_was_solved_before_is_solved_again(
    solve: Solve, small_channel: Path, http_channel: Serve
) -> None:
    server = http_channel(small_channel)
    online = await solve("numpy", channels=(server.url,))
    server.forget()
    assert await solve("numpy", channels=(server.url,), offline=True) == online
    assert server.requests == []


async def test_offline_a_channel_never_seen_is_an_error_without_a_request(
    solve: Solve, small_channel: Path, http_channel: Serve
) -> None:
    server = http_channel(small_channel)
    error = await refusal(solve, "numpy", channels=(server.url,), offline=True)
    assert error.code == "offline-missing"
    assert server.requests == []


async def test_offline_a_name_never_asked_for_is_an_error_without_a_request(
    solve: Solve, small_channel: Path, http_channel: Serve
) -> None:
    server = http_channel(small_channel)
    await solve("mcr-clib", channels=(server.url,))
    server.forget()
    error = await refusal(solve, "requests", channels=(server.url,), offline=True)
    assert error.code == "offline-missing"
    assert server.requests == []


def test_the_worker_gets_proxies_certificates_and_overrides_but_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    passed = {"HTTPS_PROXY": "a", "no_proxy": "b", "SSL_CERT_FILE": "c", "CONDA_OVERRIDE_CUDA": "d"}
    for name, value in {**passed, "AWS_SECRET_ACCESS_KEY": "e", "PYTHONPATH": "f", "MCP_CONDA_RUN_X": "g"}.items():
        monkeypatch.setenv(name, value)
    environment = child_environment()
    assert passed.items() <= environment.items()
    assert not {"AWS_SECRET_ACCESS_KEY", "PYTHONPATH", "MCP_CONDA_RUN_X"} & set(environment)
    assert set(environment) <= set(os.environ)
