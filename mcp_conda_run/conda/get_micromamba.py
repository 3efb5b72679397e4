"""Downloads the official micromamba of this machine's platform, for the command `get-micromamba`.

The program and its published sha256 come from the releases of mamba-org/micromamba-releases, or from a mirror with the
same paths. It appears at its place whole, verified and tried, or not at all. Called by nothing unasked.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import httpx2

from ..errors import InstallError, RequestError
from ..models import Progress, ProgressCallback, no_progress
from .faults import CREDENTIALS, checksum_mismatch, explain_os_error
from .micromamba import tried
from .redact import redact

RELEASES = "https://github.com/mamba-org/micromamba-releases/releases"
LATEST = "latest"
VERSION = re.compile(r"[0-9][0-9A-Za-z.]*(-[0-9]+)?")
PLATFORMS = ("linux-64", "linux-aarch64", "linux-ppc64le", "osx-64", "osx-arm64", "win-64")
SHA256 = re.compile(rb"\b([0-9a-fA-F]{64})\b")
MAX_PROGRAM_BYTES = 128 * 1024 * 1024
"""The official builds are about 16 MB."""
MAX_CHECKSUM_BYTES = 4096
MAX_REDIRECTS = 5
CHUNK_BYTES = 256 * 1024
TIMEOUT = httpx2.Timeout(30, connect=15)


@dataclass(frozen=True, slots=True)
class Got:
    """What was installed.

    Attributes:
        path: where it is now.
        version: what it says of itself.
        url: where it came from, without credentials.
        sha256: its digest, which is the published one.
        size_bytes: its size.
    """

    path: Path
    version: str
    url: str
    sha256: str
    size_bytes: int


def asset_url(platform: str, version: str = LATEST, mirror: str = "") -> str:
    """Return the address of the program; its checksum is beside it, with `.sha256` at the end.

    Raises:
        RequestError: there is no such version, or no official build for the platform.
    """
    if platform not in PLATFORMS:
        raise RequestError(f"There is no official micromamba for {platform}.", hint="Use `--engine rattler`.")
    if version != LATEST and not VERSION.fullmatch(version):
        raise RequestError(f"{version!r} is no version of micromamba.", hint="Write it as 2.8.1-0, or leave it out.")
    place = "latest/download" if version == LATEST else f"download/{version}"
    suffix = ".exe" if platform.startswith("win-") else ""
    return f"{(mirror or RELEASES).rstrip('/')}/{place}/micromamba-{platform}{suffix}"


def get_micromamba(url: str, target: Path, *, certificates: str = "", progress: ProgressCallback = no_progress) -> Got:
    """Download, verify, try and install the program.

    Args:
        url: where the program is.
        target: where it goes; what is there is replaced when the new one works.
        certificates: a PEM file of authorities instead of the usual ones.
        progress: told of the bytes.

    Raises:
        InstallError: it cannot be downloaded, is not what was published, or does not run here.
        HostError: the disk is full, or cannot be written to.
    """
    verify = ssl.create_default_context(cafile=certificates) if certificates else True
    with httpx2.Client(timeout=TIMEOUT, follow_redirects=False, verify=verify) as client:
        progress(Progress("download", "Asking for the published checksum"))
        published = published_checksum(client, url)
        with beside(target) as temporary:
            size = download(client, url, temporary, published, progress)
            progress(Progress("check", "Trying it"))
            version = try_it(temporary)
            try:
                temporary.replace(target)
            except OSError as error:
                raise explain_os_error(error, target.parent) from error
    return Got(target, version, redact(url), published, size)


def published_checksum(client: httpx2.Client, url: str) -> str:
    """Return the sha256 that is published for the program, in small letters.

    Raises:
        InstallError: it cannot be had, or is none.
    """
    kept = bytearray()
    fetch(client, f"{url}.sha256", kept.extend, MAX_CHECKSUM_BYTES)
    found = SHA256.search(kept)
    if found is None:
        raise failed(f"{url}.sha256", "it is no sha256 checksum")
    return found[1].decode().lower()


def download(client: httpx2.Client, url: str, temporary: Path, published: str, progress: ProgressCallback) -> int:
    """Make the file the program; return its size in bytes.

    Raises:
        InstallError: it cannot be had, or is not the one that was published.
        HostError: the disk is full, or cannot be written to.
    """
    digest, size = hashlib.sha256(), 0

    def keep(chunk: bytes, total: int = 0) -> None:
        nonlocal size
        digest.update(chunk)
        file.write(chunk)
        size += len(chunk)
        progress(Progress("download", "Fetching micromamba", size, max(total, size), "bytes"))

    try:
        with temporary.open("xb") as file:
            fetch(client, url, keep, MAX_PROGRAM_BYTES)
            durable(file)
        temporary.chmod(0o755)
    except OSError as error:
        raise explain_os_error(error, temporary.parent) from error
    if digest.hexdigest() != published:
        wrong = checksum_mismatch("micromamba")
        wrong.message = "The micromamba that came is damaged, or is not the one that was published."
        wrong.hint = "Nothing was installed. Try again; if it stays, do not use this source."
        wrong.details = f"Its sha256 should be {published} and is {digest.hexdigest()}."
        raise wrong
    return size


def durable(file: BinaryIO) -> None:
    """Have the file on disk before its name is."""
    file.flush()
    os.fsync(file.fileno())


def fetch(client: httpx2.Client, url: str, keep: Callable[[bytes], None], max_bytes: int) -> None:
    """Hand on the body at an address, following redirects, but never from https to http.

    Raises:
        InstallError: it cannot be had whole, or is longer than `max_bytes`.
    """
    here = httpx2.URL(url)
    try:
        for _ in range(MAX_REDIRECTS + 1):
            with client.stream("GET", here) as answer:
                if not answer.is_redirect:
                    return read(answer, url, keep, max_bytes)
                there = here.join(answer.headers["location"])
            if there.scheme not in {"http", "https"} or (here.scheme == "https" and there.scheme != "https"):
                raise failed(url, f"it is redirected to {there.scheme}, which is not secure")
            here = there
    except httpx2.HTTPError as error:
        raise failed(url, redact(str(error)) or type(error).__name__) from error
    except (httpx2.InvalidURL, ValueError) as error:
        raise failed(url, f"it, or where it is redirected to, is no address ({redact(str(error))})") from None
    raise failed(url, "it is redirected too often")


def read(answer: httpx2.Response, url: str, keep: Callable[[bytes], None], max_bytes: int) -> None:
    """Hand on a body."""
    if answer.status_code != httpx2.codes.OK:
        status = str(answer.status_code)
        hint = "Check the credentials." if status in CREDENTIALS else "Check the version, and the mirror's address."
        raise failed(url, f"HTTP {status}", hint)
    announced = int(answer.headers.get("content-length") or 0)
    size = 0
    for chunk in answer.iter_bytes(CHUNK_BYTES):
        size += len(chunk)
        if max(size, announced) > max_bytes:
            raise failed(url, f"it is larger than {max_bytes // 1024} KiB, which no honest one is")
        keep(chunk)


def failed(
    url: str, why: str, hint: str = "Check the network and the proxy variables, or name a mirror."
) -> InstallError:
    """Return the error for something that cannot be downloaded."""
    return InstallError(f"{redact(url)} could not be downloaded: {why}.", hint=hint, code="download-failed")


def try_it(path: Path) -> str:
    """Return the version that the downloaded program says.

    Raises:
        InstallError: it does not run on this machine.
    """
    found = tried(path, "downloaded")
    if found.problem:
        raise InstallError(
            f"The micromamba that came is the published one, but cannot be used here: {found.problem}",
            hint="Try another --version, or use `--engine rattler`.",
            code="no-micromamba",
        )
    return found.version


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """Give a name for a file beside the target, which is gone afterwards.

    Raises:
        HostError: the directory cannot be made.
    """
    temporary = target.with_name(f".{secrets.token_hex(4)}-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain_os_error(error, target.parent) from error
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
