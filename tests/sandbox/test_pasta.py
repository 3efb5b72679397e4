"""Real internet by pasta: what a run reaches, and what it must not, in a small world of two networks."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mcp_conda_run.errors import SettingsError
from mcp_conda_run.sandbox import pasta
from mcp_conda_run.sandbox.choose import make_tier
from mcp_conda_run.sandbox.connection import Connection
from mcp_conda_run.sandbox.policy import NetworkPolicy
from mcp_conda_run.sandbox.probe import usable_pasta
from mcp_conda_run.settings import Settings

from .conftest import USERS, Host, make_place

linux = pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")

# The host (this machine's part in the small world) is 10.9.9.2, behind a gateway with a private address; it has a
# public address too. Everything else is in the other network, where each address answers.
HOST, HOST_PUBLIC, GATEWAY = "10.9.9.2", "5.6.7.8", "10.9.9.1"
PUBLIC, PRIVATE, METADATA, PUBLIC_6, PRIVATE_6 = "8.8.8.8", "192.168.3.4", "169.254.169.254", "2a00::1", "fd00:3::4"
RESOLVER = next(
    (
        words[1]
        for words in map(str.split, Path("/etc/resolv.conf").read_text().splitlines())
        if words[:1] == ["nameserver"]
    ),
    "",
)

SERVE = """
import selectors, socket, sys
says, *packets = sys.argv[1:]
selector = selectors.DefaultSelector()
for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
    stream = socket.socket(family, socket.SOCK_STREAM)
    if family == socket.AF_INET6:
        stream.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    stream.bind((address, 7000))
    stream.listen()
    selector.register(stream, 1, "stream")
for address in packets:  # bound to an address, so that answers come from it
    for port in (7000, 53):
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind((address, port))
        selector.register(datagrams, 1, "packets")
print("ready", flush=True)
while True:
    for key, _ in selector.select():
        if key.data == "stream":
            connection, _ = key.fileobj.accept()
            connection.sendall(says.encode())
            connection.close()
        else:
            data, sender = key.fileobj.recvfrom(100)
            key.fileobj.sendto(says.encode(), sender)
"""

TRY = """
import errno, json, socket
def reach(kind, address, port=7000):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, kind) as client:
            client.settimeout(3)
            client.connect((address, port))
            if kind == socket.SOCK_DGRAM:
                client.send(b"x")
            return client.recv(100).decode()
    except OSError as error:
        return errno.errorcode.get(error.errno, type(error).__name__) if error.errno else type(error).__name__
