"""Results and plans as JSON documents, for `--json` and for whoever stores them."""

from __future__ import annotations

import base64
import dataclasses
from typing import Any

from .models import Plan, RunResult


def result_document(result: RunResult) -> dict[str, Any]:
    """Return a result as JSON data; figures are base64 text."""
    document: dict[str, Any] = _plain(result)
    for figure, row in zip(result.figures, document["figures"], strict=True):
        row["data"] = base64.b64encode(figure.data).decode()
    return document


def plan_document(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON data."""
    document: dict[str, Any] = _plain(plan)
    return document


def _plain(value: Any) -> Any:
    """Turn dataclasses, tuples and mappings into what `json.dumps` writes."""
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict) or hasattr(value, "items"):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    return value
