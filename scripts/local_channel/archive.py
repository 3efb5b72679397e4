"""One conda package: what it holds, what it says of itself, and how it becomes an archive in a channel.

Archives are reproducible: the same contents give the same bytes. Follows CEP 26 (names), CEP 34 (package metadata) and
CEP 35 (archive formats).
"""

from __future__ import annotations

import bz2
import hashlib
import io
import json
import os
import posixpath
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

PLACEHOLDER = ("/opt/mcp_conda_run_local_channel" + "_placehold" * 40)[:255]
"""Stands in packages for the prefix that they get installed to; 255 characters, as conda-build's."""

MADE = 1_704_067_200_000
"""The `timestamp` of packages in milliseconds: 2024-01-01, so that `exclude-newer` can be tried with later ones."""

ZIP_DATE = (2024, 1, 1, 0, 0, 0)
COMPRESSION_LEVEL = 1  # speed: local channels are built often and read a few times


@dataclass(frozen=True, slots=True)
class Member:
    """One file or symbolic link of a package, at `path` in the prefix.

    Attributes:
        data: the file's contents; empty for a link.
        target: where a link points to; None for a file.
        relocated: whether `PLACEHOLDER` in the contents is to become the prefix at installation.
        executable: whether it is a program.
    """

    path: str
    data: bytes = b""
    target: str | None = None
    relocated: bool = False
    executable: bool = False

    def entry(self) -> dict[str, Any]:
        """Return this member's entry of `info/paths.json`."""
        entry: dict[str, Any] = {
            "_path": self.path,
            "path_type": "hardlink" if self.target is None else "softlink",
            "sha256": hashlib.sha256(self.data).hexdigest(),
            "size_in_bytes": len(self.data),
        }
        if self.relocated:
            entry["prefix_placeholder"] = PLACEHOLDER
            entry["file_mode"] = "binary" if b"\0" in self.data else "text"
        return entry


