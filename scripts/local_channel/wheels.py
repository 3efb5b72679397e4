"""Wheels of PyPI: fetched with pip for a given CPython, and each made into a conda package.

Serves `build.py`. Pure wheels become noarch python packages, the others belong to one platform and Python.
"""

from __future__ import annotations

import configparser
import email
import email.message
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import InvalidSpecifier, Specifier, SpecifierSet
from packaging.utils import canonicalize_name

from .archive import PLACEHOLDER, Package
from .cpython import Interpreter
from .errors import ChannelError

CONDA_NAMES = {
    "build": "python-build",
    "et-xmlfile": "et_xmlfile",
    "gdal-wheel": "gdal",
    "lmdb": "python-lmdb",
    "matplotlib": "matplotlib-base",
    "msgpack": "msgpack-python",
    "tables": "pytables",
    "typing-extensions": "typing_extensions",
    "tzdata": "python-tzdata",
}
"""Names on PyPI (normalized) whose package on conda-forge has another one."""

DOWNLOAD_TIMEOUT_S = 600


def conda_name(name: str) -> str:
    """Return conda-forge's name of a project of PyPI."""
    normal = canonicalize_name(name)
    return CONDA_NAMES.get(normal, normal)


def download(requirements: Sequence[str], folder: Path, interpreter: Interpreter, *, dependencies: bool = True) -> None:
    """Put the wheels of the requirements (and of what they need) into the folder.

    Raises:
        ChannelError: pip is absent, a requirement has no wheel for this Python, or PyPI cannot be reached.
    """
    options = ["--quiet", "--no-input", "--disable-pip-version-check", "--only-binary", ":all:", "--dest", str(folder)]
    if not dependencies:
        options.append("--no-deps")
    command = [*_pip(interpreter), "download", *options, *requirements]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DOWNLOAD_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise ChannelError("Downloading wheels took too long.", "Check the network, and run this again.") from None
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        raise ChannelError(
            f"pip could not download wheels for Python {interpreter.version} of: {' '.join(requirements)}.\n"
            + "\n".join(errors or done.stderr.strip().splitlines()[-3:]),
            "Check the names, that each has a wheel for this Python and platform, the network and the free space.",
        )


def _pip(interpreter: Interpreter) -> list[str]:
    """Return the command of a pip that resolves for this Python: its own, or ours pointed at it."""
    if interpreter.has_pip:
        return [str(interpreter.executable), "-I", "-m", "pip"]
    if find_spec("pip"):
        return [sys.executable, "-I", "-m", "pip", "--python", str(interpreter.executable)]
    raise ChannelError(
        f"Neither {interpreter.executable} nor {sys.executable} has pip.", "Install it: python -m ensurepip."
    )


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel's contents, read into memory.

    Attributes:
        files: archive name -> contents and whether it is executable.
        info: the archive name of its `.dist-info` directory.
        pure: whether it is for every platform and Python.
    """

    files: dict[str, tuple[bytes, bool]]
    info: str
    pure: bool

    def metadata(self) -> email.message.Message:
        """Return the core metadata."""
        return email.message_from_bytes(self.files[f"{self.info}/METADATA"][0])

    def console_scripts(self) -> dict[str, str]:
        """Return the console scripts, name -> `module:function`."""
        parser = configparser.ConfigParser(delimiters="=", interpolation=None)
        parser.optionxform = str  # type: ignore[assignment,method-assign] # the documented way to keep capitals
        parser.read_string(self.files.get(f"{self.info}/entry_points.txt", (b"", False))[0].decode())
        scripts = dict(parser["console_scripts"]) if parser.has_section("console_scripts") else {}
        return {name: re.sub(r"\s*\[.*\]", "", target).strip() for name, target in scripts.items()}


def read_wheel(path: Path) -> Wheel:
    """Read a wheel.

    Raises:
        ChannelError: it is not a wheel.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            files = {
                item.filename: (archive.read(item), bool(item.external_attr >> 16 & 0o111))
                for item in archive.infolist()
                if not item.is_dir()
            }
        info = next(name for name in files if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)).split("/")[0]
    except (zipfile.BadZipFile, StopIteration):
        raise ChannelError(f"{path.name} is not a wheel.", "Remove it, or name the package otherwise.") from None
    return Wheel(files, info, pure=path.name.endswith("-none-any.whl"))


