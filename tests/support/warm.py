"""Warmed-up caches: a real template, locked, installed and compiled once for the whole test run."""

from __future__ import annotations

import asyncio
from pathlib import Path

from mcp_conda_run.runtime import Runtime
from mcp_conda_run.settings import Settings

SMALL_TEMPLATE = "channels: [conda-forge]\ndependencies: [python, pip, numpy]\n"


def small_settings(cache: Path, channel: Path, **others: object) -> Settings:
    """Return settings for a template with python, pip and numpy, on the small channel."""
    template = cache / "small.yml"
    if not template.exists():
        cache.mkdir(parents=True, exist_ok=True)
        template.write_text(SMALL_TEMPLATE)
    return Settings(cache_dir=cache, channels=(channel.as_uri(),), template=str(template), **others)


def scientific_settings(cache: Path, channel: Path, **others: object) -> Settings:
    """Return settings for the shipped base template, on the scientific channel."""
    return Settings(cache_dir=cache, channels=(channel.as_uri(),), **others)


def warm(settings: Settings) -> Path:
    """Make the template ready; return the cache."""

    async def go() -> None:
        async with Runtime(settings) as runtime:
            await runtime.warmup()

    asyncio.run(go())
    return settings.cache_dir
