"""Open matplotlib figures as PNG images, without the code asking for it; and the value, where it is an image.

Called by `execute.py`, inside the environment. Never imports matplotlib: if the code did not, there is nothing to do.
`plt.show()` keeps a picture of what it would show, so that a figure that is closed or cleared later is still in the
result. Bounded in number, pixels and bytes; trouble in drawing becomes a note, never an error of the code.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

MRO = type.__dict__["__mro__"].__get__
MAX_SIDE = 2000
"""Pixels of the longer side; larger figures are drawn with fewer dots an inch."""
MIN_DPI = 10
MAX_TITLE = 200
SHOW_MODULE = "matplotlib.backend_bases"


class Figures:
    """The figures of one run.

    Attributes:
        images: `(data, title, MIME type)` in the order of capture.
        notes: what could not be drawn or was left out.
    """

    def __init__(self, count: int, size_bytes: int) -> None:
        self.count = count
        self.size_bytes = size_bytes
        self.images: list[tuple[bytes, str, str]] = []
        self.value: Any = None
        self.notes: list[str] = []
        self.left_out = 0
        self.shown: dict[int, Any] = {}  # the figures themselves, so that no id is used twice
        self.getpid = os.getpid
        self.pid = self.getpid()

    def watch(self) -> None:
        """From now on keep what `show()` shows, also if matplotlib is imported only later."""
        module = sys.modules.get(SHOW_MODULE)
        if module is None:
            sys.meta_path.insert(0, ImportWatch(self))
        else:
            self.replace_show(module)

    def replace_show(self, module: ModuleType) -> None:
        """Make the show method of figure managers without a window keep the figure instead of complaining."""

        def show(manager: Any) -> None:
            """Keep the figure in the result of the run; there is no window here."""
            if self.getpid() == self.pid:
                self.capture(manager.canvas.figure, shown=True)

        module.FigureManagerBase.show = show

    def watch_value(self, value: Any) -> None:
        """Keep the value too if it is a matplotlib figure, open or not."""
        figure = getattr(sys.modules.get("matplotlib.figure"), "Figure", None)
        if figure is not None and any(base is figure for base in MRO(type(value))):
            self.value = value

    def add_images(self, images: list[tuple[bytes, str]], title: str) -> None:
        """Keep images that the value itself offers, if there is room."""
        for data, mime_type in images:
            if len(self.images) < self.count:
                self.images.append((data, title, mime_type))
            else:
                self.notes.append("The value's image was left out: there are too many figures.")

    def capture_open(self) -> None:
        """Keep the figures that are open now, except those that were shown and have not changed since."""
        helpers = sys.modules.get("matplotlib._pylab_helpers")
        try:
            managers = helpers.Gcf.get_all_fig_managers() if helpers is not None else []
            for manager in sorted(managers, key=lambda each: each.num):
                self.capture(manager.canvas.figure)
            if self.value is not None and id(self.value) not in self.shown:
                self.capture(self.value)
        except BaseException as error:
            self.note(error)
        if self.left_out:
            self.notes.append(f"{self.left_out} more figure(s) left out: a result holds at most {self.count}.")

    def capture(self, figure: Any, *, shown: bool = False) -> None:
        """Draw the figure and keep the image, unless it is empty or the same as one that is kept already."""
        try:
            if len(figure.get_children()) <= 1:  # the background alone
                return
            if len(self.images) >= self.count:
                self.left_out += shown or id(figure) not in self.shown
                return
            image = draw(figure, self.size_bytes)
            if image is None:
                self.notes.append(f"A figure was left out: its image is larger than {self.size_bytes} bytes.")
            elif id(figure) not in self.shown or all(image != kept for kept, _, _ in self.images):
                self.images.append((image, title(figure), "image/png"))
            self.shown[id(figure)] = figure
        except BaseException as error:
            self.note(error)

    def note(self, error: BaseException) -> None:
        """Remember why a figure could not be drawn."""
        try:
            reason = f"{type(error).__name__}: {error}"
        except BaseException:
            reason = type(error).__name__
        self.notes.append(f"A figure could not be drawn: {reason[:300]}")


class ImportWatch:
    """A finder that finds nothing itself and waits for the module that shows figures."""

    def __init__(self, figures: Figures) -> None:
        self.figures = figures

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Let the other finders find the module, and change it once it is executed."""
        if name != SHOW_MODULE:
            return None
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                self.follow(spec.loader)
                return spec
        return None

    def follow(self, loader: Any) -> None:
        """Change the module right after its loader executed it."""
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            self.figures.replace_show(module)

        loader.exec_module = exec_module


def draw(figure: Any, size_bytes: int) -> bytes | None:
    """Return the figure as PNG of at most `size_bytes`, as the code's own `savefig` would if that fits, or None."""
    import io
    import warnings

    import matplotlib as mpl  # it is there: the figure comes from it

    width, height = figure.get_size_inches()
    wanted = mpl.rcParams["savefig.dpi"]
    dpi = float(figure.dpi if wanted == "figure" else wanted)
    dpi = min(dpi, MAX_SIDE / max(float(width), float(height), 0.01))
    with warnings.catch_warnings(), mpl.rc_context({"savefig.bbox": "standard"}):
        warnings.simplefilter("ignore")
        for _ in range(4):
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=dpi)
            image = buffer.getvalue()
            if len(image) <= size_bytes:
                return image
            dpi *= min((size_bytes / len(image)) ** 0.5, 0.9) * 0.9
            if dpi < MIN_DPI:
                return None
    return None


def title(figure: Any) -> str:
    """Return the figure's title, or that of its first axes, or nothing."""
    above = getattr(figure, "_suptitle", None)
    texts = [above.get_text()] if above is not None else []
    texts += [axes.get_title() for axes in figure.get_axes()[:1]]
    return next((str(text)[:MAX_TITLE] for text in texts if text), "")
