"""What scientific libraries need of their surroundings, in each way of starting a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_conda_run import RunRequest, Runtime
from mcp_conda_run.models import RunResult, Status
from mcp_conda_run.sandbox.pool import PooledTier

from ..sandbox.zygote_host import empty
from ..support.warm import scientific_settings

pytestmark = [pytest.mark.scientific, pytest.mark.slow]

PROGRAMS = {
    "the list of fonts is not built anew": (
        "import io, os, matplotlib.font_manager as fonts\nimport matplotlib.pyplot as plt\n"
        "real = fonts.FontManager.addfont\nbuilt = []\n"
        "fonts.FontManager.addfont = lambda *a: built.append(a) or real(*a)\n"
        "fonts._load_fontmanager()\nplt.plot([1]); plt.savefig(io.BytesIO()); plt.close()\nassert built == []"
    ),
    "a subprocess has the list of fonts too": (
        "import subprocess, sys\ncode = 'import matplotlib, os; print(len(os.listdir(matplotlib.get_cachedir())))'\n"
        "assert subprocess.check_output([sys.executable, '-c', code]) == b'1\\n'"
    ),
    "the list of fonts can be built anew": (
        "import matplotlib.font_manager as fonts\nfonts._load_fontmanager(try_read_cache=False)\n"
        "assert fonts.findfont('DejaVu Sans').endswith('DejaVuSans.ttf')"
    ),
    "coordinates are transformed": (
        "import pyproj\nfrom pyproj import CRS, Transformer\n"
        "assert CRS.from_epsg(25832).name == 'ETRS89 / UTM zone 32N'\n"
        "assert 'Berlin' in str(CRS.from_epsg(3068).name)\n"
        "x, y = Transformer.from_crs(4326, 25832, always_xy=True).transform(9, 48)\nassert abs(x - 500_000) < 1\n"
        "assert pyproj.datadir.get_data_dir().startswith(__import__('sys').prefix)"
    ),
    "drivers and data of GDAL are found": (
        "from osgeo import gdal, osr\ngdal.UseExceptions()\n"
        "names = {gdal.GetDriver(n).ShortName for n in range(gdal.GetDriverCount())}\n"
        "assert {'GTiff', 'MEM', 'VRT'} <= names\nassert gdal.FindFile('gdal', 'gdalvrt.xsd')\n"
        "here = osr.SpatialReference(); here.ImportFromEPSG(31467); assert 'Gauss' in here.ExportToWkt()"
    ),
    "a raster is written and read": (
        "import numpy, rasterio, tempfile\nfrom rasterio.transform import from_origin\n"
        "name = tempfile.mktemp(suffix='.tif')\n"
        "with rasterio.open(name, 'w', driver='GTiff', width=4, height=4, count=1, dtype='float32', crs='EPSG:32632',\n"
        "    transform=from_origin(5e5, 5e6, 10, 10)) as out: out.write(numpy.ones((4, 4), 'float32'), 1)\n"
        "with rasterio.open(name) as back: assert (back.crs.to_epsg(), float(back.read(1).sum())) == (32632, 16)"
    ),
}


NEEDED = ("gdal", "pyproj", "rasterio")


async def start(runtime: Runtime, how: str, code: str) -> RunResult:
    """Run code, started in the given way."""
    request = RunRequest(code=code, packages=NEEDED, timeout_s=300)
    for _ in range(100):
        if how == "fork":
            assert isinstance(runtime.tier, PooledTier)
            empty(runtime.tier)
        result = await runtime.run(request)
        if result.start == how:
            return result
    pytest.fail(f"no run was started by {how}")


@pytest.mark.parametrize("how", ["exec", "fork", "pool"])
async def test_libraries_find_their_data_and_caches(
    warm_scientific_cache: Path, scientific_channel: Path, tmp_path: Path, how: str
):
    settings = scientific_settings(
        warm_scientific_cache, scientific_channel, path=tmp_path, pool_mb=0 if how == "exec" else 1024
    )
    async with Runtime(settings) as runtime:
        results = {name: await start(runtime, how, code) for name, code in PROGRAMS.items()}
    wrong = {name: result.error or result.output for name, result in results.items() if result.output or result.error}
    assert wrong == {}
    assert {result.status for result in results.values()} == {Status.SUCCESS}
