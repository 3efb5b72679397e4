"""The story on one page: request -> plan -> environment -> run -> result.

`Runtime` is the library's entrance and what the CLI and the MCP server stand on. It owns the store, the engine and the
tier, and everything it starts ends with it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from .conda.channels import EngineIndex
from .conda.choose import make_engine
from .environments.provision import Provided, Provisioner
from .environments.store import Store
from .models import Plan, ProgressCallback, RunRequest, RunResult, no_progress
from .settings import Settings, load_settings


class Runtime:
    """Runs code, each run in its own ephemeral prefix. Use it as an async context manager.

    Args:
        settings: the knobs; read from the environment and the configuration file if not given.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or load_settings()

    async def run(self, request: RunRequest, progress: ProgressCallback = no_progress) -> RunResult:
        """Run code or a file.

        Whatever the code does is in the result; installing what it needs may fail there too (`install-error`).
        Cancelling this call kills the run; an environment that is being made for it is finished all the same.

        Raises:
            RequestError: the request cannot be served.
            HostError: this machine cannot do what is needed.
        """
        raise NotImplementedError

    async def plan(self, request: RunRequest, progress: ProgressCallback = no_progress) -> Plan:
        """Say what a run of this would install, and why; install nothing."""
        raise NotImplementedError

    async def warmup(self, template: str | None = None, progress: ProgressCallback = no_progress) -> Provided:
        """Make a template's environment ready, so that the next run need not."""
        raise NotImplementedError
