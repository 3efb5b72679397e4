"""A runner that does what the code's first word says: the seam at which the server meets the runtime.

It stands for the runtime where a test is about the protocol and not about Python: waiting, progress, being cancelled.
Run as a program it serves itself over stdio, or with `http` over HTTP on a free port.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from mcp_conda_run.errors import HostError, InstallError, RequestError
from mcp_conda_run.models import (
    Ask,
    Environment,
    Figure,
    LockedPackage,
    Plan,
    PlannedPackage,
    Progress,
    ProgressCallback,
    Representation,
    RunRequest,
    RunResult,
    Status,
    Value,
    no_progress,
)

from .pictures import png

PLAN = Plan(packages=(PlannedPackage(spec="gdal", name="gdal", reason="osgeo is part of gdal"),))


class Scripted:
    """Does what the first word of the code says: each has a method of its name, and the rest of the line is for it."""

    mounts = ()

    def __init__(self) -> None:
        self.requests: list[RunRequest] = []
        self.release = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.holding = asyncio.Event()
        self.closed = False

    async def run(
        self,
        request: RunRequest,
        progress: ProgressCallback = no_progress,
        *,
        ask: Ask | None = None,
        run_id: str = "",
        client: str = "",
    ) -> RunResult:
        self.requests.append(request)
        word, _, rest = (request.code or f"echo {request.file} {list(request.args)}").partition(" ")
        return await getattr(self, f"_{word}")(rest, progress)

    def environment(self, key: str) -> Environment | None:
        """Return one package of conda and one of PyPI for any key but `gone`."""
        if key == "gone":
            return None
        locked = (
            LockedPackage(
                name="numpy",
                version="2.3",
                url="https://channels.example/t/secret-token/conda-forge/n.conda",
                sha256="a" * 64,
            ),
            LockedPackage(name="six", version="1.17", url="https://files/six.whl", sha256="b" * 64, manager="pypi"),
        )
        return Environment(
            key=key,
            prefix=Path("/nowhere"),
            python_version="3.12.1",
            python="bin/python",
            modules={},
            stdlib=frozenset(),
            packages=locked,
            variables={},
        )

    async def plan(self, request: RunRequest, progress: ProgressCallback = no_progress) -> Plan:
        if request.code == "bad":
            raise RequestError("The code is empty.")
        if request.code == "hold":
            await self._hold("", progress)
        return PLAN

    async def _echo(self, text: str, progress: ProgressCallback) -> RunResult:
        return RunResult(
            status=Status.SUCCESS, output=f"{text}\n", stdout=f"{text}\n", value=Value(text, True, text, "builtins.str")
        )

    async def _hold(self, pid_file: str, progress: ProgressCallback) -> RunResult:
        """Wait for a child process, whose id goes to a file, or for `release`; a cancel kills the child."""
        progress(Progress("download", "numpy", 120e6, 300e6, "bytes"))
        if not pid_file:
            self.holding.set()
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
            return await self._echo("released", progress)
        child = await asyncio.create_subprocess_exec("sleep", "600", start_new_session=True)
        try:
            _publish(child.pid, pid_file)
            await child.wait()
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()
        return await self._echo("the child ended", progress)

    async def _figures(self, count: str, progress: ProgressCallback) -> RunResult:
        return RunResult(status=Status.SUCCESS, figures=(Figure("image/png", png(padding=60_000)),) * int(count))

    async def _installed(self, environment: str, progress: ProgressCallback) -> RunResult:
        """Have run in this environment, after a plan."""
        return RunResult(status=Status.SUCCESS, environment=environment, plan=PLAN)

    async def _big(self, size: str, progress: ProgressCallback) -> RunResult:
        text = "x" * int(size)
        return RunResult(status=Status.SUCCESS, output=text, stdout=text)

    async def _offer(self, mime_type: str, progress: ProgressCallback) -> RunResult:
        offers = (Representation("text/html", "<i>"), Representation(mime_type, '"a document"'))
        return RunResult(status=Status.SUCCESS, value=Value(text="x", type="x.X", representations=offers))

    async def _pollute(self, text: str, progress: ProgressCallback) -> RunResult:
        print("a stray print", flush=True)  # noqa: T201
        os.write(1, b"a stray write\n")
        child = await asyncio.create_subprocess_exec("echo", "a stray child")
        await child.wait()
        return await self._echo(text, progress)

    async def _bad(self, _: str, progress: ProgressCallback) -> RunResult:
        raise RequestError("The code is empty.", hint="Send some.")

    async def _broken(self, _: str, progress: ProgressCallback) -> RunResult:
        raise HostError("The disk is full.", hint="Free some space.")

    async def _uninstallable(self, _: str, progress: ProgressCallback) -> RunResult:
        raise InstallError("Nothing provides foo.", code="unsatisfiable", details="foo\n`- bar")

    async def _bug(self, _: str, progress: ProgressCallback) -> RunResult:
        raise ZeroDivisionError("a secret")


def _publish(pid: int, path: str) -> None:
    """Write the number so that whoever sees the file sees it whole."""
    with open(f"{path}.new", "w") as file:
        file.write(str(pid))
    os.rename(f"{path}.new", path)


@asynccontextmanager
async def open_scripted() -> AsyncIterator[Scripted]:
    yield Scripted()


if __name__ == "__main__":
    from mcp_conda_run.settings import load_settings

    if sys.argv[1:] == ["http"]:
        from mcp_conda_run.server.http import serve as serve_http

        sys.exit(serve_http(load_settings(), port=0, open_runner=open_scripted))
    from mcp_conda_run.server.stdio import serve

    sys.exit(serve(load_settings(), open_scripted))
