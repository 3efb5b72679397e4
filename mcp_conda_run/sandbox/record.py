"""The one message that a guest sends about its program, as the host believes it: checked, bounded, typed.

Used by `conversation.py`; the fields are those of guest/PROTOCOL.md. The guest is hostile: whatever it sends is either
a `GuestRecord` that is safe to serialize and to show, or a `BadRecordError`, which means "no record".
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from dataclasses import asdict, dataclass
from typing import Any

from ..models import Figure, Json, Representation, RunError, Value

MAX_DEPTH = 100
MAX_NOTES = 20
MAX_NOTE = 1000
MAX_NAME = 300
MAX_MESSAGE = 2000
MAX_MISSING = 20
MAX_REPRESENTATIONS = 10
VALUE_SLACK_BYTES = 8192
"""The guest counts the bytes of a value only roughly while it makes its JSON form."""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
SIGNATURES = {"image/png": PNG_SIGNATURE, "image/jpeg": b"\xff\xd8\xff"}
TEXT_TYPES = frozenset({"text/html", "text/markdown", "text/latex", "image/svg+xml"})
JSON_TYPE = re.compile(r"application/[A-Za-z0-9.+-]{0,80}json")


class BadRecordError(Exception):
    """What the guest sent is no record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordLimits:
    """How much a guest may say.

    Attributes:
        value_bytes: the value's JSON form, as ASCII JSON.
        text_bytes: the value's text and the traceback, each as ASCII JSON.
        representation_bytes: the value's other representations together, as ASCII JSON.
        figure_bytes: each image; in base64 still small enough to be shown to a model (`server/report.py`).
        figures: the number of images; matplotlib itself warns above it.
    """

    value_bytes: int = 256 * 1024
    text_bytes: int = 64 * 1024
    representation_bytes: int = 512 * 1024
    figure_bytes: int = 220_000
    figures: int = 20

    def record_bytes(self) -> int:
        """Return how long a whole record may be."""
        texts = self.value_bytes + 2 * self.text_bytes + self.representation_bytes
        return texts + self.figures * (self.figure_bytes * 4 // 3 + 4096) + 256 * 1024

    def to_json(self) -> dict[str, int]:
        """Return the `limits` field of a request."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestRecord:
    """What the guest says of its program; true only as far as the program is honest.

    Attributes:
        value: the last expression's value, or None.
        error: how the program failed, or None.
        missing: the modules that ImportErrors in the exception's chain named.
        exit_code: what the process was to exit with.
        figures: the images that are PNG or JPEG by their signature and within bounds.
        mapped: how many constant strings were mapped to the host's paths.
        notes: what the user should know.
    """

    value: Value | None = None
    error: RunError | None = None
    missing: tuple[str, ...] = ()
    exit_code: int = 0
    figures: tuple[Figure, ...] = ()
    mapped: int = 0
    notes: tuple[str, ...] = ()


def parse_record(body: bytes, limits: RecordLimits) -> GuestRecord:
    """Check a message and return it as a record. Takes time in proportion to its length.

    Raises:
        BadRecordError: it is none.
    """
    try:
        message = json.loads(body.decode("ascii"))
    except (ValueError, RecursionError) as trouble:
        raise BadRecordError(f"not JSON: {type(trouble).__name__}") from None
    fields = _take(message, dict)
    error, missing = _error(fields.get("error"), limits)
    figures, notes = _figures(fields.get("figures"), limits)
    return GuestRecord(
        value=_value(fields.get("value"), limits),
        error=error,
        missing=missing,
        exit_code=_take(fields.get("exit_code"), int) & 0xFF,
        figures=figures,
        mapped=min(max(_take(fields.get("mapped"), int), 0), 1 << 31),
        notes=(*_texts(fields.get("notes"), MAX_NOTES, MAX_NOTE), *notes),
    )


def parse_over(body: bytes) -> int:
    """Return the exit code with which the guest says that its program is over.

    Raises:
        BadRecordError: it says something else.
    """
    try:
        message = json.loads(body.decode("ascii"))
    except (ValueError, RecursionError) as trouble:
        raise BadRecordError(f"not JSON: {type(trouble).__name__}") from None
    return int(_take(_take(message, dict).get("over"), int)) & 0xFF


def _take(value: Any, kind: type) -> Any:
    """Return the value if it is exactly of this class (a bool is no int)."""
    if type(value) is not kind:
        raise BadRecordError(f"a {kind.__name__} was expected, not a {type(value).__name__}")
    return value


def _text(value: Any, limit: int) -> str:
    """Return a text that any encoder takes, of at most `limit` characters."""
    text: str = _take(value, str)[:limit]
    return text.encode("utf-8", "replace").decode()


def _texts(value: Any, count: int, limit: int) -> tuple[str, ...]:
    return tuple(_text(item, limit) for item in _take(value, list)[:count])


def _value(value: Any, limits: RecordLimits) -> Value | None:
    if value is None:
        return None
    fields = _take(value, dict)
    is_json = _take(fields.get("is_json"), bool)
    plain = None
    truncated = _take(fields.get("truncated"), bool)
    if is_json:
        try:
            plain = _plain(fields.get("json"), MAX_DEPTH)
            is_json = len(json.dumps(plain, separators=(",", ":"))) <= limits.value_bytes + VALUE_SLACK_BYTES
        except (BadRecordError, RecursionError, ValueError):
            is_json = False
        if not is_json:
            plain, truncated = None, True
    return Value(
        json=plain,
        is_json=is_json,
        text=_text(fields.get("text"), limits.text_bytes),
        type=_text(fields.get("type"), MAX_NAME),
        truncated=truncated,
        representations=_representations(fields.get("representations", []), limits),
    )


def _representations(value: Any, limits: RecordLimits) -> tuple[Representation, ...]:
    """Return the documents of known types that are whole; what is no text of its type is passed over."""
    found: dict[str, Representation] = {}
    left = limits.representation_bytes
    for item in _take(value, list)[:MAX_REPRESENTATIONS]:
        fields = _take(item, dict)
        mime_type, text = _take(fields.get("mime_type"), str), _take(fields.get("data"), str)
        left -= len(text)
        if left >= 0 and mime_type not in found and _is_document(mime_type, text):
            found[mime_type] = Representation(mime_type, _text(text, len(text)))
    return tuple(found.values())


def _is_document(mime_type: str, text: str) -> bool:
    if JSON_TYPE.fullmatch(mime_type):
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            return False
        return True
    return mime_type in TEXT_TYPES and (mime_type != "image/svg+xml" or "<svg" in text)


def _plain(value: Any, depth: int) -> Json:
    """Return the value with texts and numbers that every JSON encoder writes and every decoder reads."""
    if depth < 0:
        raise BadRecordError("too deep")
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    if isinstance(value, list):
        return [_plain(item, depth - 1) for item in value]
    if isinstance(value, dict):
        return {key.encode("utf-8", "replace").decode(): _plain(item, depth - 1) for key, item in value.items()}
    return value


def _error(value: Any, limits: RecordLimits) -> tuple[RunError | None, tuple[str, ...]]:
    if value is None:
        return None, ()
    fields = _take(value, dict)
    missing = _texts(fields.get("missing"), MAX_MISSING, MAX_NAME)
    error = RunError(
        type=_text(fields.get("type"), MAX_NAME),
        message=_text(fields.get("message"), MAX_MESSAGE).partition("\n")[0],
        traceback=_text(fields.get("traceback"), limits.text_bytes),
        missing_module=missing[0] if missing else "",
    )
    return error, missing


def _figures(value: Any, limits: RecordLimits) -> tuple[tuple[Figure, ...], tuple[str, ...]]:
    """Return the images that can be shown, and a note if some cannot."""
    claimed = _take(value, list)
    figures = []
    for item in claimed[: limits.figures]:
        fields = _take(item, dict)
        try:
            data = base64.b64decode(_take(fields.get("data"), str), validate=True)
        except (binascii.Error, ValueError):
            continue
        signature = SIGNATURES.get(_take(fields.get("mime_type"), str))
        if signature is not None and data.startswith(signature) and len(data) <= limits.figure_bytes:
            figures.append(Figure(fields["mime_type"], data, _text(fields.get("title"), MAX_NAME)))
    left_out = len(claimed) - len(figures)
    return tuple(figures), (f"{left_out} figure(s) left out: no PNG or JPEG, or too large.",) if left_out else ()
