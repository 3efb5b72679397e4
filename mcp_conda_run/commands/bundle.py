"""`bundle` and `unbundle`: all that runs need, carried to a machine without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .shared import OfflineOption, WithOption, asyncio_run, display, settings_from


def bundle(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write, such as runs.tar.")],
    *,
    template: Annotated[
        list[str] | None, typer.Option("--template", help="A template's name or file; repeatable.")
    ] = None,
    with_: WithOption = None,
    platform: Annotated[
        str | None, typer.Option("--platform", help="conda's name of the platform [default: this machine's].")
    ] = None,
    offline: OfflineOption = None,
) -> None:
    """Write one file with all that the templates, and packages that runs may add, need without a network."""
    from ..airgap.bundle import make_bundle
    from ..terminal import size

    settings = settings_from(offline=offline, pool_mb=0)
    with display() as progress:
        made = asyncio_run(
            make_bundle(
                output,
                settings,
                templates=template or (),
                specs=with_ or (),
                platform=platform,
                progress=progress,
            )
        )
    names = ", ".join(made.manifest.templates)
    wheels = f" and {made.wheels} wheels" if made.wheels else ""
    what = f"{made.packages} packages{wheels} for {made.manifest.platform}; templates: {names}"
    typer.echo(f"{output}: {size(output.stat().st_size)}, {what}")
    typer.echo(f"sha256 of its manifest: {made.sha256}")


def unbundle(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `bundle` wrote.")],
    *,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="The cache directory to unpack into [default: the configured one].")
    ] = None,
    sha256: Annotated[
        str | None, typer.Option("--sha256", help="What the manifest's sha256 must be, as `bundle` printed it.")
    ] = None,
) -> None:
    """Check a bundle and unpack it into the cache; then warmup, plan and run work with --offline."""
    from ..airgap.unbundle import read_sha256, unpack_bundle

    expected = read_sha256(sha256) if sha256 else ""
    unpacked = unpack_bundle(file, settings_from(cache_dir=directory), sha256=expected)
    manifest = unpacked.manifest
    typer.echo(
        f"Unpacked {len(manifest.members)} files for {manifest.platform}; templates: {', '.join(manifest.templates)}"
    )
    typer.echo(f"sha256 of its manifest: {unpacked.sha256}")
    for note in unpacked.notes:
        typer.echo(f"note: {note}", err=True)
