"""The room `server`: the MCP server."""
