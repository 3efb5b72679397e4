"""JSON as the guest speaks it, by the C part of Python's `json`, without the time that importing the rest takes.

Used by `execute.py`. `json` imports `re`, and with it a quarter of what an interpreter without packages has to load.
The C functions below are those that `json.dumps` and `json.loads` call; where they are missing or want to be called
otherwise, `json` itself does the work.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


class Reading:
    """How values are read, as `json.decoder.JSONDecoder` has it by default."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": -float("inf")}.__getitem__


def unwritable(value: Any) -> Any:
    """Refuse a value that has no form."""
    raise TypeError(f"{type(value).__name__} has no JSON form")


def fast() -> tuple[Callable[[Mapping[str, Any]], str], Callable[[str], Any]]:
    """Return what writes a message and what reads one, by the C functions.

    Raises:
        ImportError: they are not there.
        TypeError: they want to be called otherwise.
    """
    import _json

    c: Any = _json
    write = c.make_encoder(None, unwritable, c.encode_basestring_ascii, None, ": ", ", ", False, False, True)
    read = c.make_scanner(Reading)

    def encode(message: Mapping[str, Any]) -> str:
        return "".join(write(message, 0))

    def decode(text: str) -> Any:
        value, end = read(text, 0)
        if end != len(text):
            raise ValueError("there is more than one value")
        return value

    if decode(encode({"a": [1, 1.5, None]})) != {"a": [1, 1.5, None]}:
        raise TypeError("the C functions do something else")
    return encode, decode


def slow() -> tuple[Callable[[Mapping[str, Any]], str], Callable[[str], Any]]:
    """Return the same by `json`."""
    import json

    return json.JSONEncoder(check_circular=False).encode, json.loads


try:
    encode, decode = fast()
except (ImportError, TypeError, AttributeError):
    encode, decode = slow()
