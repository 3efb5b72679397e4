"""Rules of a network namespace that keep packets from going to some addresses, whatever routes there are.

Used by whoever makes a run's network, on both sides, before the run gives its capabilities away: it cannot take the
rules back. Linux only; standard library only.
"""

from __future__ import annotations

import os
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# From the manual: rtnetlink(7), netlink(7); and the kernel's fib_rules.h.
_RTM_NEWRULE = 32
_REQUEST_CREATE_ACK = 0x1 | 0x4 | 0x200 | 0x400
_FRA_DST = 1
_FRA_PRIORITY = 6
_TO_TABLE = 1
_PROHIBIT = 8
_MAIN_TABLE = 254
_ERROR = 2
_NEWS_BYTES = 4096


def prohibit(networks: Iterable[str], allowed: Iterable[str] = ()) -> None:
    """Let nothing in this network namespace be sent to these networks (EACCES) but what is this namespace's own.

    Args:
        networks: each as `10.0.0.0/8` or `fc00::/7`.
        allowed: networks that may be reached although they are in one of those.

    Raises:
        OSError: the kernel refuses.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as kernel:
        for network in allowed:
            _add(kernel, network, 100, _TO_TABLE, _MAIN_TABLE)
        for network in networks:
            _add(kernel, network, 200, _PROHIBIT, 0)


def _add(kernel: socket.socket, network: str, priority: int, action: int, table: int) -> None:
    address, _, length = network.partition("/")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if family == socket.AF_INET6 and not os.path.exists("/proc/sys/net/ipv6"):
        return
    packed = socket.inet_pton(family, address)
    rule = struct.pack("=BBBBBBBBI", family, int(length), 0, 0, table, 0, 0, action, 0)
    attributes = (
        struct.pack("=HH", 4 + len(packed), _FRA_DST) + packed + struct.pack("=HHI", 8, _FRA_PRIORITY, priority)
    )
    size = 16 + len(rule) + len(attributes)
    kernel.sendto(struct.pack("=IHHII", size, _RTM_NEWRULE, _REQUEST_CREATE_ACK, 1, 0) + rule + attributes, (0, 0))
    answer = kernel.recv(_NEWS_BYTES)
    _, kind = struct.unpack_from("=IH", answer)
    (error,) = struct.unpack_from("=i", answer, 16)
    if kind == _ERROR and error:
        raise OSError(-error, os.strerror(-error), f"a rule for {network}")
