"""The server's end of the spawner: starts it, hands it orders, and follows each run over its lifeline.

Called by the tiers. Knows nothing of prefixes and mounts; what it starts is an `Order`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import HostError
from .order import Descriptors, Order, send_order
from .tier import Exit

PACKAGE = Path(__file__).resolve().parents[1]

# The package's own __init__ would load what the spawner does not need: an empty package of the same name stands in
# for it.
BOOTSTRAP = """
import sys, types
package = types.ModuleType("mcp_conda_run")
package.__path__ = [sys.argv[1]]
sys.modules["mcp_conda_run"] = package
from mcp_conda_run.sandbox.spawner import main
main(int(sys.argv[2]))
"""

SEND_TIMEOUT_S = 10
MAX_REPORT_BYTES = 64 * 1024
GONE_TIMEOUT_S = 5


class Spawner:
    """The spawner's process, started at the first order and again if it dies. Used from one event loop."""

    def __init__(self) -> None:
        self._channel: socket.socket | None = None
        self._stop: weakref.finalize[..., Any] | None = None

    def start(self) -> None:
        """Start the process if it does not run; it is ready for orders at once.

        Raises:
            HostError: it cannot be started.
        """
        if self._channel is not None:
            return
        if not hasattr(socket, "send_fds"):
            raise HostError("Runs cannot be started on this platform yet.", hint="Use Linux, macOS or WSL2.")
        _allow_descriptors()
        ours, theirs = socket.socketpair()
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", BOOTSTRAP, str(PACKAGE), str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={"LANG": "C.UTF-8", "PATH": os.defpath},
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise HostError(f"The process that starts runs cannot be started: {error.strerror}.") from error
        finally:
            theirs.close()
        ours.settimeout(SEND_TIMEOUT_S)
        self._channel = ours
        self._stop = weakref.finalize(self, _end, ours, process)

    def close(self) -> None:
        """End the process; runs that are under way go on until their own end."""
        if self._stop is not None:
            self._stop()
        self._channel = self._stop = None

    def order(self, order: Order, descriptors: Descriptors) -> None:
        """Hand over an order and its descriptors, which stay open here.

        Raises:
            HostError: it cannot be handed over.
        """
        for last_try in (False, True):
            self.start()
            assert self._channel is not None  # noqa: S101 - start() has just made it
            try:
                send_order(self._channel, order, descriptors)
            except OSError as error:
                self.close()
                if last_try:
                    raise HostError(f"A run cannot be started: {error.strerror or error}.") from error
            else:
                return


