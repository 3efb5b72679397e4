"""The guest's JSON is that of Python's `json`, whichever of its parts does the work, and is had without `re`."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_conda_run.guest import messages

from .conftest import Run

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
documents = st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)
objects = st.dictionaries(st.text(), documents)


@given(objects)
def test_what_is_written_reads_the_same_by_anybody(message):
    assert messages.encode(message) == json.dumps(message)
    assert messages.decode(json.dumps(message)) == message


@pytest.mark.parametrize("part", [messages.fast, messages.slow])
def test_both_ways_say_the_same(part):
    encode, decode = part()
    assert encode({"\u20ac\ud800": [math.inf, 10**30, {}]}) == '{"\\u20ac\\ud800": [Infinity, 1' + "0" * 30 + ", {}]}"
    assert math.isnan(decode('{"a": NaN}')["a"])


@pytest.mark.parametrize("text", ['{"a": 1} 2', "", "{", '{"a": x}'])
def test_what_is_no_message_is_refused(text):
    with pytest.raises((ValueError, StopIteration)):
        messages.decode(text)


def test_what_has_no_form_is_refused():
    with pytest.raises(TypeError, match="object has no JSON form"):
        messages.encode({"a": object()})


async def test_a_program_finds_no_modules_that_only_the_guest_needs(run_any: Run):
    said = await run_any(
        "import sys; sorted({'json', 're', 'ast', 'enum', 'functools', 'contextlib'} & set(sys.modules))"
    )
    assert said.record is not None
    assert said.record.value.json == []
