"""From code to needs to a plan, on an index of plain data."""

from __future__ import annotations

import time
from pathlib import Path
from textwrap import dedent

import pytest

from mcp_conda_run.errors import InstallError, RequestError
from mcp_conda_run.models import Environment, Plan
from mcp_conda_run.planning.decisions import Machine
from mcp_conda_run.planning.planner import Needs, Planner
from mcp_conda_run.planning.policy import Policy

from .conftest import MakeIndex, make_environment


def modules(needs: Needs) -> list[str]:
    return [item.module for item in needs.missing]


def specs(plan: Plan) -> list[str]:
    return [package.spec for package in plan.packages]


def decisions(plan: Plan) -> dict[str, str]:
    return {package.name: package.decision for package in plan.packages}


# --- needs ------------------------------------------------------------------------------------------------------------


def test_what_the_environment_offers_is_not_needed(planner: Planner, environment: Environment):
    assert planner.needs("import numpy.linalg, os.path\nfrom pandas import DataFrame", environment=environment).nothing


def test_only_the_missing_parts_of_a_shared_root_are_needed(planner: Planner):
    environment = make_environment("google.cloud.storage", "mpl_toolkits.mplot3d")
    needs = planner.needs("from google.cloud import storage, bigquery", environment=environment)
    assert [(item.module, item.names) for item in needs.missing] == [("google.cloud", ("bigquery",))]
    assert planner.needs("import google.cloud.storage as s", environment=environment).nothing


def test_the_standard_library_is_that_of_the_target_python(planner: Planner, environment: Environment):
    assert modules(planner.needs("import distutils, asyncore, tomllib", environment=environment)) == [
        "distutils",
        "asyncore",
    ]


def test_modules_of_the_users_directories_are_never_needed(planner: Planner, environment: Environment, tmp_path: Path):
    (tmp_path / "helper.py").touch()
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "yaml").mkdir()
    (tmp_path / "yaml" / "a.yml").touch()
    needs = planner.needs("import helper, package.part, yaml", environment=environment, local_roots=[tmp_path])
    assert modules(needs) == ["yaml"]


def test_a_module_that_the_code_writes_itself_is_not_needed(planner: Planner, environment: Environment):
    assert planner.needs("open('made.py', 'w').write('x = 1')\nimport made", environment=environment).nothing


def test_an_optional_import_with_an_alternative_at_hand_is_not_needed(planner: Planner, environment: Environment):
    code = "try:\n    import cupy as np\nexcept ImportError:\n    import numpy as np"
    assert planner.needs(code, environment=environment).nothing


def test_branches_that_never_run_need_nothing(planner: Planner, environment: Environment):
    code = """\
        from typing import TYPE_CHECKING
        import sys
        if TYPE_CHECKING:
            import polars
        if sys.platform == "win32":
            import win32api
        """
    assert planner.needs(dedent(code), environment=environment).nothing


def test_a_metadata_block_is_the_only_truth(planner: Planner, environment: Environment):
    code = "# /// script\n# dependencies = ['numpy']\n# ///\nimport rdkit"
    needs = planner.needs(code, environment=environment)
    assert needs.declared_only
    assert needs.nothing


def test_all_of_a_metadata_block_is_needed_if_a_part_is_missing(planner: Planner, environment: Environment):
    code = "# /// script\n# dependencies = ['numpy', 'rdkit']\n# ///\n"
    assert [p.name for p in planner.needs(code, environment=environment).declared] == ["numpy", "rdkit"]


@pytest.mark.parametrize(
    ("spec", "needed"),
    [("numpy", False), ("numpy>=2", False), ("numpy<2", True), ("pypi:numpy", False), ("gdal", True)],
)
def test_a_package_that_is_there_in_a_version_that_will_do_is_not_needed(
    planner: Planner, environment: Environment, spec: str, needed: bool
):
    assert planner.needs("x = 1", environment=environment, packages=[spec]).nothing is not needed


