"""What a run prints, kept within bounds: head and tail of each stream, and of both in the order of their arrival.

Used by `conversation.py`. Counts bytes, cuts between characters, and never raises on any bytes.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Output:
    """The output of a run, as text.

    Attributes:
        both: standard output and standard error in the order in which they arrived.
        stdout, stderr: each alone.
        dropped_bytes: how many bytes are missing from `both`; a line in the text says where.
    """

    both: str
    stdout: str
    stderr: str
    dropped_bytes: int


class HeadAndTail:
    """Keeps the first and the last part of a stream of UTF-8.

    Args:
        limit: how many bytes to keep at most, in all.
    """

    def __init__(self, limit: int) -> None:
        self._head_limit = limit // 2
        self._tail_limit = limit - self._head_limit
        self._head = bytearray()
        self._tail = bytearray()
        self._total = 0

    def add(self, data: bytes) -> None:
        """Take the next bytes."""
        self._total += len(data)
        room = self._head_limit - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > 2 * self._tail_limit + 65536:
            del self._tail[: -self._tail_limit or None]

    def text(self) -> tuple[str, int]:
        """Return what was kept, with a line that says how much is missing in between, and how much that is."""
        if self._total <= self._head_limit + self._tail_limit:
            return (self._head + self._tail).decode("utf-8", "replace"), 0
        tail = self._tail[-self._tail_limit :] if self._tail_limit else b""
        before = self._head.decode("utf-8", "ignore")
        after = tail.decode("utf-8", "ignore")
        dropped = self._total - len(before.encode()) - len(after.encode())
        return f"{before}\n... [{dropped} bytes of output left out] ...\n{after}", dropped


class Collector:
    """Collects both streams of a run.

    Args:
        limit: how many bytes to keep, of each stream and of both together; 0 for all.
    """

    def __init__(self, limit: int) -> None:
        limit = limit or (1 << 62)
        self.received_bytes = 0
        self._both = HeadAndTail(limit)
        self._each = {"stdout": HeadAndTail(limit), "stderr": HeadAndTail(limit)}
        make = codecs.getincrementaldecoder("utf-8")
        self._decoders = {"stdout": make("replace"), "stderr": make("replace")}

    def add(self, stream: str, data: bytes, *, final: bool = False) -> None:
        """Take the next bytes of `stdout` or `stderr`; a character that is not complete yet waits for its rest."""
        self.received_bytes += len(data)
        whole = self._decoders[stream].decode(data, final).encode()
        self._each[stream].add(whole)
        self._both.add(whole)

    def finish(self) -> Output:
        """Return what was collected."""
        for stream in self._each:
            self.add(stream, b"", final=True)
        both, dropped = self._both.text()
        return Output(both, self._each["stdout"].text()[0], self._each["stderr"].text()[0], dropped)
