"""LangChain's MCP adapters."""

from common import CALLS, TOOL, Target, answer, main, report
from langchain_core.tools import ToolException
from langchain_mcp_adapters.client import MultiServerMCPClient


def connection(target: Target) -> dict:
    if target.transport == "stdio":
        return {"transport": "stdio", "command": target.command, "args": target.args, "env": target.env}
    return {"transport": "sse" if target.transport == "sse" else "streamable_http", "url": target.url}


async def converse(target: Target) -> dict:
    client = MultiServerMCPClient({"conda": connection(target)})
    async with client.session("conda") as session:
        from langchain_mcp_adapters.tools import load_mcp_tools

        tools = {tool.name: tool for tool in await load_mcp_tools(session)}
        answers = {}
        for name, arguments in CALLS.items():
            call = {"type": "tool_call", "id": name, "name": TOOL, "args": arguments}
            try:
                said = await tools[TOOL].ainvoke(call)
            except ToolException as error:
                answers[name] = answer(str(error), error=True)
                continue
            blocks = said.content if isinstance(said.content, list) else [{"type": "text", "text": said.content}]
            text = "".join(block.get("text", "") for block in blocks)
            images = sum("image" in block["type"] for block in blocks)
            answers[name] = answer(text, images=images, error=said.status == "error")
    return report(list(tools), answers)


main(converse)
