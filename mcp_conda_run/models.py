"""The vocabulary of all the rooms: plain, immutable, serializable data.

A request goes in (`RunRequest`), becomes a `Plan`, then `LockedPackage`s, an `Environment`, and ends as a `RunResult`.
No behaviour beyond small conveniences, no imports from the rooms.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

Json = Any
"""A value that `json.dumps` writes without help: None, bool, int, float, str, lists and string-keyed dicts of these."""


# --- progress ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Progress:
    """What is going on now, for a bar in a terminal or a progress notification.

    Attributes:
        phase: `plan`, `lock`, `solve`, `download`, `link`, `compile`, `check`, `run`, ...
        message: a few words for a person.
        done: how much of `total` is done, in `unit`.
        total: how much there is, in `unit`; 0 if not known.
        unit: `packages`, `bytes`, `seconds` or empty.
    """

    phase: str
    message: str
    done: float = 0
    total: float = 0
    unit: str = ""


ProgressCallback = Callable[[Progress], None]
"""Called from the event loop's thread; must return at once and never raise."""


def no_progress(_: Progress) -> None:
    """Ignore progress."""


# --- the request ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory of the host (`source`) that a run sees as `target`."""

    source: Path
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What to run. Exactly one of `code` and `file` is given.

    Attributes:
        code: Python source text.
        file: a Python file, either as the run sees it (`/working/x.py`) or as a path of the host inside a mount.
        args: `sys.argv[1:]`.
        global_variables: names that exist in the code's globals before it starts; JSON values.
        packages: further match specs to install, such as `gdal>=3.8`; `pypi:NAME` for PyPI.
        python: a Python version such as `3.12`; None for the template's.
        template: a template's name or the path of an environment.yml; None for the configured one.
        timeout_s: wall time of the run itself, in seconds; None for the configured one.
        network: `full`, `none` or a comma separated allow-list; None for the configured one.
        limits: other bounds by the names of the settings, such as `memory_mb`; lower than configured, or up to
            `max_limits`.
    """

    code: str | None = None
    file: str | Path | None = None
    args: tuple[str, ...] = ()
    global_variables: Mapping[str, Json] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    python: str | None = None
    template: str | None = None
    timeout_s: float | None = None
    network: str | None = None
    limits: Mapping[str, float] = field(default_factory=dict)


# --- the plan ---------------------------------------------------------------------------------------------------------


class ImportContext(StrEnum):
    """Where in the code an import stands, which says whether it counts."""

    PLAIN = "plain"
    LAZY = "lazy"  # in a function body
    OPTIONAL = "optional"  # in a try body whose handler catches ImportError
    ALTERNATIVE = "alternative"  # in the handler: only if the try body's fails
    TYPE_CHECKING = "type-checking"  # never runs
    OTHER_PLATFORM = "other-platform"  # never runs here
    DYNAMIC = "dynamic"  # import_module("x"), __import__("x"), importorskip("x")
    HINT = "hint"  # not an import: a call or an argument that needs this module, such as read_excel


@dataclass(frozen=True, slots=True)
class FoundImport:
    """One import in the code: the dotted module, what is taken from it, and where it stands.

    Attributes:
        module: the dotted module, such as `google.cloud`.
        names: what `from module import names` takes from it.
        context: where it stands.
        line: its line, from 1; 0 if it stands in no line.
        group: the number of the try statement whose body and handlers hold alternatives; 0 for none.
        why: what asks for the module where no import does, such as `read_excel`.
    """

    module: str
    names: tuple[str, ...] = ()
    context: ImportContext = ImportContext.PLAIN
    line: int = 0
    group: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A package that may be meant by an unknown import; offered, never installed by itself."""

    name: str
    channel: str
    score: float
    reason: str


@dataclass(frozen=True, slots=True)
class PlannedPackage:
    """A package that the code needs, and why.

    Attributes:
        spec: the match spec given to the solver, such as `gdal >=3.8`.
        name: the package's name.
        manager: `conda` or `pypi`.
        import_name: the import that led to it; empty for a package that was asked for by name.
        decision: which rule decided: `override`, `namespace`, `identity`, `affix`, `map`, `online`, `learned`,
            `hint`, `companion`, `declared`, `requested`, `runtime`.
        reason: the same as a sentence.
        confidence: 0 to 1.
        channel: the channel that the spec is bound to; empty for any configured one.
    """

    spec: str
    name: str
    manager: str = "conda"
    import_name: str = ""
    decision: str = "identity"
    reason: str = ""
    confidence: float = 1.0
    channel: str = ""


