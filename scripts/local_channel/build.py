"""A channel from beginning to end: choose a Python, fetch wheels, write packages, index them."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .archive import Package
from .cpython import Interpreter, inspect_python, python_package
from .errors import ChannelError, NotRelocatableError
from .fixtures import awkward_packages, old_format_package
from .indexing import index_channel
from .wheels import download, wheel_package

SUBDIRS = {"x86_64": "linux-64", "aarch64": "linux-aarch64", "ppc64le": "linux-ppc64le"}
TWIN_SUBDIRS = ("osx-arm64", "win-64")
TZDATA_VERSION = "2025b"


@dataclass(frozen=True, slots=True)
class PackageSet:
    """A named set of requirements.

    Attributes:
        requirements: what is fetched together with all that it needs.
        also: further versions, fetched alone.
        prefers: the Pythons (X, Y) that all of it has wheels for; another serves where none of these is; empty for any.
    """

    requirements: tuple[str, ...]
    also: tuple[str, ...] = ()
    prefers: tuple[tuple[int, int], ...] = ()


OLDER_NUMPY = ("numpy==2.1.3; python_version < '3.14'", "numpy==2.3.5; python_version >= '3.14'")

SETS = {
    "none": PackageSet(()),
    "small": PackageSet(("numpy", "pip", "pyyaml", "requests", "six"), OLDER_NUMPY),
    "scientific": PackageSet(
        (
            "gdal-wheel; python_version >= '3.12'",
            *("matplotlib", "networkx", "numpy", "openpyxl", "pandas", "pillow", "pip", "pyproj", "pyyaml"),
            *("rasterio", "requests", "scikit-image", "scikit-learn", "scipy", "shapely", "six", "sympy"),
            *("tabulate", "tzdata", "xarray"),
        ),
        OLDER_NUMPY,
        prefers=((3, 12), (3, 13)),
    ),
}


@dataclass(frozen=True, slots=True)
class Built:
    """What a build made: the Python, and the archives relative to the channel."""

    interpreter: Interpreter
    archives: tuple[Path, ...]


def choose_python(wanted: PackageSet) -> Interpreter:
    """Return the running CPython, or another of this machine if that one cannot be moved or does not suit the set.

    Raises:
        NotRelocatableError: none can be moved.
    """
    first_error: NotRelocatableError | None = None
    found: dict[Path, Interpreter] = {}
    for candidate in _pythons():
        try:
            interpreter = inspect_python(candidate)
        except NotRelocatableError as error:
            first_error = first_error or error
        except ChannelError:
            continue
        else:
            found.setdefault(interpreter.base.resolve(), interpreter)
            if not wanted.prefers or _release(interpreter) in wanted.prefers:
                return interpreter
    if found:
        return next(iter(found.values()))
    raise first_error or NotRelocatableError("There is no CPython on this machine that can be moved.")


def _release(interpreter: Interpreter) -> tuple[int, int]:
    major, minor = interpreter.xy.split(".")
    return int(major), int(minor)


def _pythons() -> Iterator[Path]:
    """Yield Pythons of this machine, the running one first, then those of the usual tools."""
    yield Path(sys.executable)
    names = [f"python3.{minor}" for minor in (12, 13, 11, 10)]
    yield from (Path(found) for found in map(shutil.which, names) if found)
    roots = (
        Path(os.environ.get("PYENV_ROOT", "~/.pyenv"), "versions").expanduser(),
        Path(os.environ.get("UV_PYTHON_INSTALL_DIR", "~/.local/share/uv/python")).expanduser(),
        Path(os.environ.get("RUNNER_TOOL_CACHE", "/opt/hostedtoolcache"), "Python"),
    )
    for root in roots:
        if not os.access(root, os.R_OK | os.X_OK):
            continue  # absent, or another user's
        for name in names:
            yield from sorted((*root.glob(f"*/bin/{name}"), *root.glob(f"*/*/bin/{name}")), reverse=True)


def build_channel(
    channel: Path,
    interpreter: Interpreter,
    wanted: PackageSet,
    *,
    wheels: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Built:
    """Add the Python, the set and the awkward packages to a channel, which is made if it is absent, and index it.

    Archives appear whole, and the index is written last: a failed build leaves the channel as readers knew it.

    Args:
        channel: the channel's directory.
        interpreter: the CPython that becomes the package `python`.
        wanted: what to fetch from PyPI.
        wheels: a directory with wheels to take instead of fetching any.
        say: told what is going on, one line at a time.

    Raises:
        ChannelError: with the reason.
    """
    subdir = SUBDIRS.get(platform.machine())
    if subdir is None:
        raise ChannelError(f"Packages for {platform.machine()} cannot be made here.")
    try:
        with tempfile.TemporaryDirectory(prefix="local-channel-") as folder:
            if wheels is None:
                wheels = Path(folder)
                if count := len(wanted.requirements) + len(wanted.also):
                    say(f"fetching {count} requirements from PyPI")
                    _fetch(wanted, wheels, interpreter)
            say("writing packages")
            archives = _write(channel, interpreter, sorted(wheels.glob("*.whl")), subdir)
        say("indexing")
        problem = index_channel(channel)
    except OSError as error:
        reason = "There is no space left" if error.errno == errno.ENOSPC else f"{error.strerror or error}"
        raise ChannelError(
            f"The channel cannot be written to {channel}: {reason}.", "Free some space, or choose another directory."
        ) from None
    if problem:
        raise ChannelError(
            f"The channel at {channel} cannot be indexed: {problem}.", "Look for damaged archives there."
        )
    return Built(interpreter, tuple(sorted(archive.relative_to(channel) for archive in archives)))


def _fetch(wanted: PackageSet, folder: Path, interpreter: Interpreter) -> None:
    with ThreadPoolExecutor(2) as pool:
        jobs = []
        if wanted.requirements:
            jobs.append(pool.submit(download, wanted.requirements, folder, interpreter))
        if wanted.also:
            jobs.append(pool.submit(download, wanted.also, folder, interpreter, dependencies=False))
        for job in jobs:
            job.result()


def _write(channel: Path, interpreter: Interpreter, wheels: Sequence[Path], subdir: str) -> list[Path]:
    """Write all archives; a few at a time, for what takes time (zlib, sha256, zstd) runs beside other threads."""

    def python() -> list[Package]:
        return [python_package(interpreter, subdir)]

    def from_wheel(wheel: Path) -> list[Package]:
        package = wheel_package(wheel, interpreter, subdir)
        if package.name != "matplotlib-base":
            return [package]
        whole = Package(name="matplotlib", version=package.version, noarch="generic")
        whole.depends = [f"matplotlib-base =={package.version}"]
        return [package, whole]

    def write(packages: list[Package]) -> list[Path]:
        return [path for package in packages for path in _write_with_twins(channel, package, subdir)]

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        jobs = [pool.submit(lambda: write(python()))]
        jobs += [pool.submit(lambda wheel=wheel: write(from_wheel(wheel))) for wheel in wheels]
        jobs.append(pool.submit(lambda: write([*_bases(interpreter), *awkward_packages(subdir)])))
        archives = [path for job in jobs for path in job.result()]
    return [*archives, old_format_package().write_tar_bz2(channel)]


def _write_with_twins(channel: Path, package: Package, subdir: str) -> Iterator[Path]:
    yield package.write_conda(channel)
    if package.subdir == subdir:
        for twin in TWIN_SUBDIRS:
            yield package.metadata_twin(twin).write_conda(channel)


def _bases(interpreter: Interpreter) -> Iterator[Package]:
    """Yield what conda-forge's python depends on."""
    yield Package(
        name="python_abi",
        version=interpreter.xy,
        build=f"0_{interpreter.tag}",
        noarch="generic",
        constrains=[f"python {interpreter.xy}.*"],
    )
    yield Package(name="tzdata", version=TZDATA_VERSION, noarch="generic")
