"""Templates: an environment.yml or a lock, shipped in `env-templates/`, kept in the user's directory, or any file.

Found for `provision.py`, `doctor` and the server; the files are read as the hostile input that they are, by
`conda/environment_file.py` and `conda/lockfile.py`. Never locks or installs anything.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, lru_cache
from pathlib import Path

from ..conda.lockfile import MAX_LOCK_BYTES, read_environment
from ..errors import RequestError, SettingsError

DEFAULT_CHANNELS = ("conda-forge",)
DEFAULT = "base"
AUTO = "auto"
"""In the place of a template's name: choose by what the code imports (`template_choice.py`)."""

PREFIX = "prefix:"
"""Before a path: an environment that the user has, as a template (`prefixes.py`). Agents cannot ask for one."""

LOCK_SUFFIX = ".conda-lock.yml"
SUFFIXES = (".yml", ".yaml", ".lock", ".txt")
HEAD_BYTES = 64 * 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Kind(StrEnum):
    """What a template's file is."""

    ENVIRONMENT = "environment.yml"
    CONDA_LOCK = "conda-lock.yml"
    PIXI_LOCK = "pixi.lock"
    EXPLICIT = "explicit list"
    PREFIX = "environment"


@dataclass(frozen=True, slots=True)
class Template:
    """A template, read and checked.

    Attributes:
        name: the file's name without its suffix.
        path: the file.
        channels: the file's own channels, or those configured instead; empty if it is a lock, whose packages say.
        specs: match specs; empty if it is a lock.
        kind: what the file is.
        digest: of the file, if it is a lock; of its state, if it is an environment.
        pip: requirements of its `pip:` section.
        imports: modules that it says it serves.
        needs: virtual packages that the machine must have, such as `__cuda`.
        platforms: those that it can be locked for; empty if it does not say.
    """

    name: str
    path: Path
    channels: tuple[str, ...]
    specs: tuple[str, ...]
    kind: Kind = Kind.ENVIRONMENT
    digest: str = ""
    pip: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()

    @property
    def is_lock(self) -> bool:
        """Say whether the file pins everything already."""
        return self.kind is not Kind.ENVIRONMENT

    def lock_name(self, platform: str, exclude_newer: str = "") -> str:
        """Return the file name of the lock that fits this content; other content gets another name."""
        content = [self.channels, self.specs, platform]
        content += [more for more in (self.pip, self.digest, exclude_newer) if more]
        return f"{self.name}-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]}{LOCK_SUFFIX}"


def template_directories() -> tuple[Path, ...]:
    """Return where the shipped templates are: in the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    return tuple(path for path in (package / "env-templates", package.parent / "env-templates") if path.is_dir())


@cache
def shipped_templates() -> dict[str, Path]:
    """Return the shipped templates by name."""
    return {
        path.stem: path
        for directory in reversed(template_directories())
        for path in sorted(directory.glob("*.yml"))
        if not path.name.endswith(LOCK_SUFFIX)
    }


def users_templates(directory: Path) -> dict[str, Path]:
    """Return the templates in the user's directory by name; the lock of a template is not one itself."""
    try:
        files = sorted(path for path in directory.iterdir() if path.suffix in SUFFIXES and path.is_file())
    except OSError:
        return {}
    named = [(name_of(path), path) for path in files if _NAME.fullmatch(name_of(path))]
    locks = {name: path for name, path in named if path.name.endswith(LOCK_SUFFIX)}
    return {**locks, **{name: path for name, path in named if not path.name.endswith(LOCK_SUFFIX)}}


def known_templates(directory: Path | None = None) -> dict[str, Path]:
    """Return all templates that have a name: the user's, and the shipped ones, which win."""
    return {**(users_templates(directory) if directory is not None else {}), **shipped_templates()}


def find_template(name: str, channels: tuple[str, ...] = (), directory: Path | None = None) -> Template:
    """Return the template of this name, or of this path, with `channels` instead of its own if there are any.

    Raises:
        RequestError: there is none.
        SettingsError: it cannot be used.
    """
    if name.startswith(PREFIX):
        from .prefixes import prefix_template  # noqa: PLC0415 - it needs this module

        return prefix_template(Path(name.removeprefix(PREFIX)), channels)
    shipped = shipped_templates().get(name)
    if shipped is not None:  # the common case, for every run: the user's directory is not listed
        return read_template(shipped, channels)
    known = known_templates(directory)
    if name in known:
        return read_template(known[name], channels)
    path = Path(name)
    if "\0" not in name and path.suffix in SUFFIXES and path.is_file():
        return read_template(path.absolute(), channels)
    raise RequestError(
        f"There is no template {name!r}.",
        hint=f"Choose one of {', '.join(sorted(known))}, or give the path of an environment.yml, a conda-lock.yml, a "
        "pixi.lock or an explicit list.",
        code="unknown-template",
    )


def read_template(path: Path, channels: tuple[str, ...] = ()) -> Template:
    """Read and check a template's file.

    Raises:
        SettingsError: it cannot be read, or is nothing that can be used here.
    """
    try:
        status = path.stat()
    except OSError:
        return _read(path, channels, (0, 0))  # it says what is wrong
    return _read(path, channels, (status.st_mtime_ns, status.st_size))


def name_of(path: Path) -> str:
    """Return the name of the template that a file holds."""
    return path.name.split(".")[0]


def kind_of(path: Path) -> Kind:
    """Say what a file seems to be, by its first lines; whoever reads it finds out whether it is."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES).decode(errors="replace")
    except OSError:
        return Kind.ENVIRONMENT  # reading it says what is wrong
    if re.search(r"^@EXPLICIT\s*$", head, re.MULTILINE):
        return Kind.EXPLICIT
    keys = set(re.findall(r"^(\w+):", head, re.MULTILINE))
    if "dependencies" in keys:
        return Kind.ENVIRONMENT
    if "environments" in keys or path.suffix == ".lock":
        return Kind.PIXI_LOCK
    return Kind.CONDA_LOCK if {"metadata", "package"} & keys else Kind.ENVIRONMENT


@lru_cache(maxsize=64)
def _read(path: Path, channels: tuple[str, ...], _: tuple[int, int]) -> Template:
    """Read a template; the last argument tells its versions apart, so that each is read once."""
    name = name_of(path)
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"The template {path} cannot be used: its file name is not a plain word.",
            hint="Rename it to letters, digits, dots and dashes, such as geo.yml.",
            code="bad-template",
        )
    kind = kind_of(path)
    if kind is not Kind.ENVIRONMENT:
        return Template(name, path, channels, (), kind, digest=_digest(path))
    file = read_environment(path)
    return Template(
        name=name,
        path=path,
        channels=channels or file.channels or DEFAULT_CHANNELS,
        specs=file.dependencies,
        pip=file.pip,
        imports=file.imports,
        needs=file.needs,
        platforms=file.platforms,
    )


def _digest(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_LOCK_BYTES:
            raise SettingsError(
                f"The template {path} cannot be used: it is larger than {MAX_LOCK_BYTES // 1024**2} MiB.",
                code="bad-template",
            )
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SettingsError(
            f"The template {path} cannot be read: {error.strerror or error}.", code="bad-template"
        ) from None
