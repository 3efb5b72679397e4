"""From an exception to what the record says of it: Python's traceback without our frames, one line, missing modules.

Called by `execute.py`, inside the environment. The exception is the user's: its methods may raise, its chain may be a
ring. Never raises itself.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType, TracebackType
    from typing import Any

MAX_CHAIN = 200
"""Exceptions looked at in one chain; Python itself shows fewer."""
MAX_MESSAGE = 2000
MAX_MISSING = 20
MAX_NAME = 300

CAUSE = BaseException.__dict__["__cause__"].__get__
CONTEXT = BaseException.__dict__["__context__"].__get__
TRACEBACK = BaseException.__dict__["__traceback__"].__get__
GROUP: Any = vars(__import__("builtins")).get("BaseExceptionGroup")  # from Python 3.11

own_files: set[str] = set()
"""The file names in the code objects of the guest's own modules; `execute.py` fills it."""


def describe(
    error: BaseException, main: CodeType | None, text_bytes: int, clip: Callable[[str, int], str]
) -> dict[str, Any]:
    """Return the record's `error` field.

    Args:
        error: what ended the program.
        main: the code object of the program, if it compiled.
        text_bytes: how long the traceback may be, as ASCII JSON.
        clip: cuts a text to so many bytes of ASCII JSON (`display.clip`).
    """
    try:
        for member in chain(error):
            BaseException.with_traceback(member, without_own_frames(TRACEBACK(member), main))
        traceback = traceback_text(error)
    except BaseException as trouble:
        traceback = f"{class_name(error)} (its traceback could not be made: {class_name(trouble)})\n"
    return {
        "type": class_name(error),
        "message": first_line(error),
        "traceback": shorten(traceback, text_bytes, clip),
        "missing": missing_modules(error),
    }


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the exception and all that it leads to: causes, contexts, members of groups; each once."""
    seen: set[int] = set()
    waiting: list[Any] = [error]
    while waiting and len(seen) < MAX_CHAIN:
        current = waiting.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        if GROUP is not None and issubclass(type(current), GROUP):
            waiting.extend(GROUP.__dict__["exceptions"].__get__(current)[:MAX_CHAIN])
        waiting += (CONTEXT(current), CAUSE(current))


def without_own_frames(traceback: TracebackType | None, main: CodeType | None) -> TracebackType | None:
    """Return the traceback from the user's program on, with frames of the guest in between left out."""
    entries: list[TracebackType] = []
    while traceback is not None:
        if traceback.tb_frame.f_code is main:
            entries.clear()  # what called the program is ours or the event loop's
        if traceback.tb_frame.f_code.co_filename not in own_files:
            entries.append(traceback)
        traceback = traceback.tb_next
    for entry, following in zip(entries, [*entries[1:], None]):  # noqa: B905 - equal lengths by construction
        entry.tb_next = following
    return entries[0] if entries else None


def traceback_text(error: BaseException) -> str:
    """Return what Python would print of an uncaught exception."""
    import traceback

    return "".join(traceback.format_exception(type(error), error, TRACEBACK(error)))


def first_line(error: BaseException) -> str:
    """Return the first line of the exception's text, bounded."""
    try:
        text = str.__str__(str(error))
    except BaseException as trouble:
        return f"(its text could not be made: {class_name(trouble)})"
    return text[: 2 * MAX_MESSAGE].strip().partition("\n")[0][:MAX_MESSAGE]


def class_name(error: BaseException) -> str:
    """Return the name of the exception's class."""
    return str.__str__(type.__dict__["__name__"].__get__(type(error)))


def missing_modules(error: BaseException) -> list[str]:
    """Return the modules that ImportErrors in the chain say are not there, first met first."""
    found: dict[str, None] = {}
    try:
        for member in chain(error):
            if issubclass(type(member), ImportError):
                name = missing_module(member)
                if name:
                    found[name] = None
    except BaseException:  # a hostile exception; what was found so far stands
        return list(found)[:MAX_MISSING]
    return list(found)[:MAX_MISSING]


def missing_module(error: Any) -> str:
    """Return the module whose absence the error reports, or nothing.

    `cannot import name` from a package that has a file is no absence; from a namespace package it is: the part that
    was asked for belongs to another distribution (`google.cloud.storage`).
    """
    name = error.name
    if type(name) is not str or len(name) > MAX_NAME:
        return ""
    if issubclass(type(error), ModuleNotFoundError):
        return name
    if error.path is not None:
        return ""
    if name not in sys.modules:
        return name
    part = getattr(error, "name_from", None)  # from Python 3.12
    if part is None:
        part = first_line(error).partition("cannot import name '")[2].partition("'")[0]
    return f"{name}.{part}" if type(part) is str and part.isidentifier() else ""


def exit_status(leaving: SystemExit) -> tuple[int, str]:
    """Return the exit code that Python makes of a SystemExit, and the text it prints to standard error, if any."""
    code = SystemExit.__dict__["code"].__get__(leaving)
    if code is None:
        return 0, ""
    if issubclass(type(code), int):
        return (code & 0xFF if -(2**63) <= code < 2**63 else 255), ""
    try:
        return 1, str.__str__(str(code))
    except BaseException:
        return 1, ""


def shorten(text: str, limit: int, clip: Callable[[str, int], str]) -> str:
    """Keep the head, and the tail, where the point of a traceback is, so that it takes `limit` bytes as ASCII JSON."""
    if clip(text, limit) == text:
        return text
    head = clip(text, limit // 4)
    tail = clip(text[::-1], limit // 4 * 3 - 100)[::-1]
    return f"{head}\n... [{len(text) - len(head) - len(tail)} characters left out] ...\n{tail}"
