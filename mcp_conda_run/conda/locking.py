"""Writes conda-lock.yml files: conda-lock in a child process, whose `conda` asks the engine (`conda_shim.py`).

`environments/` calls `Locker.lock`; reading is in `lockfile.py`. Nothing is fetched but what the solver needs of the
channels: conda-lock gets no other executable and an empty table of PyPI names.
"""

from __future__ import annotations

import json
import logging
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import InstallError
from ..models import LockedPackage, Progress, ProgressCallback, no_progress
from .access import Access
from .asking import as_exception
from .conda_shim import CONFIG_VARIABLE, FAILURE_FILE
from .faults import explain_os_error
from .lockfile import INPUT_DIGEST, EnvironmentFile, input_digest, is_stale, read_environment, read_lock
from .mirrors import Mirrors
from .process import Ended, child_environment, module_command, run_child, s3_variables

__all__ = ["ALL_PLATFORMS", "Locker", "is_stale", "read_environment", "read_lock"]

log = logging.getLogger(__name__)

ALL_PLATFORMS = ("linux-64", "osx-arm64", "win-64")
WORK_PREFIX = ".locking-"
BAD_SPEC = re.compile(r"^RuntimeError: Failed to turn `(.+)` into a MatchSpec", re.MULTILINE)
SPEC_HINT = "Write `name`, `name=1.2` or `name>=1.2,<2`, as conda does."


ASSUMED_CUDA = "12.8"
"""What a lock assumes of a machine with CUDA: which builds of conda-forge for CUDA 12 run on."""


