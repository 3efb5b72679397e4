"""Picks the tier for this machine and these settings, and says why.

Called once by the runtime and by `doctor`.
"""

from __future__ import annotations

from ..errors import HostError
from ..settings import Settings
from .plain import PlainTier
from .tier import Tier


def make_tier(settings: Settings) -> tuple[Tier, str]:
    """Return the tier that runs use, and the reason as a phrase.

    Raises:
        HostError: `strict` isolation is asked for and this machine cannot give it.
    """
    cache_dir = settings.cache_dir.absolute()
    if settings.isolation == "none":
        return PlainTier(cache_dir), "isolation none was asked for"
    if settings.isolation == "strict":
        raise HostError(
            "Strict isolation cannot be had here.",
            hint="Use --isolation auto to run with less.",
            code="isolation-unavailable",
        )
    return PlainTier(cache_dir), "nothing better is available on this machine"
