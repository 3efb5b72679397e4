"""The official Python client, 1.x."""

from datetime import timedelta

from common import CALLS, PATIENCE_S, TOOL, Target, answer, main, report
from mcp import ClientSession, StdioServerParameters
from mcp.client.sse import sse_client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamablehttp_client


def connection(target: Target):
    if target.transport == "stdio":
        return stdio_client(StdioServerParameters(command=target.command, args=target.args, env=target.env))
    return sse_client(target.url) if target.transport == "sse" else streamablehttp_client(target.url)


async def converse(target: Target) -> dict:
    async with connection(target) as streams, ClientSession(*streams[:2], timedelta(seconds=PATIENCE_S)) as session:
        began = await session.initialize()
        tools = [tool.name for tool in (await session.list_tools()).tools]
        answers = {}
        for name, arguments in CALLS.items():
            said = await session.call_tool(TOOL, arguments)
            text = "".join(block.text for block in said.content if block.type == "text")
            images = sum(block.type == "image" for block in said.content)
            answers[name] = answer(text, images=images, error=said.isError)
    return report(tools, answers, protocol=began.protocolVersion)


main(converse)
