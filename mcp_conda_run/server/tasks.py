"""The tasks extension (SEP-2663, `io.modelcontextprotocol/tasks`), for clients that declare it.

Registered by `app.py`. A task is a run of the registry, and its id is the run's: such a client's call that takes longer
than `GRACE_S` is answered by a task handle instead of the text that names the run, and it polls `tasks/get` by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import require_client_extension
from mcp.shared.exceptions import MCPError
from mcp.types import HEADER_MISMATCH, INVALID_PARAMS, CallToolRequestParams, CallToolResult, RequestParams
from pydantic import ConfigDict, Field

from ..errors import RequestError
from ..models import Status
from .heartbeat import describe
from .results import answer_of
from .runs import KEPT_S, Run, Runs

IDENTIFIER = "io.modelcontextprotocol/tasks"
GRACE_S = 5.0
"""Most runs end within it, and an ordinary answer costs the client nothing."""

POLL_MS = 1000
_VERSIONS = frozenset({"2026-07-28"})


def declares_tasks(ctx: ServerRequestContext[Any, Any]) -> bool:
    """Say whether the client of this request takes task handles."""
    capabilities = ctx.session.client_capabilities if ctx.protocol_version in _VERSIONS else None
    return bool(capabilities and capabilities.extensions and IDENTIFIER in capabilities.extensions)


class TaskParams(RequestParams):
    """What `tasks/get`, `tasks/cancel` and `tasks/update` are asked with."""

    model_config = ConfigDict(populate_by_name=True)

    task_id: str = Field(alias="taskId", max_length=100)


class Tasks(Extension):
    """Runs as tasks."""

    identifier = IDENTIFIER

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    def methods(self) -> Sequence[MethodBinding]:
        """Return the methods that the extension adds."""
        handlers = {"tasks/get": self._get, "tasks/cancel": self._cancel, "tasks/update": self._update}
        return [MethodBinding(name, TaskParams, handler, _VERSIONS) for name, handler in handlers.items()]

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Give a handle for a run that goes on."""
        answer = await call_next(ctx)
        if not (params.name.startswith("run_python_") and declares_tasks(ctx) and isinstance(answer, CallToolResult)):
            return answer
        said = answer.structured_content or {}
        if said.get("status") != "running":
            return answer
        return {"resultType": "task", **_wire(self._runs.get(said["run_id"]), with_end=False)}

    async def _get(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> HandlerResult:
        return {"resultType": "complete", **_wire(self._find(ctx, params))}

    async def _cancel(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> HandlerResult:
        self._find(ctx, params).cancel()
        return {"resultType": "complete"}

    async def _update(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> HandlerResult:
        self._find(ctx, params)  # a run never asks its client for anything, so there is nothing to update
        return {"resultType": "complete"}

    def _find(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> Run:
        require_client_extension(ctx, IDENTIFIER)
        named = ctx.request.headers.get("mcp-name") if ctx.request is not None else None
        if named not in {None, params.task_id}:
            raise MCPError(code=HEADER_MISMATCH, message="Mcp-Name does not match params.taskId")
        try:
            return self._runs.get(params.task_id)
        except RequestError as error:
            raise MCPError(code=INVALID_PARAMS, message=error.message) from None


def _wire(run: Run, *, with_end: bool = True) -> dict[str, Any]:
    updated = run.created_at + timedelta(seconds=run.elapsed_s)
    said: dict[str, Any] = {
        "taskId": run.run_id,
        "status": _status(run),
        "statusMessage": describe(run.progress),
        "createdAt": _timestamp(run.created_at),
        "lastUpdatedAt": _timestamp(updated),
        "ttlMs": KEPT_S * 1000,
        "pollIntervalMs": POLL_MS,
    }
    if with_end and said["status"] == "completed":
        said["result"] = answer_of(run).model_dump(mode="json", by_alias=True, exclude_none=True)
    return said


def _status(run: Run) -> str:
    if not run.finished.is_set():
        return "working"
    return "cancelled" if run.result is not None and run.result.status is Status.CANCELLED else "completed"


def _timestamp(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
