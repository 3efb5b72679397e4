"""A small process beside the server that starts the runs, so that the server, which has threads, never forks.

Started by `spawner_client.py` with the server's own Python, without its packages: it imports the standard library and
its neighbours here, and never anything of an environment. For each order it forks a keeper (`keeper.py`), which owns
the run from then on, or has forked one before (`ahead.py`). It ends when the server does.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys

from .keeper import keep
from .order import receive_order

if sys.platform == "linux":
    from .ahead import Ahead
    from .workshop import Workshop


QUIET_S = 0.03
"""When there was no order for so long, there is time to prepare for the next."""
IDLE_S = 300.0
"""When there was none for so long, nothing waits any longer."""


def main(channel_fd: int) -> None:
    """Take orders until the server is gone."""
    # Keepers report to the server themselves; nobody waits for them here (sigaction(2), SIG_IGN reaps).
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to handle
    channel = socket.socket(fileno=channel_fd)
    workshop = Workshop() if sys.platform == "linux" else None
    ahead = Ahead(workshop) if workshop is not None else None
    gc.freeze()
    while True:
        if ahead is not None:
            wait_for_order(channel, ahead)
        try:
            received = receive_order(channel)
        except (EOFError, ConnectionError):
            return
        if received is None:
            return
        order, descriptors = received
        if workshop is not None:
            order = workshop.prepare(order)
        taken = ahead is not None and ahead.take(order, descriptors)
        if not taken and os.fork() == 0:
            channel.close()
            if ahead is not None:
                ahead.close()
            keep(order, descriptors, workshop)
        descriptors.close()


def wait_for_order(channel: socket.socket, ahead: Ahead) -> None:
    """Return when there is an order, or the server is gone; prepare for it meanwhile."""
    while True:
        wait_s = QUIET_S if ahead.is_wanted else IDLE_S if ahead.is_waiting else None
        if select.select([channel], [], [], wait_s)[0]:
            return
        if ahead.is_wanted:
            ahead.fork(channel)
        else:
            ahead.rest()
