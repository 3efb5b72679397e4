"""Runs one program inside its environment and says how it went: the guest's side of PROTOCOL.md.

Started as `python .../execute.py FD` by a tier, or loaded by a zygote, which calls the steps after a fork: `connect`,
`receive`, `prepare`, `run`, `finish`. Runs under the environment's Python (3.10 and later) with the standard library
alone. Its helpers lie in the same directory; they are loaded by path and put neither on `sys.path` nor into
`sys.modules`, so the program can neither see nor shadow them. It trusts nothing that the program could have changed.
"""

from __future__ import annotations

import atexit  # noqa: F401 - here and below: what the helpers need at every end, when importing may be broken
import builtins
import gc  # noqa: F401
import os
import sys
from _frozen_importlib_external import SourceFileLoader  # importlib itself is not loaded yet

if sys.platform != "win32":
    import fcntl  # noqa: F401

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import CodeType, ModuleType
    from typing import Any, NoReturn
else:
    ModuleType = type(sys)  # without the time that importing types takes

HERE = os.path.dirname(os.path.abspath(__file__))
HEADER_BYTES = 8
COROUTINE = 0x80
"""The flag of code objects with a top-level await (`inspect.CO_COROUTINE`)."""
ORIGINAL_BUILTINS = dict(vars(builtins))
ORIGINAL_FINDERS = tuple(sys.meta_path)
ORIGINAL_HOOKS = tuple(sys.path_hooks)
ORIGINAL_PATH = tuple(sys.path)
ORIGINAL_MODULES = dict(sys.modules)
MAX_NOTES = 20


def sibling(name: str) -> Any:
    """Load a module of this directory, with builtins of its own that the program cannot replace."""
    module = ModuleType(f"mcp_conda_run_{name}")
    module.__file__ = os.path.join(HERE, f"{name}.py")
    module.__dict__["__builtins__"] = dict(ORIGINAL_BUILTINS)
    code = SourceFileLoader(module.__name__, module.__file__).get_code(module.__name__)
    assert code is not None  # noqa: S101 - for mypy: a source file has code
    exec(code, module.__dict__)  # our own
    return module


arrays, caches, display, ending, failures, figures, messages, representations, source, tables = map(
    sibling,
    (
        *("arrays", "caches", "display", "ending", "failures", "figures", "messages", "representations"),
        *("source", "tables"),
    ),
)
display.FORMS.update(arrays.FORMS)


class Channel:
    """The guest's end of the stream to the host: one descriptor, or one to read from and one to write to."""

    def __init__(self, descriptor: int, outward: int = -1) -> None:
        self.descriptor = descriptor
        self.outward = descriptor if outward < 0 else outward
        self.read: Callable[[int, int], bytes] = os.read
        self.write: Callable[[int, memoryview], int] = os.write
        self.encode: Callable[[Mapping[str, Any]], str] = messages.encode

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message.

        Raises:
            OSError: the host does not listen any more, or the program closed the descriptor.
        """
        body = self.encode(message).encode("ascii")
        rest = memoryview(len(body).to_bytes(HEADER_BYTES, "big") + body)
        while rest:
            rest = rest[self.write(self.outward, rest) :]

    def receive(self) -> Any:
        """Return the next message, or None if the host is gone."""
        header = self.exactly(HEADER_BYTES)
        body = self.exactly(int.from_bytes(header, "big")) if len(header) == HEADER_BYTES else b""
        return messages.decode(body.decode("ascii")) if body else None

    def exactly(self, size: int) -> bytes:
        """Return so many bytes, or none if the stream ends before."""
        parts = []
        while size:
            part = self.read(self.descriptor, min(size, 1 << 20))
            if not part:
                return b""
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


class Job:
    """One program on its way through this process."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        limits = request["limits"]
        self.text: str = request["code"]
        self.filename: str = request["filename"]
        self.value_bytes: int = limits["value_bytes"]
        self.text_bytes: int = limits["text_bytes"]
        self.mounts = source.Mounts(request["mount_map"])
        self.args: list[str] = self.mounts.data(request["args"])
        self.globals: dict[str, Any] = self.mounts.data(request["globals"])
        self.path0: str = request["path0"]
        self.figures = figures.Figures(limits["figures"], limits["figure_bytes"])
        self.representations = representations.Representations(
            limits["representation_bytes"], limits["figure_bytes"], display.natural, tables.markdown
        )
        self.module = ModuleType("__main__")
        self.code: CodeType | None = None
        self.notes: list[str] = []
        self.pid = getpid()
        self.recursion_limit = sys.getrecursionlimit()
        # what came of it
        self.value: dict[str, Any] | None = None
        self.error: dict[str, Any] | None = None
        self.exit_code = 0