def test_install_lines_are_taken_out_and_imports_are_still_found(planner: Planner, environment: Environment):
    needs = planner.needs("%pip install rich\nimport rdkit", environment=environment)
    assert needs.code == "pass\nimport rdkit"
    assert modules(needs) == ["rdkit"]
    assert [package.name for package in needs.declared] == ["rich"]


def test_code_with_a_syntax_error_still_has_needs_and_stays_as_it_is(planner: Planner, environment: Environment):
    needs = planner.needs("import rdkit\nx = = 1", environment=environment)
    assert (needs.code, modules(needs)) == ("import rdkit\nx = = 1", ["rdkit"])


def test_needs_of_a_typical_snippet_take_a_few_milliseconds(planner: Planner, environment: Environment):
    code = "import numpy as np\nimport pandas as pd\n" + "x = np.arange(10).sum()\nprint(x)\n" * 20
    planner.needs(code, environment=environment)
    times = []
    for _ in range(20):
        began = time.perf_counter()
        planner.needs(code, environment=environment)
        times.append(time.perf_counter() - began)
    assert min(times) < 0.005


@pytest.mark.parametrize(
    "line",
    [
        "import numpy as np; x = np.sum([1, 2, 3])\n",
        "x = df.read_excel('y')\n",
        "if x:\n    import numpy\n",
        "# /// script\n",
    ],
)
def test_a_megabyte_of_code_has_its_needs_in_bounded_time(planner: Planner, environment: Environment, line: str):
    code = "import pandas\n" + line * (1_000_000 // len(line))
    began = time.process_time()
    planner.needs(code, environment=environment)
    assert time.process_time() - began < 8  # on a slow machine under load; about 1.5 s alone


# --- plans ------------------------------------------------------------------------------------------------------------


async def plan(planner: Planner, code: str, index: object, packages: tuple[str, ...] = (), **kwargs: bool) -> Plan:
    needs = planner.needs(dedent(code), environment=make_environment("numpy", "pandas"), packages=packages)
    return await planner.plan(needs, index, **kwargs)  # type: ignore[arg-type]


async def test_the_table_names_what_no_rule_can_know(planner: Planner, make_index: MakeIndex):
    code = "from osgeo import gdal, osr\nimport Bio.Seq, sklearn.svm, PIL.Image, yaml, dateutil"
    index = make_index("gdal", "biopython", "scikit-learn", "pillow", "pyyaml", "python-dateutil", "yaml")
    found = await plan(planner, code, index)
    assert specs(found) == ["gdal", "biopython", "scikit-learn", "pillow", "pyyaml", "python-dateutil"]
    assert set(decisions(found).values()) == {"override"}


async def test_a_name_that_the_channel_has_for_something_else_is_never_taken(planner: Planner, make_index: MakeIndex):
    found = await plan(planner, "import frobnicate", make_index(other=["frobnicate"]))
    assert not found.packages
    assert [one.import_name for one in found.unknown] == ["frobnicate"]


async def test_a_program_is_not_taken_for_the_python_package_of_its_name(planner: Planner, make_index: MakeIndex):
    (package,) = (await plan(planner, "import wasmer", make_index(other=["wasmer"]))).packages
    assert (package.manager, package.name) == ("pypi", "wasmer")


async def test_identity_needs_evidence_that_it_is_a_python_package(planner: Planner, make_index: MakeIndex):
    found = await plan(planner, "import my_tool", make_index("my-tool"))
    assert decisions(found) == {"my-tool": "identity"}


@pytest.mark.parametrize("name", ["py-frob", "frob-py", "python-frob", "frob-python"])
async def test_the_channels_affixes_are_known(planner: Planner, make_index: MakeIndex, name: str):
    assert decisions(await plan(planner, "import frob", make_index(name, other=["frob"]))) == {name: "affix"}


@pytest.mark.parametrize("name", ["pyfrob", "frob-core", "frob-client", "scikit-frob", "flask-frob"])
async def test_doubtful_affixes_are_never_installed(planner: Planner, make_index: MakeIndex, name: str):
    assert not (await plan(planner, "import frob", make_index(name))).packages


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("from google.cloud import vision_v1", "google-cloud-vision"),
        ("import google.cloud.speech_v1p1beta1 as s", "google-cloud-speech"),
        ("from azure.keyvault import keys", "azure-keyvault-keys"),
        ("import jaraco.text", "jaraco.text"),
        ("import ruamel.yaml", "ruamel.yaml"),
        ("from airflow.providers.amazon.aws.hooks import s3", "apache-airflow-providers-amazon"),
        ("import sphinxcontrib.bibtex", "sphinxcontrib-bibtex"),
        ("from llama_index.llms import openai", "llama-index-llms-openai"),
        ("from opentelemetry.instrumentation import flask", "opentelemetry-instrumentation-flask"),
        ("from mpl_toolkits.mplot3d import Axes3D", "matplotlib-base"),
        ("from mpl_toolkits.basemap import Basemap", "basemap"),
    ],
)
async def test_parts_of_shared_roots_are_packages_of_their_own(
    planner: Planner, make_index: MakeIndex, code: str, name: str
):
    index = make_index(name, "google-api-core", "azure-core", "llama-index-core", "airflow", "opentelemetry-api")
    assert specs(await plan(planner, code, index)) == [name]


