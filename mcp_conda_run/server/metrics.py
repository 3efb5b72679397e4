"""Numbers for an operator, in Prometheus' text format. Used by `http.py`."""

from __future__ import annotations

from .runs import Runs


def prometheus_text(runs: Runs) -> str:
    """Return the counters (https://prometheus.io/docs/instrumenting/exposition_formats/)."""
    lines = [
        "# HELP mcp_conda_run_runs_active Runs under way or waiting for a slot.",
        "# TYPE mcp_conda_run_runs_active gauge",
        f"mcp_conda_run_runs_active {runs.active}",
        "# HELP mcp_conda_run_runs_total Runs that ended, by how.",
        "# TYPE mcp_conda_run_runs_total counter",
        *(f'mcp_conda_run_runs_total{{status="{status}"}} {count}' for status, count in sorted(runs.ended.items())),
        "# HELP mcp_conda_run_run_seconds Time from the call to the end of a run.",
        "# TYPE mcp_conda_run_run_seconds summary",
        f"mcp_conda_run_run_seconds_sum {runs.seconds:.3f}",
        f"mcp_conda_run_run_seconds_count {sum(runs.ended.values())}",
    ]
    return "\n".join(lines) + "\n"
