"""Real conda prefixes for tests that need a Python with packages, made with py-rattler alone.

`python -m tests.support.prefixes CHANNEL_URL PREFIX SPEC ...` solves and installs. It is a process of its own because
py-rattler cannot be cancelled and may crash at interpreter exit; so it says what it installed and leaves by `os._exit`.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import rattler

ROOT = Path(__file__).resolve().parents[2]
INSTALL_TIMEOUT_S = 300


class CannotInstallError(Exception):
    """The packages could not be solved or installed; the message is the engine's."""


def install(
    channel: Path | str,
    prefix: Path,
    *specs: str,
    cache: Path,
    run_link_scripts: bool = False,
    platform: str = "",
    exclude_newer: str = "",
) -> list[str]:
    """Solve the specs in the channel alone and install them into a prefix.

    Args:
        channel: a directory or a URL.
        prefix: where to install; absent or empty.
        specs: match specs.
        cache: where packages and repodata are kept.
        run_link_scripts: whether post-link scripts run.
        platform: conda's name of another platform, which is solved for but not installed.
        exclude_newer: an ISO 8601 time in UTC; packages that are newer do not exist.

    Returns:
        what was solved, as `name=version=build`, sorted.

    Raises:
        CannotInstallError: with the engine's words.
    """
    url = channel.as_uri() if isinstance(channel, Path) else channel
    options = {"run_link_scripts": run_link_scripts, "platform": platform, "exclude_newer": exclude_newer}
    request = [[url, str(prefix), str(cache), *specs], options]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.prefixes", json.dumps(request)],
        capture_output=True,
        text=True,
        check=False,
        timeout=INSTALL_TIMEOUT_S,
        cwd=ROOT,
    )
    answer = json.loads(done.stdout) if done.stdout else {"error": f"exit code {done.returncode}: {done.stderr}"}
    if "error" in answer:
        raise CannotInstallError(answer["error"])
    return answer["packages"]


async def _install(
    url: str, prefix: str, cache: str, *specs: str, run_link_scripts: bool, platform: str, exclude_newer: str
) -> list[str]:
    virtual = rattler.VirtualPackage.detect(rattler.VirtualPackageOverrides())
    records = await rattler.solve(
        [url],
        specs,
        gateway=rattler.Gateway(cache_dir=Path(cache, "repodata")),
        platforms=[platform or str(rattler.Platform.current()), "noarch"],
        virtual_packages=[] if platform else virtual,
        exclude_newer=datetime.fromisoformat(exclude_newer) if exclude_newer else None,
    )
    if not platform:
        await rattler.install(
            records,
            prefix,
            cache_dir=Path(cache, "pkgs"),
            show_progress=False,
            execute_link_scripts=run_link_scripts,
        )
    return sorted(f"{r.name.normalized}={r.version}={r.build}" for r in records)


def _main() -> None:
    try:
        arguments, options = json.loads(sys.argv[1])
        answer = {"packages": asyncio.run(_install(*arguments, **options))}
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent shows it
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)  # noqa: T201 - the answer
    os._exit(0)


if __name__ == "__main__":
    _main()
