"""The files that a run made or changed: listed, linked, and served to nobody who asks for others."""

import base64
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp.types import CallToolResult

from mcp_conda_run.server.app import make_server
from mcp_conda_run.server.runs import Runs
from tests.support.warm import small_settings

from .conftest import text

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="runs need Linux")

MAKE = (
    "from pathlib import Path\n"
    "here = Path('/working')\n"
    "(here / 'a.txt').write_text('text')\n"
    "(here / 'sub').mkdir()\n"
    "(here / 'sub' / 'b é#?.bin').write_bytes(b'\\xff\\0')\n"
    "(here / 'link.txt').symlink_to('/etc/passwd')\n"
    "(here / 'large.csv').write_text('x' * 10**6)\n"
)

NOT_LISTED = [
    "working/old.txt",
    "working/link.txt",
    "working/absent.txt",
    "working/large.csv",
    "working/../working/a.txt",
    "working/sub/../a.txt",
    "working/%2e%2e/working/a.txt",
    "working//a.txt",
    "/working/a.txt",
    "etc/passwd",
    "../../etc/passwd",
    "",
    "working",
    "working/a.txt%00",
]


@pytest.fixture
def working(tmp_path) -> Path:
    (tmp_path / "working").mkdir()
    (tmp_path / "working" / "old.txt").write_text("was there")
    return tmp_path / "working"


@pytest.fixture
def connected(warm_small_cache, small_channel, working) -> Callable[[], AbstractAsyncContextManager[Client]]:
    @asynccontextmanager
    async def connect() -> AsyncIterator[Client]:
        settings = small_settings(warm_small_cache, small_channel, path=working)
        async with Runs(settings) as runs, Client(make_server(runs)) as client:
            yield client

    return connect


async def run(client: Client, code: str = MAKE) -> CallToolResult:
    return await client.call_tool("run_python_code", {"python_code": code})


async def test_what_a_run_made_is_listed_and_linked(connected):
    async with connected() as client:
        answer = await run(client)
        listed = {row["path"]: (row["size_bytes"], row["uri"]) for row in answer.structured_content["files"]}
        prefix = f"run://{answer.structured_content['run_id']}/files/working"
        assert listed == {
            "/working/a.txt": (4, f"{prefix}/a.txt"),
            "/working/large.csv": (10**6, ""),
            "/working/sub/b é#?.bin": (2, f"{prefix}/sub/b%20%C3%A9%23%3F.bin"),
        }
        links = {str(block.uri): block.mime_type for block in answer.content if block.type == "resource_link"}
        assert links == {
            f"{prefix}/a.txt": "text/plain",
            f"{prefix}/sub/b%20%C3%A9%23%3F.bin": "application/octet-stream",
        }


async def test_the_text_names_them(connected):
    async with connected() as client:
        assert "Files made or changed: /working/a.txt (4 bytes), /working/large.csv" in text(await run(client))


async def test_a_run_that_writes_nothing_lists_nothing(connected):
    async with connected() as client:
        answer = await run(client, "1")
        assert answer.structured_content["files"] == []
        assert "Files made" not in text(answer)


async def test_a_text_file_is_read_as_text(connected):
    async with connected() as client:
        uri = (await run(client)).structured_content["files"][0]["uri"]
        (content,) = (await client.read_resource(uri)).contents
        assert (content.text, content.mime_type) == ("text", "text/plain")


async def test_a_binary_file_with_a_difficult_name_is_read_as_bytes(connected):
    async with connected() as client:
        uri = (await run(client)).structured_content["files"][2]["uri"]
        (content,) = (await client.read_resource(uri)).contents
        assert (base64.b64decode(content.blob), content.mime_type) == (b"\xff\0", "application/octet-stream")


async def test_what_the_run_does_not_list_is_refused(connected):
    async with connected() as client:
        run_id = (await run(client)).structured_content["run_id"]
        for path in NOT_LISTED:
            with pytest.raises(MCPError):
                await client.read_resource(f"run://{run_id}/files/{path}")


async def test_a_listed_file_that_turned_into_a_link_is_refused(connected, working):
    async with connected() as client:
        uri = (await run(client)).structured_content["files"][0]["uri"]
        (working / "a.txt").unlink()
        (working / "a.txt").symlink_to("/etc/passwd")
        with pytest.raises(MCPError, match="it is a link"):
            await client.read_resource(uri)


async def test_a_directory_that_turned_into_a_link_is_refused(connected, working):
    async with connected() as client:
        uri = (await run(client)).structured_content["files"][2]["uri"]
        (working / "sub").rename(working / "moved")
        (working / "sub").symlink_to(working / "moved")
        with pytest.raises(MCPError):
            await client.read_resource(uri)


async def test_many_files_are_listed_within_bounds(connected):
    async with connected() as client:
        answer = await run(client, "for i in range(500): open(f'/working/{i}.txt', 'w').write('x')")
        assert 0 < len(answer.structured_content["files"]) <= 200
        assert not answer.structured_content["files_complete"]
        assert sum(block.type == "resource_link" for block in answer.content) <= 20
