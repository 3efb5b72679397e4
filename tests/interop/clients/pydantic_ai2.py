"""PydanticAI 2.x: `MCPToolset`."""

from common import PATIENCE_S, Target, main
from fastmcp.client.transports import StdioTransport
from pydantic_ai.mcp import MCPToolset
from pydantic_ai_common import talk


async def converse(target: Target) -> dict:
    server = target.url
    if target.transport == "stdio":
        server = StdioTransport(command=target.command, args=target.args, env=target.env, keep_alive=True)
    toolset = MCPToolset(server, id="conda", init_timeout=PATIENCE_S, read_timeout=PATIENCE_S)
    async with toolset:
        return await talk(toolset)


main(converse)
