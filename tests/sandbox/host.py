"""A server in small: runs code in a tier, as a user of choice, and says what came of it.

`python -m tests.sandbox.host UID` reads requests from standard input, one JSON line each, and answers likewise. It is a
process of its own so that tests that run as root can also see what an unprivileged server sees: it loads everything as
root (whose Python others may not be able to read), and then becomes somebody else for good.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import secrets
import struct
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from mcp_conda_run.errors import CondaRunError
from mcp_conda_run.models import Environment, Limits, Mount
from mcp_conda_run.sandbox import spawner_client
from mcp_conda_run.sandbox.bubblewrapped import BubblewrapTier
from mcp_conda_run.sandbox.landlocked import LandlockTier
from mcp_conda_run.sandbox.namespaces import NamespaceTier
from mcp_conda_run.sandbox.order import Order
from mcp_conda_run.sandbox.pasta import find as find_pasta
from mcp_conda_run.sandbox.plain import PlainTier
from mcp_conda_run.sandbox.tier import Launch, Process, Tier

from . import KEY

WAIT_S = 60
LIMITS = Limits(
    wall_s=60,
    cpu_s=0,
    memory_bytes=1 << 30,
    processes=64,
    disk_bytes=64 << 20,
    open_files=1024,
    file_size_bytes=1 << 30,
    output_bytes=1 << 20,
)


def environment_in(cache: Path) -> Environment:
    """Describe the environment that the fixtures made below `cache`."""
    prefix = cache / "envs" / KEY
    python = (prefix / "bin" / "python").resolve().relative_to(prefix.resolve())
    return Environment(
        key=KEY,
        prefix=prefix,
        python_version="3",
        python=str(python),
        modules={},
        stdlib=frozenset(),
        packages=(),
        variables={"CONDA_PREFIX": str(prefix), "DATA_OF_A_PACKAGE": f"{prefix}/share/data"},
    )


class WithoutAWall(NamespaceTier):
    """Tier A with one of its walls missing, to show what that wall is for."""

    def __init__(self, cache: Path, missing: dict[str, Any], pasta: str) -> None:
        super().__init__(cache, pasta=pasta)
        self._missing = missing

    def _order(self, *given: Any) -> Order:
        order = super()._order(*given)
        return dataclasses.replace(order, walls=dataclasses.replace(order.walls, **self._missing))


class PreparedTier(NamespaceTier):
    """Tier A whose runs are started by a keeper that waited for them."""

    @asynccontextmanager
    async def launch(self, launch: Launch) -> AsyncIterator[Process]:
        async with super().launch(launch):
            pass  # the keeper waits for an order like the last
        async with asyncio.timeout(WAIT_S):
            while not waiting_keepers():  # noqa: ASYNC110 - processes set no event
                await asyncio.sleep(0.01)
        async with super().launch(launch) as process:
            yield process


def waiting_keepers() -> list[int]:
    """Return the keepers that a spawner of this process has forked, once they have a process of their own."""
    found = []
    for keeper in keepers():
        with suppress(psutil.NoSuchProcess):
            found += [keeper.pid] if keeper.children() else []
    return found


def keepers() -> list[psutil.Process]:
    """Return what spawners of this process have forked."""
    spawners = [child for child in psutil.Process().children() if any(".spawner " in arg for arg in child.cmdline())]
    return [keeper for spawner in spawners for keeper in spawner.children()]


class BubbleWithoutAWall(BubblewrapTier):
    """Tier B with one of its walls missing."""

    def __init__(self, cache: Path, missing: dict[str, Any], *, overlays: bool = False) -> None:
        super().__init__(cache, overlays=overlays)
        self._missing = missing

    def _bubble_order(self, *given: Any) -> Order:
        order = super()._bubble_order(*given)
        return dataclasses.replace(order, bubble=dataclasses.replace(order.bubble, **self._missing))


START = "main(int(sys.argv[2]))"
PATCHES = {
    "privileges": """
from mcp_conda_run.guest import syscalls
from mcp_conda_run.sandbox import confinement
def keep(*_):
    with open("/proc/self/status") as file:
        have = int(dict(line.split(":", 1) for line in file)["CapPrm"], 16)
    syscalls.keep_capabilities([number for number in range(32) if have >> number & 1])
confinement._give_everything_away = keep
syscalls.set_mount_attributes = lambda *_, **__: None
""",
    "descriptors": """
