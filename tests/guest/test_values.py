"""What a record says of the last expression's value: its natural JSON form, its text, its type."""

from __future__ import annotations

import json

import pytest

from mcp_conda_run.models import Value

from .test_execute import code


def described(conversation) -> Value:
    assert conversation.record is not None, conversation
    assert conversation.record.error is None, conversation.record.error.traceback
    assert conversation.record.value is not None
    return conversation.record.value


STANDARD = [
    ("True", True, "bool"),
    ("-12", -12, "int"),
    ("2**63", 2**63, "int"),
    ("2**64", str(2**64), "int"),
    ("1.5", 1.5, "float"),
    ("float('nan')", None, "float"),
    ("[float('inf'), -float('inf')]", ["Infinity", "-Infinity"], "list"),
    ("1 + 2j", {"real": 1.0, "imag": 2.0}, "complex"),
    ("'text'", "text", "str"),
    ("b'abc'", "abc", "bytes"),
    ("bytearray(b'abc')", "abc", "bytearray"),
    ("b'\\xff\\x00'", {"base64": "/wA="}, "bytes"),
    ("(1, [2, None])", [1, [2, None]], "tuple"),
    ("{3, 1, 2}", [1, 2, 3], "set"),
    ("frozenset()", [], "frozenset"),
    ("range(3)", [0, 1, 2], "range"),
    ("{'a': 1, 2: None, None: 0, True: 1, (1, 2): 3}", {"a": 1, "2": None, "null": 0, "true": 1, "(1, 2)": 3}, "dict"),
    ("{'a': 1}.keys()", ["a"], "dict_keys"),
    ("import datetime as d\nd.datetime(2020, 1, 2, 3, 4)", "2020-01-02T03:04:00", "datetime.datetime"),
    ("import datetime as d\nd.date(2020, 1, 2)", "2020-01-02", "datetime.date"),
    ("import datetime as d\nd.timedelta(minutes=1)", 60.0, "datetime.timedelta"),
    ("from decimal import Decimal\nDecimal('1.10')", "1.10", "decimal.Decimal"),
    ("from fractions import Fraction\nFraction(1, 3)", "1/3", "fractions.Fraction"),
    ("import uuid\nuuid.UUID(int=1)", "00000000-0000-0000-0000-000000000001", "uuid.UUID"),
    ("import enum\nclass E(enum.Enum):\n    A = 'a'\nE.A", "a", "__main__.E"),
    ("import enum\nclass E(enum.IntEnum):\n    A = 3\nE.A", 3, "__main__.E"),
    ("import collections as c\nc.OrderedDict(b=1, a=2)", {"b": 1, "a": 2}, "collections.OrderedDict"),
    ("import collections as c\nc.Counter('aab')", {"a": 2, "b": 1}, "collections.Counter"),
    ("import collections as c\nc.deque([1, 2])", [1, 2], "collections.deque"),
    ("import collections as c\nc.namedtuple('P', 'x y')(1, 2)", {"x": 1, "y": 2}, "__main__.P"),
    ("import types\ntypes.SimpleNamespace(a=1)", {"a": 1}, "types.SimpleNamespace"),
    ("import types\ntypes.MappingProxyType({'a': 1})", {"a": 1}, "mappingproxy"),
    ("import array\narray.array('d', [1.5])", [1.5], "array.array"),
    ("class L(list): pass\nL([1])", [1], "__main__.L"),
    ("class D(dict): pass\nD(a=1)", {"a": 1}, "__main__.D"),
]


@pytest.mark.parametrize(("program", "form", "type_"), STANDARD, ids=[row[0] for row in STANDARD])
async def test_values_of_the_standard_library_have_their_natural_form(run, program, form, type_):
    found = described(await run(program))
    assert (found.json, found.is_json, found.type, found.truncated) == (form, True, type_, False)


async def test_the_standard_forms_are_the_same_under_every_python(run_any):
    programs = [row[0].rpartition("\n") for row in STANDARD]
    lines = [*(before for before, _, _ in programs), f"[{', '.join(last for _, _, last in programs)}]"]
    assert described(await run_any("\n".join(lines))).json == [
        3 if form == "a" and type_ == "__main__.E" else form for _, form, type_ in STANDARD
    ]


async def test_paths_are_their_text(run_any):
    assert described(await run_any("import pathlib\npathlib.Path('/a') / 'b'")).json == "/a/b"


