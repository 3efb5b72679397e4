"""Installs with micromamba. Runs only in the engine's worker (`worker.py` calls it).

micromamba gets a list of addresses with their sha256 digests, never specs. Neither its exit code nor its answer is
believed alone: at the end the prefix's own records must be those of the packages, digest by digest. What has to go from
a prefix is removed here, because micromamba would run the packages' scripts for that.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ..errors import CondaRunError, InstallError
from ..models import LockedPackage, Progress
from ..portability import path_of
from . import installing
from .faults import explain_os_error, offline_missing
from .installing import CacheUse, verify_local
from .micromamba_calls import Micromamba, Said
from .micromamba_faults import explain_install, is_broken_download, last_words
from .micromamba_solving import COMMON, READABLE
from .records import check_installable, from_json

POLL_S = 0.2
CHECKED = ("--safety-checks", "enabled", "--extra-safety-checks")
"""Unpacked packages of the cache are compared with their own lists: a write through a hard link does not spread."""

Emit = Callable[[Progress], None]


async def install(request: Mapping[str, Any], emit: Emit) -> None:
    """Answer an install request: make the prefix hold exactly the packages."""
    packages = [from_json(package) for package in request["packages"]]
    for package in packages:
        check_installable(package)
    if not all(package.url.startswith(READABLE) for package in packages):
        await installing.install(request, emit)
        return
    prefix = Path(request["prefix"])
    micromamba = Micromamba(request)
    with CacheUse(micromamba.pkgs, emit), micromamba.workspace() as work:
        have = installed(prefix)
        wanted = {stem(package): package for package in packages}
        to_go = [name for name, digest in have.items() if name not in wanted or digest != wanted[name].sha256]
        to_add = [package for name, package in wanted.items() if have.get(name) != package.sha256]
        verify_local(to_add)
        to_fetch = [package for package in to_add if not is_cached(micromamba, package)]
        refuse_unreachable(to_fetch, offline=request["offline"])
        try:
            for name in to_go:
                unlink(prefix, name)
        except OSError as error:
            raise explain_os_error(error, prefix) from error
        if to_add:
            await link(micromamba, work, Change(prefix, to_add, to_fetch), emit)
        check(prefix, packages, micromamba)


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be linked into a prefix, and what of it must be fetched for that."""

    prefix: Path
    to_add: Sequence[LockedPackage]
    to_fetch: Sequence[LockedPackage]


async def link(micromamba: Micromamba, work: Path, change: Change, emit: Emit) -> None:
    """Let micromamba fetch and link packages.

    Raises:
        InstallError, HostError: it failed, by its own account.
    """
    watcher = asyncio.create_task(Watch(micromamba.pkgs, change, emit).go())
    try:
        said = await call(micromamba, work, change)
        if broke_off(said, change):
            said = await call(micromamba, work, change)
    finally:
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
    if not said.claims_success:
        raise explained(said, change, micromamba.pkgs)
    tell_end(change, emit)


async def call(micromamba: Micromamba, work: Path, change: Change) -> Said:
    """Call micromamba once. Of a new prefix nothing is left if that fails: half of one would be taken for one."""
    listing = work / "explicit.txt"
    command = prepare(listing, change)
    arguments = [command, *COMMON, "--no-pyc", *CHECKED, *await micromamba.link_options(work)]
    with without_pip(change.prefix, work):
        said = await micromamba.call(work, *arguments, "-p", str(change.prefix), "-f", str(listing))
    if command == "create" and not said.claims_success:
        shutil.rmtree(change.prefix, ignore_errors=True)
    return said


@contextmanager
def without_pip(prefix: Path, work: Path) -> Iterator[None]:
    """Hide the record of a prefix's pip meanwhile: micromamba would run that pip, and with it code of the packages.

    Raises:
        HostError: the disk is full, or cannot be written to.
    """
    records = [path for path in prefix.glob("conda-meta/pip-*.json") if path.stem.rsplit("-", 2)[0] == "pip"]
    try:
        for path in records:
            shutil.move(path, work / path.name)
    except OSError as error:
        raise explain_os_error(error, prefix) from error
    yield
    try:
        for path in records:
            shutil.move(work / path.name, path)
    except OSError as error:
        raise explain_os_error(error, prefix) from error


