"""From a process that a zygote has just forked to the main process of a run, behind all the walls of tier A.

Called by `zygote.py` in the forked process, which is pid 1 of a new pid namespace. It forks the main process as pid 2
and stays as its reaper, outside of the run's other namespaces: when it ends, the kernel kills all that is left. The
main process makes the run's mounts and network, and gives everything away before it asks for code. So each memory page
that building the walls writes to is copied once, and pid 1 copies hardly any. The order of the steps and their reasons
are those of `sandbox/confinement.py`; what differs is that the zygote's root serves as the run's, so that nothing has
to be entered: the sources of the mounts lie in a hidden directory, which is taken off.

Messages to the keeper: from pid 2 `started`, with descriptors of the stage and, if asked for, of the listening socket
for the proxy, or `!` and the reason if something fails; then from pid 1 the main process's wait status as a number.
"""

from __future__ import annotations

import os
import resource
import signal
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

syscalls: Any = None  # `zygote.py` puts the module in, which it loads by its path

CONTROL_FD = 3
STARTED = b"started"
FAILED = b"!"


def begin(config: dict[str, Any], order: dict[str, Any], descriptors: list[int]) -> None:
    """Build the walls; return in pid 2, behind them, with the run's descriptors in their places.

    Args:
        config: `prefix`, `hidden`, `places`, `targets`, `covered`, `inner_id`, and `filter` (in hexadecimal).
        order: `cwd`, `rlimits`, `stage`, `processes`, `proxy_port`.
        descriptors: control, stdout, stderr, reports.
    """
    syscalls.die_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        main = os.fork()
    except OSError as error:
        os.write(descriptors[3], FAILED + f"{error.strerror} (a new process)".encode())
        os._exit(1)
    if main:
        be_first(main, descriptors[3])
    reports = socket.socket(fileno=place(descriptors))
    try:
        outward = build(config, order)
        socket.send_fds(reports, [STARTED], outward)
        for descriptor in (reports.detach(), *outward):
            os.close(descriptor)
    except OSError as error:
        reports.send(FAILED + f"{error.strerror} ({error.filename or 'a new process'})".encode())
        os._exit(1)
    seal(config, order)


def place(descriptors: list[int]) -> int:
    """Put the run's descriptors where a guest expects them, close all others of the zygote; return that for reports."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    spare = max(map(int, os.listdir("/proc/self/fd"))) + 1
    sources = [nothing, descriptors[1], descriptors[2], descriptors[0], descriptors[3]]
    aside = [os.dup2(source, spare + number, inheritable=False) for number, source in enumerate(sources)]
    for number, source in enumerate(aside):
        os.dup2(source, number, inheritable=number <= CONTROL_FD)
    os.closerange(len(sources), spare + len(sources))
    return CONTROL_FD + 1


# --- pid 1 ------------------------------------------------------------------------------------------------------------


def be_first(main: int, reports: int) -> NoReturn:
    """Reap whatever ends, and end with the main process."""
    try:
        os.dup2(reports, 0)
        os.closerange(1, max(map(int, os.listdir("/proc/self/fd"))) + 1)
        syscalls.drop_capabilities()
        while True:
            pid, status = os.wait()
            if pid == main:
                os.write(0, b"%d" % status)
                break
    finally:
        os._exit(0)


# --- pid 2 ------------------------------------------------------------------------------------------------------------


def build(config: dict[str, Any], order: dict[str, Any]) -> list[int]:
    """Make namespaces and mounts; return descriptors of the stage and of the listening socket.

    Names are relative to the hidden directory, which some of the mounts may cover.
    """
    plain = syscalls.MS_NOSUID | syscalls.MS_NODEV
    spaces = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWCGROUP
    syscalls.unshare(spaces | syscalls.CLONE_NEWNET)
    os.chdir(config["hidden"])
    syscalls.mount("tmpfs", "stage", "tmpfs", plain, order["stage"])
    for name, mode, target in config["places"]:
        os.mkdir(f"stage/{name}")
        os.chmod(f"stage/{name}", mode)
        syscalls.mount(f"stage/{name}", target, flags=syscalls.MS_BIND)
    for name in ("upper", "work"):
        os.mkdir(f"stage/{name}")
    outward = [os.open("stage", os.O_PATH | os.O_CLOEXEC)]
    for number, target in enumerate(config["targets"]):
        os.makedirs(target, exist_ok=True)  # it may be below a place of the stage
        syscalls.bind(f"mounts/{number}", target)
    for covered in config["covered"]:
        syscalls.mount("tmpfs", covered, "tmpfs", plain, "mode=0755,size=64k")
    os.makedirs(config["prefix"], exist_ok=True)
    options = "lowerdir=env,upperdir=stage/upper,workdir=stage/work,userxattr,volatile"
    syscalls.mount("overlay", config["prefix"], "overlay", plain, options)
    for covered in config["covered"]:
        syscalls.set_mount_attributes(covered, syscalls.MOUNT_ATTR_RDONLY, recursive=False)
    syscalls.mount("proc", "/proc", "proc", plain | syscalls.MS_NOEXEC, "hidepid=2")
    options = "newinstance,ptmxmode=0666,mode=0620"
    syscalls.mount("devpts", "/dev/pts", "devpts", syscalls.MS_NOSUID | syscalls.MS_NOEXEC, options)
    syscalls.unmount(".")  # the sources; what was made of them stays
    os.chdir("/")
    syscalls.loopback_up()
    socket.sethostname("sandbox")
    if order["proxy_port"]:
        outward.append(listen(order["proxy_port"]))
    return outward


def listen(port: int) -> int:
    """Listen inside the run's network: a socket stays in the namespace in which it was made, whoever holds it."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    return listener.detach()


def seal(config: dict[str, Any], order: dict[str, Any]) -> None:
    """Leave this process with nothing that could open a wall."""
    try:
        os.setsid()
        for name, (soft, hard) in order["rlimits"].items():
            lower(getattr(resource, f"RLIMIT_{name}"), soft, hard)
        os.chdir(order["cwd"])
        syscalls.unshare_user(config["inner_id"], config["inner_id"])
        if order["processes"]:
            resource.setrlimit(resource.RLIMIT_NPROC, (order["processes"], order["processes"]))
        syscalls.drop_capabilities()
        syscalls.set_no_new_privileges()
        syscalls.install_seccomp(bytes.fromhex(config["filter"]))
    except OSError as error:
        os.write(2, f"The run's process could not be sealed: {error}\n".encode())
        os._exit(127)


def lower(number: int, soft: int, hard: int) -> None:
    """Set a resource limit, as far down as the hard limit that holds already."""
    hardest = resource.getrlimit(number)[1]
    if hardest != resource.RLIM_INFINITY:
        soft, hard = min(soft, hardest), min(hard, hardest)
    resource.setrlimit(number, (soft, hard))
