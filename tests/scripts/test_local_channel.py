"""Channels of `scripts/build_local_channel.py`: real packages, solved and installed by a real engine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from local_channel.build import SETS, choose_python
from local_channel.errors import NotRelocatableError

from tests.support import prefixes
from tests.support.http_channel import ChannelServer
from tests.support.wheels import make_wheel

BUILDER = Path(__file__).resolve().parents[2] / "scripts/build_local_channel.py"

Install = Callable[..., Path]


@pytest.fixture
def install(small_channel: Path, tmp_path: Path) -> Install:
    """Install specs of the small channel into a new prefix; return it."""

    def go(*specs: str, **options: bool) -> Path:
        prefixes.install(small_channel, tmp_path / "prefix", *specs, cache=tmp_path / "cache", **options)
        return tmp_path / "prefix"

    return go


@pytest.fixture
def solve(small_channel: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Solve specs of the small channel for macOS; return the package names with versions."""

    def go(*specs: str, platform: str) -> list[str]:
        return prefixes.install(small_channel, tmp_path / "none", *specs, cache=tmp_path / "cache", platform=platform)

    return go


def run(prefix: Path, code: str, *options: str) -> str:
    command = [prefix / "bin/python", *options, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def build(out: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, BUILDER, out, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


# --- the Python and the packages of PyPI ---


def test_the_python_runs_from_the_prefix_it_is_installed_to(small_prefix: Path):
    assert run(small_prefix, "import sys; print(sys.prefix)") == str(small_prefix)


def test_the_python_maps_nothing_of_the_tree_it_was_made_from(small_prefix: Path):
    code = (
        "import sys, ssl, sqlite3, ctypes, numpy\nprint(sys.version.split()[0]); print(open('/proc/self/maps').read())"
    )
    version, *maps = run(small_prefix, code).splitlines()
    mapped = {line.split(None, 5)[5] for line in maps if "/" in line}
    xy = ".".join(version.split(".")[:2])
    pythons = {path for path in mapped if f"python{xy}" in path}
    assert pythons
    assert {path for path in pythons if not path.startswith(f"{small_prefix}/")} == set()


def test_the_python_knows_its_prefix_in_sysconfig(small_prefix: Path):
    assert run(small_prefix, "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))") == f"{small_prefix}/lib"


def test_the_python_holds_its_prefix_as_binary_placeholder(small_prefix: Path):
    assert os.fsencode(small_prefix) in (small_prefix / "bin/python").resolve().read_bytes()


def test_an_installed_numpy_computes(small_prefix: Path):
    assert run(small_prefix, "import numpy; print(numpy.arange(4).reshape(2, 2) @ [1, 10])", "-I") == "[10 32]"


def test_two_versions_of_numpy_can_be_chosen_from(install: Install):
    assert run(install("python", "numpy <2.4"), "import numpy; print(numpy.__version__)") in {"2.1.3", "2.3.5"}


def test_requests_comes_with_all_that_it_requires(install: Install):
    assert run(install("python", "requests"), "import requests, certifi; print(requests.codes.ok)", "-I") == "200"


def test_pip_finds_what_is_installed_consistent(install: Install):
    assert run(install("python", "pip", "numpy", "requests"), "import pip; pip.main(['check'])").startswith("No broken")


@pytest.mark.scientific
@pytest.mark.slow
def test_the_scientific_channel_offers_the_base_template_and_gdal(scientific_channel: Path, tmp_path: Path):
    specs = (
        "python >=3.11,<3.14",
        "pip",
        "numpy",
        "scipy",
        "pandas",
        "matplotlib-base",
        "pillow",
        "requests",
        "pyyaml",
    )
    prefix = tmp_path / "prefix"
    prefixes.install(scientific_channel, prefix, *specs, "tzdata", "gdal", "pyproj", cache=tmp_path / "cache")
    code = (
        "import scipy.linalg, pandas, matplotlib.pyplot, PIL.Image, requests, yaml, pyproj\n"
        "from osgeo import gdal, osr\n"
        "srs = osr.SpatialReference(); srs.ImportFromEPSG(32632)\n"
        "print(srs.GetName(), '|', gdal.GetDriverByName('MEM').Create('', 4, 3).RasterXSize)"
    )
    assert run(prefix, code) == "WGS 84 / UTM zone 32N | 4"


@pytest.mark.scientific
@pytest.mark.parametrize(
    "spec",
    [
        "matplotlib",
        "rasterio",
        "shapely",
        "scikit-image",
        "scikit-learn",
        "networkx",
        "sympy",
        "xarray",
        "tabulate",
        "openpyxl",
    ],
)
def test_the_scientific_channel_solves(scientific_channel: Path, tmp_path: Path, spec: str):
    found = prefixes.install(scientific_channel, tmp_path / "none", spec, cache=tmp_path, platform="osx-arm64")
    assert any(name.startswith(f"{spec}=") for name in found)


# --- the awkward packages ---


def test_mcr_two_has_an_older_and_a_newer_version(install: Install):
    assert run(install("python", "mcr-two <2"), "import mcr_two; print(mcr_two.version)") == "1.0"


def test_a_console_script_of_a_noarch_package_runs(install: Install):
    prefix = install("python", "mcr-two")
    assert subprocess.run([prefix / "bin/mcr-two"], capture_output=True, text=True, check=True).stdout == "2.0\n"


@pytest.mark.parametrize("name", ["mcr-unsat", "mcr-conflict", "mcr-cuda"])
def test_a_package_that_cannot_be_satisfied_is_refused_by_the_solver(install: Install, name: str):
    with pytest.raises(prefixes.CannotInstallError, match="SolverError"):
        install(name)


def test_the_two_sides_of_the_conflict_are_fine_alone(install: Install):
    assert (install("mcr-needs-two2") / "conda-meta").is_dir()


def test_activation_scripts_are_where_conda_looks_for_them(install: Install):
    prefix = install("mcr-activate")
    assert (prefix / "etc/conda/activate.d/mcr.sh").is_file()
    assert json.loads((prefix / "etc/conda/env_vars.d/mcr.json").read_text()) == {"MCR_ENV_VAR": "1"}


def test_the_post_link_script_leaves_its_mark_when_it_may_run(install: Install):
    assert (install("mcr-postlink", run_link_scripts=True) / "post-link-ran").is_file()


def test_the_post_link_script_leaves_no_mark_when_it_may_not_run(install: Install):
    assert not (install("mcr-postlink") / "post-link-ran").exists()


def test_text_and_binary_placeholders_become_the_prefix(install: Install):
    prefix = install("mcr-prefix")
    assert (prefix / "share/mcr/text.txt").read_text() == f"{prefix}/share\n"
    assert f"{prefix}/share\0".encode() in (prefix / "share/mcr/binary.bin").read_bytes()


@pytest.mark.parametrize(("package", "module"), [("mcr-clib", "mcr_clib"), ("mcrclib", "mcrclib")])
def test_a_library_in_c_with_the_name_of_an_import_has_no_module(install: Install, package: str, module: str):
    prefix = install("python", package)
    assert run(prefix, f"from importlib.util import find_spec; print(find_spec({module!r}))") == "None"
    assert (prefix / f"include/{module}.h").is_file()


def test_the_module_of_a_library_in_c_is_in_a_package_of_another_name(install: Install):
    assert run(install("python-mcr-clib"), "import mcr_clib; print(mcr_clib.answer)") == "42"


def test_two_packages_fill_one_namespace(install: Install):
    code = "import mcr_ns.one, mcr_ns.two; print(mcr_ns.one.part, mcr_ns.two.part, mcr_ns.__file__)"
    assert run(install("mcr-ns-one", "mcr-ns-two"), code) == "one two None"


def test_an_archive_in_the_older_format_is_installed(install: Install, small_channel: Path):
    assert (small_channel / "noarch/mcr-old-format-1.0-pyh0_0.tar.bz2").is_file()
    assert run(install("mcr-old-format"), "import mcr_old_format; print(mcr_old_format.version)") == "1.0"


def test_only_the_newer_mcr_two_is_younger_than_2025(small_channel: Path):
    repodata = json.loads((small_channel / "noarch/repodata.json").read_text())
    records = [*repodata["packages"].values(), *repodata["packages.conda"].values()]
    young = {(record["name"], record["version"]) for record in records if record["timestamp"] > 1_735_689_600_000}
    assert young == {("mcr-two", "2.0")}


def test_no_package_says_when_it_was_indexed(small_channel: Path):
    """For `exclude-newer` prefers that time, which is the present, and would hide all packages."""
    texts = [file.read_text() for file in small_channel.glob("*/repodata.json")]
    assert texts
    assert not any("indexed_timestamp" in text for text in texts)


def test_exclude_newer_hides_the_newer_mcr_two(small_channel: Path, tmp_path: Path):
    options = {"platform": "osx-arm64", "exclude_newer": "2025-01-01T00:00:00+00:00"}
    found = prefixes.install(small_channel, tmp_path / "none", "mcr-two", "python", cache=tmp_path, **options)
    assert "mcr-two=1.0=pyh0_0" in found


@pytest.mark.parametrize("platform", ["osx-arm64", "win-64"])
def test_other_platforms_can_be_solved_for(solve: Callable[..., list[str]], platform: str):
    names = {package.split("=")[0] for package in solve("python", "numpy", "requests", platform=platform)}
    assert {"python", "python_abi", "numpy", "requests", "tzdata"} <= names


# --- the channel ---


def test_a_channel_has_plain_compressed_and_sharded_repodata(small_channel: Path):
    files = {file.name for file in (small_channel / "noarch").iterdir()}
    assert {"repodata.json", "repodata.json.zst", "repodata_shards.msgpack.zst", "shards"} <= files


def test_repodata_tells_the_hash_of_every_archive(small_channel: Path):
    repodata = json.loads((small_channel / "noarch/repodata.json").read_text())
    for name, record in {**repodata["packages"], **repodata["packages.conda"]}.items():
        assert hashlib.sha256((small_channel / "noarch" / name).read_bytes()).hexdigest() == record["sha256"]


def test_the_channel_installs_over_http(
    small_channel: Path, http_channel: Callable[[Path], ChannelServer], tmp_path: Path
):
    server = http_channel(small_channel)
    prefixes.install(server.url, tmp_path / "prefix", "mcr-two", cache=tmp_path / "cache")
    assert server.paths("*/mcr-two-2.0-*.conda")


def contents(channel: Path) -> dict[str, str]:
    """Return the sha256 of every file but the indexes of the shards, which say when they were made."""
    files = [file for file in channel.rglob("*") if file.is_file() and file.name != "repodata_shards.msgpack.zst"]
    return {str(file.relative_to(channel)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.slow
def test_the_same_inputs_give_the_same_bytes(small_channel: Path, tmp_path: Path):
    make_wheel(tmp_path / "wheels", "demo", scripts={"demo": "demo:main"})
    for out in ("one", "two"):
        done = build(tmp_path / out, "--set", "none", "--wheels", tmp_path / "wheels")
        assert done.returncode == 0, done.stderr
    first = contents(tmp_path / "one")
    assert any(name.startswith("noarch/demo-") for name in first)
    assert first == contents(tmp_path / "two")


# --- which Python ---


@pytest.mark.slow
def test_a_python_whose_run_paths_are_relative_already_is_repackaged(small_prefix: Path, tmp_path: Path):
    done = build(tmp_path / "channel", "--set", "none", "--python", small_prefix / "bin/python")
    assert (done.returncode, done.stderr) == (0, "")
    prefixes.install(tmp_path / "channel", tmp_path / "prefix", "python", cache=tmp_path / "cache")
    assert run(tmp_path / "prefix", "import sys; print(sys.base_prefix)") == f"{tmp_path}/prefix"


def system_python() -> Path:
    """Return Debian's Python, which is spread over the system, or skip."""
    system = Path("/usr/bin/python3")
    patched = "import site, sys; sys.exit(not any('dist-packages' in path for path in site.getsitepackages()))"
    if not system.exists() or subprocess.run([system, "-I", "-c", patched], check=False).returncode:
        pytest.skip("no Debian Python here")
    return system


def test_another_python_is_found_where_the_running_one_cannot_be_moved(
    small_prefix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "versions").mkdir()
    (tmp_path / "versions/mine").symlink_to(small_prefix)
    monkeypatch.setattr(sys, "executable", str(system_python()))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert choose_python(SETS["none"]).base.resolve() == small_prefix.resolve()


def test_no_python_that_can_be_moved_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", str(system_python()))
    monkeypatch.setenv("PATH", "/nowhere")
    for name in ("PYENV_ROOT", "UV_PYTHON_INSTALL_DIR", "RUNNER_TOOL_CACHE"):
        monkeypatch.setenv(name, str(tmp_path))
    with pytest.raises(NotRelocatableError, match="belongs to the operating system"):
        choose_python(SETS["none"])


# --- what cannot be built ---


def test_the_operating_systems_python_is_refused_with_what_to_do(tmp_path: Path):
    done = build(tmp_path / "out", "--python", system_python())
    assert done.returncode == 3
    assert "belongs to the operating system" in done.stderr
    assert "--python" in done.stderr


def test_what_is_no_python_is_refused(tmp_path: Path):
    done = build(tmp_path / "out", "--python", "/bin/true")
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        1,
        "error: /bin/true is not a working Python: it printed nothing",
    )


def test_a_wheel_that_is_none_is_named(small_channel: Path, tmp_path: Path):
    (tmp_path / "bad-1.0-py3-none-any.whl").write_bytes(b"no zip")
    done = build(tmp_path / "out", "--wheels", tmp_path, "--set", "none")
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, "error: bad-1.0-py3-none-any.whl is not a wheel.")


def test_a_directory_that_cannot_be_written_is_named(small_channel: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    done = build(tmp_path / "file" / "out", "--set", "none")
    assert done.returncode == 1
    assert f"cannot be written to {tmp_path}/file/out: Not a directory" in done.stderr


def test_a_failed_build_leaves_the_index_as_it_was(small_channel: Path, tmp_path: Path):
    channel = tmp_path / "channel"
    (channel / "noarch").mkdir(parents=True)
    (channel / "noarch/repodata.json").write_text("as it was")
    (tmp_path / "bad-1.0-py3-none-any.whl").write_bytes(b"no zip")
    build(channel, "--wheels", tmp_path, "--set", "none")
    assert (channel / "noarch/repodata.json").read_text() == "as it was"
