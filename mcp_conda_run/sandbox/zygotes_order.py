"""What the server tells a zygote's keeper, and the keeper its zygote: plain data, and how it travels.

All of it goes over sequenced-packet sockets: one JSON message a packet, with the descriptors that belong to it, so that
nothing is ever sent in part and nobody has to wait for room. Standard library only.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from .order import Bind, Bounds, Descriptors, Walls

MAX_MESSAGE_BYTES = 1 << 17
"""The kernel's usual bound of a packet is 200 KiB."""

RUN_DESCRIPTORS = 4

HIDDEN = "/var/tmp/.zygote"  # noqa: S108 - in the zygote's own root
"""Where the zygote has the environment and the mounts for its runs; each run's own `/var/tmp` covers it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ZygotePlan:
    """A zygote to start.

    Attributes:
        argv: the environment's Python, by its path, and its arguments.
        environ: all of its environment variables.
        walls: what a run of it has around itself.
        modules: what to import before any run.
        memory_bytes: how much memory it may use until it is ready.
    """

    argv: Sequence[str]
    environ: Mapping[str, str]
    walls: Walls
    modules: Sequence[str]
    memory_bytes: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """One run's process to fork.

    Attributes:
        id: the server's number of it.
        environ: all of its environment variables.
        cwd: its working directory.
        rlimits: for each `RLIMIT_` name without the prefix, the soft and the hard bound.
        bounds: what the keeper watches over.
        stage: the mount options of the tmpfs that takes what the run writes.
        processes: how many processes and threads it may have; 0 for any number.
        proxy_port: where in its network the server's proxy listens; 0 for no proxy.
        touch: whether it prepares its memory while it waits.
    """

    id: int
    environ: Mapping[str, str]
    cwd: str
    rlimits: Mapping[str, tuple[int, int]]
    bounds: Bounds
    stage: str
    processes: int
    proxy_port: int
    touch: bool


def pack(message: ZygotePlan | Fork) -> bytes:
    """Return a message as it travels."""
    return json.dumps(message, default=_fields).encode("ascii")


def _fields(message: object) -> dict[str, Any]:
    """Return a data class as its fields; unlike `dataclasses.asdict` without copying what is below them."""
    if not dataclasses.is_dataclass(message):
        raise TypeError(f"{type(message).__name__} does not travel")
    return {field.name: getattr(message, field.name) for field in dataclasses.fields(message)}


def unpack_plan(data: bytes) -> ZygotePlan:
    """Read a plan."""
    fields: dict[str, Any] = json.loads(data)
    binds = [Bind(**bind) for bind in fields["walls"].pop("binds")]
    fields["walls"] = Walls(binds=binds, **fields["walls"])
    return ZygotePlan(**fields)


def unpack_fork(data: bytes) -> Fork:
    """Read the order of a fork."""
    fields: dict[str, Any] = json.loads(data)
    fields["bounds"] = Bounds(**fields["bounds"])
    return Fork(**fields)


def send_fork(channel: socket.socket, fork: Fork, descriptors: Descriptors) -> None:
    """Send an order with its descriptors, which stay open here.

    Raises:
        OSError: nobody is there to take it, or there is no room for it now.
    """
    sent = [descriptors.control, descriptors.stdout, descriptors.stderr, descriptors.lifeline]
    socket.send_fds(channel, [pack(fork)], sent)


def receive(channel: socket.socket, most: int) -> tuple[bytes, list[int]]:
    """Return the next message and its descriptors; an empty one is the end of the channel.

    Raises:
        OSError: the channel is broken, or has nothing now.
    """
    data, descriptors, flags, _ = socket.recv_fds(channel, MAX_MESSAGE_BYTES, most)
    if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):  # no descriptors left here: what came is of no use
        for descriptor in descriptors:
            os.close(descriptor)
        descriptors = []
    return data, list(descriptors)
