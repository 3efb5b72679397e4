"""Finds out which tier this machine allows, by doing it.

Called by `choose.py` and by `doctor`. It starts what a run would start, around a shell that writes to a prefix the
way installers do; what works for that works for runs. Takes a tenth of a second; the answer is kept until the machine
boots, the kernel or one of the knobs that matter changes, or this program does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from .. import __version__
from ..environments.trash import delete_tree
from ..errors import CondaRunError, HostError
from .order import Bounds, Bubble, Fence, Order, Walls
from .pasta import find as find_pasta
from .spawner_client import PACKAGE, Channels, Spawner

ANSWER_TIMEOUT_S = 20
FAILED = "the run could not write what it should, or could read what it should not"
NOT_IN_MEMORY = "in an overlay that is kept in memory, files cannot be replaced by directories (Linux before 6.6)"

# Replacing a file by a directory and the other way round needs whiteouts and opaque directories, hence extended
# attributes, which a tmpfs allows to users since Linux 6.6 only.
SCRIPT = "set -e; rm file; mkdir file; touch file/inner; rm -r directory; echo new > directory; echo more >> appended"

KNOBS = (
    "/proc/sys/kernel/random/boot_id",
    "/proc/sys/kernel/unprivileged_userns_clone",
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
    "/proc/sys/user/max_user_namespaces",
    "/proc/self/attr/current",
)
BUBBLEWRAP = ("/usr/bin/bwrap", "/bin/bwrap", "/usr/local/bin/bwrap")


@dataclasses.dataclass(frozen=True, slots=True)
class Probe:
    """What this machine allows.

    Attributes:
        works: for each tier that was tried, whether runs can be confined by it.
        reasons: for each tier that does not work, why.
        bubblewrap_overlays: whether bubblewrap, in tier B, can make an overlay.
    """

    works: Mapping[str, bool]
    reasons: Mapping[str, str]
    bubblewrap_overlays: bool = False

    @property
    def best(self) -> str:
        """The name of the strongest tier that works; `none` if there is none."""
        return next((tier for tier, works in self.works.items() if works), "none")


def probe(cache_dir: Path) -> Probe:
    """Return what this machine allows, from the last time if nothing has changed since."""
    kept = cache_dir / "sandbox" / "probe.json"
    key = _key()
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        data = json.loads(kept.read_bytes())
        if data["key"] == key:
            return Probe(data["works"], data["reasons"], data["bubblewrap_overlays"])
    found = probe_now(kept.parent)
    with contextlib.suppress(OSError):  # a cache that cannot be written is somebody else's error to report
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps({"key": key, **dataclasses.asdict(found)}), encoding="utf-8")
    return found


def _key() -> str:
    parts = [__version__, sys.executable, platform.release(), str(os.geteuid() if hasattr(os, "geteuid") else "")]
    for program in BUBBLEWRAP:
        with contextlib.suppress(OSError):
            parts.append(f"{program} {os.stat(program).st_mtime_ns}")
    for knob in KNOBS:
        with contextlib.suppress(OSError):
            parts.append(Path(knob).read_text(encoding="ascii", errors="replace"))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def probe_now(directory: Path) -> Probe:
    """Try tiers until one works, the strongest first; `directory` is on the file system of the environments."""
    works: dict[str, bool] = {}
    reasons: dict[str, str] = {}
    if platform.system() != "Linux":
        return _probe_elsewhere(directory)
    with contextlib.closing(Spawner()) as spawner:
        for tier, upper_on_disk in (("A", False), ("A'", True)):
            reasons[tier] = _try(spawner, directory, partial(_namespace_order, upper_on_disk=upper_on_disk))
            works[tier] = not reasons[tier]
            if works[tier]:
                break
        else:
            for weaker, attempt in (("B", _try_bubblewrap), ("C", _try_landlock)):
                reasons[weaker] = attempt(spawner, directory)
                works[weaker] = not reasons[weaker]
                if works[weaker]:
                    break
        if works.get("A'") and reasons["A"] == FAILED:
            reasons["A"] = NOT_IN_MEMORY
        overlays = works.get("B", False) and not _try(spawner, directory, partial(_bubble_order, overlays=True))
    return Probe(works, {tier: reason for tier, reason in reasons.items() if reason}, overlays)


def _probe_elsewhere(directory: Path) -> Probe:
    reasons = {"A": "namespaces are Linux's"}
    if platform.system() == "Windows":
        from .jobs import why_not  # noqa: PLC0415 - Windows only

        reason = why_not()
        return Probe({"job": not reason}, {**reasons, "job": reason} if reason else reasons)
    if platform.system() != "Darwin":
        return Probe({}, reasons)
    with contextlib.closing(Spawner()) as spawner:
        reason = _try(spawner, directory, _seatbelt_order)
    return Probe({"seatbelt": not reason}, {**reasons, "seatbelt": reason} if reason else reasons)


def _seatbelt_order(place: Path) -> Order:
    from .seatbelt import PROGRAM, profile  # noqa: PLC0415 - not needed elsewhere

    order = _fenced_order(place)
    text = profile(read_only=[], writable=[str(place / "inside")], ports=[])
    return dataclasses.replace(order, argv=[PROGRAM, "-p", text, *order.argv], fence=None)


def _try(spawner: Spawner, directory: Path, make_order: Callable[[Path], Order]) -> str:
    """Return why a run of this kind fails here, or nothing if it does not."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        place = Path(os.path.realpath(tempfile.mkdtemp(prefix=".probe-", dir=directory)))
    except OSError as error:
        return str(error)
    try:
        reason = _run(spawner, make_order(place))
        if not reason and not (place / "prefix" / "file").is_file():
            return "the environment was changed by the run"
        return reason
    finally:
        with contextlib.suppress(OSError):
            delete_tree(place)


