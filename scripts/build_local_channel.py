#!/usr/bin/env python3
"""Build a local conda channel from a CPython of this machine and wheels of PyPI.

The packages are genuine: any conda tool solves and installs them, from `file://OUT` or over HTTP. For tests and for
machines that cannot reach conda-forge; never for distribution (see `local_channel/`).

Needs py-rattler, packaging, zstandard and pip; Linux.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

EXIT_FAILED, EXIT_NOT_RELOCATABLE = 1, 3

try:
    from local_channel.build import SETS, Built, build_channel, choose_python
    from local_channel.cpython import inspect_python
    from local_channel.errors import ChannelError, NotRelocatableError

    if find_spec("rattler") is None:  # used in a process of its own, at the end
        raise ModuleNotFoundError(name="rattler")
except ModuleNotFoundError as error:
    if (error.name or "").startswith("local_channel"):
        raise
    sys.exit(
        f"error: {sys.executable} has no module {error.name}.\n"
        f"hint: {sys.executable} -m pip install 'py-rattler>=0.28,<0.29' packaging zstandard"
    )


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Build a conda channel from a CPython of this machine and wheels of PyPI.",
        epilog="A channel that is there already is added to, so that it can hold several Pythons.",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="the channel's directory")
    parser.add_argument("requirements", nargs="*", metavar="REQUIREMENT", help="what else to fetch, as pip writes it")
    parser.add_argument("--set", choices=SETS, dest="package_set", help="(default: small, or none with requirements)")
    parser.add_argument(
        "--python", type=Path, metavar="EXE", help="the CPython to repackage (default: the running one)"
    )
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="take the wheels in DIR, and fetch nothing")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return parser.parse_intermixed_args()


def build(options: argparse.Namespace) -> Built:
    """Build what the command line asks for."""
    name = options.package_set or ("none" if options.requirements else "small")
    wanted = SETS[name]
    wanted = replace(wanted, requirements=(*wanted.requirements, *options.requirements))
    interpreter = inspect_python(options.python) if options.python else choose_python(wanted)

    def say(line: str) -> None:
        if not options.quiet:
            print(line, flush=True)

    say(f"set {name}, Python {interpreter.version} of {interpreter.base}")
    return build_channel(options.out.absolute(), interpreter, wanted, wheels=options.wheels, say=say)


def main() -> int:
    """Build the channel; return the exit status."""
    options = arguments()
    started = time.monotonic()
    try:
        built = build(options)
    except ChannelError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return EXIT_NOT_RELOCATABLE if isinstance(error, NotRelocatableError) else EXIT_FAILED
    if not options.quiet:
        size = sum((options.out / archive).stat().st_size for archive in built.archives)
        print(
            f"{len(built.archives)} packages, {size / 1e6:.0f} MB, in {time.monotonic() - started:.1f} s: "
            f"{options.out.absolute().as_uri()}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
