"""Looks into a wheel without running anything of it: which files it would put where, and whether that is allowed.

Runs only in the worker for PyPI. A wheel is a stranger's archive: names that leave the prefix, links, bombs, files of
the interpreter, and whatever would replace a file that is already there, are refused before anything is unpacked.
"""

from __future__ import annotations

import configparser
import hashlib
import re
import stat
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import parse_wheel_filename

from ..errors import InstallError
from .pypi_faults import bad_wheel

MAX_FILES = 200_000
MAX_UNPACKED_BYTES = 16 * 1024**3
MAX_METADATA_BYTES = 4 * 1024**2
CHUNK_BYTES = 1024**2
EXTENSION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z0-9_-]+)*\.(so|pyd)")
COMMAND = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
NEVER = re.compile(r"conda-meta/.*|etc/conda/.*|(.*/)?pyvenv\.cfg|(.*/)?python[^/]*\._pth", re.IGNORECASE)
"""Places that say what the prefix is; packages have no business there."""


@dataclass(frozen=True, slots=True)
class Place:
    """The prefix that a wheel is for: its path, and where packages go, relative to it."""

    prefix: Path
    site_packages: str

    @property
    def library(self) -> str:
        """Return the directory of the standard library, relative to the prefix."""
        return self.site_packages.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class Contents:
    """What a wheel holds.

    Attributes:
        targets: where its files go, relative to the prefix.
        modules: its files in site-packages, relative to that.
        same: those of `targets` that are already there with the same content.
    """

    targets: frozenset[str]
    modules: frozenset[str]
    same: frozenset[str]


def inspect_wheel(path: Path, place: Place) -> Contents:
    """Return what a wheel would install.

    Raises:
        InstallError: `pypi-bad-wheel` if nobody should unpack it, `pypi-conflict` if it would replace a file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, path.name)
            info = _info_directory(members, path.name)
            targets = dict(_targets(members, info, place, path.name))
            for command in _commands(archive, info, path.name):
                targets.setdefault(f"bin/{command}", "")
            _check_targets(targets, place, path.name)
            same = frozenset(_already_there(archive, targets, place, path.name))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, UnicodeError, OSError) as error:
        raise bad_wheel(path.name, f"it cannot be read ({error})") from error
    inside = f"{place.site_packages}/"
    modules = frozenset(target.removeprefix(inside) for target in targets if target.startswith(inside))
    return Contents(frozenset(targets), modules, same)


def has_module(files: Collection[str], module: str) -> bool:
    """Say whether these files, relative to site-packages, make `import module` find something."""
    modules = {name for file in files if (name := _module_name(file))}
    parts = module.split(".")
    heads = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
    if any(head in modules or f"{head}/__init__" in modules for head in heads):
        return True
    return any(name.startswith(f"{heads[-1]}/") for name in modules)


def _module_name(file: str) -> str:
    """Return `a/b` for `a/b.py` and `a/b.cpython-312-darwin.so`; nothing for what is no module."""
    folder, _, name = file.rpartition("/")
    if any(not part.isidentifier() for part in folder.split("/") if folder):
        return ""
    if not name.endswith(".py") and not EXTENSION.fullmatch(name):
        return ""
    stem = name.partition(".")[0]
    return f"{folder}/{stem}" if folder else stem


def _members(archive: zipfile.ZipFile, name: str) -> list[str]:
    """Return the archive's files, none of which leaves the place where it is unpacked."""
    infos = [info for info in archive.infolist() if not info.is_dir()]
    if len(infos) > MAX_FILES or sum(info.file_size for info in infos) > MAX_UNPACKED_BYTES:
        raise bad_wheel(name, "it holds far too much")
    for info in archive.infolist():
        mode = info.external_attr >> 16
        parts = info.filename.removesuffix("/").split("/")
        odd = any(part in {"", ".", ".."} for part in parts) or any(c in info.filename for c in "\\\0\n\r:")
        if odd or info.flag_bits & 1 or (stat.S_IFMT(mode) not in {0, stat.S_IFREG, stat.S_IFDIR}):
            raise bad_wheel(name, f"it has a member that is no plain file inside of it ({info.filename[:100]!a})")
    members = [info.filename for info in infos]
    if len({member.casefold() for member in members}) != len(members):
        raise bad_wheel(name, "it has two members of the same name")
    return members


