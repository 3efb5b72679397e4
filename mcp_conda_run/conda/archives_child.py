"""Fetches package archives as files, and what their channel says of them. Runs in a process of its own.

Started by `archives.py` with one request: packages, the addresses to fetch them from, and a directory. Every archive is
verified before it gets its name there. Answers like the engine's worker, and ends by `os._exit` as that does.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..errors import InstallError
from ..models import LockedPackage, Progress
from ..portability import path_of, replace_file
from .faults import checksum_mismatch, explain_install, explain_os_error, offline_missing
from .records import check_installable, from_json
from .redact import redact
from .worker import Answers, serve

AT_ONCE = 4
NOT_OF_REPODATA = ("fn", "url", "channel")


async def fetch(request: Mapping[str, Any], answers: Answers) -> list[dict[str, Any]]:
    """Fetch the archives; return the channel's own record of each, in the order of the request."""
    from .web import make_client  # noqa: PLC0415 - loads py-rattler, whose failure must become an answer

    packages = [from_json(row) for row in request["packages"]]
    for package in packages:
        check_installable(package)
    check_reachable(packages, offline=request["offline"])
    client = make_client()
    known = await channel_records(packages, Path(request["repodata"]), client)
    turns, done, total = asyncio.Semaphore(AT_ONCE), 0, sum(package.size_bytes for package in packages)
    target = Path(request["directory"])

    async def one(package: LockedPackage) -> dict[str, Any]:
        nonlocal done
        async with turns:
            path = target / package.sha256
            await fetch_one(package, path, client)
            done += path.stat().st_size
            answers.progress(Progress("download", f"Fetched {package.name}", done, max(total, done), "bytes"))
            return known.get(package.sha256) or await own_record(package, path)

    return list(await asyncio.gather(*(one(package) for package in packages)))


def check_reachable(packages: Sequence[LockedPackage], *, offline: bool) -> None:
    """Refuse what only a network could bring.

    Raises:
        InstallError: it is offline, and a package is not on this machine.
    """
    remote = [package.name for package in packages if not package.url.startswith("file://")]
    if offline and remote:
        raise offline_missing(remote)


async def fetch_one(package: LockedPackage, path: Path, client: Any) -> None:
    """Make `path` the package's archive.

    Raises:
        InstallError: it cannot be had, or is another one.
        HostError: the disk is full.
    """
    from rattler.package_streaming import download_to_path  # noqa: PLC0415

    half = path.with_name(f"{path.name}.half")
    try:
        if package.url.startswith("file://"):
            await asyncio.to_thread(shutil.copyfile, path_of(package.url), half)
        else:
            await download_to_path(client, package.url, half)
        if await asyncio.to_thread(digest_of, half) != package.sha256:
            raise checksum_mismatch(package.name)
        replace_file(half, path)
    except FileNotFoundError:
        raise InstallError(
            f"The archive of {package.name} is not there: {redact(package.url)}.",
            hint="The lock may be older than the channel: lock again.",
            code="download-failed",
        ) from None
    except OSError as error:
        raise explain_os_error(error, path.parent) from error
    except InstallError:
        raise
    except Exception as error:  # of py-rattler, whose exceptions have no common base
        raise explain_install(f"failed to fetch {package.name}\n{error}", path.parent, False) from error


def digest_of(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def channel_records(packages: Sequence[LockedPackage], repodata: Path, client: Any) -> dict[str, dict[str, Any]]:
    """Return what the channels say of packages, by their sha256; those that a channel no longer has are absent."""
    import rattler  # noqa: PLC0415
    from rattler.exceptions import GatewayError  # noqa: PLC0415

    gateway = rattler.Gateway(cache_dir=repodata, client=client)
    found: dict[str, dict[str, Any]] = {}
    by_channel: dict[str, list[LockedPackage]] = {}
    for package in packages:
        by_channel.setdefault(package.url.rsplit("/", 2)[0], []).append(package)
    for base, some in by_channel.items():
        subdirs: Any = sorted({package.url.rsplit("/", 2)[1] for package in some})
        names = sorted({package.name for package in some})
        try:
            answer = await gateway.query([rattler.Channel(base)], subdirs, names, recursive=False)
        except GatewayError:
            continue  # a lock outlives its channel's index: what the archives say will do
        for record in (record for group in answer for record in group):
            if record.sha256:
                found[record.sha256.hex()] = as_entry(record)
    return found


async def own_record(package: LockedPackage, path: Path) -> dict[str, Any]:
    """Return what an archive says of itself, with the digests of the file."""
    import rattler  # noqa: PLC0415

    named = path.with_name(package.url.rpartition("/")[2])  # the kind of archive is told by its name
    os.link(path, named)
    try:
        record = await rattler.RepoDataRecord.from_package_archive(named)
    finally:
        named.unlink()
    entry = as_entry(record) | {"sha256": package.sha256, "size": os.path.getsize(path)}  # noqa: ASYNC240
    return entry | ({"md5": package.md5} if package.md5 else {})


def as_entry(record: Any) -> dict[str, Any]:
    """Return a record as repodata.json has it."""
    row: dict[str, Any] = json.loads(record.to_json())
    return {key: value for key, value in row.items() if key not in NOT_OF_REPODATA}


def main() -> NoReturn:
    """Serve one request."""
    serve(fetch)
