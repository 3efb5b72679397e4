"""Installs packages into a prefix with py-rattler. Runs only in the engine's worker (`worker.py` calls it).

Every archive is verified: py-rattler checks the digest of what it downloads, we check that of `file://` archives, and
packages of the cache are compared file by file with their own list, so that damage through a hard link does not spread.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import rattler
from rattler.exceptions import InstallerError

from ..models import LockedPackage, Progress
from ..portability import lock, path_of, try_lock
from .faults import checksum_mismatch, explain_install, explain_os_error, host_fault_in, offline_missing
from .records import check_installable, from_json, to_record
from .web import make_client

REPORT_EVERY_S = 0.1

Emit = Callable[[Progress], None]


async def install(request: Mapping[str, Any], emit: Emit) -> None:
    """Answer an install request: make the prefix hold exactly the packages."""
    packages = [from_json(package) for package in request["packages"]]
    for package in packages:
        check_installable(package)
    pkgs, prefix = Path(request["pkgs"]), Path(request["prefix"])
    with CacheUse(pkgs, emit):
        present = installed_records(prefix)
        here = {record.sha256 for record in present}
        wanted = [package for package in packages if bytes.fromhex(package.sha256) not in here]
        verify_local(wanted)
        records = [to_record(package) for package in packages]
        cache = rattler.PackageCache.new_layered(
            [pkgs, *map(Path, request.get("layers", ()))], validation_mode=rattler.ValidationMode.full()
        )
        to_fetch = await not_cached(cache, wanted)
        remote = [package.name for package in to_fetch if not package.url.startswith("file://")]
        if request["offline"] and remote:
            raise offline_missing(remote)
        try:
            await rattler.install(
                records,
                prefix,
                installed_packages=present,
                execute_link_scripts=False,
                show_progress=False,
                client=make_client(offline=request["offline"]),
                package_cache=cache,
                reporter=cast(rattler.InstallerReporter, Reporter(emit, to_fetch)),  # its methods are optional
            )
        except InstallerError as error:
            text = str(error)
            raise (
                host_fault_in(text, prefix) if "failed to link" in text or "create the prefix" in text else None
            ) or explain_install(text, pkgs, request["offline"]) from error


class CacheUse:
    """Has the package cache for itself; on entry, sweeps what killed workers left half extracted.

    py-rattler holds a lock of its own on the cache for as long as it installs, so nothing is lost by waiting here,
    where it can be told. The kernel drops the lock, whatever ends the worker.
    """

    def __init__(self, pkgs: Path, emit: Emit) -> None:
        self.pkgs = pkgs
        self.emit = emit

    def __enter__(self) -> None:
        try:
            self.pkgs.mkdir(parents=True, exist_ok=True)
            self.file = (self.pkgs / ".workers.lock").open("a")
            if not try_lock(self.file):
                self.emit(Progress("wait", "Waiting for another installation to finish"))
                lock(self.file)
            self.sweep()
        except OSError as error:
            raise explain_os_error(error, self.pkgs) from error

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def sweep(self) -> None:
        """Remove py-rattler's temporary directories, `.name-version-buildXXXXXX`."""
        for entry in self.pkgs.iterdir():
            if entry.name.startswith(".") and entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)


def installed_records(prefix: Path) -> list[rattler.PrefixRecord]:
    """Return what `conda-meta` says is installed in the prefix."""
    return [rattler.PrefixRecord.from_path(path) for path in sorted(prefix.glob("conda-meta/*.json"))]


def verify_local(packages: Sequence[LockedPackage]) -> None:
    """Check the digest of `file://` archives, which py-rattler does not (it checks what it downloads).

    An archive that is absent is no failure here: the package may be in the cache.

    Raises:
        InstallError: an archive is not what was locked.
    """
    for package in packages:
        if not package.url.startswith("file://"):
            continue
        with suppress(FileNotFoundError), Path(path_of(package.url)).open("rb") as archive:
            if hashlib.file_digest(archive, "sha256").hexdigest() != package.sha256:
                raise checksum_mismatch(f"{package.name} {package.version}")


async def not_cached(cache: rattler.PackageCache, packages: Sequence[LockedPackage]) -> list[LockedPackage]:
    """Return the packages whose archives must be fetched."""
    index = await cache.index()
    return [package for package in packages if not index.contains_record(to_record(package))]


class Reporter:
    """Hears py-rattler's callbacks (from another thread) and tells of bytes fetched and packages linked."""

    def __init__(self, emit: Emit, to_fetch: Sequence[LockedPackage]) -> None:
        self._emit = emit
        self._expected_bytes = sum(package.size_bytes for package in to_fetch)
        self._fetched: dict[int, int] = {}
        self._sizes: dict[int, int] = {}
        self._names: dict[int, str] = {}
        self._operations = 0
        self._linked = 0
        self._last_report = 0.0

    def on_transaction_start(self, total_operations: int) -> None:
        """Learn how many packages are to be linked or removed."""
        self._operations = total_operations

    def on_populate_cache_start(self, operation: int, package_name: str) -> int:
        """Name a cache entry by the operation that needs it."""
        self._names[operation] = package_name
        return operation

    def on_download_start(self, cache_entry: int) -> int:
        """Name a download by its cache entry."""
        return cache_entry

    def on_download_progress(self, download_idx: int, progress: int, total: int | None) -> None:
        """Tell of the bytes fetched so far, of all packages."""
        self._fetched[download_idx] = progress
        self._sizes[download_idx] = total or progress
        now = time.monotonic()
        if now - self._last_report < REPORT_EVERY_S and progress != total:
            return
        self._last_report = now
        done = sum(self._fetched.values())
        whole = max(self._expected_bytes, sum(self._sizes.values()), done)
        name = self._names.get(download_idx, "a package")
        self._emit(Progress("download", f"Fetching {name}", done, whole, "bytes"))

    def on_transaction_operation_complete(self, operation: int) -> None:
        """Tell of a package linked or removed."""
        self._linked += 1
        name = self._names.get(operation, "packages")
        self._emit(Progress("link", f"Installed {name}", self._linked, self._operations, "packages"))
