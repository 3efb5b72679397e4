"""A bearer token before everything: whoever has it may run code. Used by `http.py`."""

from __future__ import annotations

import hmac
import stat

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import SettingsError
from ..settings import Settings

MIN_TOKEN_LENGTH = 16
MAX_TOKEN_FILE_BYTES = 4096


def read_token(settings: Settings) -> str:
    """Return the token from its file or the environment; empty if there is none. Never from the command line.

    Raises:
        SettingsError: it cannot be read, others can read it, or it is too short to be one.
    """
    token = settings.token.get_secret_value().strip()
    if settings.token_file is not None:
        try:
            mode = settings.token_file.stat().st_mode
            with settings.token_file.open("rb") as file:
                token = file.read(MAX_TOKEN_FILE_BYTES).decode("ascii").strip()
        except (OSError, ValueError) as error:
            raise SettingsError(f"The token file cannot be read: {error}.", hint="Check --token-file.") from None
        if mode & stat.S_IROTH:
            raise SettingsError(
                f"Everybody can read the token file {settings.token_file}.", hint="chmod 600 it, and change the token."
            )
        if not token:
            raise SettingsError(f"The token file {settings.token_file} is empty.", hint="Write a token into it.")
    if token and (len(token) < MIN_TOKEN_LENGTH or not token.isascii()):
        raise SettingsError(
            f"The token must be at least {MIN_TOKEN_LENGTH} ASCII characters.", hint="Make one: openssl rand -hex 32."
        )
    return token


class BearerGate:
    """Pure ASGI, so that streams and disconnects pass through it untouched."""

    def __init__(self, app: ASGIApp, token: str, open_paths: frozenset[str]) -> None:
        self._app = app
        self._token = token.encode()
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer 401."""
        if scope["type"] == "lifespan" or not self._token or scope["path"] in self._open_paths or self._allows(scope):
            await self._app(scope, receive, send)
        else:
            refusal = PlainTextResponse("unauthorized", 401, {"WWW-Authenticate": "Bearer"})
            await refusal(scope, receive, send)

    def _allows(self, scope: Scope) -> bool:
        for name, value in scope.get("headers", ()):
            if name == b"authorization":
                scheme, _, token = value.partition(b" ")
                return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token)
        return False