async def test_the_index_is_asked_once_for_all_imports_together(planner: Planner, make_index: MakeIndex):
    index = make_index("rdkit", "gdal", "polars", "rich")
    await plan(planner, "import rdkit, osgeo, polars, rich", index)
    assert len(index.asked) == 1


async def test_unknown_imports_come_back_with_candidates_and_are_not_installed(planner: Planner, make_index: MakeIndex):
    found = await plan(planner, "import skleran, polras", make_index("scikit-learn", "polars"))
    assert not found.packages
    assert [one.candidates[0].name for one in found.unknown] == ["scikit-learn", "polars"]


async def test_letters_that_only_look_latin_install_nothing(planner: Planner, make_index: MakeIndex):
    found = await plan(planner, "import p\u0430ndas_plink", make_index("pandas-plink"))
    assert not found.packages
    assert "not Latin" in found.unknown[0].reason


async def test_a_module_of_python_2_is_explained(planner: Planner, make_index: MakeIndex):
    (unknown,) = (await plan(planner, "import urllib2", make_index("urllib2"))).unknown
    assert "urllib.request" in unknown.reason


async def test_a_framework_of_macos_is_proposed_there_and_explained_elsewhere(planner: Planner, make_index: MakeIndex):
    there = await plan(planner, "import AppKit", make_index(platform="osx-arm64"))
    assert specs(there) == ["pyobjc-framework-cocoa"]
    elsewhere = await plan(planner, "import AppKit", make_index())
    (unknown,) = elsewhere.unknown
    assert elsewhere.packages == ()
    assert "for macOS only, and this is linux-64" in unknown.reason


async def test_an_optional_import_is_installed_only_from_a_channel_and_never_reported(
    planner: Planner, make_index: MakeIndex
):
    code = """\
        try:
            import rdkit, gurobipy, nosuchthing
        except ImportError:
            pass
        """
    found = await plan(planner, code, make_index("rdkit"))
    assert (specs(found), found.unknown) == (["rdkit"], ())


async def test_an_alternative_counts_only_if_the_body_has_no_package(planner: Planner, make_index: MakeIndex):
    code = "try:\n    import ujson\nexcept ImportError:\n    import orjson"
    assert specs(await plan(planner, code, make_index("ujson", "orjson"))) == ["ujson"]
    assert specs(await plan(planner, code, make_index("orjson"))) == ["orjson"]


async def test_calls_that_imply_a_package_are_planned(planner: Planner, make_index: MakeIndex):
    found = await plan(planner, "import pandas as pd\npd.read_excel('x.xlsx')", make_index("openpyxl"))
    assert decisions(found) == {"openpyxl": "hint"}
    assert "read_excel" in found.packages[0].reason