Ask = Callable[[Sequence[PlannedPackage]], Awaitable[bool]]
"""Asks the user whether these packages of PyPI may be installed."""


@dataclass(frozen=True, slots=True)
class UnknownImport:
    """An import that no rule could name a package for; the run goes ahead without it."""

    import_name: str
    reason: str
    candidates: tuple[Candidate, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a piece of code needs beyond what the template's environment offers.

    Attributes:
        packages: what to add, and why.
        unknown: imports that no package is known for.
        python: a constraint on Python; empty if the template's will do.
        channels: further channels that the packages come from.
        notes: what the user should know.
        solution: where it was asked for, all conda packages that would be added, with versions and sizes.
    """

    packages: tuple[PlannedPackage, ...] = ()
    unknown: tuple[UnknownImport, ...] = ()
    python: str = ""
    channels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    solution: tuple[LockedPackage, ...] = ()

    @property
    def download_bytes(self) -> int:
        """Return the size of all archives of the solution; what the cache has is not fetched again."""
        return sum(package.size_bytes for package in self.solution)


# --- packages and environments ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedPackage:
    """One package, pinned: a row of a lock file, a record of a solution, or an entry of `env.json`.

    Attributes:
        url: where the archive is; the identity of the package together with `sha256`.
        sha256, md5: lower-case hexadecimal digests of the archive; empty if not known.
        size_bytes: the archive's size; 0 if not known.
        depends: match specs.
        manager: `conda` or `pypi`.
    """

    name: str
    version: str
    build: str = ""
    build_number: int = 0
    subdir: str = ""
    channel: str = ""
    url: str = ""
    sha256: str = ""
    md5: str = ""
    size_bytes: int = 0
    depends: tuple[str, ...] = ()
    manager: str = "conda"


@dataclass(frozen=True, slots=True)
class PackageFacts:
    """What a channel says of a package name on one platform.

    Attributes:
        name: the package's name.
        channel: the first configured channel that has it.
        latest: the highest version there.
        is_python: whether it is a Python package: a noarch python package, or one that depends on python or python_abi.
    """

    name: str
    channel: str
    latest: str
    is_python: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """An immutable, installed prefix on disk, with what a run must know of it (`env.json`).

    Attributes:
        key: 16 hexadecimal digits; the name of the prefix's directory.
        prefix: the prefix itself. Never written to after it is ready.
        python_version: such as `3.12.1`.
        python: the interpreter, relative to the prefix, such as `bin/python3.12`.
        modules: importable dotted names: every regular package and module whose parents are all namespace packages.
        stdlib: the interpreter's `sys.stdlib_module_names`.
        packages: what is installed.
        variables: environment variables that activation sets, with the prefix's own path in their values.
    """

    key: str
    prefix: Path
    python_version: str
    python: str
    modules: Mapping[str, str]
    stdlib: frozenset[str]
    packages: tuple[LockedPackage, ...]
    variables: Mapping[str, str]

    def offers(self, module: str) -> bool:
        """Say whether `import module` would find something (a standard module, a package, or a part of one)."""
        parts = module.split(".")
        if parts[0] in self.stdlib:
            return True
        if any(".".join(parts[:n]) in self.modules for n in range(1, len(parts) + 1)):
            return True
        return any(offered.startswith(f"{module}.") for offered in self.modules)


# --- the run ----------------------------------------------------------------------------------------------------------


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
        tier: `A`, `A'`, `B`, `C`, `D`, or `none`.
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
        timings_ms: the phases `plan`, `environment`, `start`, `run`, `clean` and `total`, in milliseconds.
        isolation: what held it.
        notes: what the user should know: that a warm-up happened, that mount paths were mapped, ...
        attempts: how often the code ran, and why; one entry for an ordinary run.
        run_id: 16 hexadecimal digits.
        files: what it made or changed below the mounts; bounded, and `files_complete` says whether that is all.
        start: how its process was started: `pool`, `fork` or `exec`; empty if it never was.
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