import fcntl, os
fcntl.fcntl(0, fcntl.F_DUPFD, 40)
os.closerange = lambda *_: None
""",
}
"""Walls that no field of an order takes away: what the process that starts runs does before its work, without them."""


def take_away(patch: str) -> None:
    """Have runs started without a wall; `host` is told so for each run."""
    text = spawner_client.BOOTSTRAP.rpartition(START)[0].partition("# patched")[0]
    spawner_client.BOOTSTRAP = f"{text}# patched\n{PATCHES.get(patch, '')}\n{START}\n"


def make(tier: str, cache: Path, missing: dict[str, Any]) -> Tier:
    """Return the tier of this name; `A+pasta`, or `A prepared` for one whose runs are expected.

    `missing` are fields of `Walls` that take a wall away, `patch` is one of `PATCHES`.
    """
    take_away(missing.pop("patch", ""))
    if tier in {"B", "B overlay"}:
        return BubbleWithoutAWall(cache, missing, overlays=tier != "B")
    if tier == "A prepared":
        return PreparedTier(cache)
    pasta = find_pasta() if tier == "A+pasta" else ""
    if missing or pasta:
        return WithoutAWall(cache, missing, pasta)
    if tier == "C":
        return LandlockTier(cache)
    return PlainTier(cache) if tier == "none" else NamespaceTier(cache, upper_on_disk=tier == "A'")


async def send_code(process: Process, code: str) -> None:
    """Give the tests' own guest its code, when it asks for it."""
    loop = asyncio.get_running_loop()
    process.control.setblocking(False)
    await loop.sock_recv(process.control, 8)
    assert json.loads(await loop.sock_recv(process.control, 100)) == {"ready": True}
    message = json.dumps({"code": code, "filename": f"{process.scratch}/main.py"}).encode()
    await loop.sock_sendall(process.control, struct.pack(">Q", len(message)) + message)


async def read_all(descriptor: int) -> str:
    """Read a run's output up to its end."""

    def read() -> str:
        with open(os.dup(descriptor), encoding="utf-8", errors="replace") as file:
            return file.read()

    return await asyncio.to_thread(read)


async def run(
    tier: Tier,
    cache: Path,
    code: str,
    *,
    workspace: str = "",
    network: str = "none",
    more_mounts: tuple[Mount, ...] = (),
    **limits: Any,
) -> dict[str, Any]:
    """Run code to its end."""
    began = time.perf_counter()
    mounts = (Mount(Path(workspace), "/working"),) if workspace else ()
    launch = Launch(
        run_id=secrets.token_hex(8),
        environment=environment_in(cache),
        mounts=mounts + more_mounts,
        limits=dataclasses.replace(LIMITS, **limits),
        guest=cache.parents[1] / "guest",
        network="full" if tier.name == "none" else network,
    )
    async with tier.launch(launch) as process:
        await send_code(process, code)
        async with asyncio.timeout(WAIT_S):
            out, err = await asyncio.gather(read_all(process.stdout), read_all(process.stderr))
            exit_ = await process.wait()
        isolation = dataclasses.asdict(process.isolation)
    seconds = time.perf_counter() - began
    return {"out": out, "err": err, "exit": dataclasses.asdict(exit_), "isolation": isolation, "seconds": seconds}


async def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Do what a request says; a failure is an answer too."""
    cache = Path(request.pop("cache"))
    tier = make(request.pop("tier"), cache, request.pop("missing", {}))
    try:
        return await run(tier, cache, **request)
    except (CondaRunError, TimeoutError) as error:
        return {"error": str(error) or type(error).__name__}
    finally:
        tier.close()


def become(uid: int, python: str) -> None:
    """Be an unprivileged user for good; runs are started with a Python that this user may read."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    os.environ["HOME"] = "/nonexistent"
    sys.executable = python


def main() -> None:
    """Answer requests until there are no more."""
    uid = int(sys.argv[1])
    if uid != os.geteuid():
        asyncio.run(answer(json.loads(sys.stdin.readline())))  # loads whatever is loaded late
        become(uid, sys.argv[2])
    for line in sys.stdin:
        print(json.dumps(asyncio.run(answer(json.loads(line)))), flush=True)  # noqa: T201 - the answer


if __name__ == "__main__":
    main()
