"""From what a run said and how it ended to its result.

Called by `runtime.py` at the end of the story. What the host saw for itself (exit, limits, output) outranks what the
guest claims.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import replace

from packaging.utils import canonicalize_name

from .environments.provision import Provided
from .errors import InstallError
from .models import AddedPackage, Isolation, Limits, Plan, PlannedPackage, RunError, RunResult, Status
from .sandbox.conversation import Conversation
from .sandbox.streams import FLOOD_FACTOR
from .sandbox.tier import Launch

LIMIT_HINTS = {
    "memory": "Work on smaller pieces, or raise MCP_CONDA_RUN_MEMORY_MB.",
    "output": "Print less, or write to a file.",
    "processes": "Start fewer processes, or raise MCP_CONDA_RUN_PROCESSES.",
    "disk": "Write less, or raise MCP_CONDA_RUN_DISK_MB.",
    "cpu": "Compute less, or raise MCP_CONDA_RUN_CPU_S.",
}


FILE_TOO_LARGE, NO_SPACE, OTHER_DEVICE = (f"[Errno {n}]" for n in (errno.EFBIG, errno.ENOSPC, errno.EXDEV))


def not_installed(error: InstallError, *, run_id: str, timings_ms: Mapping[str, float]) -> RunResult:
    """Return the result of a run whose packages could not be had."""
    return RunResult(
        status=Status.INSTALL_ERROR,
        error=RunError(error.code, error.message, traceback=error.details, hint=error.hint),
        timings_ms=timings_ms,
        run_id=run_id,
    )


def finished(
    said: Conversation,
    isolation: Isolation,
    *,
    start: str = "",
    plan: Plan,
    provided: Provided,
    launch: Launch,
    notes: Sequence[str],
) -> RunResult:
    """Return the result of a run that was started."""
    status, error = _verdict(said, launch)
    record = said.record
    return RunResult(
        status=status,
        output=said.output,
        stdout=said.stdout,
        stderr=said.stderr,
        output_dropped_bytes=said.dropped_bytes,
        value=record.value if record is not None else None,
        error=error,
        figures=record.figures if record is not None else (),
        exit_code=said.exit.code,
        signal=said.exit.signal,
        limit=said.exit.limit,
        plan=plan,
        packages=added_packages(plan, provided),
        unknown_imports=plan.unknown,
        python_version=provided.environment.python_version,
        template=provided.template.name,
        environment=provided.environment.key,
        isolation=isolation,
        start=start,
        notes=(*notes, *_own_notes(said)),
        run_id=launch.run_id,
    )


def _own_notes(said: Conversation) -> tuple[str, ...]:
    """Return what the user should know of the run itself."""
    record = said.record
    if record is None and said.exit.code == 0:
        return ("The process ended before it could say how (as with os._exit); a value and figures are not known.",)
    if record is None:
        return ()
    mapped = f"{record.mapped} constant path(s) below the mount were mapped to the host's directory."
    return (*((mapped,) if record.mapped else ()), *record.notes)


def limit_text(name: str, limits: Limits) -> str:
    """Return a limit's number with its unit, such as `4096 MiB`."""
    mebibytes = {"memory": limits.memory_bytes, "disk": limits.disk_bytes, "output": limits.output_bytes * FLOOD_FACTOR}
    if name in mebibytes:
        return f"{mebibytes[name] / 2**20:g} MiB"
    return {"cpu": f"{limits.cpu_s:g} s", "processes": f"{limits.processes}"}.get(name, "its bound")


def _verdict(said: Conversation, launch: Launch) -> tuple[Status, RunError | None]:
    if said.timed_out:
        seconds = f"{launch.limits.wall_s:g}"
        message = f"The code ran longer than {seconds} s and was ended"
        return Status.TIMEOUT, RunError("Timeout", message, hint="Give a longer timeout_s, or do less at once.")
    if said.exit.limit:
        bound = limit_text(said.exit.limit, launch.limits)
        message = f"The run reached its limit of {said.exit.limit} ({bound}) and was ended"
        return Status.KILLED, RunError("Killed", message, hint=LIMIT_HINTS.get(said.exit.limit, ""))
    if said.record is not None and said.record.error is not None:
        return Status.RUN_ERROR, _explained(said.record.error, launch)
    if said.exit.signal:
        status = Status.KILLED if said.exit.signal == "SIGKILL" else Status.RUN_ERROR
        return status, RunError("Crash", f"The process was ended by {said.exit.signal}")
    if said.exit.code:
        return Status.RUN_ERROR, RunError("SystemExit", f"The code ended with exit code {said.exit.code}")
    return Status.SUCCESS, None


def _explained(error: RunError, launch: Launch) -> RunError:
    """Return the error of a program with a hint, if it met something that is so only here."""
    hint = ""
    if error.hint or error.type not in {"OSError", "Error"}:
        return error
    if error.message.startswith(OTHER_DEVICE) and str(launch.environment.prefix) in error.message:
        hint = "A directory of the environment cannot be renamed, only copied; shutil.move does that by itself."
    elif error.message.startswith(FILE_TOO_LARGE):
        bound = f"{launch.limits.file_size_bytes / 2**20:g} MiB"
        hint = f"A single file may have {bound}; write smaller ones, or raise MCP_CONDA_RUN_FILE_SIZE_MB."
    elif error.message.startswith(NO_SPACE):
        bound = limit_text("disk", launch.limits)
        hint = f"Prefix and temporary files together may have {bound}; write less, or raise MCP_CONDA_RUN_DISK_MB."
    return replace(error, hint=hint) if hint else error


def added_packages(plan: Plan, provided: Provided) -> tuple[AddedPackage, ...]:
    """Return the packages that the plan asked for, as they were installed: those of PyPI have the channel `pypi`."""
    installed = {(package.manager, package.name): package for package in provided.environment.packages}
    return tuple(
        AddedPackage(
            name=package.name,
            version=have.version,
            channel=have.channel,
            import_name=package.import_name,
            decision=package.decision,
            reason=package.reason,
        )
        for package in plan.packages
        if (have := installed.get((package.manager, _installed_name(package)))) is not None
    )


def _installed_name(package: PlannedPackage) -> str:
    return str(canonicalize_name(package.name)) if package.manager == "pypi" else package.name
