"""Fetches from one index, bounded in size and time, with the index's credentials for the index's own host only.

Runs only in the worker for PyPI (`pypi_worker.py`). Proxies come from the environment, certificates from SSL_CERT_FILE,
SSL_CERT_DIR or the system, and credentials from the index's URL or the user's netrc file.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import httpx2

from ..errors import CondaRunError
from ..portability import replace_file
from .faults import checksum_mismatch, explain_os_error, offline_missing
from .pypi_faults import timed_out, unreachable
from .redact import redact

TIMEOUT = httpx2.Timeout(30, connect=10)
ATTEMPTS = 3
PAUSE_S = 0.3
CHUNK_BYTES = 256 * 1024
MAX_WHEEL_BYTES = 4 * 1024**3
SERVER_FAILED = 500
FORBIDDEN = {401, 403, 407}
NOT_FOUND = 404


class NotThereError(Exception):
    """The index has nothing at this address."""


class Web:
    """An HTTP client for one index; a context manager, safe to use from several threads."""

    def __init__(self, index: str, *, offline: bool = False) -> None:
        self.index = httpx2.URL(index.rstrip("/") + "/")
        self.offline = offline
        auth = _OwnHostAuth(self.index) if self.index.userinfo else _netrc()
        self._client = httpx2.Client(timeout=TIMEOUT, follow_redirects=True, auth=auth)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()

    def project_url(self, name: str) -> str:
        """Return the address of a project's page, without credentials."""
        return self.absolute(f"{name}/", str(self.index))

    def absolute(self, url: str, page: str) -> str:
        """Return an address that a page names as an absolute one without credentials; nothing if it is not HTTP."""
        try:
            whole = httpx2.URL(page).join(url).copy_with(username="", password="", fragment=None)
        except (httpx2.InvalidURL, ValueError):
            return ""
        return str(whole) if whole.scheme in {"http", "https"} and whole.host else ""

    def read(self, url: str, *, accept: str, max_bytes: int) -> tuple[bytes, str]:
        """Return the body and its content type.

        Raises:
            NotThereError: the index says that there is no such thing.
            InstallError: it cannot be reached, refuses, or answers more than `max_bytes`.
        """
        kept = bytearray()

        def keep(chunk: bytes) -> None:
            kept.extend(chunk)
            if len(kept) > max_bytes:
                raise unreachable(url, f"its answer is longer than {max_bytes} bytes")

        headers = self._fetch(url, {"accept": accept}, keep, kept.clear)
        return bytes(kept), headers.get("content-type", "").partition(";")[0].strip().lower()

    def download(self, url: str, target: Path, sha256: str, heard: Callable[[int], None]) -> None:
        """Make `target` the file at `url`, if its digest is `sha256`; `heard` learns of each chunk's length.

        Raises:
            InstallError: it cannot be had, is too big, or is another file.
            HostError: the disk is full or cannot be written to.
        """
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                digest = self._download_into(file, url, heard)
            if digest != sha256:
                raise checksum_mismatch(target.name)
            replace_file(temporary, target)
        except NotThereError:
            raise unreachable(url, "the file is not there any more") from None
        except OSError as error:
            raise explain_os_error(error, target.parent) from error
        finally:
            temporary.unlink(missing_ok=True)

    def _download_into(self, file: BinaryIO, url: str, heard: Callable[[int], None]) -> str:
        digest, size = hashlib.sha256(), 0

        def keep(chunk: bytes) -> None:
            nonlocal size
            size += len(chunk)
            if size > MAX_WHEEL_BYTES:
                raise unreachable(url, f"the file is larger than {MAX_WHEEL_BYTES // 1024**3} GiB")
            file.write(chunk)
            digest.update(chunk)
            heard(len(chunk))

        def again() -> None:
            nonlocal digest, size
            file.seek(0)
            file.truncate()
            heard(-size)
            digest, size = hashlib.sha256(), 0

        self._fetch(url, {"accept-encoding": "identity"}, keep, again)
        return digest.hexdigest()

    def _fetch(
        self, url: str, headers: dict[str, str], keep: Callable[[bytes], None], again: Callable[[], None]
    ) -> httpx2.Headers:
        """Stream an answer to `keep`; where the network or the server fails, call `again` and start over."""
        if self.offline:
            raise offline_missing([redact(url)])
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with self._client.stream("GET", url, headers=headers) as response:
                    self._check(url, response)
                    for chunk in response.iter_bytes(CHUNK_BYTES):
                        keep(chunk)
                    return response.headers
            except (httpx2.TransportError, _ServerFailedError) as error:
                if attempt == ATTEMPTS or isinstance(error, httpx2.ConnectError | httpx2.UnsupportedProtocol):
                    raise _explain(url, error) from error
                again()
                time.sleep(PAUSE_S * attempt)
            except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
                raise _explain(url, error) from error
        raise AssertionError("unreachable: the last attempt returns or raises")

    @staticmethod
    def _check(url: str, response: httpx2.Response) -> None:
        status = response.status_code
        if status == NOT_FOUND:
            raise NotThereError
        if status in FORBIDDEN:
            raise unreachable(url, f"it refuses (HTTP {status})", "Check the credentials of the index (MCP_CONDA_RUN_"
                              "PYPI_INDEX, or your netrc file).")  # fmt: skip
        if status >= SERVER_FAILED:
            raise _ServerFailedError(f"HTTP {status}")
        if not response.is_success:
            raise unreachable(url, f"HTTP {status}")


class _OwnHostAuth(httpx2.BasicAuth):
    """Sends the index's credentials to the index's own host, and to no other that its pages name."""

    def __init__(self, index: httpx2.URL) -> None:
        super().__init__(index.username, index.password)
        self._origin = (index.scheme, index.host, index.port)

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        """Add the credentials if the request goes to the index."""
        if (request.url.scheme, request.url.host, request.url.port) == self._origin:
            yield from super().auth_flow(request)
        else:
            yield request


class _ServerFailedError(Exception):
    """The server says that it failed; it may not do so the next time."""


def _explain(url: str, error: Exception) -> CondaRunError:
    if isinstance(error, httpx2.TimeoutException):
        return timed_out(url, TIMEOUT.read or 0)
    text = str(error) or type(error).__name__
    hint = "Its certificate is not trusted: name your certificate authority's file in SSL_CERT_FILE."
    return unreachable(url, text.rstrip("."), hint if "CERTIFICATE_VERIFY" in text else "")


def _netrc() -> httpx2.NetRCAuth | None:
    """Return the user's own credentials for hosts, if there is a file of them that can be read."""
    with suppress(OSError, ValueError, SyntaxError):  # netrc.NetrcParseError is a SyntaxError
        return httpx2.NetRCAuth(os.environ.get("NETRC") or str(Path.home() / ".netrc"))
    return None
