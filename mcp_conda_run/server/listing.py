"""Which resources a client is shown without asking for them by name, and that this list has changed.

Used by `app.py` as middleware, and by `tools.py`. A client is shown the templates and what its own runs left: over HTTP
a run's id is all that separates clients, so nobody is shown another's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import anyio
from mcp.server.context import CallNext, HandlerResult, ServerMiddleware, ServerRequestContext
from mcp.server.mcpserver import Context
from mcp.types import Resource
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from starlette.requests import Request

from ..models import RunResult
from ..settings import Settings
from .files import file_type
from .images import figure_name
from .report import Budget, document_name, files_of, resource_uri
from .runs import Announce, Run, Runs
from .templates import TEMPLATE_TYPE, offered_templates

MAX_LISTED = 200
"""Of runs' resources, those of the newest runs; a client shows them to a person in a menu."""

ONE_CLIENT = "the client at the other end of the pipe"
TELL_S = 1.0
"""How long a client may take to hear of a change; it can read the list at any time."""

_WHOLE = ("output", "stdout", "stderr", "value")


def session_of(ctx: ServerRequestContext[Any, Any]) -> str:
    """Return by what the client behind a request is known; nothing where each request stands alone."""
    if not isinstance(ctx.request, Request):
        return ONE_CLIENT
    if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
        return ""
    return ctx.request.headers.get("mcp-session-id") or ctx.request.query_params.get("session_id", "")


def announcer(ctx: Context[Any, Any]) -> Announce:
    """Return what tells the client of this call that a run has left resources."""
    session, modern = ctx.session, ctx.request_context.protocol_version in MODERN_PROTOCOL_VERSIONS
    lists = session_of(ctx.request_context)

    async def announce(run: Run) -> None:
        with (
            contextlib.suppress(anyio.ClosedResourceError, anyio.BrokenResourceError),
            anyio.move_on_after(TELL_S),
        ):
            if lists and modern:
                await ctx.notify_resources_changed()
            elif lists:
                await session.send_resource_list_changed()
            for name in _WHOLE if modern else ():  # whoever names a run's resource has its id
                await ctx.notify_resource_updated(f"run://{run.run_id}/{name}")

    return announce


def list_resources(runs: Runs) -> ServerMiddleware[Any]:
    """Return a middleware that makes the list of resources each client's own, and says that it changes."""

    async def middleware(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        answer = await call_next(ctx)  # as it goes over the wire
        if isinstance(answer, dict) and ctx.method == "initialize":
            answer["capabilities"]["resources"]["listChanged"] = True
        if isinstance(answer, dict) and ctx.method == "resources/list":
            shown = [*_templates(runs.settings), *_of_runs(runs.of_session(session_of(ctx)))]
            answer["resources"] = [each.model_dump(mode="json", by_alias=True, exclude_none=True) for each in shown]
        return answer

    return middleware


def _templates(settings: Settings) -> list[Resource]:
    return [
        Resource(uri=f"template://{name}", name=f"template {name}", mime_type=TEMPLATE_TYPE)
        for name in sorted(offered_templates(settings))
    ]


def _of_runs(runs: list[Run]) -> list[Resource]:
    found: list[Resource] = []
    for run in reversed(runs):
        if run.result is not None:
            found += _resources_of_run(run.result)
    return found[:MAX_LISTED]


def _resources_of_run(result: RunResult) -> Iterator[Resource]:
    """Return what can be read of a run: only what is there, each with its type and its size."""

    def resource(uri: str, mime_type: str, size: int | None = None) -> Resource:
        name = uri.removeprefix(f"run://{result.run_id}/")
        return Resource(uri=uri, name=f"{name} of run {result.run_id}", mime_type=mime_type, size=size)

    if result.output:
        yield resource(resource_uri(result, "output"), "text/plain", len(result.output.encode(errors="replace")))
    for number, figure in enumerate(result.figures, start=1):
        name = figure_name(number, figure.mime_type)
        yield resource(resource_uri(result, name), figure.mime_type, len(figure.data))
    if result.value is not None:
        yield resource(resource_uri(result, "value"), "text/plain")
        for position, document in enumerate(result.value.representations):
            yield resource(resource_uri(result, document_name(result.value, position)), document.mime_type)
    for file in files_of(result, Budget()):
        if file.uri:
            yield resource(file.uri, file_type(file.path), file.size_bytes)
    yield resource(resource_uri(result, "plan"), "application/json")
    if result.environment:
        yield resource(resource_uri(result, "lock"), "application/json")
