"""environment.yml files from anywhere: comments that we read, and pip sections."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_conda_run.conda.environment_file import read_environment
from mcp_conda_run.conda.safe_yaml import load_text
from mcp_conda_run.errors import SettingsError

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(text: str) -> Path:
        path = tmp_path / "environment.yml"
        path.write_text(text)
        return path

    return to_file


def test_comments_say_what_a_template_is_for(write: Write) -> None:
    text = "# imports: rasterio, osgeo.gdal\n# imports: numpy\n# needs: __cuda >=12\n# platforms: linux-64\n"
    file = read_environment(write(text + "dependencies: [python]\n"))
    assert file.imports == ("rasterio", "osgeo.gdal", "numpy")
    assert file.needs == ("__cuda >=12",)
    assert file.platforms == ("linux-64",)


@pytest.mark.parametrize("comment", ["imports: os; rm", "imports: 3d", "needs: cuda", "platforms: ../../etc"])
def test_a_comment_that_cannot_be_meant_is_refused(write: Write, comment: str) -> None:
    with pytest.raises(SettingsError, match="comment"):
        read_environment(write(f"# {comment}\ndependencies: [python]\n"))


@pytest.mark.parametrize(
    "spec", ["https://h.invalid/x-1-0.conda", "--help", "/tmp/x-1-0.conda", "./x.conda", "c::https://h/x", "@EXPLICIT"]
)
def test_packages_come_by_name_never_by_address(write: Write, spec: str) -> None:
    with pytest.raises(SettingsError, match="no match spec"):
        read_environment(write(f"dependencies: [python, '{spec}']\n"))


def test_a_package_may_be_bound_to_a_channel_by_address(write: Write) -> None:
    spec = "https://h.invalid/channel::six"
    assert read_environment(write(f"dependencies: ['{spec}']\n")).dependencies == (spec,)


@pytest.mark.parametrize(
    "text",
    [
        "dependencies:\n  - python\n  - pip:\n      - humanize ==4.12\n",
        "dependencies:\n  - pip:  # wheels\n    - humanize ==4.12\n    # the last\n  - python  # [linux]\nname: x\n",
        "dependencies: [python, {pip: [humanize ==4.12]}]\n",
        "# ünïcode\ndependencies:\n- pip:\n  - humanize ==4.12\n- python\nchannels:\n- conda-forge\n",
    ],
)
def test_a_pip_section_is_told_apart_and_cut_out(write: Write, text: str) -> None:
    file = read_environment(write(text))
    assert file.pip == ("humanize ==4.12",)
    assert sorted(file.dependencies) == ["pip", "python"]
    assert sorted(load_text(file.conda_text)["dependencies"]) == ["pip", "python"]


def test_cutting_a_pip_section_out_keeps_the_selectors(write: Write) -> None:
    text = "dependencies:\n  - pip:\n    - humanize\n  - python  # [linux]\n"
    assert "- python  # [linux]" in read_environment(write(text)).conda_text


@pytest.mark.parametrize(
    "requirement", ["-r requirements.txt", "-e .", "--index-url https://x", "./dir", "a @ https://host/a.whl", "!!"]
)
def test_what_pip_is_asked_for_must_have_a_name(write: Write, requirement: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_environment(write(f"dependencies:\n  - python\n  - pip:\n    - '{requirement}'\n"))
    assert caught.value.code == "pip-not-supported"


@pytest.mark.parametrize(
    "section",
    ["conda: [a]", "pip: a", "pip: []\n    more: 1", "pip: [1]", "pip: [a]\n  - pip: [b]", "? [pip]\n    : [a]"],
)
def test_a_mapping_that_is_no_pip_section_is_refused(write: Write, section: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_environment(write(f"dependencies:\n  - python\n  - {section}\n"))
    assert caught.value.code == "bad-template"


def test_a_pip_section_behind_an_alias_is_refused(write: Write) -> None:
    text = "x: &a\n  pip: [humanize]\ndependencies:\n  - python\n  - *a\n"
    with pytest.raises(SettingsError, match="usual way"):
        read_environment(write(text))
