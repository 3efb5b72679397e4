"""Which certificate authorities the helper processes trust: the system's, those of SSL_CERT_FILE, or the setting's."""

from __future__ import annotations

from ..errors import SettingsError
from ..settings import Settings

MAX_BYTES = 16 * 1024 * 1024


def trust_variables(settings: Settings) -> dict[str, str]:
    """Return what a helper process gets of the setting `ca_bundle`; all that they run knows SSL_CERT_FILE.

    Raises:
        SettingsError: the file cannot be read, or has no certificate in it.
    """
    if settings.ca_bundle is None:
        return {}
    path = settings.ca_bundle.expanduser().absolute()
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES)
    except OSError as error:
        raise SettingsError(
            f"The certificates in {path} cannot be read: {error.strerror}.", code="bad-ca-bundle"
        ) from None
    if b"-----BEGIN CERTIFICATE-----" not in text:
        raise SettingsError(
            f"{path} has no certificates in it.",
            hint="The setting ca_bundle names a PEM file, with `-----BEGIN CERTIFICATE-----` in it.",
            code="bad-ca-bundle",
        )
    return {"SSL_CERT_FILE": str(path)}
