"""The user's own templates: kept, found by name, listed, removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_conda_run.environments.template_files import add_template, remove_template
from mcp_conda_run.environments.templates import Kind, find_template, known_templates, users_templates
from mcp_conda_run.errors import CondaRunError, RequestError, SettingsError

TEXTS = {
    Kind.ENVIRONMENT: "dependencies: [python]\n",
    Kind.CONDA_LOCK: "version: 1\nmetadata: {}\npackage: []\n",
    Kind.PIXI_LOCK: "version: 6\nenvironments: {}\npackages: []\n",
    Kind.EXPLICIT: "# made by conda\n@EXPLICIT\nhttps://host/c/linux-64/a-1-0.conda\n",
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "templates"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yml"
    path.write_text(TEXTS[Kind.ENVIRONMENT])
    return path


@pytest.mark.parametrize("kind", list(TEXTS))
def test_a_file_of_each_kind_is_kept_and_known_for_what_it_is(tmp_path: Path, directory: Path, kind: Kind) -> None:
    path = tmp_path / "any.txt"
    path.write_text(TEXTS[kind])
    assert add_template(path, directory, "mine").kind is kind
    assert find_template("mine", directory=directory).kind is kind
    assert find_template("mine", directory=directory).name == "mine"


def test_a_kept_template_is_a_copy(source: Path, directory: Path) -> None:
    add_template(source, directory)
    source.write_text("dependencies: [other]\n")
    assert find_template("mine", directory=directory).specs == ("python",)


def test_adding_again_replaces_whatever_kind_it_was(tmp_path: Path, source: Path, directory: Path) -> None:
    add_template(source, directory)
    listed = tmp_path / "list.txt"
    listed.write_text(TEXTS[Kind.EXPLICIT])
    add_template(listed, directory, "mine")
    assert [path.name for path in directory.iterdir()] == ["mine.txt"]


def test_the_lock_beside_a_template_is_not_a_template(source: Path, directory: Path) -> None:
    add_template(source, directory)
    (directory / "mine.conda-lock.yml").write_text(TEXTS[Kind.CONDA_LOCK])
    assert users_templates(directory) == {"mine": directory / "mine.yml"}


def test_removing_takes_the_lock_along_and_nothing_else(tmp_path: Path, source: Path, directory: Path) -> None:
    add_template(source, directory)
    add_template(source, directory, "other")
    (directory / "mine.conda-lock.yml").write_text(TEXTS[Kind.CONDA_LOCK])
    remove_template("mine", directory)
    assert [path.name for path in directory.iterdir()] == ["other.yml"]


@pytest.mark.parametrize("name", ["base", "auto", "../x", "a/b", "-rf", ".hidden", "a.b"])
def test_a_name_that_cannot_be_kept_is_refused(source: Path, directory: Path, name: str) -> None:
    with pytest.raises(CondaRunError):
        add_template(source, directory, name)
    assert not directory.exists() or list(directory.iterdir()) == []


@pytest.mark.parametrize("text", ["", "[", "dependencies: []\n", "dependencies: [{pip: [-r x]}, python]\n"])
def test_what_is_no_template_is_not_kept(tmp_path: Path, directory: Path, text: str) -> None:
    path = tmp_path / "bad.yml"
    path.write_text(text)
    with pytest.raises(SettingsError):
        add_template(path, directory)
    assert not directory.exists()


@pytest.mark.parametrize("name", ["base", "nothing", "../mine"])
def test_only_templates_of_the_users_are_removed(source: Path, directory: Path, name: str) -> None:
    add_template(source, directory)
    with pytest.raises(RequestError, match="You have no template"):
        remove_template(name, directory)
    assert source.exists()
    assert (directory / "mine.yml").exists()


def test_a_shipped_template_wins_over_one_of_the_same_name(directory: Path) -> None:
    directory.mkdir()
    (directory / "base.yml").write_text("dependencies: [other]\n")
    assert known_templates(directory)["base"] != directory / "base.yml"


def test_strange_files_in_the_directory_are_passed_over(directory: Path) -> None:
    directory.mkdir()
    for name in ("-rf.yml", "a b.yml", ".swp.yml", "notes.md", "dir.yml/"):
        (directory / name.rstrip("/")).mkdir() if name.endswith("/") else (directory / name).write_text("")
    assert users_templates(directory) == {}
