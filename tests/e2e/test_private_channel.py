"""Whole runs from a channel that demands a token: it serves, and the token is nowhere afterwards."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_conda_run.models import RunRequest, Status
from mcp_conda_run.runtime import Runtime
from mcp_conda_run.serialize import result_document
from mcp_conda_run.settings import Settings

from ..support.http_channel import ChannelServer

SECRET = "s3cr3t-t0ken"
CODE = """
import os, sys
import six
found = []
for directory, _, names in os.walk(sys.prefix):
    for name in names:
        path = os.path.join(directory, name)
        if os.path.isfile(path) and SECRET.encode() in open(path, "rb").read():
            found.append(path)
found += [name for name, value in os.environ.items() if SECRET in value]
found
"""


def files_with(root: Path, secret: str) -> list[Path]:
    return [
        path
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink() and secret.encode() in path.read_bytes()
    ]


@pytest.fixture
def private(small_channel: Path, http_channel: Callable[[Path], ChannelServer]) -> ChannelServer:
    server = http_channel(small_channel)
    server.demand_token(SECRET)
    return server


async def test_a_run_from_a_private_channel_leaves_its_token_nowhere(
    private: ChannelServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / "small.yml").write_text("dependencies: [python]\n")
    settings = Settings(
        cache_dir=tmp_path / "cache",
        channels=(f"{private.url}/t/{SECRET}",),
        template=str(tmp_path / "small.yml"),
        pool_mb=0,
    )
    async with Runtime(settings) as runtime:
        request = RunRequest(code=f"SECRET = {SECRET[::-1]!r}[::-1]\n{CODE}")
        result = await runtime.run(request)
    assert result.status is Status.SUCCESS, result.error
    assert result.value is not None
    assert result.value.json == []
    assert [package.name for package in result.packages] == ["six"]
    assert SECRET not in json.dumps(result_document(result), default=str)
    assert SECRET not in caplog.text
    assert files_with(tmp_path, SECRET) == []
