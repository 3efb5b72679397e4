"""Real internet for a run in a network of its own, by pasta, a network card made of ordinary sockets of the host.

Started by keepers beside a run's process and ended with it; the tiers say for which runs. What is not the internet is
kept from the run by rules in its own network (`guest/routes.py`), which it cannot take back: pasta knows no filters.
Standard library only.
"""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable

from .processes import pid_of

if sys.platform == "linux":
    from ..guest import syscalls

NAMESERVER = "192.0.0.53"
"""Where runs ask for names: pasta passes it on to the host's own resolver. Of a range that nobody routes (RFC 6890)."""

NOT_INTERNET = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
    *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
    *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    *("::/128", "::1/128", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32"),
    *("2002::/16", "fc00::/7", "fe80::/10"),
)
"""What is not globally reachable, or leads to what is not (RFC 6890); as `NetworkPolicy` decides for the proxy."""

OPTIONS = (
    *("--config-net", "--foreground", "--quiet"),
    "--no-map-gw",  # else the gateway's address would be the host's loopback
    *("-t", "none", "-u", "none"),  # nothing of the run is to be reached from outside
    *("-T", "none", "-U", "none"),  # nor the host's loopback from the run's
    *("--dns-forward", NAMESERVER),
)
SAID_BYTES = 4096


def find() -> str:
    """Return the path of the program; empty if it is not installed."""
    return shutil.which("pasta", path=os.defpath + ":/usr/sbin:/usr/local/bin") or ""


def prohibited(own_addresses: Iterable[str]) -> list[str]:
    """Return the networks that runs must not reach: what is not the internet, and this machine."""
    own = (address.partition("%")[0] for address in own_addresses)
    return list(dict.fromkeys([*NOT_INTERNET, *(f"{address}/{128 if ':' in address else 32}" for address in own)]))


class Pasta:
    """A running pasta; belongs to one keeper.

    Args:
        program: its path.
        holder: a descriptor of a process that is in the network and in the user namespace that owns it, and in which
            there is nothing else than the loopback interface.
        order: a socket to that: a byte has it prohibit what is to be prohibited, answer with a byte, and end.

    Attributes:
        pid: its own.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, program: str, holder: int, order: int) -> None:
        self._holder = holder
        self._order = socket.socket(fileno=order)
        self._said = os.memfd_create("pasta", os.MFD_CLOEXEC)
        self._directory = tempfile.mkdtemp(prefix="pasta-")
        try:
            os.mkfifo(self._announcement, 0o600)
            # It writes its number there when the network is ready.
            self._ready = os.open(self._announcement, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            self._process = self._start(program)
        except OSError:
            self._tidy()
            raise
        self.pid = self._process.pid

    @property
    def _announcement(self) -> str:
        return f"{self._directory}/pid"

    def _start(self, program: str) -> subprocess.Popen[bytes]:
        place = f"/proc/{pid_of(self._holder)}/ns"
        command = [program, *OPTIONS, "--pid", self._announcement]
        command += ["--userns", f"{place}/user", "--netns", f"{place}/net"]
        if os.geteuid() == 0:
            command += ["--runas", "0"]  # without capabilities but over that network; others may not open /dev/net/tun
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            env={"PATH": os.defpath},
            cwd="/",
            preexec_fn=syscalls.die_with_parent,  # noqa: PLW1509 - a keeper that uses it has one thread
        )

    def wait(self, timeout_s: float) -> str:
        """Wait until the network is there and leads nowhere but to the internet; return why it does not, or nothing."""
        end = os.pidfd_open(self.pid)
        try:
            select.select([self._ready, end], [], [], timeout_s)
            if _has_come(self._ready) and self._is_fenced(timeout_s):
                return ""
            self._process.kill()
            self._process.wait()
            said = os.pread(self._said, SAID_BYTES, 0).decode("utf-8", "replace")
        finally:
            os.close(end)
            self._tidy()
        lines = [line for line in said.splitlines() if line and "syslog" not in line]
        return lines[-1] if lines else "it was not ready in time"

    def _is_fenced(self, timeout_s: float) -> bool:
        self._order.settimeout(timeout_s)
        try:
            self._order.send(b"1")
            return self._order.recv(1) == b"1"
        except OSError:
            return False

    def _tidy(self) -> None:
        self._order.close()
        for descriptor in (self._holder, self._said):
            os.close(descriptor)
        shutil.rmtree(self._directory, ignore_errors=True)


def _has_come(ready: int) -> bool:
    try:
        return bool(os.read(ready, 64))
    except BlockingIOError:
        return False
    finally:
        os.close(ready)
