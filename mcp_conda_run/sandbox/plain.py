"""The tier `none`: a run is an ordinary process of the user, in a prefix of its own that is a clone.

For machines that allow nothing better, or when the user asked for it. The run's processes die with it and with the
server, and its bounds hold; but it can read and write what the user can, and `Isolation.notes` says so.
"""

from __future__ import annotations

from ..errors import HostError
from ..models import Isolation
from .cloned import CloneTier, watched_limits
from .policy import NetworkPolicy
from .tier import Launch

NOTES = (
    "no isolation: the code can read, change and delete everything that the user of the server can, read-only mounts"
    " included",
    "no isolation: the code reaches the network and every service of this machine",
    "without reflinks the files of packages are hard links to the environment's: write-protected, but code that lifts"
    " the protection, or runs as root, can damage the environment",
)


class PlainTier(CloneTier):
    """Runs as ordinary processes."""

    name = "none"

    def check(self, launch: Launch) -> None:
        """Refuse a network policy, which nothing here can hold.

        Raises:
            HostError: the network is not to be full.
        """
        if not NetworkPolicy.parse(launch.network).internet:
            raise HostError(
                f"Without isolation the network cannot be restricted to {launch.network!r}.",
                hint="Leave out --isolation none, or use --network full.",
                code="network-not-enforceable",
            )

    def isolation(self, launch: Launch) -> Isolation:
        """Say that nothing holds the run but its bounds."""
        return Isolation(tier=self.name, network=launch.network, limits=watched_limits(launch.limits), notes=NOTES)
