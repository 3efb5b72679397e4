"""Resources of a run: the originals of what an answer could not carry whole, its plan, and exactly what it ran in.

Registered by `app.py`, read from the registry of runs. Nothing here touches the disk by a name that a client gave.
`listing.py` says which of them a client is shown.
"""

from __future__ import annotations

import json
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ResourceNotFoundError

from ..conda.redact import redact
from ..models import Environment, Figure, RunResult
from .files import add_files, result_of
from .images import figure_name
from .report import DOCUMENT_SUFFIXES, clean, document_name, plain_json, plan_report
from .runs import Runs
from .templates import add_templates

PAGE_CHARACTERS = 100_000
"""Of a text, from `offset`: an answer must stay below what an event of server-sent events may have (1 MiB), and a
character can take six bytes there."""

MAX_FIGURE_BYTES = 700_000
MAX_QUOTED_BYTES = 900_000

_TEXTS = ("output", "stdout", "stderr", "value")


def add_resources(server: MCPServer[Any], runs: Runs) -> None:
    """Register the resource templates."""
    for name in _TEXTS:
        _add_text(server, runs, name)
    for suffix, mime_type in (("png", "image/png"), ("jpg", "image/jpeg"), ("svg", "image/svg+xml")):
        _add_figures(server, runs, suffix, mime_type)
    for mime_type, suffix in DOCUMENT_SUFFIXES.items():
        _add_documents(server, runs, suffix, mime_type)

    @server.resource(
        "run://{run_id}/document-{number}.json", mime_type="application/json", title="A JSON document of a run's value"
    )
    async def run_document(run_id: str, number: int) -> str:
        """A JSON document that the value offers of itself, such as a chart's specification."""
        return _document(result_of(runs, run_id), f"document-{number}.json")

    add_files(server, runs)

    @server.resource("run://{run_id}/value.json", mime_type="application/json", title="A run's value as JSON")
    async def run_value_json(run_id: str) -> str:
        """The last expression's value as JSON."""
        data = _value_json(result_of(runs, run_id))
        if not data:
            raise ResourceNotFoundError("The run has no value in JSON that can be sent; read value.")
        return data

    _add_plan_and_lock(server, runs)
    add_templates(server, runs.settings)


def _add_plan_and_lock(server: MCPServer[Any], runs: Runs) -> None:
    @server.resource("run://{run_id}/plan", mime_type="application/json", title="A run's plan")
    async def run_plan(run_id: str) -> str:
        """What the code of a recent run was found to need, and why; as plan_python_code answers."""
        return plan_report(result_of(runs, run_id).plan).model_dump_json()

    @server.resource("run://{run_id}/lock", mime_type="application/json", title="A run's exact packages")
    async def run_lock(run_id: str) -> str:
        """Every package of the environment that a recent run used, with its URL and sha256."""
        result = result_of(runs, run_id)
        environment = await runs.environment(result.environment) if result.environment else None
        if environment is None:
            raise ResourceNotFoundError("The run had no environment, or it was removed since.")
        document = _lock_of(environment, result.template)
        if len(json.dumps(document)) > MAX_QUOTED_BYTES:
            raise ResourceNotFoundError("The run's environment has too many packages to send.")
        return document


def _lock_of(environment: Environment, template: str) -> str:
    """Return the packages as JSON, without the credentials that their channels may need."""
    rows = [
        {
            "name": package.name,
            "version": package.version,
            "build": package.build,
            "manager": package.manager,
            "url": redact(package.url),
            "sha256": package.sha256,
        }
        for package in environment.packages
    ]
    said = {"environment": environment.key, "python_version": environment.python_version, "template": template}
    return json.dumps(said | {"packages": rows}, indent=0)


def _value_json(result: RunResult) -> str:
    """Return the value as JSON; nothing if it has no such form, or one too large once it is quoted as a string."""
    if result.value is None or not result.value.is_json:
        return ""
    try:
        data = json.dumps(plain_json(result.value.json))
    except ValueError:
        return ""
    return data if len(json.dumps(data)) <= MAX_QUOTED_BYTES else ""


def _add_text(server: MCPServer[Any], runs: Runs, name: str) -> None:
    @server.resource(
        f"run://{{run_id}}/{name}{{?offset}}",
        name=f"run_{name}",
        title=f"A run's {name}",
        description=f"The whole {name} of a recent run, {PAGE_CHARACTERS} characters at a time from ?offset=.",
        mime_type="text/plain",
    )
    async def read_text(run_id: str, offset: int = 0) -> str:
        result = result_of(runs, run_id)
        whole = (result.value.text if result.value else "") if name == "value" else getattr(result, name)
        return clean(whole[max(offset, 0) :][:PAGE_CHARACTERS])


def _add_documents(server: MCPServer[Any], runs: Runs, suffix: str, mime_type: str) -> None:
    @server.resource(
        f"run://{{run_id}}/value.{suffix}",
        name=f"run_value_{suffix}",
        title=f"A run's value as {mime_type}",
        description="What the value offers of itself. It comes from the code that ran: do not render it unasked.",
        mime_type=mime_type,
    )
    async def read_document(run_id: str) -> str:
        return _document(result_of(runs, run_id), f"value.{suffix}")


def _document(result: RunResult, name: str) -> str:
    value = result.value
    for position, each in enumerate(value.representations if value is not None else ()):
        if value is not None and document_name(value, position) == name:
            return clean(each.text)
    raise ResourceNotFoundError(f"The run's value has no {name}.")


def _add_figures(server: MCPServer[Any], runs: Runs, suffix: str, mime_type: str) -> None:
    @server.resource(
        f"run://{{run_id}}/figure-{{number}}.{suffix}",
        name=f"run_figure_{suffix}",
        title=f"A run's figure ({suffix})",
        description="A figure of a recent run; they are counted from 1.",
        mime_type=mime_type,
    )
    async def read_figure(run_id: str, number: int) -> bytes:
        figure = _figure(result_of(runs, run_id), number, mime_type)
        if figure is None or len(figure.data) > MAX_FIGURE_BYTES:
            raise ResourceNotFoundError(f"The run has no {figure_name(number, mime_type)} that can be sent.")
        return figure.data


def _figure(result: RunResult, number: int, mime_type: str) -> Figure | None:
    if not 1 <= number <= len(result.figures):
        return None
    figure = result.figures[number - 1]
    return figure if figure.mime_type == mime_type else None
