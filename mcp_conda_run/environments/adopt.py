"""Copies an environment that the user has into the store, so that runs can have copies of the copy.

The original is only read: files are copied (with reflinks where the file system has them), never linked, whoever owns
them and whatever their modes. What holds the environment's path is written anew with the copy's. Called by
`provision.py` once for each state of an environment.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from ..errors import HostError, InstallError
from ..models import Environment, Progress, ProgressCallback
from .build import describe
from .clone import MACH_O, NO_REFLINK, reflink
from .prefixes import packages_of, state_key, unreadable
from .store import Store, host_errors

LEFT_OUT = frozenset({"envs", "pkgs", "conda-bld"})
"""Of a root prefix: other environments, and packages."""
MAX_SEARCHED_BYTES = 512 * 1024 * 1024
SHEBANG_BYTES = 127
SHEBANG = re.compile(rb"#![^\n]*")


async def adopt(store: Store, prefix: Path, key: str, progress: ProgressCallback) -> Environment:
    """Return the store's copy of an environment in the state that the key stands for, made now if it is not there.

    Raises:
        InstallError: the environment cannot be read, does not work, or was changed meanwhile.
        HostError: the disk is full, or the path of the store is too long for it.
    """
    async with store.building(key):
        ready = store.claim(key)
        if ready is not None:
            return ready
        store.forget(key)
        copy = store.prefix(key)
        try:
            progress(Progress("copy", f"Copying the environment {prefix}"))
            await asyncio.to_thread(Copying(prefix, copy).go)
            if await asyncio.to_thread(state_key, prefix) != key:
                raise InstallError(f"The environment {prefix} was changed while it was copied.", hint="Try again.")
            packages = await asyncio.to_thread(packages_of, copy)
            environment = await describe(key, copy, packages, progress)
            await asyncio.to_thread(store.publish, environment)
        except BaseException:
            store.forget(key)
            raise
        return environment


class Copying:
    """One copy while it is made."""

    def __init__(self, source: Path, destination: Path) -> None:
        self.source = os.path.abspath(source)
        self.destination = os.path.abspath(destination)
        self.old, self.new = os.fsencode(self.source), os.fsencode(self.destination)
        self.room = placeholders(source)
        self.can_reflink = True

    def go(self) -> None:
        """Copy everything.

        Raises:
            InstallError: something cannot be read.
            HostError: the disk is full, or the copy's path does not fit.
        """
        with host_errors("The environment cannot be copied"):
            os.mkdir(self.destination)
        waiting = [""]
        while waiting:
            relative = waiting.pop()
            try:
                entries = list(os.scandir(os.path.join(self.source, relative)))
            except OSError as error:
                raise unreadable(Path(self.source), error) from error
            for entry in entries:
                if relative or entry.name not in LEFT_OUT:
                    name = os.path.join(relative, entry.name)
                    if self._take(entry, name):
                        waiting.append(name)

    def _take(self, entry: os.DirEntry[str], name: str) -> bool:
        """Copy one entry; say whether it is a directory, which is still to be gone through."""
        target = os.path.join(self.destination, name)
        if entry.is_symlink():
            with host_errors("The environment cannot be copied"):
                os.symlink(os.readlink(entry.path).replace(self.source, self.destination), target)
            return False
        if entry.is_dir(follow_symlinks=False):
            with host_errors("The environment cannot be copied"):
                os.mkdir(target, 0o755)
            return True
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISREG(status.st_mode):
            self._file(entry.path, name, target, status)
        return False

    def _file(self, path: str, name: str, target: str, status: os.stat_result) -> None:
        changed = None
        if status.st_size <= MAX_SEARCHED_BYTES and not name.endswith(".pyc"):
            try:
                with open(path, "rb") as file:
                    data = file.read()
            except OSError as error:
                raise unreadable(Path(self.source), error) from error
            if self.old in data:
                changed = self._moved(name, data)
        with host_errors("The environment cannot be copied"):
            if changed is None:
                self._copy(path, target)
            else:
                with open(target, "xb") as file:
                    file.write(changed)
            os.chmod(target, (stat.S_IMODE(status.st_mode) & 0o777) | stat.S_IRUSR | stat.S_IWUSR)
            os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))  # bytecode is checked against it
            if sys.platform == "darwin" and changed is not None and changed[:4] in MACH_O:
                subprocess.run(["/usr/bin/codesign", "-s", "-", "--force", target], capture_output=True, check=True)

    def _copy(self, path: str, target: str) -> None:
        if self.can_reflink:
            try:
                reflink(path, target)
            except OSError as error:
                if error.errno not in NO_REFLINK:
                    raise
                self.can_reflink = False
            else:
                return
        shutil.copyfile(path, target)

    def _moved(self, name: str, data: bytes) -> bytes | None:
        """Return the content with the copy's path; None where the old one has to stay."""
        if b"\0" not in data:
            return short_shebang(data.replace(self.old, self.new))
        room = self.room.get(name)
        if room is None and len(self.new) > len(self.old):
            return None  # nobody left room in it, so it cannot become longer
        if room is not None and len(self.new) > room:
            raise HostError(
                f"The environment cannot be copied: the path {self.destination} is too long for {name}.",
                hint="Choose a shorter MCP_CONDA_RUN_CACHE_DIR.",
            )
        return relocated(data, self.old, self.new)


def relocated(data: bytes, old: bytes, new: bytes) -> bytes:
    """Return a binary with another path in its C strings, each of which keeps its place and all its bytes.

    conda leaves room for 255 bytes behind a path, as NULs; a string without room stays as it is.
    """

    def moved(found: re.Match[bytes]) -> bytes:
        text = found[0].rstrip(b"\0")
        changed = text.replace(old, new)
        return changed + b"\0" * (len(found[0]) - len(changed)) if len(changed) < len(found[0]) else found[0]

    return re.sub(re.escape(old) + rb"[^\0]*\0+", moved, data)


def short_shebang(data: bytes) -> bytes:
    """Return a script whose first line the kernel accepts (execve(2)): through `env` if its path is too long."""
    line = SHEBANG.match(data)
    if line is None or len(line[0]) <= SHEBANG_BYTES or b" " in line[0][2:].strip():
        return data
    return b"#!/usr/bin/env " + line[0].rpartition(b"/")[2] + data[line.end() :]


def placeholders(prefix: Path) -> Mapping[str, int]:
    """Return the files that conda left room in for a path, each with how much, in bytes."""
    room: dict[str, int] = {}
    for record in prefix.glob("conda-meta/*.json"):
        try:
            rows = json.loads(record.read_bytes()).get("paths_data", {}).get("paths", ())
            room |= {
                str(item["_path"]): len(item["prefix_placeholder"])
                for item in rows
                if item.get("prefix_placeholder") and item.get("file_mode") == "binary"
            }
        except (OSError, ValueError, TypeError, AttributeError, KeyError):
            continue  # `packages_of` says which record is damaged
    return room
