"""How a run's process comes to be inside its walls (tier A): the order of the steps, and why it is this one.

Called by the keeper, in the keeper's process. The keeper makes a process that is pid 1 of a new pid namespace
(`First`). That one makes the network and the mounts, forks the main process as pid 2, and stays as its reaper: when it
ends, the kernel kills all that is left in the namespace. The main process gives everything away before it executes the
environment's Python: from the first instruction of that on, the code is a stranger's.
"""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn

from ..guest import routes, seccomp, syscalls
from .identity import Owner
from .mainprocess import Main, fork_main
from .order import GUEST_DIRECTORY, INNER_ID, Descriptors, Order, Walls, send_order
from .pasta import NAMESERVER
from .rootfs import (
    build_skeleton,
    copy_sources,
    enter,
    lock_covers,
    lock_proc,
    mount_binds,
    mount_prefix,
    mount_stage,
    show,
)
from .workshop import Workshop

NAMESPACES = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWCGROUP
PROC_FLAGS = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
SECCOMP = seccomp.filter_program()
READY = b"ready\n"
STARTED = b"started\n"
MESSAGE_BYTES = 4096


Take = Callable[[socket.socket], tuple[Order, Descriptors] | None]


class First:
    """Pid 1 of a run's pid namespace, as its keeper sees it; in namespaces of its own, it waits for its order.

    Args:
        walls: of the order, or of one that needs the same namespaces.
        workshop: what is there already.
        take: how it gets its order, in its own process, from its socket to the keeper.

    Raises:
        OSError: the kernel refuses.
    """

    def __init__(self, walls: Walls, workshop: Workshop, take: Take) -> None:
        self._workshop = workshop
        if workshop.identities.learn(walls).identity is None and not workshop.in_user_namespace:
            # Capabilities over all that is made from here on, and over nothing that is there; ids stay what they are.
            syscalls.unshare_user(os.geteuid(), os.getegid())
        syscalls.unshare(syscalls.CLONE_NEWPID)
        self.channel, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            self.channel.close()
            _be_first(walls, workshop, theirs, take)
        theirs.close()
        self._hear(READY)

    def take(self, order: Order, descriptors: Descriptors) -> Main:
        """Send it the order that it waits for; return the main process as soon as it executes.

        Raises:
            OSError: the kernel refuses one of the steps, or the program cannot be executed.
        """
        assert order.walls is not None  # noqa: S101 - else nobody would be waiting for it
        send_order(self.channel, order, descriptors)
        return self.main(order.walls)

    def main(self, walls: Walls) -> Main:
        """Return the main process as soon as it executes; `walls` are the order's.

        Raises:
            OSError: the kernel refuses one of the steps, or the program cannot be executed.
        """
        stage, *others = self._hear(STARTED)
        in_memory = not walls.upper  # on disk, the file system is everybody's
        return Main(
            pid=self.pid,
            reports=self.channel,
            stage=stage if in_memory else None,
            identity_dropped=self._workshop.identities.learn(walls).identity is not None,
            listener=() if walls.pasta else tuple(others),
            holder=tuple(others) if walls.pasta else (),
        )

    def _hear(self, expected: bytes) -> list[int]:
        message, received, _, _ = socket.recv_fds(self.channel, len(expected), 3)
        if message == expected:
            return received
        message += self.channel.recv(MESSAGE_BYTES)
        os.waitpid(self.pid, 0)
        number, _, what = message.decode(errors="replace").strip().partition(" ")
        raise OSError(int(number or 0), os.strerror(int(number or 0)), what or "the sandbox")


def start_confined(order: Order, walls: Walls, descriptors: Descriptors, workshop: Workshop) -> Main:
    """Start the main process inside its walls.

    Args:
        order: what to start.
        walls: the order's.
        descriptors: what came with it.
        workshop: what is there already.

    Raises:
        OSError: the kernel refuses one of the steps, or the program cannot be executed.
    """
    return First(walls, workshop, lambda _: (order, descriptors)).main(walls)


# --- pid 1
# ------------------------------------------------------------------------------------------------------------


def _be_first(walls: Walls, workshop: Workshop, keeper: socket.socket, take: Take) -> NoReturn:
    """Build the walls, start the main process, reap whatever ends, and end with it."""
    try:
        syscalls.die_with_parent()
        syscalls.unshare(NAMESPACES)
        holder = _own_network(walls) if walls.own_network else []
        keeper.sendall(READY)
        taken = take(keeper)
        if taken is None or taken[0].walls is None:
            os._exit(0)
        order, descriptors = taken
        walls = taken[0].walls
        os.close(descriptors.lifeline)
        owner = workshop.identities.learn(walls)
        outward = _build(walls, owner, holder)
        main = fork_main(order, descriptors, lambda: _give_everything_away(walls, owner))
        socket.send_fds(keeper, [STARTED], outward)
        for descriptor in (*outward, descriptors.control, descriptors.stdout, descriptors.stderr):
            os.close(descriptor)
        syscalls.drop_capabilities()
        _reap_until(main, keeper)
    except OSError as error:
        with suppress(OSError):
            keeper.sendall(f"{error.errno or 0} {error.filename or ''}\n".encode(errors="replace"))
    finally:
        os._exit(1)