def broke_off(said: Said, change: Change) -> bool:
    """Say whether it may help to fetch once more: an archive came broken over the network."""
    remote = any(not package.url.startswith("file://") for package in change.to_fetch)
    return remote and not said.claims_success and is_broken_download(said.stderr)


def prepare(listing: Path, change: Change) -> str:
    """Write the list, and return the command for it: `create` would replace an environment that is there.

    Raises:
        HostError: the disk is full, or cannot be written to.
    """
    prefix = change.prefix
    try:
        listing.write_text(explicit(change.to_add))
        if not prefix.exists() or not any(prefix.iterdir()):
            prefix.parent.mkdir(parents=True, exist_ok=True)
            return "create"
        (prefix / "conda-meta").mkdir(exist_ok=True)
        (prefix / "conda-meta/history").touch()  # what makes it an environment, for micromamba
    except OSError as error:
        raise explain_os_error(error, prefix) from error
    return "install"


def explained(said: Said, change: Change, pkgs: Path) -> CondaRunError:
    """Return the error; a call that was interrupted can end with 0 and say nothing."""
    if said.returncode == 0:
        return InstallError(f"micromamba ended before it was done: {last_words(said)}.", hint="Try again.")
    return explain_install(said, change.to_add, pkgs, change.prefix)


def explicit(packages: Iterable[LockedPackage]) -> str:
    """Return the packages as an explicit list, each with the digest that it must have."""
    return "\n".join(["@EXPLICIT", *(f"{package.url}#sha256:{package.sha256}" for package in packages)]) + "\n"


def stem(package: LockedPackage) -> str:
    """Return the package's name, version and build as its archive has them."""
    return unquote(package.url.rpartition("/")[2]).removesuffix(".conda").removesuffix(".tar.bz2")


def installed(prefix: Path) -> dict[str, str]:
    """Return what the prefix's records say is in it: digests by name, version and build.

    Raises:
        InstallError: a record cannot be read.
    """
    found = {}
    for path in sorted(prefix.glob("conda-meta/*.json")):
        try:
            found[path.stem] = str(json.loads(path.read_bytes()).get("sha256") or "")
        except (OSError, ValueError, AttributeError) as error:
            raise InstallError(f"The record {path} of an environment is damaged.", code="environment-broken") from error
    return found


def unlink(prefix: Path, name: str) -> None:
    """Remove a package's files, the directories that are empty then, and its record."""
    record = prefix / "conda-meta" / f"{name}.json"
    root = os.path.realpath(prefix)
    for file in json.loads(record.read_bytes()).get("files") or ():
        path = os.path.normpath(os.path.join(root, str(file)))
        if not path.startswith(root + os.sep):  # a record is a stranger's
            continue
        with suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError):
            os.unlink(path)
        remove_empty(os.path.dirname(path), root)
    record.unlink()


def remove_empty(directory: str, root: str) -> None:
    """Remove a directory and those above it, as far as they are empty."""
    while directory.startswith(root + os.sep):
        try:
            os.rmdir(directory)
        except OSError:
            return
        directory = os.path.dirname(directory)


def is_cached(micromamba: Micromamba, package: LockedPackage) -> bool:
    """Say whether micromamba has the package already: unpacked with its record, or the archive itself."""
    for directory in (micromamba.pkgs, *micromamba.layers):
        with suppress(OSError, ValueError, AttributeError):
            record = json.loads((directory / stem(package) / "info/repodata_record.json").read_bytes())
            if record.get("sha256") == package.sha256:
                return True
        with suppress(OSError), (directory / unquote(package.url.rpartition("/")[2])).open("rb") as archive:
            if hashlib.file_digest(archive, "sha256").hexdigest() == package.sha256:
                return True
    return False


