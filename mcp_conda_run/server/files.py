"""The files that a run made or changed, as resources: what a run lists may be read, and nothing else.

Used by `resources.py` and `results.py`. A file is read as what it is now, by `sandbox/files_out.py`, which follows no
link and leaves no mount.
"""

from __future__ import annotations

import asyncio
import json
import mimetypes
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ResourceNotFoundError

from ..errors import CondaRunError
from ..models import RunResult
from .report import MAX_FILE_BYTES
from .runs import Runs


def file_type(path: str) -> str:
    """Return the MIME type that a file's name stands for."""
    return mimetypes.guess_type(path, strict=False)[0] or "application/octet-stream"


def add_files(server: MCPServer[Any], runs: Runs) -> None:
    """Register the resource template; `app.Server` sees to each file's own MIME type."""

    @server.resource(
        "run://{run_id}/files/{+path}",
        mime_type="application/octet-stream",
        title="A file that a run made or changed",
        description="As it is now: a later run may have changed it again.",
    )
    async def run_file(run_id: str, path: str) -> bytes | str:
        """A file that a run lists."""
        from ..sandbox.files_out import read_left_file  # noqa: PLC0415 - the handshake must not wait for the sandbox

        wanted = f"/{path}"
        if all(file.path != wanted for file in result_of(runs, run_id).files):
            raise ResourceNotFoundError("The run lists no such file.")
        try:
            data = await asyncio.to_thread(read_left_file, await runs.mounts(), wanted, MAX_FILE_BYTES)
        except CondaRunError as error:
            raise ResourceNotFoundError(str(error)) from None
        return _as_text(data) if file_type(path).startswith("text/") else data


def _as_text(data: bytes) -> bytes | str:
    """Return the text that the bytes are, unless its JSON form is longer than base64 would be."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return data
    return text if len(json.dumps(text)) <= max(len(data) * 4 // 3, MAX_FILE_BYTES) else data


def result_of(runs: Runs, run_id: str) -> RunResult:
    """Return the result of a run that a client names.

    Raises:
        ResourceNotFoundError: there is none.
    """
    try:
        run = runs.get(run_id)
    except CondaRunError as error:
        raise ResourceNotFoundError(str(error)) from None
    if run.result is None:
        raise ResourceNotFoundError(f"The run {run_id} has no result yet; wait for it with get_run.")
    return run.result
