"""Templates: found, read, and refused with a reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mcp_conda_run.environments.templates import find_template, read_template, shipped_templates
from mcp_conda_run.errors import RequestError, SettingsError


def test_the_base_template_is_shipped():
    assert "base" in shipped_templates()


def test_every_shipped_template_can_be_read():
    for name in shipped_templates():
        assert any(spec.startswith("python") for spec in find_template(name).specs)


def test_configured_channels_replace_the_templates_own():
    assert find_template("base", ("file:///local",)).channels == ("file:///local",)


def test_a_template_may_be_a_path(tmp_path: Path):
    path = tmp_path / "mine.yml"
    path.write_text("channels: [conda-forge]\ndependencies: [python, 'gdal >=3.8']\n")
    assert find_template(str(path)).specs == ("python", "gdal >=3.8")


def test_another_content_gets_another_lock(tmp_path: Path):
    path = tmp_path / "mine.yml"
    path.write_text("dependencies: [python]\n")
    first = read_template(path).lock_name("linux-64")
    path.write_text("dependencies: [python, numpy]\n")
    assert read_template(path).lock_name("linux-64") != first


def test_an_unknown_template_is_refused_with_those_that_exist():
    with pytest.raises(RequestError, match="no template 'nope'") as caught:
        find_template("nope")
    assert "base" in caught.value.hint


@pytest.mark.parametrize("content", ["- just\n- a list\n", "dependencies: []\n", "dependencies: [python, 3]\n", "{{{{"])
def test_a_template_that_is_none_is_refused(tmp_path: Path, content: str):
    path = tmp_path / "bad.yml"
    path.write_text(content)
    with pytest.raises(SettingsError, match="cannot be used"):
        read_template(path)


def test_a_template_whose_name_is_no_word_is_refused(tmp_path: Path):
    path = tmp_path / "-rf *.yml"
    path.write_text("dependencies: [python]\n")
    with pytest.raises(SettingsError, match="plain word"):
        read_template(path)


@pytest.mark.parametrize("head", ["@EXPLICIT\n", "version: 1\nmetadata: {}\n", "version: 6\nenvironments: {}\n"])
def test_a_file_larger_than_any_lock_is_refused_unread(tmp_path: Path, head: str):
    path = tmp_path / "huge.yml"
    path.write_text(head)
    os.truncate(path, 1 << 40)  # sparse
    with pytest.raises(SettingsError, match="larger than 64 MiB"):
        read_template(path)


def test_an_environment_file_larger_than_any_is_refused_unread(tmp_path: Path):
    path = tmp_path / "huge.yml"
    path.write_text("dependencies: [python]\n")
    os.truncate(path, 1 << 40)
    with pytest.raises(SettingsError, match="larger than"):
        read_template(path)


def test_what_is_no_file_is_no_template(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.yml")
    for name in (tmp_path / "pipe.yml", tmp_path, "a\0.yml", "/dev/zero"):
        with pytest.raises(RequestError, match="no template"):
            find_template(str(name))
