"""From a Python value to what the record says of it: its natural JSON form if it has one, and its text.

Called by `execute.py`, inside the environment. Knows what is not Python's own by the names of the classes, and never
imports it. The value may be huge, a ring, or hostile: everything is bounded in bytes, depth and time, and
`describe` never raises. The forms are listed in PROTOCOL.md.
"""

from __future__ import annotations

import sys
import time

try:
    from _json import encode_basestring_ascii  # by itself: json imports re, which takes longer than most runs
except ImportError:
    from json.encoder import encode_basestring_ascii

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

MAX_DEPTH = 50
MAX_SECONDS = 2.0
MAX_TYPE_NAME = 200
MAX_INTEGER_BITS = 10_000
"""Longer integers are not written out: it takes quadratic time, and newer Pythons refuse more than 4300 digits."""
SLACK_BYTES = 4096
"""By how much the last part of a value may overdraw the budget."""
CYCLE, TOO_DEEP = "<cycle>", "<too deep>"

MRO = type.__dict__["__mro__"].__get__
MODULE = type.__dict__["__module__"].__get__
QUALNAME = type.__dict__["__qualname__"].__get__


class NoForm(Exception):  # noqa: N818 - nothing is wrong
    """The value has no natural JSON form."""


def describe(value: Any, value_bytes: int, text_bytes: int) -> dict[str, Any]:
    """Return the record's `value` field; its `json` takes at most `value_bytes`, its `text` at most `text_bytes`."""
    json, is_json, truncated = natural(value, value_bytes)
    writer = TextWriter(text_bytes)
    try:
        if str in MRO(type(value)):
            writer.put(plain_text(value))
        else:
            writer.show(value, 0)
    except Full:
        truncated = True
    except BaseException as error:
        writer.parts = [unshowable(value, error)]
    text = "".join(writer.parts)
    fitting = clip(text, text_bytes)
    truncated = truncated or fitting != text
    return {"json": json, "is_json": is_json, "text": fitting, "type": type_name(value), "truncated": truncated}


def natural(value: Any, value_bytes: int) -> tuple[Any, bool, bool]:
    """Return the JSON form, whether there is one, and whether something was left out of it."""
    converter = Converter(value_bytes)
    try:
        form = converter.convert(value)
    except BaseException:  # no form, or its own methods raised
        return None, False, False
    return (form, True, converter.truncated) if converter.left >= -SLACK_BYTES else (None, False, True)


def type_name(value: Any) -> str:
    """Return the qualified name of the value's class, without the module for Python's own."""
    try:
        module, name = MODULE(type(value)), QUALNAME(type(value))
        full = name if module == "builtins" else f"{module}.{name}"
        return plain_text(full)[:MAX_TYPE_NAME]
    except BaseException:
        return "object"


def unshowable(value: Any, error: BaseException) -> str:
    """Return what stands for a value whose repr raised."""
    return f"<{type_name(value)} object whose repr raised {type_name(error)}>"


def plain_text(text: str) -> str:
    """Return the text as an exact `str`, whatever its class overrides."""
    return str.__str__(text)


