"""What failed runs say that they were missing, in the words of the libraries."""

from __future__ import annotations

import pytest

from mcp_conda_run.models import RunError
from mcp_conda_run.planning.planner import Needs, Planner

from .conftest import MakeIndex, make_environment

ENVIRONMENT = make_environment(
    "pandas", "xarray", "scipy", "google.cloud.storage", packages={"pandas": "3.0", "xarray": "2026.1", "scipy": "1.16"}
)


def after(
    planner: Planner,
    message: str,
    *,
    kind: str = "ImportError",
    traceback: str = "",
    missing: tuple[str, ...] = (),
    stderr: str = "",
    tried: tuple[str, ...] = (),
) -> Needs | None:
    error = RunError(
        kind, message.partition("\n")[0], traceback or f"Traceback (most recent call last):\n{kind}: {message}"
    )
    needs = Needs(code="")
    return planner.after_failure(
        needs, error, environment=ENVIRONMENT, missing=missing, stderr=stderr, tried=tried
    )  # fmt: skip


def named(needs: Needs | None) -> set[str]:
    if needs is None:
        return set()
    return {item.module for item in needs.missing} | {package.name for package in needs.declared}


@pytest.mark.parametrize(
    ("kind", "message", "names"),
    [
        ("ImportError", "`Import openpyxl` failed.  Use pip, conda, or your preferred package management tool",
         {"openpyxl"}),
        ("ImportError", "Missing optional dependency 'tabulate'.  Use pip or conda to install tabulate.", {"tabulate"}),
        ("ImportError", "Unable to find a usable engine; tried using: 'pyarrow', 'fastparquet'.", {"pyarrow.parquet"}),
        ("ValueError", "found the following matches with the input file in xarray's IO backends: "
         "['netcdf4', 'h5netcdf'].", {"netCDF4"}),
        ("ValueError", "cannot write NetCDF files because none of the suitable backend libraries "
         "(netCDF4, h5netcdf, scipy) are installed", {"netCDF4"}),
        ("ValueError", "unrecognized engine 'rasterio' must be one of your download engines: ['scipy']", {"rioxarray"}),
        ("ValueError", "unrecognized engine 'cfgrib' must be one of your download engines", {"cfgrib"}),
        ("ImportError", "chunk manager 'dask' is not available. Please make sure 'dask' is installed", {"dask.array"}),
        ("ModuleNotFoundError", "required package 'fastexcel' not found.\nPlease install using the command "
         "`pip install fastexcel`.", {"fastexcel"}),
        ("RuntimeError", "Image export requires the Kaleido package, which can be installed using pip", {"kaleido"}),
        ("ImportError", "Install s3fs to access S3", {"s3fs"}),
        ("ImportError", "Please install gcsfs to access Google Storage", {"gcsfs"}),
        ("ImportError", 'SFTPFileSystem requires "paramiko" to be installed', {"paramiko"}),
        ("ImportError", "The 'folium>=0.12', 'matplotlib' and 'mapclassify' packages are required for 'explore()'. "
         "You can install them using 'conda install -c conda-forge \"folium>=0.12\" matplotlib mapclassify' or 'pip'.",
         {"folium", "matplotlib", "mapclassify"}),
        ("ImportError", "plot_tree requires matplotlib. You can install matplotlib with `pip install matplotlib`",
         {"matplotlib"}),
        ("AttributeError", "The '.style' accessor requires jinja2", {"jinja2"}),
        ("RuntimeError", "Drawing dask graphs with the graphviz visualization engine requires the `graphviz` python "
         "library, please install graphviz", {"graphviz"}),
        ("KeyError", "<COMPRESSION.LZW: 5> requires the 'imagecodecs' package", {"imagecodecs"}),
        ("InvalidSchema", "Missing dependencies for SOCKS support.", {"socks"}),
        ("ModuleNotFoundError", "h5py is required to read and write HDF5 files", {"h5py"}),
        ("ValueError", 'Saving charts in "png" format requires the vl-convert-python package', {"vl_convert_python"}),
        ("ImportError", "AutoModel requires the PyTorch library but it was not found in your environment", {"torch"}),
        ("ModuleNotFoundError", "No module named 'rdkit'", {"rdkit"}),
    ],
)  # fmt: skip
def test_the_messages_of_libraries_are_understood(planner: Planner, kind: str, message: str, names: set[str]):
    assert named(after(planner, message, kind=kind)) == names


