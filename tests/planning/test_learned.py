"""What a machine learns from its environments."""

from __future__ import annotations

from pathlib import Path

from mcp_conda_run.models import PlannedPackage
from mcp_conda_run.planning.learned import Learned
from mcp_conda_run.planning.planner import Planner
from mcp_conda_run.planning.policy import Policy
from mcp_conda_run.settings import load_settings

from .conftest import MakeIndex, make_environment


def planned(module: str, name: str, decision: str = "identity") -> PlannedPackage:
    return PlannedPackage(name, name, "conda", module, decision)


async def test_a_package_that_did_not_bring_its_module_is_not_planned_again(tmp_path: Path, make_index: MakeIndex):
    file = tmp_path / "learned.json"
    failed = Learned(file).confirm([planned("frob", "frob"), planned("numpy", "numpy")], make_environment("numpy"))
    assert [package.name for package in failed] == ["frob"]
    planner = Planner(Policy(), Learned(file))
    plan = await planner.plan(planner.needs("import frob", environment=make_environment("numpy")), make_index("frob"))
    assert not plan.packages


async def test_modules_of_a_package_that_was_asked_for_are_known_next_time(tmp_path: Path, make_index: MakeIndex):
    file = tmp_path / "learned.json"
    Learned(file).confirm([planned("", "frob", "requested")], make_environment("frob", "frob.part"))
    planner = Planner(Policy(), Learned(file))
    needs = planner.needs("import frob.part", environment=make_environment("numpy"))
    plan = await planner.plan(needs, make_index("frob"))
    assert [package.name for package in plan.packages] == ["frob"]


async def test_what_was_learned_never_beats_a_table_or_the_imports_own_package(tmp_path: Path, make_index: MakeIndex):
    file = tmp_path / "learned.json"
    file.write_text('{"good": {"yaml": "evil", "rich": "evil"}, "bad": {}}')
    planner = Planner(Policy(), Learned(file))
    needs = planner.needs("import yaml, rich", environment=make_environment("numpy"))
    plan = await planner.plan(needs, make_index("evil", "pyyaml", "rich"))
    assert [package.name for package in plan.packages] == ["pyyaml", "rich"]


async def test_the_planner_of_the_settings_keeps_what_it_learned(tmp_path: Path, make_index: MakeIndex):
    settings = load_settings(cache_dir=tmp_path)
    environment = make_environment("numpy")
    planner = Planner.from_settings(settings)
    plan = await planner.plan(planner.needs("import frob", environment=environment), make_index("frob"))
    assert [package.name for package in planner.confirm(plan, environment)] == ["frob"]
    again = Planner.from_settings(settings)
    assert not (await again.plan(again.needs("import frob", environment=environment), make_index("frob"))).packages


def test_a_part_of_a_shared_root_is_looked_for_itself(tmp_path: Path):
    learned = Learned(tmp_path / "learned.json")
    package = planned("google.cloud.vision", "google-cloud-vision")
    assert learned.confirm([package], make_environment("google.cloud.storage")) == (package,)
    assert learned.confirm([package], make_environment("google.cloud.vision")) == ()


def test_a_damaged_file_holds_nothing(tmp_path: Path):
    file = tmp_path / "learned.json"
    for text in ("", "{", "[]", '{"good": []}', '{"good": {}, "bad": {"x": 1}}'):
        file.write_text(text)
        assert Learned(file).package("x") == ""


def test_a_directory_that_cannot_be_written_is_no_error(tmp_path: Path):
    (tmp_path / "file").touch()
    learned = Learned(tmp_path / "file" / "learned.json")
    assert learned.confirm([planned("frob", "frob")], make_environment("numpy"))
    assert learned.refuted("frob") == {"frob"}
