"""A zygote's keeper: starts it behind its walls, hands it orders, and watches over all of its runs.

A process of its own, started by `zygotes.py` with the server's Python, without its packages; one a zygote. For each
run it does what `keeper.py` does for a run that is executed: it reports over the run's lifeline, watches its bounds,
and kills it when the lifeline ends. It holds each run's pid 1 by a descriptor, never by a number that may mean
another process tomorrow. It waits for nobody: what cannot be sent at once counts as refused. When the server closes
the channel, runs that have code go on to their end; with the last one, the keeper ends, and with it the zygote.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import selectors
import signal
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..guest import seccomp, syscalls
from .enrolling import Enroller
from .groups import Group, Groups
from .order import INNER_ID, SCRATCH, Bounds
from .processes import descendants, kill_all_children, pid_of, proportional_memory, used
from .rootfs import STAGE_PLACES
from .watch import Watch
from .zygotes_order import (
    HIDDEN,
    MAX_MESSAGE_BYTES,
    RUN_DESCRIPTORS,
    Fork,
    ZygotePlan,
    receive,
    unpack_fork,
    unpack_plan,
)
from .zygotes_walls import start_zygote

SAMPLE_S = 0.05
MAX_PROCESSES_WHILE_LOADING = 64
OUTPUT_KEPT = 4096


class Run:
    """One run of the zygote, from its order to the end of its last process."""

    def __init__(self, fork: Fork, lifeline: socket.socket, reports: socket.socket, group: Group | None) -> None:
        self.group = group
        self.watch = Watch(_watched(fork), group)
        self.lifeline = lifeline
        self.reports = reports
        self.process: int | None = None  # a descriptor of its pid 1
        self.pid = 0
        self.started = False
        self.has_code = False
        self.to_be_killed = False
        self.limit = ""

    def report(self, *descriptors: int, **fields: Any) -> None:
        """Tell the server, which may be gone."""
        with contextlib.suppress(OSError):
            socket.send_fds(self.lifeline, [json.dumps(fields).encode("ascii") + b"\n"], descriptors)

    def kill(self) -> None:
        """Kill its pid 1, and with it all of its processes; as soon as it is known which that is."""
        self.to_be_killed = True
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.process, signal.SIGKILL)

    def end_if_over(self) -> None:
        """Kill it if it is over one of its bounds."""
        self.limit = self.watch.exceeded(self.processes)
        if self.limit:
            self.kill()

    def processes(self) -> list[int]:
        """Return its processes, pid 1 first."""
        return [self.pid, *descendants(self.pid)]

    def close(self) -> None:
        """Let go of it; the end of the lifeline tells the server that nothing is left of it."""
        self.reports.close()
        for descriptor in (self.process, self.watch.stage):
            if descriptor is not None:
                os.close(descriptor)
        self.lifeline.close()


class Keeper:
    """The keeper of one zygote.

    Args:
        channel: to the server.
        plan: the zygote.
        groups: makes the control groups of its runs.
    """

    def __init__(self, channel: socket.socket, plan: ZygotePlan, groups: Groups) -> None:
        self._channel = channel
        self._plan = plan
        self._runs: dict[int, Run] = {}
        self._selector = selectors.DefaultSelector()
        self._next_sample = 0.0
        self._ready = False
        self._server_is_there = True
        self._said = b""
        self._output, output = os.pipe()
        os.set_blocking(self._output, False)
        self._groups = groups
        groups.learn()  # before the zygote: in version 2, users can move processes only within groups of their own
        self._above, self._zygote, self._identity_dropped = start_zygote(plan, output)
        os.close(output)
        self._enroller = Enroller()
        self._zygote.setblocking(False)
        self._zygote.send(_configuration(plan))

    def serve(self) -> None:
        """Do all this until the zygote is dead, or the server is gone and no run is left."""
        self._channel.setblocking(False)
        self._on(self._channel.fileno(), self._hear_server)
        self._on(self._zygote.fileno(), self._hear_zygote)
        self._on(self._output, self._hear_output)
        self._on(self._enroller.done, self._enroller.finish)
        while self._zygote.fileno() >= 0 and (self._server_is_there or self._runs):
            for key, _ in self._selector.select(self._wait_s()):
                # What came before it may have taken it away, and the number may be another's by now.
                if self._selector.get_map().get(key.fd) is key:
                    key.data()
            if time.monotonic() >= self._next_sample:
                self._sample()
                self._next_sample = time.monotonic() + SAMPLE_S

    def _on(self, descriptor: int, call: Callable[[], None]) -> None:
        self._selector.register(descriptor, selectors.EVENT_READ, call)

    def _wait_s(self) -> float | None:
        busy = not self._ready or any(run.has_code for run in self._runs.values())
        return SAMPLE_S if busy else None

    # --- the server
    # ---------------------------------------------------------------------------------------------------

    def _hear_server(self) -> None:
        try:
            data, descriptors = receive(self._channel, RUN_DESCRIPTORS)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        if not data:
            self._server_is_there = False
            self._selector.unregister(self._channel.fileno())
            for run in list(self._runs.values()):
                if not run.has_code:
                    run.kill()
        elif len(descriptors) == RUN_DESCRIPTORS:
            self._begin(unpack_fork(data), data, descriptors)
        else:
            for descriptor in descriptors:
                os.close(descriptor)

    def _begin(self, fork: Fork, data: bytes, descriptors: list[int]) -> None:
        """Pass the order on; the run's reports come here."""
        lifeline = socket.socket(fileno=descriptors.pop())
        try:
            reports, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            _refuse(lifeline, descriptors, f"{error.strerror}: its channel")
            return
        try:
            socket.send_fds(self._zygote, [data], [*descriptors, theirs.fileno()])
        except OSError as error:
            reports.close()
            _refuse(lifeline, descriptors, f"{error.strerror}: the zygote takes no orders")
            return
        finally:
            theirs.close()
        for descriptor in descriptors:
            os.close(descriptor)
        run = self._runs[fork.id] = Run(fork, lifeline, reports, self._groups.make(_watched(fork)))
        lifeline.setblocking(False)
        reports.setblocking(False)
        self._on(lifeline.fileno(), lambda: self._hear_lifeline(run))
        self._on(reports.fileno(), lambda: self._hear_run(run))

    def _hear_lifeline(self, run: Run) -> None:
        """A byte says that the run has got its code; the end of the stream, that it is to end."""
        try:
            data = run.lifeline.recv(64)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            run.has_code = True
        else:
            self._selector.unregister(run.lifeline.fileno())
            run.kill()

    # --- the zygote
    # ---------------------------------------------------------------------------------------------------

    def _hear_zygote(self) -> None:
        try:
            data, descriptors = receive(self._zygote, 1)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        try:
            self._take(json.loads(data) if data else {"failed": "it ended"}, descriptors)
        except (ValueError, TypeError, KeyError, AttributeError, OSError):
            self._give_up("it talks nonsense")  # it is not ours, once it has imported packages
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _take(self, said: Mapping[str, Any], descriptors: list[int]) -> None:
        if "ready" in said and not self._ready:
            self._ready = True
            memory = proportional_memory(descendants(os.getpid()))
            self._say(ready=True, memory_bytes=memory)
        elif "pid" in said and descriptors and said["id"] in self._runs:
            self._adopt(self._runs[said["id"]], descriptors.pop())
        elif "failed" in said and said.get("id") in self._runs:
            run = self._runs.pop(said["id"])
            run.report(failed=str(said["failed"]))
            self._let_go(run)
        elif "failed" in said and "id" not in said:
            self._give_up(str(said["failed"]))

    def _adopt(self, run: Run, process: int) -> None:
        run.process = process
        run.pid = pid_of(process)
        self._enroller.ask(run.group, lambda: [run.pid], lambda _: None)  # what it forks from now on is in it too
        self._on(process, lambda: self._end(run))
        if run.to_be_killed:
            run.kill()

    def _give_up(self, reason: str) -> None:
        """The zygote is of no use any more; without it, none of its runs lives on."""
        said = self._said.decode("utf-8", "replace").strip()
        self._say(failed=f"{reason}: {said.splitlines()[-1]}" if said else reason)
        self._selector.unregister(self._zygote.fileno())
        self._zygote.close()

    def _hear_output(self) -> None:
        data = os.read(self._output, OUTPUT_KEPT)
        if not data:
            self._selector.unregister(self._output)
        self._said = (self._said + data)[-OUTPUT_KEPT:]

    def _say(self, **fields: Any) -> None:
        with contextlib.suppress(OSError):
            self._channel.send(json.dumps(fields).encode("ascii"))

    # --- the runs
    # -----------------------------------------------------------------------------------------------------

    def _hear_run(self, run: Run) -> None:
        """Take what the run's pid 1 says."""
        try:
            data, descriptors = receive(run.reports, 2)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        if not data:
            self._selector.unregister(run.reports.fileno())
        elif data == b"started" and descriptors and not run.started:
            run.started = True
            run.watch.stage = descriptors.pop(0)
            listeners, descriptors = tuple(descriptors), []
            self._enroller.ask(run.group, run.processes, lambda all_in: self._begun(run, listeners, all_in))
        elif data[:1].isdigit():
            status = int(data.split()[0]) & 0xFFFF if data.split()[0].isdigit() else int(signal.SIGKILL)
            run.limit = run.limit or ("memory" if run.watch.exceeded_by_group() else "")
            run.report(status=status, limit=run.limit, memory_bytes=run.watch.peak_bytes)
        else:
            run.report(failed=data[1:].decode("utf-8", "replace"))
        for descriptor in descriptors:
            os.close(descriptor)

    def _begun(self, run: Run, listeners: tuple[int, ...], all_in: bool) -> None:
        """The run waits for its code, in its control group or else under the eyes of the watchdog."""
        if not all_in:
            run.watch.group = None
        run.report(*listeners, started=run.pid, identity_dropped=self._identity_dropped, held=run.watch.held)
        for listener in listeners:
            os.close(listener)

    def _end(self, run: Run) -> None:
        """The run's pid 1 is gone, and with it every process of the run."""
        if run.reports.fileno() in self._selector.get_map():
            self._hear_run(run)  # its last words
        if run.limit:
            run.report(status=int(signal.SIGKILL), limit=run.limit, memory_bytes=run.watch.peak_bytes)
        self._runs = {number: other for number, other in self._runs.items() if other is not run}
        self._let_go(run)

    def _let_go(self, run: Run) -> None:
        for descriptor in (run.lifeline.fileno(), run.reports.fileno(), run.process):
            if descriptor is not None and descriptor in self._selector.get_map():
                self._selector.unregister(descriptor)
        self._groups.remove(run.group)
        run.close()

    def _sample(self) -> None:
        if not self._ready:
            now = used(descendants(os.getpid()))
            if now.processes > MAX_PROCESSES_WHILE_LOADING:
                self._give_up("its packages start too many processes")
            elif self._plan.memory_bytes and now.memory_bytes > self._plan.memory_bytes:
                self._give_up("its packages need too much memory")
        for run in self._runs.values():
            if run.has_code and run.pid > 0 and not run.limit:
                run.end_if_over()


