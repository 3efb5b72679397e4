"""Every error that a user can meet: one family, each with a code, one sentence and a hint.

Raised by all rooms, shown by the surfaces (`cli.py`, `server/`). Never carries secrets, never a traceback: what only a
developer can use goes to the log.
"""

from __future__ import annotations


class CondaRunError(Exception):
    """The base of the family.

    Attributes:
        code: stable, machine-readable name of what went wrong, such as `unsatisfiable`.
        message: one sentence that says what happened.
        hint: one sentence that says what to do about it; may be empty.
        details: longer text that explains the message, such as the solver's tree; may be empty.
    """

    default_code = "internal"

    def __init__(self, message: str, *, hint: str = "", details: str = "", code: str = "") -> None:
        super().__init__(message)
        self.code = code or self.default_code
        self.message = message
        self.hint = hint
        self.details = details

    def __str__(self) -> str:
        return "\n".join(part for part in (self.message, self.details, self.hint) if part)


class SettingsError(CondaRunError):
    """A setting, a configuration file or an environment variable has a value that cannot be used."""

    default_code = "bad-settings"


class RequestError(CondaRunError):
    """The request itself cannot be served: empty code, a file outside the mount, an unknown template."""

    default_code = "bad-request"


class InstallError(CondaRunError):
    """The packages that a run needs could not be found, solved, fetched or installed."""

    default_code = "install-failed"


class HostError(CondaRunError):
    """This machine cannot do what is needed: a full disk, a read-only cache, a kernel that refuses."""

    default_code = "broken-host"
