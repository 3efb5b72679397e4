"""How a run in a network of its own gets what its policy allows: not at all, by the proxy, or by pasta.

Decided by the tiers, for each run alike: what the policy is, and what the machine has. Starts nothing itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .pasta import prohibited
from .policy import NetworkPolicy
from .proxy import PORT, own_addresses, proxy_variables

BY_PROXY = "network by HTTP proxy: HTTP, HTTPS and what else can use CONNECT; no other protocols, no UDP, no look-ups"


@dataclass(frozen=True, slots=True)
class Connection:
    """The way out of a run's network.

    Attributes:
        via: `proxy`, `pasta`, or empty for none.
        program: the path of pasta, if it is that.
    """

    via: str
    program: str = ""

    @classmethod
    def choose(cls, policy: NetworkPolicy, pasta: str) -> Connection:
        """Return the way for a policy: pasta knows no names, so that only the proxy can hold an allow-list.

        Args:
            policy: the run's.
            pasta: the path of the program; empty where it is not to be used.
        """
        if policy.nothing:
            return cls("")
        return cls("pasta", pasta) if pasta and policy.internet and not policy.rules else cls("proxy")

    def variables(self) -> Mapping[str, str]:
        """Return the environment variables by which programs find the way."""
        return proxy_variables() if self.via == "proxy" else {}

    def walls(self) -> dict[str, Any]:
        """Return the fields of `Walls` for it."""
        if self.via == "pasta":
            return {"pasta": self.program, "prohibited": prohibited(map(str, own_addresses()))}
        return {"proxy_port": PORT if self.via == "proxy" else 0}

    def notes(self, no_network: str) -> tuple[str, ...]:
        """Return what the user should know.

        Args:
            no_network: why the run has no network although it should; empty if it has.
        """
        if self.via == "pasta":
            return (f"there is no network: pasta could not connect the run ({no_network})",) if no_network else ()
        return (BY_PROXY,) if self.via == "proxy" else ()
