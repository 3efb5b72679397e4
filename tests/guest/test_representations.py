"""What a value offers beside its text: documents and images, asked for as notebooks ask, whatever the value does."""

from __future__ import annotations

import functools
import json

import pytest

from mcp_conda_run.models import Value
from mcp_conda_run.sandbox.record import PNG_SIGNATURE, RecordLimits

PNG = (
    "import zlib, struct\n"
    "def chunk(k, b): return struct.pack('>I', len(b)) + k + b + struct.pack('>I', zlib.crc32(k + b))\n"
    "PNG = (b'\\x89PNG\\r\\n\\x1a\\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 1, 1, 8, 2, 0, 0, 0))\n"
    "       + chunk(b'IDAT', zlib.compress(b'\\0' * 4)) + chunk(b'IEND', b''))\n"
)


def offering(**methods: str) -> str:
    """Return a program whose value has these methods, which return these expressions."""
    body = "\n".join(f"    def _repr_{name}_(self, **asked): return {said}" for name, said in methods.items())
    return f"{PNG}class X:\n{body}\nX()"


def described(conversation) -> Value:
    assert conversation.record is not None, conversation
    assert conversation.record.error is None, conversation.record.error.traceback
    return conversation.record.value


def texts(value: Value) -> dict[str, str]:
    return {each.mime_type: each.text for each in value.representations}


@pytest.mark.parametrize(
    ("method", "said", "mime_type", "text"),
    [
        ("html", "'<b>x</b>'", "text/html", "<b>x</b>"),
        ("html", "('<b>x</b>', {'isolated': True})", "text/html", "<b>x</b>"),
        ("svg", "'<svg/>'", "image/svg+xml", "<svg/>"),
        ("latex", "'$x^2$'", "text/latex", "$x^2$"),
        ("markdown", "'**x**'", "text/markdown", "**x**"),
        ("json", "{'a': [1]}", "application/json", '{"a": [1]}'),
        ("mimebundle", "{'text/html': '<i>'}", "text/html", "<i>"),
        ("mimebundle", "({'text/html': '<i>'}, {})", "text/html", "<i>"),
        ("mimebundle", "{'application/geo+json': {'type': 'Point'}}", "application/geo+json", '{"type": "Point"}'),
    ],
)
async def test_what_notebooks_show_is_in_the_record(run_any, method, said, mime_type, text):
    assert texts(described(await run_any(offering(**{method: said})))) == {mime_type: text}


async def test_a_bundle_outranks_the_single_methods(run):
    found = described(await run(offering(mimebundle="{'text/html': 'bundle'}", html="'single'", latex="'$x$'")))
    assert texts(found) == {"text/html": "bundle", "text/latex": "$x$"}


@pytest.mark.parametrize(
    "offers",
    [
        {"png": "PNG"},
        {"mimebundle": "{'image/png': PNG}"},
        {"mimebundle": "{'image/png': __import__('base64').b64encode(PNG).decode()}"},
    ],
)
async def test_a_values_image_comes_back_as_a_figure(run_any, offers):
    (figure,) = (await run_any(offering(**offers))).record.figures
    assert (figure.mime_type, figure.title) == ("image/png", "__main__.X")
    assert figure.data.startswith(PNG_SIGNATURE)


async def test_a_value_has_one_image(run):
    assert len((await run(offering(png="PNG", jpeg="b'\\xff\\xd8\\xff'"))).record.figures) == 1


async def test_what_is_no_image_is_not_shown(run):
    said = await run(offering(png="b'no image'"))
    assert said.record.figures == ()
    assert any("no PNG or JPEG" in note for note in said.record.notes)


@pytest.mark.parametrize("said", ["None", "''", "5", "[]", "{}", "b'x'"])
@pytest.mark.parametrize("method", ["html", "mimebundle", "png"])
async def test_a_method_that_says_nothing_of_use_offers_nothing(run, method, said):
    found = await run(offering(**{method: said}))
    assert described(found).representations == ()
    assert found.record.exit_code == 0


@pytest.mark.parametrize("error", ["AttributeError", "NotImplementedError"])
async def test_a_class_that_declines_offers_nothing(run, error):
    found = await run(f"class X:\n    @property\n    def _repr_html_(self): raise {error}\nX()")
    assert described(found).representations == ()
    assert found.record.notes == ()


@pytest.mark.parametrize("value", ["X", "X.made_up", "__import__('unittest.mock').mock.MagicMock()"])
async def test_made_up_attributes_and_classes_are_not_asked(run, value):
    program = f"class X:\n    made_up = None\n    def _repr_html_(self): return '<b>'\n{value}"
    said = await run(program)
    assert said.record.error is None
    assert said.record.value is None or said.record.value.representations == ()


async def test_a_document_that_is_too_large_is_left_out_whole_and_named(run):
    said = await run(offering(html="'<b>' * 10**7", latex="'$x$'"))
    assert texts(described(said)) == {"text/latex": "$x$"}
    assert said.record.notes == ("The value's text/html was left out: it is too large (30000000 characters).",)


async def test_all_documents_together_are_bounded(run):
    many = "{f'application/x{i}+json': ['y' * 200_000] for i in range(40)}"
    found = described(await run(offering(mimebundle=many)))
    assert 0 < sum(len(each.text) for each in found.representations) <= RecordLimits().representation_bytes


async def test_an_image_that_is_too_large_is_left_out_and_named(run):
    said = await run(offering(png="PNG + b'x' * 10**6"))
    assert said.record.figures == ()
    assert any("image/png was left out: it is too large" in note for note in said.record.notes)