class Locker:
    """Makes locks.

    Args:
        repodata: the cache of what the channels say.
        timeout_s: how long one lock may take, in seconds.
        offline: use only what is cached.
        exclude_newer: ISO 8601 date; packages uploaded later do not exist.
        access: how channels are reached; the lock holds no credentials.
        mirrors: where to ask in the place of the channels; the lock names the channels.
        variables: what the solver's process gets besides, for certificates.
        solver: what the engine that solves says of itself (`Engine.for_locks`); the embedded one needs nothing.
    """

    def __init__(
        self,
        repodata: Path,
        *,
        timeout_s: float = 900,
        offline: bool = False,
        exclude_newer: str = "",
        access: Access | None = None,
        mirrors: Mirrors | None = None,
        variables: Mapping[str, str] | None = None,
        solver: Mapping[str, Any] | None = None,
    ) -> None:
        self._repodata = repodata.absolute()
        self._timeout_s = timeout_s
        self._offline = offline
        self._exclude_newer = exclude_newer
        self._access = access or Access()
        self._mirrors = mirrors or Mirrors({})
        self._variables = dict(variables or {})
        self._solver = dict(solver or {})

    async def lock(
        self,
        environment_yml: Path,
        channels: Sequence[str],
        platforms: Sequence[str],
        output: Path,
        progress: ProgressCallback = no_progress,
        *,
        keep: Mapping[str, Sequence[LockedPackage]] | None = None,
    ) -> None:
        """Lock an environment.yml for the platforms, into `output`, which is replaced in one step at the end.

        Of a `pip:` section only pip itself is locked: its wheels need an environment to be resolved against.

        Args:
            environment_yml: the file to lock.
            channels: instead of the file's own, if there are any.
            platforms: conda's names of platforms.
            output: the conda-lock.yml to write.
            progress: told of the start and the end.
            keep: by platform, packages whose versions are kept unless something else must have others.

        Raises:
            SettingsError: the environment file cannot be used.
            InstallError: it cannot be solved; the solver's reasons are in `details`.
            HostError: this machine cannot do it.
        """
        environment = read_environment(environment_yml)
        effective = tuple(self._access.learn(channels or environment.channels))
        if not effective:
            raise InstallError(f"{environment_yml} names no channels.", hint="Add `channels`.", code="bad-channel")
        where = ", ".join(platforms)
        progress(Progress("lock", f"Locking {environment.name or environment_yml.name} for {where}"))
        with work_directory(output.parent, self._timeout_s) as work:
            command = self._prepare(work, environment, effective, platforms, keep or {})
            ended = await self._run(work, command)
            if ended.returncode != 0:
                raise failure(work, ended, platforms)
            count = publish(work / "conda-lock.yml", platforms, output)
        progress(Progress("lock", f"Locked {count} packages for {where}", count, count, "packages"))

    def _prepare(
        self,
        work: Path,
        environment: EnvironmentFile,
        channels: Sequence[str],
        platforms: Sequence[str],
        keep: Mapping[str, Sequence[LockedPackage]],
    ) -> list[str]:
        """Write conda-lock's inputs and return its arguments."""
        (work / "environment.yml").write_text(environment.conda_text, encoding="utf-8")
        (work / "pypi.json").write_text("{}")
        digest = input_digest(environment, channels, self._exclude_newer)
        (work / "metadata.json").write_text(json.dumps({INPUT_DIGEST: digest}))
        config: dict[str, object] = {
            "repodata": str(self._repodata),
            "offline": self._offline,
            "exclude_newer": self._exclude_newer,
            "mirrors": self._mirrors.as_json(),
            "solver": self._solver,
        }
        config["keep"] = {platform: [asdict(package) for package in keep[platform]] for platform in keep}
        (work / "shim.json").write_text(json.dumps(config))
        shim = work / "conda"
        shim.write_text(f'#!/bin/sh\nexec {shlex.join(module_command("conda_shim"))} "$@"\n')
        shim.chmod(0o755)
        cuda = ("--with-cuda", ASSUMED_CUDA) if needs_cuda(environment) else ("--without-cuda",)
        return [
            *("lock", "--no-mamba", "--no-micromamba", "--conda", str(shim), *cuda),
            *("--file", str(work / "environment.yml"), "--lockfile", str(work / "conda-lock.yml")),
            *("--pypi_to_conda_lookup_file", (work / "pypi.json").as_uri()),
            *("--metadata-yaml", str(work / "metadata.json")),
            *(part for platform in platforms for part in ("--platform", platform)),
            *(part for channel in channels for part in ("--channel", channel)),
        ]

    async def _run(self, work: Path, arguments: Sequence[str]) -> Ended:
        """Run conda-lock; everything that it keeps for itself goes to the work directory."""
        home = {name: str(work) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")}
        own = {
            **s3_variables(arguments),
            **self._access.variables(),
            **self._variables,
            CONFIG_VARIABLE: str(work / "shim.json"),
        }
        environment = child_environment(PATH="/usr/bin:/bin", **home, **own)
        try:
            ended = await run_child(
                module_command("conda_lock_child"),
                {
                    "arguments": list(arguments),
                    "offline": self._offline,
                    "conda": [str(work / "conda"), *module_command("conda_shim")],
                },
                environment=environment,
                timeout_s=self._timeout_s,
                on_line=lambda _: None,
            )
        except TimeoutError:
            raise InstallError(
                f"Locking did not finish within {self._timeout_s:g} s.",
                hint="Try again (what was fetched is kept), or raise MCP_CONDA_RUN_INSTALL_TIMEOUT_S.",
                code="install-timeout",
            ) from None
        log.debug("conda-lock wrote: %s", ended.stderr)
        return ended


@contextmanager
def work_directory(parent: Path, timeout_s: float) -> Iterator[Path]:
    """Give a directory beside the lock that is gone afterwards; those of killed processes are swept."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for old in parent.glob(f"{WORK_PREFIX}*"):
            if time.time() - old.stat().st_mtime > 2 * timeout_s:
                shutil.rmtree(old, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=WORK_PREFIX, dir=parent, ignore_cleanup_errors=True) as work:
            yield Path(work).absolute()
    except OSError as error:
        raise explain_os_error(error, parent) from error


def needs_cuda(environment: EnvironmentFile) -> bool:
    """Say whether a template is for machines with CUDA."""
    return any(spec.startswith("__cuda") for spec in environment.needs)


def publish(made: Path, platforms: Sequence[str], output: Path) -> int:
    """Check what conda-lock wrote by reading it as it will be read, and put it in its place."""
    count = sum(len(read_lock(made, platform)) for platform in platforms)
    made.replace(output)
    return count


def failure(work: Path, ended: Ended, platforms: Sequence[str]) -> Exception:
    """Return the error that the shim left, or one with conda-lock's last words."""
    left = work / FAILURE_FILE
    if left.exists():
        parts = json.loads(left.read_bytes())
        error = as_exception(parts)
        if len(platforms) > 1:
            error.message = f"{error.message} This is for {parts['platform']}."
        return error
    if bad := BAD_SPEC.search(ended.stderr):
        return InstallError(f"{bad[1]!r} is not a package spec.", hint=SPEC_HINT, code="bad-spec")
    words = [line for line in ended.stderr.splitlines() if line.strip()]
    how = f"exit code {ended.returncode}" if ended.returncode > 0 else f"signal {-ended.returncode}"
    return InstallError(
        f"conda-lock failed ({how}).",
        hint="Check the environment file; `doctor` shows whether conda-lock is installed.",
        details=words[-1] if words else "",
        code="lock-failed",
    )
