"""Further directories that runs may see: `SOURCE:TARGET[:ro]`, read and checked once, when the runtime is opened."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Sequence
from pathlib import Path

from .errors import SettingsError
from .models import Mount

_HINT = "Write SOURCE:TARGET or SOURCE:TARGET:ro, such as ~/data:/data:ro."
_OURS = frozenset({"/", "/proc", "/sys", "/dev", "/etc", "/usr", "/bin", "/sbin", "/lib", "/lib64", "/run", "/tmp"})  # noqa: S108


def further_mounts(texts: Iterable[str], working: str) -> tuple[Mount, ...]:
    """Return the mounts that the texts name.

    Args:
        texts: each `SOURCE:TARGET[:ro]`.
        working: the target of the working directory, which no other mount may take.

    Raises:
        SettingsError: one cannot be read, its source is no directory, or its target is taken.
    """
    taken = [posixpath.normpath(working)]
    mounts = []
    for text in texts:
        mount = parse_mount(text)
        if any(_overlap(mount.target, other) for other in taken):
            raise SettingsError(f"The mount {text!r} overlaps another one.", hint=_HINT, code="bad-mount")
        taken.append(mount.target)
        mounts.append(mount)
    return tuple(mounts)


def parse_mount(text: str) -> Mount:
    """Return the mount of one `SOURCE:TARGET[:ro]`.

    Raises:
        SettingsError: it cannot be read, or cannot be used.
    """
    rest, _, mode = text.rpartition(":") if text.endswith((":ro", ":rw")) else (text, "", "rw")
    source, colon, target = rest.rpartition(":")
    normal = posixpath.normpath(target)
    if not (source and colon and target.startswith("/")) or "\0" in text:
        raise SettingsError(f"The mount {text!r} cannot be read.", hint=_HINT, code="bad-mount")
    if normal in _OURS or normal.startswith(("/proc/", "/sys/", "/dev/")):
        raise SettingsError(f"A run has its own {normal}; nothing can be mounted there.", hint=_HINT, code="bad-mount")
    directory = Path(os.path.realpath(Path(source).expanduser()))
    if not directory.is_dir():
        raise SettingsError(f"The mount's source {source} is no directory.", hint=_HINT, code="bad-mount")
    return Mount(directory, normal, read_only=mode == "ro")


def check_nesting(mounts: Sequence[Mount]) -> None:
    """Refuse a mount whose source lies in one that runs may write to.

    A run could put a link in its place, and the next one would be shown whatever the link points to.

    Raises:
        SettingsError: there is one.
    """
    for outer in mounts:
        for inner in mounts:
            above = Path(os.path.realpath(outer.source))
            places = {Path(os.path.realpath(inner.source)), Path(os.path.abspath(inner.source))}
            if not outer.read_only and any(above in place.parents for place in places):
                raise SettingsError(
                    f"{inner.source} cannot be mounted at {inner.target}: it is inside of {outer.source}, where runs"
                    " may replace it.",
                    hint=f"Runs see it below {outer.target} already; or mount that one read-only, with :ro.",
                    code="bad-mount",
                )


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")
