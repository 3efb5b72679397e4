"""The file that carries everything: a plain tar of a manifest and of objects that are named by their sha256.

`bundle.py` writes one, `unbundle.py` reads one that may be hostile. Always the same bytes for the same content: no
times, owners or modes. Archives of packages are compressed already, so the tar is not.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import RequestError

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 32 * 1024 * 1024
MAX_MEMBERS = 100_000
CHUNK_BYTES = 1024 * 1024
BLOCK = tarfile.BLOCKSIZE
OBJECT = re.compile(r"objects/([0-9a-f]{64})")
NAME = r"[A-Za-z0-9_][A-Za-z0-9_.+!=-]{0,199}"
PATH = re.compile(
    rf"locks/{NAME}\.conda-lock\.yml"
    rf"|templates/{NAME}\.(yml|yaml|lock|txt)"
    r"|channels/[0-9a-f]{16}/[a-z0-9-]{1,32}/repodata\.json"
    rf"|channels/[0-9a-f]{{16}}/[a-z0-9-]{{1,32}}/{NAME}\.(conda|tar\.bz2)"
    rf"|pypi/wheels/[0-9a-f]{{64}}/{NAME}\.whl"
    r"|pypi/projects/[0-9a-f]{16}/[a-z0-9][a-z0-9-]{0,199}\.json"
)
"""All that a bundle may bring, and where it goes; nothing here can lead out of a directory."""


class Part(BaseModel):
    """What the parts of a manifest share."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Member(Part):
    """A file: where it goes, and what is in it."""

    path: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0, le=2**40)]


class Channel(Part):
    """A channel that the bundle has a part of."""

    url: Annotated[str, Field(pattern=r"^(https?|file|s3|oci)://[^\x00-\x20\x7f]*$", max_length=2000)]
    name: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class Manifest(Part):
    """What is in a bundle.

    Attributes:
        version: of mcp-conda-run that wrote it.
        platform: conda's name of the platform that it is for.
        templates: their names.
        specs: what it was asked to hold besides.
        channels: where its packages are from.
        members: all files, in the order of their paths.
    """

    format: Literal["mcp-conda-run-bundle-1"] = "mcp-conda-run-bundle-1"
    version: str = ""
    platform: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")]
    templates: tuple[str, ...] = ()
    specs: tuple[str, ...] = ()
    channels: tuple[Channel, ...] = ()
    members: tuple[Member, ...] = ()

    def document(self) -> bytes:
        """Return it as it is written."""
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Content:
    """A file to be written: where it goes, and what it is made of."""

    path: str
    source: Path | bytes


def write_bundle(output: BinaryIO, head: Manifest, contents: Sequence[Content]) -> Manifest:
    """Write a bundle; return its manifest, which is `head` with the members.

    Raises:
        OSError: it cannot be written, or a file cannot be read.
    """
    ordered = sorted(contents, key=lambda content: content.path)
    members = tuple(member_of(content) for content in ordered)
    manifest = head.model_copy(update={"members": members})
    document = manifest.document()
    output.write(header(MANIFEST, len(document)))
    output.write(padded(document))
    written: set[str] = set()
    for content, member in zip(ordered, members, strict=True):
        if member.sha256 not in written:
            written.add(member.sha256)
            output.write(header(f"objects/{member.sha256}", member.size))
            with opened(content.source) as file:
                copied = sum(output.write(chunk) for chunk in chunks(file))
            output.write(b"\0" * (-copied % BLOCK))
            if copied != member.size:
                raise OSError(0, "a file changed while it was read", content.path)
    output.write(b"\0" * (2 * BLOCK))
    return manifest


def member_of(content: Content) -> Member:
    """Return path, digest and size of a file."""
    if not PATH.fullmatch(content.path):
        raise ValueError(f"nothing in a bundle is called {content.path!r}")
    digest, size = hashlib.sha256(), 0
    with opened(content.source) as file:
        for chunk in chunks(file):
            digest.update(chunk)
            size += len(chunk)
    return Member(path=content.path, sha256=digest.hexdigest(), size=size)


