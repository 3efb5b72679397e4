"""Chooses the engine, with the reason, which `doctor` and the results show. The one place that knows all engines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SettingsError
from ..settings import Settings, data_dir
from .access import Access
from .engine import Engine
from .locking import Locker
from .micromamba import PROGRAM, Found, MicromambaEngine, find_micromamba
from .mirrors import mirrors_of
from .rattler import RattlerEngine
from .trust import trust_variables


@dataclass(frozen=True, slots=True)
class Choice:
    """An engine and why it was chosen, as a sentence."""

    engine: Engine
    reason: str


def choose_engine(settings: Settings, access: Access | None = None) -> Choice:
    """Return the engine that the settings ask for; with `auto`, the user's micromamba if there is one that works.

    Args:
        settings: the knobs.
        access: how channels are reached.

    Raises:
        SettingsError: the engine that was asked for cannot be used.
    """
    places: tuple[Path, Path] = (settings.cache_dir / "pkgs", settings.cache_dir / "repodata")
    options: dict[str, Any] = {
        "timeout_s": settings.install_timeout_s,
        "offline": settings.offline,
        "access": access or Access(environment=trust_variables(settings)),
        "layers": package_layers(settings),
    }
    if settings.engine == "rattler":
        return Choice(RattlerEngine(*places, **options), "asked for by the settings")
    found = find_micromamba(settings.micromamba, own_micromamba())
    if found is not None and not found.problem:
        asked = "asked for by the settings, " if settings.engine == "micromamba" else ""
        return Choice(MicromambaEngine(found, *places, **options), f"{asked}{found.path} was {found.where}")
    if settings.engine == "micromamba" or settings.micromamba is not None:
        raise unusable(found)
    why = f"the micromamba {found.where} cannot be used: {found.problem}" if found else "no micromamba was found"
    return Choice(RattlerEngine(*places, **options), f"the embedded engine; {why.rstrip('.')}")


def package_layers(settings: Settings) -> list[Path]:
    """Return the package caches of others: those that the settings name, and those of the stores they name."""
    named = [Path(layer).expanduser() for layer in settings.package_layers]
    stores = [Path(layer).expanduser() / "pkgs" for layer in settings.store_layers]
    of_stores = [place for store in stores for place in (store, store / "micromamba/pkgs")]
    return [*named, *(place for place in of_stores if place.is_dir())]


def own_micromamba() -> Path:
    """Return where `get-micromamba` puts the program."""
    return data_dir() / "bin" / PROGRAM


def unusable(found: Found | None) -> SettingsError:
    """Return the error for a micromamba that was asked for and cannot be used."""
    return SettingsError(
        found.problem if found else "No micromamba was found: neither in MAMBA_EXE nor on PATH.",
        hint="Get one with `mcp-conda-run get-micromamba`, name it with --micromamba, or use `--engine rattler`.",
        code="no-micromamba",
    )


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
        mirrors=mirrors_of(settings),
        variables=trust_variables(settings),
        solver=make_engine(settings).for_locks(),
    )
