"""How a zygote comes to be inside its walls, before it imports anything.

Called by the zygote's keeper. What a zygote imports is third-party code, and it lives long: it has a root of its own
with nothing of the host, no network, no other processes, and if the server is root, another identity. It needs
capabilities, to make the namespaces of its runs; it has them over its own namespaces only.

A small process stands between keeper and zygote: who makes a pid namespace is not in it, and the keeper stays outside
of all that is made here.
"""

from __future__ import annotations

import codecs
import json
import os
import socket
from contextlib import suppress
from typing import NoReturn

from ..guest import seccomp, syscalls
from .confinement import NAMESPACES, PROC_FLAGS
from .identity import Identities, Owner
from .mainprocess import fork_main
from .order import GUEST_DIRECTORY, HOME, Bounds, Descriptors, Order, Walls
from .rootfs import LOCKED, READ_ONLY, build_skeleton, enter
from .workshop import PLACE
from .zygotes_order import HIDDEN, ZygotePlan

PLAIN = syscalls.MS_NOSUID | syscalls.MS_NODEV
SCRATCH_PLACES = ("/tmp", HOME)  # noqa: S108 - the zygote's own
SCRATCH_OPTIONS = "mode=0755,size=64m"
NO_CORE = {"CORE": (1, 1)}  # why one: `surroundings.py`
NEEDED_CAPABILITIES = (
    syscalls.CAP_SYS_ADMIN,  # namespaces and mounts
    syscalls.CAP_NET_ADMIN,  # the loopback interface
    *(syscalls.CAP_CHOWN, syscalls.CAP_DAC_OVERRIDE, syscalls.CAP_FOWNER, syscalls.CAP_FSETID),  # what an overlay does
)
NEEDED_CALLS = ("unshare", "setns", "mount", "umount2", "mount_setattr")
"""System calls that runs may not make and their zygote must."""


def start_zygote(plan: ZygotePlan, output: int) -> tuple[int, socket.socket, bool]:
    """Start a zygote.

    Args:
        plan: what to start.
        output: a descriptor for what it prints.

    Returns:
        the process that stands above it, the channel to it, and whether it has another identity than the keeper.

    Raises:
        OSError: this process is root and the kernel cannot give the zygote another identity.
    """
    for encoding in ("ascii", "latin-1", "utf-8"):
        codecs.lookup(encoding)  # loads it: as somebody else this process may not be able to
    owner = Identities().learn(plan.walls)
    if os.geteuid() == 0 and owner.identity is None:
        raise PermissionError(1, "the zygote would be root", "identity")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    above = os.fork()
    if above == 0:
        ours.close()
        _be_above(plan, owner, Descriptors(theirs.fileno(), output, output, -1), theirs)
    theirs.close()
    return above, ours, owner.identity is not None


def _be_above(plan: ZygotePlan, owner: Owner, descriptors: Descriptors, channel: socket.socket) -> NoReturn:
    """Build the walls, start the zygote, and end with it."""
    try:
        with suppress(OSError):
            syscalls.write("/proc/self/oom_score_adj", "1000")  # for the zygote and all its runs
        copies = _copies(plan.walls, owner) if owner.identity is not None else None
        _leave_the_host(owner)
        if copies is None:
            copies = _copies(plan.walls, owner)
        _build(plan.walls, copies)
        order = Order(argv=plan.argv, environ=plan.environ, cwd="/", rlimits=NO_CORE, bounds=Bounds())
        zygote = fork_main(order, descriptors, _enter)
    except OSError as error:
        _say_why(channel, f"{error.strerror} ({error.filename or 'a new process'})")
        os._exit(1)
    except BaseException as error:  # noqa: BLE001 - this process must never go on as its parent
        _say_why(channel, f"{type(error).__name__}: {error}")
        os._exit(1)
    os.closerange(0, channel.fileno() + 64)
    os.waitpid(zygote, 0)
    os._exit(0)


def _say_why(channel: socket.socket, reason: str) -> None:
    with suppress(OSError):
        channel.send(json.dumps({"failed": reason}).encode("ascii"))


def _copies(walls: Walls, owner: Owner) -> dict[str, int]:
    """Return descriptors of the mounts that come from the host, by their places below the hidden directory."""
    copies = {"env": owner.copy_of_mounts(walls.prefix, READ_ONLY)}
    for number, bind in enumerate(walls.binds):
        attributes = READ_ONLY if bind.read_only else LOCKED
        copies[f"mounts/{number}"] = owner.copy_of_mounts(bind.source, attributes)
    copies[GUEST_DIRECTORY] = owner.copy_of_mounts(walls.guest, READ_ONLY)
    return copies


def _leave_the_host(owner: Owner) -> None:
    """Enter namespaces of one's own, as somebody else if that can be."""
    uid, gid = os.geteuid(), os.getegid()
    if owner.identity is not None:
        uid = gid = owner.identity
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)  # else /proc/self is root's, and the maps cannot be written
    syscalls.die_with_parent()  # changing the identity would undo it
    syscalls.unshare_user(uid, gid, NAMESPACES | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNET)
    syscalls.mount("", "/", flags=syscalls.MS_REC | syscalls.MS_SLAVE)


def _build(walls: Walls, copies: dict[str, int]) -> None:
    """Make the zygote's root; each run of it has a copy."""
    build_skeleton(PLACE)
    for place in SCRATCH_PLACES:
        syscalls.mount("tmpfs", PLACE + place, "tmpfs", PLAIN, SCRATCH_OPTIONS)
    hidden = PLACE + HIDDEN
    os.makedirs(hidden)
    syscalls.mount("tmpfs", hidden, "tmpfs", PLAIN, "mode=0755,size=256k")
    os.mkdir(f"{hidden}/stage")
    for name, copy in copies.items():
        target = PLACE + name if name == GUEST_DIRECTORY else f"{hidden}/{name}"
        os.makedirs(target, exist_ok=True)
        syscalls.attach_mounts(copy, target)
    for covered in walls.covered:
        _cover(covered, walls, hidden)
    for bind in walls.binds:
        os.makedirs(PLACE + bind.target, exist_ok=True)
    os.makedirs(PLACE + walls.prefix, exist_ok=True)
    syscalls.bind(f"{hidden}/env", PLACE + walls.prefix)


def _cover(covered: str, walls: Walls, hidden: str) -> None:
    """Hide from the zygote what its runs must not see of the mounts."""
    for number, bind in enumerate(walls.binds):
        if covered == bind.target or covered.startswith(f"{bind.target}/"):
            place = f"{hidden}/mounts/{number}{covered.removeprefix(bind.target)}"
            syscalls.mount("tmpfs", place, "tmpfs", PLAIN, "mode=0755,size=64k")


def _enter() -> None:
    """Go in, as pid 1 of the new pid namespace, and give away what a zygote does not need."""
    syscalls.die_with_parent()
    syscalls.mount("proc", f"{PLACE}/proc", "proc", PROC_FLAGS)
    enter(PLACE)
    socket.sethostname("sandbox")
    syscalls.keep_capabilities(NEEDED_CAPABILITIES)
    syscalls.set_no_new_privileges()
    syscalls.install_seccomp(seccomp.filter_program(allowed=NEEDED_CALLS))
