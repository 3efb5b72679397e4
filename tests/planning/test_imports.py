"""Imports of code, with their context."""

from __future__ import annotations

import warnings
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_conda_run.models import ImportContext
from mcp_conda_run.planning.conditions import Target
from mcp_conda_run.planning.imports import find_imports

LINUX = Target("linux", (3, 12, 4))


def contexts(code: str, target: Target = LINUX) -> dict[str, str]:
    return {item.module: str(item.context) for item in find_imports(dedent(code), target).imports}


def test_dotted_modules_and_taken_names_are_kept():
    (item,) = find_imports("from google.cloud import bigquery, storage as s").imports
    assert (item.module, item.names, item.line) == ("google.cloud", ("bigquery", "storage"), 1)


def test_relative_imports_and_future_do_not_count():
    assert contexts("from . import a\nfrom .b import c\nfrom __future__ import annotations") == {}


@pytest.mark.parametrize(
    ("code", "context"),
    [
        ("import x", "plain"),
        ("class A:\n    import x", "plain"),
        ("for i in y:\n    import x", "plain"),
        ("def f():\n    import x", "lazy"),
        ("async def f():\n    async with a:\n        import x", "lazy"),
        ("try:\n    import x\nexcept ImportError:\n    x = None", "optional"),
        ("try:\n    import x\nexcept Exception as e:\n    print(e)", "optional"),
        ("try:\n    import x\nexcept:\n    pass", "optional"),
        ("try:\n    pass\nexcept (KeyError, ModuleNotFoundError):\n    import x", "alternative"),
        ("try:\n    import x\nexcept ValueError:\n    pass", "plain"),
        ("try:\n    import x\nexcept ImportError:\n    raise", "plain"),
        ("try:\n    import x\nexcept ImportError:\n    sys.exit('no x')", "plain"),
        ("try:\n    pass\nfinally:\n    import x", "plain"),
        ("with contextlib.suppress(ImportError):\n    import x", "optional"),
        ("if TYPE_CHECKING:\n    import x", "type-checking"),
        ("if typing.TYPE_CHECKING and y:\n    import x", "type-checking"),
        ("if not TYPE_CHECKING:\n    import x", "plain"),
        ("if sys.platform == 'win32':\n    import x", "other-platform"),
        ("if sys.platform != 'win32':\n    import x", "plain"),
        ("if sys.platform.startswith('win'):\n    import x", "other-platform"),
        ("if sys.platform in ('win32', 'cygwin'):\n    import x", "other-platform"),
        ("if os.name == 'nt':\n    import x", "other-platform"),
        ("if platform.system() == 'Darwin':\n    import x", "other-platform"),
        ("if sys.version_info < (3, 11):\n    import x", "other-platform"),
        ("if sys.version_info >= (3, 11):\n    y\nelse:\n    import x", "other-platform"),
        ("if sys.version_info[0] == 2:\n    import x", "other-platform"),
        ("if sys.version_info[:2] >= (3, 8):\n    import x", "plain"),
        ("if False:\n    import x", "other-platform"),
        ("if unknown:\n    import x", "plain"),
        ("if importlib.util.find_spec('x'):\n    import x", "optional"),
        ("if find_spec('x') is not None:\n    import x", "optional"),
        ("match y:\n    case 1:\n        import x", "plain"),
        ("importlib.import_module('x')", "dynamic"),
        ("__import__('x')", "dynamic"),
        ("y = pytest.importorskip('x')", "dynamic"),
        ("def f():\n    return import_module('x')", "lazy"),
        ("try:\n    import_module('x')\nexcept ImportError:\n    pass", "optional"),
    ],
)
def test_the_context_of_an_import(code: str, context: str):
    assert contexts(code) == {"x": context}


def test_else_of_a_platform_branch_counts():
    assert contexts("if sys.platform == 'win32':\n    import a\nelse:\n    import b") == {
        "a": "other-platform",
        "b": "plain",
    }


def test_the_body_and_the_handler_of_a_try_are_alternatives_of_each_other():
    body, handler = find_imports("try:\n    import a\nexcept ImportError:\n    import b").imports
    assert body.group == handler.group != 0


def test_dynamic_imports_of_what_is_no_literal_name_do_not_count():
    assert contexts("import_module(name)\nimport_module('.rel', 'p')\n__import__('not a name')") == {}


def test_code_with_a_syntax_error_is_read_by_lines():
    found = find_imports("import numpy as np, rdkit.Chem\n  from osgeo import (gdal,\nx = = 1\nimport a!")
    assert found.tree is None
    assert [item.module for item in found.imports] == ["numpy", "rdkit.Chem", "osgeo", "a"]


def test_names_of_python_files_in_the_code_are_local_modules():
    assert find_imports("open('helper.py', 'w')\nimport helper").local == {"helper"}


def test_invalid_escapes_in_foreign_code_warn_nobody():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert contexts("import x\ny = '\\d'") == {"x": "plain"}


@pytest.mark.parametrize("code", ["import x\n" + "not " * 5000 + "1", "(" * 10_000, "import x\0", "\ud800import x"])
def test_code_that_no_parser_survives_is_read_all_the_same(code: str):
    find_imports(code)


def test_a_condition_deeper_than_python_recurses_still_has_its_imports():
    code = "if " + "not (" * 80 + "x" + ")" * 80 + ":\n    import y"
    assert "y" in contexts(code)


@given(st.text())
def test_no_text_makes_the_reader_fail(code: str):
    find_imports(code)


@given(
    st.lists(st.sampled_from(["import a", "from b import c", "try:", "except ImportError:", "    import d", "if x:"]))
)
def test_lines_of_imports_in_any_order_yield_only_names_that_stand_there(lines: list[str]):
    found = find_imports("\n".join(lines)).imports
    assert {item.module for item in found} <= {"a", "b", "d"}
    assert all(isinstance(item.context, ImportContext) for item in found)


@pytest.mark.parametrize("shape", ["x\n", "x;"])
def test_code_of_half_a_million_statements_is_read_by_its_lines(shape: str):
    code = "import numpy\n" + shape * 500_000 + "x\nfrom scipy import linalg\n"
    found = find_imports(code)
    assert [item.module for item in found.imports] == ["numpy", "scipy"]
    assert found.tree is None
