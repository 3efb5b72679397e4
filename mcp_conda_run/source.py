"""From a request to source text: what is to run, read and checked before anything else happens.

Called by `runtime.py` first of all. Files are opened as hostile ones: nothing outside the mounts is read, and no pipe
or device can make the server wait.
"""

from __future__ import annotations

import io
import os
import posixpath
import stat
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import RequestError
from .models import Mount, RunRequest
from .sandbox.files_out import open_beneath


@dataclass(frozen=True, slots=True)
class Source:
    """Source text, and where it comes from.

    Attributes:
        code: the text.
        mount: for a file, the mount that it lies in; None for code.
        relative: for a file, its path below the mount, with forward slashes.
    """

    code: str
    mount: Mount | None = None
    relative: str = ""

    def local_roots(self, mounts: Sequence[Mount]) -> tuple[Path, ...]:
        """Return the host directories whose modules the code can import: its own directory, then the mounts."""
        own = [] if self.mount is None else [(self.mount.source / self.relative).parent]
        return tuple(dict.fromkeys([*own, *(mount.source for mount in mounts[:1])]))


def read_source(request: RunRequest, mounts: Sequence[Mount], max_bytes: int) -> Source:
    """Return the request's code, or its file's.

    Raises:
        RequestError: neither or both are given, or the code or the file cannot be run.
    """
    if (request.code is None) == (request.file is None):
        raise RequestError("Exactly one of code and file must be given.", code="no-code")
    if request.code is not None:
        return Source(_checked(request.code, "The code", max_bytes))
    mount, relative = _find(str(request.file), mounts)
    data = _read_file(str(request.file), mount, relative, max_bytes)
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        code = data.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError) as error:
        raise RequestError(
            f"The file {request.file} is not text that Python can read: {error}.",
            hint="Save it as UTF-8.",
            code="bad-file",
        ) from None
    return Source(_checked(code, f"The file {request.file}", max_bytes), mount, relative)


def _checked(code: str, what: str, max_bytes: int) -> str:
    if not code.strip():
        raise RequestError(f"{what} is empty.", hint="Give some Python code to run.", code="empty-code")
    if "\0" in code:
        raise RequestError(f"{what} contains a NUL byte.", hint="Python source is text.", code="bad-code")
    try:
        size = len(code.encode())
    except UnicodeEncodeError:
        raise RequestError(
            f"{what} contains half a surrogate pair.",
            hint="Send characters beyond U+FFFF whole, not as two escapes of which one is missing.",
            code="bad-code",
        ) from None
    if size > max_bytes:
        raise RequestError(
            f"{what} is {size} bytes long; at most {max_bytes} are accepted.",
            hint="Put data into a file of the mounted directory and read it from there.",
            code="code-too-long",
        )
    return code


def _find(file: str, mounts: Sequence[Mount]) -> tuple[Mount, str]:
    """Return the mount that a file lies in, and its path below it.

    The path is as the run sees it, or the host's own; `..` cannot lead out of a mount in either.
    """
    if "\0" in file or not file:
        raise RequestError("The file's name is empty or has a NUL byte in it.", code="bad-file")
    for mount in mounts:
        target = mount.target.rstrip("/")
        seen = posixpath.normpath(file)
        if seen == target or seen.startswith(f"{target}/"):
            return mount, seen[len(target) + 1 :] or "."
        path = os.path.normpath(os.path.join(mount.source, file))
        for root in {os.path.abspath(mount.source), os.path.realpath(mount.source)}:
            if path == root or path.startswith(root + os.sep):
                return mount, path[len(root) + 1 :].replace(os.sep, "/") or "."
    targets = ", ".join(mount.target for mount in mounts) or "none"
    raise RequestError(
        f"The file {file} is outside the mounted directories ({targets}).",
        hint=f"Name it as the run sees it, such as {(mounts[0].target if mounts else '/working').rstrip('/')}/main.py.",
        code="file-outside-mount",
    )


def _read_file(name: str, mount: Mount, relative: str, max_bytes: int) -> bytes:
    root = os.path.realpath(mount.source)
    path = os.path.realpath(os.path.join(root, relative))
    if path != root and not path.startswith(root + os.sep):
        raise RequestError(
            f"The file {name} is a link that leads out of the mounted directory.",
            hint="Copy the file itself into the directory.",
            code="file-outside-mount",
        )
    try:
        descriptor = open_beneath(root, os.path.relpath(path, root).split(os.sep))
    except FileNotFoundError:
        raise RequestError(
            f"There is no file {name}.", hint=f"Files are looked for in {mount.source}.", code="no-file"
        ) from None
    except OSError as error:
        raise RequestError(f"The file {name} cannot be opened: {error.strerror}.", code="bad-file") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise RequestError(f"{name} is {kind}.", hint="Name a Python file.", code="bad-file")
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise RequestError(
            f"The file {name} is longer than {max_bytes} bytes.", hint="Split it into modules.", code="code-too-long"
        )
    return data
