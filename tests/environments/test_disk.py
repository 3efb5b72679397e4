"""The file system under the store: which it is, and that one without locks is refused with the reason."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from mcp_conda_run.environments.disk import check_locks, file_system
from mcp_conda_run.environments.store import Store
from mcp_conda_run.errors import HostError

ROOT = "22 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw"


def mounts(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "mountinfo"
    path.write_text("\n".join([ROOT, *lines, ""]))
    return path


def test_the_innermost_mount_counts(tmp_path: Path):
    table = mounts(tmp_path, f"30 22 0:50 / {tmp_path} rw - nfs4 host:/x rw,local_lock=none")
    assert file_system(tmp_path, table).type == "nfs4"
    assert file_system(tmp_path.parent, table).type == "ext4"


def test_of_two_mounts_at_one_place_the_later_counts(tmp_path: Path):
    table = mounts(tmp_path, f"30 22 0:50 / {tmp_path} rw - nfs4 h:/x rw", f"31 30 0:51 / {tmp_path} rw - tmpfs t rw")
    assert file_system(tmp_path, table).type == "tmpfs"


def test_a_mount_point_with_a_space_is_found(tmp_path: Path):
    place = tmp_path / "two words"
    place.mkdir()
    table = mounts(tmp_path, f"30 22 0:50 / {tmp_path}/two\\040words rw - cifs //h/x rw,nobrl")
    assert file_system(place, table).type == "cifs"


def test_a_damaged_table_is_no_error(tmp_path: Path):
    assert file_system(tmp_path, mounts(tmp_path, "nonsense", "1 2 - x")).type == "ext4"


def test_the_file_system_of_a_real_directory_is_known():
    assert file_system(Path("/proc")).type == "proc"


@pytest.mark.parametrize("line", ["nfs4 h:/x rw,local_lock=all", "nfs h:/x rw,nolock", "cifs //h/x rw,nobrl"])
def test_a_network_file_system_with_locks_for_one_machine_is_refused(tmp_path: Path, line: str):
    table = mounts(tmp_path, f"30 22 0:50 / {tmp_path} rw - {line}")
    with pytest.raises(HostError, match="this machine only"):
        check_locks(tmp_path, table)


def test_a_network_file_system_with_locks_is_used(tmp_path: Path):
    check_locks(tmp_path, mounts(tmp_path, f"30 22 0:50 / {tmp_path} rw - nfs4 h:/x rw,local_lock=none"))
    assert [path.name for path in tmp_path.iterdir()] == ["mountinfo"]


def test_a_store_where_nothing_can_be_locked_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:  # a file system without locks cannot be had on every machine that runs this
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(HostError, match="Files cannot be locked") as refused:
        Store(tmp_path / "cache").open()
    assert refused.value.code == "no-locks"
