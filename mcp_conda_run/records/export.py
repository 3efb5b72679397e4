"""A recorded run as files that other tools read: lists of its exact packages, or the code with what it needs.

Called by `commands/export.py`, and by whoever wants a run's environment as text. Pure: fetches, solves and writes
nothing. What a format cannot say is in the notes. The code's own formats are in `export_code.py`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..conda.access import split_credentials
from ..conda.lock_writer import write_lock
from ..conda.mirrors import channel_address
from ..conda.pypi_index import find_index
from ..models import LockedPackage
from .record import RunRecord

DUMPER: type[Any] = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
DEFAULT_CHANNELS = ("conda-forge",)


@dataclass(frozen=True, slots=True)
class Exported:
    """A file's text, and what it does not say."""

    text: str
    notes: tuple[str, ...] = ()


def as_record(record: RunRecord) -> Exported:
    """Return the record itself, for `mcp-conda-run replay` on another machine."""
    notes = () if record.code.text is not None else ("The record has only the hash of the code.",)
    return Exported(record.document(), notes)


def as_environment(record: RunRecord) -> Exported:
    """Return an environment.yml with every package's version and build, as conda writes them."""
    dependencies: list[Any] = [f"{p.name}={p.version}={p.build}" for p in conda_packages(record)]
    wheels = wheels_of(record)
    if wheels:
        if all(package.name != "pip" for package in conda_packages(record)):
            dependencies.append("pip")
        dependencies.append({"pip": [f"{wheel.name}=={wheel.version}" for wheel in wheels]})
    document = {
        "name": f"run-{record.run_id[:8]}",
        "channels": list(channels_of(record)),
        "dependencies": dependencies,
    }
    text = yaml.dump(document, Dumper=DUMPER, sort_keys=False, allow_unicode=True, width=120)
    return Exported(f"{head(record)}{text}", (*platform_notes(record), *local_notes(record)))


def as_conda_lock(record: RunRecord) -> Exported:
    """Return a conda-lock.yml for the run's platform, which conda-lock, micromamba and mcp-conda-run install."""
    with tempfile.TemporaryDirectory(prefix="mcp-conda-run-") as folder:
        lock = Path(folder, "conda-lock.yml")
        packages = {record.place.platform: [*conda_packages(record), *wheels_of(record)]}
        write_lock(lock, packages, channels=channels_of(record), sources=[f"run {record.run_id}"])
        return Exported(lock.read_text(encoding="utf-8"), local_notes(record))


def as_explicit(record: RunRecord) -> Exported:
    """Return an explicit list, which conda and micromamba install without solving."""
    lines = [f"{package.url}#sha256:{package.sha256}" for package in conda_packages(record)]
    wheels = [
        f"# of PyPI: {wheel.name}=={wheel.version} {wheel.url} sha256:{wheel.sha256}" for wheel in wheels_of(record)
    ]
    notes = ["Packages of PyPI are only named in its comments."] if wheels else []
    text = "\n".join([f"# platform: {record.place.platform}", *wheels, "@EXPLICIT", *lines])
    return Exported(f"{head(record)}{text}\n", (*notes, *local_notes(record)))


def as_pixi(record: RunRecord) -> Exported:
    """Return a pixi.toml with every conda package's version and build, and the wheels' versions."""
    lines = [
        "[workspace]",
        f"name = {toml(f'run-{record.run_id[:8]}')}",
        f"channels = {toml(list(channels_of(record)))}",
        f"platforms = {toml([record.place.platform])}",
        "",
        "[dependencies]",
        *(
            f"{toml_key(p.name)} = {{ version = {toml(f'=={p.version}')}, build = {toml(p.build)} }}"
            for p in conda_packages(record)
        ),
    ]
    wheels = wheels_of(record)
    if wheels:
        lines += ["", "[pypi-dependencies]", *(f"{toml_key(w.name)} = {toml(f'=={w.version}')}" for w in wheels)]
    return Exported(head(record) + "\n".join(lines) + "\n", (*platform_notes(record), *local_notes(record)))


