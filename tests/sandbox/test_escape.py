"""Every way out that hostile code tries is closed; and each test is shown to fail where its wall is missing.

`WALLS` says, for each attempt of `attempts.py`, what must come of it in tier A, and which wall has to be taken away for
it to get through.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mcp_conda_run.guest import landlock

from .conftest import UNPRIVILEGED, USERS, Host

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")

ATTEMPTS = Path(__file__).with_name("attempts.py").read_text()

NO_ISOLATION: dict[str, Any] = {"tier": "none"}
HOST_NETWORK: dict[str, Any] = {"tier": "A", "missing": {"own_network": False}}
NO_FILTER: dict[str, Any] = {"tier": "A", "missing": {"filter_calls": False}}
VARIANTS = {"none": NO_ISOLATION, "network": HOST_NETWORK, "filter": NO_FILTER}

# attempt: (what comes of it, the wall without which it gets through, what it gets then); no wall: several hold it back
# together, or nothing on this machine could show the difference.
WALLS: dict[str, tuple[list[Any], str, list[Any]]] = {
    "read_a_secret": (["ENOENT"], "none", ["TOPSECRET"]),
    "list_home_directories": ([["user"]], "", []),
    "see_the_cache": ([["envs"]], "none", []),
    "follow_a_link_out_of_the_workspace": (["ENOENT"], "none", ["TOPSECRET"]),
    "write_to_usr": (["EROFS"], "", []),
    "write_to_the_root": (["EROFS"], "", []),
    "write_a_kernel_setting": (["EACCES", "EPERM", "EROFS"], "", []),
    "see_shared_memory_of_the_host": ([False], "none", [True]),
    "reach_the_root_of_pid_1": (["ENOENT", "EACCES"], "", []),
    "make_a_device": (["EPERM"], "", []),
    "connect_to_the_hosts_loopback": (["ECONNREFUSED"], "network", ["got"]),
    "connect_to_an_abstract_socket": (["ECONNREFUSED"], "network", ["got"]),
    "connect_to_a_socket_by_its_path": (["ENOENT"], "none", ["got"]),
    "list_network_interfaces": ([["lo"]], "", []),
    "send_a_datagram_to_the_internet": (["ENETUNREACH"], "", []),
    "open_a_packet_socket": (["EAFNOSUPPORT"], "filter", ["EPERM"]),
    "open_a_raw_socket": (["EPERM"], "", []),
    "open_a_hypervisor_socket": (["EAFNOSUPPORT"], "", []),
    "see_other_processes": ([False], "none", [True]),
    "read_the_environment_of_a_process": (["ENOENT"], "none", [True]),
    "signal_a_process": (["ESRCH"], "none", ["got"]),
    "trace_a_process": (["ESRCH"], "none", ["got"]),
    "read_the_command_line_of_pid_1": (["ENOENT"], "none", ["got"]),
    "kill_pid_1": (["got", "EPERM"], "", []),
    "have_other_descriptors": ([[]], "", []),
    "know_the_hosts_name": ([False], "none", [True]),
    "have_capabilities": ([[]], "", []),
    "become_root": (["EINVAL", "EPERM"], "", []),
    "gain_by_a_setuid_program": (["refused"], "", []),
    "make_a_user_namespace": (["EPERM"], "filter", ["got"]),
    "make_a_namespace_with_clone3": (["ENOSYS"], "filter", ["EINVAL"]),
    "mount_something": (["EPERM"], "", []),
    "unmount_something": (["EPERM"], "", []),
    "change_the_root": (["EPERM"], "", []),
    "use_io_uring": (["EPERM"], "filter", ["EFAULT", "ENOSYS", "EINVAL"]),
    "load_a_program_into_the_kernel": (["EPERM"], "", []),
    "use_the_keyring": (["EPERM"], "", []),
    "count_events_of_the_processor": (["EPERM"], "", []),
    "open_files_by_handle": (["EPERM"], "", []),
    "put_characters_into_a_terminal": (["EPERM"], "", []),
    "allow_more_processes": (["ValueError", "EPERM"], "", []),
    "damage_the_environment": (["got"], "", []),  # an overlay: it only seems so
}

C_IS_DIFFERENT: dict[str, list[Any]] = {
    "read_a_secret": ["EACCES"],
    "list_home_directories": ["EACCES"],
    "see_the_cache": ["EACCES"],
    "follow_a_link_out_of_the_workspace": ["EACCES"],
    "write_to_usr": ["EROFS", "got"],  # access(2) does not ask Landlock; `write_to_the_root` does
    "write_to_the_root": ["EACCES"],
    "write_a_kernel_setting": ["EACCES"],
    "see_shared_memory_of_the_host": [True],  # that it exists, not what is in it
    "reach_the_root_of_pid_1": ["EACCES"],
    "make_a_device": ["EACCES", "EPERM"],
    "connect_to_the_hosts_loopback": ["EAFNOSUPPORT"],
    "connect_to_an_abstract_socket": ["EAFNOSUPPORT"],
    "connect_to_a_socket_by_its_path": ["EAFNOSUPPORT"],
    "list_network_interfaces": ["EAFNOSUPPORT"],
    "send_a_datagram_to_the_internet": ["EAFNOSUPPORT"],
    "open_a_raw_socket": ["EAFNOSUPPORT"],
    "see_other_processes": ["EACCES"],
    "read_the_environment_of_a_process": ["EACCES"],
    "signal_a_process": ["EPERM"],
    "trace_a_process": ["EPERM"],
    "read_the_command_line_of_pid_1": ["EACCES"],
    "kill_pid_1": ["EPERM"],
    "know_the_hosts_name": [True],
    "have_capabilities": [[], ["CapBnd"]],  # what no_new_privs lets nobody have again; only root can give it up
    "become_root": ["EPERM", "got"],  # root stays root, without capabilities
    "allow_more_processes": ["ValueError", "EPERM", "got"],  # bounded by the watchdog there
    "make_a_user_namespace": ["EPERM"],
    "put_characters_into_a_terminal": ["EACCES", "EPERM", "ENOENT"],
    "damage_the_environment": ["EACCES", "EPERM"],
}
"""What comes of attempts in tier C where that is not the same as in tier A."""

ALLOWED = ("go_up_through_the_working_directory", "talk_to_oneself_over_loopback", "send_a_descriptor_to_the_server")

Results = dict[str, Any]


@pytest.fixture(scope="session")
def results(hosts: Callable[[str], Host]) -> Callable[[str, str], Results]:
    """Return what all attempts came to, for a user, in tier A or with a wall missing; each is run once."""
    known: dict[tuple[str, str], Results] = {}

    def find(user: str, variant: str) -> Results:
        if (user, variant) not in known:
            chosen = [name for name, (_, wall, _) in WALLS.items() if wall == variant]
            known[user, variant] = attempt(
                hosts(user), VARIANTS.get(variant, {"tier": variant}), chosen or [*WALLS, *ALLOWED]
            )
        return known[user, variant]

    return find


def attempt(host: Host, variant: dict[str, Any], names: list[str]) -> Results:
    with ExitStack() as stack:
        targets = make_targets(host, stack) | {"attempts": names}
        code = f"TARGETS = {targets!r}\n" + ATTEMPTS.replace('TARGETS: dict = globals().get("TARGETS", {})', "")
        answer = host.run(code=code, workspace=str(host.place.workspace), **variant)
        assert answer["exit"]["code"] == 0, answer["err"]
        return json.loads(answer["out"])


def make_targets(host: Host, stack: ExitStack) -> dict[str, Any]:
    """Make what the attempts are after; all of it belongs to the server's user."""
    tag = secrets.token_hex(4)
    uid = UNPRIVILEGED if host.user == "unprivileged" else os.geteuid()
    secret = host.place.cache.parent / "secret"
    secret.write_text("TOPSECRET")
    shared = Path("/dev/shm") / f"of-the-host-{tag}"
    shared.touch()
    stack.callback(shared.unlink)
    link = host.place.workspace / "link"
    link.unlink(missing_ok=True)
    link.symlink_to(secret)
    path = host.place.cache.parent / f"socket-{tag}"
    by_path, abstract = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    by_path.bind(str(path))
    abstract.bind(f"\0abstract-{tag}")
    listener = socket.create_server(("127.0.0.1", 0))
    for server in (by_path, abstract):
        server.listen()
    for server in (by_path, abstract, listener):
        stack.callback(server.close)
    for file in (secret, path):
        os.chown(file, uid, uid)
    victim = subprocess.Popen(["/bin/sleep", "600"], env={"NAME": "SECRET"}, user=uid, group=uid)
    stack.callback(victim.wait)
    stack.callback(victim.kill)
    return {
        "secret": str(secret),
        "cache": str(host.place.cache),
        "shared_memory": str(shared),
        "link": str(link),
        "socket": str(path),
        "abstract": f"abstract-{tag}",
        "port": listener.getsockname()[1],
        "victim": victim.pid,
        "hostname": socket.gethostname(),
    }


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("tier", ["A", "A'"])
@pytest.mark.parametrize("name", WALLS)
def test_the_attempt_fails(results: Callable[[str, str], Results], name: str, tier: str, user: str):
    assert results(user, tier)[name] in WALLS[name][0]


