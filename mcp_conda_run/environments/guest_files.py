"""Our guest modules with the bytecode of an environment's Python: saves each run from compiling them again.

Runs see the guest's directory read-only and may not write bytecode, and the package may be installed where nobody may.
So a copy, named by its content, lies in the store, and each version of Python compiles it once. Asked by `runtime.py`
before a launch; when all is there that costs one look at the file system.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
import shutil
from pathlib import Path

from ..models import Environment
from .build import GUEST, run_guest
from .store import host_errors

COMPILE_TIMEOUT_S = 60


class GuestFiles:
    """The copies in one store."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._directory: Path | None = None
        self._ready: set[str] = set()

    async def directory(self, environment: Environment) -> Path:
        """Return a directory with the guest modules, compiled for this environment's Python.

        Raises:
            HostError: it cannot be written.
            InstallError: the environment's Python does not work.
        """
        directory = await self._copied()
        tag = cache_tag(environment.python_version)
        compiled = directory / "__pycache__" / f"execute.{tag}.pyc"
        if tag not in self._ready and not compiled.exists():
            python = environment.prefix / environment.python
            script = "compile_bytecode.py"
            await run_guest(environment.prefix, python, script, "1", str(directory), timeout_s=COMPILE_TIMEOUT_S)
        self._ready.add(tag)
        return directory

    async def _copied(self) -> Path:
        if self._directory is None or not self._directory.exists():
            self._directory = await asyncio.to_thread(copy_guest, self._root)
            self._ready.clear()
        return self._directory


def cache_tag(python_version: str) -> str:
    """Return what CPython of this version puts into the names of its bytecode files (PEP 3147)."""
    return "cpython-" + "".join(re.findall(r"\d+", python_version)[:2])


def copy_guest(root: Path) -> Path:
    """Return the copy of the guest modules, made now if there is none of this content.

    Raises:
        HostError: it cannot be written.
    """
    sources = {path.name: path.read_bytes() for path in sorted(GUEST.glob("*.py"))}
    digest = hashlib.sha256(b"\0".join(part for name in sources for part in (name.encode(), sources[name])))
    directory = root / digest.hexdigest()[:16]
    with host_errors("The guest's modules cannot be written"):
        if directory.exists():
            return directory
        temporary = root / f".{directory.name}.{secrets.token_hex(4)}"
        temporary.mkdir(parents=True)
        for name, content in sources.items():
            (temporary / name).write_bytes(content)
        try:
            os.rename(temporary, directory)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            if not directory.exists():  # another process was not quicker: it is a real failure
                raise
    return directory
