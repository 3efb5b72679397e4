"""A small process beside the server that starts the runs, so that the server, which has threads, never forks.

Started by `spawner_client.py` with the server's own Python, without its packages: it imports the standard library and
its neighbours here, and never anything of an environment. For each order it forks a keeper (`keeper.py`), which owns
the run from then on. It ends when the server does.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys

from .keeper import keep
from .order import receive_order

if sys.platform == "linux":
    from .workshop import Workshop


def main(channel_fd: int) -> None:
    """Take orders until the server is gone."""
    # Keepers report to the server themselves; nobody waits for them here (sigaction(2), SIG_IGN reaps).
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to handle
    channel = socket.socket(fileno=channel_fd)
    workshop = Workshop() if sys.platform == "linux" else None
    gc.freeze()
    while True:
        try:
            received = receive_order(channel)
        except (EOFError, ConnectionError):
            return
        if received is None:
            return
        order, descriptors = received
        if workshop is not None:
            order = workshop.prepare(order)
        if os.fork() == 0:
            channel.close()
            keep(order, descriptors, workshop)
        descriptors.close()
