"""Windows Job Objects by ctypes: processes that are bounded together, and end together when the last handle closes.

Used by `sandbox/jobs.py` for runs and by `portability.py` for our own helper processes. The structures have the layout
of 64-bit Windows on every platform, so that it can be checked anywhere; the calls exist on Windows alone. A job bounds
what its processes use and takes some of the desktop from them; it keeps them from no file and from no network.

See "Job Objects" and "JOBOBJECT_EXTENDED_LIMIT_INFORMATION" in Microsoft's documentation of the Win32 API.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import weakref
from ctypes import c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Any

KILLED = 0xE0000009
"""The exit code of what a job has ended: bit 29 says that it is no code of the system's (winerror.h)."""

_PROCESS_TERMINATE = 0x0001
_PROCESS_SET_QUOTA = 0x0100
_PROCESS_SUSPEND_RESUME = 0x0800

_LIMIT_JOB_TIME = 0x0004
_LIMIT_ACTIVE_PROCESS = 0x0008
_LIMIT_JOB_MEMORY = 0x0200
_LIMIT_DIE_ON_UNHANDLED_EXCEPTION = 0x0400  # at once, instead of behind a dialogue
_LIMIT_KILL_ON_JOB_CLOSE = 0x2000
_UI_EVERYTHING = 0x00FF
"""Windows of others, the clipboard, system parameters, display settings, global atoms, desktops, logging off."""

_BASIC_ACCOUNTING = 1
_BASIC_UI_RESTRICTIONS = 4
_ASSOCIATE_COMPLETION_PORT = 7
_EXTENDED_LIMIT = 9

_MSG_ACTIVE_PROCESS_LIMIT = 3
_MSG_JOB_MEMORY_LIMIT = 10
_LIMIT_OF = {_MSG_ACTIVE_PROCESS_LIMIT: "processes", _MSG_JOB_MEMORY_LIMIT: "memory"}

_TICKS_PER_S = 10_000_000
_INVALID_HANDLE = c_void_p(-1)


class BasicLimits(ctypes.Structure):
    """JOBOBJECT_BASIC_LIMIT_INFORMATION."""

    _fields_ = (
        ("per_process_user_time", c_int64),
        ("per_job_user_time", c_int64),
        ("flags", c_uint32),
        ("minimum_working_set", c_size_t),
        ("maximum_working_set", c_size_t),
        ("active_processes", c_uint32),
        ("affinity", c_size_t),
        ("priority_class", c_uint32),
        ("scheduling_class", c_uint32),
    )


