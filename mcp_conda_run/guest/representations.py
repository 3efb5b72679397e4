"""What a value offers beside its text: HTML, SVG, LaTeX, Markdown, JSON documents, and images.

Called by `execute.py`, inside the environment, after `display.py` has described the value. Asks the methods that
notebooks ask, where the value's class has them: an object that makes up attributes offers nothing. Imports no package;
`tables.py` writes the tables. What is too large is left out whole, with a note. Never raises.
"""

from __future__ import annotations

try:
    from _json import encode_basestring_ascii  # by itself: json imports re, which takes longer than most runs
except ImportError:
    from json.encoder import encode_basestring_ascii

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MRO = type.__dict__["__mro__"].__get__
MODULE = type.__dict__["__module__"].__get__
QUALNAME = type.__dict__["__qualname__"].__get__

BUNDLE = "_repr_mimebundle_"
METHODS = {
    "text/markdown": "_repr_markdown_",
    "text/latex": "_repr_latex_",
    "text/html": "_repr_html_",
    "image/svg+xml": "_repr_svg_",
    "application/json": "_repr_json_",
    "image/png": "_repr_png_",
    "image/jpeg": "_repr_jpeg_",
}
IMAGES = ("image/png", "image/jpeg")
MAX_TEXTS = 8
MAX_MIME_TYPE = 100
WIDGETS = "application/vnd.jupyter."
"""What only a notebook with a running kernel can show."""

PICTURE = "PIL.Image.Image"
PICTURE_SIDE = 1500
"""Pixels of the longer side of a picture that is drawn smaller."""


