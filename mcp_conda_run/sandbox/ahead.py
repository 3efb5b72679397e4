"""The keeper that is there before its order, so that the next run need not wait for what can be made without it.

Used by the spawner, in its own process. One keeper at a time waits (`keeper.keep_next`); what an order must have in
common with the one that it was made after is decided here. Where it does not fit, or is gone, the order is carried out
in the ordinary way.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress

from .keeper import keep_next
from .order import Descriptors, Order, send_order
from .workshop import Workshop

SEND_S = 5.0


class Ahead:
    """At most one waiting keeper.

    Args:
        workshop: the spawner's.
    """

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self._last: Order | None = None
        self._made: tuple[object, ...] = ()
        self._channel: socket.socket | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether none waits that could have taken the last order, although one could."""
        return self._last is not None and (self._channel is None or self._needs(self._last) != self._made)

    @property
    def is_waiting(self) -> bool:
        """Whether one waits."""
        return self._channel is not None

    def fork(self, spawner: socket.socket) -> None:
        """Have one waiting for an order like the last, and no other.

        Args:
            spawner: the spawner's own channel, which is not for it.
        """
        self.close()
        order = self._last
        if order is None:
            return
        try:
            ours, theirs = socket.socketpair()
        except OSError:  # no descriptors are left
            self.rest()
            return
        try:
            if os.fork() == 0:
                ours.close()
                spawner.close()
                keep_next(theirs, order, self._workshop)
        except OSError:
            ours.close()
            self.rest()
            return
        finally:
            theirs.close()
        ours.settimeout(SEND_S)
        self._channel, self._made = ours, self._needs(order)

    def take(self, order: Order, descriptors: Descriptors) -> bool:
        """Give it an order; return whether it has it.

        Args:
            order: as the workshop prepared it.
            descriptors: what came with it.
        """
        self._last = order if self._can_wait_for(order) else None
        if self._channel is None or self._needs(order) != self._made:
            return False
        try:
            send_order(self._channel, order, descriptors)
        except OSError:
            return False  # it is gone
        finally:
            self.close()
        return True

    def close(self) -> None:
        """Let the one that waits end; one that has an order goes on."""
        if self._channel is not None:
            with suppress(OSError):
                self._channel.close()
        self._channel = None

    def rest(self) -> None:
        """Have none waiting until there was another order."""
        self.close()
        self._last = None

    def _can_wait_for(self, order: Order) -> bool:
        """Say whether what an order needs first can be made before it: not without what the workshop could not make."""
        walls = order.walls
        if walls is None or walls.pasta or not walls.has_skeleton:
            return False
        return self._workshop.in_user_namespace or self._workshop.identities.learn(walls).identity is not None

    def _needs(self, order: Order) -> tuple[object, ...]:
        """Return what a waiting keeper is made for; of identities it knows those that were known when it was forked."""
        walls = order.walls
        if walls is None:
            return ()
        held = (order.bounds.memory_bytes, order.bounds.processes, order.bounds.by_kernel)
        return (*held, walls.own_network, walls.pasta, walls.drop_identity, self._workshop.identities.known)
