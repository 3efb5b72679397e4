"""Picks the tier for this machine and these settings, and says why.

Called once by the runtime and by `doctor`.
"""

from __future__ import annotations

from ..errors import HostError
from ..models import Limits
from ..settings import Settings
from .bases import with_groups
from .cloned import watched_limits
from .namespaces import NamespaceTier, held_limits
from .plain import PlainTier
from .pool import PooledTier
from .probe import Probe, held_by_groups, probe, usable_pasta
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
        return PlainTier(cache_dir), "isolation none was asked for"
    found = probe(cache_dir)
    if found.best in STRICT:
        pasta, reason = full_by(settings)
        reason = "; ".join([_why(found), *([reason] if reason else [])])
        if found.best == "A" and settings.pool_mb:
            return PooledTier(cache_dir, memory_mb=settings.pool_mb, pasta=pasta), reason
        return NamespaceTier(cache_dir, upper_on_disk=found.best == "A'", pasta=pasta), reason
    if settings.isolation == "strict":
        raise HostError(
            f"Strict isolation cannot be had here: {found.reasons.get('A', 'this platform has no namespaces')}.",
            hint="See `mcp-conda-run doctor` for what would allow it, or use --isolation auto to run with less.",
            code="isolation-unavailable",
        )
    if found.best == "C":
        from .landlocked import LandlockTier  # noqa: PLC0415 - Linux only

        return LandlockTier(cache_dir), _why(found)
    return PlainTier(cache_dir), _why(found)


def full_by(settings: Settings) -> tuple[str, str]:
    """Return the program that serves the network `full`, empty for the proxy, and why it is not what was asked for."""
    if settings.full_by == "proxy":
        return "", ""
    pasta, reason = usable_pasta(settings.cache_dir.absolute())
    return pasta, reason and f"the proxy serves the network, because {reason}"


def limits_rest_on(tier: Tier, limits: Limits) -> dict[str, str]:
    """Say for each limit what holds it in this tier; which control groups can be had here is tried out."""
    in_walls = tier.name in STRICT
    rests_on = held_limits(limits, upper_on_disk=tier.name == "A'") if in_walls else watched_limits(limits)
    return with_groups(rests_on, held_by_groups())


def _why(found: Probe) -> str:
    refused = "; ".join(f"{tier}: {reason}" for tier, reason in found.reasons.items())
    return "the best that this machine allows" + (f" ({refused})" if refused else "")
