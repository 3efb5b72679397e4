"""`RunResult` -> the answer of a tool: text in the seed's shape, structured content, images, links.

Called by `tools.py`. Text and structured content are each complete alone, because clients show a model only one of
them. The serialized answer stays below `MAX_RESULT_BYTES` whatever the code did: larger ones close the connection of
some clients (an event of server-sent events may have 1 MiB there).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence

from mcp.types import CallToolResult, ContentBlock, ImageContent, ResourceLink, TextContent

from ..errors import CondaRunError, InstallError
from ..models import Json, Plan, Progress, RunError, RunResult, Status
from .files import file_type
from .images import figure_name, is_showable
from .report import (
    Budget,
    clean,
    head_and_tail,
    plain_json,
    plan_report,
    report_of,
    resource_uri,
    running_report,
    short,
)
from .runs import Run
from .schema import ErrorReport, FigureReport, PlannedPackageReport, PlanReport, Report

MAX_RESULT_BYTES = 690_000
MAX_LINKS = 20
_LINKED = frozenset({"text/html", "image/svg+xml"})
"""What a person can look at; a client shows a model either links or structured content, so links are not for all."""

_INDENTED_JSON = 2000
"""Up to this length a value is printed with indentation; above it one item a line wastes a model's tokens."""

_TAGS = ("status", "dependencies", "output", "return_value", "error", "notes")
_CLOSING = re.compile(rf"<(/\s*(?:{'|'.join(_TAGS)})\b[^<>]*)(>?)", re.IGNORECASE)


def answer_of(run: Run) -> CallToolResult:
    """Return the answer for a run as it stands: its result, why it could not be tried, or that it goes on."""
    if run.error is not None:
        return error_result(run.error)
    if run.result is not None:
        return tool_result(run.result)
    return running_result(run.run_id, run.progress, run.elapsed_s)


def tool_result(result: RunResult) -> CallToolResult:
    """Return the answer for a finished run.

    What the user's code did wrong is a normal answer (clients end the agent after repeated errors); only a run that
    could not be prepared is an error of the tool.
    """
    budget = Budget()
    answer = _answer(result, budget)
    while size_bytes(answer) > MAX_RESULT_BYTES and budget.text:
        budget = budget.smaller()
        answer = _answer(result, budget)
    return answer


def running_result(run_id: str, progress: Progress, elapsed_s: float) -> CallToolResult:
    """Return the answer for a run that goes on in the background."""
    report = running_report(run_id, progress, elapsed_s)
    doing = short(progress.message, 500) or short(progress.phase, 200) or "starting"
    text = "\n".join(
        (
            "<status>running</status>",
            *_block(
                "notes", f'{doing} ({elapsed_s:.0f} s). It goes on: call get_run with run_id="{run_id}" to wait for it.'
            ),
        )
    )
    return _result([TextContent(type="text", text=text)], report)


def error_result(error: CondaRunError) -> CallToolResult:
    """Return the answer for a request that cannot be served, or a machine that cannot serve it."""
    status = Status.INSTALL_ERROR if isinstance(error, InstallError) else Status.RUN_ERROR
    run_error = RunError(type=error.code, message=error.message, traceback=error.details, hint=error.hint)
    report = report_of(RunResult(status=status, error=run_error), Budget(), json_value=None, figures=[])
    return _result([TextContent(type="text", text=text_of(report))], report, is_error=True)


def plan_result(plan: Plan) -> CallToolResult:
    """Return the answer for a plan: what would be installed, and why."""
    report = plan_report(plan)
    lines = [f"{_what(p)} ({p.channel or p.manager}): {p.reason}" for p in report.packages]
    if report.added_packages:
        lines.append(
            f"{report.added_packages} package(s) in all, at most {report.download_bytes / 1e6:.1f} MB to fetch."
        )
    lines += _unknown_lines(report)
    lines += report.notes
    text = "\n".join(
        (
            "<status>success</status>",
            *_dependencies([package.name for package in report.packages]),
            *_block("notes", "\n".join(lines) or "Nothing to install: the template has all that the code imports."),
        )
    )
    return _result([TextContent(type="text", text=text)], report)


