"""What may come from where."""

from __future__ import annotations

import pytest

from mcp_conda_run.errors import RequestError
from mcp_conda_run.models import PlannedPackage
from mcp_conda_run.planning.planner import Planner
from mcp_conda_run.planning.policy import Answer, Policy
from mcp_conda_run.planning.tables import load_tables
from mcp_conda_run.settings import load_settings

from .conftest import MakeIndex, make_environment


def pypi(name: str, decision: str = "override") -> PlannedPackage:
    return PlannedPackage(name, name, "pypi", "", decision)


@pytest.mark.parametrize(
    ("setting", "can_ask", "decision", "answer"),
    [
        ("off", True, "requested", Answer.NO),
        ("on", False, "online", Answer.YES),
        ("ask", True, "requested", Answer.ASK),
        ("ask", False, "requested", Answer.NO),
        ("auto", True, "requested", Answer.ASK),
        ("auto", False, "requested", Answer.YES),
        ("auto", False, "declared", Answer.YES),
        ("auto", False, "override", Answer.YES),
        ("auto", False, "map", Answer.NO),
        ("auto", False, "online", Answer.NO),
    ],
)
def test_pypi_is_open_as_far_as_the_setting_says(setting: str, can_ask: bool, decision: str, answer: Answer):
    assert Policy(pip=setting).judge(pypi("x", decision), can_ask=can_ask).answer is answer


@pytest.mark.parametrize(
    "name", ["fitz", "cv2", "sklearn", "osgeo", "bio", "pil", "yaml", "skimage", "dateutil", "bs4"]
)
def test_names_that_trap_people_are_never_taken_from_pypi(name: str):
    verdict = Policy(pip="on").judge(pypi(name, "requested"), traps=load_tables().traps)
    assert verdict.answer is Answer.NO
    assert verdict.hint


@pytest.mark.parametrize("name", ["pymupdf", "numpy", "torch", "redis", "graphviz", "gurobipy", "stripe"])
def test_projects_of_their_own_name_are_no_traps(name: str):
    assert name not in load_tables().traps


def test_the_deny_list_wins_over_the_allow_list():
    policy = Policy(allow=frozenset({"gdal"}), deny=frozenset({"gdal"}))
    assert policy.judge(PlannedPackage("gdal", "gdal")).answer is Answer.NO


def test_an_allow_list_allows_nothing_else():
    policy = Policy(allow=frozenset({"gdal", "pypi:rich"}))
    assert policy.judge(PlannedPackage("gdal", "gdal")).answer is Answer.YES
    assert policy.judge(PlannedPackage("rdkit", "rdkit")).answer is Answer.NO
    assert policy.judge(pypi("Rich")).answer is Answer.YES
    assert policy.judge(pypi("gdal")).answer is Answer.NO


def test_the_settings_reach_the_policy():
    settings = load_settings(pip="ask", deny_packages="GDAL, pypi:Some_Thing", allow_channels="conda-forge,bioconda")
    policy = Policy.from_settings(settings)
    assert policy.pip == "ask"
    assert policy.deny == {"gdal", "pypi:some-thing"}
    assert policy.extra_channels() == ("bioconda",)


async def test_a_denied_package_that_was_asked_for_is_an_error(make_index: MakeIndex):
    planner = Planner(Policy(deny=frozenset({"rdkit"})))
    needs = planner.needs("", environment=make_environment("numpy"), packages=["rdkit"])
    with pytest.raises(RequestError) as caught:
        await planner.plan(needs, make_index("rdkit"))
    assert caught.value.code == "package-not-allowed"


async def test_a_denied_package_of_an_import_is_unknown_with_the_reason(make_index: MakeIndex):
    planner = Planner(Policy(deny=frozenset({"rdkit"})))
    needs = planner.needs("import rdkit", environment=make_environment("numpy"))
    plan = await planner.plan(needs, make_index("rdkit"))
    assert not plan.packages
    assert "deny list" in plan.unknown[0].reason


async def test_a_package_of_pypi_only_is_refused_with_a_hint_where_pypi_is_off(make_index: MakeIndex):
    planner = Planner(Policy(pip="off"))
    needs = planner.needs("import gurobipy", environment=make_environment("numpy"))
    (unknown,) = (await planner.plan(needs, make_index())).unknown
    assert "MCP_CONDA_RUN_PIP" in unknown.reason
    assert (unknown.candidates[0].name, unknown.candidates[0].channel) == ("gurobipy", "pypi")


async def test_no_name_for_pypi_is_ever_made_from_an_import(make_index: MakeIndex):
    planner = Planner(Policy(pip="on"))
    needs = planner.needs("import frobnicate, foo.bar", environment=make_environment("numpy"))
    assert not (await planner.plan(needs, make_index())).packages


async def test_what_must_be_asked_is_said(make_index: MakeIndex):
    planner = Planner(Policy())
    needs = planner.needs("import gurobipy, rdkit", environment=make_environment("numpy"))
    plan = await planner.plan(needs, make_index("rdkit"), can_ask=True)
    assert [package.name for package in planner.to_ask(plan, can_ask=True)] == ["gurobipy"]
    assert planner.to_ask(plan, can_ask=False) == ()
