"""What lies on disk, and who may touch it.

One directory on one file system, so that hard links work between packages, environments and runs:

    pkgs/  repodata/  index/        the engine's caches
    pypi/                           wheels, and what the index of PyPI said
    locks/                          a template's conda-lock.yml
    solutions/                      which packages a set of specs came to
    envs/<key>  envs/<key>.json     an environment and its description, whose appearance is the READY marker
    runs/<id>   scratch/<id>        a run's ephemeral prefix, as long a path as an environment's, and its writable files
    owners/<id>.lock  owners/<id>/  held by a living process, and the environments it uses; a dead owner's are swept
    uses/<key>                      its time says when an environment was last wanted
    planning/                       what was learned about imports
    guest/                          our guest modules, with bytecode
    records/                        what is kept of each run (`records/shelf.py`)
    sandbox/                        what the machine allows (`sandbox/probe.py`), and its mount points
    trash/                          renamed out of the way, on its way to be removed

Called by the other modules of this room and by `doctor` and `clean`. Never runs anything.
"""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import hashlib
import json
import os
import secrets
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import filelock

from ..errors import HostError, SettingsError
from ..models import Environment, LockedPackage
from ..portability import held_bytes, identity, remove_while_locked, replace_file
from .disk import check_locks
from .trash import Trash
from .uses import BUILDING, Uses

FORMAT = 1
"""Raised when the layout of an environment changes: old ones are then built again."""

_POLL_S = 0.05
CARE_LOCK = ".care.lock"
"""Held while packages are removed from the package cache."""


def environment_key(packages: Iterable[LockedPackage]) -> str:
    """Return the key of the environment that holds exactly these packages: 16 hexadecimal digits."""
    rows = sorted(f"{package.url}#{package.sha256}" for package in packages)
    return hashlib.sha256("\n".join([f"format {FORMAT}", *rows]).encode()).hexdigest()[:16]


@contextmanager
def host_errors(what: str) -> Iterator[None]:
    """Turn the operating system's refusals into one sentence with a hint.

    Raises:
        HostError: `disk-full`, `cache-read-only` or `broken-host`.
    """
    try:
        yield
    except OSError as error:
        raise as_host_error(what, error) from error


def as_host_error(what: str, error: OSError) -> HostError:
    """Say which of the usual reasons an `OSError` is."""
    reason = error.strerror or str(error)
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return HostError(
            f"{what}: the disk is full.",
            hint="Free some space, or run `mcp-conda-run clean`, or set MCP_CONDA_RUN_CACHE_DIR to another disk.",
            code="disk-full",
        )
    if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
        return HostError(
            f"{what}: {reason} ({error.filename}).",
            hint="Make the cache directory writable, or set MCP_CONDA_RUN_CACHE_DIR to one that is.",
            code="cache-read-only",
        )
    return HostError(f"{what}: {reason} ({error.filename}).")


