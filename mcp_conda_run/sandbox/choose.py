"""Picks the tier for this machine and these settings, and says why.

Called once by the runtime and by `doctor`.
"""

from __future__ import annotations

import platform
from pathlib import Path

from ..errors import HostError
from ..models import Limits
from ..settings import Settings
from .bases import with_groups
from .cloned import watched_limits
from .plain import PlainTier
from .probe import Probe, held_by_groups, probe, usable_pasta
from .seatbelt import SeatbeltTier
from .tier import Tier

STRICT = ("A", "A'")
"""The tiers that `strict` isolation accepts."""


def make_tier(settings: Settings) -> tuple[Tier, str]:
    """Return the tier that runs use, and the reason as a phrase.

    Raises:
        HostError: `strict` isolation is asked for and this machine cannot give it.
    """
    cache_dir = settings.cache_dir.absolute()
    if settings.isolation == "none":
        return _bounded_only(cache_dir), "isolation none was asked for"
    found = probe(cache_dir)
    if found.best in STRICT:
        pasta, reason = full_by(settings)
        tier = _namespace_tier(settings, found.best, cache_dir, pasta)
        return tier, "; ".join([_why(found), *([reason] if reason else [])])
    if settings.isolation == "strict":
        raise HostError(
            f"Strict isolation cannot be had here: {found.reasons.get('A', 'this platform has no namespaces')}.",
            hint="See `mcp-conda-run doctor` for what would allow it, or use --isolation auto to run with less.",
            code="isolation-unavailable",
        )
    return _weaker_tier(found, cache_dir), _why(found)


def _namespace_tier(settings: Settings, name: str, cache_dir: Path, pasta: str) -> Tier:
    from .namespaces import NamespaceTier  # noqa: PLC0415 - here and below: loads what only Linux has
    from .pool import PooledTier  # noqa: PLC0415

    if name == "A" and settings.pool_mb:
        return PooledTier(cache_dir, memory_mb=settings.pool_mb, pasta=pasta)
    return NamespaceTier(cache_dir, upper_on_disk=name == "A'", pasta=pasta)


def _weaker_tier(found: Probe, cache_dir: Path) -> Tier:
    if found.best == "B":
        from .bubblewrapped import BubblewrapTier  # noqa: PLC0415 - Linux only

        return BubblewrapTier(cache_dir, overlays=found.bubblewrap_overlays)
    if found.best == "C":
        from .landlocked import LandlockTier  # noqa: PLC0415 - Linux only

        return LandlockTier(cache_dir)
    return SeatbeltTier(cache_dir) if found.best == "seatbelt" else _bounded_only(cache_dir)


def _bounded_only(cache_dir: Path) -> Tier:
    """Return the tier that confines nothing: on Windows, jobs are what bounds runs at all."""
    if platform.system() == "Windows":
        from .jobs import JobTier  # noqa: PLC0415 - Windows only

        return JobTier(cache_dir)
    return PlainTier(cache_dir)


def full_by(settings: Settings) -> tuple[str, str]:
    """Return the program that serves the network `full`, empty for the proxy, and why it is not what was asked for."""
    if settings.full_by == "proxy":
        return "", ""
    pasta, reason = usable_pasta(settings.cache_dir.absolute())
    return pasta, reason and f"the proxy serves the network, because {reason}"


def limits_rest_on(tier: Tier, limits: Limits) -> dict[str, str]:
    """Say for each limit what holds it in this tier; which control groups can be had here is tried out."""
    if tier.name in STRICT:
        from .namespaces import held_limits  # noqa: PLC0415 - Linux only

        rests_on = held_limits(limits, upper_on_disk=tier.name == "A'")
    elif tier.name == "B":
        from .bubblewrapped import bubble_limits  # noqa: PLC0415 - Linux only

        rests_on = bubble_limits(limits)
    elif tier.name == "job":
        from .jobs import job_limits  # noqa: PLC0415 - Windows only

        rests_on = job_limits(limits)
    else:
        rests_on = watched_limits(limits)
    return with_groups(rests_on, held_by_groups())


def _why(found: Probe) -> str:
    refused = "; ".join(f"{tier}: {reason}" for tier, reason in found.reasons.items())
    return "the best that this machine allows" + (f" ({refused})" if refused else "")
