"""Stands in for the `conda` that conda-lock wants to call: answers `create --dry-run --json` by the engine's solver.

conda-lock (through `conda_lock_child.py`) starts it once for each platform. What it must know comes from the file that
`MCP_CONDA_RUN_SHIM` names; a failure is left in that file's directory for `locking.py`, because conda-lock would wrap
it in a traceback. Ends by `os._exit`, as the worker does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import lifeline
from .access import request_from_environment, use_credentials
from .mirrors import Mirrors
from .worker import as_error, cut_off_network

CONFIG_VARIABLE = "MCP_CONDA_RUN_SHIM"
FAILURE_FILE = "failure.json"
FAKE_CHANNEL = "conda-lock-fake-repodata-"
"""conda-lock describes the target machine's virtual packages as a channel in a temporary directory of this name."""


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse what conda-lock 4 passes to `conda create`."""
    parser = argparse.ArgumentParser(prog="conda create")
    parser.add_argument("--prefix")
    parser.add_argument("--dry-run", action="store_true", required=True)
    parser.add_argument("--json", action="store_true", required=True)
    parser.add_argument("--override-channels", action="store_true")
    parser.add_argument("--channel", action="append", default=[])
    parser.add_argument("specs", nargs="*")
    return parser.parse_args(arguments)


def read_virtual_packages(channels: Sequence[str], platform: str) -> dict[str, tuple[str, str]]:
    """Return the highest version and its build of each virtual package in conda-lock's fake channels."""
    from rattler import Version  # noqa: PLC0415 - its failure to load must become an answer

    found: dict[str, tuple[str, str]] = {}
    for channel in channels:
        for subdir in ("noarch", platform):
            repodata = Path(channel.removeprefix("file://"), subdir, "repodata.json")
            if not repodata.exists():
                continue
            for record in json.loads(repodata.read_bytes())["packages"].values():
                known = found.get(record["name"])
                if known is None or Version(record["version"]) > Version(known[0]):
                    found[record["name"]] = record["version"], record["build"]
    return found


def as_actions(packages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the solution in the form of conda's answer."""
    fetch = [
        {
            "name": package["name"],
            "version": package["version"],
            "build": package["build"],
            "build_string": package["build"],
            "build_number": package["build_number"],
            "channel": package["url"].rsplit("/", 2)[0],
            "subdir": package["subdir"],
            "fn": package["url"].rsplit("/", 1)[1],
            "url": package["url"],
            "md5": package["md5"],
            "sha256": package["sha256"],
            "size": package["size_bytes"],
            "depends": package["depends"],
            "constrains": [],
            "timestamp": 0,
        }
        for package in packages
    ]
    link = [
        {key: package[key] for key in ("name", "version", "build_string", "build_number", "channel")}
        | {
            "base_url": package["channel"],
            "platform": package["subdir"],
            "dist_name": f"{package['name']}-{package['version']}-{package['build']}",
        }
        for package in fetch
    ]
    return {"success": True, "dry_run": True, "actions": {"FETCH": fetch, "LINK": link}}


async def dry_run(arguments: argparse.Namespace, platform: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Solve what conda-lock asks for."""
    fake = [channel for channel in arguments.channel if FAKE_CHANNEL in channel]
    mirrors = Mirrors(config.get("mirrors", {}))
    request = {
        "specs": arguments.specs,
        "channels": [mirrors.channel(channel) for channel in arguments.channel if channel not in fake],
        "platform": platform,
        "pinned": [],
        "preferred": config.get("keep", {}).get(platform, []),
        "virtual_packages": read_virtual_packages(fake, platform),
        "exclude_newer": config["exclude_newer"],
        "offline": config["offline"],
        "repodata": config["repodata"],
        **config["solver"],
        **request_from_environment(),
    }
    rows = await solve(request)
    return as_actions([{**row, **{key: mirrors.original(row[key]) for key in ("url", "channel")}} for row in rows])


async def solve(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Let the engine that was chosen solve, over the same channels and with the same view of the target machine."""
    from . import micromamba_solving, solving  # noqa: PLC0415 - loads py-rattler, whose failure must become an answer

    if "micromamba" in request:
        return await micromamba_solving.solve(request)
    return await solving.solve(request)


def read_config(path: Path) -> dict[str, Any]:
    """Read what `locking.py` wrote for us."""
    config: dict[str, Any] = json.loads(path.read_bytes())
    return config


def leave_failure(config_file: Path, parts: Mapping[str, str]) -> None:
    """Write the failure where `locking.py` looks for it."""
    config_file.with_name(FAILURE_FILE).write_text(json.dumps(parts))


def main() -> NoReturn:
    """Answer one call."""
    stdout = lifeline.take_stdout()

    def say(text: str) -> None:
        data = memoryview(text.encode() + b"\n")
        while data:
            data = data[os.write(stdout, data) :]

    if "--version" in sys.argv:
        say("conda 99.0.0")
        os._exit(0)
    config_file = Path(os.environ[CONFIG_VARIABLE])
    platform = os.environ.get("CONDA_SUBDIR", "")

    async def serve() -> NoReturn:
        try:
            if sys.argv[1:2] != ["create"]:
                raise ValueError(f"conda-lock asked for something else than `create`: {sys.argv[1:]}")
            config = read_config(config_file)
            if config["offline"]:
                cut_off_network()
            use_credentials(request_from_environment())
            say(json.dumps(await dry_run(parse_arguments(sys.argv[2:]), platform, config)))
        except Exception as error:  # noqa: BLE001 - every failure is an answer
            parts = as_error(error)
            leave_failure(config_file, {"platform": platform, **parts})
            say(json.dumps({"success": False, "message": parts["message"]}))
            os._exit(1)
        os._exit(0)

    asyncio.run(serve())
    raise AssertionError("unreachable: serve() ends the process")