def refuse_unreachable(packages: Sequence[LockedPackage], *, offline: bool) -> None:
    """Refuse what cannot be fetched before anything is touched: micromamba's `--offline` would fetch it.

    Raises:
        InstallError: a package is neither in the cache nor where it should be.
    """
    remote = [package.name for package in packages if not package.url.startswith("file://")]
    if offline and remote:
        raise offline_missing(remote)
    for package in packages:
        if package.url.startswith("file://") and not Path(path_of(package.url)).exists():
            raise InstallError(
                f"{package.name} {package.version} could not be installed: its archive {package.url} is not there.",
                hint="The lock may be older than the channel: lock again.",
            )


def check(prefix: Path, packages: Sequence[LockedPackage], micromamba: Micromamba) -> None:
    """Compare the prefix's records with what was asked for, whatever micromamba said; complete them.

    Raises:
        InstallError: something is missing, is too much, or is another archive.
    """
    have = installed(prefix)
    wanted = {stem(package): package for package in packages}
    amiss = sorted(have.keys() ^ wanted.keys())
    if amiss:
        raise InstallError(
            f"micromamba said that it was done, but the environment is not what was asked for: {', '.join(amiss[:5])}.",
            hint="Try again; if it stays, use `--engine rattler`.",
        )
    for name, package in wanted.items():
        if have[name] != package.sha256 and not (have[name] == "" and is_cached(micromamba, package)):
            raise InstallError(
                f"micromamba installed another archive of {package.name} {package.version} than the one asked for.",
                hint="Try again; if it stays, use `--engine rattler`.",
                code="checksum-mismatch",
            )
        complete(prefix / "conda-meta" / f"{name}.json", package)


def complete(path: Path, package: LockedPackage) -> None:
    """Write into a record what an explicit list cannot tell micromamba: what the package needs, and its size."""
    try:
        record = json.loads(path.read_bytes())
        more = {"depends": list(package.depends), "size": package.size_bytes, "sha256": package.sha256}
        lacking = {key: value for key, value in more.items() if value and not record.get(key)}
        if lacking:
            replacement = path.with_suffix(".json.new")
            replacement.write_text(json.dumps(record | lacking, indent=4))
            replacement.replace(path)
    except OSError as error:
        raise explain_os_error(error, path) from error


class Watch:
    """Tells how far micromamba is, by what it has on disk: its JSON comes only at the end."""

    def __init__(self, pkgs: Path, change: Change, emit: Emit) -> None:
        self._archives = [pkgs / unquote(package.url.rpartition("/")[2]) for package in change.to_fetch]
        self._records = [change.prefix / "conda-meta" / f"{stem(package)}.json" for package in change.to_add]
        self._size = sum(package.size_bytes for package in change.to_fetch)
        self._emit = emit
        self._last = (0, 0)

    async def go(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            now = (sum(map(fetched_bytes, self._archives)), sum(record.exists() for record in self._records))
            if now[0] != self._last[0] and now[0] <= self._size:
                self._emit(Progress("download", "Fetching packages", now[0], self._size, "bytes"))
            if now[1] != self._last[1]:
                self._emit(Progress("link", "Installing packages", now[1], len(self._records), "packages"))
            self._last = now


def fetched_bytes(archive: Path) -> int:
    """Return how much of an archive is there, under its own name or that of a part of it."""
    for path in (archive, archive.with_name(f"{archive.name}.part")):
        with suppress(OSError):
            return path.stat().st_size
    return 0


def tell_end(change: Change, emit: Emit) -> None:
    """Tell that all is there."""
    if change.to_fetch:
        size = sum(package.size_bytes for package in change.to_fetch)
        emit(Progress("download", "Fetched packages", size, size, "bytes"))
    count = len(change.to_add)
    emit(Progress("link", "Installed packages", count, count, "packages"))
