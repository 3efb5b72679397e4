"""Which template `auto` chooses, and what it says about that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_conda_run import RunRequest, Runtime
from mcp_conda_run.environments.store import Store
from mcp_conda_run.models import RunResult
from mcp_conda_run.settings import Settings
from mcp_conda_run.template_choice import TemplateChooser, needed_modules

from .support.warm import small_settings


@pytest.fixture
def chooser(tmp_path: Path) -> Callable[..., TemplateChooser]:
    """A chooser among the shipped templates, none of them built, and further ones with these texts."""

    def make(**texts: str) -> TemplateChooser:
        settings = Settings(cache_dir=tmp_path / "cache", templates_dir=tmp_path / "templates")
        settings.templates_dir.mkdir(exist_ok=True)
        for name, text in texts.items():
            (settings.templates_dir / f"{name}.yml").write_text(text)
        return TemplateChooser(settings, Store(settings.cache_dir))

    return make


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("import json, numpy", "base"),
        ("from osgeo import gdal\nimport rasterio", "geo"),
        ("import Bio.SeqIO, pysam", "bio"),
        ("from rdkit import Chem", "chem"),
        ("import astropy.units as u", "astro"),
        ("import metpy.calc, xarray", "climate"),
        ("import torch", "ml-cpu"),
        ("import statsmodels.api as sm, lifelines", "stats"),
        ("def f():\n    import sympy", "symbolic"),
        ("import altair", "viz"),
        ("x = 1", "base"),
        ("import nothing_that_exists", "base"),
        ("import rdkit, rasterio", "base"),
        ("import torch, cupy", "base"),  # it needs a GPU, and is not built
        ("import numpy\ntry:\n    import cupy\nexcept ImportError:\n    pass", "base"),
        ("import torch\nif True print", "ml-cpu"),  # what does not parse is read line by line
    ],
)
def test_the_smallest_that_serves_all_imports_is_chosen(
    chooser: Callable[..., TemplateChooser], code: str, name: str
) -> None:
    assert chooser().choose(code).name == name


def test_the_reason_names_the_imports(chooser: Callable[..., TemplateChooser]) -> None:
    reason = chooser().choose("import rasterio, shapely.geometry").reason
    assert reason == "The template geo was chosen: the smallest that serves rasterio, shapely.geometry."


def test_a_smaller_template_of_the_users_wins(chooser: Callable[..., TemplateChooser]) -> None:
    text = "# imports: rasterio\ndependencies: [python, rasterio]\n"
    assert chooser(mine=text).choose("import rasterio").name == "mine"


def test_a_template_that_cannot_be_used_is_no_candidate(chooser: Callable[..., TemplateChooser]) -> None:
    assert chooser(mine="# imports: rasterio\ndependencies: [\n").choose("import rasterio").name == "geo"


def test_a_changed_template_is_looked_at_again(chooser: Callable[..., TemplateChooser], tmp_path: Path) -> None:
    chooses = chooser(mine="# imports: rasterio\ndependencies: [python]\n")
    assert chooses.choose("import rasterio").name == "mine"
    (tmp_path / "templates" / "mine.yml").write_text("# imports: something_else\ndependencies: [python]\n")
    assert chooses.choose("import rasterio").name == "geo"


def test_modules_of_the_users_own_need_no_template(tmp_path: Path) -> None:
    (tmp_path / "helpers.py").write_text("")
    assert needed_modules("import helpers, numpy, os.path", [tmp_path]) == ("numpy",)


def test_a_template_that_is_ready_says_itself_what_it_has_and_goes_first(
    warm_small_cache: Path, small_channel: Path, tmp_path: Path
) -> None:
    settings = small_settings(warm_small_cache, small_channel, templates_dir=tmp_path, pool_mb=0)
    (tmp_path / "mine.yml").write_text("dependencies: [python, pip, numpy]\n")

    async def go() -> tuple[RunResult, RunResult]:
        async with Runtime(settings) as runtime:
            await runtime.warmup("mine")
            request = RunRequest(code="import numpy\nnumpy.arange(3).sum()", template="auto")
            first = await runtime.run(request)
            plan = await runtime.plan(request)
            assert any("The template mine was chosen" in note for note in plan.notes)
            return first, await runtime.run(request)

    for result in asyncio.run(go()):
        assert result.template == "mine"
        assert "The template mine was chosen: of those that are ready, the smallest that serves numpy." in result.notes