async def test_a_text_is_its_own_text(run_any):
    found = described(await run_any("'one\\ntwo é'"))
    assert (found.text, found.json) == ("one\ntwo é", "one\ntwo é")


@pytest.mark.parametrize(
    "expression",
    ["[1, 'a', (2,), {3}, frozenset({4}), set(), {}, {'k': [None]}, frozenset()]", "()", "1.0", "b'x'", "..."],
)
async def test_the_text_of_other_values_is_their_repr(run_any, expression):
    assert described(await run_any(expression)).text == repr(eval(expression))


@pytest.mark.parametrize(
    "expression", ["print", "int", "object()", "(x for x in [1])", "iter([1])", "lambda: 1", "..."]
)
async def test_what_has_no_natural_form_has_a_repr(run_any, expression):
    found = described(await run_any(expression))
    assert (found.json, found.is_json) == (None, False)
    assert found.text == repr(eval(expression)) or " at 0x" in found.text


async def test_an_iterator_is_not_consumed(run):
    said = await run("import atexit\ni = iter([1, 2])\natexit.register(lambda: print(next(i)))\ni")
    assert said.stdout == "1\n"


async def test_parts_without_a_form_become_their_repr(run):
    assert described(await run("[1, print]")).json == [1, "<built-in function print>"]


async def test_lone_surrogates_cannot_break_the_host(run_any):
    found = described(await run_any("['\\ud800', {'\\udfff': 1}]"))
    assert json.dumps(found.json, ensure_ascii=False).encode()
    assert found.text.encode()


# --- numpy, pandas, pydantic ------------------------------------------------------------------------------------------

NUMPY = [
    ("np.float64(1.5)", 1.5),
    ("np.int8(3)", 3),
    ("np.bool_(True)", True),
    ("np.str_('a')", "a"),
    ("np.float32(0.5)", 0.5),
    ("np.longdouble(2)", 2.0),
    ("np.complex64(1j)", {"real": 0.0, "imag": 1.0}),
    ("np.float64('nan')", None),
    ("np.datetime64('2020-01-02')", "2020-01-02"),
    ("np.datetime64('NaT')", None),
    ("np.timedelta64(90, 's')", 90.0),
    ("np.arange(3)", [0, 1, 2]),
    ("np.eye(2)", [[1.0, 0.0], [0.0, 1.0]]),
    ("np.zeros((2, 0))", [[], []]),
    ("np.zeros((0, 2))", []),
    ("np.array(5)", 5),
    ("np.array([1, np.nan, np.inf])", [1.0, None, "Infinity"]),
    ("np.array(['a', 'b'])", ["a", "b"]),
    ("np.array([b'a'])", ["a"]),
    ("np.array([1, 'a', None], dtype=object)", [1, "a", None]),
    ("np.array(['2020-01-01', 'NaT'], dtype='M8[ns]')", ["2020-01-01T00:00:00.000000000", None]),
    ("np.array([1 + 2j])", [{"real": 1.0, "imag": 2.0}]),
    ("np.array([1, 2], dtype=np.longdouble)", [1.0, 2.0]),
    ("np.array([(1, 'x')], dtype=[('a', int), ('b', 'U1')])", [{"a": 1, "b": "x"}]),
    ("np.ma.array([1, 2], mask=[0, 1])", [1, None]),
    ("np.ma.masked", None),
    ("{'a': np.int64(1), np.int64(2): [np.float64(3)]}", {"a": 1, "2": [3.0]}),
]

