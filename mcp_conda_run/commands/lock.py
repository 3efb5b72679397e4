"""`lock`: pin every package of a template, for every platform, in a file that conda-lock and micromamba read too."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .shared import OfflineOption, asyncio_run, display, settings_from


def lock(
    template: Annotated[
        str | None, typer.Argument(help="A template's name or an environment.yml [default: the configured one].")
    ] = None,
    *,
    platform: Annotated[
        list[str] | None,
        typer.Option("--platform", help="Such as linux-64; repeatable [default: those of the old lock, or all usual]."),
    ] = None,
    update: Annotated[
        list[str] | None,
        typer.Option("--update", help="Give only this package another version, and what must move; repeatable."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where the lock goes [default: beside the template].")
    ] = None,
    offline: OfflineOption = None,
) -> None:
    """Pin every package of a template in a conda-lock.yml; runs use it from then on.

    It is written beside the template, as NAME.conda-lock.yml; that of a shipped template into the cache.
    """
    from ..locks import lock_template

    settings = settings_from(template=template, offline=offline, pool_mb=0)
    with display() as progress:
        report = asyncio_run(
            lock_template(settings, platforms=platform or (), update=update or (), output=output, progress=progress)
        )
    for line in report:
        typer.echo(line)
