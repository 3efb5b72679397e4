"""Chooses the engine, with the reason, which `doctor` and the results show. The one place that knows all engines."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import SettingsError
from ..settings import Settings
from .engine import Engine
from .locking import Locker
from .rattler import RattlerEngine


@dataclass(frozen=True, slots=True)
class Choice:
    """An engine and why it was chosen, as a sentence."""

    engine: Engine
    reason: str


def choose_engine(settings: Settings) -> Choice:
    """Return the engine that the settings ask for.

    Raises:
        SettingsError: the engine that was asked for cannot be used.
    """
    if settings.engine == "micromamba":
        raise SettingsError("The engine micromamba cannot be used yet.", hint="Use `auto` or `rattler`.")
    reason = "asked for by the settings" if settings.engine == "rattler" else "the embedded engine is the default"
    engine = RattlerEngine(
        settings.cache_dir / "pkgs",
        settings.cache_dir / "repodata",
        timeout_s=settings.install_timeout_s,
        offline=settings.offline,
    )
    return Choice(engine, reason)


def make_engine(settings: Settings) -> Engine:
    """Return the engine that the settings ask for, for callers that do not show the reason."""
    return choose_engine(settings).engine


def make_locker(settings: Settings) -> Locker:
    """Return what makes locks under the settings."""
    return Locker(
        settings.cache_dir / "repodata",
        timeout_s=settings.install_timeout_s,
        offline=settings.offline,
        exclude_newer=settings.exclude_newer,
    )
