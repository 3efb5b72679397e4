"""The tier of platforms on which runs cannot be started: Windows.

Runs are started by processes that fork, are reached over sockets whose ends travel between processes, and have their
output read from pipes by the event loop; none of these is there on Windows. A Job Object could bound a run there, but
not confine it. Until somebody can try such a tier on a real machine, there is none: runs are refused with a clear
error.
"""

from __future__ import annotations

import sys
from contextlib import AbstractAsyncContextManager

from ..errors import HostError
from .tier import Launch, Process


class UnsupportedTier:
    """Refuses every run; see `tier.Tier`."""

    name = "unsupported"

    def launch(self, launch: Launch) -> AbstractAsyncContextManager[Process]:  # noqa: ARG002 - whatever it is
        """Refuse.

        Raises:
            HostError: always.
        """
        raise HostError(
            f"Runs cannot be started on this platform ({sys.platform}) yet.",
            hint="Use WSL2, Linux or macOS.",
            code="platform-unsupported",
        )

    def close(self) -> None:
        """There is nothing to give up."""