PANDAS = [
    (
        "pd.DataFrame({'a': [1, 2], 'b': ['x', None]})",
        {"columns": ["a", "b"], "index": [0, 1], "data": [[1, "x"], [2, None]]},
    ),
    ("pd.Series([1.5, np.nan], index=['p', 'q'], name='n')", {"name": "n", "index": ["p", "q"], "data": [1.5, None]}),
    (
        "pd.DataFrame({'g': ['a', 'b', 'a'], 'x': [1, 2, 3]}).groupby('g').x.sum()",
        {"name": "x", "index": ["a", "b"], "data": [4, 2]},
    ),
    ("pd.Index([1, 2])", [1, 2]),
    ("pd.MultiIndex.from_tuples([('a', 1)])", [["a", 1]]),
    ("pd.DataFrame([[1, 2]], columns=['a', 'a'])", {"columns": ["a", "a"], "index": [0], "data": [[1, 2]]}),
    ("pd.DataFrame()", {"columns": [], "index": [], "data": []}),
    ("pd.Timestamp('2020-01-02 03:04')", "2020-01-02T03:04:00"),
    ("pd.NaT", None),
    ("pd.NA", None),
    ("pd.Timedelta('1min')", 60.0),
    ("pd.Period('2020-01')", "2020-01"),
    ("pd.Interval(0, 1)", "(0, 1]"),
    ("pd.Categorical(['a', 'b'])", ["a", "b"]),
    ("pd.Series([pd.NA, 1], dtype='Int64')", {"name": None, "index": [0, 1], "data": [None, 1]}),
    (
        "pd.Series(pd.to_datetime(['2020-01-01', None]))",
        {"name": None, "index": [0, 1], "data": ["2020-01-01T00:00:00", None]},
    ),
    ("pd.date_range('2020', periods=1)", ["2020-01-01T00:00:00"]),
]


@pytest.mark.parametrize(("expression", "form"), NUMPY, ids=[row[0] for row in NUMPY])
async def test_numpy_objects_have_their_natural_form(run, expression, form):
    pytest.importorskip("numpy")
    found = described(await run(f"import numpy as np\n{expression}"))
    assert (found.json, found.is_json, found.truncated) == (form, True, False)


@pytest.mark.parametrize(("expression", "form"), PANDAS, ids=[row[0] for row in PANDAS])
async def test_pandas_objects_have_their_natural_form(run, expression, form):
    pytest.importorskip("pandas")
    found = described(await run(f"import numpy as np, pandas as pd\n{expression}"))
    assert (found.json, found.is_json, found.truncated) == (form, True, False)


async def test_a_data_frame_can_be_made_again_from_its_form(run):
    pandas = pytest.importorskip("pandas")
    found = described(await run("import pandas as pd\npd.DataFrame({'a': [1, 2]}, index=['x', 'y'])"))
    pandas.testing.assert_frame_equal(pandas.DataFrame(**found.json), pandas.DataFrame({"a": [1, 2]}, index=["x", "y"]))


async def test_pydantic_models_are_their_fields(run):
    pytest.importorskip("pydantic")
    program = """
        import datetime, pydantic
        class Inner(pydantic.BaseModel):
            when: datetime.date
        class Outer(pydantic.BaseModel):
            inner: list[Inner]
        Outer(inner=[{"when": "2020-01-02"}])
        """
    assert described(await run(code(program))).json == {"inner": [{"when": "2020-01-02"}]}


async def test_nothing_is_imported_for_the_sake_of_a_value(run):
    heavy = "{'numpy', 'pandas', 'matplotlib'}"
    said = await run(f"import atexit, sys\natexit.register(lambda: print({heavy} & set(sys.modules)))\n[1]")
    assert said.stdout == "set()\n"


# --- bounds -----------------------------------------------------------------------------------------------------------

HUGE = [
    "list(range(10**6))",
    "{str(i): i for i in range(10**6)}",
    "'x' * 10**7",
    "'\\u20ac' * 10**6",
    "b'x' * 10**7",
    "b'\\xff' * 10**7",
    "set(range(10**6))",
    "range(10**12)",
    "10**100_000",
    "[[1] * 1000] * 1000",
    "['y' * 10**6] * 10",
    "{'k' * 10**6: 1}",
]
HUGE_ARRAYS = [
    "np.zeros(10**7)",
    "np.zeros((3000, 3000))",
    "np.zeros((2, 10**6))",
    "np.array(['a' * 1000] * 1000)",
    "pd.DataFrame(np.zeros((10**6, 3)))",
    "pd.DataFrame(np.zeros((2, 20_000)))",
    "pd.Series(range(10**6))",
    "pd.RangeIndex(10**7)",
]


@pytest.mark.parametrize("expression", [*HUGE, *HUGE_ARRAYS])
async def test_huge_values_are_cut_and_say_so(run, expression):
    before = "import numpy as np, pandas as pd\n" if expression in HUGE_ARRAYS else ""
    if before:
        pytest.importorskip("pandas")
    found = described(await run(before + expression))
    assert found.truncated
    assert found.is_json
    assert len(json.dumps(found.json)) <= 300_000
    assert len(found.text) <= 64 * 1024


