"""Templates: a plain environment.yml, shipped in `env-templates/` or the user's own.

Read by `provision.py` and by `doctor`. Never locks or installs anything. A template is hostile input: its size, its
shape and every spec are checked before anything is done with it.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import RequestError

MAX_TEMPLATE_BYTES = 256 * 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_HINT = "A template is a conda environment.yml with `channels` and `dependencies`."


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


def shipped_templates() -> dict[str, Path]:
    """Return the shipped templates by name."""
    return {
        path.stem: path for directory in reversed(template_directories()) for path in sorted(directory.glob("*.yml"))
    }


def find_template(name: str, channels: tuple[str, ...] = ()) -> Template:
    """Return the template of this name, or of this path, with `channels` instead of its own if there are any.

    Raises:
        RequestError: there is none, or it cannot be used.
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
        RequestError: it cannot be read, or is no environment.yml that can be used here.
    """
    document = _load(path)
    if not isinstance(document, dict):
        raise _bad(path, "it is not a mapping")
    own_channels = _strings(path, document.get("channels", ["conda-forge"]), "channels")
    dependencies = document.get("dependencies")
    if not isinstance(dependencies, list) or not dependencies:
        raise _bad(path, "it has no dependencies")
    if any(isinstance(entry, dict) for entry in dependencies):
        raise _bad(path, "it has a `pip:` section, which templates cannot have yet")
    specs = _strings(path, dependencies, "dependencies")
    name = path.name.split(".")[0]
    if not _NAME.fullmatch(name):
        raise _bad(path, "its file name is not a plain word")
    return Template(name=name, path=path, channels=channels or own_channels, specs=specs)


def _load(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TEMPLATE_BYTES + 1)
        if len(data) > MAX_TEMPLATE_BYTES:
            raise _bad(path, f"it is larger than {MAX_TEMPLATE_BYTES // 1024} KiB")
        if any(isinstance(token, (yaml.AnchorToken, yaml.AliasToken)) for token in yaml.scan(data)):
            raise _bad(path, "it uses YAML anchors")  # a few of them can stand for gigabytes
        return yaml.safe_load(data)
    except OSError as error:
        raise _bad(path, error.strerror or str(error)) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _bad(path, f"it is not YAML ({str(error).splitlines()[0]})") from error


def _strings(path: Path, value: Any, what: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(entry, str) and entry.strip() for entry in value):
        raise _bad(path, f"its {what} are not a list of strings")
    if any("\n" in entry or "\0" in entry or entry.startswith("-") for entry in value):
        raise _bad(path, f"one of its {what} is no {what.removesuffix('s')}")
    return tuple(entry.strip() for entry in value)


def _bad(path: Path, why: str) -> RequestError:
    return RequestError(f"The template {path} cannot be used: {why}.", hint=_HINT, code="bad-template")
