"""What Windows does otherwise, as far as that shows on any system, and that nothing else is needed from Linux there."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mcp_conda_run import portability
from mcp_conda_run.environments import clone, trash
from mcp_conda_run.portability import Family, is_reparse_point, path_of, replace_file, try_lock

posix = pytest.mark.skipif(os.name != "posix", reason="Windows is shown by Windows itself")

LINUX_ONLY = {
    *(
        "bubble",
        "landlock",
        "seccomp",
        "syscalls",
        "zygote",
        "zygote_child",
        "zygote_fresh",
        "zygote_preload",
        "routes",
    ),
    *("compile_bytecode", "inspect_python", "start"),  # scripts
}
"""Modules of the guest that no run of Windows loads."""

LINUX_ONLY_OF_THE_SANDBOX = {
    *("ahead", "bubble", "bubblewrapped", "confinement", "enrolling", "fencing", "groups", "identity", "keeper"),
    *("landlocked", "mainprocess", "namespaces", "pool", "pool_sets", "pool_shelf", "rootfs", "spawner", "watch"),
    *("workshop", "zygotes", "zygotes_keeper", "zygotes_order", "zygotes_walls"),
}

IMPORT_ALL = """
import importlib, pkgutil, sys, types
import mcp_conda_run
linux, linux_sandbox = map(set, (sys.argv[1].split(), sys.argv[2].split()))

def names():
    for info in pkgutil.walk_packages(mcp_conda_run.__path__, "mcp_conda_run."):
        room, _, module = info.name.removeprefix("mcp_conda_run.").rpartition(".")
        skipped = {"guest": linux, "sandbox": linux_sandbox}.get(room, set())
        if module not in skipped and module != "__main__":
            yield info.name

wanted = list(names())
for name in wanted:
    importlib.import_module(name)  # loads all that is not ours
for name in [name for name in sys.modules if name.startswith("mcp_conda_run.")]:
    del sys.modules[name]

import os, signal, socket
sys.platform = "win32"
sys.modules["msvcrt"] = types.ModuleType("msvcrt")
for name in ("fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"):
    sys.modules[name] = None
of_os = '''fork killpg getpgrp getpgid setsid geteuid getegid getuid O_NOFOLLOW O_CLOEXEC O_DIRECTORY O_NONBLOCK
           set_blocking sysconf pipe2 memfd_create statvfs fstatvfs WNOHANG'''
for name in of_os.split():
    delattr(os, name) if hasattr(os, name) else None
for name in ("AF_UNIX", "send_fds", "recv_fds", "AF_NETLINK"):
    delattr(socket, name) if hasattr(socket, name) else None
for name in ("SIGKILL", "SIGCHLD", "SIGHUP", "SIGSTOP", "SIGPIPE", "SIGXFSZ", "SIGXCPU"):
    delattr(signal, name)
failed = {}
for name in wanted:
    try:
        importlib.import_module(name)
    except Exception as error:
        failed[name] = repr(error)
print(len(wanted), failed)
"""


@posix
def test_nothing_of_posix_is_needed_to_load_what_windows_uses():
    command = [sys.executable, "-c", IMPORT_ALL, " ".join(LINUX_ONLY), " ".join(LINUX_ONLY_OF_THE_SANDBOX)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    count, _, failed = done.stdout.strip().partition(" ")
    assert failed == "{}", done.stderr
    assert int(count) > 150


def test_a_lock_is_free_again_when_its_file_is_closed(tmp_path: Path):
    with (tmp_path / "lock").open("a") as file:
        assert try_lock(file)
        assert not try_lock_of_another(tmp_path / "lock")
    assert try_lock_of_another(tmp_path / "lock")


def try_lock_of_another(path: Path) -> bool:
    """Say whether another process gets the lock."""
    code = "import sys\nfrom mcp_conda_run.portability import try_lock\nprint(try_lock(open(sys.argv[1], 'a')))"
    command = [sys.executable, "-W", "ignore", "-c", code, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "True"


class Busy:
    """Refuses the first calls as Windows does while somebody looks at the file."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.really = os.replace

    def __call__(self, source: Any, target: Any) -> None:
        self.refusals -= 1
        if self.refusals >= 0:
            raise PermissionError(errno.EACCES, "in use")
        self.really(source, target)


def test_a_name_that_is_in_use_is_asked_for_again_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "new").write_text("new")
    monkeypatch.setattr(portability, "WINDOWS", True)
    monkeypatch.setattr(portability.os, "replace", Busy(2))
    replace_file(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old").read_text() == "new"


@posix
def test_elsewhere_a_refusal_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(portability.os, "replace", Busy(1))
    with pytest.raises(PermissionError):
        replace_file(tmp_path / "new", tmp_path / "old")


@pytest.mark.parametrize(
    ("windows", "url", "path"),
    [
        (True, "file:///C:/a%20b/c", "C:/a b/c"),
        (False, "file:///C:/a%20b/c", "/C:/a b/c"),
        (True, "file:///srv/channel", "/srv/channel"),
    ],
)
def test_a_url_of_a_file_names_its_path(monkeypatch: pytest.MonkeyPatch, windows: bool, url: str, path: str):
    monkeypatch.setattr(portability, "WINDOWS", windows)
    assert path_of(url) == path


@pytest.mark.parametrize(("attributes", "leads_elsewhere"), [(0x410, True), (0x10, False)])
def test_a_junction_is_told_from_a_directory(attributes: int, leads_elsewhere: bool):
    assert is_reparse_point(cast(os.stat_result, SimpleNamespace(st_file_attributes=attributes))) == leads_elsewhere


def test_a_file_of_this_system_is_no_reparse_point(tmp_path: Path):
    assert not is_reparse_point(tmp_path.lstat())


def test_on_windows_a_clone_finds_its_prefix_in_each_spelling(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(clone, "WINDOWS", True)
    assert clone.spellings(r"C:\c\envs\1") == [rb"C:\c\envs\1", rb"C:/c/envs/1", rb"C:\\c\\envs\\1"]


@posix
def test_elsewhere_there_is_one():
    assert clone.spellings("/c/envs/1") == [b"/c/envs/1"]


def test_trash_that_is_in_use_goes_with_the_next_that_is_discarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "trash").mkdir()
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    really, refused = trash.delete_tree, []

    def delete(path: Path) -> None:
        if not refused:
            refused.append(path)
            raise PermissionError(errno.EACCES, "in use")
        really(path)

    monkeypatch.setattr(trash, "WINDOWS", True)
    monkeypatch.setattr(trash, "delete_tree", delete)
    rubbish = trash.Trash(tmp_path / "trash")
    rubbish.discard(tmp_path / "first")
    assert rubbish.wait(30)
    assert list(rubbish.directory.iterdir()) == refused
    rubbish.discard(tmp_path / "second")
    assert rubbish.wait(30)
    assert list(rubbish.directory.iterdir()) == []


def test_a_family_ends_with_what_it_started():
    code = "import subprocess, sys\nprint('on', flush=True)\nsubprocess.run([sys.executable, '-c', 'input()'])"
    helper = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    family = Family(helper.pid)
    assert helper.stdout is not None
    assert helper.stdin is not None
    helper.stdout.readline()
    family.kill()
    assert helper.stdout.read() == b""  # the end of the pipe: nobody holds it any more
    assert helper.wait() != 0
    helper.stdin.close()
    helper.stdout.close()
    family.kill()
