"""Run Python code for scientific agents, each run in its own ephemeral conda prefix.

async with Runtime() as runtime:
    result = await runtime.run(RunRequest(code="import numpy; numpy.arange(10).sum()"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import CondaRunError
from .models import RunRequest, RunResult

if TYPE_CHECKING:
    from .runtime import Runtime
    from .settings import Settings

__version__ = "0.1.0"
__all__ = ["CondaRunError", "RunRequest", "RunResult", "Runtime", "Settings", "__version__"]


def __getattr__(name: str) -> Any:
    """Load the heavy names when they are first used, so that `--help` and the guest pay nothing for them."""
    if name == "Runtime":
        from .runtime import Runtime  # noqa: PLC0415

        return Runtime
    if name == "Settings":
        from .settings import Settings  # noqa: PLC0415

        return Settings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
