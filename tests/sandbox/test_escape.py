"""Every way out that hostile code tries is closed; and each test is shown to fail where its wall is missing.

`WALLS` says, for each attempt of `attempts.py`, what must come of it in tier A, which wall has to be taken away for it
to get through, or why that cannot be shown here. Tier C has no single walls that could be taken away: without its lock
a run is one without isolation.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from mcp_conda_run.guest import landlock
from mcp_conda_run.sandbox.bubblewrapped import find as find_bubblewrap

from .bubbles import needs_overlays
from .conftest import UNPRIVILEGED, USERS, Host

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")

ATTEMPTS = Path(__file__).with_name("attempts.py").read_text()

VARIANTS: dict[str, dict[str, Any]] = {
    "isolation": {"tier": "none"},
    "network": {"tier": "A", "missing": {"own_network": False}},
    "filter": {"tier": "A", "missing": {"filter_calls": False}},
    "privileges": {"tier": "A", "missing": {"patch": "privileges"}},
    "descriptors": {"tier": "A", "missing": {"patch": "descriptors"}},
}
"""By the name of what is missing, how to run without it; `host.PATCHES` says what the last two are."""


class But:
    """Anything but these."""

    def __init__(self, *values: Any) -> None:
        self._values = values

    def __contains__(self, value: Any) -> bool:
        return value not in self._values


@dataclass(frozen=True)
class Wall:
    """What holds an attempt back.

    Attributes:
        answers: what may come of the attempt in tier A.
        without: what has to be missing (`VARIANTS`) for the attempt to get through.
        then: what comes of it then.
        only_root: that shows only where the server is root, because others may not do it anywhere.
        capability: without which root may not either (capabilities(7)).
        unproven: why nothing can be taken away here so that it gets through.
    """

    answers: Any
    without: str = ""
    then: Any = ()
    only_root: bool = False
    capability: int = 0
    unproven: str = ""


SYS_RESOURCE = 24
KERNEL = "the kernel itself refuses it, whatever walls there are"

WALLS = {
    "read_a_secret": Wall(["ENOENT"], "isolation", ["TOPSECRET"]),
    "list_home_directories": Wall([["user"]], "isolation", But(["user"])),
    "see_the_cache": Wall([["envs"]], "isolation", But(["envs"])),
    "follow_a_link_out_of_the_workspace": Wall(["ENOENT"], "isolation", ["TOPSECRET"]),
    "write_to_usr": Wall(["EROFS"], "privileges", ["got"]),
    "write_to_the_root": Wall(["EROFS"], "privileges", [1]),
    "write_a_kernel_setting": Wall(["EACCES", "EPERM", "EROFS"], "isolation", ["got"], only_root=True),
    "see_shared_memory_of_the_host": Wall([False], "isolation", [True]),
    "reach_the_root_of_pid_1": Wall(
        ["ENOENT", "EACCES"], unproven="the machine's first process may be out of reach for everybody; see the next one"
    ),
    "reach_the_root_of_a_process": Wall(["ENOENT"], "isolation", But("ENOENT", "EACCES")),
    "make_a_device": Wall(["EPERM"], "privileges", ["got"], only_root=True),
    "connect_to_the_hosts_loopback": Wall(["ECONNREFUSED"], "network", ["got"]),
    "connect_to_an_abstract_socket": Wall(["ECONNREFUSED"], "network", ["got"]),
    "connect_to_a_socket_by_its_path": Wall(["ENOENT"], "isolation", ["got"]),
    "list_network_interfaces": Wall([["lo"]], "network", [[name for _, name in socket.if_nameindex()]]),
    "send_a_datagram_to_the_internet": Wall(["ENETUNREACH"], "network", ["got"]),
    "open_a_packet_socket": Wall(["EAFNOSUPPORT"], "filter", ["EPERM"]),
    "open_a_raw_socket": Wall(["EPERM"], "privileges", ["got"]),
    "open_a_hypervisor_socket": Wall(
        ["EAFNOSUPPORT"], unproven="kernels without vsock answer the same; test_seccomp.py has the filter alone"
    ),
    "see_other_processes": Wall([False], "isolation", [True]),
    "read_the_environment_of_a_process": Wall(["ENOENT"], "isolation", [True]),
    "signal_a_process": Wall(["ESRCH"], "isolation", ["got"]),
    "trace_a_process": Wall(["ESRCH"], "isolation", ["got"]),
    "read_the_command_line_of_pid_1": Wall(["ENOENT"], "isolation", ["got"]),
    "kill_pid_1": Wall(["got", "EPERM"], unproven="without its own processes it would be the machine's first"),
    "have_other_descriptors": Wall([[]], "descriptors", But([])),
    "know_the_hosts_name": Wall([False], "isolation", [True]),
    "have_capabilities": Wall([[]], "privileges", But([])),
    "become_root": Wall(["EINVAL", "EPERM"], "isolation", ["got"], only_root=True),
    "gain_by_a_setuid_program": Wall(["refused"], "isolation", ["got"]),
    "make_a_user_namespace": Wall(["EPERM"], "filter", ["got"]),
    "make_a_namespace_with_clone3": Wall(["ENOSYS"], "filter", ["EINVAL"]),
    "mount_something": Wall(["EPERM"], "privileges", ["got"]),
    "unmount_something": Wall(["EPERM"], "privileges", ["got"]),
    "change_the_root": Wall(["EPERM"], "privileges", ["got"]),
    "use_io_uring": Wall(["EPERM"], "filter", ["EFAULT", "ENOSYS", "EINVAL"]),
    "load_a_program_into_the_kernel": Wall(["EPERM"], "privileges", But("EPERM"), only_root=True),
    "use_the_keyring": Wall(["EPERM"], "filter", But("EPERM")),
    "count_events_of_the_processor": Wall(["EPERM"], "filter", But("EPERM")),
    "open_files_by_handle": Wall(["EPERM"], "privileges", But("EPERM"), only_root=True),
    "put_characters_into_a_terminal": Wall(["EPERM"], "filter", ["got", "EIO"]),
    "allow_more_processes": Wall(
        ["ValueError", "EPERM"], "privileges", ["got"], only_root=True, capability=SYS_RESOURCE
    ),
    "damage_the_environment": Wall(
        ["got"], unproven="in an overlay it only seems so, in a clone it would harm the environment of these tests"
    ),
    "open_the_channel_to_the_server_again": Wall(["ENXIO"], unproven=KERNEL),
    "run_a_program_from_memory": Wall([""], "isolation", ["TOPSECRET"]),
    "climb_by_a_descriptor": Wall([False], "isolation", [True]),
    "give_a_secret_another_name": Wall(["ENOENT"], "isolation", ["got"]),
    "open_the_memory_of_a_process": Wall(["ENOENT"], "isolation", ["got"]),
    "take_a_descriptor_of_a_process": Wall(["ESRCH"], "isolation", ["got"]),
    "read_the_memory_of_a_process": Wall(["EPERM"], "filter", But("EPERM")),
    "be_more_important_than_others": Wall(["EPERM", "EACCES"], "isolation", ["got"], only_root=True),
    "never_let_others_run": Wall(["EPERM"], "isolation", ["got"], only_root=True),
    "be_spared_when_memory_runs_out": Wall(["EACCES"], "isolation", ["got"], only_root=True, capability=SYS_RESOURCE),
    "watch_all_files": Wall(["EPERM"], "privileges", ["got"], only_root=True),
    "switch_off_random_addresses": Wall(["EPERM"], "filter", ["got"]),
    "handle_faults_of_memory": Wall(["EPERM"], "filter", ["got"]),
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
    "reach_the_root_of_a_process": ["EACCES"],
    "open_the_memory_of_a_process": ["EACCES"],
    "gain_by_a_setuid_program": ["refused", "got"],  # root stays root, without capabilities
    "climb_by_a_descriptor": [True],  # that it exists
    "give_a_secret_another_name": ["EXDEV"],
    "take_a_descriptor_of_a_process": ["EPERM"],
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
            chosen = [name for name, wall in WALLS.items() if wall.without == variant and provable(wall, user)]
            known[user, variant] = attempt(
                hosts(user), VARIANTS.get(variant, {"tier": variant}), chosen or [*WALLS, *ALLOWED]
            )
        return known[user, variant]

    return find


def provable(wall: Wall, user: str) -> bool:
    """Say whether a user could do without the wall what it holds back."""
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    has_capability = int(rows["CapEff"], 16) >> wall.capability & 1
    return not wall.only_root or (user == "own" and os.geteuid() == 0 and bool(has_capability))


def attempt(host: Host, variant: dict[str, Any], names: list[str]) -> Results:
    with ExitStack() as stack:
        targets = make_targets(host, stack) | {"attempts": names}
        code = f"TARGETS = {targets!r}\n" + ATTEMPTS.replace('TARGETS: dict = globals().get("TARGETS", {})', "")
        answer = host.run(code=code, workspace=str(host.place.workspace), **variant)
        assert answer["exit"]["code"] == 0, answer["err"]
        return json.loads(answer["out"])


def own_address() -> str:
    """Return an address of this machine that a network namespace of its own does not have."""
    entries = (entry for name, rows in psutil.net_if_addrs().items() if name != "lo" for entry in rows)
    return next((entry.address for entry in entries if entry.family == socket.AF_INET), "192.0.2.1")


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
    setuid = host.place.workspace / "id"
    if os.geteuid() == 0 and not setuid.exists():
        shutil.copy("/usr/bin/id", setuid)
        setuid.chmod(0o4755)
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
        "address": own_address(),
    }


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("tier", ["A", "A prepared", "A'"])
@pytest.mark.parametrize("name", WALLS)
def test_the_attempt_fails(results: Callable[[str, str], Results], name: str, tier: str, user: str):
    assert results(user, tier)[name] in WALLS[name].answers


@pytest.mark.skipif(landlock.version() < landlock.SCOPES, reason="this kernel's Landlock is too old")
@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("name", WALLS)
def test_the_attempt_fails_in_tier_c(results: Callable[[str, str], Results], name: str, user: str):
    assert results(user, "C")[name] in C_IS_DIFFERENT.get(name, WALLS[name].answers)


class OwnRoot:
    """What the root directory of a run may hold."""

    def __contains__(self, value: Any) -> bool:
        system = {"bin", "lib", "lib32", "lib64", "libx32", "sbin", "usr", "etc", "dev", "proc", "sys"}
        return isinstance(value, list) and set(value) <= system | {"home", "run", "tmp", "var", "working"}


NEEDS_A_NETWORK = ("list_network_interfaces", "send_a_datagram_to_the_internet")
"""What gets nowhere on a machine that is connected to nothing, whatever walls there are."""

B_IS_DIFFERENT: dict[str, Any] = {
    "reach_the_root_of_pid_1": OwnRoot(),  # bubblewrap's own process, which sees what the run sees
    "read_the_command_line_of_pid_1": ["got"],  # the same; its options are not in there
    "damage_the_environment": ["EACCES", "EPERM"],  # a clone
}
"""What comes of attempts in tier B where that is not the same as in tier A."""


@pytest.mark.skipif(not find_bubblewrap(), reason="bubblewrap is not installed")
@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("name", WALLS)
def test_the_attempt_fails_in_tier_b(results: Callable[[str, str], Results], name: str, user: str):
    assert results(user, "B")[name] in B_IS_DIFFERENT.get(name, WALLS[name].answers)


@needs_overlays
@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("name", WALLS)
def test_the_attempt_fails_in_tier_b_with_an_overlay(results: Callable[[str, str], Results], name: str, user: str):
    different = {**B_IS_DIFFERENT, "damage_the_environment": WALLS["damage_the_environment"].answers}
    assert results(user, "B overlay")[name] in different.get(name, WALLS[name].answers)


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("name", [name for name, wall in WALLS.items() if wall.without])
def test_the_attempt_gets_through_where_its_wall_is_missing(
    results: Callable[[str, str], Results], name: str, user: str
):
    wall = WALLS[name]
    if not provable(wall, user):
        pytest.skip("this user may not do it anywhere")
    if name in NEEDS_A_NETWORK and WALLS["list_network_interfaces"].then == [["lo"]]:
        pytest.skip("this machine has no network")
    assert results(user, wall.without)[name] in wall.then


def test_what_cannot_be_shown_to_fail_says_why():
    assert [name for name, wall in WALLS.items() if bool(wall.without) == bool(wall.unproven)] == []


@pytest.mark.parametrize("user", USERS)
def test_what_a_run_is_meant_to_do_works(results: Callable[[str, str], Results], user: str):
    assert results(user, "A")["talk_to_oneself_over_loopback"] == "got"


def test_nothing_above_the_working_directory_is_the_hosts(results: Callable[[str, str], Results]):
    assert results("own", "A")["go_up_through_the_working_directory"] in OwnRoot()


def test_every_attempt_has_an_expectation():
    assert set(re.findall(r"@attempt\ndef (\w+)", ATTEMPTS)) == {*WALLS, *ALLOWED}