def _try_bubblewrap(spawner: Spawner, directory: Path) -> str:
    from .bubblewrapped import find  # noqa: PLC0415 - Linux only

    return _try(spawner, directory, _bubble_order) if find() else "bubblewrap is not installed"


def _bubble_order(place: Path, *, overlays: bool = False) -> Order:
    from .bubblewrapped import OVERLAY_PLACES, OWN_PLACES, find, overlay, view, write_texts  # noqa: PLC0415 - Linux only

    _fill(place / "prefix")
    for name in (*OWN_PLACES, *OVERLAY_PLACES):
        (place / "scratch" / name).mkdir(parents=True)
    write_texts(place / "scratch")
    python = os.path.realpath(sys.executable)
    own = [] if sys.base_prefix == "/usr" else ["--ro-bind", sys.base_prefix, sys.base_prefix]
    script = f"test ! -e {place}/prefix && echo new > /run/main/file && ! echo new > /usr/bin/file"
    if overlays:
        own += overlay(place / "scratch", place / "prefix")
        script = f"cd {shlex.quote(str(place))}/prefix; {SCRIPT}"
    return Order(
        argv=["/bin/sh", "-c", script],
        environ={"PATH": "/usr/bin:/bin"},
        cwd="/",
        rlimits={},
        bounds=Bounds(),
        bubble=Bubble(
            program=find(),
            options=[*view(place / "scratch", PACKAGE / "guest", 1 << 20), *own, "--remount-ro", "/"],
            python=python,
            processes=100,
        ),
    )


def _try_landlock(spawner: Spawner, directory: Path) -> str:
    from ..guest import landlock  # noqa: PLC0415 - Linux only

    if not landlock.version():
        return "the kernel has no Landlock (Linux 5.13), or it is not switched on"
    return _try(spawner, directory, _landlock_order)


def _landlock_order(place: Path) -> Order:
    from .landlocked import READABLE  # noqa: PLC0415 - Linux only

    order = _fenced_order(place)
    fence = Fence(read_only=READABLE, writable=[str(place / "inside")], devices=["/dev/null"])
    return dataclasses.replace(order, fence=fence)


def _fenced_order(place: Path) -> Order:
    """Return an order that ends well if it can write to one directory, and not even read from another."""
    for name in ("prefix", "inside"):
        (place / name).mkdir()
    (place / "prefix" / "file").write_text("secret", encoding="ascii")
    script = "echo new > inside/file && cat inside/file >/dev/null && ! cat prefix/file && ! echo new > prefix/file"
    return Order(
        argv=["/bin/sh", "-c", script],
        environ={"PATH": "/usr/bin:/bin"},
        cwd=str(place),
        rlimits={},
        bounds=Bounds(),
    )


