"""The OpenAI Agents SDK's servers."""

from agents.mcp import MCPServerSse, MCPServerStdio, MCPServerStreamableHttp
from common import CALLS, PATIENCE_S, TOOL, Target, answer, main, report


def server(target: Target):
    if target.transport == "stdio":
        params = {"command": target.command, "args": target.args, "env": target.env}
        return MCPServerStdio(params, client_session_timeout_seconds=PATIENCE_S)
    kind = MCPServerSse if target.transport == "sse" else MCPServerStreamableHttp
    return kind({"url": target.url}, client_session_timeout_seconds=PATIENCE_S)


async def converse(target: Target) -> dict:
    async with server(target) as conda:
        tools = [tool.name for tool in await conda.list_tools()]
        answers = {}
        for name, arguments in CALLS.items():
            said = (await conda.call_tool(TOOL, arguments)).model_dump(by_alias=True)
            text = "".join(block.get("text", "") for block in said["content"])
            images = sum(block["type"] == "image" for block in said["content"])
            answers[name] = answer(text, images=images, error=said["isError"])
    return report(tools, answers)


main(converse)