def opened(source: Path | bytes) -> BinaryIO:
    """Return something to read from."""
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def chunks(file: BinaryIO) -> Iterator[bytes]:
    """Yield what is left of a file."""
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def header(name: str, size: int) -> bytes:
    """Return a member's header, which is the same whoever writes it."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


def padded(data: bytes) -> bytes:
    """Return data filled up to whole blocks."""
    return data + b"\0" * (-len(data) % BLOCK)


# --- reading ----------------------------------------------------------------------------------------------------------


class BundleReader:
    """Reads a bundle from its start to its end, believing nothing.

    Only plain members with the names that a bundle has are known: no links, devices, directories or extended headers.
    So Python's own reading of tar files, which follows such headers, is not used, only its reading of one header.

    Args:
        file: the bundle, at its start.
        name: how it is called in errors.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self.manifest_sha256 = ""

    def manifest(self) -> Manifest:
        """Read the first member.

        Raises:
            RequestError: this is no bundle, or it names what no bundle may bring.
        """
        name, size = self._next() or ("", 0)
        if name != MANIFEST or size > MAX_MANIFEST_BYTES:
            raise self.bad("it does not begin with a manifest")
        data = b"".join(self._data(size))
        self.manifest_sha256 = hashlib.sha256(data).hexdigest()
        try:
            manifest = Manifest.model_validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise self.bad(f"its manifest at {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        paths = [member.path for member in manifest.members]
        if len(paths) > MAX_MEMBERS or len({path.casefold() for path in paths}) != len(paths):
            raise self.bad("it has too many files, or two of one name")
        wrong = next((path for path in paths if not PATH.fullmatch(path)), None)
        if wrong is not None:
            raise self.bad(f"it would bring {wrong[:200]!a}")
        return manifest

    def objects(self, manifest: Manifest, directory: Path) -> None:
        """Write every object into a directory, named by its digest.

        Raises:
            RequestError: one is missing, is not what the manifest says, or is not in it.
            OSError: the directory cannot be written to.
        """
        sizes = {member.sha256: member.size for member in manifest.members}
        missing = set(sizes)
        while (entry := self._next()) is not None:
            name, size = entry
            found = OBJECT.fullmatch(name)
            if found is None or found[1] not in missing or sizes[found[1]] != size:
                raise self.bad(f"it has a member that its manifest does not name: {name[:100]!a}")
            missing.remove(found[1])
            digest = hashlib.sha256()
            with (directory / found[1]).open("xb") as file:
                for chunk in self._data(size):
                    digest.update(chunk)
                    file.write(chunk)
            if digest.hexdigest() != found[1]:
                raise self.bad(f"{paths_of(manifest, found[1])} is damaged")
        if missing:
            raise self.bad(f"{paths_of(manifest, min(missing))} is missing from it")

    def bad(self, why: str) -> RequestError:
        """Make the error for a bundle that is not taken."""
        return RequestError(
            f"{self._name} is not taken as a bundle: {why}.",
            hint="Nothing of it was unpacked. Make it again with `mcp-conda-run bundle`, and copy it again.",
            code="bad-bundle",
        )

    def _next(self) -> tuple[str, int] | None:
        """Return name and size of the next member; None at the end."""
        block = self._file.read(BLOCK)
        if len(block) == BLOCK and not block.strip(b"\0"):
            return None
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError, ValueError):
            raise self.bad("it is cut off, or no tar file") from None
        if info.type != tarfile.REGTYPE or info.size < 0:
            raise self.bad(f"its member {info.name[:100]!a} is not a plain file")
        return info.name, info.size

    def _data(self, size: int) -> Iterator[bytes]:
        """Yield a member's content, and pass over what fills its last block."""
        left = size
        while left:
            chunk = self._file.read(min(left, CHUNK_BYTES))
            if not chunk:
                raise self.bad("it is cut off")
            left -= len(chunk)
            yield chunk
        self._file.read(-size % BLOCK)


def paths_of(manifest: Manifest, sha256: str) -> str:
    """Name the file that an object is."""
    return next((member.path for member in manifest.members if member.sha256 == sha256), sha256)


def channel_name(url: str) -> str:
    """Return the name of the directory of a channel in bundles and where they are unpacked."""
    return hashlib.sha256(url.encode()).hexdigest()[:16]


def repodata(subdir: str, entries: Mapping[str, Mapping[str, object]]) -> bytes:
    """Return the index of a channel's directory that has these archives, by file name."""
    old = {name: entry for name, entry in entries.items() if name.endswith(".tar.bz2")}
    new = {name: entry for name, entry in entries.items() if not name.endswith(".tar.bz2")}
    document = {"info": {"subdir": subdir}, "packages": old, "packages.conda": new, "repodata_version": 1}
    return json.dumps(document, sort_keys=True, indent=1).encode()
