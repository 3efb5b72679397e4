"""Calls uv: what would it add to an environment, and add exactly these wheels. Reads its words when it refuses.

Runs only in the worker for PyPI, in whose process group uv is, so that it ends with it. uv gets no configuration
file, no index but ours, no source distributions, and nothing of the user's UV_* variables.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from uv import find_uv_bin

from ..errors import CondaRunError, HostError, InstallError
from .faults import host_fault_in, offline_missing
from .pypi_faults import KEPT_CHARACTERS, bad_wheel, conflict, no_wheel, not_found, timed_out, too_new, unreachable
from .pypi_projects import COOLDOWN_HINT
from .redact import redact

ALWAYS = ("--no-config", "--no-python-downloads", "--color", "never", "--no-progress")
CHANGE = re.compile(r"^ (?P<sign>[-+~]) (?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s(]+)", re.MULTILINE)
PIN = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]*[A-Za-z0-9]")
NOT_THERE = re.compile(r"Because (\S+) was not found in the package registry")
NO_WHEELS = re.compile(r"Because (?:all versions of )?(\S+?)(?:==\S+)? (?:has|have) no (?:usable )?wheels")
NO_FORMAT = re.compile(r"Because (\S+) has (?:an invalid|inconsistent) (?:package format|metadata)")
TOO_NEW = re.compile(r"`([^`]+)` was filtered by `exclude-newer`")
NOT_CACHED = re.compile(r"(?:Because|and) (\S+) was not found in the (?:cache|provided package locations)")
URL = re.compile(r"https?://[^\s()`]+")


@dataclass(frozen=True, slots=True)
class Uv:
    """How uv is to be called.

    Attributes:
        index: the index's URL, perhaps with credentials.
        cache: what uv keeps of the index.
        cutoff: ISO 8601; empty for none.
        offline: ask no index; `folders` hold all wheels there are.
        folders: where wheels are.
    """

    index: str
    cache: Path
    cutoff: str = ""
    offline: bool = False
    folders: tuple[Path, ...] = ()

    def additions(
        self, requirements: Sequence[str], python: Path, present: Mapping[str, str], *, alone: bool = False
    ) -> list[tuple[str, str]]:
        """Return name and version of each package that uv would add for these requirements, installing nothing.

        Args:
            requirements: as PEP 508 says.
            python: the environment's interpreter.
            present: name and version of each package that must stay as it is.
            alone: count nothing that the environment has; `present` is empty then.

        Raises:
            InstallError: they do not fit, or the index has not what they need.
            HostError: uv cannot be run, or the disk is full.
        """
        lines = "".join(f"{name}=={version}\n" for name, version in sorted(present.items()))
        with tempfile.TemporaryDirectory(prefix="mcp-conda-run-") as folder:
            constraints, wanted = Path(folder, "constraints.txt"), Path(folder, "requirements.txt")
            constraints.write_text(lines)
            links = "".join(f"--find-links {folder}\n" for folder in self.folders) if self.offline else ""
            wanted.write_text(links + "".join(f"{requirement}\n" for requirement in requirements))
            command = ["pip", "install", "--dry-run", "--python", str(python), "--only-binary", ":all:"]
            command += ["-c", str(constraints), "-r", str(wanted)]
            command += ["--target", str(Path(folder, "empty"))] if alone else []
            if self.offline:  # wheels in folders have no dates; the gate looks at those that the index told
                command += ["--offline", "--no-index"]
            elif self.cutoff:
                command += ["--exclude-newer", self.cutoff]
            command += ["--cache-dir", str(self.cache)]
            done = self._run(command, UV_DEFAULT_INDEX=self.index, TMPDIR=folder)  # uv leaves a lock file there
        if done.returncode:
            raise explain(done.stderr, present, self.index, self.cache, offline=self.offline)
        changes = [(match["sign"], match["name"], match["version"]) for match in CHANGE.finditer(done.stderr)]
        for sign, name, version in changes:
            if sign != "+":
                raise conflict(f"{name} {version} would be replaced", done.stderr)
        return [(name, version) for _, name, version in changes]

    def install(self, pins: Sequence[tuple[str, str, str]], folders: Sequence[Path], python: Path) -> None:
        """Unpack wheels into an environment, without an index, and without anything that is not pinned.

        Args:
            pins: name, version and sha256 of each.
            folders: where the wheels are.
            python: the environment's interpreter.

        Raises:
            InstallError: uv refuses one of them.
            HostError: uv cannot be run, or the disk is full.
        """
        prefix = python.parent.parent
        with tempfile.TemporaryDirectory(prefix=".wheels-", dir=prefix) as folder:  # its file system has the room
            wanted = Path(folder, "requirements.txt")
            wanted.write_text("".join(f"{name}=={version} --hash=sha256:{digest}\n" for name, version, digest in pins))
            command = ["pip", "install", "--python", str(python), "--no-deps", "--require-hashes", "--offline"]
            command += ["--only-binary", ":all:", "--link-mode", "copy", "--no-index", "-r", str(wanted)]
            command += [part for wheels in folders for part in ("--find-links", str(wheels))]
            done = self._run([*command, "--cache-dir", str(Path(folder, "cache"))], TMPDIR=folder)
        if done.returncode:
            raise explain(done.stderr, {}, self.index, prefix, offline=False)

    def _run(self, command: Sequence[str], **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "PIP_"))}
        environment |= {"UV_SYSTEM_CERTS": "1", "UV_NATIVE_TLS": "1"} | variables  # the second is for older uv
        try:
            return subprocess.run(
                [find_uv_bin(), *command, *ALWAYS],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
        except OSError as error:
            raise HostError(
                f"uv cannot be started: {error.strerror or error}.",
                hint="Install mcp-conda-run again: uv is one of its dependencies.",
                code="no-uv",
            ) from error


def explain(  # noqa: PLR0911 - one line a reason
    text: str, present: Mapping[str, str], index: str, place: Path, *, offline: bool
) -> CondaRunError:
    """Read the words of a uv that failed; those of uv 0.13. Unknown ones come back as details."""
    details = redact(text.strip())[-KEPT_CHARACTERS:]
    if fault := host_fault_in(text, place):
        return fault
    if offline and ("network was disabled" in text or NOT_CACHED.search(text)):
        return offline_missing(NOT_CACHED.findall(text) or ["packages of PyPI"])
    if "No solution found" not in text:
        return _unreachable_or_unknown(text, details, index)
    named = set(PIN.findall(text))
    stays = [f"{name} {version}" for name, version in sorted(present.items()) if f"{name}=={version}" in named]
    if stays:
        return conflict(f"it needs another version of what conda has installed: {', '.join(stays)}", details)
    if match := NOT_THERE.search(text):
        return not_found(f"PyPI has no project {match[1]}", details)
    if match := TOO_NEW.search(text):
        what = f"What PyPI has of {match[1]} was uploaded too recently to be trusted"
        return too_new(what, COOLDOWN_HINT, details)
    if match := NO_WHEELS.search(text):
        return no_wheel(f"{match[1]} has no wheel on PyPI for this Python and machine", details)
    if match := NO_FORMAT.search(text):
        return bad_wheel(f"of {match[1]}", "it is not what a wheel must be")
    return conflict("its requirements contradict each other", details)


def _unreachable_or_unknown(text: str, details: str, index: str) -> InstallError:
    lines = [line.strip().removeprefix("cause:").removeprefix("error:").strip() for line in text.splitlines()]
    reasons = [line for line in lines if line]
    last = (reasons[-1] if reasons else "no reason given").rstrip(".")
    if "timed out" in text.lower():
        return timed_out(index, 30)
    if any(sign in text for sign in ("Failed to fetch", "error sending request", "HTTP status", "Request failed")):
        address = URL.search(text)
        return unreachable(address[0] if address else index, last, details=details)
    return InstallError(f"The packages of PyPI could not be installed: {redact(last)}.", details=details)
