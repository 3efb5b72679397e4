"""A server in small, with warm interpreters: runs code as a user of choice, in each way of starting a process.

As `host.py`, but with one event loop for all of its life, the real guest and the real conversation. Requests: `how`
(`exec`, `fork`, `pool`), `code`, and optionally `imports`, `workspace`, `network`, `args`, and fields of `Limits`.
`python -m tests.sandbox.zygote_host UID PYTHON CACHE`
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import secrets
import sys
from pathlib import Path
from typing import Any

from mcp_conda_run.errors import CondaRunError
from mcp_conda_run.models import Environment, LockedPackage, Mount
from mcp_conda_run.sandbox.conversation import Conversation, GuestRequest, converse
from mcp_conda_run.sandbox.namespaces import NamespaceTier
from mcp_conda_run.sandbox.pool import PooledTier
from mcp_conda_run.sandbox.tier import Launch

from .host import LIMITS, become, environment_in

WAYS = ("exec", "fork", "pool")


def environment(cache: Path) -> Environment:
    """Describe the environment that the fixtures made, with the one package that can be preloaded."""
    numpy = LockedPackage(name="numpy", version="2")
    return dataclasses.replace(environment_in(cache), modules={"numpy": "numpy"}, packages=(numpy,))


def make_launch(
    cache: Path, *, workspace: str = "", network: str = "none", imports: tuple[str, ...] = (), **limits: Any
) -> Launch:
    """Return what a tier is given for a run."""
    return Launch(
        run_id=secrets.token_hex(8),
        environment=environment(cache),
        mounts=(Mount(Path(workspace), "/working"),) if workspace else (),
        limits=dataclasses.replace(LIMITS, **limits),
        network=network,
        imports=frozenset(imports),
        guest=cache.with_name("guest"),
    )


def empty(tier: PooledTier) -> None:
    """Let nothing wait, so that the next run is forked."""
    for shelf in tier._shelves.values():
        for slot in shelf._slots.values():
            while slot.waiting:
                shelf.discard(slot.waiting.popleft())


async def run(tier: NamespaceTier, launch: Launch, code: str, args: tuple[str, ...] = ()) -> tuple[str, Conversation]:
    """Run code to its end; return how the process was started, and what came of it."""
    async with tier.launch(launch) as process:
        filename = f"{process.scratch}/main.py"
        path0 = next(iter(process.paths.values()), process.scratch)
        request = GuestRequest(code=code, filename=filename, path0=path0, args=args)
        return process.start, await converse(process, request, launch.limits)


async def run_as(tier: PooledTier, plain: NamespaceTier, how: str, launch: Launch, code: str, **more: Any) -> Any:
    """Run code, started in the given way."""
    if how == "exec":
        return await run(plain, launch, code, **more)
    assert await tier.warm(launch), "no process could be prepared"
    if how == "fork":
        empty(tier)
    return await run(tier, launch, code, **more)


async def answer(tier: PooledTier, plain: NamespaceTier, cache: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Do what a request says; a failure is an answer too."""
    how, code = request.pop("how"), request.pop("code")
    args = tuple(request.pop("args", ()))
    try:
        started, said = await run_as(tier, plain, how, make_launch(cache, **request), code, args=args)
    except (CondaRunError, AssertionError) as error:
        return {"error": str(error) or type(error).__name__}
    return {
        "how": started,
        "out": said.stdout,
        "err": said.stderr,
        "exit": dataclasses.asdict(said.exit),
        "timed_out": said.timed_out,
        "value": None if said.record is None or said.record.value is None else said.record.value.text,
        "failure": None if said.record is None or said.record.error is None else said.record.error.traceback,
    }


async def serve(cache: Path) -> None:
    """Answer requests until there are no more."""
    tier, plain = PooledTier(cache), NamespaceTier(cache)
    try:
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await answer(tier, plain, cache, json.loads(line))), flush=True)  # noqa: T201
    finally:
        tier.close()
        plain.close()


async def load(cache: Path) -> None:
    """Run something in each way, so that all modules are loaded while they can be read."""
    tier, plain = PooledTier(cache), NamespaceTier(cache)
    for how in WAYS:
        await answer(tier, plain, cache, {"how": how, "code": "1"})
    tier.close()
    plain.close()


def main() -> None:
    """Be the user and serve."""
    uid, python, cache = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    if uid != os.geteuid():
        asyncio.run(load(cache))
        become(uid, python)
    asyncio.run(serve(cache))


if __name__ == "__main__":
    main()