def _what(package: PlannedPackageReport) -> str:
    return f"{package.name} {package.version}" if package.version else package.spec


def size_bytes(answer: CallToolResult) -> int:
    """Return the size of the answer as it goes over the wire."""
    return len(answer.model_dump_json(by_alias=True, exclude_none=True).encode())


def text_of(report: Report, json_text: str | None = None) -> str:
    """Return the text of a report, in the shape of the servers that people use today.

    Args:
        report: what is said.
        json_text: the value as JSON, if there is one.
    """
    lines = [f"<status>{report.status}</status>"]
    lines += _dependencies([package.name for package in report.packages])
    if report.output:
        lines += _block("output", report.output.removesuffix("\n"))
    value = report.return_text if json_text is None else json_text
    if report.error is not None:
        lines += _block("error", _error_text(report.error))
    elif report.return_type and report.return_type.removeprefix("builtins.") != "NoneType":
        lines += _block("return_value", value)
    notes = _notes(report)
    if notes:
        lines += _block("notes", "\n".join(notes))
    return "\n".join(lines)


def _answer(result: RunResult, budget: Budget) -> CallToolResult:
    json_value, json_text = _json_forms(result, budget)
    images, figures = _figures(result, budget)
    report = report_of(result, budget, json_value=json_value, figures=figures)
    text = text_of(report, None if _has_markdown(result) else json_text)
    content: list[ContentBlock] = [TextContent(type="text", text=text), *images, *_links(result, report)]
    return _result(content, report, is_error=result.status is Status.INSTALL_ERROR)


def _result(content: Sequence[ContentBlock], report: Report | PlanReport, *, is_error: bool = False) -> CallToolResult:
    return CallToolResult(content=list(content), structured_content=report.model_dump(mode="json"), is_error=is_error)


def _has_markdown(result: RunResult) -> bool:
    """Say whether the value is better read than as JSON: as the table that it is."""
    return result.value is not None and any(each.mime_type == "text/markdown" for each in result.value.representations)


def _json_forms(result: RunResult, budget: Budget) -> tuple[Json, str | None]:
    """Return the value's JSON form as data and as text; None for what is too large or is none."""
    value = result.value
    if value is None or not value.is_json or value.truncated:
        return None, None
    try:
        data = plain_json(value.json)
        compact = json.dumps(data, ensure_ascii=False)
    except (ValueError, RecursionError):
        return None, None
    if len(compact.encode()) > budget.value:
        return None, None
    if isinstance(data, str):
        return data, head_and_tail(data, budget.text)
    if len(compact) > _INDENTED_JSON:
        return data, head_and_tail(compact, budget.text)
    return data, json.dumps(data, ensure_ascii=False, indent=2)


def _figures(result: RunResult, budget: Budget) -> tuple[list[ImageContent], list[FigureReport]]:
    """Return the images that fit, and what became of each figure."""
    images: list[ImageContent] = []
    reports: list[FigureReport] = []
    left = budget.images
    for number, figure in enumerate(result.figures[: budget.items], start=1):
        size = (len(figure.data) + 2) // 3 * 4
        shown = size <= min(left, budget.image) and is_showable(figure.mime_type, figure.data)
        if shown:
            left -= size
            data = base64.b64encode(figure.data).decode()
            images.append(ImageContent(type="image", data=data, mime_type=figure.mime_type))
        reports.append(
            FigureReport(
                title=short(figure.title, 200),
                mime_type=short(figure.mime_type, 100),
                size_bytes=len(figure.data),
                shown=shown,
                uri=resource_uri(result, figure_name(number, figure.mime_type)),
            )
        )
    return images, reports


