"""Resources: the originals of what an answer could not carry."""

import base64
import json

import pytest
from mcp.shared.exceptions import MCPError

from .conftest import serving
from .pictures import png


async def test_the_whole_output_is_read_in_pages(settings, era):
    async with serving(settings, mode=era) as served:
        answer = await served.call(python_code="big 150000")
        link = next(block for block in answer.content if block.type == "resource_link")
        first = (await served.client.read_resource(str(link.uri))).contents[0]
        second = (await served.client.read_resource(f"{link.uri}?offset=100000")).contents[0]
    assert (len(first.text), len(second.text)) == (100_000, 50_000)
    assert first.mime_type == "text/plain"


async def test_the_text_names_the_resource_that_has_the_whole(settings):
    async with serving(settings) as served:
        answer = await served.call(python_code="big 150000")
        link = next(block for block in answer.content if block.type == "resource_link")
    assert f"the whole: {link.uri} ...]" in answer.content[0].text


async def test_a_figure_that_was_not_shown_can_be_read(settings):
    async with serving(settings) as served:
        answer = await served.call(python_code="figures 50")
        link = next(block for block in answer.content if block.type == "resource_link")
        content = (await served.client.read_resource(str(link.uri))).contents[0]
    assert base64.b64decode(content.blob) == png(padding=60_000)
    assert content.mime_type == "image/png"


async def test_a_value_is_there_as_json(settings):
    async with serving(settings) as served:
        run_id = (await served.call(python_code="echo x")).structured_content["run_id"]
        content = (await served.client.read_resource(f"run://{run_id}/value.json")).contents[0]
    assert (content.text, content.mime_type) == ('"x"', "application/json")


@pytest.mark.parametrize(
    ("offered", "name", "mime_type"),
    [
        ("text/markdown", "value.md", "text/markdown"),
        ("text/latex", "value.tex", "text/latex"),
        ("image/svg+xml", "value.svg", "image/svg+xml"),
        ("application/vnd.vegalite.v5+json", "document-2.json", "application/json"),
    ],
)
async def test_what_a_value_offers_can_be_read(settings, offered, name, mime_type):
    async with serving(settings) as served:
        answer = await served.call(python_code=f"offer {offered}")
        uri = answer.structured_content["representations"][1]["uri"]
        content = (await served.client.read_resource(uri)).contents[0]
    assert uri.endswith(f"/{name}")
    assert (content.text, content.mime_type) == ('"a document"', mime_type)


async def test_a_template_can_be_read(settings):
    async with serving(settings) as served:
        content = (await served.client.read_resource("template://base")).contents[0]
    assert "- numpy" in content.text


@pytest.mark.parametrize(
    "path",
    [
        "figure-0.png",
        "figure-1.png",
        "figure--1.png",
        "figure-99999999999999999999.png",
        "figure-x.png",
        "..%2f..%2fetc%2fpasswd",
        "../../../etc/passwd",
        "result",
        "value.json",
        "value.html",
        "document-1.json",
        "document-x.json",
    ],
)
async def test_what_a_run_does_not_have_is_refused(settings, path):
    async with serving(settings) as served:
        run_id = (await served.call(python_code="big 1")).structured_content["run_id"]
        with pytest.raises(MCPError):
            await served.client.read_resource(f"run://{run_id}/{path}")


@pytest.mark.parametrize(
    "uri",
    [
        "run://0000000000000000/output",
        "template://..",
        "template://%2e%2e%2fbase",
        "file:///etc/passwd",
        "template://%00",
        "template://b\u0430se",
        "run://%2e%2e/output",
        "run:///output",
        "x",
    ],
)
async def test_what_does_not_exist_is_refused(settings, uri):
    async with serving(settings) as served:
        with pytest.raises(MCPError):
            await served.client.read_resource(uri)


async def test_a_run_that_goes_on_has_no_output_yet(settings):
    async with serving(settings) as served:
        run_id = (await served.call(python_code="hold", wait_s=0)).structured_content["run_id"]
        with pytest.raises(MCPError, match="has no result yet"):
            await served.client.read_resource(f"run://{run_id}/output")


async def of_run(served, name: str, code: str = "installed 0123456789abcdef"):
    run_id = (await served.call(python_code=code)).structured_content["run_id"]
    return (await served.client.read_resource(f"run://{run_id}/{name}")).contents[0]


async def test_the_plan_of_a_run_can_be_read(settings, era):
    async with serving(settings, mode=era) as served:
        content = await of_run(served, "plan")
    assert json.loads(content.text)["packages"][0]["reason"] == "osgeo is part of gdal"
    assert content.mime_type == "application/json"


async def test_the_exact_packages_of_a_run_can_be_read(settings, era):
    async with serving(settings, mode=era) as served:
        content = await of_run(served, "lock")
    said = json.loads(content.text)
    assert (said["environment"], content.mime_type) == ("0123456789abcdef", "application/json")
    assert [(row["name"], row["manager"], row["sha256"]) for row in said["packages"]] == [
        ("numpy", "conda", "a" * 64),
        ("six", "pypi", "b" * 64),
    ]


async def test_the_exact_packages_are_told_without_the_tokens_of_their_channels(settings):
    async with serving(settings) as served:
        content = await of_run(served, "lock")
    assert "https://channels.example/t/***/conda-forge/n.conda" in content.text
    assert "secret-token" not in content.text


@pytest.mark.parametrize("code", ["installed gone", "echo x"])
async def test_an_environment_that_is_gone_has_no_exact_packages(settings, code):
    async with serving(settings) as served:
        with pytest.raises(MCPError, match="had no environment, or it was removed"):
            await of_run(served, "lock", code)


@pytest.fixture
def own_template(settings, tmp_path):
    """Settings whose template is a file of the operator."""
    path = tmp_path / "own.yml"
    path.write_text("channels: ['https://user:hunter2@host/private']\ndependencies: [python, numpy]\n")
    return settings.model_copy(update={"template": str(path)})


async def test_the_configured_template_can_be_read_by_its_name_without_its_password(own_template):
    async with serving(own_template) as served:
        content = (await served.client.read_resource("template://own")).contents[0]
    assert "https://host/private" in content.text
    assert "hunter2" not in content.text


async def test_the_configured_template_may_be_asked_for_by_its_name(own_template):
    async with serving(own_template) as served:
        await served.call(python_code="echo x", template="own")
        assert served.runner.requests[0].template == own_template.template
