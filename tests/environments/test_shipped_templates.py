"""The shipped templates: what conda would accept, what they promise, and that everything in them has a known name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from mcp_conda_run.conda.lockfile import is_stale, read_lock
from mcp_conda_run.environments.template_locks import locked_platforms
from mcp_conda_run.environments.templates import LOCK_SUFFIX, Template, find_template, shipped_templates
from mcp_conda_run.planning.tables import load_tables

HERE = Path(__file__).resolve()
ROOT = HERE.parents[2]
EVALUATION = ROOT.parent / "shared" / "eval"
FIELDS = {"base", "geo", "bio", "chem", "astro", "climate", "ml-cpu", "ml-cuda", "stats", "symbolic", "viz"}
WITH_A_SCREEN = {"matplotlib", "seaborn", "pyqt", "pyside2", "pyside6", "qt", "qt-main", "qt6-main", "vtk", "opencv"}
COMES_ALONG = {"dateutil"}  # pandas cannot do without it
SHIPPED_LOCKS = sorted((ROOT / "env-templates").glob(f"*{LOCK_SUFFIX}"))


@cache
def channel_names() -> dict[str, frozenset[str]]:
    """Return the names that are known of each channel."""
    text = (HERE.parent / "channel_names.txt").read_text()
    parts = re.split(r"^\[(.+)\]$", text, flags=re.MULTILINE)
    return {channel: frozenset(names.split()) for channel, names in zip(parts[1::2], parts[2::2], strict=True)}


def names(template: Template) -> set[str]:
    return {re.split(r"[ <>=!~]", spec, maxsplit=1)[0] for spec in template.specs}


@pytest.fixture(params=sorted(FIELDS))
def template(request: pytest.FixtureRequest) -> Template:
    return find_template(request.param)


def test_there_is_a_template_for_every_field() -> None:
    assert set(shipped_templates()) == FIELDS


def test_every_package_of_a_template_is_known_in_its_channels(template: Template) -> None:
    known = frozenset().union(*(channel_names()[channel] for channel in template.channels))
    assert names(template) - known == set()


def test_a_template_has_the_keys_that_conda_knows_and_its_files_name(template: Template) -> None:
    document = yaml.safe_load(template.path.read_text())
    assert set(document) == {"name", "channels", "dependencies"}
    assert document["name"] == template.path.stem
    assert document["channels"][0] == "conda-forge"  # conda-forge before bioconda, as that asks for


def test_a_template_says_in_its_first_line_what_it_is_for(template: Template) -> None:
    assert re.match(r"# [A-Z].{30,}[^:]\.$", template.path.read_text().splitlines()[0])


def test_a_template_bounds_python(template: Template) -> None:
    (python,) = [spec for spec in template.specs if spec.startswith("python ")]
    assert re.fullmatch(r"python (3\.\d+\.\*|>=3\.\d+,<3\.\d+)", python)


def test_a_template_brings_no_windows_and_screens(template: Template) -> None:
    assert names(template) & WITH_A_SCREEN == set()


def test_every_import_that_a_template_serves_has_its_package_in_it(template: Template) -> None:
    assert {module for module in template.imports if not packages_of(module) & names(template)} <= COMES_ALONG


def test_what_a_template_names_for_python_is_served(template: Template) -> None:
    served = set().union(*(packages_of(module) for module in template.imports))
    programs = {name for name in names(template) if name.startswith("libgdal-")}
    assert names(template) - served - programs <= {"python", "pip", "tzdata", "graphviz"}


def packages_of(module: str) -> set[str]:
    """Return the packages that may bring a module, by the planner's table or by the usual ways to name packages."""
    entry = load_tables().imports.get(module)
    lower = module.lower()
    same = {lower, lower.replace("_", "-"), f"python-{lower}", f"{lower}-base", f"{lower}-core", f"{lower}-python"}
    return {*(entry.conda if entry is not None else ()), *same, f"{lower.replace('_', '-')}-python"}


def test_the_names_agree_with_those_of_the_evaluation() -> None:
    if not EVALUATION.is_dir():
        pytest.skip("the evaluation's rows are not here")
    served = {module: names(find_template(name)) for name in FIELDS for module in find_template(name).imports}
    checked = 0
    for module, wanted in evaluated():
        if module in served and module not in COMES_ALONG:
            checked += 1
            assert wanted & channel_names()["conda-forge"], (module, wanted)
    assert checked >= 40


def evaluated() -> Iterator[tuple[str, set[str]]]:
    for file in ("imports-dev.jsonl", "scientific-dev.jsonl"):
        for line in (EVALUATION / file).read_text().splitlines():
            row = json.loads(line)
            if row["channel"] == "conda-forge":
                yield row["import_name"], set(row["conda_names"])


def test_only_the_template_for_a_gpu_needs_one() -> None:
    needing = {name for name in FIELDS if find_template(name).needs}
    assert needing == {"ml-cuda"}


@pytest.mark.parametrize("lock", SHIPPED_LOCKS, ids=lambda path: path.name)
def test_a_shipped_lock_is_fresh_and_has_no_screen(lock: Path) -> None:
    template = find_template(lock.name.removesuffix(LOCK_SUFFIX))
    for platform in locked_platforms(lock):
        assert not is_stale(lock, template.path, (), platform)
        assert {package.name for package in read_lock(lock, platform)} & (WITH_A_SCREEN - {"matplotlib"}) == set()
