"""The list of resources: each client's own, and news of its changes."""

import anyio
import pytest
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from mcp_conda_run.environments.templates import shipped_templates

from .conftest import serving
from .web import Web, running

TEMPLATES = [f"template://{name}" for name in sorted(shipped_templates())]


async def uris(served) -> list[str]:
    return [str(each.uri) for each in (await served.client.list_resources()).resources]


async def test_what_a_run_left_is_listed_newest_first(settings, era):
    async with serving(settings, mode=era) as served:
        first = (await served.call(python_code="echo x")).structured_content["run_id"]
        second = (await served.call(python_code="figures 1")).structured_content["run_id"]
        listed = await uris(served)
    assert listed == [
        *TEMPLATES,
        f"run://{second}/figure-1.png",
        f"run://{second}/plan",
        f"run://{first}/output",
        f"run://{first}/value",
        f"run://{first}/plan",
    ]


async def test_everything_that_is_listed_can_be_read(settings):
    async with serving(settings) as served:
        for code in ("echo x", "figures 1", "offer text/latex", "installed 0123456789abcdef"):
            await served.call(python_code=code)
        listed = (await served.client.list_resources()).resources
        read = [(await served.client.read_resource(str(each.uri))).contents[0] for each in listed]
    assert [each.mime_type for each in listed] == [each.mime_type for each in read]
    assert len(listed) > 10


async def test_the_list_stays_bounded(settings):
    async with serving(settings) as served:
        for _ in range(5):
            await served.call(python_code="figures 50")
        assert len(await uris(served)) == 200 + len(TEMPLATES)


async def test_a_run_that_goes_on_is_not_listed(settings):
    async with serving(settings) as served:
        await served.call(python_code="hold", wait_s=0)
        assert await uris(served) == TEMPLATES


async def test_a_client_hears_that_the_list_has_changed(settings):
    """In the handshake era, where the server announces it."""
    heard = anyio.Event()

    async def hear(message) -> None:
        if getattr(message, "method", "") == "notifications/resources/list_changed":
            heard.set()

    async with serving(settings, mode="legacy", message_handler=hear) as served:
        assert served.client.server_capabilities.resources.list_changed
        await served.call(python_code="echo x")
        with anyio.fail_after(30):
            await heard.wait()


async def test_a_client_that_listens_hears_that_the_list_has_changed(settings):
    """In the newest protocol, where a client opens a stream for it."""
    async with serving(settings) as served, served.client.listen(resources_list_changed=True) as events:
        await served.call(python_code="echo x")
        with anyio.fail_after(30):
            assert type(await anext(events)).__name__ == "ResourcesListChanged"


async def test_a_client_that_listens_hears_that_a_run_is_over(settings):
    async with serving(settings) as served:
        run_id = (await served.call(python_code="hold", wait_s=0)).structured_content["run_id"]
        uri = f"run://{run_id}/output"
        async with served.client.listen(resource_subscriptions=[uri]) as events:
            served.runner.release.set()
            with anyio.fail_after(30):
                assert (await anext(events)).uri == uri


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    place = tmp_path_factory.mktemp("cache")
    own = {"MCP_CONDA_RUN_CACHE_DIR": str(place), "MCP_CONDA_RUN_TEMPLATES_DIR": str(place / "templates")}
    with running(own) as web:
        yield web


async def listed_over_http(web: Web, transport: str, mode: str, *, runs_first: bool) -> list[str]:
    reached = sse_client(f"{web.base}/sse") if transport == "sse" else streamable_http_client(f"{web.base}/mcp")
    async with Client(reached, mode=mode) as client:
        if runs_first:
            await client.call_tool("run_python_code", {"python_code": "echo x"})
        return [str(each.uri) for each in (await client.list_resources()).resources]


@pytest.mark.parametrize(("transport", "mode"), [("http", "legacy"), ("sse", "legacy")])
async def test_a_session_over_http_is_shown_its_own_runs(web, transport, mode):
    assert len(await listed_over_http(web, transport, mode, runs_first=True)) == 3 + len(TEMPLATES)


@pytest.mark.parametrize(("transport", "mode"), [("http", "legacy"), ("http", "auto"), ("sse", "legacy")])
async def test_no_client_is_shown_the_runs_of_another(web, transport, mode):
    await listed_over_http(web, transport, mode, runs_first=True)
    assert await listed_over_http(web, transport, mode, runs_first=False) == TEMPLATES


async def test_without_a_session_no_run_is_listed(web):
    assert await listed_over_http(web, "http", "auto", runs_first=True) == TEMPLATES
