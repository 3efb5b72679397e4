"""Which of a run's figures may be shown to a model as images.

Called by `results.py`. A broken image is worse than none: model providers refuse the whole conversation for it. So the
bytes of the hostile guest are checked (signature, every chunk's checksum, size in pixels); they are never decoded here.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

MAX_PIXELS_A_SIDE = 8000
"""What the common model providers accept."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNK_OVERHEAD = 12  # length, type, checksum (W3C PNG specification, 5.3)


def figure_name(number: int, mime_type: str) -> str:
    """Return the name of a run's figure as a resource, such as `figure-1.png`; figures are counted from 1."""
    return f"figure-{number}.{_SUFFIXES.get(mime_type, 'bin')}"


def is_showable(mime_type: str, data: bytes) -> bool:
    """Say whether the data is a whole image of the type that it claims, of a type that models take."""
    check = _CHECKS.get(mime_type)
    return check is not None and check(data)


def _is_png(data: bytes) -> bool:
    if not data.startswith(_PNG_SIGNATURE):
        return False
    at, seen_data = len(_PNG_SIGNATURE), False
    while at + _PNG_CHUNK_OVERHEAD <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind = data[at + 4 : at + 8]
        end = at + _PNG_CHUNK_OVERHEAD + length
        if end > len(data) or zlib.crc32(data[at + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            return False
        if at == len(_PNG_SIGNATURE) and not _is_png_header(kind, data[at + 8 : end - 4]):
            return False
        seen_data = seen_data or kind == b"IDAT"
        if kind == b"IEND":
            return seen_data and end == len(data)
        at = end
    return False


def _is_png_header(kind: bytes, body: bytes) -> bool:
    if kind != b"IHDR" or len(body) != struct.calcsize(">IIBBBBB"):
        return False
    return _is_size(*struct.unpack_from(">II", body))


def _is_size(*sides: int) -> bool:
    return all(0 < side <= MAX_PIXELS_A_SIDE for side in sides)


def _is_jpeg(data: bytes) -> bool:
    """Walk the segments to the frame header, which has the size (ITU-T T.81, annex B)."""
    if not (data.startswith(b"\xff\xd8") and data.endswith(b"\xff\xd9")):
        return False
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:  # noqa: PLR2004 - every segment begins with 0xFF
        marker = data[at + 1]
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker in _JPEG_FRAMES:
            return _is_size(*struct.unpack_from(">HH", data, at + 5))
        at += 2 + length
    return False


_SUFFIXES = {"image/png": "png", "image/jpeg": "jpg", "image/svg+xml": "svg"}
_JPEG_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
_CHECKS: dict[str, Callable[[bytes], bool]] = {"image/png": _is_png, "image/jpeg": _is_jpeg}
