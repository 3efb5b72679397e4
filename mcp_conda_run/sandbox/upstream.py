"""The proxy beyond ours: where this machine reaches the internet through one only, the runs' proxy goes through it too.

Found in the server's own environment variables (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`), at each
connection. Called by `proxy.py`, which decides whether a run may connect at all. Its credentials go to it and nowhere
else: runs know the address of our proxy only.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from .policy import address_of

HEAD_BYTES = 64 * 1024
PORTS = {"http": 80, "https": 443}
PRIVATE_SUFFIXES = (
    ".local",
    ".localhost",
    ".internal",
    ".intranet",
    ".lan",
    ".home",
    ".corp",
    ".home.arpa",
    ".private",
)
"""Names that are no names of the internet: RFC 6761, 6762, 8375, and what ICANN keeps for private use."""


class UpstreamError(OSError):
    """The proxy beyond ours cannot be used, or refuses; the text holds no credentials."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """A proxy that is asked to connect (RFC 9110, 9.3.6).

    Attributes:
        host, port: where it is.
        tls: whether it is spoken to by TLS.
        authorization: the value of the header that it wants; empty for none.
    """

    host: str
    port: int
    tls: bool = False
    authorization: str = field(default="", repr=False)

    async def connect(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a connection to the destination, by its name: this proxy looks it up.

        Raises:
            UpstreamError: it refuses, or talks nonsense.
            OSError: it cannot be reached.
        """
        context = ssl.create_default_context() if self.tls else None
        reader, writer = await asyncio.open_connection(self.host, self.port, ssl=context, limit=HEAD_BYTES)
        try:
            target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            rows = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
            if self.authorization:
                rows.append(f"Proxy-Authorization: {self.authorization}")
            writer.write("\r\n".join([*rows, "", ""]).encode("ascii"))
            head = await reader.readuntil(b"\r\n\r\n")
            status = head.split(b"\r\n", 1)[0].split(b" ")[1:2]
            if not (status and status[0].isdigit() and 200 <= int(status[0]) < 300):  # noqa: PLR2004 - success
                said = status[0].decode("ascii", "replace")[:3] if status else "nothing of HTTP"
                raise UpstreamError(f"the proxy of this machine refuses to connect to {target} ({said})")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.close()
            raise UpstreamError("the proxy of this machine does not answer as one") from None
        except BaseException:
            writer.close()
            raise
        return reader, writer


def upstream_for(scheme: str, host: str, port: int, environ: Mapping[str, str] = os.environ) -> Upstream | None:
    """Return the proxy through which a destination is reached from this machine; None if it is reached directly.

    Args:
        scheme: `http` for a request that names a URL, `https` for one that wants to be connected.
        host: the destination's name or address.
        port: its port.
        environ: the environment variables; lower case wins over upper case.

    Raises:
        UpstreamError: what they say cannot be used.
    """
    url = _variable(environ, f"{scheme}_proxy") or _variable(environ, "all_proxy")
    if not url or _is_exempt(host, port, _variable(environ, "no_proxy")):
        return None
    try:
        split = urlsplit(url if "://" in url else f"http://{url}")
        port_ = split.port or PORTS.get(split.scheme, 0)
    except ValueError:
        raise UpstreamError("the proxy that this machine's variables name cannot be used") from None
    if split.scheme not in PORTS or not split.hostname:
        raise UpstreamError(f"a proxy of the kind {split.scheme}:// cannot be used for runs, only http:// and https://")
    authorization = ""
    if split.username is not None:
        pair = f"{unquote(split.username)}:{unquote(split.password or '')}"
        authorization = "Basic " + base64.b64encode(pair.encode()).decode("ascii")
    return Upstream(split.hostname, port_, split.scheme == "https", authorization)


def is_name_of_the_internet(host: str) -> bool:
    """Say whether a name that cannot be looked up here may be one of the internet's, for all that can be seen."""
    return "." in host.strip(".") and not host.endswith(PRIVATE_SUFFIXES) and address_of(host) is None


def _variable(environ: Mapping[str, str], name: str) -> str:
    return (environ.get(name) or environ.get(name.upper()) or "").strip()


def _is_exempt(host: str, port: int, no_proxy: str) -> bool:
    """Say whether `no_proxy` covers a destination: `*`, names with all below them, addresses and networks, `:port`."""
    for item in filter(None, (part.strip().lower() for part in no_proxy.split(","))):
        name, _, number = item.partition(":") if item.count(":") == 1 else (item, "", "")
        if number and number != str(port):
            continue
        name = name.removeprefix("*").strip("[]").lstrip(".")
        if not name or host == name or host.endswith(f".{name}") or _is_within(host, name):
            return True
    return False


def _is_within(host: str, network: str) -> bool:
    address = address_of(host)
    try:
        return address is not None and address in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
