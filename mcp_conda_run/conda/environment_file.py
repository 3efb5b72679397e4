"""Reads environment.yml files, which may come from anywhere, into plain data. Writes nothing.

Called through `lockfile.py` by whoever locks, and by `environments/templates.py`. Beside what conda knows, comments of
the form `# imports: numpy, osgeo` say what a template is for; conda, micromamba and conda-lock pass over them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import InvalidRequirement, Requirement

from ..errors import SettingsError
from .redact import redact
from .safe_yaml import LOADER, UnusableYaml, load_text, read_text

MAX_ENVIRONMENT_BYTES = 1024 * 1024

REMARK = re.compile(r"^#\s*(imports|needs|platforms)\s*:\s*(.*)$", re.MULTILINE)
"""A comment that we read: a key, and words between commas."""

MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
VIRTUAL_PACKAGE = re.compile(r"__[a-z0-9_]+( *[<>=!~].*)?")
PLATFORM = re.compile(r"[a-z]+-[a-z0-9]+")
FORMS = {"imports": MODULE, "needs": VIRTUAL_PACKAGE, "platforms": PLATFORM}


@dataclass(frozen=True, slots=True)
class EnvironmentFile:
    """What an environment.yml asks for.

    Attributes:
        name: its name; empty if it has none.
        channels: names or URLs, first wins.
        dependencies: match specs.
        text: the file itself, with the platform selectors that conda-lock reads from comments.
        pip: requirements of its `pip:` section.
        conda_text: the file without that section.
        imports: modules that it is said to serve.
        needs: virtual packages that the machine must have, such as `__cuda`.
        platforms: those that it can be locked for; empty if it does not say.
    """

    name: str
    channels: tuple[str, ...]
    dependencies: tuple[str, ...]
    text: str
    pip: tuple[str, ...] = ()
    conda_text: str = ""
    imports: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()


def read_environment(path: Path) -> EnvironmentFile:
    """Read an environment.yml.

    Raises:
        SettingsError: it cannot be read, is malformed, or asks for what is not supported.
    """
    try:
        text = read_text(path, MAX_ENVIRONMENT_BYTES)
        document = load_text(text)
    except UnusableYaml as error:
        raise SettingsError(f"The environment file {path} cannot be used: {error}.", code="bad-template") from None
    if not isinstance(document, dict):
        raise malformed_environment(path, "it has no `dependencies`")
    channels = document.get("channels") or []
    entries = document.get("dependencies") or []
    if not is_text_list(channels):
        raise malformed_environment(path, "`channels` is not a list of names")
    sections = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    dependencies = [entry for entry in entries if not isinstance(entry, dict)] if sections else entries
    if not dependencies or not is_text_list(dependencies):
        raise malformed_environment(path, "`dependencies` is not a list of match specs")
    refuse_addresses(dependencies, path)
    pip = pip_section(sections, path)
    conda_text = without_pip_section(text, path) if sections else text
    if sections and "pip" not in {str(entry).split("=")[0].strip() for entry in dependencies}:
        dependencies = [*dependencies, "pip"]  # as conda does: it is what the section is for
    remarks = read_remarks(text, path)
    return EnvironmentFile(
        name=str(document.get("name") or ""),
        channels=tuple(channel for channel in channels if channel != "nodefaults"),
        dependencies=tuple(dependencies),
        text=text,
        pip=pip,
        conda_text=conda_text,
        **remarks,
    )


def read_remarks(text: str, path: Path) -> dict[str, tuple[str, ...]]:
    """Return what the structured comments say, by their keys; a key may stand in several lines."""
    found: dict[str, list[str]] = {key: [] for key in FORMS}
    for key, words in REMARK.findall(text):
        found[key] += [word.strip() for word in words.split(",") if word.strip()]
    for key, words in found.items():
        wrong = [word for word in words if not FORMS[key].fullmatch(word)]
        if wrong:
            raise malformed_environment(path, f"its comment `# {key}:` names {wrong[0][:80]!r}")
    return {key: tuple(dict.fromkeys(words)) for key, words in found.items()}


# --- the pip section --------------------------------------------------------------------------------------------------


def pip_section(sections: list[dict[Any, Any]], path: Path) -> tuple[str, ...]:
    """Return the requirements of the `pip:` section, each a name with perhaps extras, versions and a marker.

    Raises:
        SettingsError: it asks for something else: options, files, addresses, source trees.
    """
    if not sections:
        return ()
    if len(sections) > 1 or set(sections[0]) != {"pip"} or not is_text_list(sections[0]["pip"]):
        raise malformed_environment(path, "a mapping among `dependencies` is no list of requirements under `pip`")
    for text in sections[0]["pip"]:
        try:
            named = Requirement(text).url is None
        except InvalidRequirement:
            named = False
        if not named:
            raise SettingsError(
                f"The environment file {path} asks pip for {text[:80]!r}, which is not supported.",
                hint="Under `pip:`, name projects of PyPI that have wheels, such as `humanize ==4.12`: no options, "
                "files, addresses or source trees.",
                code="pip-not-supported",
            )
    return tuple(text.strip() for text in sections[0]["pip"])


def without_pip_section(text: str, path: Path) -> str:
    """Return an environment.yml with a plain `pip` in the place of its `pip:` section, its comments kept.

    Raises:
        SettingsError: the section is written in a way that cannot be cut out, such as with an alias.
    """
    root: Any = yaml.compose(text, Loader=LOADER)
    nodes = [value for key, value in root.value if key.value == "dependencies"][-1].value
    sections = [node for node in nodes if isinstance(node, yaml.MappingNode)]
    start, end = sections[0].start_mark.index, sections[0].end_mark.index
    inside = text[start:end]
    gap = inside[len(inside.rstrip()) :]
    left = f"{text[:start]}pip{gap}{text[end:]}"
    try:
        cut = is_text_list(load_text(left)["dependencies"])
    except (UnusableYaml, TypeError, KeyError):
        cut = False
    if not cut:
        raise malformed_environment(path, "its `pip:` section is not written in the usual way")
    return left


# --- refusals ---------------------------------------------------------------------------------------------------------


def malformed_environment(path: Path, reason: str) -> SettingsError:
    """Return the error for an environment.yml of another shape."""
    return SettingsError(
        f"The environment file {path} cannot be used: {reason}.",
        hint="It needs `channels` and `dependencies`, as conda's environment.yml files have them.",
        code="bad-template",
    )


def refuse_addresses(dependencies: Iterable[str], path: Path) -> None:
    """Refuse what a command line would take for an option, a file or an address: packages come by name.

    Raises:
        SettingsError: one of them is such.
    """
    for text in dependencies:
        channel, bound, rest = text.strip().partition("::")
        if channel.startswith(("-", "@", "/", ".", "~")) or "://" in (rest if bound else channel):
            raise SettingsError(
                f"The environment file {path} asks for {redact(text)[:80]!r}, which is no match spec.",
                hint="Under `dependencies`, write `name`, `name=1.2` or `channel::name>=1.2`.",
                code="bad-spec",
            )


def is_text_list(value: Any) -> bool:
    """Say whether a value is a list of strings that are not empty."""
    return isinstance(value, list) and all(isinstance(entry, str) and entry.strip() for entry in value)
