"""What the host believes of a guest's record: nothing that is not checked."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_conda_run.sandbox.record import PNG_SIGNATURE, BadRecordError, RecordLimits, parse_record

LIMITS = RecordLimits()
VALUE = {"json": None, "is_json": False, "text": "x", "type": "X", "truncated": False}
RECORD = {"value": VALUE, "error": None, "exit_code": 0, "figures": [], "mapped": 0, "notes": []}


def parse(**fields):
    return parse_record(json.dumps(RECORD | fields).encode(), LIMITS)


def offered(*documents):
    representations = [{"mime_type": mime_type, "data": data} for mime_type, data in documents]
    return parse(value=VALUE | {"representations": representations}).value.representations


def image(mime_type, data):
    return {"mime_type": mime_type, "data": base64.b64encode(data).decode(), "title": "t"}


@pytest.mark.parametrize(
    ("mime_type", "data"),
    [
        ("text/html", "<b>"),
        ("text/markdown", "|"),
        ("text/latex", "$"),
        ("image/svg+xml", "<svg/>"),
        ("application/json", "{}"),
        ("application/vnd.vegalite.v5+json", "[]"),
    ],
)
def test_documents_of_known_types_are_kept(mime_type, data):
    assert [(each.mime_type, each.text) for each in offered((mime_type, data))] == [(mime_type, data)]


@pytest.mark.parametrize(
    ("mime_type", "data"),
    [
        ("text/javascript", "x"),
        ("application/pdf", "x"),
        ("application/json", "no json"),
        ("application/json", "[" * 100_000),
        ("application/\njson", "{}"),
        ("image/svg+xml", "<html>"),
        ("image/png", "x"),
        ("", ""),
    ],
)
def test_other_documents_are_passed_over(mime_type, data):
    assert offered((mime_type, data)) == ()


def test_of_two_documents_of_a_type_the_first_is_kept():
    assert [each.text for each in offered(("text/html", "1"), ("text/html", "2"))] == ["1"]


def test_documents_beyond_the_bound_are_passed_over():
    large = "x" * (LIMITS.representation_bytes - 1)
    assert [each.mime_type for each in offered(("text/html", large), ("text/latex", "yyy"))] == ["text/html"]


def test_a_lone_surrogate_in_a_document_is_replaced():
    assert offered(("text/html", "\ud800"))[0].text.encode()


@pytest.mark.parametrize("representations", [None, {}, "x", [None], [{"mime_type": 5, "data": "x"}], [{"data": "x"}]])
def test_documents_of_the_wrong_shape_make_it_no_record(representations):
    with pytest.raises(BadRecordError):
        parse(value=VALUE | {"representations": representations})


def test_images_are_png_or_jpeg_by_their_signature():
    figures = [image("image/png", PNG_SIGNATURE), image("image/jpeg", b"\xff\xd8\xff\xe0")]
    assert [figure.mime_type for figure in parse(figures=figures).figures] == ["image/png", "image/jpeg"]


@pytest.mark.parametrize(
    ("mime_type", "data"),
    [
        ("image/png", b"\xff\xd8\xff"),
        ("image/jpeg", PNG_SIGNATURE),
        ("image/svg+xml", b"<svg/>"),
        ("text/html", PNG_SIGNATURE),
        ("image/png", PNG_SIGNATURE + bytes(LIMITS.figure_bytes)),
    ],
)
def test_images_that_are_not_what_they_claim_are_left_out_with_a_note(mime_type, data):
    record = parse(figures=[image(mime_type, data)])
    assert record.figures == ()
    assert record.notes == ("1 figure(s) left out: no PNG or JPEG, or too large.",)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(value=JSON, representations=JSON, figures=JSON)
def test_whatever_a_guest_sends_is_a_record_or_none(value, representations, figures):
    for fields in ({"value": value}, {"value": VALUE | {"representations": representations}}, {"figures": figures}):
        try:
            record = parse(**fields)
        except BadRecordError:
            continue
        assert record.exit_code == 0
