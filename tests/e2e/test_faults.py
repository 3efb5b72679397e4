"""What can go wrong around a run: each fault is its one clear error, and a good run follows."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mcp_conda_run import CondaRunError, RunRequest, Runtime
from mcp_conda_run.errors import RequestError
from mcp_conda_run.models import RunResult, Status
from mcp_conda_run.settings import Settings

from ..support.http_channel import ChannelServer
from ..support.warm import small_settings


def run(settings: Settings, **request: object) -> RunResult:
    async def go() -> RunResult:
        async with Runtime(settings) as runtime:
            result = await runtime.run(RunRequest(**request))
            assert await asyncio.to_thread(runtime.store.trash.wait, 60)
            return result

    return asyncio.run(go())


def error_of(settings: Settings, **request: object) -> str:
    """Return the code of the error that a run ends with, whichever way it comes."""
    try:
        result = run(settings, **request)
    except CondaRunError as error:
        code, hint = error.code, error.hint
    else:
        assert result.status is Status.INSTALL_ERROR, result
        assert result.error is not None
        code, hint = result.error.type, result.error.hint
    assert hint
    return code


def test_an_unknown_template_is_refused(warm_small_cache: Path, small_channel: Path):
    with pytest.raises(RequestError, match="no template"):
        run(small_settings(warm_small_cache, small_channel), code="1", template="nope")


def test_an_unreachable_channel_is_named(small_channel: Path, tmp_path: Path):
    settings = small_settings(tmp_path, small_channel).model_copy(update={"channels": ("http://127.0.0.1:9/none",)})
    assert error_of(settings, code="1") == "channel-unreachable"


def test_a_corrupted_package_is_refused_and_the_next_run_works(
    small_channel: Path, http_channel: Callable[[Path], ChannelServer], tmp_path: Path
):
    server = http_channel(small_channel)
    settings = small_settings(tmp_path, small_channel).model_copy(update={"channels": (server.url,)})
    server.corrupt("*/numpy-*.conda")
    assert error_of(settings, code="1") == "checksum-mismatch"
    server.mend()
    assert run(settings, code="1 + 1").status is Status.SUCCESS


def test_a_failed_installation_leaves_no_environment(
    small_channel: Path, http_channel: Callable[[Path], ChannelServer], tmp_path: Path
):
    server = http_channel(small_channel)
    settings = small_settings(tmp_path, small_channel).model_copy(update={"channels": (server.url,)})
    server.fail("*/numpy-*.conda", status=404)
    error_of(settings, code="1")
    assert [path for path in (tmp_path / "envs").iterdir() if not path.name.startswith(".")] == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", place]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small file system")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_is_said_to_be_full(small_channel: Path, small_disk: Path):
    assert error_of(small_settings(small_disk, small_channel), code="1") == "disk-full"


def test_a_read_only_cache_is_said_to_be_read_only(small_channel: Path, small_disk: Path):
    settings = small_settings(small_disk, small_channel)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert error_of(settings, code="1") == "cache-read-only"


def test_a_mounted_directory_that_cannot_be_made_is_named(warm_small_cache: Path, small_channel: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    settings = small_settings(warm_small_cache, small_channel, path=tmp_path / "file" / "below")
    with pytest.raises(CondaRunError, match="mounted directory"):
        run(settings, code="1")


def test_a_lock_that_was_damaged_is_one_clear_error(small_channel: Path, warm_small_cache: Path, tmp_path: Path):
    settings = small_settings(tmp_path, small_channel)
    runtime = Runtime(settings)
    lock = runtime.provisioner.lock_path(runtime.provisioner.template(None))
    lock.parent.mkdir(parents=True)
    lock.write_text("package: [nonsense]")
    assert error_of(settings, code="1")
