"""The user's own templates: copied into a directory of theirs, and removed from it.

Called by `templates add` and `templates remove`. A file is read and checked before it is copied, and only files of that
directory are ever removed.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from ..errors import RequestError
from .store import host_errors
from .templates import AUTO, LOCK_SUFFIX, Kind, Template, read_template, shipped_templates, users_templates

MAX_BYTES = 64 * 1024 * 1024
FILE_NAMES = {
    Kind.ENVIRONMENT: "{}.yml",
    Kind.CONDA_LOCK: f"{{}}{LOCK_SUFFIX}",
    Kind.PIXI_LOCK: "{}.pixi.lock",
    Kind.EXPLICIT: "{}.txt",
}


def add_template(source: Path, directory: Path, name: str = "") -> Template:
    """Copy a file into the user's directory as a template; one of the same name is replaced.

    Args:
        source: an environment.yml, a conda-lock.yml, a pixi.lock or an explicit list.
        directory: the user's templates.
        name: what it is called from then on; the file's own name if empty.

    Raises:
        RequestError: it is not there, or the name cannot be used.
        SettingsError: it cannot be used as a template.
    """
    if not source.is_file():
        raise RequestError(f"There is no file {source}.", code="unknown-template")
    template = read_template(source.absolute())
    name = name or template.name
    if name in {AUTO, *shipped_templates()} or "." in name or "/" in name or name.startswith("-"):
        raise RequestError(
            f"A template of yours cannot be called {name!r:.80}.",
            hint="Choose a plain word that no shipped template has, with --name.",
            code="bad-template-name",
        )
    target = directory / FILE_NAMES[template.kind].format(name)
    half = directory / f".{secrets.token_hex(4)}"
    with host_errors("The template cannot be copied"):
        directory.mkdir(parents=True, exist_ok=True)
        old = users_templates(directory).get(name)
        try:
            half.write_bytes(read_bounded(source))
            half.replace(target)
        finally:
            half.unlink(missing_ok=True)
        if old is not None and old != target:
            old.unlink(missing_ok=True)
    return read_template(target)


def read_bounded(source: Path) -> bytes:
    """Return a file's content.

    Raises:
        RequestError: no honest template is so large.
    """
    with source.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise RequestError(f"{source} is larger than {MAX_BYTES // 1024**2} MiB.", code="bad-template")
    return data


def remove_template(name: str, directory: Path) -> list[Path]:
    """Remove a template of the user's, with the lock beside it; return what was removed.

    Raises:
        RequestError: the user has none of this name.
    """
    own = users_templates(directory)
    if name not in own:
        shipped = "It is shipped with mcp-conda-run; " if name in shipped_templates() else ""
        raise RequestError(
            f"You have no template {name!r:.80}.",
            hint=f"{shipped}yours are {', '.join(sorted(own)) or 'none'}, in {directory}.",
            code="unknown-template",
        )
    gone = [path for path in (own[name], directory / f"{name}{LOCK_SUFFIX}") if os.path.lexists(path)]
    with host_errors("The template cannot be removed"):
        for path in gone:
            path.unlink(missing_ok=True)
    return list(dict.fromkeys(gone))
