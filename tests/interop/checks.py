"""What every client must get to see, whatever language it is written in."""

from __future__ import annotations

from typing import Any

TOOLS = ["cancel_run", "get_run", "plan_python_code", "run_python_code", "run_python_file"]


def check(report: dict[str, Any]) -> None:
    """Check the report of a client script (see `clients/common.py`)."""
    assert "failed" not in report, report["failed"]
    answers = report["answers"]
    assert report["tools"] == TOOLS
    assert "printed" in answers["value"]["text"]
    assert "10" in answers["value"]["text"]
    assert not answers["value"]["error"]
    assert "ZeroDivisionError: division by zero" in answers["failure"]["text"]
    assert not answers["failure"]["error"], "an error of the code is an ordinary answer"
    assert answers["image"]["images"] == 1
    assert answers["refused"]["error"]
    assert "did you mean 'timeout_s'?" in answers["refused"]["text"]
