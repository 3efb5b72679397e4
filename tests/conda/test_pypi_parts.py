"""The parts of the worker for PyPI that need neither an index nor an environment."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.tags import Tag

from mcp_conda_run.conda.pypi_projects import File, moment, target_tags
from mcp_conda_run.conda.pypi_uv import explain
from mcp_conda_run.conda.pypi_web import Web
from mcp_conda_run.conda.pypi_wheels import has_module

WORDS = st.text("ab_.-/1", max_size=12)


@pytest.mark.parametrize(
    ("module", "files"),
    [
        ("mine", {"mine.py"}),
        ("mine", {"mine/__init__.py"}),
        ("mine.part", {"mine/__init__.py"}),
        ("mine", {"mine.cpython-312-x86_64-linux-gnu.so"}),
        ("mine", {"mine.abi3.so"}),
        ("google.cloud.mine", {"google/cloud/mine/__init__.py"}),
        ("google.cloud", {"google/cloud/mine/__init__.py"}),
        ("mine", {"mine/fast.pyd"}),
    ],
)
def test_a_module_is_found_in_a_wheel(module: str, files: set[str]):
    assert has_module(files, module)


@pytest.mark.parametrize(
    ("module", "files"),
    [
        ("mine", {"yours.py", "mine.txt", "mine/data.json"}),
        ("mine", {"mine.libs/libz.so"}),
        ("mine", {"minecraft/__init__.py"}),
        ("google.cloud.mine", {"google/cloud/yours/__init__.py"}),
        ("mine", {"mine-1.0.dist-info/mine.py"}),
        ("mine", set()),
    ],
)
def test_what_only_looks_like_the_module_is_not_it(module: str, files: set[str]):
    assert not has_module(files, module)


@given(st.sets(WORDS, max_size=5), WORDS)
def test_any_file_names_and_modules_are_answered(files: set[str], module: str):
    assert has_module(files, module) in {True, False}


@given(st.text(max_size=40))
def test_any_file_name_of_an_index_is_read_or_left(name: str):
    wheel = File(name, "").wheel()
    assert wheel is None or "/" not in name


def test_tags_are_those_of_the_environments_python():
    tags = target_tags("3.12.4")
    assert tags[0].interpreter == "cp312"
    assert Tag("py3", "none", "any") in tags
    assert not [tag for tag in tags if tag.interpreter == "cp313"]


def test_a_python_without_a_lock_takes_no_wheels_of_the_other_kind():
    tags = target_tags("3.13.1", free_threaded=True)
    abis = {tag.abi for tag in tags}
    assert ("cp313t" in abis, abis & {"cp313", "abi3"}) == (True, set())


def test_a_date_ends_with_its_day_and_a_time_without_zone_is_utc():
    assert moment("2025-12-31") > datetime(2025, 12, 31, 23, 59, tzinfo=UTC)
    assert moment("2025-12-31T12:00:00") == moment("2025-12-31T12:00:00Z") == moment("2025-12-31T14:00:00+02:00")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("error: No solution found\n cause: Because a has no usable wheels and ...", "pypi-no-wheel"),
        (
            "error: No solution found\n cause: Because a==1.0 has no wheels with a matching platform tag",
            "pypi-no-wheel",
        ),
        ("error: No solution found\n cause: Because a was not found in the package registry and", "pypi-not-found"),
        ("error: No solution found\nhint: `a` was filtered by `exclude-newer` to only", "pypi-too-new"),
        ("error: No solution found\n cause: Because a==1 depends on numpy<1 and numpy==2.0, we", "pypi-conflict"),
        ("error: No solution found\n cause: a and b never meet", "pypi-conflict"),
        ("error: Failed to fetch: https://u:p@x/\n cause: Connection refused (os error 111)", "pypi-unreachable"),
        ("error: Failed to fetch: https://x/\n cause: operation timed out", "pypi-timeout"),
        ("error: failed to write\n cause: No space left on device (os error 28)", "disk-full"),
        ("error: something new", "install-failed"),
        ("", "install-failed"),
    ],
)
def test_each_refusal_of_uv_has_its_code(text: str, code: str):
    error = explain(text, {"numpy": "2.0"}, "https://u:p@x/simple", Path("/nowhere"), offline=False)
    assert (error.code, "u:p" in str(error)) == (code, False)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/y.whl", "javascript:1", "http://"])
def test_an_address_that_is_not_http_is_no_address(url: str):
    with Web("https://x/simple") as web:
        assert web.absolute(url, web.project_url("a")) == ""


def test_addresses_are_absolute_and_carry_no_credentials():
    with Web("https://u:p@x/simple") as web:
        assert web.project_url("a") == "https://x/simple/a/"
        assert web.absolute("../../files/a.whl#sha256=1", web.project_url("a")) == "https://x/files/a.whl"
        assert web.absolute("https://u:p@y/a.whl", web.project_url("a")) == "https://y/a.whl"
