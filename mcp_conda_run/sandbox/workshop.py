"""What all runs of a server have in common, made once instead of for each: the skeleton root, and the maps of owners.

Called by the spawner, in its own process, before the first run behind walls. It gives the spawner a mount namespace
of its own; runs begin with a copy of that. Where it cannot be made, each run makes everything itself, or says why
not.
"""

from __future__ import annotations

import dataclasses
import os

from ..guest import syscalls
from .groups import Groups
from .identity import Identities
from .order import Order, Walls
from .rootfs import build_skeleton

PLACE = "/sys/kernel"
"""Where the skeleton is mounted, in the spawner's namespace: a directory that is everywhere, and that nobody mounts."""


class Workshop:
    """The spawner's preparations.

    Attributes:
        identities: who runs can be.
        groups: what bounds the kernel can hold for them.
        in_user_namespace: whether this process, and so every keeper, is in a user namespace made for the purpose.
    """

    def __init__(self) -> None:
        self.identities = Identities()
        self.groups = Groups()
        self.in_user_namespace = False
        self._tried = False
        self._skeleton = ""

    def prepare(self, order: Order) -> Order:
        """Return the order as it is best carried out here; the first one with walls takes the preparations' time."""
        if order.bounds.memory_bytes or order.bounds.processes:
            self.groups.learn()  # here, so that all keepers know
        if order.walls is None:
            return order
        if not self._tried:
            self._tried = True
            self._make(order.walls)
        self.identities.learn(order.walls)
        if not self._skeleton:
            return order
        return dataclasses.replace(
            order, walls=dataclasses.replace(order.walls, root=self._skeleton, has_skeleton=True)
        )

    def _make(self, walls: Walls) -> None:
        try:
            if self.identities.learn(walls).identity is None:
                syscalls.unshare_user(os.geteuid(), os.getegid(), syscalls.CLONE_NEWNS)
                self.in_user_namespace = True
            else:
                syscalls.unshare(syscalls.CLONE_NEWNS)
            syscalls.mount("", "/", flags=syscalls.MS_REC | syscalls.MS_SLAVE)
            build_skeleton(PLACE)
        except OSError:
            return  # the run will meet the same refusal, and report it
        self._skeleton = PLACE