stream = {address: reach(socket.SOCK_STREAM, address) for address in ADDRESSES}
packets = {address: reach(socket.SOCK_DGRAM, address) for address in PACKETS}
print(json.dumps([stream, packets, reach(socket.SOCK_DGRAM, NAMESERVER, 53)]))
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def lay_out(host: str, other: str) -> None:
    """Make both networks and what is between them."""
    for name in (host, other):
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
    ip("-n", host, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", other)
    for name, addresses in (
        (host, (f"{HOST}/24", "fd00:9::2/64")),
        (other, (f"{GATEWAY}/24", "fd00:9::1/64")),
    ):
        for address in addresses:
            ip("-n", name, "addr", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
        ip("-n", name, "link", "set", "eth0", "up")
    ip("-n", host, "addr", "add", f"{HOST_PUBLIC}/32", "dev", "lo")
    for address in {PUBLIC, PRIVATE, METADATA, PUBLIC_6, PRIVATE_6, *([RESOLVER] if fake_resolver() else [])}:
        ip("-n", other, "addr", "add", address, "dev", "lo")
    ip("-n", host, "route", "add", "default", "via", GATEWAY)
    ip("-n", host, "-6", "route", "add", "default", "via", "fd00:9::1")


@pytest.fixture(scope="session")
def world() -> Iterator[str]:
    """Make the small world; return the name of the host's network namespace."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can make networks")
    if not pasta.find() or not shutil.which("ip") or not shutil.which("nsenter"):
        pytest.skip("pasta (Debian's package passt), ip and nsenter are needed")
    host, other = f"mcr-host-{os.getpid()}", f"mcr-else-{os.getpid()}"
    servers = []
    try:
        lay_out(host, other)
        packets = [PUBLIC, PRIVATE, *([RESOLVER] if fake_resolver() else [])]
        for name, *says in ((host, "host"), (other, "else", *packets)):
            command = ["nsenter", f"--net=/run/netns/{name}", sys.executable, "-c", SERVE, *says]
            servers.append(subprocess.Popen(command, stdout=subprocess.PIPE))
            assert servers[-1].stdout is not None
            assert servers[-1].stdout.readline() == b"ready\n"
        yield host
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no networks can be made here: {error.stderr.decode().strip()}")
    finally:
        for server in servers:
            server.kill()
            server.communicate()
        for name in (host, other):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def fake_resolver() -> bool:
    """Say whether the machine's name server can be played by the small world."""
    return bool(RESOLVER) and ":" not in RESOLVER and not RESOLVER.startswith("127.")


DEVICE = 'mount -t tmpfs tmpfs /dev/net && mknod -m 666 /dev/net/tun c 10 200 && exec "$@"'
"""Everybody may use this device on ordinary machines; it is made so for the servers of these tests alone."""


@pytest.fixture(scope="session")
def reached(world: str, installed: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    """Return what a run of a user reached, by streams and by packets, and whom it asked for names."""
    hosts: dict[str, Host] = {}
    known: dict[str, dict[str, Any]] = {}
    within = ["nsenter", f"--net=/run/netns/{world}", "unshare", "--mount", "sh", "-c", DEVICE, "sh"]

    def find(user: str, **more: Any) -> dict[str, Any]:
        if user not in hosts:
            hosts[user] = Host(user, make_place(installed, user), within=within)
        key = f"{user} {more}"
        if key not in known:
            known[key] = reach(hosts[user], **more)
        return known[key]

    yield find
    for one in hosts.values():
        one.close()


def reach(host: Host, **more: Any) -> dict[str, Any]:
    addresses = [PUBLIC, PRIVATE, METADATA, GATEWAY, HOST, HOST_PUBLIC, "127.0.0.1", PUBLIC_6, PRIVATE_6, "::1"]
    code = TRY.replace("ADDRESSES", repr(addresses)).replace("PACKETS", repr([PUBLIC, PRIVATE]))
    answer = host.run("A+pasta", code.replace("NAMESERVER", repr(pasta.NAMESERVER)), network="full", **more)
    assert answer["exit"]["code"] == 0, answer
    stream, packets, names = json.loads(answer["out"])
    return {"stream": stream, "packets": packets, "names": names, "isolation": answer["isolation"]}


Reached = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("address", [PUBLIC, PUBLIC_6])
def test_the_internet_is_reached(reached: Reached, user: str, address: str):
    assert reached(user)["stream"][address] == "else"


@pytest.mark.parametrize("user", USERS)
def test_packets_reach_the_internet(reached: Reached, user: str):
    assert reached(user)["packets"][PUBLIC] == "else"


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("address", [PRIVATE, PRIVATE_6, METADATA, GATEWAY])
def test_private_networks_are_not_reached(reached: Reached, user: str, address: str):
    assert reached(user)["stream"][address] == "EACCES"


@pytest.mark.parametrize("user", USERS)
def test_packets_do_not_reach_private_networks(reached: Reached, user: str):
    assert reached(user)["packets"][PRIVATE] == "EACCES"


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(
    ("address", "comes"), [(HOST, "ECONNREFUSED"), (HOST_PUBLIC, "EACCES"), ("127.0.0.1", "ECONNREFUSED")]
)
def test_services_of_the_host_are_not_reached(reached: Reached, user: str, address: str, comes: str):
    assert reached(user)["stream"][address] == comes


def test_the_rules_are_what_holds(reached: Reached):
    assert reached("own", missing={"prohibited": ()})["stream"][PRIVATE] == "else"


@pytest.mark.parametrize("user", USERS)
def test_names_are_asked_of_the_hosts_own_server(reached: Reached, user: str):
    if not fake_resolver():
        pytest.skip(f"this machine's name server cannot be played: {RESOLVER or 'none'}")
    assert reached(user)["names"] == "else"


@pytest.mark.parametrize("user", USERS)
def test_the_result_says_by_what(reached: Reached, user: str):
    isolation = reached(user)["isolation"]
    assert (isolation["via"], isolation["network"], "proxy" in " ".join(isolation["notes"])) == ("pasta", "full", False)


@linux
def test_a_run_whose_network_cannot_be_connected_says_so(world: str, installed: Path):
    """Without a way out of the host itself, pasta finds nothing to connect with."""
    alone = ["unshare", "--net"]
    host = Host("own", make_place(installed, "own"), within=alone)
    answer = host.run("A+pasta", "print(1)", network="full")
    host.close()
    assert world
    assert answer["out"] == "1\n"
    assert "pasta could not connect the run" in " ".join(answer["isolation"]["notes"])


def test_pasta_ends_with_its_run(reached: Reached):
    reached("own")
    mine = [pid for pid in Path("/proc").glob("[0-9]*") if is_pasta(pid)]
    assert mine == []


def is_pasta(process: Path) -> bool:
    try:
        return b"--dns-forward" in (process / "cmdline").read_bytes()
    except OSError:
        return False


# --- the choice -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "via"), [("full", "pasta"), ("none", ""), ("example.org:443", "proxy"), ("full,localhost:80", "proxy")]
)
def test_only_the_proxy_can_hold_a_list(policy: str, via: str):
    assert Connection.choose(NetworkPolicy.parse(policy), "/usr/bin/pasta").via == via


def test_without_pasta_the_proxy_serves_the_internet():
    assert Connection.choose(NetworkPolicy.parse("full"), "").via == "proxy"


@pytest.mark.parametrize("address", ["10.0.0.1", "172.31.255.255", "100.64.0.1", "169.254.169.254", "fd12::1", "::1"])
def test_what_is_prohibited_is_what_the_proxy_refuses(address: str):
    networks = [ipaddress.ip_network(network) for network in pasta.NOT_INTERNET]
    assert any(ipaddress.ip_address(address) in network for network in networks)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "151.101.0.223", "2a00:1450::1", "2606:4700::1"])
