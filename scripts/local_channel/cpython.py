"""A CPython as it is installed on this machine, and the conda package `python` made of it.

Serves `build.py`. Linux only. Whatever cannot be moved is refused here, with the reason.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import elf
from .archive import PLACEHOLDER, Package
from .errors import ChannelError, NotRelocatableError

OLDEST = (3, 10)

LEFT_OUT_FOLDERS = re.compile(r"tests?|idlelib|turtledemo|config-.*|site-packages|__pycache__|_bundled")
LEFT_OUT_FILES = re.compile(r"\.(a|pyc)$|^EXTERNALLY-MANAGED$|^sitecustomize\.py$")

PROBE = """
import importlib.util, json, os, platform, site, sys, sysconfig
base = sys.base_prefix
print(json.dumps({
    "base": base, "version": list(sys.version_info[:3]), "implementation": sys.implementation.name,
    "stdlib": os.path.dirname(os.__file__), "sites": site.getsitepackages([base]),
    "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")), "pip": bool(importlib.util.find_spec("pip")),
    "markers": {
        "implementation_name": sys.implementation.name, "implementation_version": platform.python_version(),
        "os_name": os.name, "platform_machine": platform.machine(), "platform_release": platform.release(),
        "platform_system": platform.system(), "platform_version": platform.version(),
        "python_full_version": platform.python_version(), "platform_python_implementation": "CPython",
        "python_version": "%d.%d" % sys.version_info[:2], "sys_platform": sys.platform,
    },
}))
"""

MOVED = """
import bz2, ctypes, hashlib, json, lzma, sqlite3, ssl, sys, zlib
maps = {line.split(None, 5)[5].strip() for line in open("/proc/self/maps") if "/" in line}
print(json.dumps([sys.prefix, [*sys.path, *sorted(maps)]]))
"""
"""Imports what links against other libraries, then says where everything came from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """A CPython on this machine.

    Attributes:
        base: the root of its installation, with `bin/` and `lib/` in it.
        version: such as `3.12.1`.
        has_pip: whether it has pip.
        markers: its values of the environment markers (PEP 508).
    """

    base: Path
    version: str
    has_pip: bool
    markers: dict[str, str]

    @property
    def xy(self) -> str:
        """The version that packages are made for, such as `3.12`."""
        return ".".join(self.version.split(".")[:2])

    @property
    def tag(self) -> str:
        """The tag of its binary interface, such as `cp312`."""
        return "cp" + self.xy.replace(".", "")

    @property
    def executable(self) -> Path:
        """The real program, below `base`."""
        return self.base / "bin" / f"python{self.xy}"

    @property
    def library(self) -> str:
        """The directory of the standard library, relative to `base`."""
        return f"lib/python{self.xy}"


