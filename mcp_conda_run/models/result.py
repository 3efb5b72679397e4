"""How a run is bounded, what held it, and all that is known of it at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from .plan import Plan, UnknownImport
from .request import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of one run. Sizes are bytes, times are seconds; 0 means no bound of that kind."""

    wall_s: float
    cpu_s: float
    memory_bytes: int
    processes: int
    disk_bytes: int
    open_files: int
    file_size_bytes: int
    output_bytes: int


@dataclass(frozen=True, slots=True)
class Isolation:
    """What really held the run: never what was merely asked for.

    Attributes:
        tier: `A`, `A'`, `B`, `C`, `seatbelt`, `job`, or `none`.
        network: the policy that held: `full`, `none`, or an allow-list.
        via: how the network is reached: `proxy`, or empty for directly or not at all.
        limits: for each limit, what it rests on, such as `memory: watchdog`.
        notes: what this tier cannot promise.
    """

    tier: str
    network: str = "full"
    limits: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    via: str = ""


class Status(StrEnum):
    """How a run ended."""

    SUCCESS = "success"
    INSTALL_ERROR = "install-error"
    RUN_ERROR = "run-error"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    KILLED = "killed"


@dataclass(frozen=True, slots=True)
class Representation:
    """A document that a value offers of itself beside its text. It comes from the guest: never render it unasked."""

    mime_type: str
    text: str


@dataclass(frozen=True, slots=True)
class Value:
    """The value of the code's last expression.

    Attributes:
        json: the value in its natural JSON form; None where there is none (see `is_json`).
        is_json: whether `json` holds the value.
        text: what a person reads: the string itself, or the repr.
        type: the fully qualified class name.
        truncated: whether something was left out of `json` or `text`.
        representations: HTML, Markdown, LaTeX, SVG and JSON documents that the value offers; each is whole.
    """

    json: Json = None
    is_json: bool = False
    text: str = ""
    type: str = ""
    truncated: bool = False
    representations: tuple[Representation, ...] = ()


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure that was open at the end of the code, or a value that is one, as a PNG or JPEG image."""

    mime_type: str
    data: bytes
    title: str = ""


@dataclass(frozen=True, slots=True)
class ChangedFile:
    """A file below a mount that a run made or changed.

    Attributes:
        path: as the run sees it, such as `/working/plot.png`.
        size_bytes: how long it is.
    """

    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class RunError:
    """What ended the run, if it did not end well.

    Attributes:
        type: the exception's class name, `SystemExit`, `Crash`, `Timeout`, `Killed`, or the code of a `CondaRunError`.
        message: one line.
        traceback: Python's own text without our frames; may be empty.
        hint: what to do about it; may be empty.
        missing_module: the module that an ImportError named; may be empty.
    """

    type: str
    message: str
    traceback: str = ""
    hint: str = ""
    missing_module: str = ""


@dataclass(frozen=True, slots=True)
class AddedPackage:
    """A package that was installed for this run beyond the template, with where it came from and why."""

    name: str
    version: str
    channel: str
    import_name: str
    decision: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """All that is known of a run.

    Attributes:
        status: how it ended.
        output: standard output and standard error in the order in which they arrived.
        stdout, stderr: each alone. All three are bounded: of too long ones, head and tail are kept.
        output_dropped_bytes: how much was left out.
        value: the last expression's value, or None.
        error: what ended it, or None.
        figures: the open figures.
        exit_code: the exit code, or None if a signal ended it or it never started.
        signal: the name of the signal that ended it, such as `SIGSEGV`; or empty.
        limit: the name of the limit that ended it, such as `memory`; or empty.
        packages: what was added to the template.
        unknown_imports: imports that no package is known for.
        python_version, template, environment: what it ran in.
        timings_ms: the phases `plan`, `environment`, `start`, `run`, `files`, `clean` and `total`, in milliseconds;
            `clean` is what the answer waited for: the rest is done after it.
        isolation: what held it.
        notes: what the user should know: that a warm-up happened, that mount paths were mapped, ...
        attempts: how often the code ran, and why; one entry for an ordinary run.
        run_id: 16 hexadecimal digits.
        files: what it made or changed below the mounts; bounded, and `files_complete` says whether that is all.
        start: how its process was started: `pool`, `fork` or `exec`; empty if it never was.
        engine: what solves and installs here, and why: `rattler (asked for by the settings)`.
        plan: what was found to be needed, the last time it was asked.
    """

    status: Status
    output: str = ""
    stdout: str = ""
    stderr: str = ""
    output_dropped_bytes: int = 0
    value: Value | None = None
    error: RunError | None = None
    figures: tuple[Figure, ...] = ()
    exit_code: int | None = None
    signal: str = ""
    limit: str = ""
    packages: tuple[AddedPackage, ...] = ()
    unknown_imports: tuple[UnknownImport, ...] = ()
    python_version: str = ""
    template: str = ""
    environment: str = ""
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    isolation: Isolation | None = None
    notes: tuple[str, ...] = ()
    attempts: tuple[str, ...] = ()
    run_id: str = ""
    files: tuple[ChangedFile, ...] = ()
    files_complete: bool = True
    start: str = ""
    engine: str = ""
    plan: Plan = field(default_factory=Plan)