class ExtendedLimits(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION."""

    _fields_ = (
        ("basic", BasicLimits),
        ("io_counters", c_uint64 * 6),
        ("process_memory", c_size_t),
        ("job_memory", c_size_t),
        ("peak_process_memory", c_size_t),
        ("peak_job_memory", c_size_t),
    )


class Accounting(ctypes.Structure):
    """JOBOBJECT_BASIC_ACCOUNTING_INFORMATION."""

    _fields_ = (
        ("user_time", c_int64),
        ("kernel_time", c_int64),
        ("period_user_time", c_int64),
        ("period_kernel_time", c_int64),
        ("page_faults", c_uint32),
        ("processes", c_uint32),
        ("active_processes", c_uint32),
        ("terminated_processes", c_uint32),
    )


class CompletionPort(ctypes.Structure):
    """JOBOBJECT_ASSOCIATE_COMPLETION_PORT."""

    _fields_ = (("key", c_void_p), ("port", c_void_p))


@dataclass(frozen=True, slots=True)
class Used:
    """What the processes of a job have used: CPU time in seconds, how many there are, and the most memory in bytes."""

    cpu_s: float
    processes: int
    peak_memory_bytes: int


class Job:
    """A job of this process alone: when this process ends, however it does, everything in the job does.

    Args:
        memory_bytes: of all its processes together, committed; 0 for any amount.
        processes: how many there may be at a time; 0 for any number.
        cpu_s: user time of all together; 0 for any.
        away_from_desktop: whether they are kept from windows, clipboard and settings of the user's desktop.

    Raises:
        OSError: it cannot be made, or one of the bounds cannot be set.
    """

    def __init__(
        self, *, memory_bytes: int = 0, processes: int = 0, cpu_s: float = 0, away_from_desktop: bool = False
    ) -> None:
        api = _api()
        self._job = c_void_p(_checked(api.CreateJobObjectW(None, None)))
        self.close = weakref.finalize(self, api.CloseHandle, self._job)
        self._port = c_void_p(_checked(api.CreateIoCompletionPort(_INVALID_HANDLE, None, None, 1)))
        self._close_port = weakref.finalize(self, api.CloseHandle, self._port)
        self._set(_ASSOCIATE_COMPLETION_PORT, CompletionPort(self._job, self._port))
        self._set(_EXTENDED_LIMIT, limits(memory_bytes=memory_bytes, processes=processes, cpu_s=cpu_s))
        if away_from_desktop:
            self._set(_BASIC_UI_RESTRICTIONS, c_uint32(_UI_EVERYTHING))

    def take(self, pid: int) -> None:
        """Put a process into the job; what it starts from then on is born there.

        Raises:
            OSError: it cannot be; or it is gone.
        """
        with _Process(pid, _PROCESS_SET_QUOTA | _PROCESS_TERMINATE) as process:
            _checked(_api().AssignProcessToJobObject(self._job, process))

    def exceeded(self) -> str:
        """Return the name of a limit at which the job's processes were refused something since the last call."""
        api = _api()
        message, key, value = c_uint32(), c_size_t(), c_void_p()
        found = ""
        arguments = (ctypes.byref(message), ctypes.byref(key), ctypes.byref(value), 0)
        while api.GetQueuedCompletionStatus(self._port, *arguments):
            found = found or _LIMIT_OF.get(message.value, "")
        return found

    def used(self) -> Used:
        """Return what its processes have used up to now.

        Raises:
            OSError: the job is closed.
        """
        accounting, extended = Accounting(), ExtendedLimits()
        for number, data in ((_BASIC_ACCOUNTING, accounting), (_EXTENDED_LIMIT, extended)):
            size = ctypes.sizeof(data)
            _checked(_api().QueryInformationJobObject(self._job, number, ctypes.byref(data), size, None))
        ticks = accounting.user_time + accounting.kernel_time
        return Used(ticks / _TICKS_PER_S, accounting.active_processes, extended.peak_job_memory)

    def kill(self) -> None:
        """End everything in it, now; safe to call again, and when it is closed."""
        if self.close.alive:
            _api().TerminateJobObject(self._job, KILLED)

    def _set(self, number: int, data: Any) -> None:
        size = ctypes.sizeof(data)
        _checked(_api().SetInformationJobObject(self._job, number, ctypes.byref(data), size))


def limits(*, memory_bytes: int = 0, processes: int = 0, cpu_s: float = 0) -> ExtendedLimits:
    """Return the limits of a job that ends with its last handle."""
    found = ExtendedLimits()
    found.basic.flags = _LIMIT_KILL_ON_JOB_CLOSE | _LIMIT_DIE_ON_UNHANDLED_EXCEPTION
    if memory_bytes:
        found.basic.flags |= _LIMIT_JOB_MEMORY
        found.job_memory = memory_bytes
    if processes:
        found.basic.flags |= _LIMIT_ACTIVE_PROCESS
        found.basic.active_processes = processes
    if cpu_s:
        found.basic.flags |= _LIMIT_JOB_TIME
        found.basic.per_job_user_time = int(cpu_s * _TICKS_PER_S)
    return found


def resume(pid: int) -> None:
    """Let a process run that was made suspended.

    Raises:
        OSError: it is gone.
    """
    with _Process(pid, _PROCESS_SUSPEND_RESUME) as process:
        if status := _nt().NtResumeProcess(process):
            raise OSError(f"a process could not be resumed (status {status & 0xFFFF_FFFF:#x})")


class _Process:
    """A handle of a process for as long as the context lasts."""

    def __init__(self, pid: int, access: int) -> None:
        self._handle = c_void_p(_checked(_api().OpenProcess(access, c_int32(0), pid)))

    def __enter__(self) -> c_void_p:
        return self._handle

    def __exit__(self, *_: object) -> None:
        _api().CloseHandle(self._handle)


def _checked(result: Any) -> Any:
    """Return the result of a call, if it is none of those that mean failure."""
    if sys.platform == "win32" and not result:
        raise ctypes.WinError(ctypes.get_last_error())
    return result


@functools.cache
def _api() -> Any:
    """Return the calls of kernel32 with their types: without them, handles would be cut to 32 bits."""
    api = _library("kernel32")
    for name, result, arguments in (
        ("CreateJobObjectW", c_void_p, (c_void_p, c_void_p)),
        ("AssignProcessToJobObject", c_int32, (c_void_p, c_void_p)),
        ("SetInformationJobObject", c_int32, (c_void_p, c_int32, c_void_p, c_uint32)),
        ("QueryInformationJobObject", c_int32, (c_void_p, c_int32, c_void_p, c_uint32, c_void_p)),
        ("TerminateJobObject", c_int32, (c_void_p, c_uint32)),
        ("CreateIoCompletionPort", c_void_p, (c_void_p, c_void_p, c_void_p, c_uint32)),
        ("GetQueuedCompletionStatus", c_int32, (c_void_p, c_void_p, c_void_p, c_void_p, c_uint32)),
        ("OpenProcess", c_void_p, (c_uint32, c_int32, c_uint32)),
        ("CloseHandle", c_int32, (c_void_p,)),
    ):
        call = getattr(api, name)
        call.restype, call.argtypes = result, arguments
    return api


@functools.cache
def _nt() -> Any:
    """Return the calls of ntdll; the one that resumes a process is old, but only there."""
    api = _library("ntdll")
    api.NtResumeProcess.restype, api.NtResumeProcess.argtypes = c_int32, (c_void_p,)
    return api


def _library(name: str) -> Any:
    if sys.platform == "win32":
        return ctypes.WinDLL(name, use_last_error=True)
    raise OSError("jobs are Windows'")
