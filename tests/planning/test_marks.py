"""Walks over the parts of a tree where a word occurs: nothing there is missed, nothing else is visited."""

from __future__ import annotations

import ast
import re

import pytest

from mcp_conda_run.planning.imports import find_imports
from mcp_conda_run.planning.marks import Marks

WORD = re.compile("word")


def names(code: str) -> list[str]:
    return [node.id for node in Marks(code, WORD).walk(ast.parse(code)) if isinstance(node, ast.Name)]


def test_only_lines_with_the_word_are_visited():
    assert names("a = b\nword = c\nd = e\n") == ["word", "c"]


def test_a_text_without_the_word_has_no_marks():
    assert not Marks("a = b\n", WORD)


@pytest.mark.parametrize(
    "code",
    [
        "@word\ndef f(): ...\n",
        "class A:\n    def f(self):\n        if x:\n            word()\n",
        "f(\n  a,\n  word,\n)\n",
        "match x:\n    case 1:\n        word()\n",
        "x = 1\rword()\r",
        "x = '''\n\n'''\r\nword()\r\n",
        "[a for a in b\n if word]\n",
    ],
)
def test_the_word_is_found_wherever_it_stands(code: str):
    assert "word" in names(code)


def test_a_dynamic_import_far_down_keeps_its_place_and_line():
    code = "x = 1\n" * 1000 + "def f():\n    y = 2\n    return import_module('rdkit')\n"
    (found,) = find_imports(code).imports
    assert (found.module, found.line) == ("rdkit", 1003)
