"""Spans: what a run does, for whoever has set up a tracer."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from mcp import Client
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mcp_conda_run.models import Progress, RunRequest
from mcp_conda_run.runtime import Runtime
from mcp_conda_run.server.app import make_server
from mcp_conda_run.server.runs import Runs
from mcp_conda_run.tracing import record_span, run_span
from tests.support.warm import small_settings


@pytest.fixture(scope="session")
def exporter() -> InMemorySpanExporter:
    """The exporter of a provider that stays: the API takes one a process."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def spans(exporter) -> Iterator[InMemorySpanExporter]:
    exporter.clear()
    yield exporter
    exporter.clear()


def by_name(spans: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in spans.get_finished_spans()}


@pytest.mark.skipif(sys.platform != "linux", reason="runs need Linux")
async def test_a_run_is_a_span_with_its_phases_below_the_call(spans, warm_small_cache, small_channel, tmp_path):
    settings = small_settings(warm_small_cache, small_channel, path=tmp_path)
    async with Runs(settings) as runs, Client(make_server(runs)) as client:
        await client.call_tool("run_python_code", {"python_code": "import mcr_old_format\n1"})  # no other test's
    found = by_name(spans)
    run = found["conda_run"]
    assert run.parent is not None
    assert run.context.trace_id == found["tools/call run_python_code"].context.trace_id
    assert dict(run.attributes)["conda_run.status"] == "success"
    assert dict(run.attributes)["conda_run.packages"] == "mcr-old-format"
    phases = {f"conda_run.{name}" for name in ("plan", "environment", "solve", "build", "start", "run", "clean")}
    assert phases <= set(found)
    for name in phases:
        assert found[name].parent.span_id == run.context.span_id
        assert run.start_time <= found[name].start_time <= found[name].end_time <= run.end_time + 1_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="runs need Linux")
async def test_a_run_of_the_library_or_the_command_line_is_a_span_too(spans, warm_small_cache, small_channel, tmp_path):
    async with Runtime(small_settings(warm_small_cache, small_channel, path=tmp_path, pool_mb=0)) as runtime:
        result = await runtime.run(RunRequest(code="1"))
    found = by_name(spans)
    assert dict(found["conda_run"].attributes)["conda_run.run_id"] == result.run_id
    assert found["conda_run.run"].parent.span_id == found["conda_run"].context.span_id


def test_progress_becomes_spans_where_it_changes(spans):
    with run_span("a") as span:
        for phase in ("solve", "solve", "download", "link", "compile", "run", "run"):
            span.note(Progress(phase, ""))
    assert [each.name.partition(".")[2] for each in spans.get_finished_spans()] == ["solve", "download", "build", ""]


def test_a_span_may_have_ended_a_while_ago(spans):
    record_span("start", 1.0, ended_s_ago=2.0)
    record_span("run", 2.0)
    found = by_name(spans)
    start, run = found["conda_run.start"], found["conda_run.run"]
    assert start.end_time - start.start_time == 1_000_000_000
    assert abs(start.end_time - run.start_time) < 100_000_000


def test_a_program_without_a_tracer_loads_none():
    code = (
        "import sys\nfrom mcp_conda_run.tracing import record_span, run_span\nrecord_span('plan', 1)\n"
        "with run_span('a') as span: span.describe(status='success')\nassert 'opentelemetry' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
