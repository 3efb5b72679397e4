"""The tools: a call becomes a `RunRequest`, a `Run` of the registry, and an answer.

Registered by `app.py`. The names and first arguments are those of the servers that people use today.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import anyio
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.tools import Tool
from mcp.types import CallToolResult, ToolAnnotations
from starlette.requests import Request

from ..errors import CondaRunError, RequestError
from ..models import RunRequest
from ..settings import Settings
from .arguments import (
    Arguments,
    FilePath,
    GlobalVariables,
    Network,
    Packages,
    PythonCode,
    PythonVersion,
    RunId,
    StrictTool,
    TemplateName,
    TimeoutS,
    WaitS,
)
from .asking import asker
from .heartbeat import tell_progress
from .listing import announcer, session_of
from .results import answer_of, error_result, plan_result
from .runs import Run, Runs
from .schema import PlanReport, Report
from .tasks import GRACE_S, declares_tasks
from .templates import template_for

WAIT_S = 45.0
"""The shortest bound of a common client on one call is 60 s."""

RunAnswer = Annotated[CallToolResult, Report]
PlanAnswer = Annotated[CallToolResult, PlanReport]

_RUNS = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=True)
_READS = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
_PLANS = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=True)
_ENDS = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False)


def make_tools(runs: Runs) -> list[Tool]:
    """Return the tools, over this registry."""
    tools = Tools(runs)
    mount = runs.settings.mount
    return [
        StrictTool.from_function(
            tools.run_python_code,
            title="Run Python code",
            description="Run Python code in a fresh, isolated conda environment. What it imports is installed by "
            "itself (conda-forge), so write the imports and nothing else. Nothing survives the call but files in "
            f"{mount}. Prints, the last expression's value, figures and errors come back.",
            annotations=_RUNS,
        ),
        StrictTool.from_function(
            tools.run_python_file,
            title="Run a Python file",
            description=f"Run a Python file that is in {mount}, as run_python_code runs code.",
            annotations=_RUNS,
        ),
        StrictTool.from_function(
            tools.plan_python_code,
            title="Plan without running",
            description="Say which packages run_python_code would install for this code, and why. Runs nothing.",
            annotations=_PLANS,
        ),
        StrictTool.from_function(
            tools.get_run,
            title="Wait for a run",
            description='Wait for a run whose answer was "running", or get the answer of a recent run again.',
            annotations=_READS,
        ),
        StrictTool.from_function(
            tools.cancel_run,
            title="Cancel a run",
            description="Kill a run that goes on.",
            annotations=_ENDS,
        ),
    ]


class Tools:
    """The tools' functions. Their parameters are what is published; see `arguments.py`."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    async def run_python_code(
        self,
        *,
        ctx: Context[Any, Any],
        python_code: PythonCode,
        global_variables: GlobalVariables = {},  # noqa: B006 - pydantic copies it for each call
        packages: Packages = [],  # noqa: B006
        python: PythonVersion = "",
        template: TemplateName = "",
        timeout_s: TimeoutS = 0,
        network: Network = "",
        wait_s: WaitS = WAIT_S,
    ) -> RunAnswer:
        """Run Python code."""
        what = RunRequest(code=python_code, global_variables=global_variables, packages=tuple(packages))
        return await self._run(
            ctx, what, wait_s, python=python, template=template, timeout_s=timeout_s, network=network
        )

    async def run_python_file(
        self,
        *,
        ctx: Context[Any, Any],
        file_path: FilePath,
        args: Arguments = [],  # noqa: B006
        packages: Packages = [],  # noqa: B006
        python: PythonVersion = "",
        template: TemplateName = "",
        timeout_s: TimeoutS = 0,
        network: Network = "",
        wait_s: WaitS = WAIT_S,
    ) -> RunAnswer:
        """Run a Python file."""
        what = RunRequest(file=file_path, args=tuple(args), packages=tuple(packages))
        return await self._run(
            ctx, what, wait_s, python=python, template=template, timeout_s=timeout_s, network=network
        )

    async def plan_python_code(
        self,
        ctx: Context[Any, Any],
        python_code: PythonCode,
        packages: Packages = [],  # noqa: B006
        python: PythonVersion = "",
        template: TemplateName = "",
    ) -> PlanAnswer:
        """Say what a run would install."""
        what = RunRequest(code=python_code, packages=tuple(packages))
        watched = Run()
        async with anyio.create_task_group() as beside:
            beside.start_soon(tell_progress, watched, ctx)
            try:
                request = _allowed(self._runs.settings, what, python=python, template=template)
                answer = plan_result(await self._runs.plan(request, watched.note))
            except CondaRunError as error:
                answer = error_result(error)
            beside.cancel_scope.cancel()
        return answer

    async def get_run(self, ctx: Context[Any, Any], run_id: RunId, wait_s: WaitS = WAIT_S) -> RunAnswer:
        """Wait for a run."""
        try:
            run = self._runs.get(run_id)
        except RequestError as error:
            return error_result(error)
        await _wait(run, ctx, wait_s)
        return answer_of(run)

    async def cancel_run(self, run_id: RunId) -> RunAnswer:
        """Kill a run."""
        try:
            run = self._runs.get(run_id)
        except RequestError as error:
            return error_result(error)
        run.cancel()
        await run.finished.wait()
        return answer_of(run)

    async def _run(self, ctx: Context[Any, Any], what: RunRequest, wait_s: float, **where: Any) -> CallToolResult:
        try:
            request = _allowed(self._runs.settings, what, **where)
            run = self._runs.start(
                request,
                asker(ctx, self._runs.settings),
                client=_client(ctx),
                session=session_of(ctx.request_context),
                announce=announcer(ctx),
            )
        except CondaRunError as error:
            return error_result(error)
        if declares_tasks(ctx.request_context):
            wait_s = min(wait_s, GRACE_S)
        try:
            await _wait(run, ctx, wait_s)
        except anyio.get_cancelled_exc_class():
            run.cancel()  # nobody knows its id yet, so nobody could ever ask for it
            raise
        return answer_of(run)


def _client(ctx: Context[Any, Any]) -> str:
    """Return the address of an HTTP client; uvicorn believes a proxy on this machine about it. Nothing over stdio."""
    request = ctx.request_context.request
    address = request.client if isinstance(request, Request) else None
    return address.host if address is not None else ""


def _allowed(
    settings: Settings, what: RunRequest, *, python: str, template: str, timeout_s: float = 0, network: str = ""
) -> RunRequest:
    """Return the whole request, where empty stands for the server's own; refuse what the operator does not allow.

    An agent may narrow the network policy, never widen it.
    """
    if timeout_s > settings.max_timeout_s:
        raise RequestError(f"timeout_s may be at most {settings.max_timeout_s:g} here.", code="bad-arguments")
    if settings.network != "full" and network not in {"", "none", settings.network}:
        raise RequestError(
            f"This server's network policy is {settings.network!r}; a call cannot widen it.",
            hint='Leave network empty, or pass "none".',
            code="bad-arguments",
        )
    return replace(
        what,
        python=python or None,
        template=template_for(settings, template),
        timeout_s=timeout_s or None,
        network=network or None,
    )


async def _wait(run: Run, ctx: Context[Any, Any], wait_s: float) -> None:
    """Wait for the run's end, telling its progress, but no longer than `wait_s`."""
    if run.finished.is_set():
        return
    with anyio.move_on_after(wait_s):
        async with anyio.create_task_group() as beside:
            beside.start_soon(tell_progress, run, ctx)
            await run.finished.wait()
            beside.cancel_scope.cancel()
