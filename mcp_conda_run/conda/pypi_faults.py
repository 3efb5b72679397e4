"""The errors of PyPI: each a code, a sentence and what to do, without credentials.

Raised in the worker for PyPI and by `pypi.py`; one place, so that the same fault is told in the same words.
"""

from __future__ import annotations

from ..errors import InstallError
from .redact import redact

KEPT_CHARACTERS = 4000


def not_found(what: str, details: str = "") -> InstallError:
    """Return the error for a project or a version that does not exist."""
    hint = "Check the name and the version; many projects are named unlike their import."
    return InstallError(f"{what}.", hint=hint, details=details, code="pypi-not-found")


def no_wheel(what: str, details: str = "") -> InstallError:
    """Return the error for a project without a wheel that can be used."""
    hint = "Ask for another version, or look for the package in a conda channel."
    return InstallError(f"{what}.", hint=hint, details=details, code="pypi-no-wheel")


def too_new(what: str, hint: str, details: str = "") -> InstallError:
    """Return the error for what has not been on PyPI for long enough."""
    return InstallError(f"{what}.", hint=hint, details=details, code="pypi-too-new")


def conflict(because: str, details: str = "") -> InstallError:
    """Return the error for packages of PyPI that do not fit the environment."""
    return InstallError(
        f"The packages of PyPI cannot be added: {because}.",
        hint="Ask for a version that fits, or for the package from a conda channel.",
        details=redact(details)[-KEPT_CHARACTERS:],
        code="pypi-conflict",
    )


def bad_wheel(name: str, because: str) -> InstallError:
    """Return the error for a wheel that must not be unpacked."""
    return InstallError(
        f"The wheel {name} is not installed: {because}.",
        hint="Do not use this package, or tell its maintainers.",
        code="pypi-bad-wheel",
    )


def unreachable(url: str, because: str, hint: str = "", details: str = "") -> InstallError:
    """Return the error for an index that cannot serve."""
    return InstallError(
        f"The PyPI index at {redact(url)} cannot be used: {redact(because)}.",
        hint=hint or "Check the network and the proxy variables (HTTPS_PROXY), or set MCP_CONDA_RUN_PYPI_INDEX.",
        details=details,
        code="pypi-unreachable",
    )


def timed_out(url: str, seconds: float) -> InstallError:
    """Return the error for an index that does not answer."""
    return InstallError(
        f"The PyPI index at {redact(url)} did not answer within {seconds:g} s.",
        hint="Try again, or raise MCP_CONDA_RUN_INSTALL_TIMEOUT_S.",
        code="pypi-timeout",
    )
