"""Environments that the user already has: where they are, what is in them, and in which state.

`--prefix` and `--name` come here. Reads what conda, mamba and micromamba keep of an environment and of where they made
some; changes nothing. Copies are made by `adopt.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..conda.access import split_credentials
from ..conda.lockfile import channel_name
from ..errors import InstallError, RequestError
from ..models import LockedPackage
from ..portability import SCRIPTS, SITE_PACKAGES
from .templates import PREFIX, Kind, Template

FORMAT = 1
"""Raised when copies are made in another way: old ones are then made again."""

ROOTS = ("miniforge3", "mambaforge", "miniconda3", "anaconda3", "micromamba", "mamba", "miniforge", "miniconda")
"""Where installers put a root prefix, below the home."""
PLAIN = re.compile(r"[^A-Za-z0-9_.-]+")


def find_prefix(text: str, environment: Mapping[str, str] | None = None, home: Path | None = None) -> Path:
    """Return the environment at a path, or of a name.

    Raises:
        RequestError: there is none.
    """
    variables, home = os.environ if environment is None else environment, home or Path.home()
    if "\0" not in text and (os.sep in text or text.startswith(("~", "."))):
        path = Path(text).expanduser().absolute()
        if is_prefix(path):
            return path
        why = "is not there" if not path.exists() else "is no conda environment: it has no conda-meta/history"
        raise RequestError(f"{path} {why}.", hint="Give the path of an environment.", code="no-prefix")
    found = [path for path in known_prefixes(variables, home) if path.name == text]
    if not found and text == "base":
        found = [root for root in root_prefixes(variables, home) if is_prefix(root)]
    if not found:
        names = sorted({path.name for path in known_prefixes(variables, home)})
        raise RequestError(
            f"There is no environment of the name {text!r}.",
            hint=f"There is {', '.join(names)}." if names else "Give its path with --prefix.",
            code="no-prefix",
        )
    return found[0]


def is_prefix(path: Path) -> bool:
    """Say whether a directory is a conda environment; one that cannot be looked into is none."""
    try:
        return (path / "conda-meta/history").is_file() or any((path / "conda-meta").glob("*.json"))
    except OSError:
        return False


def root_prefixes(variables: Mapping[str, str], home: Path) -> Iterator[Path]:
    """Give the places where a root prefix may be, the likeliest first."""
    for name in ("MAMBA_ROOT_PREFIX", "CONDA_ROOT"):
        if variables.get(name):
            yield Path(variables[name])
    if variables.get("CONDA_EXE"):
        yield Path(variables["CONDA_EXE"]).parent.parent
    yield from (home / name for name in ROOTS)
    yield from (home / ".local/share/mamba", Path("/opt/conda"), Path("/opt/miniforge3"))


def known_prefixes(variables: Mapping[str, str], home: Path) -> list[Path]:
    """Return the environments that conda's own rules find by name, the first of each name first."""
    directories = [
        Path(place).expanduser()
        for name in ("CONDA_ENVS_PATH", "CONDA_ENVS_DIRS")
        for place in re.split(rf"[{re.escape(os.pathsep)},]", variables.get(name, ""))
        if place
    ]
    directories += [root / "envs" for root in root_prefixes(variables, home)]
    directories.append(home / ".conda/envs")
    found = [path for directory in directories for path in children(directory)]
    try:
        lines = (home / ".conda/environments.txt").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    found += [Path(line.strip()) for line in lines if line.strip()]
    return [path for path in dict.fromkeys(found) if path.is_absolute() and is_prefix(path)]


def children(directory: Path) -> list[Path]:
    """Return what is in a directory; nothing if it cannot be read."""
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def prefix_template(path: Path, channels: tuple[str, ...]) -> Template:
    """Return an environment as a template: its packages say what it has, and where that is from.

    Raises:
        RequestError: there is none at the path.
    """
    path = find_prefix(str(path))
    return Template(PLAIN.sub("-", path.name).strip("-.") or "prefix", path, channels, (), Kind.PREFIX)


def as_template_name(text: str) -> str:
    """Return the template's name for the environment that a path or a name means.

    Raises:
        RequestError: there is none.
    """
    return f"{PREFIX}{find_prefix(text)}"


def state_key(prefix: Path) -> str:
    """Return the key of the environment as it is now: 16 hexadecimal digits.

    What conda, mamba, pip or uv add, remove or replace makes another one. It costs a `stat` for each package.

    Raises:
        InstallError: it cannot be read.
    """
    rows = [str(os.path.realpath(prefix))]
    try:
        for directory in (prefix / "conda-meta", *prefix.glob(SITE_PACKAGES), prefix / SCRIPTS):
            if directory.is_dir():
                rows += sorted(filter(None, map(row, os.scandir(directory))))
    except OSError as error:
        raise unreadable(prefix, error) from error
    return hashlib.sha256("\n".join([f"adopted {FORMAT}", *rows]).encode(errors="surrogateescape")).hexdigest()[:16]


def row(entry: os.DirEntry[str]) -> str:
    """Return what tells a changed entry from the one that was; importing something makes a `__pycache__`."""
    if entry.name == "__pycache__":
        return ""
    status = entry.stat(follow_symlinks=False)
    size = 0 if entry.is_dir(follow_symlinks=False) else status.st_size
    stamp = status.st_mtime_ns if size else listing(entry.path)
    return f"{entry.path} {size} {stamp}"


def listing(path: str) -> str:
    """Return what is directly in a directory, but for bytecode."""
    try:
        return " ".join(sorted(name for name in os.listdir(path) if name != "__pycache__"))
    except NotADirectoryError:
        return ""


def packages_of(prefix: Path) -> tuple[LockedPackage, ...]:
    """Return conda's packages of an environment, without credentials of their channels.

    Raises:
        InstallError: a record cannot be read.
    """
    found = []
    for path in sorted((prefix / "conda-meta").glob("*.json")):
        try:
            found.append(package_of(json.loads(path.read_bytes())))
        except OSError as error:
            raise unreadable(prefix, error) from error
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InstallError(
                f"The record {path} of the environment is damaged.",
                hint="Mend the environment with the tool that made it.",
                code="environment-broken",
            ) from None
    return tuple(found)


def package_of(record: Mapping[str, Any]) -> LockedPackage:
    """Return the package of one of conda's records."""
    url, _ = split_credentials(str(record.get("url") or ""))
    base = url.rsplit("/", 2)[0]
    return LockedPackage(
        name=str(record["name"]),
        version=str(record["version"]),
        build=str(record.get("build") or record.get("build_string") or ""),
        build_number=int(record.get("build_number") or 0),
        subdir=str(record.get("subdir") or ""),
        channel=channel_name(base) if base else "",
        url=url,
        sha256=str(record.get("sha256") or ""),
        md5=str(record.get("md5") or ""),
        size_bytes=int(record.get("size") or 0),
        depends=tuple(map(str, record.get("depends") or ())),
    )


def unreadable(prefix: Path, error: OSError) -> InstallError:
    """Return the error for an environment that may not be read."""
    return InstallError(
        f"The environment {prefix} cannot be read: {error.strerror or error} ({error.filename}).",
        hint="This user must be able to read all of its files.",
        code="prefix-unreadable",
    )