async def test_a_gdal_driver_comes_with_the_name_of_a_file(planner: Planner, make_index: MakeIndex):
    code = "from osgeo import gdal\ngdal.Open('NETCDF:a.nc:t')"
    assert specs(await plan(planner, code, make_index("gdal", other=["libgdal-netcdf"]))) == ["libgdal-netcdf", "gdal"]
    assert specs(await plan(planner, "from osgeo import gdal\ngdal.Open('a.tif')", make_index("gdal"))) == ["gdal"]


async def test_companions_come_along(planner: Planner, make_index: MakeIndex):
    found = await plan(planner, "import pytesseract", make_index("pytesseract", other=["tesseract"]))
    assert decisions(found) == {"pytesseract": "override", "tesseract": "companion"}


async def test_builds_without_display_and_gpu_are_preferred_in_conda_forge_itself(make_index: MakeIndex):
    index = make_index("py-opencv", "pytorch", channels={"py-opencv": "conda-forge", "pytorch": "conda-forge"})
    without = Planner(Policy(), machine=Machine(gpu=False, display=False))
    having = Planner(Policy(), machine=Machine(gpu=True, display=True))
    assert specs(await plan(without, "import cv2, torch", index)) == ["py-opencv * headless_*", "pytorch * cpu_*"]
    assert specs(await plan(having, "import cv2, torch", index)) == ["py-opencv", "pytorch"]
    assert specs(await plan(without, "import cv2", make_index("py-opencv"))) == ["py-opencv"]


# --- asked for by name ------------------------------------------------------------------------------------------------


async def test_packages_that_are_no_python_can_be_asked_for(planner: Planner, make_index: MakeIndex):
    found = await plan(planner, "", make_index(other=["graphviz", "r-base"]), ("graphviz", "r-base>=4"))
    assert specs(found) == ["graphviz", "r-base >=4"]


async def test_projects_of_pypi_are_taken_from_the_channel_under_its_name(planner: Planner, make_index: MakeIndex):
    code = "%pip install torch==2.9.* redis opencv-python PyYAML>=6 requests_cache"
    index = make_index("pytorch", "redis-py", "py-opencv", "pyyaml", "requests-cache", other=["redis"])
    assert specs(await plan(planner, code, index)) == [
        "pytorch =2.9",
        "redis-py",
        "py-opencv",
        "pyyaml >=6",
        "requests-cache",
    ]


async def test_an_imports_name_asked_for_as_a_package_is_translated(planner: Planner, make_index: MakeIndex):
    found = await plan(planner, "", make_index("scikit-learn"), ("sklearn>=1.5",))
    assert specs(found) == ["scikit-learn >=1.5"]


async def test_a_package_that_no_channel_has_is_an_error(planner: Planner, make_index: MakeIndex):
    with pytest.raises(InstallError) as caught:
        await plan(planner, "", make_index("numpy"), ("nosuchpackage",))
    assert caught.value.code == "unknown-package"


async def test_a_project_asked_for_from_pypi_stays_there(planner: Planner, make_index: MakeIndex):
    (package,) = (await plan(planner, "", make_index("rich"), ("pypi:rich==14.0",))).packages
    assert (package.manager, package.spec, package.decision) == ("pypi", "rich==14.0", "requested")


async def test_a_project_with_the_name_of_another_ones_import_can_be_asked_for(planner: Planner, make_index: MakeIndex):
    needs = planner.needs("", environment=make_environment(), packages=["pypi:ninja"])
    assert specs(await planner.plan(needs, make_index("django-ninja"))) == ["ninja"]


async def test_a_project_of_pypi_is_planned_once_however_its_name_is_written(planner: Planner, make_index: MakeIndex):
    found = await plan(planner, "import gurobipy", make_index(), ("pypi:GuRoBiPy",))
    assert specs(found) == ["GuRoBiPy"]


async def test_an_import_of_the_name_of_what_was_asked_for_is_not_unknown(planner: Planner, make_index: MakeIndex):
    found = await plan(planner, "import nosuch_thing.part", make_index(), ("pypi:nosuch-thing",))
    assert (specs(found), found.unknown) == (["nosuch-thing"], ())


