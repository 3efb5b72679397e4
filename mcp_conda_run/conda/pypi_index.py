"""Which PyPI index serves: the one of our settings, else the one that the user gave uv or pip, else PyPI itself.

Asked by `pypi.py` in the server's process. There is always exactly one: extra indexes, find-links and the like are
never taken over, because with two sources whoever registers a name first at the other one decides what is installed.
"""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import platformdirs
from uv import find_uv_bin

UV_TIMEOUT_S = 30
VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")


@dataclass(frozen=True, slots=True)
class Index:
    """The URL of a simple repository, which may carry credentials, and who chose it."""

    url: str
    source: str


def find_index(setting: str = "", environ: Mapping[str, str] = os.environ) -> Index:
    """Return the index to use; `setting` is our own setting, and empty if it was not given."""
    if setting:
        return Index(setting, "the setting pypi_index")
    for variable in VARIABLES:
        if environ.get(variable):
            return Index(_plain(environ[variable]), f"the variable {variable}")
    for path, read in _files(environ):
        with suppress(OSError, ValueError, configparser.Error, TypeError, AttributeError):
            if url := read(path):
                return Index(_plain(url), str(path))
    return Index(uv_default(), "uv's default")


@cache
def uv_default() -> str:
    """Return the index that uv uses when nobody names one, as it says itself; empty if it does not say."""
    try:
        told = subprocess.run(
            [find_uv_bin(), "pip", "install", "--help"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=UV_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    default = re.search(r"by default:\s+<(https://[^>\s]+)>", told.stdout)
    return default[1] if default else ""


def _plain(text: str) -> str:
    """Return the URL of what uv also takes as `name=url`."""
    name, equals, url = text.strip().partition("=")
    return url if equals and "://" in url and ":" not in name else text.strip()


def _files(environ: Mapping[str, str]) -> Iterator[tuple[Path, Callable[[Path], str]]]:
    """Yield the configuration files of uv and pip, the user's before the machine's (see both manuals)."""
    yield platformdirs.user_config_path("uv") / "uv.toml", _from_uv
    yield Path("/etc/uv/uv.toml"), _from_uv
    if environ.get("PIP_CONFIG_FILE"):
        yield Path(environ["PIP_CONFIG_FILE"]), _from_pip
    yield platformdirs.user_config_path("pip") / "pip.conf", _from_pip
    yield Path("/etc/pip.conf"), _from_pip


def _from_uv(path: Path) -> str:
    document: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    defaults = [row["url"] for row in document.get("index", ()) if row.get("default") is True]
    return str(
        next(iter(defaults), "") or document.get("index-url", "") or document.get("pip", {}).get("index-url", "")
    )


def _from_pip(path: Path) -> str:
    parser = configparser.RawConfigParser()
    parser.read_string(path.read_text(encoding="utf-8"))
    sections = (section for section in ("install", "global") if parser.has_option(section, "index-url"))
    return next((parser.get(section, "index-url") for section in sections), "")