# --- the steps --------------------------------------------------------------------------------------------------------


def connect(descriptor: int, outward: int = -1) -> Channel:
    """Take the channel to the host and say that this process is ready for a program."""
    channel = Channel(descriptor, outward)
    for each in {channel.descriptor, channel.outward}:
        os.set_inheritable(each, False)
    channel.send({"ready": True})
    return channel


def from_handle(handle: int, access: int) -> int:
    """Return a descriptor for a handle that this process has inherited (Windows hands on nothing else)."""
    if sys.platform == "win32":
        import msvcrt

        os.set_handle_inheritable(handle, False)
        return msvcrt.open_osfhandle(handle, access | os.O_BINARY | os.O_NOINHERIT)
    return handle


def receive(channel: Channel) -> Mapping[str, Any] | None:
    """Wait for the request; None if the host went away."""
    request = channel.receive()
    return request if isinstance(request, dict) else None


def prepare(request: Mapping[str, Any]) -> Job:
    """Make this process look to the program as `python FILENAME ARGS` would."""
    job = Job(request)
    if request["write"]:
        write_source(job)
    newline = {"newline": ""} if sys.platform == "win32" else {}  # there, lines would end otherwise
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # line by line, so that nothing is lost or out of order if it is killed
            stream.reconfigure(encoding="utf-8", line_buffering=True, **newline)
    sys.argv = [job.filename, *job.args]
    if sys.path and os.path.abspath(sys.path[0]) == HERE:
        del sys.path[0]
    sys.path.insert(0, job.path0)
    vars(job.module).update(
        {
            "__file__": job.filename,
            "__builtins__": builtins,
            "__cached__": None,
            "__annotations__": {},
            "__loader__": SourceFileLoader("__main__", job.filename),
            **job.globals,
        }
    )
    sys.modules["__main__"] = job.module
    job.figures.watch()
    return job


def run(job: Job) -> None:
    """Run the program and keep what came of it: the last expression's value, or how it failed."""
    try:
        job.code = source.compile_code(job.text, job.filename, job.mounts)
        run_async = runner(job.code)
        result = eval(job.code, vars(job.module))  # noqa: S307 - this is what it is for
        if run_async is not None:
            run_async(result)
    except SystemExit as error:
        untrace(None)
        secured(job, left, job, error)
    except BaseException as error:
        untrace(None)
        secured(job, broken, job, error)
    else:
        untrace(None)
        secured(job, keep_value, job)


def finish(channel: Channel, job: Job) -> NoReturn:
    """End the program as Python would, send the record, and leave the process."""
    try:
        secured(job, end_program, channel, job)
        if getpid() == job.pid:
            channel.send({"over": job.exit_code})
    finally:
        leave(job.exit_code)


leave = os._exit
getpid = os.getpid
untrace = sys.settrace
unprofile = sys.setprofile


# --- their parts ------------------------------------------------------------------------------------------------------


def write_source(job: Job) -> None:
    """Write the program to its file, where inspect, multiprocessing and tracebacks look for it."""
    try:
        os.makedirs(os.path.dirname(job.filename) or ".", exist_ok=True)
        with open(job.filename, "w", encoding="utf-8", errors="surrogatepass", newline="") as file:
            file.write(job.text)
    except (OSError, ValueError) as error:  # a ValueError is about the name
        job.notes.append(f"The code could not be written to {job.filename}: {error}.")
        remember_source(job)


def remember_source(job: Job) -> None:
    """Let tracebacks show the source that ran, whatever became of the file meanwhile."""
    import linecache

    lines = job.text.removeprefix("\ufeff").splitlines(keepends=True)
    linecache.cache[job.filename] = (len(job.text), None, lines, job.filename)


def runner(code: CodeType) -> Callable[[Any], Any] | None:
    """Return what runs the coroutine that evaluating the code gives, if it awaits anything at its top level."""
    if not code.co_flags & COROUTINE:
        return None
    import asyncio

    return asyncio.run


def secured(job: Job, step: Callable[..., None], *args: Any) -> None:
    """Do a step after the program had its way with this process; if that broke it, mend what can be and try again."""
    unprofile(None)
    if sys.getrecursionlimit() < job.recursion_limit:
        sys.setrecursionlimit(job.recursion_limit)
    try:
        step(*args)
    except BaseException:
        mend()
        try:
            step(*args)
        except BaseException as error:
            job.exit_code = job.exit_code or 1
            job.notes.append(f"The program left its interpreter unusable: {failures.class_name(error)}.")


