"""Installs that the code does itself are asked for before it runs, and stay in the code."""

from __future__ import annotations

import pytest

from mcp_conda_run.errors import RequestError
from mcp_conda_run.models import Environment
from mcp_conda_run.planning.planner import Planner
from mcp_conda_run.planning.policy import Policy

from .conftest import MakeIndex, make_environment

UNDERSTOOD = [
    'subprocess.run([sys.executable, "-m", "pip", "install", "rich", "emoji>=2"], check=True)',
    'subprocess.check_call((sys.executable, "-m", "pip", "install", "-q", "rich", "emoji>=2"))',
    'subprocess.check_call([executable, "-m", "pip", "install", "rich", "emoji>=2"])',
    'subprocess.Popen(["pip", "install", "rich", "emoji>=2"])',
    'subprocess.run("pip install rich emoji>=2".split())',
    'subprocess.run(shlex.split("pip install rich emoji>=2"))',
    "subprocess.run(\"pip install rich 'emoji>=2'\", shell=True)",
    "os.system('pip install rich && pip install \"emoji>=2\"')",
    "os.system(f'{sys.executable} -m pip install rich \"emoji>=2\"')",
    "os.system(sys.executable + ' -m pip install rich \"emoji>=2\"')",
    "get_ipython().system(\"pip install rich 'emoji>=2'\")",
    'get_ipython().run_line_magic("pip", "install rich \'emoji>=2\'")',
    'pip.main(["install", "rich", "emoji>=2"])',
    'pip._internal.main(["install", "rich", "emoji>=2"])',
    'from pip import main\nmain(["install", "rich", "emoji>=2"])',
    'await asyncio.create_subprocess_exec(sys.executable, "-m", "pip", "install", "rich", "emoji>=2")',
    "try:\n    import rich\nexcept ImportError:\n    os.system(\"pip install rich 'emoji>=2'\")",
]


def asked(planner: Planner, code: str, *modules: str) -> list[str]:
    needs = planner.needs(code, environment=make_environment(*modules, packages={"pip": "25.0"}))
    assert needs.code == code
    return [package.spec for package in needs.declared]


@pytest.mark.parametrize("code", UNDERSTOOD)
def test_a_literal_install_is_asked_for_by_name(planner: Planner, code: str):
    assert asked(planner, code) == ["rich", "emoji>=2"]


@pytest.mark.parametrize(
    "code",
    [
        'subprocess.run([sys.executable, "-m", "pip", "install", package])',
        'subprocess.run([sys.executable, "-m", "pip", "install", *packages])',
        'subprocess.run(["pip", "list"])',
        'subprocess.run(["make", "install"])',
        'print("pip install rich")',
        'main(["install", "rich"])',
        'os.system("pip install \'rich")',
    ],
)
def test_what_is_no_literal_install_asks_for_nothing(planner: Planner, code: str):
    assert asked(planner, code) == []


@pytest.mark.parametrize(
    "code",
    [
        "os.system(" + " + ".join(["'pip install rich '"] * 800) + ")",
        "os.system('pip install " + " " * 500_000 + "rich')",
        "os.system('pip install " + "; " * 200_000 + "rich')",
        "subprocess.run(['pip', 'install'" + ", 'x'" * 20_000 + "])",
    ],
)
def test_absurd_commands_are_left_alone(planner: Planner, code: str):
    assert "rich" not in asked(planner, code)


def test_the_installer_that_the_code_starts_is_there(planner: Planner, environment: Environment):
    needs = planner.needs('os.system("pip install rich")', environment=environment)
    assert [package.spec for package in needs.declared] == ["pip", "rich"]


def test_conda_is_understood_too(planner: Planner):
    assert asked(planner, 'os.system("conda install -y -c conda-forge gdal=3.8")') == ["gdal =3.8"]


def test_an_install_with_more_than_names_is_left_to_the_code_and_said(planner: Planner, environment: Environment):
    needs = planner.needs('os.system("pip install -r requirements.txt")', environment=environment)
    (note,) = needs.notes
    assert "-r requirements.txt` is left to the code" in note


def test_a_metadata_block_is_still_the_only_truth(planner: Planner):
    block = '# /// script\n# dependencies = ["emoji"]\n# ///\n'
    assert asked(planner, block + 'os.system("pip install rich")') == ["emoji"]


async def test_it_is_taken_from_the_channel_where_that_has_it(planner: Planner, make_index: MakeIndex):
    needs = planner.needs('os.system("pip install opencv-python")', environment=make_environment())
    found = await planner.plan(needs, make_index("py-opencv", "pip"))
    assert [package.name for package in found.packages] == ["pip", "py-opencv"]


async def test_it_passes_the_gates_of_what_is_asked_for_by_name(make_index: MakeIndex):
    planner = Planner(Policy(pip="off"))
    needs = planner.needs('os.system("pip install nosuchproject")', environment=make_environment())
    with pytest.raises(RequestError) as caught:
        await planner.plan(needs, make_index("pip"))
    assert caught.value.code == "package-not-allowed"