def test_the_internet_is_not_prohibited(address: str):
    networks = [ipaddress.ip_network(network) for network in pasta.NOT_INTERNET]
    assert not any(ipaddress.ip_address(address) in network for network in networks)


def test_addresses_of_this_machine_are_prohibited():
    assert {"5.6.7.8/32", "2a00::5/128"} <= set(pasta.prohibited(["5.6.7.8", "2a00::5", "fe80::1%eth0"]))


@linux
def test_where_pasta_is_missing_the_proxy_serves_and_the_reason_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("mcp_conda_run.sandbox.probe.find_pasta", lambda: "")
    tier, reason = make_tier(Settings(cache_dir=tmp_path, full_by="pasta"))
    tier.close()
    assert tier.name not in {"A", "A'"} or "pasta is not installed" in reason


@linux
def test_a_pasta_that_does_not_work_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    broken = tmp_path / "pasta"
    broken.write_text("#!/bin/sh\necho it does not work >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr("mcp_conda_run.sandbox.probe.find_pasta", lambda: str(broken))
    program, reason = usable_pasta(tmp_path)
    assert program == ""
    assert "it does not work" in reason or "A" in reason


def test_other_means_are_refused():
    with pytest.raises((SettingsError, ValueError)):
        Settings(full_by="magic")  # type: ignore[arg-type]
