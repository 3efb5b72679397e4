"""The channel's index (repodata, plain, compressed and in shards), written by py-rattler in a process of its own.

Serves `build.py`. A process in which py-rattler has worked may crash when the interpreter ends, also after success;
this one leaves by `os._exit` and says first what came of its work.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

DONE = "indexed"
TIMEOUT_S = 300


def index_channel(channel: Path) -> str:
    """Index all archives of a channel; return an empty string, or what went wrong."""
    (channel / "noarch").mkdir(exist_ok=True)  # a channel without it is none
    try:
        done = subprocess.run(
            [sys.executable, __file__, channel], capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return f"it took more than {TIMEOUT_S} s"
    if done.stdout.strip() == DONE:
        return ""
    return done.stdout.strip() or done.stderr.strip() or f"exit code {done.returncode}"


async def _index(channel: Path) -> None:
    """Write the index, without the time of indexing.

    The indexer gives each record an `indexed_timestamp`, which is the present: `exclude-newer` would hide all packages,
    and no two channels would be equal. Records that stand in a repodata.json it takes as they are, so it runs twice.
    """
    from rattler.index.index import index_fs  # noqa: PLC0415 - not in the process of the caller

    await index_fs(channel, write_zst=False, write_shards=False, force=True)
    _forget_when_indexed(channel)
    await index_fs(channel, write_zst=True, write_shards=True)


def _forget_when_indexed(channel: Path) -> None:
    for file in channel.glob("*/repodata.json"):
        repodata = json.loads(file.read_text())
        for record in (*repodata["packages"].values(), *repodata["packages.conda"].values()):
            record.pop("indexed_timestamp", None)
        file.write_text(json.dumps(repodata))
        shutil.rmtree(file.with_name("shards"), ignore_errors=True)  # of records that are no more


def _main() -> None:
    try:
        asyncio.run(_index(Path(sys.argv[1])))
        answer = DONE
    except Exception as error:  # noqa: BLE001 - whatever it is, the caller shows it
        answer = f"{type(error).__name__}: {error}"
    print(answer, flush=True)
    os._exit(0)


if __name__ == "__main__":
    _main()
