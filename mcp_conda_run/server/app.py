"""The MCP server as one object, over a registry of runs; the transports in `stdio.py` and `http.py` serve it.

Importing it imports `mcp`, which takes most of a second: import it only to serve. Never imports the engine, and opens
the runtime only once a client has its handshake.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from mcp.server import MCPServer
from mcp.server.context import CallNext, HandlerResult, ServerMiddleware, ServerRequestContext
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ResourceNotFoundError
from mcp.server.stdio import stdio_server
from mcp.types import InputRequiredResult
from pydantic import AnyUrl

from .. import __version__
from ..environments.templates import AUTO, DEFAULT, find_template
from ..errors import CondaRunError
from ..settings import Settings
from .files import file_type
from .listing import list_resources
from .prompts import add_prompts
from .resources import add_resources
from .runs import Runs
from .tasks import Tasks
from .templates import offered_templates
from .tools import make_tools
from .unreadable import AnsweredStream

NAME = "mcp-conda-run"
_HANDSHAKE = frozenset({"initialize", "server/discover", "ping"})


MAX_URI_LENGTH = 8192
_TIERS = {
    "A": "namespaces",
    "A'": "namespaces",
    "B": "bubblewrap",
    "C": "Landlock and seccomp",
    "seatbelt": "sandbox-exec",
}


class Server(MCPServer[Any]):
    """The SDK's server, with what that leaves out: files have the types of their names, every line has an answer."""

    async def run_stdio_async(self) -> None:
        """Serve one client on standard input and output."""
        async with stdio_server() as (incoming, outgoing):
            below = self._lowlevel_server
            await below.run(AnsweredStream(incoming, outgoing), outgoing, below.create_initialization_options())

    async def read_resource(
        self, uri: AnyUrl | str, context: Context[Any, Any] | None = None
    ) -> Iterable[ReadResourceContents] | InputRequiredResult:
        """Read a resource."""
        if len(str(uri)) > MAX_URI_LENGTH:
            raise ResourceNotFoundError(f"There is no resource {str(uri)[:80]}...")
        contents = await super().read_resource(uri, context)
        if isinstance(contents, InputRequiredResult) or "/files/" not in str(uri):
            return contents
        return [replace(each, mime_type=file_type(unquote(str(uri)))) for each in contents]


def make_server(runs: Runs) -> MCPServer[Any]:
    """Return the server. It neither opens nor closes the runs: whoever made them does."""
    server = Server(
        NAME,
        title="Python in conda environments",
        version=__version__,
        instructions=instructions(runs.settings),
        tools=make_tools(runs),
        extensions=[Tasks(runs)],
        middleware=[_open_after_handshake(runs), list_resources(runs)],
        log_level="WARNING",
    )
    add_resources(server, runs)
    add_prompts(server, runs.settings)
    return server


def instructions(settings: Settings) -> str:
    """Return what a model should know before its first call."""
    return " ".join(
        (
            "Runs Python code, each run in a fresh conda environment that is gone afterwards.",
            _preinstalled(settings),
            "Other packages are installed from what the code imports, before it runs; the answer says which and why.",
            f"Files in {settings.mount} stay and are shared by all runs; it is the working directory.",
            f"A run may take {settings.timeout_s:g} s unless timeout_s says otherwise, and {settings.memory_mb} MiB.",
            f"Network: {settings.network}. {_isolation(settings)}Each answer says which isolation really held.",
            'An answer with the status "running" has a run_id: pass it to get_run to wait on.',
        )
    )


def _preinstalled(settings: Settings) -> str:
    try:
        name = DEFAULT if settings.template == AUTO else settings.template
        template = find_template(name, settings.channels, settings.templates_dir)
    except CondaRunError as error:
        return f"The template cannot be used: {error.message}"
    names = ", ".join(" ".join(spec.split()) for spec in template.specs)
    there = f"Always there (template {template.name}): {names}." if names else f"The template is {template.name}."
    others = ", ".join(name for name in sorted(offered_templates(settings)) if name != template.name)
    if settings.template == AUTO:
        return f"The smallest template that has all imports is chosen by itself, of {template.name}, {others}. {there}"
    return f'{there} Other templates: {others}; or "auto".' if others else there


def _isolation(settings: Settings) -> str:
    """Return what `sandbox/probe.py` found the last time; a handshake does not wait for it to look again."""
    if settings.isolation == "none":
        return "Runs are not isolated. "
    try:
        works = json.loads((settings.cache_dir / "sandbox" / "probe.json").read_bytes())["works"]
        best = next((tier for tier in _TIERS if works.get(tier)), "")
    except (OSError, ValueError, KeyError, AttributeError):
        return ""
    return f"Isolation found here: {_TIERS[best]}. " if best else ""


def _open_after_handshake(runs: Runs) -> ServerMiddleware[Any]:
    """Return a middleware that opens the runtime at the first message after the handshake, while that is answered."""

    async def middleware(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        if ctx.method not in _HANDSHAKE:
            runs.prepare()
        return await call_next(ctx)

    return middleware
