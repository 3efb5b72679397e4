"""The host's side of a run: give the guest its code, hear it out, and know when it is over.

Called by `runtime.py` for every run, with a process that a tier started. Follows guest/PROTOCOL.md. The guest is
hostile: nothing that it says or leaves unsaid, prints, or keeps open can block the event loop, grow without bound, or
keep `converse` from returning in time. Never decides what a run's end means; that is the caller's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import HostError
from ..models import Json, Limits
from .output import Collector
from .record import BadRecordError, GuestRecord, RecordLimits, parse_record
from .tier import Exit, Process

READY_S = 60.0
"""How long a new interpreter may take to say that it is ready; a cold disk takes seconds."""
KILL_S = 10.0
"""How long killed processes may take to be gone (one in the kernel cannot be killed at once)."""
DRAIN_S = 1.0
"""How long to read on after the end, should something that survived keep the pipes open."""
FLOOD_FACTOR = 64
"""A run that prints this many times what is kept is killed: it wastes the machine, and nobody reads it."""
HEADER_BYTES = 8
CHUNK_BYTES = 65536
INLINE_BYTES = 65536
"""Longer messages are parsed in a thread, so that the event loop goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestRequest:
    """What the guest is to run; the fields of guest/PROTOCOL.md.

    Attributes:
        code: the source text.
        filename: its name, as the run sees it.
        write: whether the guest writes `code` to `filename` first.
        args: `sys.argv[1:]`.
        globals: names put into the program's globals; JSON values.
        path0: `sys.path[0]`.
        mount_map: for each mount that the run sees elsewhere than at its target, where.
        limits: how much the guest may say of the program.
    """

    code: str
    filename: str
    write: bool = True
    args: Sequence[str] = ()
    globals: Mapping[str, Json] = field(default_factory=dict)
    path0: str = ""
    mount_map: Mapping[str, str] = field(default_factory=dict)
    limits: RecordLimits = field(default_factory=RecordLimits)

    def message(self) -> bytes:
        """Return the request as it goes over the channel."""
        fields = {
            "code": self.code,
            "filename": self.filename,
            "write": self.write,
            "args": list(self.args),
            "globals": dict(self.globals),
            "path0": self.path0,
            "mount_map": dict(self.mount_map),
            "limits": self.limits.to_json(),
        }
        body = json.dumps(fields).encode("ascii")
        return len(body).to_bytes(HEADER_BYTES, "big") + body


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """All that the host heard and saw of a run.

    Attributes:
        exit: how the main process ended; `limit` is `output` if it was killed for printing too much.
        timed_out: whether it was killed because its time was up.
        record: what the guest said of the program, or None.
        no_record: why there is no record; empty if there is one.
        output: standard output and standard error in the order in which they arrived.
        stdout, stderr: each alone. All three are bounded: of too long ones, head and tail are kept.
        dropped_bytes: how many bytes are missing from `output`.
        ready_s: from the call until the guest was ready for the code.
        run_s: from sending the code until the main process was gone.
    """

    exit: Exit
    timed_out: bool
    record: GuestRecord | None
    no_record: str
    output: str
    stdout: str
    stderr: str
    dropped_bytes: int
    ready_s: float
    run_s: float


async def converse(process: Process, request: GuestRequest, limits: Limits) -> Conversation:
    """Have a started process run the code, and return when its main process is gone.

    Processes that the code left behind are killed then. If this is cancelled, all of the run is killed at once.

    Args:
        process: what a tier started; its owner still has to end it.
        request: what to run.
        limits: `wall_s` counts from the sending of the code; of the output `output_bytes` are kept.

    Raises:
        HostError: the guest did not come up.
    """
    began = time.perf_counter()
    streams = Streams(process, limits.output_bytes)
    exit_task = asyncio.ensure_future(process.wait())
    try:
        streams.open()
        await _until_ready(process, exit_task, streams)
        sent = time.perf_counter()
        record_task = asyncio.ensure_future(_exchange(process.control, request))
        try:
            timed_out = await _until_over(process, exit_task, limits.wall_s)
            ended = time.perf_counter()
            process.kill()  # what the code left running
            waiting: set[asyncio.Future[Any]] = {record_task, streams.ended}
            await asyncio.wait(waiting, timeout=DRAIN_S)
            record, no_record = _outcome(record_task)
        finally:
            await _cancelled(record_task)
        output = streams.collector.finish()
        return Conversation(
            exit=_exit(exit_task, flooded=streams.flooded),
            timed_out=timed_out and not streams.flooded,
            record=record,
            no_record=no_record,
            output=output.both,
            stdout=output.stdout,
            stderr=output.stderr,
            dropped_bytes=output.dropped_bytes,
            ready_s=sent - began,
            run_s=ended - sent,
        )
    except BaseException:
        process.kill()
        raise
    finally:
        streams.close()
        await _cancelled(exit_task)


# --- the phases -------------------------------------------------------------------------------------------------------


