"""`clean` and `du`: what the cache holds, and how it gets smaller."""

from __future__ import annotations

import json
import re
import time
from typing import Annotated

import typer

from ..errors import RequestError
from .shared import JsonOption, settings_from

_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def clean(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Also delete environments, locks and downloaded packages.")
    ] = False,
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", help="Also delete what nobody wanted for so long, such as 30d, 12h or 2w."),
    ] = None,
    to_limit: Annotated[
        bool, typer.Option("--to-limit", help="Also delete what was not wanted for longest, down to cache_limit_mb.")
    ] = False,
) -> None:
    """Delete what dead processes left behind; with --all, everything. What is in use stays."""
    from ..environments.clean import clean_everything, clean_older, clean_store, clean_to_limit

    settings = settings_from()
    if sum((everything, older_than is not None, to_limit)) > 1 or (dry_run and (older_than or to_limit)):
        raise RequestError("Choose one of --all, --older-than and --to-limit.", hint="--dry-run goes with --all only.")
    if older_than is not None:
        lines = clean_older(settings, parse_age(older_than))
    elif to_limit:
        lines = clean_to_limit(settings)
    else:
        lines = (clean_everything if everything else clean_store)(settings, dry_run=dry_run)
    for line in lines:
        typer.echo(line)


def du(as_json: JsonOption = False) -> None:
    """Say what the cache holds: its parts, and each environment with its size and when it was last wanted."""
    from ..environments.care import listing
    from ..environments.store import Store
    from ..terminal import size

    store = Store(settings_from().cache_dir)
    parts, items = store.usage(), listing(store)
    if as_json:
        environments = [
            {
                "key": item.environment.key,
                "python": item.environment.python_version,
                "packages": [f"{p.name}={p.version}" for p in item.environment.packages],
                "size_bytes": item.size_bytes,
                "own_bytes": item.own_bytes,
                "last_wanted": item.last_wanted,
                "is_used": item.is_used,
            }
            for item in items
        ]
        sizes = {name: part.size_bytes for name, part in parts.items()}
        typer.echo(json.dumps({"root": str(store.root), "parts": sizes, "environments": environments}, indent=2))
        return
    for name, part in parts.items():
        typer.echo(f"{size(part.size_bytes):>10}  {name} ({part.files} files)")
    total = sum(part.size_bytes for part in parts.values())
    typer.echo(f"{size(total):>10}  in all, in {store.root}; a file with several names counts once\n")
    for item in items:
        age = (time.time() - item.last_wanted) / 86400
        used = ", in use" if item.is_used else ""
        typer.echo(
            f"{size(item.size_bytes):>10}  {item.environment.key}  Python {item.environment.python_version}, "
            f"{len(item.environment.packages)} packages, {size(item.own_bytes)} of its own, "
            f"wanted {age:.1f} days ago{used}"
        )


def parse_age(text: str) -> float:
    """Return the seconds that an age such as `30d` stands for.

    Raises:
        RequestError: it is no age.
    """
    found = _AGE.fullmatch(text.strip())
    if found is None:
        raise RequestError(f"{text!r} is no age.", hint="Write a number and a unit, such as 30d, 12h or 2w.")
    return float(found[1]) * _UNIT_S[found[2]]