@pytest.mark.parametrize(
    ("kind", "message", "stderr", "package"),
    [
        ("FileNotFoundError", "[Errno 2] No such file or directory: 'ffmpeg'", "", "ffmpeg"),
        ("FileNotFoundError", "[Errno 2] No such file or directory: PosixPath('dot')", "", ""),
        ("ExecutableNotFound", "failed to execute PosixPath('dot'), make sure the Graphviz executables are on "
         "your systems' PATH", "", "graphviz"),
        ("TesseractNotFoundError", "tesseract is not installed or it's not in your PATH.", "", "tesseract"),
        ("OSError", "No pandoc was found: either install pandoc and add it", "", "pandoc"),
        ("CalledProcessError", "Command 'x' returned non-zero exit status 127.", "/bin/sh: 1: samtools: not found\n",
         "samtools"),
        ("ImportError", "libGL.so.1: cannot open shared object file: No such file or directory", "", "libgl"),
        ("RuntimeError", "not recognized as being in a supported file format.", "ERROR 4: It could have been "
         "recognized by driver netCDF, but plugin is not available. You may install it with "
         "'conda install -c conda-forge libgdal-netcdf'", "libgdal-netcdf"),
    ],
)  # fmt: skip
def test_missing_programs_and_gdal_plugins_are_found(
    planner: Planner, kind: str, message: str, stderr: str, package: str
):
    assert named(after(planner, message, kind=kind, stderr=stderr)) == ({package} if package else set())


def test_names_of_the_exception_chain_count_before_messages(planner: Planner):
    assert named(after(planner, "pip install something-else", missing=("lxml",))) == {"lxml"}


def test_a_shared_roots_import_is_read_again_from_the_source_line(planner: Planner):
    traceback = (
        'Traceback (most recent call last):\n  File "main.py", line 1, in <module>\n'
        "    from google.cloud import bigquery\n"
        "ImportError: cannot import name 'bigquery' from 'google.cloud' (unknown location)"
    )
    needs = after(planner, "cannot import name", traceback=traceback, missing=("google.cloud",))
    assert needs is not None
    assert [(item.module, item.names) for item in needs.missing][:1] == [("google.cloud", ("bigquery",))]


@pytest.mark.parametrize("name", ["scipy.nosuch", "pandas.core.gone", "os.nosuch", "json.x"])
def test_a_wrong_name_inside_an_installed_module_is_never_installed(planner: Planner, name: str):
    message = f"No module named '{name}'"
    assert after(planner, message, kind="ModuleNotFoundError", missing=(name,)) is None


def test_the_same_package_is_never_tried_twice(planner: Planner):
    message = "[Errno 2] No such file or directory: 'ffmpeg'"
    assert after(planner, message, kind="FileNotFoundError", tried=("ffmpeg",)) is None


@pytest.mark.parametrize(
    "message", ["", "division by zero", "x" * 100_000, "pip install " * 10_000, "requires " * 10_000]
)
def test_other_errors_name_nothing_that_could_be_installed(planner: Planner, message: str):
    found = after(planner, message, kind="ZeroDivisionError")
    assert found is None or not found.declared


def test_qt_is_not_installed_for_a_run_without_display(planner: Planner):
    message = "Failed to import any of the following Qt binding modules: PyQt6, PySide6, PyQt5, PySide2"
    assert after(planner, message) is None


async def test_the_next_plan_has_the_old_needs_and_the_new_ones(planner: Planner, make_index: MakeIndex):
    needs = planner.needs("import rdkit", environment=ENVIRONMENT)
    error = RunError("ModuleNotFoundError", "No module named 'tabulate'", missing_module="tabulate")
    more = planner.after_failure(needs, error, environment=ENVIRONMENT)
    assert more is not None
    plan = await planner.plan(more, make_index("rdkit", "tabulate"))
    assert [(package.name, package.decision) for package in plan.packages] == [
        ("rdkit", "identity"),
        ("tabulate", "runtime"),
    ]
    assert planner.after_failure(more, error, environment=ENVIRONMENT) is None
