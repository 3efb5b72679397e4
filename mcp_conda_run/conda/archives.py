"""Package archives as files, verified, with what their channel says of them: for bundles.

Called by `airgap/bundle.py`. The work is done by a killable child (`archives_child.py`), whichever engine is in use:
the engines' caches hold packages unpacked, and a bundle carries archives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..errors import InstallError
from ..models import LockedPackage, ProgressCallback, no_progress
from .access import Access
from .asking import ask
from .mirrors import Mirrors
from .process import child_environment, s3_variables


async def fetch_archives(
    packages: Sequence[LockedPackage],
    directory: Path,
    *,
    repodata: Path,
    mirrors: Mirrors,
    timeout_s: float,
    access: Access,
    offline: bool = False,
    progress: ProgressCallback = no_progress,
) -> list[dict[str, Any]]:
    """Put the archive of each package into a directory, named by its sha256; return the channel's records of them.

    Args:
        packages: conda packages.
        directory: an empty one, absolute.
        repodata: the cache of what the channels say, absolute.
        mirrors: where to fetch from.
        timeout_s: how long it may take.
        access: how channels are reached.
        offline: take only what lies on this machine.
        progress: told of the bytes fetched.

    Raises:
        InstallError: an archive cannot be had, or is not the one that was locked.
        HostError: the disk is full, or the child died.
    """
    rows = [asdict(replace(package, url=mirrors.url(package.url))) for package in packages]
    request = {
        "packages": rows,
        "directory": str(directory),
        "repodata": str(repodata),
        "offline": offline,
        **access.as_request(),
    }
    try:
        records: list[dict[str, Any]] = await ask(
            "archives_child",
            request,
            environment=child_environment(**s3_variables(row["url"] for row in rows), **access.environment),
            timeout_s=timeout_s,
            progress=progress,
        )
    except TimeoutError:
        raise InstallError(
            f"The packages could not be fetched within {timeout_s:g} s.",
            hint="Try again, or raise MCP_CONDA_RUN_INSTALL_TIMEOUT_S.",
            code="install-timeout",
        ) from None
    return records
