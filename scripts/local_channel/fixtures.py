"""The awkward packages: small ones of our own, each for one situation that real channels bring about.

Serves `build.py`. What each promises is tested in `tests/scripts/`, and listed in `tests/support/README.md`.
"""

from __future__ import annotations

from collections.abc import Iterator

from .archive import PLACEHOLDER, Package, python_module

NEWER = 1_748_736_000_000
"""2025-06-01 in milliseconds: the `timestamp` of what `exclude-newer` is to hide."""


def awkward_packages(subdir: str) -> Iterator[Package]:
    """Yield the packages for `noarch` and the given platform."""
    yield from _two_versions()
    yield from _unsolvable(subdir)
    yield from _scripts()
    yield from _import_names(subdir)


def old_format_package() -> Package:
    """Return the package that is to be written as `.tar.bz2`."""
    return python_module("mcr-old-format", "1.0", {"mcr_old_format.py": "version = '1.0'\n"})


def _two_versions() -> Iterator[Package]:
    for version, timestamp in (("1.0", None), ("2.0", NEWER)):
        source = f"version = {version!r}\n\n\ndef main():\n    print(version)\n"
        package = python_module("mcr-two", version, {"mcr_two.py": source})
        package.timestamp = timestamp or package.timestamp
        package.entry_points({"mcr-two": "mcr_two:main"})
        yield package


def _unsolvable(subdir: str) -> Iterator[Package]:
    yield _generic("mcr-unsat", depends=["mcr-does-not-exist >=1"])
    yield _generic("mcr-needs-two2", depends=["mcr-two >=2"])
    yield _generic("mcr-conflict", depends=["mcr-two <2", "mcr-needs-two2"])
    yield Package(name="mcr-cuda", version="1.0", subdir=subdir, depends=["__cuda >=12"])


def _scripts() -> Iterator[Package]:
    package = _generic("mcr-postlink")
    package.add("bin/.mcr-postlink-post-link.sh", b'#!/bin/sh\necho ran > "$PREFIX/post-link-ran"\n', executable=True)
    yield package
    package = _generic("mcr-activate")
    package.add("etc/conda/activate.d/mcr.sh", b'export MCR_ACTIVATED="$CONDA_PREFIX/share/mcr"\n')
    package.add("etc/conda/deactivate.d/mcr.sh", b"unset MCR_ACTIVATED\n")
    package.add("etc/conda/env_vars.d/mcr.json", b'{"MCR_ENV_VAR": "1"}')
    yield package
    package = _generic("mcr-prefix")
    package.add("share/mcr/text.txt", f"{PLACEHOLDER}/share\n".encode())
    package.add("share/mcr/binary.bin", b"\0" + f"{PLACEHOLDER}/share".encode() + b"\0end")
    yield package


def _import_names(subdir: str) -> Iterator[Package]:
    """Yield packages whose names say little, or the wrong thing, of the modules in them."""
    for name in ("mcr-clib", "mcrclib"):  # a library in C: headers and no module, as conda-forge's `lmdb` is
        stem = name.replace("-", "_")
        package = Package(name=name, version="1.0", subdir=subdir, depends=["__glibc >=2.17,<3.0.a0"])
        package.add(f"include/{stem}.h", f"int {stem}_answer(void);\n".encode())
        package.add(f"lib/pkgconfig/{name}.pc", f"prefix={PLACEHOLDER}\nName: {name}\nVersion: 1.0\n".encode())
        yield package
    yield python_module("python-mcr-clib", "1.0", {"mcr_clib.py": "answer = 42\n"}, depends=["python", "mcr-clib"])
    yield python_module("mcr-other-name", "1.0", {"mcr_true_name/__init__.py": "answer = 42\n"})
    for part in ("one", "two"):  # two packages that fill one namespace package (no __init__.py at its top)
        yield python_module(f"mcr-ns-{part}", "1.0", {f"mcr_ns/{part}/__init__.py": f"part = {part!r}\n"})


def _generic(name: str, **fields: list[str]) -> Package:
    return Package(name=name, version="1.0", noarch="generic", **fields)
