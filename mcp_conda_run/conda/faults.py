"""Turns what py-rattler and the system say into the project's errors: a code, a sentence, a hint, no credentials.

Called in the engine's worker, where the exception is; pure, so that each reading of a message has its test. The texts
are those of py-rattler 0.28; an unknown one still becomes an error that carries the text.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import CondaRunError, HostError, InstallError
from .redact import redact

OS_ERROR = re.compile(r"\(os error (\d+)\)")
FETCHED = re.compile(r"failed to (?:fetch|link) (\S+?)(?:\.conda|\.tar\.bz2)?$", re.MULTILINE)
CHECKSUMS = re.compile(r"expected ([0-9a-f]{32,64}), got ([0-9a-f]{32,64})")
HTTP_STATUS = re.compile(r"HTTP status \w+ error \((\d{3})[^)]*\)|unexpected status code \((\d{3})")
URL = re.compile(r"\b(?:https?|file)://[^\s)'`]+")
SHARD = re.compile(r"shard for package '([^']+)'")

FULL = {errno.ENOSPC, errno.EDQUOT}
READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
CREDENTIALS = {"401", "403", "407"}
UNTRUSTED = ("invalid peer certificate", "certificate verify failed", "UnknownIssuer")
CUT_OFF = ("response body", "error sending request", "connection")


def explain_os_error(error: OSError, path: Path) -> HostError:
    """Say why `path` cannot be written."""
    return host_fault(error.errno or 0, path) or HostError(f"{path} cannot be used: {error.strerror or error}.")


def host_fault(number: int, path: Path) -> HostError | None:
    """Return the error for a full or read-only disk; None for any other error number."""
    if number in FULL:
        return HostError(
            f"The disk with {path} is full.",
            hint="Free some space (`mcp-conda-run clean` removes what is not used), then try again.",
            code="disk-full",
        )
    if number in READ_ONLY:
        return HostError(
            f"{path} cannot be written to.",
            hint="Choose a writable directory with MCP_CONDA_RUN_CACHE_DIR.",
            code="cache-read-only",
        )
    return None


def explain_install(text: str, pkgs: Path, offline: bool) -> CondaRunError:
    """Read the text of a failed installation."""
    found = FETCHED.search(text)
    package = found.group(1) if found else "a package"
    if fault := host_fault_in(text, pkgs):
        return fault
    if is_broken_archive(text):
        return checksum_mismatch(package, CHECKSUMS.search(text))
    if offline:
        return offline_missing([package])
    details = redact(text)
    status = http_status(text)
    if status in CREDENTIALS:
        return InstallError(
            f"The channel refused to hand out {package} (HTTP {status}).",
            hint="Check the credentials in the channel's URL or in RATTLER_AUTH_FILE.",
            details=details,
            code="download-failed",
        )
    if status or URL.search(text) or any(sign in text for sign in CUT_OFF):
        because = f"HTTP {status}" if status else innermost_cause(text)
        return InstallError(
            f"{package} could not be downloaded: {because}.",
            hint="The lock may be older than the channel (lock again), or the network failed (try again).",
            details=details,
            code="download-failed",
        )
    return InstallError(f"{package} could not be installed: {innermost_cause(text)}.", details=details)


def is_broken_archive(text: str) -> bool:
    """Say whether an archive came whole but is not what it should be.

    Archives are unpacked while they are read: damage shows as any error of zip, tar or zstd before the digest is known.
    """
    unreadable = "an io error occurred" in text and not OS_ERROR.search(text)
    return "hash mismatch" in text or (unreadable and not any(sign in text for sign in CUT_OFF))


def explain_channel(text: str, channels: Sequence[str], repodata: Path, offline: bool) -> CondaRunError:
    """Read the text of a failed look into the channels."""
    if fault := host_fault_in(text, repodata):
        return fault
    if offline and (shard := SHARD.search(text)):
        return offline_missing([shard.group(1)])
    address = URL.search(text)
    where = redact(address.group(0) if address else ", ".join(channels))
    if offline:
        return InstallError(
            f"Nothing is cached of {where}.",
            hint="Offline mode uses only what was fetched before: go online once (`mcp-conda-run warmup`), or bring "
            "it with `bundle` and `unbundle`.",
            code="offline-missing",
        )
    return InstallError(
        f"The channel at {where} cannot be used: {innermost_cause(text)}.",
        hint=channel_hint(text),
        details=redact(text),
        code="channel-unreachable",
    )


def channel_hint(text: str) -> str:
    """Say what to do about a channel, by the kind of failure."""
    if any(sign in text for sign in UNTRUSTED):
        return "Its certificate is not trusted: name your certificate authority's file in SSL_CERT_FILE."
    if http_status(text) in CREDENTIALS:
        return "Check the credentials in the channel's URL or in RATTLER_AUTH_FILE."
    if "S3" in text or "region must be set" in text:
        return "Channels in S3 need AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and perhaps AWS_ENDPOINT_URL."
    if http_status(text) == "404" or "could not find subdir" in text or "invalid channel" in text:
        return "Check the channel's name or URL (MCP_CONDA_RUN_CHANNELS or the template)."
    return "Check the network and the proxy variables (HTTPS_PROXY), or use another channel (MCP_CONDA_RUN_CHANNELS)."


def checksum_mismatch(package: str, sums: re.Match[str] | None = None) -> InstallError:
    """Return the error for an archive that is not what the lock or the channel promised."""
    return InstallError(
        f"The archive of {package} is damaged or is not the one that was locked.",
        hint="Nothing of it was installed. Try again; if it stays, lock again or ask the channel's maintainer.",
        details=f"Its digest should be {sums.group(1)} and is {sums.group(2)}." if sums else "",
        code="checksum-mismatch",
    )


def offline_missing(packages: Sequence[str]) -> InstallError:
    """Return the error for packages that only the network could provide."""
    return InstallError(
        f"Offline, and not in the cache: {', '.join(packages)}.",
        hint="Offline mode uses only what was fetched before: fetch them while online with `mcp-conda-run warmup "
        "--download-only --with NAME`, bring them with `bundle` and `unbundle`, or leave them out.",
        code="offline-missing",
    )


def host_fault_in(text: str, path: Path) -> HostError | None:
    """Return the error for a full or read-only disk if the text names one."""
    for number in OS_ERROR.findall(text):
        if fault := host_fault(int(number), path):
            return fault
    return None


def http_status(text: str) -> str:
    """Return the HTTP status that the text names, or nothing."""
    found = HTTP_STATUS.search(text)
    return next(filter(None, found.groups()), "") if found else ""


def innermost_cause(text: str) -> str:
    """Return the last `Caused by:` line, which says the most, without its final stop."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = lines[-1].removeprefix("Caused by:").strip() if lines else "no reason given"
    return redact(last).rstrip(".")
