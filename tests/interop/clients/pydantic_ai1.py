"""PydanticAI 1.x: `MCPServerStdio` and its siblings."""

from common import PATIENCE_S, Target, main
from pydantic_ai.mcp import MCPServerSSE, MCPServerStdio, MCPServerStreamableHTTP
from pydantic_ai_common import talk


def toolset(target: Target):
    patience = {"timeout": PATIENCE_S, "read_timeout": PATIENCE_S}
    if target.transport == "stdio":
        return MCPServerStdio(target.command, args=target.args, env=target.env, **patience)
    return (MCPServerSSE if target.transport == "sse" else MCPServerStreamableHTTP)(target.url, **patience)


async def converse(target: Target) -> dict:
    server = toolset(target)
    async with server:
        return await talk(server)


main(converse)
