"""What the server tells the spawner to start: plain data, and how it travels.

An order goes over a stream socket as 8 bytes of length, JSON, and the run's descriptors with the first byte. Standard
library only, as everything that the spawner's process imports.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any

HEADER = struct.Struct(">Q")
MAX_ORDER_BYTES = 16 * 1024 * 1024

CONTROL_FD = 3
"""The number of the control socket in the guest: its `argv[1]`."""

GUEST_DIRECTORY = "/run/guest"
SCRATCH = "/run/main"
HOME = "/home/user"
INNER_ID = 1000
"""What a run in namespaces sees: where our modules and its own code are, its home, and its user and group ids."""

SANDBOX_ID = 64998
"""The user and group that runs of a root server have outside; from the range that no distribution gives to anybody."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the keeper watches over. 0 means no bound of that kind.

    Attributes:
        memory_bytes: of all processes together, shared memory included.
        processes: processes and threads together.
        cpu_s: CPU time of all processes together.
        disk_bytes: what the run wrote below `disk_places`.
        disk_places: directories.
        by_kernel: whether memory and processes are bounded by a control group where that can be had; only left out to
            see what the watchdog holds.
    """

    memory_bytes: int = 0
    processes: int = 0
    cpu_s: float = 0
    disk_bytes: int = 0
    disk_places: Sequence[str] = ()
    by_kernel: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class Bind:
    """A directory of the host (`source`) that the run sees at `target`."""

    source: str
    target: str
    read_only: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Walls:
    """The sandbox of tier A around a process.

    Attributes:
        root, stage: two empty directories of the host, mount points in the run's own mount namespace.
        prefix: the environment, over which the ephemeral prefix appears.
        guest: the directory of the guest's modules, which the run sees at `GUEST_DIRECTORY`.
        binds: the directories of the host that the run may see.
        covered: directories, as the run sees them, that hide what lies there.
        upper: a directory on disk for what the run writes; empty for a tmpfs.
        disk_bytes: the size of that tmpfs.
        processes: how many processes and threads the run may have; 0 for any number.
        own_network: whether the run gets an empty network of its own.
        proxy_port: where in that network the server's proxy listens; 0 for no proxy.
        pasta: the program that connects that network to the internet; empty for none.
        prohibited: networks that cannot be reached from it.
        filter_calls: whether system calls are filtered; only left out to see what the other walls hold.
        has_skeleton: whether `root` holds the skeleton already; the spawner's to say.
        drop_identity: whether a keeper that is root may run the process as `SANDBOX_ID`.
    """

    root: str
    stage: str
    prefix: str
    guest: str
    binds: Sequence[Bind]
    covered: Sequence[str] = ()
    upper: str = ""
    disk_bytes: int = 0
    processes: int = 0
    own_network: bool = True
    proxy_port: int = 0
    pasta: str = ""
    prohibited: Sequence[str] = ()
    filter_calls: bool = True
    has_skeleton: bool = False
    drop_identity: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """The confinement of tier C around a process.

    Attributes:
        read_only, writable, devices: paths of the host that it may use.
        ports: TCP ports that it may connect to.
        network: whether it may make internet sockets at all.
    """

    read_only: Sequence[str]
    writable: Sequence[str]
    devices: Sequence[str]
    ports: Sequence[int] = ()
    network: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bubble:
    """The sandbox of tier B around a process.

    Attributes:
        program: the path of bubblewrap.
        options: its options, without the program to run.
        python: a Python to run our first process with, as it is seen inside.
        proxy_port: where the server's proxy listens; 0 for no proxy.
        processes: how many processes and threads there may be, with bubblewrap's and ours; 0 for any number.
        filter_calls: whether system calls are filtered; only left out to see what the other walls hold.
        freeze_metadata: whether modes, owners and times of files cannot be changed: those of a clone are shared with
            the environment.
    """

    program: str
    options: Sequence[str]
    python: str
    proxy_port: int = 0
    processes: int = 0
    filter_calls: bool = True
    freeze_metadata: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One process to start.

    Attributes:
        argv: the program, by its path, and its arguments.
        environ: all of its environment variables.
        cwd: its working directory.
        rlimits: for each `RLIMIT_` name without the prefix, the soft and the hard bound.
        bounds: what the keeper watches over.
        walls: the namespaces around it, or None.
        fence: what it is locked into without namespaces, or None.
        bubble: the walls that bubblewrap makes around it, or None.
    """

    argv: Sequence[str]
    environ: Mapping[str, str]
    cwd: str
    rlimits: Mapping[str, tuple[int, int]]
    bounds: Bounds
    walls: Walls | None = None
    fence: Fence | None = None
    bubble: Bubble | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Descriptors:
    """The descriptors that travel with an order; the process's ends of the run's channels.

    Attributes:
        control: becomes the guest's control socket.
        stdout, stderr: become its standard output and standard error.
        lifeline: stays with the keeper: it reports here, and its end of file is the order to kill.
    """

    control: int
    stdout: int
    stderr: int
    lifeline: int

    def close(self) -> None:
        """Close all of them."""
        for descriptor in (self.control, self.stdout, self.stderr, self.lifeline):
            os.close(descriptor)


def send_order(channel: socket.socket, order: Order, descriptors: Descriptors) -> None:
    """Send an order with its descriptors.

    Raises:
        OSError: nobody is there to take it.
    """
    payload = json.dumps(dataclasses.asdict(order)).encode("ascii")
    message = HEADER.pack(len(payload)) + payload
    sent = socket.send_fds(channel, [message], list(dataclasses.astuple(descriptors)))
    if sent < len(message):  # sending nothing fails too where the receiver has all it wants and is gone
        channel.sendall(message[sent:])


def receive_order(channel: socket.socket) -> tuple[Order, Descriptors] | None:
    """Wait for the next order; None when the server is gone."""
    data, descriptors, _, _ = socket.recv_fds(channel, HEADER.size, 4)
    if not data:
        return None
    header = data + _receive(channel, HEADER.size - len(data))
    (length,) = HEADER.unpack(header)
    fields: dict[str, Any] = json.loads(_receive(channel, length))
    fields["bounds"] = Bounds(**fields["bounds"])
    if fields["walls"] is not None:
        binds = [Bind(**bind) for bind in fields["walls"].pop("binds")]
        fields["walls"] = Walls(binds=binds, **fields["walls"])
    if fields["fence"] is not None:
        fields["fence"] = Fence(**fields["fence"])
    if fields["bubble"] is not None:
        fields["bubble"] = Bubble(**fields["bubble"])
    return Order(**fields), Descriptors(*descriptors)


def rehearse(order: Order) -> None:
    """Do once what sending and receiving an order takes: a forked process gets its own copy of that memory by it."""
    ours, theirs = socket.socketpair()
    with ours, theirs, open(os.devnull, "rb") as nothing:
        send_order(ours, order, Descriptors(*[nothing.fileno()] * 4))
        received = receive_order(theirs)
        if received is not None:
            received[1].close()


def _receive(channel: socket.socket, length: int) -> bytes:
    parts = []
    while length:
        part = channel.recv(min(length, 1 << 20))
        if not part:
            raise EOFError("the server is gone")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
