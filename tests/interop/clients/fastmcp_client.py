"""FastMCP's client."""

from common import CALLS, PATIENCE_S, TOOL, Target, answer, main, report
from fastmcp import Client
from fastmcp.client.transports import StdioTransport


async def converse(target: Target) -> dict:
    server = target.url
    if target.transport == "stdio":
        server = StdioTransport(command=target.command, args=target.args, env=target.env, keep_alive=False)
    async with Client(server, timeout=PATIENCE_S, init_timeout=PATIENCE_S) as client:
        tools = [tool.name for tool in await client.list_tools()]
        answers = {}
        for name, arguments in CALLS.items():
            got = await client.call_tool(TOOL, arguments, raise_on_error=False)
            text = "".join(block.text for block in got.content if block.type == "text")
            images = sum(block.type == "image" for block in got.content)
            answers[name] = answer(text, images=images, error=got.is_error)
            if name == "value":
                typed = got.data.return_value
    return report(tools, answers, typed=typed)


main(converse)
