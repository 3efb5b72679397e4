"""Prompts: ready-made requests that a person picks in a client's menu. Registered by `app.py`."""

from __future__ import annotations

from typing import Annotated, Any

from mcp.server import MCPServer
from pydantic import Field

from ..settings import Settings


def add_prompts(server: MCPServer[Any], settings: Settings) -> None:
    """Register the prompts."""
    mount = settings.mount

    @server.prompt(title="Analyse a file")
    def analyse_file(
        file_path: Annotated[str, Field(description="The file, below the mounted directory.")],
        question: Annotated[str, Field(description="What to find out; may be empty.")] = "",
    ) -> str:
        """Look into a data file and report what is in it."""
        asked = f" Answer this: {question}" if question else ""
        return (
            f"Analyse the file {file_path} with run_python_code; the working directory of the code is {mount}. First "
            "read only its head, its size and its structure (columns, types, dimensions, coordinate system), with the "
            "library that fits its format. Then summarise: ranges, missing values, anything odd. Make one or two "
            f"figures that show what matters, and save them in {mount}.{asked}"
        )
