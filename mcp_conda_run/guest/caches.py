"""Caches that packages would build anew in every run: built once with the environment, found there by all of its runs.

Matplotlib looks through all fonts of the machine when its list of them is not in the home directory, and a run's home
directory is empty. As a script (`caches.py HOME`, called by `environments/build.py`) this module lets packages fill an
empty home directory inside the environment; `show`, called by `execute.py` before any code of a program, links what is
there into the home directory of the run. A program that writes to such a cache writes to its ephemeral prefix.
"""

from __future__ import annotations

import os
import sys

PLACE = os.path.join("var", "cache", "mcp-conda-run", "home")
"""The home directory inside the environment; `environments/build.py` knows it too."""

BUILDERS = ("matplotlib.font_manager",)
"""Modules that fill their cache when they are imported."""

link = os.link if sys.platform == "win32" else os.symlink
"""What gives a file another name; on Windows only few users may make symbolic links."""


def show() -> None:
    """Link the environment's caches into the home directory of this process; without them, packages build their own."""
    source = os.path.join(sys.prefix, PLACE)
    if not os.path.isdir(source):
        return
    home = os.path.expanduser("~")
    for directory, _, names in os.walk(source):
        target = os.path.join(home, os.path.relpath(directory, source))
        for name in names:
            try:
                os.makedirs(target, exist_ok=True)
                link(os.path.join(directory, name), os.path.join(target, name))
            except OSError:
                continue  # it is there already, or cannot be: programs work all the same


def build(home: str) -> None:
    """Let packages fill `home`, a directory that need not exist."""
    os.makedirs(home, exist_ok=True)
    os.environ["HOME"] = home
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"):
        os.environ.pop(name, None)
    import importlib  # here: every run loads this module

    for name in BUILDERS:
        importlib.import_module(name)


if __name__ == "__main__":
    build(sys.argv[1])