async def test_a_ring_is_cut(run_any):
    found = described(await run_any("a = [1]\na.append(a)\na"))
    assert (found.json, found.text, found.truncated) == ([1, "<cycle>"], "[1, [...]]", True)


async def test_a_value_that_occurs_twice_is_no_ring(run_any):
    found = described(await run_any("a = [1]\n[a, a]"))
    assert (found.json, found.truncated) == ([[1], [1]], False)


async def test_deep_nesting_is_cut(run_any):
    found = described(await run_any("a = []\nfor _ in range(100_000): a = [a]\na"))
    assert found.truncated
    assert json.dumps(found.json)


HOSTILE = {
    "repr raises": "class X:\n    def __repr__(self): 1 / 0\nX()",
    "repr leaves": "class X:\n    def __repr__(self): raise SystemExit(3)\nX()",
    "repr is no text": "class X:\n    def __repr__(self): return 5\nX()",
    "repr is a hostile text": "class S(str):\n    def __len__(s): 1 / 0\n"
    "class X:\n    def __repr__(s): return S('x')\nX()",
    "class lies": "class X:\n    __class__ = property(lambda s: 1 / 0)\nX()",
    "every attribute raises": "class X:\n    def __getattribute__(s, n): 1 / 0\nX()",
    "class is hostile": "class M(type):\n    def __getattribute__(c, n): 1 / 0\nclass X(metaclass=M): pass\nX()",
    "names are no texts": "class X: pass\nX.__module__ = 5\nX()",
    "list lies": "class X(list):\n    def __len__(s): return -1\n    def __iter__(s): 1 / 0\nX([1])",
    "dict lies": "class X(dict):\n    def items(s): 1 / 0\n    def __len__(s): 1 / 0\nX(a=1)",
    "text lies": "class X(str):\n    def __str__(s): 1 / 0\n    def __getitem__(s, i): 1 / 0\nX('x')",
    "number lies": "class X(int):\n    def __index__(s): 1 / 0\n    __int__ = __repr__ = __index__\nX(5)",
    "data class raises": "import dataclasses as d\n@d.dataclass\nclass X:\n    a: int = 1\n"
    "x = X()\ndel X.a\ndel x.a\nx",
    "fake array": "class ndarray: pass\nndarray.__module__ = 'numpy'\nndarray()",
    "fake model": "class BaseModel:\n    def model_dump(s): return s\n"
    "BaseModel.__module__ = 'pydantic.main'\nBaseModel()",
    "fake fields": "class X(tuple):\n    _fields = 5\nX((1,))",
    "endless mapping": "class UserDict:\n    def items(s):\n        while True: yield 'a', 1\n"
    "UserDict.__module__ = 'collections'\nUserDict()",
    "repr is endless in parts": "class X:\n    def __repr__(s): return 'x' * 10**7\n[X()] * 100",
    "no equality": "class X(float):\n    __eq__ = __ne__ = __lt__ = None\nX('nan')",
    "unsortable set": "{1, 'a', None}",
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_value_is_described_all_the_same(run_any, name):
    said = await run_any(HOSTILE[name])
    found = described(said)
    assert said.exit.code == 0
    assert len(found.text) <= 64 * 1024
    assert found.text or found.is_json
    assert json.dumps(found.json) is not None


async def test_a_repr_that_raises_is_named(run_any):
    text = described(await run_any("class X:\n    def __repr__(self): 1 / 0\nX()")).text
    assert text == "<__main__.X object whose repr raised ZeroDivisionError>"


async def test_of_a_very_wide_table_rows_are_kept_too(run):
    found = described(await run("import numpy as np, pandas as pd\npd.DataFrame(np.zeros((2, 20_000)))"))
    assert [len(row) for row in found.json["data"]] == [20_000]
    assert found.truncated


@pytest.mark.parametrize("columns", [3, 300])
async def test_the_cells_of_a_table_are_the_same_however_wide_it_is(run, columns: int):
    code = (
        "import pandas as pd\nkinds = ([1, None], ['a', 'b'], pd.to_datetime(['2020-01-01', None]))\n"
        f"pd.DataFrame({{i: kinds[i % 3] for i in range({columns})}})"
    )
    found = described(await run(code))
    assert [row[-3:] for row in found.json["data"]] == [[1.0, "a", "2020-01-01T00:00:00"], [None, "b", None]]
