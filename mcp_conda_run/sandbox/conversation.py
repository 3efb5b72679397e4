"""The host's side of a run: give the guest its code, hear it out, and know when it is over.

Called by `runtime.py` for every run, with a process that a tier started. Follows guest/PROTOCOL.md. The guest is
hostile: nothing that it says or leaves unsaid, prints, or keeps open can block the event loop, grow without bound, or
keep `converse` from returning in time. Never decides what a run's end means; that is the caller's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import HostError
from ..models import Json, Limits
from .record import BadRecordError, GuestRecord, RecordLimits, parse_over, parse_record
from .streams import Streams
from .tier import Exit, Process

READY_S = 60.0
"""How long a new interpreter may take to say that it is ready; a cold disk takes seconds."""
KILL_S = 10.0
"""How long killed processes may take to be gone (one in the kernel cannot be killed at once)."""
DRAIN_S = 1.0
"""How long to read on after the end, should something that survived keep the pipes open."""
HEADER_BYTES = 8
READY = b'{"ready": true}'
READY_BYTES = OVER_BYTES = 1024
"""How long these messages may be."""
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
        exit: how the main process ended, or says that it does; `limit` is `output` if it was killed for printing too
            much.
        timed_out: whether it was killed because its time was up.
        record: what the guest said of the program, or None.
        no_record: why there is no record; empty if there is one.
        output: standard output and standard error in the order in which they arrived.
        stdout, stderr: each alone. All three are bounded: of too long ones, head and tail are kept.
        dropped_bytes: how many bytes are missing from `output`.
        ready_s: from the call until the guest was ready for the code.
        run_s: from sending the code until the program was over.
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
    """Have a started process run the code, and return when the program is over.

    That is when the main process is gone, or when it has said that all is done: then it and what the code left running
    are killed, and their owner waits for their end. If this is cancelled, all of the run is killed at once.

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
        dialogue = Dialogue(process.control, request)
        await _until_ready(process, exit_task, streams, dialogue)
        sent = time.perf_counter()
        exchange = asyncio.ensure_future(dialogue.exchange())
        try:
            timed_out = await _until_over(process, exit_task, exchange, dialogue, limits.wall_s)
            ended = time.perf_counter()
            exit_ = _exit(exit_task, dialogue)
            process.kill()  # what the code left running
            if dialogue.over is not None:
                await streams.drain()
            else:
                waiting: set[asyncio.Future[Any]] = {exchange, streams.ended}
                await asyncio.wait(waiting, timeout=DRAIN_S)
        finally:
            await _cancelled(exchange)
        output = streams.collector.finish()
        return Conversation(
            exit=replace(exit_, limit="output") if streams.flooded else exit_,
            timed_out=timed_out and not streams.flooded,
            record=dialogue.record,
            no_record="" if dialogue.record is not None else dialogue.trouble,
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


async def _until_ready(process: Process, exit_task: asyncio.Future[Exit], streams: Streams, dialogue: Dialogue) -> None:
    """Wait for the guest's first message.

    Raises:
        HostError: it ended before, said something else, or took too long.
    """
    if dialogue.is_ready_already():
        return
    ready = asyncio.ensure_future(dialogue.receive(READY_BYTES))
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
    return ready.done() and ready.exception() is None and ready.result() == READY


def _ending(exit_: Exit) -> str:
    return f"limit {exit_.limit}" if exit_.limit else exit_.signal or f"exit code {exit_.code}"


async def _until_over(
    process: Process, exit_task: asyncio.Future[Exit], exchange: asyncio.Future[None], dialogue: Dialogue, wall_s: float
) -> bool:
    """Wait until the program is over, or kill the run when its time is up; return whether that was so."""
    either: set[asyncio.Future[Any]] = {exit_task, exchange}
    try:
        async with asyncio.timeout(wall_s or None):
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if dialogue.over is None:
                await asyncio.wait({exit_task})
    except TimeoutError:
        process.kill()
        await asyncio.wait({exit_task}, timeout=KILL_S)
        return True
    return False


def _exit(exit_task: asyncio.Future[Exit], dialogue: Dialogue) -> Exit:
    """Return how the process ended; one that even SIGKILL has not ended yet counts as killed."""
    if exit_task.done():
        return exit_task.result()
    return Exit(dialogue.over) if dialogue.over is not None else Exit(None, "SIGKILL")


async def _cancelled(task: asyncio.Future[Any]) -> None:
    """Cancel what is not needed any more, and wait until it is over."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # looked at, so that asyncio does not complain


# --- the channel ------------------------------------------------------------------------------------------------------


class Dialogue:
    """The messages of one run.

    Args:
        control: the host's end of the channel.
        request: what to run.

    Attributes:
        record: what the guest said of the program, or None.
        trouble: why there is no record.
        over: the exit code with which the guest said that the program is over, or None.
    """

    def __init__(self, control: socket.socket, request: GuestRequest) -> None:
        self.record: GuestRecord | None = None
        self.trouble = "the guest sent no complete message"
        self.over: int | None = None
        self._control = control
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()

    def is_ready_already(self) -> bool:
        """Say whether the guest's first message is there."""
        with contextlib.suppress(OSError):
            self._received += self._control.recv(CHUNK_BYTES)
        ready = len(READY).to_bytes(HEADER_BYTES, "big") + READY
        if not self._received.startswith(ready):
            return False
        del self._received[: len(ready)]
        return True

    async def exchange(self) -> None:
        """Send the request, take the record and then the word that the program is over; never raises for want of one.

        A guest that sends no record is not listened to any more.
        """
        limits = self._request.limits
        try:
            await self._loop.sock_sendall(self._control, self._request.message())
            body = await self.receive(limits.record_bytes())
            parse = asyncio.to_thread if len(body) > INLINE_BYTES else _at_once
            self.record = await parse(parse_record, body, limits)
            self.over = parse_over(await self.receive(OVER_BYTES))
        except OSError as error:
            self.trouble = f"the channel broke: {error.strerror}"
        except BadRecordError as error:
            self.trouble = str(error)
            if self.record is None:
                with contextlib.suppress(OSError):
                    self._control.shutdown(socket.SHUT_RDWR)  # a guest that still sends must not wait for a reader

    async def receive(self, limit: int) -> bytes:
        """Return the body of the next message.

        Raises:
            BadRecordError: the stream ended, or the message claims to be longer than it may be.
        """
        size = int.from_bytes(await self._exactly(HEADER_BYTES), "big")
        if size > limit:
            raise BadRecordError(f"a message of {size} bytes; {limit} are allowed")
        return await self._exactly(size)

    async def _exactly(self, size: int) -> bytes:
        while len(self._received) < size:
            part = await self._loop.sock_recv(self._control, CHUNK_BYTES)
            if not part:
                raise BadRecordError("the guest sent no complete message")
            self._received += part
        data = bytes(self._received[:size])
        del self._received[:size]
        return data


async def _at_once(call: Callable[..., GuestRecord], *args: Any) -> GuestRecord:
    return call(*args)
