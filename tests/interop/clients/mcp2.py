"""The official Python client, 2.x, in the mode that the target names."""

from common import CALLS, PATIENCE_S, TOOL, Target, answer, main, report
from mcp import Client, StdioServerParameters
from mcp.client.sse import sse_client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client


def connection(target: Target):
    if target.transport == "stdio":
        return stdio_client(StdioServerParameters(command=target.command, args=target.args, env=target.env))
    return sse_client(target.url) if target.transport == "sse" else streamable_http_client(target.url)


async def converse(target: Target) -> dict:
    async with Client(connection(target), mode=target.mode, read_timeout_seconds=PATIENCE_S) as client:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        answers = {}
        for name, arguments in CALLS.items():
            said = await client.call_tool(TOOL, arguments)
            text = "".join(block.text for block in said.content if block.type == "text")
            images = sum(block.type == "image" for block in said.content)
            answers[name] = answer(text, images=images, error=said.is_error)
        return report(tools, answers, protocol=client.protocol_version)


main(converse)