def inspect_python(executable: Path) -> Interpreter:
    """Ask a Python what it is; a virtual environment stands for the Python that it was made from.

    Raises:
        ChannelError: it does not run, or is not a CPython that packages can be made for.
        NotRelocatableError: it is not in a directory of its own.
    """
    try:
        done = subprocess.run([executable, "-I", "-c", PROBE], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ChannelError(f"{executable} does not run: {error}.", "Name a CPython with --python.") from None
    try:
        facts = json.loads(done.stdout)
    except ValueError:
        text = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise ChannelError(f"{executable} is not a working Python: {text}", "Name a CPython with --python.") from None
    if facts["implementation"] != "cpython" or facts["free_threaded"] or tuple(facts["version"]) < OLDEST:
        raise ChannelError(
            f"{executable} is not an ordinary CPython >= {OLDEST[0]}.{OLDEST[1]}.", "Name another one with --python."
        )
    interpreter = Interpreter(
        base=Path(facts["base"]),
        version=".".join(str(part) for part in facts["version"]),
        has_pip=facts["pip"],
        markers=facts["markers"],
    )
    _refuse_scattered(interpreter, facts["stdlib"], facts["sites"])
    return interpreter


def _refuse_scattered(interpreter: Interpreter, stdlib: str, sites: list[str]) -> None:
    """Refuse a Python that is spread over the system's directories, as a distribution's own is."""
    base, library = interpreter.base, interpreter.base / interpreter.library
    if not Path("/proc/self/maps").exists():
        raise NotRelocatableError("Only a CPython on Linux can be repackaged.")
    if str(library / "site-packages") not in sites:
        raise NotRelocatableError(
            f"{interpreter.executable} belongs to the operating system: it looks for packages in {sites[0]}, not in "
            f"{library}/site-packages."
        )
    if Path(stdlib).resolve() != library.resolve() or not interpreter.executable.is_file():
        raise NotRelocatableError(f"The CPython at {base} does not have its standard library in {library}.")


def python_package(interpreter: Interpreter, subdir: str) -> Package:
    """Return the conda package `python`, proven to run from another place.

    Raises:
        NotRelocatableError: it needs something of its own tree that cannot be moved.
    """
    xy, base = interpreter.xy, interpreter.base
    package = Package(
        name="python",
        version=interpreter.version,
        build=f"0_{interpreter.tag}",
        subdir=subdir,
        depends=["tzdata", f"python_abi {xy}.* *_{interpreter.tag}", "__glibc >=2.17,<3.0.a0"],
        extra={"python_site_packages_path": f"{interpreter.library}/site-packages"},
    )
    for file in _installed_files(interpreter):
        _add_file(package, file, base)
    for alias in ("python", "python3"):
        package.link(f"bin/{alias}", f"python{xy}")
    package.add(f"{interpreter.library}/site-packages/README.txt", b"")
    _carry_placeholder(package, f"bin/python{xy}")
    _prove_it_moves(package, interpreter)
    return package


def _installed_files(interpreter: Interpreter) -> Iterator[Path]:
    """Yield what belongs to the Python itself: no tests, no bytecode, no packages installed into it."""
    base, xy = interpreter.base, interpreter.xy
    yield interpreter.executable
    yield from sorted(base.glob(f"lib/libpython{xy}*.so*"))
    yield from sorted(base.glob("lib/libpython3.so"))
    for tree in (base / interpreter.library, base / "include" / f"python{xy}"):
        for folder, folders, files in os.walk(tree):
            folders[:] = sorted(name for name in folders if not LEFT_OUT_FOLDERS.fullmatch(name))
            yield from (Path(folder, name) for name in sorted(files) if not LEFT_OUT_FILES.search(name))


def _add_file(package: Package, file: Path, base: Path) -> None:
    path = file.relative_to(base).as_posix()
    if file.is_symlink():
        package.link(path, os.readlink(file))
        return
    data = file.read_bytes()
    if elf.is_elf(data):
        data = elf.relocate(data, file, base)
    elif file.name.startswith("_sysconfig"):  # elsewhere the base, perhaps /usr/local, stands for itself
        data = data.replace(os.fsencode(base), PLACEHOLDER.encode())
    package.add(path, data, executable=os.access(file, os.X_OK))


def _carry_placeholder(package: Package, program: str) -> None:
    """Let the program hold the placeholder, as conda-forge's does, so that its binary replacement is exercised.

    What follows the last section of an ELF file is never looked at by the loader.
    """
    data = package.members[program].data
    package.add(program, data + PLACEHOLDER.encode() + b"/lib\0", executable=True, binary_placeholder=True)


def _prove_it_moves(package: Package, interpreter: Interpreter) -> None:
    """Unpack the package elsewhere and run it: it must not touch the tree that it was made from."""
    with tempfile.TemporaryDirectory(prefix="moved-python-") as folder:
        root = Path(folder).resolve()
        for member in package.sorted_members():
            place = root / member.path
            place.parent.mkdir(parents=True, exist_ok=True)
            if member.target is not None:
                place.symlink_to(member.target)
                continue
            place.write_bytes(member.data)
            place.chmod(0o755 if member.executable else 0o644)
        program = root / "bin" / f"python{interpreter.xy}"
        done = subprocess.run(
            [program, "-I", "-B", "-c", MOVED], capture_output=True, text=True, check=False, timeout=60, env={}
        )
        if done.returncode:
            text = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise NotRelocatableError(f"The CPython at {interpreter.base} does not run from another place: {text}")
        prefix, touched = json.loads(done.stdout)
        own = tuple(str(interpreter.base / part) for part in ("bin/python", interpreter.library, "lib/libpython"))
        old = [place for place in touched if place.startswith(own)]
        if Path(prefix) != root or old:
            raise NotRelocatableError(
                f"The CPython at {interpreter.base}, run from {root}, still uses {', '.join(old) or prefix}."
            )
