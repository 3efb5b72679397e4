"""The client by which py-rattler asks channels. Runs only in the helper processes, which have one each.

It knows the credentials and the certificates that its process was given (`access.py`, `trust.py`).
"""

from __future__ import annotations

import rattler

from ..errors import HostError

RETRIES = 3
"""For each download, with growing pauses: a refused connection is given up after about 5 s."""


def make_client(*, offline: bool = False) -> rattler.Client:
    """Return the client; offline, it does not try again what cannot succeed.

    Raises:
        HostError: the machine has no certificates, without which no such client can be.
    """
    try:
        return rattler.Client.default_client(max_retries=0 if offline else RETRIES)
    except ValueError as error:
        raise HostError(
            "This machine has no certificates of authorities, so that no server can be believed.",
            hint="Install the system's package ca-certificates, or name a PEM file in SSL_CERT_FILE or `ca_bundle`.",
            details=str(error),
            code="no-certificates",
        ) from error
