"""How a `RunResult` becomes what `schema.py` publishes.

Called by `results.py`. Every string and list in it is bounded and serializable whatever the code did: a run's values
come from a hostile guest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from urllib.parse import quote

from ..models import ChangedFile, Json, Plan, Progress, RunError, RunResult, UnknownImport, Value
from .schema import (
    CandidateReport,
    DocumentReport,
    ErrorReport,
    FigureReport,
    FileReport,
    IsolationReport,
    PackageReport,
    PlannedPackageReport,
    PlanReport,
    ProgressReport,
    Report,
    UnknownImportReport,
)

MAX_FILE_BYTES = 700_000
"""Larger files are listed but not served: in base64 they would not pass as an event of server-sent events (1 MiB)."""

MAX_DEPTH = 64
"""Deeper JSON than this is shown as text: pydantic's serializer gives up at 255 levels, and clients sooner."""

DOCUMENT_SUFFIXES = {"text/html": "html", "text/markdown": "md", "text/latex": "tex", "image/svg+xml": "svg"}
_NATIVE = frozenset({"str", "int", "float", "bool", "list", "dict", "NoneType"})


@dataclass(frozen=True, slots=True)
class Budget:
    """How much of a run an answer may carry.

    Attributes:
        text: characters of each stream, of the value and of the traceback.
        value: bytes of the value as JSON.
        items: entries of each list.
        image: bytes of one image in base64.
        images: bytes of all the images in base64.
        document: characters of each document that the value offers beside its text.
    """

    text: int = 20_000
    value: int = 40_000
    items: int = 100
    image: int = 300_000
    images: int = 590_000
    document: int = 4000

    def smaller(self) -> Budget:
        """Return half of it."""
        return replace(
            self,
            text=self.text // 2,
            value=self.value // 2,
            items=max(self.items // 2, 1),
            image=self.image // 2,
            images=self.images // 2,
            document=self.document // 2,
        )


def clean(text: str) -> str:
    r"""Return the text without what UTF-8 cannot carry: lone surrogates become escapes such as `\udc80`."""
    return text.encode("utf-8", "backslashreplace").decode()


def head_and_tail(text: str, limit: int, where: str = "") -> str:
    """Return the text, or its head and tail and how much is missing between them."""
    text = clean(text)
    if len(text) <= limit:
        return text
    tail = limit // 2
    head = limit - tail
    left_out = len(text) - limit
    rest = f"; the whole: {where}" if where else ""
    return f"{text[:head]}\n[... {left_out} characters left out{rest} ...]\n{text[len(text) - tail :]}"


def short(text: str, limit: int) -> str:
    """Return one field's text, cut at its end."""
    text = clean(text)
    return text if len(text) <= limit else f"{text[: max(limit - 3, 0)]}..."


def plain_json(value: Json, depth: int = MAX_DEPTH) -> Json:
    """Return the value as every JSON parser takes it: no NaN, no lone surrogates, string keys.

    Raises:
        ValueError: it is nested too deeply, or is no JSON.
    """
    if depth == 0:
        raise ValueError("nested too deeply")
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list | tuple):
        return [plain_json(item, depth - 1) for item in value]
    if isinstance(value, dict):
        return {clean(str(key)): plain_json(item, depth - 1) for key, item in value.items()}
    raise ValueError(f"not JSON: {type(value).__name__}")


def is_plain(value: Value) -> bool:
    """Say whether the JSON form says all that there is to say, so that the text would only repeat it."""
    return value.type.removeprefix("builtins.") in _NATIVE


def document_name(value: Value, position: int) -> str:
    """Return the name of a document of the value as a resource, such as `value.html`."""
    suffix = DOCUMENT_SUFFIXES.get(value.representations[position].mime_type)
    return f"value.{suffix}" if suffix else f"document-{position + 1}.json"


def text_of_value(value: Value) -> str:
    """Return what a person reads of the value: its Markdown if it has one, which tables have."""
    markdown = [each.text for each in value.representations if each.mime_type == "text/markdown"]
    return markdown[0] if markdown else value.text


def documents_of(result: RunResult, budget: Budget) -> list[DocumentReport]:
    """Return the documents that the value offers, with their text where it says something new and is short."""
    value = result.value
    if value is None:
        return []
    rows = []
    for position, each in enumerate(value.representations[: budget.items]):
        new = each.mime_type not in {"text/markdown", "text/html" if value.is_json else ""}
        text = clean(each.text) if new and len(each.text) <= budget.document else ""
        uri = resource_uri(result, document_name(value, position))
        size_bytes = len(each.text.encode(errors="replace"))
        rows.append(DocumentReport(mime_type=short(each.mime_type, 100), size_bytes=size_bytes, text=text, uri=uri))
    return rows


def files_of(result: RunResult, budget: Budget) -> list[FileReport]:
    """Return what the run made or changed."""
    return [
        FileReport(path=short(file.path, 1000), size_bytes=file.size_bytes, uri=_file_uri(result, file))
        for file in result.files[: budget.items]
    ]


def _file_uri(result: RunResult, file: ChangedFile) -> str:
    if file.size_bytes > MAX_FILE_BYTES:
        return ""
    try:
        return resource_uri(result, f"files{quote(file.path)}")
    except UnicodeEncodeError:  # a name that is no text
        return ""