def clip(text: str, limit: int) -> str:
    """Return as much of the text's head as takes `limit` bytes in ASCII JSON."""
    text = text[:limit]
    size = len(encode_basestring_ascii(text))
    while size > limit and text:
        text = text[: min(len(text) - 1, len(text) * limit // size)]
        size = len(encode_basestring_ascii(text))
    return text


# --- JSON -------------------------------------------------------------------------------------------------------------


class Converter:
    """Converts one value, and all in it, within a budget of bytes.

    Attributes:
        left: how many bytes of JSON may still come.
        truncated: whether something was left out.
    """

    def __init__(self, value_bytes: int) -> None:
        self.left = value_bytes
        self.truncated = False
        self.deadline = time.monotonic() + MAX_SECONDS
        self.open: set[int] = set()

    def convert(self, value: Any) -> Any:
        """Return the JSON form of a value.

        Raises:
            NoForm: there is none.
        """
        form = self.form_of(value)
        if form is None:
            raise NoForm
        if id(value) in self.open:
            self.truncated = True
            return self.text(CYCLE)
        if len(self.open) >= MAX_DEPTH:
            self.truncated = True
            return self.text(TOO_DEEP)
        self.open.add(id(value))
        try:
            return form(self, value)
        finally:
            self.open.discard(id(value))

    def form_of(self, value: Any) -> Callable[[Converter, Any], Any] | None:
        """Find how a value of this class is converted: the first class in its inheritance that says so."""
        if type(value) is type:
            return None
        for base in MRO(type(value)):
            if base is tuple and hasattr(type(value), "_fields"):
                return named_tuple
            if "__dataclass_fields__" in vars(base):
                return data_class
            if "__attrs_attrs__" in vars(base):
                return attrs_class
            name = f"{str(MODULE(base)).partition('.')[0]}.{QUALNAME(base)}"
            if name in FORMS:
                return FORMS[name]
        return None

    def inner(self, value: Any) -> Any:
        """Convert a part of a container; parts without a form become their repr."""
        try:
            return self.convert(value)
        except NoForm:
            writer = TextWriter(min(1000, max(self.left, 0)))
            try:
                writer.show(value, 0)
            except Full:
                self.truncated = True
            return self.text("".join(writer.parts))

    def full(self) -> bool:
        """Say whether the budget of bytes or of time is used up; what is left out then is a truncation."""
        if self.left > 0 and time.monotonic() < self.deadline:
            return False
        self.truncated = True
        return True

    def text(self, text: str) -> str:
        """Take a text, or as much of it as fits."""
        fitting = clip(plain_text(text), max(self.left, 2))
        self.truncated = self.truncated or len(fitting) < len(text)
        self.left -= len(encode_basestring_ascii(fitting)) + 2
        return fitting

    def number(self, value: Any) -> Any:
        """Take an exact bool, int, float or None: NaN becomes null, infinities and integers over 64 bits texts."""
        if type(value) is int and not -(2**63) <= value < 2**64:
            self.truncated = self.truncated or value.bit_length() > MAX_INTEGER_BITS
            return self.text(integer_text(value))
        if type(value) is float:
            if value != value:  # noqa: PLR0124 - NaN alone is unlike itself
                value = None
            elif value in (float("inf"), float("-inf")):
                return self.text("Infinity" if value > 0 else "-Infinity")
        self.left -= 2 + (4 if value is None or type(value) is bool else len(repr(value)))
        return value

    def items(self, values: Iterable[Any], length: int) -> list[Any]:
        """Convert a sequence, as far as the budget goes."""
        self.left -= 2
        result: list[Any] = []
        for value in values:
            if self.full():
                break
            result.append(self.inner(value))
        self.truncated = self.truncated or len(result) < length
        return result

    def pairs(self, values: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
        """Convert a mapping, as far as the budget goes; keys that would fall together count as left out."""
        self.left -= 2
        result: dict[str, Any] = {}
        for key, value in values:
            if self.full():
                break
            name = self.text(key_text(key))
            self.truncated = self.truncated or name in result
            result[name] = self.inner(value)
        return result


def key_text(key: Any) -> str:
    """Return a mapping's key as JSON's keys are: texts."""
    if str in MRO(type(key)):
        return plain_text(key)
    if key is None or type(key) is bool:
        return {None: "null", True: "true", False: "false"}[key]
    converted = natural(key, 1000)[0]
    if isinstance(converted, (str, int, float)):
        return str(converted)
    writer = TextWriter(1000)
    try:
        writer.show(key, 0)
    except Full:  # what was written so far will do
        return "".join(writer.parts)
    return "".join(writer.parts)


def integer_text(value: int) -> str:
    """Return the digits of an integer, or how long it is."""
    if value.bit_length() > MAX_INTEGER_BITS:
        return f"<integer of about {int(value.bit_length() * 0.30103)} digits>"
    return int.__repr__(value)


def named_tuple(to: Converter, value: Any) -> Any:
    """Return the fields of a named tuple."""
    return to.pairs(zip(type(value)._fields, tuple.__iter__(value)))  # noqa: B905 - equal lengths by construction


def data_class(to: Converter, value: Any) -> Any:
    """Return the fields of a data class's instance."""
    fields = sys.modules["dataclasses"].fields(value)
    return to.pairs((field.name, getattr(value, field.name)) for field in fields)


def attrs_class(to: Converter, value: Any) -> Any:
    """Return the fields of an attrs class's instance."""
    return to.pairs((field.name, getattr(value, field.name)) for field in type(value).__attrs_attrs__)


def raw_bytes(to: Converter, value: Any) -> Any:
    """Return the text that the bytes are in UTF-8, or else `{"base64": ...}`."""
    data = bytes(memoryview(value)[: max(to.left, 0)])
    to.truncated = to.truncated or len(data) < len(value)
    try:
        return to.text(data.decode())
    except UnicodeDecodeError:
        import binascii

        data = data[: max(to.left - 20, 0) * 3 // 4]
        to.truncated = to.truncated or len(data) < len(value)
        return {"base64": to.text(binascii.b2a_base64(data, newline=False).decode())}


def members(to: Converter, value: Any) -> Any:
    """Return the members of a set, in order where they have one."""
    if len(value) <= to.left:
        try:
            return to.items(sorted(value), len(value))
        except Exception:
            return to.items(value, len(value))
    return to.items(value, len(value))


def complex_number(to: Converter, value: Any) -> Any:
    """Return the two parts."""
    number = complex(value)
    return {"real": to.number(number.real), "imag": to.number(number.imag)}


def instant(to: Converter, value: Any) -> Any:
    """Return a date, a time or a date-time in ISO 8601."""
    return to.text(value.isoformat())


FORMS: dict[str, Callable[[Converter, Any], Any]] = {
    "builtins.NoneType": Converter.number,
    "builtins.bool": Converter.number,
    "builtins.int": lambda to, value: to.number(int.__index__(value)),
    "builtins.float": lambda to, value: to.number(float.__float__(value)),
    "builtins.complex": complex_number,
    "builtins.str": Converter.text,
    "builtins.bytes": raw_bytes,
    "builtins.bytearray": raw_bytes,
    "builtins.list": lambda to, value: to.items(list.__iter__(value), list.__len__(value)),
    "builtins.tuple": lambda to, value: to.items(tuple.__iter__(value), tuple.__len__(value)),
    "builtins.set": members,
    "builtins.frozenset": members,
    "builtins.range": lambda to, value: to.items(value, len(value)),
    "builtins.dict": lambda to, value: to.pairs(dict.items(value)),
    "builtins.mappingproxy": lambda to, value: to.pairs(value.items()),
    "builtins.dict_keys": lambda to, value: to.items(value, len(value)),
    "builtins.dict_values": lambda to, value: to.items(value, len(value)),
    "builtins.dict_items": lambda to, value: to.items(value, len(value)),
    "collections.OrderedDict": lambda to, value: to.pairs(value.items()),
    "collections.UserDict": lambda to, value: to.pairs(value.items()),
    "collections.ChainMap": lambda to, value: to.pairs(value.items()),
    "collections.deque": lambda to, value: to.items(value, len(value)),
    "array.array": lambda to, value: to.items(value, len(value)),
    "types.SimpleNamespace": lambda to, value: to.pairs(vars(value).items()),
    "enum.Enum": lambda to, value: to.inner(value.value),
    "datetime.datetime": instant,
    "datetime.date": instant,
    "datetime.time": instant,
    "datetime.timedelta": lambda to, value: to.number(float(value.total_seconds())),
    "decimal.Decimal": lambda to, value: to.text(str(value)),
    "fractions.Fraction": lambda to, value: to.text(str(value)),
    "uuid.UUID": lambda to, value: to.text(str(value)),
    "pathlib.PurePath": lambda to, value: to.text(str(value)),
    "pydantic.BaseModel": lambda to, value: to.inner(
        value.model_dump() if hasattr(type(value), "model_dump") else value.dict()
    ),
}
"""By the class's top-level module and qualified name, so that no package needs to be imported to be known; `execute.py`
adds those of `arrays.py`."""


# --- text -------------------------------------------------------------------------------------------------------------


class Full(Exception):  # noqa: N818 - nothing is wrong
    """The text is as long as it may be."""


class TextWriter:
    """Writes the repr of a value, of which Python's own containers are never written beyond the limit.

    Attributes:
        parts: what was written.
        left: how many characters may still come.
    """

    BRACKETS: dict[Any, str] = {list: "[]", tuple: "()", set: "{}", frozenset: "{}", dict: "{}"}  # noqa: RUF012 - never changed

    def __init__(self, limit: int) -> None:
        self.parts: list[str] = []
        self.left = limit
        self.open: set[int] = set()

    def put(self, text: str) -> None:
        """Write a text.

        Raises:
            Full: not all of it fitted.
        """
        self.parts.append(text[: self.left])
        self.left -= len(text)
        if self.left < 0:
            raise Full

    def show(self, value: Any, depth: int) -> None:
        """Write the repr of a value.

        Raises:
            Full: not all of it fitted.
        """
        kind = type(value)
        if kind in self.BRACKETS and len(value) > 0:
            self.container(value, depth)
        elif kind in (str, bytes) and len(value) > self.left:
            self.put(repr(value[: self.left + 1]))
        elif kind is int:
            self.put(integer_text(value))
        else:
            try:
                text = plain_text(repr(value))
            except BaseException as error:
                text = unshowable(value, error)
            self.put(text)

    def container(self, value: Any, depth: int) -> None:
        """Write one of Python's own containers as Python does."""
        brackets = self.BRACKETS[type(value)]
        opening, closing = brackets[0], brackets[1]
        if id(value) in self.open or depth >= MAX_DEPTH:
            return self.put(f"{opening}...{closing}")
        self.open.add(id(value))
        self.put(("frozenset(" if type(value) is frozenset else "") + opening)
        between = ""
        for item in value:
            self.put(between)
            self.show(item, depth + 1)
            if type(value) is dict:
                self.put(": ")
                self.show(value[item], depth + 1)
            between = ", "
        if type(value) is tuple and len(value) == 1:
            self.put(",")
        self.put(closing + (")" if type(value) is frozenset else ""))
        self.open.discard(id(value))
        return None
