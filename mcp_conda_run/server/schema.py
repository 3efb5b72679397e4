"""What the tools answer as structured content: the published output schemas.

Filled by `report.py`; published by `tools.py`. Holds no behaviour: a client reads of a run what is written here.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

_JSON_TYPES = ("null", "boolean", "number", "string", "array", "object")


class _Part(BaseModel):
    """The base of the schema's parts; a closed schema, so that clients can trust it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ErrorReport(_Part):
    """What ended the run."""

    type: str = Field(description="Exception class, SystemExit, Crash, Timeout, Killed, or a code such as bad-request.")
    message: str
    traceback: str = ""
    hint: str = Field(default="", description="What to do about it.")
    missing_module: str = ""


class PackageReport(_Part):
    """A package installed for this run beyond the template, and why."""

    name: str
    version: str
    channel: str
    import_name: str
    decision: str
    reason: str


class CandidateReport(_Part):
    """A package that may be meant; pass it in `packages` to install it."""

    name: str
    channel: str
    reason: str


class UnknownImportReport(_Part):
    """An import that no package is known for."""

    import_name: str
    reason: str
    candidates: list[CandidateReport] = []


class DocumentReport(_Part):
    """What the value offers of itself beside its text, such as text/html."""

    mime_type: str
    size_bytes: int
    text: str = Field(default="", description="All of it, if it is short and return_value does not say the same.")
    uri: str = Field(default="", description="The resource that has it.")


class FileReport(_Part):
    """A file that the run made or changed."""

    path: str
    size_bytes: int
    uri: str = Field(default="", description="The resource that has it; empty if it is too large.")


class FigureReport(_Part):
    """A figure that was open at the end, or the value's own image."""

    title: str
    mime_type: str
    size_bytes: int
    shown: bool = Field(description="Whether this answer carries it as an image.")
    uri: str = Field(default="", description="The resource that has the original.")


class IsolationReport(_Part):
    """What really held the run."""

    tier: str
    network: str
    limits: dict[str, str] = {}
    notes: list[str] = []


class ProgressReport(_Part):
    """What a run that goes on is doing."""

    phase: str
    message: str
    elapsed_s: float


class Report(_Part):
    """All that is known of a run."""

    status: str = Field(description="success, install-error, run-error, timeout, cancelled, killed, or running.")
    run_id: str = Field(default="", description="For get_run, cancel_run and run:// resources.")
    output: str = Field(default="", description="stdout and stderr in order of arrival; of long ones head and tail.")
    stdout: str = ""
    stderr: str = ""
    output_dropped_bytes: int = 0
    return_value: Any = Field(
        default=None,
        description="Value of the last expression as JSON; null if it has none.",
        json_schema_extra={"anyOf": [{"type": name} for name in _JSON_TYPES]},
    )
    return_text: str = Field(default="", description="The value as text, where return_value does not say it all.")
    return_type: str = Field(default="", description="The value's class; empty if there is no value.")
    representations: list[DocumentReport] = Field(default=[], description="HTML, SVG, LaTeX and so on of the value.")
    error: ErrorReport | None = None
    exit_code: int | None = None
    signal: str = ""
    limit: str = Field(default="", description="The limit that ended the run, such as memory.")
    figures: list[FigureReport] = []
    files: list[FileReport] = Field(default=[], description="Files made or changed below the mounted directory.")
    files_complete: bool = Field(default=True, description="Whether files lists all of them.")
    packages: list[PackageReport] = []
    unknown_imports: list[UnknownImportReport] = []
    python_version: str = ""
    template: str = ""
    environment: str = ""
    start: str = ""
    engine: str = ""
    timings_ms: dict[str, float] = {}
    isolation: IsolationReport | None = None
    notes: list[str] = []
    attempts: list[str] = []
    progress: ProgressReport | None = Field(default=None, description="Only while status is running.")


class PlannedPackageReport(_Part):
    """A package that the code needs, and why."""

    spec: str
    name: str
    manager: str
    import_name: str
    decision: str
    reason: str
    confidence: float
    channel: str
    version: str = ""


class PlanReport(_Part):
    """What a run would install."""

    packages: list[PlannedPackageReport] = []
    unknown_imports: list[UnknownImportReport] = []
    python: str = ""
    channels: list[str] = []
    added_packages: int = 0
    download_bytes: int = 0
    notes: list[str] = []