def mend() -> None:
    """Put back what our own steps stand on, where the program replaced it."""
    vars(builtins).update(ORIGINAL_BUILTINS)
    mend_importing()


def mend_importing() -> None:
    """Add what importing needs, where the program took it away; a traceback is made by modules that come late."""
    for name in [name for name, module in sys.modules.items() if module is None]:
        del sys.modules[name]
    for name, module in ORIGINAL_MODULES.items():
        sys.modules.setdefault(name, module)
    add_missing(sys.meta_path, ORIGINAL_FINDERS)
    add_missing(sys.path_hooks, ORIGINAL_HOOKS)
    add_missing(sys.path, ORIGINAL_PATH)


def add_missing(present: list[Any], needed: tuple[Any, ...]) -> None:
    """Append what is needed and not there."""
    present.extend(each for each in needed if each not in present)


def keep_value(job: Job) -> None:
    """The program came to its end."""
    value = vars(job.module).pop(source.VALUE, None)
    if value is not None:
        described = display.describe(value, job.value_bytes, job.text_bytes)
        job.representations.ask(value)
        job.figures.watch_value(value)
        offered = [{"mime_type": kind, "data": text} for kind, text in job.representations.texts.items()]
        job.value = {**described, "representations": offered}


def left(job: Job, leaving: SystemExit) -> None:
    """The program called `sys.exit`."""
    job.exit_code, text = failures.exit_status(leaving)
    if text:
        print_error(text + "\n")
    if job.exit_code:
        message = text or f"The code called sys.exit({job.exit_code})"
        job.error = {"type": "SystemExit", "message": first_line(message), "traceback": "", "missing": []}


def broken(job: Job, error: BaseException) -> None:
    """The program ended with an exception."""
    mend_importing()
    remember_source(job)
    job.exit_code = 130 if issubclass(type(error), KeyboardInterrupt) else 1
    job.error = failures.describe(error, job.code, job.text_bytes, display.clip)
    if sys.excepthook is not sys.__excepthook__:
        ending.quietly(lambda: sys.excepthook(type(error), error, error.__traceback__))


def end_program(channel: Channel, job: Job) -> None:
    """Do what Python does at the end of a program, and report."""
    own = getpid() == job.pid
    if not own and job.error is not None:  # a forked child that ran to the end: it has no record, only its output
        print_error(job.error["traceback"])
    ending.wait_for_threads()
    if own:
        job.figures.capture_open()
        job.figures.add_images(job.representations.images, job.value["type"] if job.value else "")
    ending.run_exit_functions()
    ending.flush_streams()
    if own:
        report(channel, job)
    ending.release(vars(job.module))
    ending.flush_streams()


def report(channel: Channel, job: Job) -> None:
    """Send the record; if that cannot be, say on standard error what went wrong with the program."""
    try:
        channel.send(record(job))
    except OSError:
        if job.error is not None:
            print_error(job.error["traceback"])


def record(job: Job) -> dict[str, Any]:
    """Return the record of the program."""
    return {
        "value": job.value,
        "error": job.error,
        "exit_code": job.exit_code,
        "figures": [image(*each) for each in job.figures.images],
        "mapped": job.mounts.mapped,
        "notes": [*job.notes, *job.figures.notes, *job.representations.notes][:MAX_NOTES],
    }


def image(data: bytes, title: str, mime_type: str) -> dict[str, str]:
    """Return an image as it is sent."""
    import binascii

    return {"mime_type": mime_type, "data": binascii.b2a_base64(data, newline=False).decode(), "title": title}


def first_line(text: str) -> str:
    """Return the first line of a text, bounded."""
    return text[:2000].strip().partition("\n")[0]


def print_error(text: str) -> None:
    """Write to standard error, if there is one."""
    try:
        (sys.stderr or sys.__stderr__).write(text)  # type: ignore[union-attr]
    except BaseException:  # closed, or replaced by something that is no stream
        return


def own_files() -> set[str]:
    """Return the names under which code of the guest appears in tracebacks."""
    ours = (connect, display.describe, ending.quietly, failures.describe, figures.draw, source.compile_code)
    functions = (*ours, representations.call, tables.markdown)
    return {os.path.join(HERE, "start.py"), *(function.__code__.co_filename for function in functions)}


failures.own_files.update(own_files())


def serve(descriptor: int, outward: int = -1) -> NoReturn:
    """Do all steps for one program."""
    caches.show()
    if sys.platform == "win32":
        descriptor, outward = from_handle(descriptor, os.O_RDONLY), from_handle(outward, os.O_WRONLY)
    channel = connect(descriptor, outward)
    request = receive(channel)
    if request is None:
        leave(0)
    job = prepare(request)
    run(job)
    finish(channel, job)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
