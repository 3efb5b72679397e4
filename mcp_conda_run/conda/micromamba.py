"""The user's own micromamba as an engine: finds it, tries it, and hands it to the child process that calls it.

`choose.py` decides with this module whether it is used. All calls of micromamba but `--version` are made in the
engine's child (`micromamba_calls.py`), which ends with the caller. Written for 2.8.1; older than 2.0.4 is not used.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from .access import Access
from .asking import absolute
from .worker_engine import WorkerEngine

OLDEST = (2, 0, 4)
"""The first 2.x that answers a dry run with JSON (mamba-org/mamba #3627)."""

VERSION_TIMEOUT_S = 20
KEPT = ("SYSTEMROOT", "LD_LIBRARY_PATH")
VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?[\w.+-]*")
PROGRAM = "micromamba.exe" if sys.platform == "win32" else "micromamba"


@dataclass(frozen=True, slots=True)
class Found:
    """A micromamba.

    Attributes:
        path: the program, absolute.
        where: how it was found, as the end of a sentence.
        version: what it says of itself; empty if it cannot be used.
        problem: why it cannot be used, as a sentence; empty if it can.
    """

    path: Path
    where: str
    version: str = ""
    problem: str = ""


class MicromambaEngine(WorkerEngine):
    """An `Engine` (see `engine.py`) on micromamba, which solves, fetches and links.

    What it cannot be asked, the child answers with py-rattler, over the same channels: which names there are, solving
    for another platform or for a date, and pinned packages that the channels no longer have.

    Args:
        found: the program, which can be used.
        pkgs: the package cache of all engines; micromamba's own is a part of it.
        repodata: the cache of what the channels say.
        timeout_s, offline, access, layers: see `WorkerEngine`.
    """

    name = "micromamba"

    def __init__(
        self,
        found: Found,
        pkgs: Path,
        repodata: Path,
        *,
        timeout_s: float = 900,
        offline: bool = False,
        access: Access | None = None,
        layers: Sequence[Path] = (),
    ) -> None:
        super().__init__(pkgs, repodata, timeout_s=timeout_s, offline=offline, access=access, layers=layers)
        self.found = found

    def version(self) -> str:
        """Return micromamba's version."""
        return self.found.version

    def for_locks(self) -> Mapping[str, Any]:
        """Return where micromamba and its caches are."""
        return {"micromamba": str(self.found.path), "pkgs": absolute(self._pkgs), "layers": self._layers}

    def _more(self) -> dict[str, Any]:
        return {"micromamba": str(self.found.path)}


def find_micromamba(asked: Path | None, own: Path, environment: Mapping[str, str] | None = None) -> Found | None:
    """Return the first micromamba there is: the one asked for, MAMBA_EXE, PATH, or the one that we downloaded.

    Args:
        asked: the path that the settings name.
        own: where `get-micromamba` puts it.
        environment: instead of this process's own.
    """
    variables = os.environ if environment is None else environment
    if asked is not None:
        return tried(asked, "named by the settings")
    hint = variables.get("MAMBA_EXE", "")
    if hint and Path(hint).stem.lower() == "micromamba":  # mamba sets it too, for itself
        found = tried(Path(hint), "named by MAMBA_EXE")
        if not found.problem:
            return found
    on_path = shutil.which("micromamba", path=variables.get("PATH", ""))
    if on_path:
        return tried(Path(on_path), "found on PATH")
    return tried(own, "downloaded by get-micromamba") if own.exists() else None


def tried(path: Path, where: str) -> Found:
    """Run a micromamba once to see whether it can be used."""
    path = path.expanduser().absolute()
    try:
        status = path.stat()
    except OSError as error:
        return Found(path, where, problem=f"{path} cannot be used: {error.strerror}.")
    version, problem = ask_version(path, (status.st_mtime_ns, status.st_size))
    return Found(path, where, version, problem)


@lru_cache(maxsize=16)
def ask_version(path: Path, _: tuple[int, int]) -> tuple[str, str]:
    """Return the version that the program says, and why it cannot be used; asked once for each state of the file."""
    try:
        done = subprocess.run(
            [str(path), "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=VERSION_TIMEOUT_S,
            check=False,
            env={"PATH": os.defpath, "HOME": os.sep} | {name: os.environ[name] for name in KEPT if name in os.environ},
        )
    except (OSError, subprocess.SubprocessError) as error:
        return "", f"{path} does not run: {getattr(error, 'strerror', None) or error}."
    return judged(path, done.stdout.decode(errors="replace"), done.returncode)


def judged(path: Path, said: str, returncode: int) -> tuple[str, str]:
    """Return the version in a program's answer to `--version`, or why a program that answers so cannot be used."""
    lines = said.strip().splitlines()
    found = VERSION.fullmatch(lines[-1].strip()) if lines else None
    if returncode or found is None:
        return "", f"{path} does not say a version (exit code {returncode}), so it is no micromamba."
    if tuple(int(part or 0) for part in found.groups()) < OLDEST:
        return "", f"{path} is micromamba {found[0]}; {'.'.join(map(str, OLDEST))} or later is needed."
    return found[0], ""