@dataclass(slots=True, kw_only=True)
class Package:
    """A conda package in the making.

    Attributes:
        subdir: conda's name of the platform, or `noarch`.
        noarch: `python` or `generic` in the subdir `noarch`, else empty.
        extra: further fields of `info/index.json`.
        link_json: what `info/link.json` says; empty for none.
        members: the files, by path.
    """

    name: str
    version: str
    build: str = "0"
    subdir: str = "noarch"
    depends: Iterable[str] = ()
    constrains: Iterable[str] = ()
    noarch: str = ""
    timestamp: int = MADE
    extra: dict[str, Any] = field(default_factory=dict)
    link_json: dict[str, Any] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        """The archive's file name without its ending."""
        return f"{self.name}-{self.version}-{self.build}"

    def add(self, path: str, data: bytes, *, executable: bool = False, binary_placeholder: bool = False) -> None:
        """Add a file. One that holds `PLACEHOLDER` gets it replaced by the prefix at installation."""
        relocated = binary_placeholder or PLACEHOLDER.encode() in data
        self.members[path] = Member(path, data, relocated=relocated, executable=executable)

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self.members[path] = Member(path, target=target)

    def entry_points(self, scripts: dict[str, str]) -> None:
        """Make this a noarch python package with these console scripts (name -> `module:function`)."""
        self.noarch = "python"
        points = [f"{name} = {target}" for name, target in sorted(scripts.items())]
        self.link_json = {"noarch": {"type": "python", "entry_points": points}, "package_metadata_version": 1}

    def metadata_twin(self, subdir: str) -> Package:
        """Return an empty package with the same metadata for another platform, so that locks for it can be solved."""
        depends = [spec for spec in self.depends if not spec.startswith("__")]
        return Package(
            name=self.name,
            version=self.version,
            build=self.build,
            subdir=subdir,
            depends=depends,
            constrains=self.constrains,
            timestamp=self.timestamp,
        )

    def index_json(self) -> dict[str, Any]:
        """Return `info/index.json`, which becomes the package's record in the channel's repodata."""
        platform, _, machine = self.subdir.partition("-")
        index: dict[str, Any] = {
            "name": self.name,
            "version": self.version,
            "build": self.build,
            "build_number": 0,
            "subdir": self.subdir,
            "arch": {"": None, "64": "x86_64"}.get(machine, machine),
            "platform": platform if machine else None,
            "depends": sorted(self.depends),
            "constrains": sorted(self.constrains),
            "license": "LicenseRef-see-upstream",
            "timestamp": self.timestamp,
            **self.extra,
        }
        if self.noarch:
            index["noarch"] = self.noarch
        return index

    def info_members(self) -> list[Member]:
        """Return the files below `info/`."""
        members = [self.members[path] for path in sorted(self.members)]
        texts = {
            "info/index.json": json.dumps(self.index_json(), indent=1),
            "info/paths.json": json.dumps({"paths": [m.entry() for m in members], "paths_version": 1}),
            "info/files": "".join(f"{m.path}\n" for m in members),
            "info/about.json": json.dumps({"summary": "Repackaged for a local channel"}),
        }
        if self.link_json:
            texts["info/link.json"] = json.dumps(self.link_json)
        return [Member(path, text.encode()) for path, text in texts.items()]

    def write_conda(self, channel: Path) -> Path:
        """Write `SUBDIR/NAME-VERSION-BUILD.conda` into the channel; return its path."""
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(zipfile.ZipInfo("metadata.json", ZIP_DATE), json.dumps({"conda_pkg_format_version": 2}))
            for part, members in (("info", self.info_members()), ("pkg", self.sorted_members())):
                tar = _zstd_tar(members)
                archive.writestr(zipfile.ZipInfo(f"{part}-{self.stem}.tar.zst", ZIP_DATE), tar)
        return self._publish(channel, ".conda", content.getbuffer())

    def write_tar_bz2(self, channel: Path) -> Path:
        """Write the package in conda's older format, which channels still hold; return its path."""
        content = io.BytesIO()
        _write_tar(content, [*self.info_members(), *self.sorted_members()])
        return self._publish(channel, ".tar.bz2", bz2.compress(content.getvalue()))

    def sorted_members(self) -> list[Member]:
        """Return the files in the order of the archive."""
        return [self.members[path] for path in sorted(self.members)]

    def _publish(self, channel: Path, ending: str, content: bytes | memoryview) -> Path:
        """Put an archive into the channel in one step: a reader sees none or all of it."""
        folder = channel / self.subdir
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".", dir=folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            Path(temporary).chmod(0o644)
            return Path(temporary).replace(folder / f"{self.stem}{ending}")
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def python_module(name: str, version: str, modules: dict[str, str], **fields: Any) -> Package:
    """Return a noarch python package with these modules (path below site-packages -> source) and its dist-info."""
    fields.setdefault("depends", ["python >=3.8"])
    package = Package(name=name, version=version, build="pyh0_0", noarch="python", **fields)
    package.entry_points({})
    for path, source in modules.items():
        package.add(f"site-packages/{path}", source.encode())
    info = f"site-packages/{name.replace('-', '_')}-{version}.dist-info"
    package.add(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode())
    package.add(f"{info}/INSTALLER", b"conda\n")
    package.add(f"{info}/RECORD", "".join(f"{posixpath.normpath(path)},,\n" for path in modules).encode())
    return package


def _zstd_tar(members: Iterable[Member]) -> bytes:
    """Return a compressed tar archive. One thread: the number of threads would show in the bytes."""
    buffer = io.BytesIO()
    compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL)
    with compressor.stream_writer(buffer, closefd=False) as stream:
        _write_tar(stream, members)
    return buffer.getvalue()


def _write_tar(stream: Any, members: Iterable[Member]) -> None:
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT) as tar:
        for member in members:
            header = tarfile.TarInfo(member.path)
            header.mtime = MADE // 1000
            header.mode = 0o755 if member.executable else 0o644
            if member.target is None:
                header.size = len(member.data)
                tar.addfile(header, io.BytesIO(member.data))
            else:
                header.type, header.linkname = tarfile.SYMTYPE, member.target
                tar.addfile(header)
