"""What goes in: code or a file, and all that a run may be given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = Any
"""A value that `json.dumps` writes without help: None, bool, int, float, str, lists and string-keyed dicts of these."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory of the host (`source`) that a run sees as `target`."""

    source: Path
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What to run. Exactly one of `code` and `file` is given.

    Attributes:
        code: Python source text.
        file: a Python file, either as the run sees it (`/working/x.py`) or as a path of the host inside a mount.
        args: `sys.argv[1:]`.
        global_variables: names that exist in the code's globals before it starts; JSON values.
        packages: further match specs to install, such as `gdal>=3.8`; `pypi:NAME` for PyPI.
        python: a Python version such as `3.12`; None for the template's.
        template: a template's name or the path of an environment.yml; None for the configured one.
        prefix: an environment that the user has, by path or name, in the place of a template.
        timeout_s: wall time of the run itself, in seconds; None for the configured one.
        network: `full`, `none` or a comma separated allow-list; None for the configured one.
        limits: other bounds by the names of the settings, such as `memory_mb`; lower than configured, or up to
            `max_limits`.
    """

    code: str | None = None
    file: str | Path | None = None
    args: tuple[str, ...] = ()
    global_variables: Mapping[str, Json] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    python: str | None = None
    template: str | None = None
    prefix: str | None = None
    timeout_s: float | None = None
    network: str | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
