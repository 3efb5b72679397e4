"""What code declares about itself."""

from __future__ import annotations

import contextlib
import time
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_conda_run.errors import RequestError
from mcp_conda_run.planning.inline import Declared, read_metadata, script_blocks


def read(code: str) -> Declared:
    return read_metadata(dedent(code), "3.12.4")


def test_code_without_a_block_declares_nothing():
    declared = read("import x  # a /// b")
    assert not declared.only
    assert not declared.packages


def test_dependencies_and_python_of_a_script_block():
    declared = read("""\
        # /// script
        # requires-python = ">=3.11"
        # dependencies = ["requests<3", "rich[jupyter]"]
        # ///
        import other
        """)
    assert declared.only
    assert [package.spec for package in declared.packages] == ["requests<3", "rich[jupyter]"]
    assert {package.manager for package in declared.packages} == {"pypi"}
    assert declared.python == [">=3.11"]


def test_a_requirement_whose_marker_does_not_hold_is_left_out_and_said():
    declared = read("""\
        # /// script
        # dependencies = [
        #   "pywin32; sys_platform == 'win32'",
        #   "tomli; python_version < '3.11'",
        #   "x; python_version >= '3.12'",
        # ]
        # ///
        """)
    assert [package.name for package in declared.packages] == ["x"]
    assert len(declared.notes) == 2


def test_pixi_tables_name_conda_packages_and_channels():
    declared = read("""\
        # /// script
        # dependencies = []
        # [tool.pixi.workspace]
        # channels = ["conda-forge", {channel = "bioconda"}]
        # [tool.pixi.dependencies]
        # gdal = ">=3.8"
        # python = "3.12.*"
        # pytorch = {version = "*", build = "cpu*"}
        # samtools = {version = ">=1.20", channel = "bioconda"}
        # [tool.pixi.pypi-dependencies]
        # rich = "*"
        # ///
        """)
    assert [package.spec for package in declared.packages] == [
        "gdal >=3.8", "pytorch * cpu*", "bioconda::samtools >=1.20", "rich",
    ]  # fmt: skip
    assert declared.channels == ["conda-forge", "bioconda"]
    assert declared.python == ["3.12.*"]


def test_a_conda_table_is_understood_as_list_and_as_table():
    declared = read("""\
        # /// script
        # [tool.conda]
        # channels = ["conda-forge"]
        # dependencies = ["gdal>=3.8", "r-base"]
        # ///
        """)
    assert [package.spec for package in declared.packages] == ["gdal >=3.8", "r-base"]


def test_a_conda_script_block_is_understood():
    declared = read("""\
        # /// conda-script
        # channels = ["conda-forge"]
        # [dependencies]
        # rdkit = "*"
        # /// end-conda-script
        import rdkit
        """)
    assert declared.only
    assert [package.spec for package in declared.packages] == ["rdkit"]


@pytest.mark.parametrize(
    "block",
    [
        "dependencies = [",
        "dependencies = 'x'",
        "dependencies = [1]",
        "dependencies = ['x @ https://evil.test/x.whl']",
        "dependencies = ['../x']",
        "requires-python = 3",
        "tool = 1",
        "[tool.uv]\n# index-url = 'https://evil.test'",
        "[tool.uv.sources]\n# x = {git = 'https://evil.test'}",
        "[tool.pixi.dependencies]\n# x = {path = '/etc'}",
        "[tool.pixi.dependencies]\n# x = {url = 'https://evil.test'}",
        "[tool.pixi.dependencies]\n# 'x; rm' = '*'",
        "[tool.pixi.workspace]\n# channels = ['https://evil.test']",
        "[tool.pixi.workspace]\n# channels = ['../x']",
        "[tool.pixi.pypi-dependencies]\n# x = {git = 'https://evil.test'}",
        "[tool.conda]\n# dependencies = ['$(id)']",
        "x = " + "[" * 5000,
        "dependencies = [" + "'x'," * 20_000 + "]",
        "x = 1\n# x = 2",
    ],
)
def test_a_block_that_asks_for_too_much_is_one_clear_error(block: str):
    with pytest.raises(RequestError) as caught:
        read(f"# /// script\n# {block}\n# ///\n")
    assert caught.value.hint


def test_two_script_blocks_are_an_error():
    with pytest.raises(RequestError, match="several blocks"):
        read("# /// script\n# dependencies = []\n# ///\n\n# /// script\n# dependencies = []\n# ///\n")


def test_two_blocks_without_a_line_between_them_are_said_to_be_two():
    block = "# /// script\n# dependencies = []\n# ///\n"
    with pytest.raises(RequestError, match="another block begins within it"):
        read(block * 2)


def test_a_block_of_another_type_and_an_unclosed_one_are_ignored():
    assert not read("# /// other\n# x\n# ///\n\n# /// script\n# dependencies = ['x']\nimport y").only


def test_a_block_ends_at_the_last_end_line_of_its_comments():
    blocks = list(script_blocks(["# /// script", "# a = 1", "# ///", "# b = 2", "# ///", "x"]))
    assert blocks == [("script", "a = 1\n///\nb = 2")]


def test_windows_line_ends_are_read():
    assert read("# /// script\r\n# dependencies = ['x']\r\n# ///\r\n").packages[0].name == "x"


def test_a_megabyte_of_begun_blocks_is_read_in_linear_time():
    began = time.process_time()
    read("# /// script\n" * 80_000)
    assert time.process_time() - began < 10, "in quadratic time it takes minutes"


@given(
    st.lists(st.sampled_from(["# /// script", "# ///", "# dependencies = ['x']", "#", "x = 1", "# /// other", "#x"]))
)
def test_any_order_of_block_lines_is_read_or_refused(lines: list[str]):
    with contextlib.suppress(RequestError):
        assert isinstance(read_metadata("\n".join(lines), "3.12.4"), Declared)


@given(st.text())
def test_any_content_of_a_block_is_read_or_refused(content: str):
    block = "".join(f"# {line}\n" for line in content.split("\n"))
    with contextlib.suppress(RequestError):
        read_metadata(f"# /// script\n{block}# ///\n", "3.12.4")