def read_metadata(path: Path) -> email.message.Message:
    """Return a wheel's core metadata, without reading the rest of it."""
    with zipfile.ZipFile(path) as archive:
        info = next(name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        return email.message_from_bytes(archive.read(info))


def wheel_package(path: Path, interpreter: Interpreter, subdir: str) -> Package:
    """Return the conda package made of a wheel. RECORD stays, so that pip and uv can replace or remove it."""
    wheel = read_wheel(path)
    metadata = wheel.metadata()
    name, version = conda_name(metadata["Name"]), metadata["Version"].replace("-", "_")
    python = _python_specs(metadata, interpreter, pure=wheel.pure)
    package = Package(
        name=name,
        version=version,
        build="pyh0_0" if wheel.pure else f"{interpreter.tag}_0",
        subdir="noarch" if wheel.pure else subdir,
        depends=list(dict.fromkeys([*python, *_dependencies(metadata, interpreter, path.parent)])),
    )
    site = "site-packages" if wheel.pure else f"{interpreter.library}/site-packages"
    for file, (data, executable) in wheel.files.items():
        _add_wheel_file(package, file, data, site, executable=executable)
    package.add(f"{site}/{wheel.info}/INSTALLER", b"conda\n")
    if wheel.pure:
        package.entry_points(wheel.console_scripts())
    else:
        for script, target in wheel.console_scripts().items():
            package.add(f"bin/{script}", _script(target), executable=True)
    return package


def _add_wheel_file(package: Package, file: str, data: bytes, site: str, *, executable: bool) -> None:
    """Add one file of a wheel where its scheme puts it (see the specification of binary distributions)."""
    first, _, rest = file.partition("/")
    if not first.endswith(".data"):
        package.add(f"{site}/{file}", data, executable=executable)
        return
    scheme, _, rest = rest.partition("/")
    if scheme == "scripts":
        data = re.sub(rb"\A#!pythonw?\b", b"#!" + PLACEHOLDER.encode() + b"/bin/python", data)
        package.add(f"bin/{rest}", data, executable=True)
    else:
        top = {"data": "", "headers": f"include/{package.name}/"}.get(scheme, f"{site}/")
        package.add(f"{top}{rest}", data, executable=executable)


def _script(target: str) -> bytes:
    module, _, function = target.partition(":")
    first = function.split(".")[0]
    return f"#!{PLACEHOLDER}/bin/python\nimport sys\nfrom {module} import {first}\nsys.exit({function}())\n".encode()


def _python_specs(metadata: email.message.Message, interpreter: Interpreter, *, pure: bool) -> list[str]:
    if pure:
        return [f"python {conda_version_spec(metadata['Requires-Python'] or '')}".strip()]
    major, minor = interpreter.xy.split(".")
    return [
        f"python >={major}.{minor},<{major}.{int(minor) + 1}.0a0",
        f"python_abi {interpreter.xy}.* *_{interpreter.tag}",
        "__glibc >=2.17,<3.0.a0",
    ]


def _dependencies(
    metadata: email.message.Message, interpreter: Interpreter, folder: Path, extras: frozenset[str] = frozenset()
) -> Iterator[str]:
    """Yield what the wheel requires on this Python, or with extras only what these require more.

    Packages of conda have no extras: where a requirement names some, what they need is required as well.
    """
    for text in metadata.get_all("Requires-Dist") or []:
        requirement = Requirement(text)
        always = _applies(requirement, interpreter, "")
        if not (
            any(_applies(requirement, interpreter, extra) for extra in extras) and not always if extras else always
        ):
            continue
        yield f"{conda_name(requirement.name)} {conda_version_spec(str(requirement.specifier))}".strip()
        if requirement.extras and not extras:
            file = requirement.name.lower().replace("-", "_").replace(".", "_")
            for wheel in (path for path in folder.glob("*.whl") if path.name.lower().startswith(f"{file}-")):
                yield from _dependencies(read_metadata(wheel), interpreter, folder, frozenset(requirement.extras))


def _applies(requirement: Requirement, interpreter: Interpreter, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({**interpreter.markers, "extra": extra})


def conda_version_spec(specifiers: str) -> str:
    """Return PEP 440 specifiers as a version spec of conda; what cannot be said there is left out."""
    try:
        parts = sorted(SpecifierSet(specifiers), key=str)
    except InvalidSpecifier:
        return ""
    return ",".join(_clause(part) for part in parts)


def _clause(part: Specifier) -> str:
    operator, version = part.operator, part.version
    if operator == "~=":
        return f">={version},{version.rpartition('.')[0]}.*"
    if operator == "==" and version.endswith(".*"):
        return version
    return f"{operator.replace('===', '==')}{version}"
