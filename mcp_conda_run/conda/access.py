"""How channels are reached: their addresses, credentials, proxies and certificates.

Everything inside the project names channels and packages without credentials. Whoever first sees a channel with some
(`https://user:password@host/...`, `https://host/t/<token>/...`) lets `Access.learn` take them out; an engine's child
gets them through its stdin, and `use_credentials` there hands them to py-rattler in memory. So they are in no lock,
environment, log, answer or process title. Used by the engines, `condarc.py` and `locking.py`.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from ..errors import InstallError

TOKEN = re.compile(r"^/t/([^/]+)(?=/|$)")
"""Anaconda's token URLs: the token is the start of the path."""

REQUEST_VARIABLE = "MCP_CONDA_RUN_CHANNEL_ACCESS"
"""How a program between us and our own child (conda-lock) hands on what `Access` knows; only the user can read it."""

Credential = Mapping[str, str]
"""`{"user": ..., "password": ...}` or `{"token": ...}`."""


class Access:
    """What is known of the way to channels. Grows while it is used: `learn` remembers credentials.

    Args:
        urls: addresses for names of channels that are not below the usual server, in order.
        environment: variables that the engines' processes get, for proxies and certificates.
        flexible: whether packages may come from any channel, whatever their order (conda's `disabled`).
    """

    def __init__(
        self,
        urls: Mapping[str, Sequence[str]] | None = None,
        environment: Mapping[str, str] | None = None,
        *,
        alias: str = "",
        flexible: bool = False,
    ) -> None:
        self.environment = dict(environment or {})
        self.flexible = flexible
        self._credentials: dict[str, Credential] = {}
        self._alias = self.learn_url(alias).rstrip("/")
        self._urls = {name: [self.learn_url(url) for url in some] for name, some in (urls or {}).items()}

    def learn(self, channels: Iterable[str]) -> list[str]:
        """Return the channels without credentials, which are remembered.

        Raises:
            InstallError: one host has two different credentials.
        """
        clean = [self.learn_url(channel) for channel in channels]
        for name in clean:
            if self._alias and "://" not in name:
                self._urls.setdefault(name, [f"{self._alias}/{name}"])
        return clean

    def learn_url(self, url: str) -> str:
        """Return one URL without credentials, which are remembered.

        Raises:
            InstallError: its host has other credentials already.
        """
        clean, credential = split_credentials(url)
        if credential:
            host = urlsplit(clean).hostname or ""
            if self._credentials.setdefault(host, credential) != credential:
                raise InstallError(
                    f"There are two different credentials for {host}; only one for each host can be used.",
                    hint="Name the channels of that host with the same user or token.",
                    code="two-credentials",
                )
        return clean

    def spec(self, spec: str) -> str:
        """Return a match spec without credentials, bound to a channel by its address if it has one of its own."""
        channel, bound, rest = spec.partition("::")
        if not bound:
            return spec
        (clean,) = self.learn([channel])
        return f"{self._urls.get(clean, [clean])[0]}::{rest}"

    def as_request(self) -> dict[str, Any]:
        """Return what an engine's child needs to know."""
        return {"channel_urls": self._urls, "credentials": self._credentials, "flexible": self.flexible}

    def variables(self) -> dict[str, str]:
        """Return what a process needs whose children are ours: `request_from_environment` reads it there."""
        return {**self.environment, REQUEST_VARIABLE: json.dumps(self.as_request())}


def split_credentials(url: str) -> tuple[str, Credential]:
    """Return the URL without credentials, and these; none for what is on disk or has a name only."""
    if not url.lower().startswith(("http://", "https://", "oci://", "s3://")):
        return url, {}
    try:
        parts = urlsplit(url)
    except ValueError:
        return url, {}
    user_info, at, place = parts.netloc.rpartition("@")
    credential: Credential = {}
    if at:
        user, _, password = user_info.partition(":")
        credential = {"user": unquote(user), "password": unquote(password)}
    path = parts.path
    if token := TOKEN.match(path):
        path = path[token.end() :]
        credential = {"token": token[1]}
    return urlunsplit(parts._replace(netloc=place, path=path)), credential


# --- in the engine's child --------------------------------------------------------------------------------------------


def use_credentials(request: Mapping[str, Any]) -> None:
    """Let py-rattler, which this process has not loaded yet, know the credentials; the user's own come first."""
    known = request.get("credentials") or {}
    if not known:
        return
    entries = {host: rattler_entry(credential) for host, credential in known.items()}
    with suppress(KeyError, OSError, ValueError):
        own = json.loads(Path(os.environ["RATTLER_AUTH_FILE"]).read_bytes())
        entries |= own if isinstance(own, dict) else {}
    os.environ["RATTLER_AUTH_FILE"] = file_in_memory(json.dumps(entries))


def request_from_environment() -> dict[str, Any]:
    """Return what `Access.variables` says, as a part of a request; nothing where it says nothing."""
    known: dict[str, Any] = json.loads(os.environ.get(REQUEST_VARIABLE) or "{}")
    return known


def rattler_entry(credential: Credential) -> dict[str, Any]:
    """Return a credential as rattler's authentication files have it (https://rattler.build, "Authentication")."""
    if "token" in credential:
        return {"CondaToken": credential["token"]}
    return {"BasicHTTP": {"username": credential["user"], "password": credential["password"]}}


def file_in_memory(text: str) -> str:
    """Return the path of a file that is gone with this process, however it ends, where the system can do that."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("credentials")
        os.write(descriptor, text.encode())
        return f"/proc/{os.getpid()}/fd/{descriptor}"
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", delete=False) as file:  # only its owner may read it
        file.write(text)
    return file.name
