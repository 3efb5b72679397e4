"""Match specs, requirements and Python versions, hostile ones included."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet

from mcp_conda_run.errors import RequestError
from mcp_conda_run.planning.specs import parse_requirement, parse_spec, python_constraint


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("gdal", "gdal"),
        ("gdal>=3.8", "gdal >=3.8"),
        ("gdal >=3.8 , <4", "gdal >=3.8,<4"),
        ("numpy=1.26", "numpy =1.26"),
        ("numpy=*", "numpy *"),
        ("numpy=1.26=py312*", "numpy ==1.26 py312*"),
        ("pytorch=*=cpu_*", "pytorch * cpu_*"),
        ("python 3.12.*", "python 3.12.*"),
        ("conda-forge::rdkit", "conda-forge::rdkit"),
        ("bioconda::samtools>=1.20", "bioconda::samtools >=1.20"),
        ("PyYAML", "pyyaml"),
        ('x[version=">=1,<2", build="cpu*"]', "x >=1,<2 cpu*"),
        ("x=1|=2", "x =1|=2"),
    ],
)
def test_match_specs_as_people_write_them(text: str, spec: str):
    assert str(parse_spec(text)) == spec


@pytest.mark.parametrize(
    "text",
    [
        "", "sci*", "../x", "/etc/passwd", "x;rm -rf /", "x && y", "$(id)", "`id`", "x|y", "-c evil", "--file=x", "http://a/b",
        "https://evil.test::x", "file:///x::y", "x @ https://a/b", "x[url=http://a/b]", "x[md5=1]", "x[version=1",
        "x[version=1,version=2]", "..::x", "x 1 2 3", "*", "__cuda", "x\ny", "x\0", "\u0445", "a" * 400,
    ],
)  # fmt: skip
def test_everything_that_is_no_match_spec_is_refused(text: str):
    with pytest.raises(RequestError) as caught:
        parse_spec(text)
    assert caught.value.code == "bad-package-spec"


@given(st.text(max_size=80))
def test_what_a_spec_says_never_holds_more_than_names_versions_and_builds(text: str):
    try:
        said = str(parse_spec(text))
    except RequestError:
        return
    assert not set(said) & set("/\\;&$`'\"()[]{}@\n\r\t%#?") - {"/"}
    assert "://" not in said
    assert not said.startswith("-")


@pytest.mark.parametrize("text", ["x @ https://a/b", "x @ file:///x", "./x", "-r x.txt", "git+https://a/b", "x y"])
def test_requirements_by_url_or_path_are_refused(text: str):
    with pytest.raises(RequestError):
        parse_requirement(text)


@given(st.text(max_size=80))
def test_no_text_makes_the_requirement_reader_fail_otherwise(text: str):
    with contextlib.suppress(RequestError):
        assert parse_requirement(text).url is None


@pytest.mark.parametrize(
    ("texts", "constraint"),
    [
        ([], ""),
        (["3.12"], ""),
        ([">=3.11"], ""),
        (["=3.12"], ""),
        (["3.12.*"], ""),
        (["3.13"], "=3.13"),
        (["3.11.9"], "==3.11.9"),
        (["<3.12"], "<3.12"),
        ([">=3.10", "<3.12"], "<3.12,>=3.10"),
    ],
)
def test_python_is_constrained_only_where_the_environments_will_not_do(texts: list[str], constraint: str):
    assert python_constraint(texts, "3.12.4") == constraint


@pytest.mark.parametrize("text", ["2.7", "<3.8", "four", "3.12; rm -rf /", ">=99", "3" * 400])
def test_a_python_that_cannot_be_had_is_an_error(text: str):
    with pytest.raises(RequestError) as caught:
        python_constraint([text], "3.12.4")
    assert caught.value.code == "bad-python-version"


@given(st.integers(10, 20), st.sampled_from([">=", "<=", "==", "~=", "!=", "<", ">"]))
def test_an_empty_constraint_means_that_the_present_python_satisfies_it(minor: int, operator: str):
    text = f"{operator}3.{minor}"
    try:
        needed = python_constraint([text], "3.12.4")
    except RequestError:
        return
    assert (needed == "") == SpecifierSet(text).contains("3.12.4")