async def test_all_that_was_said_of_a_version_counts(planner: Planner, make_index: MakeIndex):
    found = await plan(planner, "%conda install 'rdkit<3'", make_index("rdkit"), ("rdkit>=2", "rdkit"))
    assert specs(found) == ["rdkit <3,>=2"]
    found = await plan(planner, "", make_index(), ("pypi:some-thing[a]>1", "pypi:some_thing[b]<3"))
    assert specs(found) == ["some-thing[a,b]<3,>1"]


async def test_extras_that_the_channel_does_not_know_are_said(planner: Planner, make_index: MakeIndex):
    found = await plan(planner, "%pip install 'requests[socks]>=2'", make_index("requests"))
    assert specs(found) == ["requests >=2"]
    assert "[socks]" in found.notes[0]


async def test_what_no_single_spec_can_say_is_two(planner: Planner, make_index: MakeIndex):
    found = await plan(planner, "", make_index("rdkit"), ("rdkit 1.*|2.*", "rdkit<2.5"))
    assert specs(found) == ["rdkit 1.*|2.*", "rdkit <2.5"]


def test_a_version_that_the_environment_has_counts_where_another_one_is_asked_for(planner: Planner):
    environment = make_environment("numpy", packages={"numpy": "2.5.0", "scipy": "1.18"})
    needs = planner.needs("", environment=environment, packages=["numpy<2.2", "numpy>2.4", "scipy>1"])
    assert [package.spec for package in needs.declared] == ["numpy <2.2", "numpy >2.4"]


async def test_a_mirror_stands_for_conda_forge_and_this_is_said(planner: Planner, make_index: MakeIndex):
    found = await plan(planner, "", make_index("rdkit"), ("conda-forge::rdkit",))
    assert specs(found) == ["rdkit"]
    assert "in place of conda-forge" in found.notes[0]


async def test_a_channel_that_is_not_allowed_is_an_error(planner: Planner, make_index: MakeIndex):
    with pytest.raises(RequestError) as caught:
        await plan(planner, "!conda install -c bioconda pysam", make_index("pysam"))
    assert caught.value.code == "channel-not-allowed"


async def test_a_package_asked_for_from_a_channel_that_is_not_allowed_is_an_error(
    planner: Planner, make_index: MakeIndex
):
    for code, packages in (("", ("evil::rdkit",)), ("%conda install evil::rdkit", ())):
        with pytest.raises(RequestError) as caught:
            await plan(planner, code, make_index("rdkit"), packages)
        assert caught.value.code == "channel-not-allowed"


async def test_a_configured_channel_can_be_asked_for_by_its_name(planner: Planner, make_index: MakeIndex):
    index = make_index("rdkit", channels={"rdkit": "https://mirror.example/lab"})
    needs = planner.needs("!conda install -c lab lab::rdkit", environment=make_environment())
    found = await planner.plan(needs, index, configured=("https://mirror.example/lab/",))
    assert specs(found) == ["lab::rdkit"]


async def test_a_package_of_an_allowed_further_channel_is_bound_to_it(make_index: MakeIndex):
    planner = Planner(Policy(channels=("conda-forge", "bioconda")))
    index = make_index("pysam", channels={"pysam": "https://channels.example/bioconda"})
    found = await plan(planner, "import pysam", index)
    assert (specs(found), found.channels) == (["bioconda::pysam"], ("bioconda",))


async def test_ten_thousand_imports_are_refused_quickly(planner: Planner, make_index: MakeIndex):
    began = time.perf_counter()
    with pytest.raises(RequestError) as caught:
        await plan(planner, "\n".join(f"import module{n}" for n in range(10_000)), make_index())
    assert caught.value.code == "too-many-imports"
    assert time.perf_counter() - began < 5


async def test_a_thousand_unknown_imports_are_answered_in_bounded_time(planner: Planner, make_index: MakeIndex):
    index = make_index(*(f"package-{n}" for n in range(30_000)))
    began = time.perf_counter()
    found = await plan(planner, "\n".join(f"import module{n}" for n in range(900)), index)
    assert len(found.unknown) == 900
    assert time.perf_counter() - began < 10
