"""What activating an environment sets, found out once, so that runs need no shell.

Conda packages may set variables by data (`etc/conda/env_vars.d/*.json`) and by script (`etc/conda/activate.d/*.sh`).
The scripts are the packages' own code: they run when the environment is made, by a shell with an empty environment.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path, PurePath

from ..portability import WINDOWS

_log = logging.getLogger(__name__)

SCRIPT_TIMEOUT_S = 30
MAX_VARIABLE_BYTES = 32 * 1024
_SHELL = 'env=$1; shift; for script in "$@"; do . "$script" >/dev/null 2>&1 || :; done; exec "$env" -0'
_NOT_TAKEN = frozenset({"PATH", "PWD", "OLDPWD", "SHLVL", "_", "HOME", "LD_PRELOAD", "LD_LIBRARY_PATH"})
if WINDOWS:
    _NOT_TAKEN |= {"PROMPT", "COMSPEC", "PATHEXT", "SYSTEMROOT", "SYSTEMDRIVE"}


def search_path(prefix: PurePath) -> str:
    """Return the `PATH` of an activated prefix (conda's order on Windows; `bin` elsewhere)."""
    if os.name == "nt":
        places = ("", "Library/mingw-w64/bin", "Library/usr/bin", "Library/bin", "Scripts", "bin")
        return os.pathsep.join(str(prefix / place) for place in places)
    return os.pathsep.join([str(prefix / "bin"), "/usr/local/bin", "/usr/bin", "/bin"])


def activation_variables(prefix: Path) -> dict[str, str]:
    """Return the variables that activation of `prefix` sets, `CONDA_PREFIX` among them, `PATH` not."""
    variables = {"CONDA_PREFIX": str(prefix), "CONDA_DEFAULT_ENV": str(prefix), "CONDA_SHLVL": "1"}
    variables |= _declared(prefix)
    scripts = sorted((prefix / "etc/conda/activate.d").glob("*.bat" if WINDOWS else "*.sh"))
    if scripts:
        outer = {
            name: os.environ[name] for name in ("SYSTEMROOT", "COMSPEC", "PATHEXT") if WINDOWS and name in os.environ
        }
        own = variables | outer | {"PATH": search_path(prefix), "HOME": str(prefix)}
        variables |= _called(scripts, own) if WINDOWS else _sourced(scripts, own)
    return {name: value for name, value in variables.items() if len(value) <= MAX_VARIABLE_BYTES}


def _declared(prefix: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted((prefix / "etc/conda/env_vars.d").glob("*.json")):
        try:
            data = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            _log.warning("ignored %s: %s", path, error)
            continue
        if isinstance(data, dict):
            found |= {str(name): str(value) for name, value in data.items() if name not in _NOT_TAKEN}
    return found


def _sourced(scripts: list[Path], variables: dict[str, str]) -> dict[str, str]:
    shell = shutil.which("bash") or "/bin/sh"
    try:
        done = subprocess.run(
            [shell, "-c", _SHELL, shell, shutil.which("env") or "/usr/bin/env", *map(str, scripts)],
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SCRIPT_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        _log.warning("the activation scripts of %s failed: %s", scripts[0].parent, error)
        return {}
    return _changed(done.stdout.decode(errors="surrogateescape").split("\0"), variables)


def _called(scripts: list[Path], variables: dict[str, str]) -> dict[str, str]:
    """Do the same with batch files: cmd.exe runs one that calls them all and shows what is set then."""
    with tempfile.TemporaryDirectory() as directory:
        batch = Path(directory, "activate.bat")
        calls = [f'call "{str(script).replace("%", "%%")}" >nul 2>nul <nul' for script in scripts]
        batch.write_text("\r\n".join(["@echo off", "chcp 65001 >nul", *calls, "set", ""]), encoding="utf-8", newline="")
        try:
            done = subprocess.run(
                [os.environ.get("COMSPEC", "cmd.exe"), "/d", "/c", str(batch)],
                env=variables,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=SCRIPT_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.SubprocessError) as error:
            _log.warning("the activation scripts of %s failed: %s", scripts[0].parent, error)
            return {}
    return _changed(done.stdout.decode(errors="replace").splitlines(), variables)


def _changed(rows: list[str], variables: dict[str, str]) -> dict[str, str]:
    """Return what rows of the form `name=value` say that was not so before; on Windows, names have no case."""
    before = {name.upper() if WINDOWS else name: value for name, value in variables.items()}
    pairs = (row.partition("=") for row in rows if row)
    named = ((name.upper() if WINDOWS else name, value) for name, _, value in pairs)
    return {name: value for name, value in named if name not in _NOT_TAKEN and before.get(name) != value}
