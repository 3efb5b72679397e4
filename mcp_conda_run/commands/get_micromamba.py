"""`get-micromamba`: the official program of the conda world, into the tool's own directory."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import RequestError
from .shared import OfflineOption, display, settings_from


def get_micromamba(
    version: Annotated[str, typer.Option("--version", help="A release, such as 2.8.1-0.")] = "latest",
    mirror: Annotated[
        str, typer.Option("--mirror", help="Instead of GitHub: a URL below which the releases have the same paths.")
    ] = "",
    offline: OfflineOption = None,
) -> None:
    """Download the official micromamba, check it against its published checksum, and use it from now on."""
    from ..conda.choose import choose_engine, own_micromamba
    from ..conda.engine import current_platform
    from ..conda.get_micromamba import asset_url
    from ..conda.get_micromamba import get_micromamba as get
    from ..conda.trust import trust_variables
    from ..terminal import size

    settings = settings_from(offline=offline)
    if settings.offline:
        raise RequestError("Offline, nothing is downloaded.", hint="Leave out --offline, or use `--engine rattler`.")
    url = asset_url(current_platform(), version, mirror or settings.micromamba_mirror)
    certificates = trust_variables(settings).get("SSL_CERT_FILE", "")
    with display() as progress:
        got = get(url, own_micromamba(), certificates=certificates, progress=progress)
    typer.echo(f"Downloaded {got.url} ({size(got.size_bytes)})")
    typer.echo(f"Its sha256 is the published one: {got.sha256}")
    typer.echo(f"Installed micromamba {got.version} as {got.path}")
    choice = choose_engine(settings)
    typer.echo(f"The engine is now {choice.engine.name} {choice.engine.version()} ({choice.reason})")