def _build(walls: Walls, owner: Owner, holder: Sequence[int]) -> list[int]:
    """Make the mounts and enter them.

    Args:
        walls: the run's.
        owner: whose files the run's are.
        holder: descriptors of who holds the network for pasta.

    Returns:
        descriptors for the keeper: of the stage, by which its use can be seen, and either of the proxy's listening
        socket, or of who holds the network for pasta.
    """
    syscalls.mount("", "/", flags=syscalls.MS_REC | syscalls.MS_SLAVE)  # nothing of ours shows up in the host
    with suppress(OSError):
        syscalls.write("/proc/self/oom_score_adj", "1000")  # if the host's memory runs out, runs go first
    copies = copy_sources(walls, owner)
    if not walls.has_skeleton:
        build_skeleton(walls.root)
    mount_stage(walls, owner)
    stage = os.open(walls.stage, os.O_PATH | os.O_CLOEXEC)
    mount_binds(walls, copies)
    mount_prefix(walls, copies[walls.prefix])
    lock_covers(walls)
    show(walls.guest, walls.root + GUEST_DIRECTORY)
    # Processes of other owners are hidden: pid 1 has the server's command line.
    syscalls.mount("proc", f"{walls.root}/proc", "proc", PROC_FLAGS, "hidepid=2")
    if owner.identity is None and os.geteuid() == 0:
        lock_proc(f"{walls.root}/proc")
    outward = [stage, *holder]
    if walls.proxy_port:
        outward.append(_listen(walls.proxy_port))
    socket.sethostname("sandbox")
    enter(walls.root)
    return outward


def _own_network(walls: Walls) -> list[int]:
    """Enter a network of its own, with a loopback interface.

    Returns:
        where pasta is to come, descriptors of the process that holds the network for it, and of a socket to that.
    """
    if not walls.pasta:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        syscalls.loopback_up()
        return []
    # Over a network of this user namespace, pasta would need this one's capabilities.
    ours, theirs = socket.socketpair()
    holder = os.fork()
    if holder == 0:
        ours.close()
        _hold_network(theirs, walls.prohibited)
    theirs.close()
    _, received, _, _ = socket.recv_fds(ours, 1, 1)
    if not received:
        raise PermissionError(1, os.strerror(1), "a network of a user namespace")
    syscalls.setns(received[0], syscalls.CLONE_NEWNET)
    os.close(received[0])
    syscalls.loopback_up()
    return [os.pidfd_open(holder), ours.detach()]


def _hold_network(others: socket.socket, prohibited: Sequence[str]) -> NoReturn:
    """Make a network in a user namespace and keep both; when pasta has come, keep everybody from prohibited places."""
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNET)
        # By a descriptor: the numbers in /proc are not those of this process's namespace.
        network = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        socket.send_fds(others, [b"1"], [network])
        if others.recv(1):  # not before: the way to a private gateway could not be made any more
            routes.prohibit(prohibited, allowed=[f"{NAMESERVER}/32"])
            others.send(b"1")
    finally:
        os._exit(0)


def _listen(port: int) -> int:
    """Listen inside the run's network: a socket stays in the namespace in which it was made, whoever holds it."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    return listener.detach()


def _reap_until(main: int, keeper: socket.socket) -> None:
    while True:
        pid, status = os.wait()
        if pid == main:
            keeper.sendall(f"{status}\n".encode())
            return


# --- pid 2
# ------------------------------------------------------------------------------------------------------------


def _give_everything_away(walls: Walls, owner: Owner) -> None:
    """Leave the main process with nothing that could open a wall."""
    if owner.identity is not None:
        os.setgroups([])
        os.setresgid(owner.identity, owner.identity, owner.identity)
        os.setresuid(owner.identity, owner.identity, owner.identity)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)  # else /proc/self is root's, and the maps cannot be written
    # Last of the namespaces: the mounts, the network and the pids now belong to its parent, where this process has no
    # capabilities; and its count of processes begins at zero, for itself alone.
    syscalls.unshare_user(INNER_ID, INNER_ID)
    if walls.processes:
        resource.setrlimit(resource.RLIMIT_NPROC, (walls.processes, walls.processes))
    syscalls.drop_capabilities()
    syscalls.set_no_new_privileges()
    if walls.filter_calls:
        syscalls.install_seccomp(SECCOMP)
