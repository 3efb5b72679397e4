"""The main job on the shipped base template: what scientific agents send."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mcp_conda_run import RunRequest, Runtime
from mcp_conda_run.models import RunResult, Status

from ..support.warm import scientific_settings

pytestmark = [pytest.mark.scientific, pytest.mark.slow]


@pytest.fixture
async def runtime(warm_scientific_cache: Path, scientific_channel: Path, tmp_path: Path) -> AsyncIterator[Runtime]:
    settings = scientific_settings(warm_scientific_cache, scientific_channel, path=tmp_path)
    async with Runtime(settings) as runtime:
        yield runtime


async def good(runtime: Runtime, code: str) -> RunResult:
    result = await runtime.run(RunRequest(code=code, timeout_s=120))
    assert result.status is Status.SUCCESS, result.error
    return result


async def test_a_plot_is_saved_and_shown(runtime: Runtime, tmp_path: Path):
    code = (
        "import numpy as np, matplotlib.pyplot as plt\nx = np.linspace(0, 6.28)\nplt.plot(x, np.sin(x))\n"
        "plt.savefig('/working/sine_wave.png')\nplt.show()"
    )
    result = await good(runtime, code)
    assert (tmp_path / "sine_wave.png").read_bytes().startswith(b"\x89PNG")
    assert [figure.mime_type for figure in result.figures] == ["image/png"]
    assert result.stderr == ""


async def test_gdal_is_found_by_its_import_and_works(runtime: Runtime):
    code = (
        "from osgeo import gdal, osr\ngdal.UseExceptions()\nhere = osr.SpatialReference()\nhere.ImportFromEPSG(4326)\n"
        "raster = gdal.GetDriverByName('MEM').Create('', 8, 4, 1)\nraster.SetGeoTransform((5, .1, 0, 52, 0, -.1))\n"
        "raster.SetProjection(here.ExportToWkt())\nraster.GetRasterBand(1).Fill(7)\n"
        "utm = gdal.Warp('', raster, format='MEM', dstSRS='EPSG:32632')\n"
        "utm.GetRasterBand(1).ComputeStatistics(False)[1]"
    )
    result = await good(runtime, code)
    assert [package.name for package in result.packages] == ["gdal"]
    assert result.value is not None
    assert result.value.json == 7


async def test_a_table_comes_back_as_data(runtime: Runtime):
    code = "import pandas as pd\npd.DataFrame({'k': ['a', 'b', 'a'], 'v': [1, 2, 4]}).groupby('k').v.sum()"
    result = await good(runtime, code)
    assert result.value is not None
    assert result.value.json == {"name": "v", "index": ["a", "b"], "data": [5, 2]}


async def test_several_missing_packages_are_solved_together_and_the_code_runs_once(runtime: Runtime):
    result = await good(runtime, "import networkx, tabulate, sympy\nprint(sympy.integrate('x', sympy.Symbol('x')))")
    assert {package.name for package in result.packages} == {"networkx", "tabulate", "sympy"}
    assert (result.stdout, len(result.attempts)) == ("x**2/2\n", 1)


async def test_compiled_libraries_of_different_packages_live_together(runtime: Runtime):
    code = (
        "import rasterio, pyproj, shapely\nfrom osgeo import gdal\n"
        "pyproj.Transformer.from_crs(4326, 32632, always_xy=True).transform(9, 48)[0]"
    )
    result = await good(runtime, code)
    assert result.value is not None
    assert result.value.json == pytest.approx(500_000)


async def test_a_megabyte_of_code_runs(runtime: Runtime):
    code = "import numpy\n" + "x = 1\n" * 170_000 + "x + 1"
    result = await good(runtime, code)
    assert result.value is not None
    assert result.value.json == 2
