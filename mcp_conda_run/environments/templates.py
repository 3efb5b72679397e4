"""Templates: a plain environment.yml, shipped in `env-templates/` or the user's own.

Found for `provision.py` and `doctor`; `conda/lockfile.py` reads the file as the hostile input that it is. Never locks
or installs anything.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from ..conda.lockfile import read_environment
from ..errors import RequestError, SettingsError

DEFAULT_CHANNELS = ("conda-forge",)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class Template:
    """A template, read and checked.

    Attributes:
        name: the file's name without its suffix.
        path: the file.
        channels: the file's own channels, or those configured instead.
        specs: match specs.
    """

    name: str
    path: Path
    channels: tuple[str, ...]
    specs: tuple[str, ...]

    def lock_name(self, platform: str) -> str:
        """Return the file name of the lock that fits this content; other content gets another name."""
        content = json.dumps([self.channels, self.specs, platform])
        return f"{self.name}-{hashlib.sha256(content.encode()).hexdigest()[:12]}.conda-lock.yml"


def template_directories() -> tuple[Path, ...]:
    """Return where the shipped templates are: in the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    return tuple(path for path in (package / "env-templates", package.parent / "env-templates") if path.is_dir())


@cache
def shipped_templates() -> dict[str, Path]:
    """Return the shipped templates by name."""
    return {
        path.stem: path for directory in reversed(template_directories()) for path in sorted(directory.glob("*.yml"))
    }


def find_template(name: str, channels: tuple[str, ...] = ()) -> Template:
    """Return the template of this name, or of this path, with `channels` instead of its own if there are any.

    Raises:
        RequestError: there is none.
        SettingsError: it cannot be used.
    """
    shipped = shipped_templates()
    if name in shipped:
        return read_template(shipped[name], channels)
    path = Path(name)
    if "\0" not in name and path.suffix in {".yml", ".yaml"} and path.is_file():
        return read_template(path.absolute(), channels)
    raise RequestError(
        f"There is no template {name!r}.",
        hint=f"Choose one of {', '.join(sorted(shipped))}, or give the path of an environment.yml.",
        code="unknown-template",
    )


def read_template(path: Path, channels: tuple[str, ...] = ()) -> Template:
    """Read and check an environment.yml.

    Raises:
        SettingsError: it cannot be read, or is no environment.yml that can be used here.
    """
    try:
        status = path.stat()
    except OSError:
        return _read(path, channels, (0, 0))  # it says what is wrong
    return _read(path, channels, (status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=64)
def _read(path: Path, channels: tuple[str, ...], _: tuple[int, int]) -> Template:
    """Read a template; the last argument tells its versions apart, so that each is read once."""
    name = path.name.split(".")[0]
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"The template {path} cannot be used: its file name is not a plain word.",
            hint="Rename it to letters, digits, dots and dashes, such as geo.yml.",
            code="bad-template",
        )
    file = read_environment(path)
    if file.pip:
        raise SettingsError(
            f"The environment file {path} has a `pip:` section, which is not supported yet.",
            hint="Name the conda packages instead; nearly all of PyPI's scientific packages are on conda-forge.",
            code="pip-not-supported",
        )
    return Template(name, path, channels or file.channels or DEFAULT_CHANNELS, file.dependencies)
