"""What a run's process finds around it: environment variables from scratch, and resource limits.

Called by the tiers. Nothing of the server's own environment is passed on: it may hold secrets.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from pathlib import PurePath

from ..environments.activation import search_path
from ..models import Environment, Limits

NO_CORE = (1, 1)

SYSTEM_PATH = ("/usr/local/bin", "/usr/bin", "/bin")

STANDARD = {
    "LANG": "C.UTF-8",
    "MPLBACKEND": "Agg",
    # The ephemeral prefix is thrown away, so that bytecode written there is work for nothing.
    "PYTHONDONTWRITEBYTECODE": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
}


def run_variables(
    environment: Environment, prefix: PurePath, home: str, temporary: str, added: Mapping[str, str]
) -> dict[str, str]:
    """Return all environment variables of a run.

    Args:
        environment: whose activation variables count; its path in their values becomes `prefix`.
        prefix: where the run sees its prefix.
        home: the run's home directory, as it sees it.
        temporary: its directory for temporary files.
        added: what the request adds; wins.
    """
    old, new = str(environment.prefix), str(prefix)
    activation = {name: value.replace(old, new) for name, value in environment.variables.items()}
    own = {
        "PATH": os.pathsep.join([str(prefix / "bin"), *SYSTEM_PATH]),
        "HOME": home,
        "TMPDIR": temporary,
        "USER": "user",
        "LOGNAME": "user",
        "XDG_CACHE_HOME": f"{home}/.cache",
        "NUMBA_CACHE_DIR": f"{home}/.cache/numba",
    }
    if sys.platform == "win32":
        own |= _of_windows(prefix, home, temporary)
    if "TZ" in os.environ:
        own["TZ"] = os.environ["TZ"]  # where it is not set, /etc/localtime says it to runs as well
    return STANDARD | activation | own | dict(added)


_SYSTEM_OF_WINDOWS = (
    *("SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "OS"),
    *("NUMBER_OF_PROCESSORS", "PROCESSOR_ARCHITECTURE", "PROCESSOR_IDENTIFIER", "PROCESSOR_LEVEL"),
    *("PROGRAMDATA", "PROGRAMFILES", "PROGRAMFILES(X86)", "COMMONPROGRAMFILES"),
)
"""What says where Windows itself is, and what the machine is; without the first, not even sockets can be made."""


def _of_windows(prefix: PurePath, home: str, temporary: str) -> dict[str, str]:
    """Return the variables that are other ones on Windows, or are only there."""
    system = {name: os.environ[name] for name in _SYSTEM_OF_WINDOWS if name in os.environ}
    root = system.get("SYSTEMROOT", "C:\\Windows")
    drive, path = os.path.splitdrive(home)
    return system | {
        "PATH": os.pathsep.join([search_path(prefix), f"{root}\\System32", root, f"{root}\\System32\\Wbem"]),
        "TEMP": temporary,
        "TMP": temporary,
        "USERNAME": "user",
        "USERPROFILE": home,
        "HOMEDRIVE": drive,
        "HOMEPATH": path,
        "APPDATA": f"{home}\\AppData\\Roaming",
        "LOCALAPPDATA": f"{home}\\AppData\\Local",
        "PYTHONUTF8": "1",
    }


def resource_limits(limits: Limits) -> dict[str, tuple[int, int]]:
    """Return the limits that the kernel keeps for each process alone (setrlimit(2)); the keeper watches the sum."""
    # One byte: the same as none for files, and the one value that also keeps the kernel from starting the host's
    # program for core dumps (core(5): 0 does not).
    bounds = {"CORE": NO_CORE}
    if limits.open_files:
        bounds["NOFILE"] = (limits.open_files, limits.open_files)
    if limits.file_size_bytes:
        bounds["FSIZE"] = (limits.file_size_bytes, limits.file_size_bytes)
    if limits.cpu_s:
        seconds = math.ceil(limits.cpu_s)
        bounds["CPU"] = (seconds, seconds + 1)  # SIGXCPU first, which names the limit; then SIGKILL
    return bounds
