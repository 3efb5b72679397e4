"""What would give this machine a stronger isolation: the exact command or setting, for whoever administers it.

Called by `doctor` with what the probe found. Reads the kernel's knobs; changes nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from .probe import Probe

APPARMOR = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
USERNS_CLONE = "/proc/sys/kernel/unprivileged_userns_clone"
MAX_NAMESPACES = "/proc/sys/user/max_user_namespaces"
PROFILE = "/proc/self/attr/current"
"""The security module's name for what holds this process, and how (apparmor(7))."""
ENFORCED = " (enforce)"
CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def advice(found: Probe, *, read: Callable[[str], str] = _read, exists: Callable[[str], bool] = os.path.exists) -> str:
    """Return what the administrator could do to get a better tier; nothing if there is no better one.

    Args:
        found: what the probe found.
        read: the content of a kernel file, stripped; empty if it is not there.
        exists: whether a file is there.
    """
    if found.best == "A":
        return ""
    if found.best == "job":
        return JOBS
    if sys.platform != "linux":
        return "Run the server on Linux, in a virtual machine or in WSL2, to have runs confined."
    if found.best == "A'":
        return "A kernel of version 6.6 or later would keep what runs write in memory instead of on disk."
    return _about_knobs(read, has_b=found.best == "B") or _about_containers(exists) or _about_profile(read)


JOBS = (
    "A Job Object bounds runs and ends them, and walls off neither files nor network: the code can do what this user"
    " can. It has been tried under Wine, not yet on real machines. Run the server in WSL2, or on Linux, to have runs"
    " confined."
)
BY_BUBBLEWRAP = (
    " For tier B, bubblewrap with a profile of its own is enough: `sudo apt install bubblewrap apparmor-profiles`,"
    " `sudo cp /usr/share/apparmor/extra-profiles/bwrap-userns-restrict /etc/apparmor.d/` and `sudo apparmor_parser -r"
    " /etc/apparmor.d/bwrap-userns-restrict`; newer releases of Ubuntu have it already."
)


def _about_knobs(read: Callable[[str], str], *, has_b: bool) -> str:
    if read(APPARMOR) == "1":
        own = (
            "AppArmor keeps user namespaces from programs without a profile. Either allow them to all:"
            " `sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or to this Python alone: write `abi"
            f" <abi/4.0>, profile mcp-conda-run {os.path.realpath(sys.executable)} flags=(unconfined) {{ userns, }}`"
            " to /etc/apparmor.d/mcp-conda-run and run `sudo apparmor_parser -r /etc/apparmor.d/mcp-conda-run`."
        )
        return own if has_b else own + BY_BUBBLEWRAP
    if read(USERNS_CLONE) == "0":
        return "User namespaces are switched off: `sudo sysctl -w kernel.unprivileged_userns_clone=1`."
    if read(MAX_NAMESPACES) == "0":
        return "User namespaces are switched off: `sudo sysctl -w user.max_user_namespaces=15000`."
    return ""


def _about_containers(exists: Callable[[str], bool]) -> str:
    if any(exists(mark) for mark in CONTAINER_MARKS):
        return (
            "The container forbids namespaces. With Docker or Podman, start it with `--security-opt seccomp=unconfined"
            " --security-opt apparmor=unconfined --security-opt systempaths=unconfined --cap-add SYS_ADMIN`."
        )
    return ""


def _about_profile(read: Callable[[str], str]) -> str:
    held = read(PROFILE)
    if held.endswith(ENFORCED):
        return (
            f"AppArmor holds this server to its profile `{held.removesuffix(ENFORCED)}`: add the rule `userns,` to it,"
            " below /etc/apparmor.d, and run `sudo apparmor_parser -r` with its file."
        )
    return "See the reasons above: the kernel refuses namespaces to this user."
