"""Calls micromamba, in surroundings of its own: no file, variable or program of the user's reaches it unasked.

Runs only in the engine's child process (`worker.py`), whose process group it shares: both are killed together. What
micromamba says is handed on as it is; reading it is for `micromamba_solving.py` and `micromamba_installing.py`.

Link scripts of packages always run in micromamba 2.8.1, by the first `bash` or `sh` on PATH. Its PATH here has only
programs of these names that do nothing, so no script of a package runs; later versions are also told not to.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import HostError
from .access import file_in_memory
from .faults import explain_os_error
from .process import STDERR_KEPT_BYTES
from .redact import redact

MAX_ANSWER_BYTES = 128 * 1024 * 1024
STALE_S = 24 * 3600
KEPT_PREFIX = "CONDA_OVERRIDE_"
KEPT = {"SSL_CERT_FILE", "SSL_CERT_DIR", "LD_LIBRARY_PATH"}
PROXIES = {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}
NO_SHELL = "#!/bin/sh\nexit 0\n"
SKIP_SCRIPTS = "--skip-run-link-scripts"


@dataclass(frozen=True, slots=True)
class Said:
    """How a call ended. None of its parts is a verdict alone.

    Attributes:
        returncode: 0, or negative for a signal.
        document: the JSON object on stdout; None if there was none.
        stderr: its end, without credentials.
    """

    returncode: int
    document: Mapping[str, Any] | None
    stderr: str

    @property
    def claims_success(self) -> bool:
        """Say whether everything in the answer means success; what it did is still to be checked."""
        return self.returncode == 0 and self.document is not None and self.document.get("success") is True

    def linked(self) -> list[dict[str, Any]]:
        """Return the packages that it links, or would link."""
        return self._rows("LINK")

    def unlinked(self) -> list[dict[str, Any]]:
        """Return the packages that it removes, or would remove."""
        return self._rows("UNLINK")

    def _rows(self, action: str) -> list[dict[str, Any]]:
        actions = (self.document or {}).get("actions")
        rows = actions.get(action) if isinstance(actions, dict) else None
        return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []

    def complaints(self) -> list[str]:
        """Return what it complained of, without the trace lines that come along."""
        kinds = ("critical libmamba", "error    libmamba", "error libmamba")
        return [line.strip() for line in self.stderr.splitlines() if line.strip().startswith(kinds)]

    def tree(self) -> str:
        """Return the solver's reasons, which are drawn between its first and its last complaint."""
        kept, inside = [], False
        for line in self.stderr.splitlines():
            if line.strip().startswith(("error", "critical", "warning", "info", "trace", "debug")):
                inside = "Could not solve" in line
            elif inside and line.strip():
                kept.append(line.rstrip())
        if kept:
            return "\n".join(kept)
        problems = (self.document or {}).get("solver_problems")
        return "\n".join(map(str, problems)) if isinstance(problems, list) else ""


