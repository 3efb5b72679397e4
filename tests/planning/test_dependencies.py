"""What packages of PyPI need in turn comes from the channels where these have it."""

from __future__ import annotations

from mcp_conda_run.models import LockedPackage, Plan
from mcp_conda_run.planning.planner import Planner
from mcp_conda_run.planning.policy import Policy

from .conftest import CountingIndex, MakeIndex, make_environment


async def made(planner: Planner, index: CountingIndex, *wheels: str) -> Plan:
    """Plan `pypi:asked`, which comes to itself and these wheels."""
    needs = planner.needs("", environment=make_environment(), packages=["pypi:Asked"])
    plan = await planner.plan(needs, index)
    found = [text.split("==") for text in ("asked==1.0", *wheels)]
    return await planner.with_dependencies(
        plan, [LockedPackage(name=name, version=version, manager="pypi") for name, version in found], index
    )


async def test_a_dependency_that_the_channel_has_comes_from_there_no_newer_than_pypis(
    planner: Planner, make_index: MakeIndex
):
    plan = await made(planner, make_index("pyyaml"), "pyyaml==6.0+local")
    assert [(p.spec, p.manager, p.decision) for p in plan.packages] == [
        ("Asked", "pypi", "requested"),
        ("pyyaml <=6.0", "conda", "dependency"),
    ]
    assert plan.packages[1].fallback == "pyyaml"


async def test_a_dependency_is_found_under_the_channels_name_in_this_machines_build(
    planner: Planner, make_index: MakeIndex
):
    index = make_index("pytorch", channels={"pytorch": "conda-forge"})
    plan = await made(planner, index, "torch==2.9.0")
    assert plan.packages[1].spec == "pytorch <=2.9.0 cpu_*"


async def test_the_solution_keeps_the_wheels_that_no_channel_has(planner: Planner, make_index: MakeIndex):
    plan = await made(planner, make_index("pyyaml"), "pyyaml==6.0", "nosuchthing==2.0")
    assert [wheel.name for wheel in plan.solution] == ["asked", "nosuchthing"]


async def test_what_was_asked_for_from_pypi_stays_there(planner: Planner, make_index: MakeIndex):
    plan = await made(planner, make_index("asked"))
    assert [p.manager for p in plan.packages] == ["pypi"]


async def test_a_library_of_the_dependencys_name_is_not_taken_for_it(planner: Planner, make_index: MakeIndex):
    plan = await made(planner, make_index(other=["zlib"]), "zlib==1.0")
    assert len(plan.packages) == 1


async def test_a_package_that_is_denied_is_no_dependency_either(make_index: MakeIndex):
    plan = await made(Planner(Policy(deny=frozenset({"pyyaml"}))), make_index("pyyaml"), "pyyaml==6.0")
    assert len(plan.packages) == 1


async def test_a_planned_package_knows_what_it_comes_to(planner: Planner, make_index: MakeIndex):
    plan = await made(planner, make_index("pyyaml"), "pyyaml==6.0")
    asked, pyyaml = plan.packages
    assert [one and one.version for one in (plan.solved(asked), plan.solved(pyyaml))] == ["1.0", None]
