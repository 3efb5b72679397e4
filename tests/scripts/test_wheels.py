"""Wheels made into conda packages."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import rattler
from hypothesis import given
from hypothesis import strategies as st
from local_channel.archive import PLACEHOLDER
from local_channel.cpython import Interpreter
from local_channel.wheels import conda_name, conda_version_spec, wheel_package
from packaging.markers import default_environment
from packaging.specifiers import SpecifierSet

from tests.support.wheels import make_wheel

PYTHON = Interpreter(
    base=Path(sys.base_prefix),
    version="3.12.1",
    has_pip=True,
    markers={**{k: str(v) for k, v in default_environment().items()}, "python_version": "3.12"},
)
BINARY = "cp312-cp312-manylinux_2_17_x86_64"


@pytest.mark.parametrize(
    ("specifiers", "spec"),
    [
        ("", ""),
        (">=1.2,<2", "<2,>=1.2"),
        ("~=1.4.2", ">=1.4.2,1.4.*"),
        ("~=2.2", ">=2.2,2.*"),
        ("==1.4.*", "1.4.*"),
        ("!=1.4.*", "!=1.4.*"),
        ("==1.4", "==1.4"),
        ("===1.4", "==1.4"),
    ],
)
def test_specifiers_of_pypi_become_version_specs_of_conda(specifiers: str, spec: str):
    assert conda_version_spec(specifiers) == spec


RELEASES = st.lists(st.integers(0, 30), min_size=2, max_size=3).map(lambda parts: ".".join(map(str, parts)))
CLAUSES = st.tuples(st.sampled_from([">=", "<", "<=", ">", "==", "!=", "~="]), RELEASES).map("".join)


@given(st.lists(CLAUSES, min_size=1, max_size=3).map(",".join), RELEASES)
def test_a_converted_spec_matches_the_same_releases(specifiers: str, version: str):
    spec = rattler.VersionSpec(conda_version_spec(specifiers))
    assert spec.matches(rattler.Version(version)) == SpecifierSet(specifiers).contains(version)


@pytest.mark.parametrize(
    ("pypi", "conda"), [("PyYAML", "pyyaml"), ("gdal_wheel", "gdal"), ("matplotlib", "matplotlib-base"), ("x.Y", "x-y")]
)
def test_projects_get_the_names_of_conda_forge(pypi: str, conda: str):
    assert conda_name(pypi) == conda


def test_a_pure_wheel_becomes_a_noarch_package(tmp_path: Path):
    wheel = make_wheel(tmp_path, "demo", requires_python=">=3.9", scripts={"demo": "demo:main [fast]"})
    package = wheel_package(wheel, PYTHON, "linux-64")
    assert (package.subdir, package.noarch, list(package.depends)) == ("noarch", "python", ["python >=3.9"])
    assert package.link_json["noarch"]["entry_points"] == ["demo = demo:main"]


def test_a_binary_wheel_belongs_to_its_python(tmp_path: Path):
    package = wheel_package(make_wheel(tmp_path, "demo", tag=BINARY), PYTHON, "linux-64")
    assert (package.subdir, package.build, package.noarch) == ("linux-64", "cp312_0", "")
    assert list(package.depends) == ["python >=3.12,<3.13.0a0", "python_abi 3.12.* *_cp312", "__glibc >=2.17,<3.0.a0"]


def test_what_an_extra_of_a_requirement_needs_is_required_too(tmp_path: Path):
    make_wheel(tmp_path, "stats", requires=("numpy", "xarray>=2; extra == 'arrays'", "numba; extra == 'fast'"))
    package = wheel_package(make_wheel(tmp_path, "demo", requires=("stats[arrays]>=1",)), PYTHON, "linux-64")
    assert list(package.depends) == ["python", "stats >=1", "xarray >=2"]


def test_requirements_count_where_their_markers_hold(tmp_path: Path):
    requires = (
        "numpy>=2; python_version >= '3.12'",
        "old; python_version < '3'",
        "pywin32; sys_platform == 'win32'",
        "extra; extra == 'all'",
        "requests[socks]",
    )
    package = wheel_package(make_wheel(tmp_path, "demo", requires=requires), PYTHON, "linux-64")
    assert list(package.depends) == ["python", "numpy >=2", "requests"]


def test_scripts_of_a_wheel_start_the_python_of_the_prefix(tmp_path: Path):
    files = {"demo.py": "", "demo-1.0.data/scripts/tool": "#!python\nprint(1)\n"}
    package = wheel_package(make_wheel(tmp_path, "demo", files=files), PYTHON, "linux-64")
    script = package.members["bin/tool"]
    assert script.data.decode() == f"#!{PLACEHOLDER}/bin/python\nprint(1)\n"
    assert (script.relocated, script.executable) == (True, True)


def test_data_files_of_a_wheel_go_to_the_prefix(tmp_path: Path):
    files = {"demo.py": "", "demo-1.0.data/data/share/demo/x.txt": "x"}
    package = wheel_package(make_wheel(tmp_path, "demo", files=files), PYTHON, "linux-64")
    assert package.members["share/demo/x.txt"].data == b"x"


def test_the_package_says_that_conda_installed_it(tmp_path: Path):
    package = wheel_package(make_wheel(tmp_path, "demo"), PYTHON, "linux-64")
    assert package.members["site-packages/demo-1.0.dist-info/INSTALLER"].data == b"conda\n"


def test_paths_json_lists_every_member(tmp_path: Path):
    package = wheel_package(make_wheel(tmp_path, "demo"), PYTHON, "linux-64")
    info = {member.path: member.data for member in package.info_members()}
    listed = {entry["_path"] for entry in json.loads(info["info/paths.json"])["paths"]}
    assert listed == set(package.members)
