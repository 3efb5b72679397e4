"""Packages that calls and strings imply."""

from __future__ import annotations

import ast

import pytest

from mcp_conda_run.planning.hints import find_hints, load_rules


def hinted(code: str, *imported: str) -> set[str]:
    hints = find_hints(code, ast.parse(code), set(imported))
    return {item.module for item in hints.imports} | {package.name for package in hints.packages}


@pytest.mark.parametrize(
    ("imported", "code", "needs"),
    [
        ("pandas", "pd.read_excel('x.xlsx')", {"openpyxl"}),
        ("pandas", "pd.read_excel('x.xls')", {"xlrd"}),
        ("pandas", "pd.read_excel('x.ods')", {"odf"}),
        ("pandas", "df.to_excel('x.xlsx', engine='xlsxwriter')", {"xlsxwriter"}),
        ("pandas", "df.to_parquet(path)", {"pyarrow.parquet"}),
        ("pandas", "df.to_parquet(path, engine='fastparquet')", {"fastparquet"}),
        ("pandas", "pd.read_hdf(path)", {"tables"}),
        ("pandas", "df.to_markdown()", {"tabulate"}),
        ("pandas", "df.style.format('x')", {"jinja2"}),
        ("pandas", "pd.read_csv('s3://b/x.csv')", {"s3fs"}),
        ("pandas", "pd.read_csv(f'{bucket}/x.csv')", set()),
        ("xarray", "xr.open_dataset('x.nc')", {"netCDF4"}),
        ("xarray", "ds.to_netcdf(path)", {"netCDF4"}),
        ("xarray", "xr.open_dataset('x.grib')", {"cfgrib"}),
        ("xarray", "xr.open_dataset('x.nc', engine='h5netcdf')", {"h5netcdf"}),
        ("xarray", "xr.open_dataset('x.nc', chunks={})", {"netCDF4", "dask.array"}),
        ("xarray", "xr.open_zarr(path)", {"zarr"}),
        ("geopandas", "gdf.explore('pop')", {"folium", "mapclassify", "matplotlib"}),
        ("plotly", "fig.write_image('x.png')", {"kaleido"}),
        ("altair", "chart.save('x.png')", {"vl_convert"}),
        ("altair", "chart.save('x.html')", set()),
        ("matplotlib", "ani.save('x.mp4')", {"ffmpeg"}),
        ("networkx", "nx.pagerank(g)", {"scipy"}),
        ("bs4", "BeautifulSoup(text, 'lxml')", {"lxml"}),
        ("bs4", "BeautifulSoup(text, features='html5lib')", {"html5lib"}),
        ("spacy", "spacy.load('en_core_web_sm')", {"en_core_web_sm"}),
        ("sqlalchemy", "create_engine('postgresql://u@h/d')", {"psycopg2"}),
        ("osgeo", "gdal.Open('x.h5')", {"libgdal-hdf5"}),
        ("rasterio", "rasterio.open(f'NETCDF:{path}:t')", {"libgdal-netcdf"}),
        ("polars", "pl.read_excel(path)", {"fastexcel"}),
    ],
)
def test_a_call_implies_a_package(imported: str, code: str, needs: set[str]):
    assert hinted(code, imported) == needs


def test_a_word_in_a_comment_or_a_string_implies_nothing():
    assert hinted("x = 'read_excel'  # to_parquet", "pandas") == set()


def test_a_method_of_the_same_name_without_the_import_implies_nothing():
    assert hinted("thing.read_excel('x')", "numpy") == set()


def test_every_rule_names_what_it_needs_and_when():
    for rule in load_rules().rules:
        assert rule.needs or rule.packages
        assert rule.imports
        assert rule.calls or rule.attributes or rule.text