HOSTILE = {
    "raises": "1 / 0",
    "leaves": "__import__('sys').exit(3)",
    "interrupts": "(_ for _ in ()).throw(KeyboardInterrupt)",
    "hostile text": "type('S', (str,), {'__len__': None, '__str__': None, 'encode': None})('x')",
    "surrogates": "'\\ud800'",
    "ring": "[(a := []), a.append(a), a][2]",
    "endless recursion": "self._repr_html_()",
    "unhashable types": "{(): 1}",
    "type lies": "type('D', (dict,), {'items': lambda s: 1 / 0})(a=1)",
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("method", ["html", "mimebundle", "json", "png", "svg"])
async def test_a_hostile_offer_costs_the_run_nothing(run, name, method):
    said = await run(offering(**{method: HOSTILE[name]}, latex="'$x$'"))
    assert said.exit.code == 0
    assert texts(described(said))["text/latex"] == "$x$"
    assert json.dumps(texts(described(said)), ensure_ascii=False).encode()


async def test_a_failing_offer_is_a_note(run):
    said = await run(offering(html="1 / 0"))
    assert said.record.notes == ("The value's _repr_html_ failed with ZeroDivisionError: division by zero",)


@pytest.mark.parametrize("breakage", ["del builtins.str, builtins.dict, builtins.type", "builtins.any = None"])
async def test_a_program_that_broke_the_builtins_is_served_too(run, breakage):
    said = await run(offering(html="'<b>'").replace("X()", f"x = X()\nimport builtins\n{breakage}\nx"))
    assert texts(described(said)) == {"text/html": "<b>"}


# --- tables -----------------------------------------------------------------------------------------------------------


@functools.cache
def pandas_or_skip():
    return pytest.importorskip("pandas")


async def table(run, expression: str) -> str:
    pandas_or_skip()
    return texts(described(await run(f"import numpy as np, pandas as pd\n{expression}")))["text/markdown"]


async def test_a_data_frame_is_a_markdown_table_with_its_shape(run):
    assert await table(run, "pd.DataFrame({'a': [1, 2], 'b|c': ['x\\ny', 0]}, index=['p', 'q'])") == (
        "|  | a | b\\|c |\n| --- | --- | --- |\n| p | 1 | x y |\n| q | 2 | 0 |\n\n2 rows x 2 columns"
    )


async def test_a_series_is_a_markdown_table_too(run):
    assert await table(run, "pd.Series([1.5, 2], name='n')") == (
        "|  | n |\n| --- | --- |\n| 0 | 1.5 |\n| 1 | 2 |\n\n2 rows, float64"
    )


async def test_of_a_large_table_the_head_is_shown(run):
    found = await table(run, "pd.DataFrame(np.zeros((10**6, 50)))")
    assert len(found.splitlines()) == 24
    assert found.endswith("1000000 rows x 50 columns (the first 20 rows and 20 columns shown)")


@pytest.mark.parametrize("expression", ["pd.DataFrame()", "pd.Series(dtype=float)", "pd.DataFrame({'a': []})"])
async def test_an_empty_table_has_a_shape(run, expression):
    assert "0 rows" in await table(run, expression)


async def test_long_cells_are_cut(run):
    assert len(await table(run, "pd.DataFrame({'a': ['x' * 10**6]})")) < 300


async def test_a_grouped_table_has_its_labels(run):
    assert "| ('a', 1) | 2 |" in await table(
        run, "pd.DataFrame({'g': ['a'], 'h': [1], 'x': [2]}).set_index(['g', 'h'])"
    )


# --- pictures ---------------------------------------------------------------------------------------------------------


async def picture(run, expression: str):
    pytest.importorskip("PIL")
    return await run(f"import os\nfrom PIL import Image\n{expression}")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F"])
async def test_a_picture_of_every_mode_comes_back(run, mode):
    said = await picture(run, f"Image.new({mode!r}, (30, 20))")
    assert [figure.mime_type for figure in said.record.figures] == ["image/png"], said.record.notes


async def test_a_photograph_that_is_too_large_is_shown_smaller(run):
    said = await picture(run, "Image.frombytes('RGB', (2400, 1600), os.urandom(2400 * 1600 * 3))")
    (figure,) = said.record.figures
    assert len(figure.data) <= RecordLimits().figure_bytes
    assert any("2400 x 1600 pixels is shown at" in note for note in said.record.notes)


async def test_a_large_but_simple_picture_is_shown_as_it_is(run):
    said = await picture(run, "Image.new('L', (1600, 1000))")
    assert (len(said.record.figures), said.record.notes) == (1, ())


@pytest.mark.parametrize("expression", ["Image.new('RGB', (0, 5))", "i = Image.new('L', (2, 2))\ni.close()\ni"])
async def test_a_picture_without_pixels_is_no_error(run, expression):
    said = await picture(run, expression)
    assert said.record.error is None
    assert said.exit.code == 0


async def test_something_that_says_it_is_a_picture_is_no_error(run):
    said = await run("class Image:\n    size = (5, 'x')\n    mode = 5\nImage.__module__ = 'PIL.Image'\nImage()")
    assert said.exit.code == 0
    assert said.record.figures == ()


# --- matplotlib's own -------------------------------------------------------------------------------------------------


async def test_a_figure_that_is_the_value_is_shown_though_it_was_never_open(run):
    pytest.importorskip("matplotlib")
    said = await run("from matplotlib.figure import Figure\nf = Figure()\nf.subplots().plot([1, 2])\nf")
    assert len(said.record.figures) == 1


async def test_an_open_figure_that_is_the_value_too_is_shown_once(run):
    pytest.importorskip("matplotlib")
    said = await run("import matplotlib.pyplot as plt\nf, a = plt.subplots()\na.plot([1, 2])\nf")
    assert len(said.record.figures) == 1