def error_report(error: RunError, budget: Budget) -> ErrorReport:
    """Return a bounded copy of what ended a run."""
    return ErrorReport(
        type=short(error.type, min(200, budget.text)),
        message=short(error.message, min(2000, budget.text)),
        traceback=head_and_tail(error.traceback, budget.text // 2),
        hint=short(error.hint, min(1000, budget.text)),
        missing_module=short(error.missing_module, min(200, budget.text)),
    )


def unknown_report(unknown: UnknownImport, limit: int) -> UnknownImportReport:
    """Return a bounded copy of an unknown import; its three best candidates."""
    return UnknownImportReport(
        import_name=short(unknown.import_name, limit),
        reason=short(unknown.reason, limit),
        candidates=[
            CandidateReport(name=short(c.name, limit), channel=short(c.channel, limit), reason=short(c.reason, limit))
            for c in unknown.candidates[:3]
        ],
    )


def resource_uri(result: RunResult, name: str) -> str:
    """Return where the original of a part of a result can be read, or nothing if it is not kept."""
    return f"run://{result.run_id}/{name}" if result.run_id else ""


def report_of(result: RunResult, budget: Budget, *, json_value: Json, figures: list[FigureReport]) -> Report:
    """Return the structured form of a result.

    Args:
        result: what is reported.
        budget: how much of it.
        json_value: the value's JSON form if it fits, else None.
        figures: what became of the figures.
    """
    limit = min(500, budget.text)
    value = result.value
    full_text = value is not None and (json_value is None or not is_plain(value))
    return Report(
        status=str(result.status),
        run_id=result.run_id,
        output=head_and_tail(result.output, budget.text, resource_uri(result, "output")),
        stdout=head_and_tail(result.stdout, budget.text, resource_uri(result, "stdout")),
        stderr=head_and_tail(result.stderr, budget.text, resource_uri(result, "stderr")),
        output_dropped_bytes=result.output_dropped_bytes,
        return_value=json_value,
        return_text=head_and_tail(text_of_value(value), budget.text) if value and full_text else "",
        return_type=short(value.type, limit) if value else "",
        representations=documents_of(result, budget),
        error=error_report(result.error, budget) if result.error else None,
        exit_code=result.exit_code,
        signal=short(result.signal, limit),
        limit=short(result.limit, limit),
        figures=figures[: budget.items],
        files=files_of(result, budget),
        files_complete=result.files_complete and len(result.files) <= budget.items,
        packages=[
            PackageReport(
                name=short(p.name, limit),
                version=short(p.version, limit),
                channel=short(p.channel, limit),
                import_name=short(p.import_name, limit),
                decision=short(p.decision, limit),
                reason=short(p.reason, limit),
            )
            for p in result.packages[: budget.items]
        ],
        unknown_imports=[unknown_report(unknown, limit) for unknown in result.unknown_imports[: budget.items]],
        python_version=short(result.python_version, limit),
        template=short(result.template, limit),
        environment=short(result.environment, limit),
        start=short(result.start, limit),
        engine=short(result.engine, limit) if result.packages else "",
        timings_ms={phase: round(ms, 2) for phase, ms in result.timings_ms.items()},
        isolation=_isolation(result, budget),
        notes=[short(note, limit) for note in result.notes[: budget.items]],
        attempts=[short(attempt, limit) for attempt in result.attempts[: budget.items]],
    )


def running_report(run_id: str, progress: Progress, elapsed_s: float) -> Report:
    """Return what is said of a run that goes on."""
    return Report(
        status="running",
        run_id=run_id,
        progress=ProgressReport(
            phase=short(progress.phase, 200), message=short(progress.message, 500), elapsed_s=round(elapsed_s, 1)
        ),
    )


def _isolation(result: RunResult, budget: Budget) -> IsolationReport | None:
    if result.isolation is None:
        return None
    limit = min(500, budget.text)
    return IsolationReport(
        tier=result.isolation.tier,
        network=short(result.isolation.network, limit),
        limits={name: short(what, limit) for name, what in result.isolation.limits.items()},
        notes=[short(note, limit) for note in result.isolation.notes[: budget.items]],
    )


def plan_report(plan: Plan, items: int = 200, limit: int = 500) -> PlanReport:
    """Return the structured form of a plan, with bounded lists and strings."""
    shown = plan.packages[:items]
    solved = [plan.solved(package) for package in shown]
    return PlanReport(
        packages=[
            PlannedPackageReport(
                spec=short(p.spec, limit),
                name=short(p.name, limit),
                manager=p.manager,
                import_name=short(p.import_name, limit),
                decision=short(p.decision, limit),
                reason=short(p.reason, limit),
                confidence=p.confidence,
                channel=short(found.channel if found else p.channel, limit),
                version=short(found.version if found else "", limit),
            )
            for p, found in zip(shown, solved, strict=True)
        ],
        unknown_imports=[unknown_report(unknown, limit) for unknown in plan.unknown[:items]],
        python=short(plan.python, limit),
        channels=[short(channel, limit) for channel in plan.channels[:items]],
        added_packages=len(plan.solution),
        download_bytes=plan.download_bytes,
        notes=[short(note, limit) for note in plan.notes[:items]],
    )