class Store:
    """The cache directory. Make it, `open` it, and `close` it at the end of the process.

    Args:
        root: the directory.
        layers: other stores, whose environments and locks are used as they are and never changed.
    """

    def __init__(self, root: Path, layers: Iterable[Path] = ()) -> None:
        self.root = root.absolute()
        self.layers = tuple(Store(layer.expanduser()) for layer in layers)
        self.packages = self.root / "pkgs"
        self.repodata = self.root / "repodata"
        self.index = self.root / "index"
        self.pypi = self.root / "pypi"
        self.locks = self.root / "locks"
        self.solutions = self.root / "solutions"
        self.envs = self.root / "envs"
        self.runs = self.root / "runs"
        self.scratch = self.root / "scratch"
        self.owners = self.root / "owners"
        self.sandbox = self.root / "sandbox"
        self.guest = self.root / "guest"
        self.planning = self.root / "planning"
        self.stamps = self.root / "uses"
        self.records = self.root / "records"
        self.trash = Trash(self.root / "trash")
        self._owner = secrets.token_hex(4)
        self._owner_lock: filelock.BaseFileLock | None = None
        self.uses = Uses(self.owners / self._owner, self.stamps)

    @property
    def parts(self) -> tuple[Path, ...]:
        """Return all directories that hold something, but for the owners and the trash."""
        return (
            *(self.packages, self.repodata, self.index, self.pypi, self.locks, self.solutions, self.planning),
            *(self.envs, self.guest, self.sandbox, self.runs, self.scratch, self.records, self.stamps),
        )

    # --- the life of a process ------------------------------------------------------------------------------------

    def open(self) -> None:
        """Make the directories, register this process as an owner, and sweep what dead owners left.

        Raises:
            SettingsError: a layer is not a store.
        HostError: the cache directory cannot be made or written, or files cannot be locked there.
        """
        for layer in self.layers:
            if not layer.envs.is_dir():
                raise SettingsError(
                    f"{layer.root} is no cache of mcp-conda-run that can be read.",
                    hint="Check MCP_CONDA_RUN_STORE_LAYERS; its owner makes it with `mcp-conda-run warmup`.",
                    code="bad-layer",
                )
        with host_errors("The cache directory cannot be used"):
            for directory in (
                *(self.packages, self.repodata, self.index, self.locks, self.solutions),
                *(self.envs, self.runs, self.scratch, self.owners, self.trash.directory),
            ):
                directory.mkdir(parents=True, exist_ok=True)
            check_locks(self.owners)
            self._owner_lock = self._lock(self.owners / f"{self._owner}.lock")
            self._owner_lock.acquire(timeout=0)
            self.uses.open()
        self.sweep()

    def close(self) -> None:
        """Give up ownership; what this process's runs left is removed by the next sweep."""
        if self._owner_lock is not None:
            self.uses.close()
            self._owner_lock.release()
            (self.owners / f"{self._owner}.lock").unlink(missing_ok=True)
            self._owner_lock = None

    def new_run_id(self) -> str:
        """Return a new run's id: 8 digits of this process and 8 random ones."""
        return self._owner + secrets.token_hex(4)

    def sweep(self) -> None:
        """Remove half-made environments that nobody is making, and runs whose process is dead."""
        for directory in self.leftovers():
            self.trash.discard(directory)
        for aside in self.envs.glob(".*.aside"):
            with self._if_free(self._build_lock(aside.name[1:17])) as free:
                if free:
                    aside.unlink(missing_ok=True)
        self.trash.empty_in_background()

    def leftovers(self) -> list[Path]:
        """Return what a sweep would remove."""
        half_made = [prefix for prefix in _directories(self.envs) if self._is_half_made(prefix.name)]
        runs = [*_directories(self.runs), *_directories(self.scratch), *_directories(self.owners)]
        return half_made + [directory for directory in runs if self._owner_is_dead(directory.name[:8])]

    def other_owners(self) -> list[str]:
        """Return the other living processes that have this store open."""
        names = [path.stem for path in self.owners.glob("*.lock")]
        return [name for name in names if name != self._owner and not self._owner_is_dead(name)]

    def _is_half_made(self, key: str) -> bool:
        if self.description(key).exists():
            return False
        with self._if_free(self._build_lock(key)) as free:
            return free and not self.description(key).exists()

    def _owner_is_dead(self, owner: str) -> bool:
        if owner == self._owner:
            return False
        path = self.owners / f"{owner}.lock"
        if not path.exists():
            return True
        with self._if_free(self._lock(path)) as free:
            if free:
                remove_while_locked(path)
            return free

    # --- environments ---------------------------------------------------------------------------------------------

    def prefix(self, key: str) -> Path:
        """Return where the environment of this key is, or would be."""
        return self.envs / key

    def description(self, key: str) -> Path:
        """Return the path of an environment's `env.json`."""
        return self.envs / f"{key}.json"

    def claim(self, key: str) -> Environment | None:
        """Return the environment of this key if it is ready, else None; nobody removes it while it is used."""
        self.uses.claim(key)
        return self.load(key)

    def is_used(self, key: str) -> bool:
        """Say whether a living process, this one included, uses an environment."""
        return any(not self._owner_is_dead(mark.parent.name) for mark in self.owners.glob(f"*/{key}"))

    def load(self, key: str) -> Environment | None:
        """Return the environment of this key if it is ready, else None; a damaged description counts as absent.

        One of a layer is where it is in the layer.
        """
        found = (store._load(key) for store in (self, *self.layers))
        return next((environment for environment in found if environment is not None), None)

    def _load(self, key: str) -> Environment | None:
        try:
            data = json.loads(self.description(key).read_bytes())
            if data.pop("format") != FORMAT or not self.prefix(key).is_dir():
                return None
            data["packages"] = tuple(_locked_package(row) for row in data["packages"])
            data["stdlib"] = frozenset(data["stdlib"])
            return Environment(key=key, prefix=self.prefix(key), **data)
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def owns(self, environment: Environment) -> bool:
        """Say whether an environment is in this store, and not in a layer or elsewhere."""
        return environment.prefix == self.prefix(environment.key)

    def read_only_note(self, environment: Environment) -> tuple[str, ...]:
        """Return what a run in an environment of a layer should know: somebody else's files cannot be changed."""
        if self.owns(environment) or os.name != "posix" or os.geteuid() in {0, environment.prefix.stat().st_uid}:
            return ()
        return ("The environment is shared and belongs to another user: the run cannot write to its prefix.",)

    def find_lock(self, name: str) -> Path:
        """Return where the lock of this name is: here, in a layer, or where it shall be made."""
        places = [store.locks / name for store in (self, *self.layers)]
        return next((place for place in places if place.is_file()), places[0])

    def publish(self, environment: Environment) -> None:
        """Write `env.json`: from now on the environment exists."""
        data = dataclasses.asdict(environment)
        del data["key"], data["prefix"]
        data["stdlib"] = sorted(environment.stdlib)
        write_atomically(self.description(environment.key), json.dumps({"format": FORMAT, **data}, indent=1))

    def forget(self, key: str) -> None:
        """Remove an environment: first its description, then its files."""
        self.description(key).unlink(missing_ok=True)
        self.trash.discard(self.prefix(key))
        self.uses.forget(key)

    def forget_unused(self, key: str) -> bool:
        """Remove an environment unless somebody uses it; say whether it was removed.

        Who wants an environment leaves a mark first and looks for its description then; here the description goes
        first, and comes back if there is a mark. So one of the two always sees the other.
        """
        with self._if_free(self._build_lock(key)) as free:
            if not free or self.is_used(key):
                return False
            aside = self.envs / f".{key}.json.aside"
            try:
                self.description(key).rename(aside)
            except OSError:
                return False
            if self.is_used(key):
                aside.rename(self.description(key))
                return False
            aside.unlink()
            self.forget(key)
            return True

    @asynccontextmanager
    async def building(self, key: str) -> AsyncIterator[None]:
        """Be the only builder of this key, in all processes; wait for another one to finish."""
        lock = self._build_lock(key)
        while not _try_acquire(lock):  # noqa: ASYNC110 - another process holds it: there is no event to wait for
            await asyncio.sleep(_POLL_S)
        try:
            with self.uses.building():
                while self._is_locked(self._care_lock):  # noqa: ASYNC110 - as above
                    await asyncio.sleep(_POLL_S)
                yield
        finally:
            lock.release()

    @contextmanager
    def nobody_builds(self) -> Iterator[bool]:
        """Say whether no process installs anything; if so, builders wait until this is left."""
        with self._if_free(self._care_lock) as free:
            yield free and not self.is_used(BUILDING)

    def _build_lock(self, key: str) -> filelock.BaseFileLock:
        return self._lock(self.envs / f".{key}.lock")

    # --- solutions ------------------------------------------------------------------------------------------------

    def solution(self, question: str, max_age_s: float) -> tuple[LockedPackage, ...] | None:
        """Return what these specs came to if that was solved not too long ago."""
        path = self.solutions / f"{question}.json"
        try:
            if time.time() - path.stat().st_mtime > max_age_s:
                return None
            return tuple(_locked_package(row) for row in json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def remember_solution(self, question: str, packages: Iterable[LockedPackage]) -> None:
        """Keep what these specs came to."""
        rows = [dataclasses.asdict(package) for package in packages]
        write_atomically(self.solutions / f"{question}.json", json.dumps(rows))

    # --- size and cleaning ----------------------------------------------------------------------------------------

    def usage(self) -> dict[str, Usage]:
        """Return how much each part holds; a file with several links counts once, where it is first met."""
        seen: set[tuple[int, int]] = set()
        return {part.name: _usage(part, seen) for part in (*self.parts, self.trash.directory)}

    def environments(self) -> list[Environment]:
        """Return every ready environment."""
        keys = sorted(path.stem for path in self.envs.glob("????????????????.json"))
        return [environment for key in keys if (environment := self.load(key)) is not None]

    # --- small things ---------------------------------------------------------------------------------------------

    @property
    def _care_lock(self) -> filelock.BaseFileLock:
        return self._lock(self.root / CARE_LOCK)

    def _is_locked(self, lock: filelock.BaseFileLock) -> bool:
        with self._if_free(lock) as free:
            return not free

    @staticmethod
    def _lock(path: Path) -> filelock.BaseFileLock:
        return filelock.FileLock(path, thread_local=False)

    @staticmethod
    @contextmanager
    def _if_free(lock: filelock.BaseFileLock) -> Iterator[bool]:
        free = _try_acquire(lock)
        try:
            yield free
        finally:
            if free:
                lock.release()


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """How much a directory holds."""

    files: int
    size_bytes: int


def write_atomically(path: Path, text: str) -> None:
    """Make `path` hold `text`, or stay as it was.

    Raises:
        HostError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with host_errors(f"{path.name} cannot be written"):
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            replace_file(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _locked_package(row: dict[str, Any]) -> LockedPackage:
    return LockedPackage(**{**row, "depends": tuple(row["depends"])})


def _try_acquire(lock: filelock.BaseFileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return False
    except OSError as error:
        raise as_host_error("A lock file cannot be written", error) from error
    return True


def _directories(parent: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(parent) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _usage(directory: Path, seen: set[tuple[int, int]]) -> Usage:
    files = size = 0
    stack = [os.fspath(directory)]
    while stack:
        try:
            entries = list(os.scandir(stack.pop()))
        except OSError:
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                stack.append(entry.path)
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            file = identity(entry, status)
            if file not in seen:
                seen.add(file)
                files += 1
                size += held_bytes(status)
    return Usage(files, size)
