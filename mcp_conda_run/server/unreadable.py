"""Answers to what a client sends that is no message: bad JSON, a batch, fields that the protocol has not.

Used by `app.py` over standard input; over HTTP the SDK answers by itself. Without it such a line is dropped, and a
client that asked something waits for ever.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import anyio
from mcp.shared.message import SessionMessage
from mcp.types import INVALID_REQUEST, PARSE_ERROR, ErrorData, JSONRPCError
from pydantic import ValidationError

MAX_ID_LENGTH = 200


class AnsweredStream:
    """The stream of messages that can be read; what cannot be is answered and passed over."""

    def __init__(self, incoming: Any, outgoing: Any) -> None:
        self._incoming = incoming
        self._outgoing = outgoing

    @property
    def last_context(self) -> Any:
        """Return what the SDK carries beside the last message."""
        return getattr(self._incoming, "last_context", None)

    async def receive(self) -> SessionMessage | Exception:
        """Return the next message."""
        while isinstance(item := await self._incoming.receive(), Exception):
            answer = refusal(item)
            if answer is not None:
                await self._outgoing.send(SessionMessage(answer))
        return item  # type: ignore[no-any-return]

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        """Close the stream below."""
        await self._incoming.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


def refusal(error: Exception) -> JSONRPCError | None:
    """Return what is said to a line that is no message (JSON-RPC 2.0, 5.1); nothing to an empty one."""
    problems = error.errors(include_url=False, include_context=False) if isinstance(error, ValidationError) else []
    if not problems or problems[0]["type"] == "json_invalid":
        if problems and not str(problems[0]["input"]).strip():
            return None
        message = problems[0]["msg"] if problems else "This cannot be read."
        return JSONRPCError(jsonrpc="2.0", id=None, error=ErrorData(code=PARSE_ERROR, message=message))
    message = "This is no JSON-RPC 2.0 message of the Model Context Protocol."
    if any(isinstance(problem["input"], list) and problem["type"] == "model_type" for problem in problems):
        message = "Batches are not served: send one message a line."
    return JSONRPCError(jsonrpc="2.0", id=_id_in(problems), error=ErrorData(code=INVALID_REQUEST, message=message))


def _id_in(problems: list[Any]) -> int | str | None:
    """Return the id that the sender waits for, if the message has one: a missing field is told with the whole of it."""
    for problem in problems:
        whole = problem["input"]
        if (
            problem["type"] == "missing"
            and isinstance(whole, dict)
            and len(problem["loc"]) == len(("message", "field"))
        ):
            number = whole.get("id")
            if isinstance(number, int) and not isinstance(number, bool):
                return number
            return number if isinstance(number, str) and len(number) <= MAX_ID_LENGTH else None
    return None