def _links(result: RunResult, report: Report) -> list[ResourceLink]:
    """Return links to the originals of what the answer could not carry."""
    if not result.run_id:
        return []
    links = [
        ResourceLink(
            type="resource_link",
            uri=figure.uri,
            name=figure.uri.rpartition("/")[2],
            mime_type=figure.mime_type,
            size=figure.size_bytes,
        )
        for figure in report.figures
        if not figure.shown
    ]
    links += [
        ResourceLink(
            type="resource_link",
            uri=document.uri,
            name=document.uri.rpartition("/")[2],
            mime_type=document.mime_type,
            size=document.size_bytes,
        )
        for document in report.representations
        if document.mime_type in _LINKED and not _is_json(result)
    ]
    links += [
        ResourceLink(
            type="resource_link",
            uri=file.uri,
            name=file.path.rpartition("/")[2],
            mime_type=file_type(file.path),
            size=file.size_bytes,
        )
        for file in report.files
        if file.uri
    ]
    if report.output != clean(result.output):
        links.insert(
            0,
            ResourceLink(
                type="resource_link",
                uri=resource_uri(result, "output"),
                name="output",
                mime_type="text/plain",
                size=len(result.output),
            ),
        )
    return links[:MAX_LINKS]


def _is_json(result: RunResult) -> bool:
    return result.value is not None and result.value.is_json


def _dependencies(names: Sequence[str]) -> list[str]:
    return [f"<dependencies>{_escape(json.dumps(names, ensure_ascii=False))}</dependencies>"] if names else []


def _block(tag: str, content: str) -> list[str]:
    return [f"<{tag}>", _escape(content), f"</{tag}>"]


def _escape(content: str) -> str:
    """Take from the content the power to close a block: `</output>` becomes `&lt;/output&gt;`."""
    return _CLOSING.sub(lambda found: f"&lt;{found[1]}{'&gt;' if found[2] else ''}", content)


def _error_text(error: ErrorReport) -> str:
    said = error.traceback.rstrip("\n") or ""
    headline = f"{error.type}: {error.message}"
    parts = [said] if error.message and error.message in said else [headline, said]
    return "\n".join(part for part in (*parts, error.hint) if part)


def _unknown_lines(report: Report | PlanReport) -> list[str]:
    lines = []
    for unknown in report.unknown_imports:
        candidates = ", ".join(f"{c.name} ({c.channel})" for c in unknown.candidates)
        offer = f" It may be in: {candidates}; if so, pass it in `packages`." if candidates else ""
        lines.append(f"import {unknown.import_name}: {unknown.reason}{offer}")
    return lines


def _notes(report: Report) -> list[str]:
    """Return what a reader of the text alone must still know."""
    lines = _file_lines(report)
    lines += [f"{p.name} {p.version} from {p.channel}: {p.reason}" for p in report.packages]
    lines += _unknown_lines(report)
    lines += report.notes
    if len(report.attempts) > 1:
        lines.append(f"The code ran {len(report.attempts)} times: {'; '.join(report.attempts)}")
    if report.signal or report.limit:
        cause = f"Ended by the {report.limit} limit" if report.limit else f"Ended by signal {report.signal}"
        lines.append(f"{cause}.")
    elif report.exit_code and not (report.error is not None and report.error.traceback):
        lines.append(f"Exit code {report.exit_code}.")
    if report.output_dropped_bytes:
        lines.append(f"{report.output_dropped_bytes} bytes of output were not kept.")
    hidden = [figure for figure in report.figures if not figure.shown]
    if hidden:
        lines.append(
            f"{len(hidden)} of {len(report.figures)} figures are not shown; read them as resources, or save them."
        )
    if report.python_version:
        lines.append(_circumstances(report))
    return [line for line in lines if line]


def _file_lines(report: Report) -> list[str]:
    if not report.files:
        return []
    named = [f"{file.path} ({file.size_bytes} bytes)" for file in report.files[:MAX_LINKS]]
    more = len(report.files) - len(named)
    rest = [f"{more} more" if report.files_complete else "more"] if more or not report.files_complete else []
    return [f"Files made or changed: {', '.join(named + rest)}."]


def _circumstances(report: Report) -> str:
    said = [f"Python {report.python_version}", f"template {report.template}"]
    if report.isolation is not None:
        said.append(f"isolation {report.isolation.tier}, network {report.isolation.network}")
    if "total" in report.timings_ms:
        said.append(f"{report.timings_ms['total'] / 1000:.2f} s")
    if report.run_id:
        said.append(f"run_id {report.run_id}")
    return f"{', '.join(said)}."