def _watched(fork: Fork) -> Bounds:
    """Return the bounds of a run but that of processes: no zygote is root, so the run's user namespace holds that."""
    return dataclasses.replace(fork.bounds, processes=0)


def _refuse(lifeline: socket.socket, descriptors: list[int], reason: str) -> None:
    with contextlib.suppress(OSError):
        lifeline.send(json.dumps({"failed": reason}).encode("ascii") + b"\n")
    lifeline.close()
    for descriptor in descriptors:
        os.close(descriptor)


def _configuration(plan: ZygotePlan) -> bytes:
    """Return what the zygote has to know of itself and of all its runs."""
    walls = plan.walls
    fields = {
        "modules": list(plan.modules),
        "prefix": walls.prefix,
        "hidden": HIDDEN,
        "places": [list(place) for place in STAGE_PLACES],
        "targets": [bind.target for bind in walls.binds],
        "covered": list(walls.covered),
        "filename": f"{SCRATCH}/main.py",
        "inner_id": INNER_ID,
        "filter": seccomp.filter_program().hex(),
    }
    return json.dumps(fields).encode("ascii")


def main(channel_fd: int) -> None:
    """Keep a zygote until it or the server is gone."""
    channel = socket.socket(fileno=channel_fd)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to handle
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    syscalls.set_child_subreaper()
    groups = Groups()
    try:
        message = channel.recv(MAX_MESSAGE_BYTES)
        if message:  # else the server ended before it said what to keep
            Keeper(channel, unpack_plan(message), groups).serve()
    except OSError as error:
        with contextlib.suppress(OSError):
            reason = f"{error.strerror} ({error.filename})"
            channel.send(json.dumps({"failed": reason}).encode("ascii"))
    finally:
        kill_all_children()
        groups.close()
