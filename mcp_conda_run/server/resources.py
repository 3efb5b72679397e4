"""Resources: the originals of what an answer could not carry whole, and the templates.

Registered by `app.py`, read from the registry of runs. Nothing here touches the disk by a name that a client gave,
except the templates that are shipped. Run ids are not listed: over HTTP they are what separates clients.
"""

from __future__ import annotations

import json
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ResourceNotFoundError

from ..environments.templates import shipped_templates
from ..models import Figure, RunResult
from .files import add_files, result_of
from .images import figure_name
from .report import DOCUMENT_SUFFIXES, clean, document_name, plain_json
from .runs import Runs

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

    @server.resource("template://{name}", mime_type="application/yaml", title="A template")
    async def template(name: str) -> str:
        """The environment.yml of a template that ships with this server."""
        path = shipped_templates().get(name)
        if path is None:
            raise ResourceNotFoundError(f"There is no template {name[:64]!r}.")
        return path.read_text(encoding="utf-8")


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
