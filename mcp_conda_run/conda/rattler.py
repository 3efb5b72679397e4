"""The embedded engine: py-rattler, in a child process for each request. Made by `choose.make_engine`."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

from .worker_engine import WorkerEngine


class RattlerEngine(WorkerEngine):
    """An `Engine` (see `engine.py`) on py-rattler."""

    name = "rattler"

    def version(self) -> str:
        """Return py-rattler's version."""
        return importlib.metadata.version("py-rattler")

    def for_locks(self) -> Mapping[str, Any]:
        """Return nothing: who locks has the embedded solver already."""
        return {}
