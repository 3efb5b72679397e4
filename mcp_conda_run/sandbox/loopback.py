"""Clones with a network by proxy: what tiers share whose runs may connect to one port of the host's loopback.

The base of `landlocked.py` and `seatbelt.py`. The proxy listens on the host, for one run each.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import AsyncExitStack

from ..errors import HostError
from .cloned import CloneTier
from .policy import NetworkPolicy
from .proxy import proxy_variables, serving
from .tier import Launch


class LoopbackTier(CloneTier):
    """A clone tier whose runs reach the network by a proxy on the host's loopback."""

    def check(self, launch: Launch) -> None:
        """Refuse mounts that would show all environments.

        Raises:
            HostError: a mount is above the cache.
        """
        for mount in launch.mounts:
            if self.cache.is_relative_to(os.path.realpath(mount.source)):
                raise HostError(
                    f"{mount.source} cannot be mounted: the environments of all runs are below it.",
                    hint="Choose another directory, or move the cache with MCP_CONDA_RUN_CACHE_DIR.",
                    code="mount-refused",
                )

    async def open_network(self, launch: Launch, stack: AsyncExitStack) -> tuple[int, ...]:
        """Let a proxy listen on the host's loopback, at the one port that the run may connect to."""
        policy = NetworkPolicy.parse(launch.network)
        if policy.nothing:
            return ()
        listener = socket.create_server(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        await stack.enter_async_context(serving(listener, policy))
        return (port,)

    def network_variables(self, ports: tuple[int, ...]) -> Mapping[str, str]:
        """Return the variables that lead to the proxy."""
        return proxy_variables(*ports) if ports else {}