def _namespace_order(place: Path, *, upper_on_disk: bool) -> Order:
    prefix = place / "prefix"
    _fill(prefix)
    for name in ("root", "stage", "upper", "working"):
        (place / name).mkdir()
    return Order(
        argv=["/bin/sh", "-c", SCRIPT],
        environ={"PATH": "/usr/bin:/bin"},
        cwd=str(prefix),
        rlimits={},
        bounds=Bounds(),
        walls=Walls(
            root=str(place / "root"),
            stage=str(place / "stage"),
            prefix=str(prefix),
            guest=str(PACKAGE / "guest"),
            binds=[],
            upper=str(place / "upper") if upper_on_disk else "",
            disk_bytes=1 << 20,
            processes=100,
        ),
    )


def _fill(prefix: Path) -> None:
    """Make a small prefix, with what `SCRIPT` changes."""
    (prefix / "directory").mkdir(parents=True)
    for name in ("file", "directory/inner", "appended"):
        (prefix / name).write_text("old", encoding="ascii")


def usable_pasta(cache_dir: Path) -> tuple[str, str]:
    """Return the path of pasta and why it cannot be used; one of them is empty.

    Tried each time: it depends on the network that the machine has now.
    """
    program = find_pasta() if sys.platform == "linux" else ""
    if not program:
        return "", "pasta is not installed (Debian's package `passt`)"
    with contextlib.closing(Spawner()) as spawner:
        reason = _try(spawner, cache_dir / "sandbox", partial(_pasta_order, program=program))
    return ("", f"pasta cannot connect runs: {reason}") if reason else (program, "")


def _pasta_order(place: Path, *, program: str) -> Order:
    order = _namespace_order(place, upper_on_disk=True)
    assert order.walls is not None  # noqa: S101 - it has just been made with walls
    # A default route, in the notation of /proc/net/route: the kernel's way to write 0.0.0.0 in hexadecimal.
    found = "grep -q '^[^[:space:]]*[[:space:]]00000000' /proc/net/route"
    script = f"for n in 1 2 3 4 5 6 7 8 9; do {found} && exit 0; sleep 0.5; done; exit 1"
    walls = dataclasses.replace(order.walls, pasta=program, prohibited=["10.0.0.0/8"])
    return dataclasses.replace(order, argv=["/bin/sh", "-c", script], walls=walls)


def held_by_groups() -> dict[str, str]:
    """Return, for each limit that control groups can hold for runs of this process, by what; tried out each time.

    Never kept: it depends on the group in which this process was started.
    """
    order = Order(
        argv=["/bin/sh", "-c", ":"],
        environ={},
        cwd="/",
        rlimits={},
        bounds=Bounds(memory_bytes=1 << 30, processes=1 << 10),
    )
    if sys.platform != "linux":
        return {}
    with contextlib.closing(Spawner()) as spawner, contextlib.suppress(CondaRunError):
        return dict(next((report["held"] for report in _reports(spawner, order) if "held" in report), {}))
    return {}


def _run(spawner: Spawner, order: Order) -> str:
    """Start what the order says and wait for its end; return what went wrong, or nothing."""
    try:
        for report in _reports(spawner, order):
            if "failed" in report:
                return str(report["failed"])
            if report.get("no_network"):
                return str(report["no_network"])
            if report.get("status", 0) != 0:
                return FAILED
            if "status" in report:
                return ""
    except CondaRunError as error:
        return error.message
    return "the process that starts runs died"


def _reports(spawner: Spawner, order: Order) -> list[dict[str, Any]]:
    """Start what the order says, and return what its keeper says until its end.

    Raises:
        HostError: it cannot be started, or there is no answer.
    """
    channels = Channels.open()
    try:
        try:
            spawner.order(order, channels.theirs)
        finally:
            channels.theirs.close()
        channels.lifeline.settimeout(ANSWER_TIMEOUT_S)
        with channels.lifeline.makefile("rb") as reports:
            return [json.loads(line) for line in reports]
    except (OSError, ValueError) as error:
        raise HostError(str(error)) from error
    finally:
        channels.close()
