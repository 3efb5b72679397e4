"""Further mounts: what can be named, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_conda_run.errors import SettingsError
from mcp_conda_run.models import Mount
from mcp_conda_run.mounts import check_nesting, further_mounts, parse_mount


@pytest.mark.parametrize(("mode", "read_only"), [("", False), (":rw", False), (":ro", True)])
def test_a_mount_is_a_source_a_target_and_a_mode(tmp_path: Path, mode: str, read_only: bool):
    assert parse_mount(f"{tmp_path}:/data/{mode}") == Mount(tmp_path, "/data", read_only)


def test_a_source_may_have_a_colon_in_its_name(tmp_path: Path):
    (tmp_path / "a:b").mkdir()
    assert parse_mount(f"{tmp_path}/a:b:/data").source == tmp_path / "a:b"


@pytest.mark.parametrize("text", ["", ":", "x", ":/data", "{}:", "{}:data", "{}:/data:xx", "{}/none:/data", "{}:/a\0b"])
def test_a_text_that_is_no_mount_is_refused(tmp_path: Path, text: str):
    with pytest.raises(SettingsError):
        parse_mount(text.format(tmp_path))


@pytest.mark.parametrize("target", ["/", "/etc", "/usr/", "/proc/self", "/dev/shm", "/x/../etc"])
def test_what_a_run_has_of_its_own_cannot_be_mounted_over(tmp_path: Path, target: str):
    with pytest.raises(SettingsError, match="nothing can be mounted there"):
        parse_mount(f"{tmp_path}:{target}")


@pytest.mark.parametrize("targets", [["/working"], ["/working/sub"], ["/a", "/a/b"], ["/a", "/a"]])
def test_mounts_may_not_overlap(tmp_path: Path, targets: list[str]):
    with pytest.raises(SettingsError, match="overlaps"):
        further_mounts([f"{tmp_path}:{target}" for target in targets], "/working")


def test_a_source_that_runs_could_replace_by_a_link_is_refused(tmp_path: Path):
    (tmp_path / "inner").mkdir()
    with pytest.raises(SettingsError, match="runs may replace it"):
        check_nesting([Mount(tmp_path, "/working"), Mount(tmp_path / "inner", "/data", read_only=True)])


def test_a_source_below_one_that_is_read_only_can_be_mounted(tmp_path: Path):
    (tmp_path / "inner").mkdir()
    check_nesting([Mount(tmp_path, "/data", read_only=True), Mount(tmp_path / "inner", "/working")])


def test_a_directory_can_be_mounted_at_two_places(tmp_path: Path):
    check_nesting([Mount(tmp_path, "/working"), Mount(tmp_path, "/data", read_only=True)])


def test_links_in_a_source_are_followed_once_and_for_all(tmp_path: Path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    assert parse_mount(f"{tmp_path}/link:/data").source == tmp_path / "there"