def as_pixi_lock(record: RunRecord) -> Exported:
    """Return a pixi.lock (version 6), with every package's address and digest."""
    conda, wheels = conda_packages(record), wheels_of(record)
    environment: dict[str, Any] = {
        "channels": [{"url": channel_url(channel)} for channel in channels_of(record)],
        "packages": {
            record.place.platform: [*({"conda": p.url} for p in conda), *({"pypi": wheel.url} for wheel in wheels)]
        },
    }
    if wheels:
        environment["indexes"] = [split_credentials(find_index().url)[0]]
    document = {
        "version": 6,
        "environments": {"default": environment},
        "packages": [*(pixi_conda_row(package) for package in conda), *(pixi_wheel_row(wheel) for wheel in wheels)],
    }
    text = yaml.dump(document, Dumper=DUMPER, sort_keys=False, allow_unicode=True, width=120)
    return Exported(text, local_notes(record))


def pixi_conda_row(package: LockedPackage) -> dict[str, Any]:
    """Return a package as pixi.lock has it."""
    digests = {"sha256": package.sha256, **({"md5": package.md5} if package.md5 else {})}
    depends = {"depends": list(package.depends)} if package.depends else {}
    size = {"size": package.size_bytes} if package.size_bytes else {}
    named = {"name": package.name, "version": package.version, "build": package.build, "subdir": package.subdir}
    return {"conda": package.url, **named, **digests, **depends, **size}


def pixi_wheel_row(wheel: LockedPackage) -> dict[str, Any]:
    """Return a wheel as pixi.lock has it."""
    return {"pypi": wheel.url, "name": wheel.name, "version": wheel.version, "sha256": wheel.sha256}


# --- what the formats share -------------------------------------------------------------------------------------------


def conda_packages(record: RunRecord) -> list[LockedPackage]:
    """Return the run's conda packages in the order of their names."""
    return sorted((package for package in record.packages if package.manager == "conda"), key=lambda p: p.name)


def wheels_of(record: RunRecord) -> list[LockedPackage]:
    """Return the run's packages of PyPI in the order of their names."""
    return sorted((package for package in record.packages if package.manager == "pypi"), key=lambda p: p.name)


def channels_of(record: RunRecord) -> tuple[str, ...]:
    """Return the channels, first wins."""
    return tuple(dict.fromkeys(record.place.channels)) or DEFAULT_CHANNELS


def channel_url(channel: str) -> str:
    """Return a channel's address, with a slash at the end."""
    return channel_address(channel).rstrip("/") + "/"


def head(record: RunRecord) -> str:
    """Return the comment that says where a file comes from."""
    return (
        f"# The environment of run {record.run_id} of {record.at:%Y-%m-%d}, exported by mcp-conda-run"
        f" {record.place.version}\n"
    )


def platform_notes(record: RunRecord) -> tuple[str, ...]:
    """Say that builds belong to a platform."""
    return (f"Versions and builds are those of {record.place.platform}.",)


def local_notes(record: RunRecord) -> tuple[str, ...]:
    """Say that packages lie on this machine, if so."""
    local = sum(package.url.startswith("file:") for package in record.packages)
    return (f"{local} packages come from file:// channels, which only this machine has.",) if local else ()


def toml(value: str | Sequence[str]) -> str:
    """Return text or a list of texts as TOML: JSON's strings are TOML's, but for DEL."""
    return json.dumps(value, ensure_ascii=True).replace("\x7f", "\\u007f")


def toml_key(name: str) -> str:
    """Return a name as a key of TOML."""
    return name if name.replace("-", "").replace("_", "").isalnum() and name.isascii() else toml(name)


ENVIRONMENTS: dict[str, Callable[[RunRecord], Exported]] = {
    "record": as_record,
    "environment.yml": as_environment,
    "conda-lock": as_conda_lock,
    "explicit": as_explicit,
    "pixi": as_pixi,
    "pixi-lock": as_pixi_lock,
}
"""The formats that hold packages; each needs that they are on record."""