def _info_directory(members: Collection[str], name: str) -> str:
    """Return the one `.dist-info` directory, which must be that of the wheel's own name and version."""
    found = {member.partition("/")[0] for member in members if member.partition("/")[0].endswith(".dist-info")}
    project, version, _, _ = parse_wheel_filename(name)
    expected = (str(project), str(version))
    if len(found) != 1:
        raise bad_wheel(name, "it has not exactly one .dist-info directory")
    info = found.pop()
    stem, _, its_version = info.removesuffix(".dist-info").rpartition("-")
    try:
        project, version, _, _ = parse_wheel_filename(f"{stem}-{its_version}-py3-none-any.whl")
    except ValueError:
        raise bad_wheel(name, f"its metadata is in {info[:100]!a}") from None
    if (str(project), str(version)) != expected or f"{info}/METADATA" not in members or f"{info}/RECORD" not in members:
        raise bad_wheel(name, "its metadata is absent, or that of another package")
    return info


def _targets(members: Collection[str], info: str, place: Place, name: str) -> Iterator[tuple[str, str]]:
    """Yield for each member where it goes (see the specification of binary distributions), and the member."""
    data = f"{info.removesuffix('.dist-info')}.data/"
    project = str(parse_wheel_filename(name)[0])
    schemes = {
        "purelib": f"{place.site_packages}/",
        "platlib": f"{place.site_packages}/",
        "scripts": "bin/",
        "data": "",
        "headers": f"include/{place.library.rpartition('/')[2]}/{project}/",
    }
    for member in members:
        if not member.startswith(data):
            yield f"{place.site_packages}/{member}", member
            continue
        scheme, _, rest = member.removeprefix(data).partition("/")
        if scheme not in schemes or not rest:
            raise bad_wheel(name, f"it has a file that belongs nowhere ({member[:100]!a})")
        yield schemes[scheme] + rest, member


def _commands(archive: zipfile.ZipFile, info: str, name: str) -> list[str]:
    """Return the names of the commands that installing makes."""
    try:
        entry = archive.getinfo(f"{info}/entry_points.txt")
    except KeyError:
        return []
    parser = configparser.RawConfigParser(delimiters="=", strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign] # the documented way to keep capitals
    if entry.file_size > MAX_METADATA_BYTES:
        raise bad_wheel(name, "its list of commands is far too long")
    try:
        parser.read_string(archive.read(entry).decode())
    except (configparser.Error, UnicodeError):
        raise bad_wheel(name, "its list of commands cannot be read") from None
    sections = [section for section in ("console_scripts", "gui_scripts") if parser.has_section(section)]
    commands = [command for section in sections for command in parser.options(section)]
    for command in commands:
        if not COMMAND.fullmatch(command):
            raise bad_wheel(name, f"it has a command called {command[:100]!a}")
    return commands


def _check_targets(targets: Collection[str], place: Place, name: str) -> None:
    library, site_packages = f"{place.library}/", f"{place.site_packages}/"
    for target in targets:
        of_the_interpreter = target.startswith(library) and not target.startswith(site_packages)
        if of_the_interpreter or NEVER.fullmatch(target):
            raise bad_wheel(name, f"it would write to {target[:200]!a}")
    prefix = place.prefix.resolve()
    for folder in {target.rpartition("/")[0] for target in targets}:
        if (prefix / folder).resolve() != prefix / folder:  # such as lib64, which is a link to lib
            raise bad_wheel(name, f"it would write through a link ({folder[:200]!a})")


def _already_there(archive: zipfile.ZipFile, targets: dict[str, str], place: Place, name: str) -> Iterator[str]:
    """Yield the targets that exist with the very content that the wheel has for them; refuse all others that exist."""
    for target, member in targets.items():
        present = place.prefix / target
        if not present.exists() and not present.is_symlink():
            continue
        if not member or present.is_symlink() or not present.is_file() or not _equal(archive, member, present):
            raise InstallError(
                f"The wheel {name} of PyPI would replace {target}, which another package of the environment owns.",
                hint="The environment may already have this software under another name; otherwise it cannot be added.",
                code="pypi-conflict",
            )
        yield target


def _equal(archive: zipfile.ZipFile, member: str, present: Path) -> bool:
    if archive.getinfo(member).file_size != present.stat().st_size:
        return False
    with archive.open(member) as new, present.open("rb") as old:
        return _digest(iter(lambda: new.read(CHUNK_BYTES), b"")) == _digest(iter(lambda: old.read(CHUNK_BYTES), b""))


def _digest(chunks: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()
