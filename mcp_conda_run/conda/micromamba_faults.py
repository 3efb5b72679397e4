"""Turns what micromamba says when it fails into the project's errors, with the codes of the embedded engine.

Each reading of a message has its test. The texts are those of libmamba 2.8.1; an unknown one still
becomes an error that carries the text.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from ..errors import CondaRunError, HostError, InstallError
from ..models import LockedPackage
from .faults import CREDENTIALS, checksum_mismatch, host_fault
from .micromamba_calls import Said
from .redact import redact

STATUS = re.compile(r"status: ([45]\d\d)\b")
DOWNLOAD_ERROR = re.compile(r"Download error \((\d+)\) ([^\[\n]+)")
BRACKETED = re.compile(r"\[((?:https?|file)://[^\]\s]+)\]")
WRONG = ("Found incorrect downloads", "doesn't match expectation", "File not valid")
FULL = ("No space left on device", "Disk quota exceeded", "Write failed")
READ_ONLY = ("Permission denied", "Read-only file system", "Could not find any writable cache directory")
UNTRUSTED = {"35", "51", "58", "60", "77"}
"""libcurl's codes for TLS (https://curl.se/libcurl/c/libcurl-errors.html)."""
BROKE_OFF = {"18", "52", "55", "56", "92"}
"""And for connections that ended too early."""

ENOSPC, EROFS = 28, 30


def explain_install(said: Said, packages: Sequence[LockedPackage], pkgs: Path, prefix: Path) -> CondaRunError:
    """Read how an installation failed."""
    text = said.stderr
    if fault := explain_host(text, prefix if "linking" in text or str(prefix) in text else in_trouble(pkgs, prefix)):
        return fault
    label = culprit(text, packages)
    error, status = DOWNLOAD_ERROR.search(text), STATUS.search(text)
    if status and status[1] in CREDENTIALS:
        return InstallError(
            f"The channel refused to hand out {label} (HTTP {status[1]}).",
            hint="Check the credentials in the channel's URL or in RATTLER_AUTH_FILE.",
            details=brief(said),
            code="download-failed",
        )
    if status or error:
        because = f"HTTP {status[1]}" if status else error[2].strip() if error else ""
        return InstallError(
            f"{label} could not be downloaded: {because}.",
            hint="The lock may be older than the channel (lock again), or the network failed (try again).",
            details=brief(said),
            code="download-failed",
        )
    if any(sign in text for sign in WRONG):
        return checksum_mismatch(label)
    return InstallError(f"{label} could not be installed: {last_words(said)}.", details=brief(said))


def is_broken_download(text: str) -> bool:
    """Say whether an archive came, but not whole or not as it should be."""
    error = DOWNLOAD_ERROR.search(text)
    cut_off = error is not None and error[1] in BROKE_OFF
    return not STATUS.search(text) and (cut_off or (error is None and any(sign in text for sign in WRONG)))


def explain_channel(said: Said, channels: Sequence[str], repodata: Path) -> CondaRunError:
    """Read why the channels could not be asked."""
    text = said.stderr
    if fault := explain_host(text, repodata):
        return fault
    address = BRACKETED.search(text)
    where = redact(address[1] if address else ", ".join(channels))
    error, status = DOWNLOAD_ERROR.search(text), STATUS.search(text)
    because = f"HTTP {status[1]}" if status else error[2].strip() if error else last_words(said)
    return InstallError(
        f"The channel at {where} cannot be used: {because}.",
        hint=channel_hint(status[1] if status else "", error[1] if error else ""),
        details=brief(said),
        code="channel-unreachable",
    )


def lacks_subdir(said: Said) -> bool:
    """Say whether a channel has not all that was asked for: perhaps it is one of `noarch` packages alone."""
    error, status = DOWNLOAD_ERROR.search(said.stderr), STATUS.search(said.stderr)
    return (status is not None and status[1] == "404") or (error is not None and error[1] == "37")


def says_why(said: Said) -> bool:
    """Say whether the text names a reason that a person can use."""
    text = said.stderr
    return bool(STATUS.search(text) or DOWNLOAD_ERROR.search(text) or explain_host(text, Path()))


def is_bad_spec(said: Said) -> bool:
    """Say whether micromamba does not understand a spec that py-rattler does."""
    return "Error parsing" in said.stderr


def explain_spec(said: Said) -> InstallError:
    """Return the error for such a spec."""
    return InstallError(
        f"micromamba does not understand a spec: {last_words(said)}.",
        hint="Write `name`, `name=1.2` or `name>=1.2,<2`, as conda does.",
        code="bad-spec",
    )


def channel_hint(status: str, curl_code: str) -> str:
    """Say what to do about a channel, by the kind of failure."""
    if curl_code in UNTRUSTED:
        return "Its certificate is not trusted: name your certificate authority's file in SSL_CERT_FILE."
    if status in CREDENTIALS:
        return "Check the credentials in the channel's URL or in RATTLER_AUTH_FILE."
    if status == "404" or curl_code == "37":
        return "Check the channel's name or URL (MCP_CONDA_RUN_CHANNELS or the template)."
    return "Check the network and the proxy variables (HTTPS_PROXY), or use another channel (MCP_CONDA_RUN_CHANNELS)."


def explain_host(text: str, path: Path) -> HostError | None:
    """Return the error for a full or read-only disk if the text names one."""
    if any(sign in text for sign in FULL):
        return host_fault(ENOSPC, path)
    if any(sign in text for sign in READ_ONLY):
        return host_fault(EROFS, path)
    return None


def in_trouble(pkgs: Path, prefix: Path) -> Path:
    """Return which of the two cannot be written to, or has less room: micromamba does not always say."""
    for path in (pkgs, prefix):
        if not os.access(existing(path), os.W_OK):
            return path
    try:
        return min((pkgs, prefix), key=lambda path: shutil.disk_usage(existing(path)).free)
    except OSError:
        return pkgs


def existing(path: Path) -> Path:
    """Return the path, or the nearest directory above it that is there."""
    return next((place for place in (path, *path.parents) if place.exists()), path)


def culprit(text: str, packages: Sequence[LockedPackage]) -> str:
    """Return the package that the text names, or the only one that it can be."""
    for package in packages:
        if unquote(package.url.rpartition("/")[2]) in unquote(text):
            return f"{package.name} {package.version}"
    for package in packages:
        if f"'{package.name}'" in text or f"{package.name}-{package.version}-{package.build}" in text:
            return f"{package.name} {package.version}"
    return f"{packages[0].name} {packages[0].version}" if len(packages) == 1 else "a package"


def last_words(said: Said) -> str:
    """Return what says the most of a failure, without its final stop."""
    spoken = said.complaints() or [line.strip() for line in said.stderr.splitlines() if line.strip()]
    if not spoken:
        return f"micromamba ended with exit code {said.returncode} and gave no reason"
    words = re.sub(r"^(critical|error)\s+libmamba\s*", "", spoken[-1])
    return redact(words).rstrip(".")


def brief(said: Said) -> str:
    """Return micromamba's complaints, or the end of what it wrote where it did not mark them."""
    return redact("\n".join(said.complaints() or said.stderr.splitlines()[-10:]))
