"""Open figures come back as images without the code asking for it."""

from __future__ import annotations

import struct

import pytest

from mcp_conda_run.sandbox.record import PNG_SIGNATURE, RecordLimits

pytest.importorskip("matplotlib")
PLOT = "import matplotlib.pyplot as plt\n"


async def figures(run, program: str, **fields):
    said = await run(PLOT + program, **fields)
    assert said.record is not None, said
    assert said.record.error is None, said.record.error.traceback
    assert said.stderr == ""
    return said.record.figures


def size(figure) -> tuple[int, int]:
    return struct.unpack(">II", figure.data[16:24])


async def test_an_open_figure_is_a_png_with_its_title(run):
    (figure,) = await figures(run, "plt.plot([1, 2])\nplt.title('A line')")
    assert (figure.mime_type, figure.title) == ("image/png", "A line")
    assert figure.data.startswith(PNG_SIGNATURE)
    assert size(figure) == (640, 480)


async def test_figures_come_in_their_order(run):
    found = await figures(run, "for i in (3, 1, 2):\n    plt.figure(i)\n    plt.plot([i])\n    plt.suptitle(f'n{i}')")
    assert [figure.title for figure in found] == ["n1", "n2", "n3"]


async def test_a_figure_that_was_closed_is_not_in_the_result(run):
    assert await figures(run, "plt.plot([1])\nplt.close()") == ()


async def test_an_empty_figure_is_not_in_the_result(run):
    assert await figures(run, "plt.figure()") == ()


@pytest.mark.parametrize("after", ["", "plt.close('all')", "plt.clf()", "plt.show()"])
async def test_a_figure_that_was_shown_is_in_the_result_once_whatever_comes_then(run, after):
    assert len(await figures(run, f"plt.plot([1, 2])\nplt.show()\n{after}")) == 1


async def test_each_shown_figure_is_kept(run):
    program = "for i in range(3):\n    plt.plot([1, i])\n    plt.title(str(i))\n    plt.show()\n    plt.clf()"
    assert [figure.title for figure in await figures(run, program)] == ["0", "1", "2"]


async def test_a_figure_that_changed_after_it_was_shown_is_kept_in_both_states(run):
    assert len(await figures(run, "plt.plot([1, 2])\nplt.show()\nplt.plot([2, 1])")) == 2


@pytest.mark.parametrize("display", ["", "import os\nos.environ['DISPLAY'] = ':9'\n"])
@pytest.mark.parametrize(
    "show", ["plt.show()", "fig.show()", "plt.show(block=False)", "from pylab import show; show()"]
)
async def test_show_is_silent_and_works_in_all_its_forms(run, show, display):
    assert len(await figures(run, f"{display}fig, ax = plt.subplots()\nax.plot([1])\n{show}\nplt.close()")) == 1


async def test_code_that_chooses_agg_itself_is_served_too(run):
    program = "import matplotlib\nmatplotlib.use('Agg')\n" + PLOT + "plt.plot([1])\nplt.show()\nplt.close()"
    assert len((await run(program)).record.figures) == 1


async def test_figures_of_code_that_fails_are_kept(run):
    said = await run(PLOT + "plt.plot([1])\n1 / 0")
    assert len(said.record.figures) == 1
    assert said.record.error.type == "ZeroDivisionError"


async def test_no_more_figures_than_allowed_and_a_note(run):
    said = await run(PLOT + "for i in range(4):\n    plt.figure()\n    plt.plot([i])", limits=RecordLimits(figures=2))
    assert len(said.record.figures) == 2
    assert any("2 more figure(s) left out" in note for note in said.record.notes)


async def test_a_large_figure_is_drawn_smaller(run):
    (figure,) = await figures(run, "plt.figure(figsize=(100, 50), dpi=300)\nplt.plot([1, 2])")
    assert max(size(figure)) <= 2000


async def test_a_heavy_image_is_drawn_smaller(run):
    program = "import numpy as np\nplt.imshow(np.random.default_rng(1).random((400, 500, 3)))"
    (figure,) = await figures(run, program, limits=RecordLimits(figure_bytes=40_000))
    assert len(figure.data) <= 40_000


async def test_a_figure_that_cannot_be_made_small_enough_is_a_note(run):
    said = await run(PLOT + "plt.plot([1])", limits=RecordLimits(figure_bytes=100))
    assert said.record.figures == ()
    assert any("larger than" in note for note in said.record.notes)


async def test_trouble_in_drawing_is_a_note_and_no_error(run):
    program = (
        "from matplotlib.lines import Line2D\nclass Bad(Line2D):\n    def draw(self, r): raise RuntimeError('no ink')\n"
        "fig, ax = plt.subplots()\nax.add_line(Bad([0], [0]))\n'value'"
    )
    said = await run(PLOT + program)
    assert said.record.value.json == "value"
    assert said.record.error is None
    assert any("no ink" in note for note in said.record.notes)


async def test_text_far_outside_does_not_make_a_giant_image(run):
    program = "plt.rcParams['savefig.bbox'] = 'tight'\nplt.plot([1])\nplt.text(2, 2, 'x')"
    (figure,) = await figures(run, program)
    assert max(size(figure)) <= 2000


async def test_the_code_sees_no_frame_of_ours_when_matplotlib_fails(run):
    said = await run(PLOT + "plt.subplot(5, 5, 99)")
    assert "guest" not in said.record.error.traceback
