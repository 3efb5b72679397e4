"""Where a run may connect to: the network policy, as it is written and as it decides.

Used by the tiers and by the proxy (`proxy.py`), which enforces it. Knows nothing of sockets.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import SettingsError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_RULE = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|\*?[a-z0-9_.-]+)(?::(?P<port>\d{1,5}))?", re.IGNORECASE | re.ASCII)
MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class Rule:
    """One `host[:port]` of an allow-list; `*.example.org` means every name below example.org.

    Attributes:
        host: in lower case, without brackets.
        port: 0 for any.
    """

    host: str
    port: int = 0

    def covers(self, host: str, port: int) -> bool:
        """Say whether the rule is about this destination."""
        if self.port not in {0, port}:
            return False
        return host.endswith(self.host[1:]) if self.host.startswith("*.") else host == self.host

    @property
    def names_an_address(self) -> bool:
        """Whether the rule is about one machine for certain, so that it may be this one."""
        return self.host == "localhost" or address_of(self.host) is not None


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """What runs may reach.

    Attributes:
        internet: all public addresses.
        rules: further destinations.
    """

    internet: bool
    rules: tuple[Rule, ...] = ()

    @classmethod
    @functools.lru_cache(maxsize=64)
    def parse(cls, text: str) -> NetworkPolicy:
        """Read `full`, `none`, or a comma separated list of `host[:port]`, which may contain `full`.

        Raises:
            SettingsError: the text is none of these.
        """
        items = [item.strip().lower() for item in text.split(",")]
        if items == ["none"]:
            return cls(internet=False)
        return cls(internet="full" in items, rules=tuple(_rule(item, text) for item in items if item != "full"))

    @property
    def nothing(self) -> bool:
        """Whether nothing at all may be reached."""
        return not self.internet and not self.rules

    def may_ask(self, host: str, port: int) -> bool:
        """Say whether it makes sense to look up the host: some of its addresses might be allowed."""
        return self.internet or any(rule.covers(host, port) for rule in self.rules)

    def lists(self, host: str, port: int) -> bool:
        """Say whether a rule is about this destination."""
        return any(rule.covers(host, port) for rule in self.rules)

    def allowed(self, host: str, port: int, addresses: Iterable[str], own: frozenset[Address]) -> list[str]:
        """Return those of a host's addresses that may be connected to.

        A listed name stands for what it resolves to in private networks too, but never for this machine or its
        metadata service: whoever controls a name could point it there. Those have to be listed as addresses, or as
        `localhost`.

        Args:
            host: as the run named it, in lower case.
            port: the port.
            addresses: what the host resolves to here.
            own: the addresses of this machine.
        """
        rules = [rule for rule in self.rules if rule.covers(host, port)]
        if any(rule.names_an_address for rule in rules):
            return list(addresses)
        return [text for text in addresses if self._allows(text, own, listed=bool(rules))]

    def _allows(self, text: str, own: frozenset[Address], *, listed: bool) -> bool:
        address = address_of(text)
        if address is None or address in own or _is_this_machine(address):
            return False
        return (self.internet and address.is_global) or listed


def _rule(item: str, text: str) -> Rule:
    match = _RULE.fullmatch(item)
    if match is None or int(match["port"] or 0) > MAX_PORT or match["host"] == "none":
        raise SettingsError(
            f"The network policy {text!r} cannot be used.",
            hint="Use `full`, `none`, or a list such as `data.example.org:443,*.example.com`.",
        )
    return Rule(match["host"].strip("[]"), int(match["port"] or 0))


def address_of(text: str) -> Address | None:
    """Return the address that the text is, with those that carry an IPv4 address taken as that; None for a name."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        carried = address.ipv4_mapped or address.sixtofour
        if carried is None and address in _NAT64:
            carried = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        return carried or address
    return address


def _is_this_machine(address: Address) -> bool:
    return address.is_loopback or address.is_unspecified or address.is_link_local or address.is_multicast
