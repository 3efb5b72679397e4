"""The network policy: how it is read, and what it lets through."""

from __future__ import annotations

import ipaddress
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_conda_run.errors import SettingsError
from mcp_conda_run.sandbox.policy import NetworkPolicy, Rule, address_of

OWN = frozenset({ipaddress.ip_address("8.8.4.4")})


def allowed(policy: str, host: str, port: int, *addresses: str) -> list[str]:
    parsed = NetworkPolicy.parse(policy)
    return parsed.allowed(host, port, addresses, OWN) if parsed.may_ask(host, port) else []


def test_full_is_the_internet():
    assert NetworkPolicy.parse("full") == NetworkPolicy(internet=True)


def test_none_is_nothing():
    assert NetworkPolicy.parse("none").nothing


def test_a_list_is_its_hosts_and_ports():
    policy = NetworkPolicy.parse("data.example:443, *.Example.org ,[::1]:8080")
    assert policy.rules == (Rule("data.example", 443), Rule("*.example.org"), Rule("::1", 8080))
    assert not policy.internet


def test_full_can_be_widened():
    policy = NetworkPolicy.parse("full,10.0.0.5:5432")
    assert policy.internet
    assert policy.rules == (Rule("10.0.0.5", 5432),)


@pytest.mark.parametrize(
    "text", ["", "none,data.example", "a b", "host:99999", "http://data.example", "host:", "data.example,,x", "*"]
)
def test_what_is_no_policy_is_one_clear_error(text: str):
    with pytest.raises(SettingsError, match="network policy"):
        NetworkPolicy.parse(text)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::"),  # this machine
        *("10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd00::1"),  # private networks
        *("169.254.169.254", "fe80::1", "fe80::1%eth0"),  # link-local; metadata services
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"),  # IPv4 in disguise
        *("224.0.0.1", "ff02::1", "255.255.255.255", "240.0.0.1"),
        "8.8.4.4",  # an address of the machine's own
    ],
)
def test_full_does_not_reach_the_machine_and_its_networks(address: str):
    assert allowed("full", "name.example", 80, address) == []


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1"])
def test_full_reaches_the_internet(address: str):
    assert allowed("full", "name.example", 80, address) == [address]


def test_of_several_addresses_only_the_public_ones_are_used():
    assert allowed("full", "name.example", 80, "127.0.0.1", "93.184.216.34") == ["93.184.216.34"]


def test_a_listed_name_may_be_in_a_private_network():
    assert allowed("mirror.example", "mirror.example", 80, "10.0.0.5") == ["10.0.0.5"]


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "::1", "8.8.4.4"])
def test_a_listed_name_is_never_this_machine(address: str):
    assert allowed("mirror.example", "mirror.example", 80, address) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_listed_address_may_be_this_machine(host: str):
    assert allowed(f"{host}:5432", host, 5432, "127.0.0.1") == ["127.0.0.1"]


def test_a_port_that_is_not_listed_is_refused():
    assert allowed("localhost:5432", "localhost", 5433, "127.0.0.1") == []


def test_a_host_that_is_not_listed_is_not_even_looked_up():
    assert not NetworkPolicy.parse("data.example").may_ask("evil.example", 80)


@pytest.mark.parametrize(
    ("host", "covered"), [("a.example.org", True), ("example.org", False), ("badexample.org", False)]
)
def test_a_star_means_every_name_below(host: str, covered: bool):
    assert Rule("*.example.org").covers(host, 443) is covered


@given(st.ip_addresses())
def test_no_private_address_passes_as_internet_in_any_form(address):
    text = str(address)
    seen = address_of(text)
    assert seen is not None
    if allowed("full", "name.example", 80, text):
        assert seen.is_global
        assert not seen.is_loopback


@given(st.text())
def test_any_text_is_a_policy_or_one_clear_error(text: str):
    with suppress(SettingsError):
        assert NetworkPolicy.parse(text) == NetworkPolicy.parse(text.upper())