class Micromamba:
    """One request's way to micromamba.

    Args:
        request: the engine's request, as its worker got it.
    """

    def __init__(self, request: Mapping[str, Any]) -> None:
        self.program = str(request["micromamba"])
        self.root = Path(request["pkgs"]) / "micromamba"
        self.pkgs = self.root / "pkgs"
        self.layers = [Path(layer) for layer in request.get("layers", ())]
        self._credentials = by_place(request)

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """Give a private directory for one request, with a home in it, that is gone afterwards.

        Raises:
            HostError: the disk is full, or cannot be written to.
        """
        try:
            for directory in (self.pkgs, self.root / "cache", self.root / "work"):
                directory.mkdir(parents=True, exist_ok=True)
            self._sweep()
            work = Path(tempfile.mkdtemp(dir=self.root / "work"))
        except OSError as error:
            raise explain_os_error(error, self.root) from error
        try:
            try:
                self._furnish(work)
            except OSError as error:
                raise explain_os_error(error, self.root) from error
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)

    async def call(self, work: Path, *arguments: str, variables: Mapping[str, str] | None = None) -> Said:
        """Run micromamba once, with these variables besides.

        Raises:
            HostError: it cannot be started, or answers more than can be read.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                self.program,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=self.environment(work) | dict(variables or {}),
                cwd=work,
            )
        except OSError as error:
            raise HostError(
                f"micromamba could not be started: {error.strerror}.",
                hint="Check the setting `micromamba`, or use `--engine rattler`.",
                code="engine-crashed",
            ) from error
        assert process.stdout is not None  # noqa: S101 - asked for with PIPE
        assert process.stderr is not None  # noqa: S101
        try:
            answer, complaints = await asyncio.gather(read_bounded(process.stdout), read_end(process.stderr))
        except BaseException:
            with suppress(ProcessLookupError):
                process.kill()
            raise
        returncode = await process.wait()
        return Said(returncode, as_document(answer), redact(complaints.decode(errors="replace")))

    async def link_options(self, work: Path) -> list[str]:
        """Return what keeps link scripts from running, where this version knows such an option."""
        said = await self._help(work)
        return [SKIP_SCRIPTS] if SKIP_SCRIPTS in said else []

    def environment(self, work: Path) -> dict[str, str]:
        """Return all variables that micromamba gets."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if name in KEPT or name.startswith(KEPT_PREFIX) or name.lower() in PROXIES
        }
        home = work / "home"
        return kept | {
            "HOME": str(home),
            "TMPDIR": str(work / "tmp"),
            "XDG_CACHE_HOME": str(self.root / "cache"),
            "XDG_CONFIG_HOME": str(home / ".config"),
            "XDG_DATA_HOME": str(home / ".local/share"),
            "PATH": str(work / "bin"),
            "LC_ALL": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",  # should it run an environment's Python after all
            "PYTHONNOUSERSITE": "1",
            "MAMBA_ROOT_PREFIX": str(self.root),
            "CONDA_PKGS_DIRS": ",".join(map(str, [self.pkgs, *self.layers])),
        }

    async def _help(self, work: Path) -> str:
        process = await asyncio.create_subprocess_exec(
            *(self.program, "create", "--help"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=self.environment(work),
            cwd=work,
        )
        assert process.stdout is not None  # noqa: S101
        text = await read_bounded(process.stdout)
        await process.wait()
        return text.decode(errors="replace")

    def _furnish(self, work: Path) -> None:
        """Make the home, with credentials that are never on disk, and the shells that do nothing."""
        for directory in ("home/.conda", "tmp", "bin"):
            (work / directory).mkdir(parents=True)
        (work / "home/.cache").symlink_to(self.root / "cache")
        for shell in ("bash", "sh"):
            (work / "bin" / shell).write_text(NO_SHELL)
            (work / "bin" / shell).chmod(0o755)
        if self._credentials:
            entries = {host: mamba_entry(credential) for host, credential in self._credentials.items()}
            file = file_in_memory(json.dumps(entries))
            for place in ("home/.mamba/auth", "home/.local/share/mamba/auth"):
                (work / place).mkdir(parents=True)
                (work / place / "authentication.json").symlink_to(file)

    def _sweep(self) -> None:
        """Remove the directories of requests that were killed."""
        for old in (self.root / "work").iterdir():
            with suppress(OSError):
                if time.time() - old.stat().st_mtime > STALE_S:
                    shutil.rmtree(old, ignore_errors=True)


def by_place(request: Mapping[str, Any]) -> dict[str, Mapping[str, str]]:
    """Return the credentials of a request by host, and by host and port where an address of it has one.

    micromamba looks for `host:port/path` and for what is before each slash, but not for the host without its port.
    """
    known: Mapping[str, Mapping[str, str]] = request.get("credentials") or {}
    urls = [*request.get("channels", ()), *(row["url"] for row in request.get("packages", ()))]
    urls += [url for some in (request.get("channel_urls") or {}).values() for url in some]
    places = {parts.netloc: parts.hostname or "" for parts in map(urlsplit, urls) if parts.netloc}
    return {**known, **{place: known[host] for place, host in places.items() if host in known}}


def mamba_entry(credential: Mapping[str, str]) -> dict[str, str]:
    """Return a credential as `micromamba auth login` would write it."""
    if "token" in credential:
        return {"type": "CondaToken", "token": credential["token"]}
    password = base64.b64encode(credential["password"].encode()).decode()
    return {"type": "BasicHTTPAuthentication", "user": credential["user"], "password": password}


def as_document(answer: bytes) -> dict[str, Any] | None:
    """Return the JSON object of an answer; None if there is none, as after many failures."""
    text = answer.decode(errors="replace")
    for start in (0, text.find("{")):
        if start < 0:
            continue
        with suppress(ValueError, RecursionError):
            document = json.loads(text[start:])
            return document if isinstance(document, dict) else None
    return None


async def read_bounded(stream: asyncio.StreamReader) -> bytes:
    """Read to the end.

    Raises:
        HostError: there is more than any honest answer has.
    """
    parts, size = [], 0
    while chunk := await stream.read(1 << 20):
        parts.append(chunk)
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            raise HostError("micromamba answered more than can be read.", code="engine-crashed")
    return b"".join(parts)


async def read_end(stream: asyncio.StreamReader) -> bytes:
    """Read to the end, keeping the last part."""
    tail = b""
    while chunk := await stream.read(STDERR_KEPT_BYTES):
        tail = (tail + chunk)[-STDERR_KEPT_BYTES:]
    return tail