@pytest.mark.skipif(landlock.version() < landlock.SCOPES, reason="this kernel's Landlock is too old")
@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("name", WALLS)
def test_the_attempt_fails_in_tier_c(results: Callable[[str, str], Results], name: str, user: str):
    assert results(user, "C")[name] in C_IS_DIFFERENT.get(name, WALLS[name][0])


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("name", [name for name, (_, wall, gets) in WALLS.items() if wall and gets])
def test_the_attempt_gets_through_where_its_wall_is_missing(
    results: Callable[[str, str], Results], name: str, user: str
):
    _, wall, gets = WALLS[name]
    assert results(user, wall)[name] in gets


@pytest.mark.parametrize("user", USERS)
def test_what_a_run_is_meant_to_do_works(results: Callable[[str, str], Results], user: str):
    assert results(user, "A")["talk_to_oneself_over_loopback"] == "got"


def test_nothing_above_the_working_directory_is_the_hosts(results: Callable[[str, str], Results]):
    seen = results("own", "A")["go_up_through_the_working_directory"]
    system = {"bin", "lib", "lib32", "lib64", "libx32", "sbin", "usr", "etc", "dev", "proc", "sys"}
    assert set(seen) <= system | {"home", "run", "tmp", "var", "working"}


def test_every_attempt_has_an_expectation():
    assert set(re.findall(r"@attempt\ndef (\w+)", ATTEMPTS)) == {*WALLS, *ALLOWED}
