"""Reads the user's configuration of conda and mamba, where that was asked for, into plain data. Fetches nothing.

The files are looked for where conda and mamba document it
(https://docs.conda.io/projects/conda/en/stable/user-guide/configuration/use-condarc.html, "Searching for .condarc";
https://mamba.readthedocs.io/en/latest/user_guide/configuration.html). They are other people's: every value is checked.
Called by `world.py`, which makes of it what both engines use.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import SettingsError
from .redact import redact
from .safe_yaml import UnusableYaml, load_file

MAX_BYTES = 1024 * 1024
NAMES = (".condarc", "condarc", "condarc.d", ".mambarc", "mambarc")
SYSTEM = (Path("/etc/conda"), Path("/var/lib/conda"))
VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)")
PRIORITIES = {"strict": True, "flexible": True, "disabled": False, "true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Condarc:
    """What the files say together. Lists hold the strongest file's entries first.

    Attributes:
        files: what was read, the strongest last.
        channels, default_channels, pkgs_dirs: as in the files.
        channel_alias: where channels are that have only a name; empty for the usual place.
        custom_channels: where single channels are, by name.
        custom_multichannels: channels that stand for several.
        mirrored_channels: channels and the mirrors that serve them.
        proxy_servers: by scheme.
        ca_bundle: what `ssl_verify` names; empty if it names no file.
        has_priority: whether the order of channels counts.
        notes: what was left out, and why.
    """

    files: tuple[Path, ...] = ()
    channels: tuple[str, ...] = ()
    default_channels: tuple[str, ...] = ()
    pkgs_dirs: tuple[str, ...] = ()
    channel_alias: str = ""
    custom_channels: Mapping[str, str] = field(default_factory=dict)
    custom_multichannels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    mirrored_channels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    proxy_servers: Mapping[str, str] = field(default_factory=dict)
    ca_bundle: str = ""
    has_priority: bool = True
    notes: tuple[str, ...] = ()


def search_path(environment: Mapping[str, str], home: Path) -> Iterator[Path]:
    """Give every file that may be there, the weakest first."""
    roots = [*SYSTEM]
    exe = environment.get("CONDA_EXE", "")
    if exe:
        roots.append(Path(exe).parent.parent)
    roots += [Path(environment[name]) for name in ("CONDA_ROOT", "MAMBA_ROOT_PREFIX") if environment.get(name)]
    config = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    roots += [config / "conda", home / ".conda", home / ".mamba"]
    for root in roots:
        yield from files_of(root)
    yield from (home / ".condarc", home / ".mambarc")
    if environment.get("CONDA_PREFIX"):
        yield from files_of(Path(environment["CONDA_PREFIX"]))
    for name in ("CONDARC", "MAMBARC"):
        if environment.get(name):
            yield Path(environment[name]).expanduser()


def files_of(root: Path) -> Iterator[Path]:
    """Give the files of one directory."""
    for name in NAMES:
        if name.endswith(".d"):
            yield from sorted(path for path in (root / name).glob("*") if path.suffix in {".yml", ".yaml"})
        else:
            yield root / name


def read_condarc(environment: Mapping[str, str] | None = None, home: Path | None = None) -> Condarc:
    """Read all the files there are.

    Raises:
        SettingsError: one is no YAML, or has a value of another kind than its key's.
    """
    variables = os.environ if environment is None else environment
    found = list(dict.fromkeys(path for path in search_path(variables, home or Path.home()) if path.is_file()))
    merged = _Merged(variables)
    for path in found:
        merged.take(path)
    return merged.result(tuple(found))


class _Merged:
    """What the files said so far."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables
        self._lists: dict[str, list[str]] = {}
        self._maps: dict[str, dict[str, Any]] = {}
        self._values: dict[str, Any] = {}
        self._notes: list[str] = []

    def take(self, path: Path) -> None:
        """Read one more file, which is stronger than those before it."""
        try:
            document = load_file(path, MAX_BYTES)
        except UnusableYaml as error:
            raise unusable(path, str(error)) from None
        if document is None:
            return
        if not isinstance(document, dict):
            raise unusable(path, "it is no list of keys and values")
        for key in ("channels", "default_channels", "pkgs_dirs"):
            if document.get(key) is not None:
                mine = self._texts(path, key, document[key])
                self._lists[key] = list(dict.fromkeys([*mine, *self._lists.get(key, [])]))
        for key in ("custom_channels", "proxy_servers"):
            self._merge(path, key, document.get(key), self._text)
        for key in ("custom_multichannels", "mirrored_channels"):
            self._merge(path, key, document.get(key), self._texts)
        single = {
            "channel_alias": self._alias,
            "ssl_verify": self._ssl_verify,
            "channel_priority": self._priority,
        }
        for key, read in single.items():
            if document.get(key) is not None:
                read(path, document[key])

    def result(self, files: tuple[Path, ...]) -> Condarc:
        """Return all of it."""
        return Condarc(
            files=files,
            channels=tuple(name for name in self._lists.get("channels", ()) if name != "nodefaults"),
            default_channels=tuple(self._lists.get("default_channels", ())),
            pkgs_dirs=tuple(self._lists.get("pkgs_dirs", ())),
            channel_alias=self._values.get("alias", ""),
            custom_channels=self._maps.get("custom_channels", {}),
            custom_multichannels=self._maps.get("custom_multichannels", {}),
            mirrored_channels=self._maps.get("mirrored_channels", {}),
            proxy_servers=self._maps.get("proxy_servers", {}),
            ca_bundle=self._values.get("ca_bundle", ""),
            has_priority=self._values.get("priority", True),
            notes=tuple(self._notes),
        )

    def _merge(self, path: Path, key: str, value: Any, read: Callable[[Path, str, Any], Any]) -> None:
        if value is None:
            return
        if not isinstance(value, dict):
            raise unusable(path, f"`{key}` is no list of names and values")
        self._maps.setdefault(key, {}).update(
            {str(name): read(path, f"{key}.{name}", each) for name, each in value.items() if each is not None}
        )

    def _alias(self, path: Path, value: Any) -> None:
        self._values["alias"] = self._text(path, "channel_alias", value).rstrip("/")

    def _ssl_verify(self, path: Path, value: Any) -> None:
        if value is True or str(value).lower() in {"true", "truststore", "<system>"}:
            self._values["ca_bundle"] = ""
        elif value is False or str(value).lower() in {"false", "<false>"}:
            self._notes.append(f"{path} says `ssl_verify: false`, which is not followed: certificates are checked.")
        else:
            self._values["ca_bundle"] = os.path.expanduser(self._text(path, "ssl_verify", value))

    def _priority(self, path: Path, value: Any) -> None:
        try:
            self._values["priority"] = PRIORITIES[str(value).lower()]
        except KeyError:
            raise unusable(path, "`channel_priority` is none of strict, flexible and disabled") from None

    def _texts(self, path: Path, key: str, value: Any) -> tuple[str, ...]:
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list):
            raise unusable(path, f"`{key}` is no list")
        return tuple(self._text(path, key, each) for each in values)

    def _text(self, path: Path, key: str, value: Any) -> str:
        if not isinstance(value, str) or not value.strip() or any(ord(letter) < ord(" ") for letter in value):
            raise unusable(path, f"`{key}` is no plain text")
        return expand(value.strip(), self._variables)


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Put the values of environment variables into a text, as conda does; unknown ones stay as they are."""
    return VARIABLE.sub(lambda found: variables.get(found[1] or found[2], found[0]), text)


def unusable(path: Path, why: str) -> SettingsError:
    """Return the error for a file that cannot be used."""
    return SettingsError(
        f"conda's configuration file {path} cannot be used: {redact(why)}.",
        hint="Mend it, or leave out --use-condarc.",
        code="bad-condarc",
    )