async def _until_ready(process: Process, exit_task: asyncio.Future[Exit], streams: Streams) -> None:
    """Wait for the guest's first message.

    Raises:
        HostError: it ended before, said something else, or took too long.
    """
    ready = asyncio.ensure_future(_receive(process.control, 1024))
    try:
        waiting: set[asyncio.Future[Any]] = {ready, exit_task}
        done, _ = await asyncio.wait(waiting, timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
        if done and not _is_ready(ready):  # the one without the other: what is missing comes at once, or never
            await asyncio.wait(waiting, timeout=DRAIN_S)
        if _is_ready(ready):
            return
    finally:
        await _cancelled(ready)
    reason = "as it should"
    if not done:
        reason = f"in {READY_S:g} s"
    elif exit_task.done():
        reason = f"({_ending(exit_task.result())})"
    process.kill()
    ending: set[asyncio.Future[Any]] = {exit_task, streams.ended}
    await asyncio.wait(ending, timeout=DRAIN_S)
    raise HostError(
        f"The environment's Python did not start {reason}.",
        hint="If this stays, remove the environment with `mcp-conda-run clean --all` and warm up again.",
        details=streams.collector.finish().both[-2000:],
        code="guest-not-started",
    )


def _is_ready(ready: asyncio.Future[bytes]) -> bool:
    return ready.done() and ready.exception() is None and ready.result() == b'{"ready": true}'


def _ending(exit_: Exit) -> str:
    return f"limit {exit_.limit}" if exit_.limit else exit_.signal or f"exit code {exit_.code}"


async def _exchange(control: socket.socket, request: GuestRequest) -> GuestRecord:
    """Send the request and return the record that comes back.

    Raises:
        BadRecordError: no record came, or something that is none; then nobody listens any more.
    """
    try:
        await asyncio.get_running_loop().sock_sendall(control, request.message())
        body = await _receive(control, request.limits.record_bytes())
        if len(body) > INLINE_BYTES:
            return await asyncio.to_thread(parse_record, body, request.limits)
        return parse_record(body, request.limits)
    except OSError as error:
        raise BadRecordError(f"the channel broke: {error.strerror}") from None
    except BadRecordError:
        with contextlib.suppress(OSError):
            control.shutdown(socket.SHUT_RDWR)  # a guest that still sends must not wait for a reader
        raise


async def _receive(control: socket.socket, limit: int) -> bytes:
    """Return the body of the next message.

    Raises:
        BadRecordError: the stream ended, or the message claims to be longer than it may be.
    """
    size = int.from_bytes(await _exactly(control, HEADER_BYTES), "big")
    if size > limit:
        raise BadRecordError(f"a message of {size} bytes; {limit} are allowed")
    return await _exactly(control, size)


async def _exactly(control: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = bytearray()
    while len(data) < size:
        part = await loop.sock_recv(control, min(size - len(data), CHUNK_BYTES))
        if not part:
            raise BadRecordError("the guest sent no complete message")
        data += part
    return bytes(data)


async def _until_over(process: Process, exit_task: asyncio.Future[Exit], wall_s: float) -> bool:
    """Wait until the main process is gone, or kill the run when its time is up; return whether that was so."""
    done, _ = await asyncio.wait({exit_task}, timeout=wall_s or None)
    if done:
        return False
    process.kill()
    await asyncio.wait({exit_task}, timeout=KILL_S)
    return True


def _outcome(record_task: asyncio.Future[GuestRecord]) -> tuple[GuestRecord | None, str]:
    if not record_task.done():
        return None, "the guest sent no complete message"
    try:
        return record_task.result(), ""
    except BadRecordError as error:
        return None, str(error)


def _exit(exit_task: asyncio.Future[Exit], *, flooded: bool) -> Exit:
    """Return how the process ended; one that even SIGKILL has not ended yet counts as killed."""
    exit_ = exit_task.result() if exit_task.done() else Exit(None, "SIGKILL")
    return replace(exit_, limit="output") if flooded else exit_


async def _cancelled(task: asyncio.Future[Any]) -> None:
    """Cancel what is not needed any more, and wait until it is over."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # looked at, so that asyncio does not complain


# --- the output -------------------------------------------------------------------------------------------------------


class Streams:
    """Reads both output streams of a process as data arrives, and kills it if that is too much.

    Attributes:
        collector: what was read.
        ended: done when both streams have ended.
        flooded: whether the process was killed for its output.
    """

    def __init__(self, process: Process, kept_bytes: int) -> None:
        self.collector = Collector(kept_bytes)
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.flooded = False
        self._kill: Callable[[], None] = process.kill
        self._bound = kept_bytes * FLOOD_FACTOR
        self._control = process.control
        self._waiting = {process.stdout: "stdout", process.stderr: "stderr"}
        self._loop = asyncio.get_running_loop()

    def open(self) -> None:
        """Begin to read."""
        self._control.setblocking(False)
        for descriptor in self._waiting:
            os.set_blocking(descriptor, False)
            self._loop.add_reader(descriptor, self._read, descriptor)

    def close(self) -> None:
        """Read no more."""
        for descriptor in list(self._waiting):
            self._loop.remove_reader(descriptor)
        self._waiting.clear()
        self.ended.cancel()

    def _read(self, descriptor: int) -> None:
        try:
            data = os.read(descriptor, CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:  # as good as the end
            data = b""
        if not data:
            self._loop.remove_reader(descriptor)
            del self._waiting[descriptor]
            if not self._waiting and not self.ended.done():
                self.ended.set_result(None)
            return
        self.collector.add(self._waiting[descriptor], data)
        if self._bound and self.collector.received_bytes > self._bound and not self.flooded:
            self.flooded = True
            self._kill()
