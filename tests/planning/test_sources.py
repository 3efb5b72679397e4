"""Mapping data from elsewhere."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from mcp_conda_run.planning.planner import Planner
from mcp_conda_run.planning.policy import Policy
from mcp_conda_run.planning.sources import BOT_MAPS, InstalledMap, OnlineMap, read_shard, shard_of

from .conftest import MakeIndex, make_environment


class Web:
    """Answers by URL, and counts."""

    def __init__(self, answers: dict[str, bytes]) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self._lock = threading.Lock()

    def __call__(self, url: str) -> bytes:
        with self._lock:
            self.asked.append(url)
        if url not in self.answers:
            raise OSError("unreachable")
        return self.answers[url]


def shard(root: str, packages: dict[str, list[str]]) -> dict[str, bytes]:
    body = {module: {"__set__": True, "elements": names} for module, names in packages.items()}
    return {f"{BOT_MAPS}/{shard_of(root)}": json.dumps(body).encode()}


async def plan_names(planner: Planner, code: str, index: object) -> list[str]:
    needs = planner.needs(code, environment=make_environment("numpy"))
    return [package.name for package in (await planner.plan(needs, index)).packages]  # type: ignore[arg-type]


def test_a_shard_lies_under_the_hash_of_its_name():
    assert shard_of("sklearn").endswith("/sklearn.json")
    assert shard_of("a_very_long_name").rpartition("/")[2] == "a_very_lon.json"
    assert len(shard_of("x").split("/")) == 6


async def test_a_public_map_proposes_and_the_index_disposes(tmp_path: Path, make_index: MakeIndex):
    web = Web(shard("frob", {"frob": ["libfrob-wrapper"]}))
    planner = Planner(Policy(online=True), online=OnlineMap(tmp_path, read=web))
    assert await plan_names(planner, "import frob", make_index("libfrob-wrapper")) == ["libfrob-wrapper"]
    assert await plan_names(planner, "import frob", make_index(other=["libfrob-wrapper"])) == []


async def test_a_module_in_several_packages_is_not_guessed(tmp_path: Path, make_index: MakeIndex):
    web = Web(shard("frob", {"frob": ["one", "two"]}))
    planner = Planner(Policy(online=True), online=OnlineMap(tmp_path, read=web))
    assert await plan_names(planner, "import frob", make_index("one", "two")) == []


async def test_public_maps_are_never_asked_unless_switched_on(tmp_path: Path, make_index: MakeIndex):
    web = Web({})
    planner = Planner(Policy(online=False), online=OnlineMap(tmp_path, read=web))
    await plan_names(planner, "import frob", make_index())
    assert web.asked == []


async def test_an_answer_is_kept_and_a_failing_source_is_left_alone(tmp_path: Path):
    web = Web(shard("frob", {"frob": ["frob-x"]}))
    now = [0.0]
    maps = OnlineMap(tmp_path, read=web, clock=lambda: now[0])
    await maps.prepare(["frob"])
    await maps.prepare(["frob"])
    assert len(web.asked) == 1
    assert maps.lookup("frob") == ("frob-x",)
    await maps.prepare(["other"])
    await maps.prepare(["third"])
    assert len(web.asked) == 2
    now[0] = 1000.0
    await maps.prepare(["third"])
    assert len(web.asked) == 3


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'{"x": 1}', b'{"x": {"elements": 3}}', b"\xff"])
def test_answers_of_another_shape_hold_nothing(body: bytes):
    assert read_shard(body) == {}


def test_names_that_are_no_package_names_are_dropped():
    body = json.dumps({"x": {"elements": ["../etc", "good-name", 3, "a b"]}}).encode()
    assert read_shard(body) == {"x": ("good-name",)}


def test_the_map_of_an_installed_conda_pypi_is_read_by_path(tmp_path: Path):
    file = tmp_path / "map.json"
    file.write_text(json.dumps({"x": {"pypi_name": "x", "conda_name": "frob-x", "import_name": "frob"}}))
    assert InstalledMap(file).lookup("frob") == ("frob-x",)
    assert InstalledMap(tmp_path / "absent.json").lookup("frob") == ()
