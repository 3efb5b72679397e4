"""What the limits of a run rest on, in words; for results and for `doctor`. Called by the tiers."""

from __future__ import annotations

from collections.abc import Mapping

MEMORY = "the kernel, with files in memory"


def with_groups(rests_on: Mapping[str, str], held: Mapping[str, str]) -> dict[str, str]:
    """Return what the limits rest on where some are held by control groups.

    Args:
        rests_on: for each limit, what it rests on without such groups.
        held: for each limit that a group holds, by what; as a run's keeper reports it.
    """
    texts = dict(rests_on)
    if "memory_bytes" in held and "memory_bytes" in texts:
        texts["memory_bytes"] = f"{held['memory_bytes']}: {MEMORY}"
    if "processes" in held and "processes" in texts:
        before = texts["processes"]
        texts["processes"] = f"{before}, and {held['processes']}" if "rlimit" in before else held["processes"]
    return texts
