"""Asks the user of a client about packages of PyPI, where the client can be asked (elicitation).

Used by the tools that run code. A client that cannot be asked, does not answer in time or says no, gets no such
package; the run goes on without it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import anyio
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel, Field

from ..models import Ask, PlannedPackage
from ..settings import Settings

log = logging.getLogger(__name__)

ANSWER_S = 120
"""How long the user has to answer; a run that waits holds no slot."""


class Agreement(BaseModel):
    """What the user is asked."""

    install: bool = Field(description="Install these packages from PyPI for this run")


def asker(ctx: Context[Any, Any], settings: Settings) -> Ask | None:
    """Return what asks the user behind this call, or None if they cannot or need not be asked."""
    capabilities = ctx.session.client_capabilities
    asked_for = settings.pip in {"auto", "ask"}
    if not (asked_for and capabilities and capabilities.elicitation and ctx.session.can_send_request):
        return None

    async def ask(packages: Sequence[PlannedPackage]) -> bool:
        try:
            with anyio.fail_after(ANSWER_S):
                answer = await ctx.elicit(question(packages), Agreement)
        except (MCPError, TimeoutError, anyio.ClosedResourceError) as error:
            log.info("nobody could be asked about packages of PyPI: %s", error)
            return False
        return answer.action == "accept" and answer.data.install

    return ask


def question(packages: Sequence[PlannedPackage]) -> str:
    """Return the question for a person."""
    rows = [f"- {package.spec}: {package.reason}" for package in packages]
    return "\n".join(
        ["The code needs packages that are not on conda-forge. Install them from PyPI for this run?", *rows]
    )