class Representations:
    """What one value offers.

    Attributes:
        texts: by MIME type.
        images: `(data, mime type)`; one at most.
        notes: what was left out, and why.
    """

    def __init__(
        self,
        text_bytes: int,
        image_bytes: int,
        natural: Callable[[Any, int], tuple[Any, bool, bool]],
        table: Callable[[Any], str | None],
    ) -> None:
        self.left = text_bytes
        self.image_bytes = image_bytes
        self.natural = natural
        self.table = table
        self.texts: dict[str, str] = {}
        self.images: list[tuple[bytes, str]] = []
        self.notes: list[str] = []

    def ask(self, value: Any) -> None:
        """Take what the value offers."""
        try:
            names = {f"{str(MODULE(base)).partition('.')[0]}.{QUALNAME(base)}" for base in MRO(type(value))}
            full_names = {f"{MODULE(base)}.{QUALNAME(base)}" for base in MRO(type(value))}
        except BaseException:
            return
        if names & {"pandas.DataFrame", "pandas.Series"}:
            self.quietly("table", lambda: self.take("text/markdown", self.table(value)))
        if PICTURE in full_names:
            self.quietly("picture", lambda: self.take_picture(value))
            return
        self.quietly(BUNDLE, lambda: self.take_bundle(call(value, BUNDLE)))
        for mime_type, method in METHODS.items():
            if mime_type not in self.texts and not (mime_type in IMAGES and self.images):
                self.quietly(method, self.taking(value, mime_type, method))

    def quietly(self, what: str, step: Callable[[], None]) -> None:
        """Do a step; trouble becomes a note."""
        try:
            step()
        except (AttributeError, NotImplementedError):  # how classes say that they offer nothing just now
            return
        except BaseException as error:
            try:
                reason = f"{QUALNAME(type(error))}: {error}"[:300]
            except BaseException:
                reason = "an exception"
            self.notes.append(f"The value's {what} failed with {reason}")

    def taking(self, value: Any, mime_type: str, method: str) -> Callable[[], None]:
        """Return the step that takes what one method of the value says."""
        return lambda: self.take_from(value, mime_type, method)

    def take_from(self, value: Any, mime_type: str, method: str) -> None:
        """Take what one method of the value says."""
        self.take(mime_type, call(value, method))

    def take_bundle(self, bundle: Any) -> None:
        """Take what a mapping of MIME types has."""
        if type(bundle) is not dict:
            return
        for mime_type, data in list(bundle.items())[: 2 * MAX_TEXTS]:
            if type(mime_type) is str and not mime_type.startswith(WIDGETS):
                self.take(mime_type, data)

    def take(self, mime_type: str, data: Any) -> None:
        """Take one representation, if there is one, of a type that somebody can show."""
        if data is None:
            return
        if mime_type in IMAGES:
            self.take_image(mime_type, data)
        elif mime_type in METHODS or (mime_type.startswith("application/") and mime_type.endswith("json")):
            self.take_text(mime_type[:MAX_MIME_TYPE], data)

    def take_text(self, mime_type: str, data: Any) -> None:
        """Take a text; one that does not fit is left out, as half of it would be broken."""
        text = self.text_of(mime_type, data)
        if not text or len(self.texts) >= MAX_TEXTS:
            return
        size = len(text) + 2 if len(text) > self.left else len(encode_basestring_ascii(text))
        if size > self.left:
            self.notes.append(f"The value's {mime_type} was left out: it is too large ({len(text)} characters).")
            return
        self.left -= size
        self.texts[mime_type] = text

    def text_of(self, mime_type: str, data: Any) -> str:
        """Return a text as an exact `str`, a JSON document as its text."""
        if str in MRO(type(data)):
            return str.__str__(data)
        if not mime_type.endswith("json"):
            return ""
        import json

        form, is_json, truncated = self.natural(data, self.left)
        if truncated:
            self.notes.append(f"The value's {mime_type} was left out: it is too large.")
        return json.dumps(form) if is_json and not truncated else ""

    def take_image(self, mime_type: str, data: Any) -> None:
        """Take an image, as bytes or in base64."""
        if str in MRO(type(data)):
            import binascii

            data = binascii.a2b_base64(str.__str__(data))
        if type(data) is not bytes or not data:
            return
        if len(data) > self.image_bytes:
            self.notes.append(f"The value's {mime_type} was left out: it is too large ({len(data)} bytes).")
        elif not self.images:
            self.images.append((data, mime_type))

    def take_picture(self, picture: Any) -> None:
        """Take a PIL image: as it is if that fits, else smaller, and as JPEG where PNG does not do."""
        width, height = picture.size
        if width * height == 0:
            return
        side = max(width, height)
        for reduced in dict.fromkeys((side, min(side, PICTURE_SIDE), min(side, PICTURE_SIDE // 2), PICTURE_SIDE // 4)):
            if reduced == side and width * height * 4 > 32 * self.image_bytes:
                continue  # nothing that large gets small enough
            for mime_type in IMAGES:
                data = encoded(picture, reduced, mime_type)
                if len(data) <= self.image_bytes:
                    self.images.append((data, mime_type))
                    if reduced < side:
                        self.notes.append(f"The image of {width} x {height} pixels is shown at {reduced}.")
                    return
        self.notes.append(f"The image of {width} x {height} pixels was left out: it is too large.")


def call(value: Any, method: str) -> Any:
    """Return what the value's method says, without the metadata; None if its class has no such method."""
    if not any(method in vars(base) for base in MRO(type(value))):
        return None
    bound = getattr(value, method)
    if not callable(bound):
        return None
    said = bound(include=None, exclude=None) if method == BUNDLE else bound()
    return said[0] if type(said) is tuple and said else said


def encoded(picture: Any, side: int, mime_type: str) -> bytes:
    """Return a PIL image with at most `side` pixels a side as PNG or JPEG."""
    import io

    modes = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") if mime_type == "image/png" else ("L", "RGB")
    if side < max(picture.size):
        picture = picture if picture.mode in ("L", "RGB", "RGBA") else picture.convert("RGBA")
        scale = side / max(picture.size)
        picture = picture.resize([max(round(length * scale), 1) for length in picture.size])
    if picture.mode not in modes:
        picture = picture.convert("RGB" if mime_type == "image/jpeg" or picture.mode != "PA" else "RGBA")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG" if mime_type == "image/png" else "JPEG")
    return buffer.getvalue()
