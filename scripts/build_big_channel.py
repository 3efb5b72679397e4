#!/usr/bin/env python3
"""Make a channel as large as conda-forge out of a small real one, to measure planning and solving at that scale.

usage: scripts/build_big_channel.py SMALL_CHANNEL OUT [--records 700000] [--seed 1]

SMALL_CHANNEL is what scripts/build_local_channel.py made. OUT has the same packages (hard links) and, besides, made-up
records: older versions and builds of the real names, and as many other names as conda-forge has, which depend on each
other and on the real ones. What is made up cannot be installed, and is never the newest of a real name, so that
solutions hold real packages only. Only the sharded index is written, as clients of conda-forge use it.

Needs the packages msgpack and zstandard (the extra `test` has them).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import zstandard

SUBDIRS = {"linux-64": 0.68, "noarch": 0.32}
"""How conda-forge's records are shared out between a platform and what fits all of them."""
RECORDS_OF_A_NAME = 23
"""On average, in conda-forge."""
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
BUILDS_OF_REAL = 240
"""Records of a name that many packages need, such as numpy's."""
YEAR_MS = 365 * 86_400_000
NEWEST_MS = 1_760_000_000_000

Record = dict[str, Any]
Shard = dict[str, Record]


class Generator:
    """Makes up records; the same seed makes the same ones."""

    def __init__(self, seed: int, real: set[str], records: int) -> None:
        self.random = random.Random(seed)
        self.real = sorted(real)
        self.others = [
            f"{self.random.choice(SYLLABLES)}-{number:05d}" for number in range(records // RECORDS_OF_A_NAME)
        ]

    def record(self, name: str, version: str, subdir: str, build_number: int, depends: list[str]) -> Record:
        """Return one record, in the form of a shard."""
        python = self.random.choice(PYTHONS)
        tag = python.replace(".", "")
        build = f"pyhd8ed1ab_{build_number}" if subdir == "noarch" else f"py{tag}h{build_number:07x}_{build_number}"
        pins = (
            ["python >=3.10"] if subdir == "noarch" else [f"python >={python},<{python}.99", f"python_abi {python}.*"]
        )
        digest = hashlib.sha256(f"{name}-{version}-{build}".encode()).digest()
        record = {
            "build": build,
            "build_number": build_number,
            "depends": [*pins, *depends],
            "license": "BSD-3-Clause",
            "md5": digest[:16],
            "name": name,
            "sha256": digest,
            "size": self.random.randrange(10_000, 20_000_000),
            "subdir": subdir,
            "timestamp": NEWEST_MS - self.random.randrange(6 * YEAR_MS),
            "version": version,
        }
        return record | ({"noarch": "python"} if subdir == "noarch" else {})

    def older(self, name: str, newest: Record) -> Iterator[Record]:
        """Yield many older versions and builds of a real package."""
        depends = [spec for spec in newest["depends"] if not spec.startswith(("python ", "python_abi"))]
        for number in range(BUILDS_OF_REAL):
            version = f"0.0.{number // 8}.{number % 8}"
            yield self.record(name, version, newest["subdir"], number % 4, depends)

    def other(self, index: int, subdir: str, count: int) -> Iterator[Record]:
        """Yield the records of a name of its own, which needs some real names and some that come before it."""
        name = self.others[index]
        depends = self.random.sample(self.real, k=min(3, len(self.real)))
        if index:
            depends += {self.others[self.random.randrange(index)] for _ in range(self.random.randrange(3))}
        for number in range(count):
            yield self.record(name, f"{1 + number // 20}.{number // 4 % 5}.0", subdir, number % 4, sorted(depends))


SYLLABLES = ("astro", "bio", "chem", "data", "geo", "graph", "image", "lib", "math", "net", "py", "r", "sci", "text")


def main() -> int:
    """Make the channel and say how large it is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("small", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--records", type=int, default=700_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if not (options.small / "noarch/repodata_shards.msgpack.zst").is_file():
        print(f"error: {options.small} is no channel that scripts/build_local_channel.py made.", file=sys.stderr)
        return 2
    if options.out.exists():
        print(f"error: {options.out} is there already.", file=sys.stderr)
        return 2
    began = time.monotonic()
    total = names = 0
    real = {subdir: read_shards(options.small / subdir) for subdir in SUBDIRS}
    names_of_real = {name for shards in real.values() for name in shards if name != "python"}
    generator = Generator(options.seed, names_of_real, options.records)
    for subdir, share in SUBDIRS.items():
        shards = fill(generator, real[subdir], subdir, int(options.records * share))
        link_packages(options.small / subdir, options.out / subdir)
        write_shards(options.out / subdir, subdir, shards)
        total += sum(len(shard) for shard in shards.values())
        names += len(shards)
    print(f"{options.out}: {total} records of {names} names, in {time.monotonic() - began:.0f} s")
    return 0


def fill(generator: Generator, real: dict[str, Shard], subdir: str, records: int) -> dict[str, Shard]:
    """Return the real records of a subdir and so many made-up ones, by name."""
    shards = {name: dict(shard) for name, shard in real.items()}
    for name, shard in real.items():
        if name not in {"python", "python_abi"}:
            newest = max(shard.values(), key=lambda record: str(record["version"]))
            shards[name] |= {file_name(record): record for record in generator.older(name, newest)}
    left = records - sum(len(shard) for shard in shards.values())
    mine = [index for index in range(len(generator.others)) if (index % 3 == 0) == (subdir == "noarch")]
    for position, index in enumerate(mine):
        count = max(1, left // (len(mine) - position))
        shards[generator.others[index]] = {
            file_name(record): record for record in generator.other(index, subdir, count)
        }
        left -= count
    return shards


def file_name(record: Record) -> str:
    """Return the name of the archive that a record is of."""
    return f"{record['name']}-{record['version']}-{record['build']}.conda"


def read_shards(subdir: Path) -> dict[str, Shard]:
    """Return the records of a real subdir by name (https://conda.org/learn/ceps/cep-0016)."""
    index = unpack(subdir / "repodata_shards.msgpack.zst")
    shards = {}
    for name, digest in index["shards"].items():
        shard = unpack(subdir / "shards" / f"{digest.hex()}.msgpack.zst")
        shards[name] = {**shard["packages"], **shard["packages.conda"]}
    return shards


def write_shards(out: Path, subdir: str, shards: dict[str, Shard]) -> None:
    """Write the sharded index of a subdir."""
    folder = out / "shards"
    folder.mkdir(parents=True)
    digests = {}
    for name, shard in shards.items():
        by_format = {
            "packages": {file: record for file, record in shard.items() if file.endswith(".tar.bz2")},
            "packages.conda": {file: record for file, record in shard.items() if file.endswith(".conda")},
            "removed": [],
        }
        data = pack(by_format)
        digest = hashlib.sha256(data).digest()
        (folder / f"{digest.hex()}.msgpack.zst").write_bytes(data)
        digests[name] = digest
    info = {"subdir": subdir, "base_url": "", "shards_base_url": "./shards/", "created_at": "2026-01-01T00:00:00Z"}
    (out / "repodata_shards.msgpack.zst").write_bytes(pack({"info": info, "shards": digests}))


def link_packages(source: Path, out: Path) -> None:
    """Put the real archives into the new channel."""
    out.mkdir(parents=True)
    for archive in source.iterdir():
        if archive.name.endswith((".conda", ".tar.bz2")):
            try:
                os.link(archive, out / archive.name)
            except OSError:
                shutil.copy2(archive, out / archive.name)


def pack(document: object) -> bytes:
    """Return a document as the index has it."""
    return zstandard.ZstdCompressor(level=3).compress(msgpack.packb(document))


def unpack(path: Path) -> Any:
    """Return what a file of the index holds."""
    data = zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())
    return msgpack.unpackb(data)


if __name__ == "__main__":
    sys.exit(main())
