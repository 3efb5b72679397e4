"""The templates that a server offers: those that are shipped, its operator's own, and the one that is configured.

Used by `tools.py` to refuse others, by `resources.py` and `listing.py`. A client names templates, never a path of the
host: an error of reading a file would say what is in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ResourceNotFoundError

from ..conda.redact import redact
from ..environments.templates import AUTO, find_template, known_templates
from ..errors import CondaRunError, RequestError
from ..settings import Settings

MAX_TEMPLATE_BYTES = 500_000
TEMPLATE_TYPE = "application/yaml"


def offered_templates(settings: Settings) -> dict[str, Path]:
    """Return the templates by the names under which a client knows them."""
    known = known_templates(settings.templates_dir)
    if settings.template == AUTO:
        return known
    try:
        configured = find_template(settings.template, settings.channels, settings.templates_dir)
    except CondaRunError:  # the instructions and each run say so
        return known
    return {**known, configured.name: configured.path}


def template_for(settings: Settings, name: str) -> str | None:
    """Return the template of a run that asks for this one: the server's own if the name is empty.

    Raises:
        RequestError: this server offers no such template.
    """
    offered = offered_templates(settings)
    if name in {"", AUTO, settings.template}:
        return name or None
    if name not in offered:
        raise RequestError(
            f"There is no template {name!r:.80}.",
            hint=f"Choose one of {', '.join(sorted(offered))} or auto, or leave template empty.",
            code="unknown-template",
        )
    return name if offered[name] == known_templates(settings.templates_dir).get(name) else settings.template


def add_templates(server: MCPServer[Any], settings: Settings) -> None:
    """Register the resource template."""

    @server.resource("template://{name}", mime_type=TEMPLATE_TYPE, title="A template")
    async def template(name: str) -> str:
        """The environment.yml of a template that this server offers."""
        path = offered_templates(settings).get(name)
        if path is None:
            raise ResourceNotFoundError(f"There is no template {name[:64]!r}.")
        return _text_of(path)


def _text_of(path: Path) -> str:
    """Return a template's text without the credentials of its channels."""
    try:
        data = path.read_bytes()
        if len(data) > MAX_TEMPLATE_BYTES:
            raise ResourceNotFoundError("The template is too large to send.")
        return redact(data.decode())
    except (OSError, UnicodeDecodeError):
        raise ResourceNotFoundError("The template cannot be read.") from None