def _allow_descriptors() -> None:
    """Let this process, and those that it starts, have as many descriptors as it may.

    The kernel counts descriptors that are on their way through sockets for each user, and compares them with the
    sender's own bound (unix(7), ETOOMANYREFS): with no higher a bound than a run's, one run could keep the server from
    starting others.
    """
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - not there on Windows

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        with contextlib.suppress(ValueError, OSError):  # macOS allows less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _end(channel: socket.socket, process: subprocess.Popen[bytes]) -> None:
    channel.close()
    try:
        process.wait(GONE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@dataclass(frozen=True, slots=True)
class Channels:
    """The server's ends of a run's channels, and the ends that go to its process."""

    control: socket.socket
    lifeline: socket.socket
    stdout: int
    stderr: int
    theirs: Descriptors

    @classmethod
    def open(cls) -> Channels:
        """Make them all.

        Raises:
            HostError: no descriptors are left.
        """
        with contextlib.ExitStack() as stack:
            try:
                control, their_control = _kept(stack, socket.socketpair())
                lifeline, their_lifeline = _kept(stack, socket.socketpair())
                stdout, their_stdout = _pipe(stack)
                stderr, their_stderr = _pipe(stack)
            except OSError as error:
                raise HostError(f"A run cannot be started: {error.strerror}.", hint="Raise `ulimit -n`.") from error
            stack.pop_all()
        theirs = Descriptors(their_control.detach(), their_stdout, their_stderr, their_lifeline.detach())
        lifeline.setblocking(False)
        return cls(control, lifeline, stdout, stderr, theirs)

    def close(self) -> None:
        """Close the server's ends."""
        self.control.close()
        self.lifeline.close()
        for descriptor in (self.stdout, self.stderr):
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _kept(
    stack: contextlib.ExitStack, pair: tuple[socket.socket, socket.socket]
) -> tuple[socket.socket, socket.socket]:
    for end in pair:
        stack.callback(end.close)
    return pair


def _pipe(stack: contextlib.ExitStack) -> tuple[int, int]:
    pair = os.pipe()
    for end in pair:
        stack.callback(os.close, end)
    return pair


class Lifeline:
    """What the server knows of a run's process, by its keeper's reports. Its end of file means that nothing is left.

    Attributes:
        keeper_reported_end: whether the keeper lived to see the end of the main process.
        identity_dropped: whether the main process is another user than the server.
        held: for each limit that a control group holds, by what.
        no_network: why the run has no network although it should; empty if it has what it should.
        listener: the socket that listens in the run's network, or None.
        memory_bytes: the most memory that was seen, once the main process has ended.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._task: asyncio.Task[None] | None = None
        loop = asyncio.get_running_loop()
        self._started: asyncio.Future[int] = loop.create_future()
        self._exit: asyncio.Future[Exit] = loop.create_future()
        self.keeper_reported_end = False
        self.identity_dropped = False
        self.held: Mapping[str, str] = {}
        self.no_network = ""
        self.listener: socket.socket | None = None
        self.memory_bytes = 0
        self._task = loop.create_task(self._follow(), name="lifeline")

    async def started(self) -> int:
        """Wait until the main process executes; return its process id.

        Raises:
            HostError: it could not be executed.
        """
        return await asyncio.shield(self._started)

    async def exit(self) -> Exit:
        """Wait for the end of the main process."""
        return await asyncio.shield(self._exit)

    @property
    def has_ended(self) -> bool:
        """Whether the main process is known to be gone."""
        return self._exit.done()

    def note_code(self) -> None:
        """Tell the keeper of a zygote that this process gets its code now, and is to be watched from here on."""
        with contextlib.suppress(OSError):
            self._end.send(b"\n")

    def kill(self) -> None:
        """Have the keeper kill every process of the run."""
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_WR)

    async def gone(self, timeout_s: float = GONE_TIMEOUT_S) -> bool:
        """Wait until the keeper has ended, and with it the run; return whether it has."""
        assert self._task is not None  # noqa: S101 - made with the object
        done, _ = await asyncio.wait([self._task], timeout=timeout_s)
        if not done:
            self._task.cancel()
            await asyncio.wait([self._task])
        return bool(done)

    async def _follow(self) -> None:
        buffer = b""
        try:
            while data := await self._receive():
                buffer += data
                *lines, buffer = buffer.split(b"\n")
                for line in lines:
                    self._take(json.loads(line))
                if len(buffer) > MAX_REPORT_BYTES:
                    break
        except (OSError, ValueError):
            pass  # the same as the end of the file: the keeper is of no use any more
        finally:
            self._settle(HostError("A run's process could not be started.", code="run-not-started"))

    async def _receive(self) -> bytes:
        """Return what the keeper sends next; a descriptor that comes with it is the proxy's listening socket."""
        await readable(self._end)
        data, descriptors, _, _ = socket.recv_fds(self._end, 4096, 1)
        for descriptor in descriptors:
            self.listener = socket.socket(fileno=descriptor)
        return data

    def take_listener(self) -> socket.socket | None:
        """Return the listening socket, which is the caller's from now on."""
        listener, self.listener = self.listener, None
        return listener

    def _take(self, report: Mapping[str, Any]) -> None:
        if "failed" in report:
            self._settle(HostError(f"A run's process could not be started: {report['failed']}."))
        elif "started" in report and not self._started.done():
            self.identity_dropped = bool(report["identity_dropped"])
            self.held = dict(report["held"])
            self.no_network = str(report.get("no_network", ""))
            self._started.set_result(int(report["started"]))
        elif "status" in report and not self._exit.done():
            self.keeper_reported_end = True
            self.memory_bytes = int(report["memory_bytes"])
            self._exit.set_result(exit_from_status(int(report["status"]), str(report["limit"])))

    def _settle(self, error: HostError) -> None:
        """Answer whoever still waits: nothing more will be reported."""
        if not self._started.done():
            self._started.set_exception(error)
            self._started.exception()  # asked for or not, it is no leak
        if not self._exit.done():
            self._exit.set_result(Exit(None, "SIGKILL"))


async def readable(end: socket.socket) -> None:
    """Wait until there is something to read, or the end."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def set_ready() -> None:
        if not ready.done():
            ready.set_result(None)

    descriptor = end.fileno()  # asyncio would describe a socket, with its names, in an error that it catches
    loop.add_reader(descriptor, set_ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


def exit_from_status(status: int, limit: str) -> Exit:
    """Translate a wait status (wait(2)) and the name of the bound that was exceeded, if one was."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return Exit(code, limit=limit)
    name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
    return Exit(None, name, limit or ("cpu" if name == "SIGXCPU" else ""))
