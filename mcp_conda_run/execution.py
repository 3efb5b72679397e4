"""One execution of code, from its turn to its end, which comes after its answer.

Called by `runtime.py` each time that code runs. A program that is over has an answer at once; that its processes die
and its prefix goes takes the kernel some milliseconds, which nobody has to wait for. The turn lasts until then: no more
runs than there are slots are ever there. Knows nothing of plans and packages.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from .phases import Phases
from .sandbox.conversation import Conversation, GuestRequest, converse
from .sandbox.files_out import now_ns
from .sandbox.tier import Launch, Process, Tier
from .turns import Turns

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Execution:
    """What is known of an execution.

    Attributes:
        process: how it was started, and what held it; it is dead, or about to be.
        said: what was heard and seen of it.
        began_ns: when it began, by the clock of file systems.
    """

    process: Process
    said: Conversation
    began_ns: int


class Executions:
    """The executions of one runtime.

    Args:
        tier: how runs are confined.
        turns: who runs when.
    """

    def __init__(self, tier: Tier, turns: Turns) -> None:
        self._tier = tier
        self._turns = turns
        self._ends: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Wait until nothing is left of the runs that were answered."""
        while self._ends:
            await asyncio.wait(self._ends)

    @asynccontextmanager
    async def executed(
        self,
        launch: Launch,
        make_request: Callable[[Process], GuestRequest],
        *,
        using: AbstractContextManager[None],
        client: str,
        phases: Phases,
        tell: Callable[[], None],
    ) -> AsyncIterator[Execution]:
        """Run code in a fresh prefix when it is its turn; the context is for what is to be seen of it afterwards.

        All of the run is dead or dying then. What is left of it is taken away when the context ends.

        Args:
            launch: what to start.
            make_request: says what the started process is to run.
            using: held for as long as anything of the run is there.
            client: who asks.
            phases: told how long the parts took.
            tell: called when it begins.

        Raises:
            HostError: this machine cannot do what is needed.
        """
        async with AsyncExitStack() as stack:
            stack.enter_context(using)
            await stack.enter_async_context(self._turns.turn(client))
            tell()
            began_ns, began = now_ns(), time.perf_counter()
            process = await stack.enter_async_context(self._tier.launch(launch))
            phases.add("start", time.perf_counter() - began)
            said = await converse(process, make_request(process), launch.limits)
            phases.add("start", said.ready_s, ended_s_ago=said.run_s)
            phases.add("run", said.run_s)
            yield Execution(process, said, began_ns)
            ended = time.perf_counter()
            end = asyncio.create_task(_end(stack.pop_all()), name="run-end")
            self._ends.add(end)
            end.add_done_callback(self._ends.discard)
        phases.add("clean", time.perf_counter() - ended)


async def _end(stack: AsyncExitStack) -> None:
    try:
        await stack.aclose()
    except Exception:  # noqa: BLE001 - the answer is out; nobody else would hear of it
        _log.exception("the end of a run failed")
