"""The codec: one behaviour, with orjson and without it."""

from __future__ import annotations

import importlib.util
import math
import sys
import traceback
from enum import Enum
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixir_sync.protocol import codec

SECRET = "sk-SENTINEL"


def load(name: str, *, without_orjson: bool) -> ModuleType:
    """A second copy of the codec, so that both forms stand side by side in one process."""
    spec = importlib.util.spec_from_file_location(name, codec.__file__)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    saved = sys.modules.get("orjson")
    if without_orjson:
        sys.modules["orjson"] = None  # type: ignore[assignment]
    try:
        spec.loader.exec_module(module)
    finally:
        if without_orjson:
            del sys.modules["orjson"]
        if saved is not None:
            sys.modules["orjson"] = saved
    return module


STD = load("codec_std", without_orjson=True)
FAST = load("codec_fast", without_orjson=False)
BOTH = pytest.mark.parametrize("form", [STD, FAST], ids=["std", "fast"])

text = st.text(st.characters(exclude_categories=["Cs"]))
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | text
json_values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=30)
# Anything at all that a program may hand over, most of it without a JSON form.
strange = (
    st.sampled_from([math.nan, math.inf, -math.inf, "\ud800", "a\udfff", b"x", object(), {1, 2}, 1j])
    | st.sampled_from([2**64, -(2**63) - 1, 2**200])
    | st.tuples(scalars, scalars)
    | st.dictionaries(st.integers() | st.none() | st.booleans() | text, scalars, max_size=3)
)
any_values = st.recursive(
    scalars | strange,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)

NOT_JSON: list[str | bytes] = [
    "", " ", "{", '{"a":}', "[1,]", "1 2", '"a',
    "\ufeff{}", b"\xff", b'"\xc3"', b"\x00", "01", "'a'", "1" * 5000,
]


class Refused:
    """Stands for a `CodecError` where answers are compared."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Refused)


def attempt(form: ModuleType, name: str, value: Any) -> Any:
    """What the form gives, or `Refused`; any other exception is a fault and gets out."""
    try:
        return getattr(form, name)(value)
    except form.CodecError:
        return Refused()


def same(one: Any, other: Any) -> bool:
    """Equal in value and in type: 1, 1.0 and True are three things, 0.0 and -0.0 are two."""
    return repr(one) == repr(other)


def test_the_two_copies_are_what_they_say() -> None:
    """Without this, the comparisons below would compare a thing with itself."""
    assert STD._FAST is False
    assert FAST._FAST is (importlib.util.find_spec("orjson") is not None)


@BOTH
@given(value=json_values)
def test_round_trip(form: ModuleType, value: Any) -> None:
    """What was written is read back, in value and in type."""
    assert same(form.loads(form.dumps(value)), value)


@given(value=json_values)
def test_both_forms_write_for_each_other(value: Any) -> None:
    """What one form writes, the other reads back the same."""
    assert same(STD.loads(FAST.dumps(value)), value)
    assert same(FAST.loads(STD.dumps(value)), value)


@given(value=any_values)
def test_both_forms_refuse_the_same_values(value: Any) -> None:
    """A value has a JSON form in both or in neither, and then the same one."""
    fast, std = attempt(FAST, "dumps", value), attempt(STD, "dumps", value)
    if isinstance(fast, Refused) or isinstance(std, Refused):
        assert fast == std
    else:
        assert same(STD.loads(fast), STD.loads(std))


@given(raw=st.text("[]{}:,\"\\u0129dDaAeE.+-truefalsn NI \t\n\x00é", max_size=24) | st.binary(max_size=16))
def test_both_forms_refuse_the_same_texts(raw: str | bytes) -> None:
    """A text is JSON in both or in neither, and then has the same value."""
    fast, std = attempt(FAST, "loads", raw), attempt(STD, "loads", raw)
    assert fast == std if isinstance(fast, Refused) or isinstance(std, Refused) else same(fast, std)


@BOTH
def test_text_and_bytes_read_alike(form: ModuleType) -> None:
    """A text may come as str or as UTF-8, with white space around it."""
    for raw in ('{"a":["é",1]}', '  {"a":["é",1]}\r\n'):
        assert form.loads(raw) == form.loads(raw.encode()) == {"a": ["é", 1]}


@BOTH
def test_output_is_compact_utf8(form: ModuleType) -> None:
    """No white space and no escapes that are not needed: what is sent is counted in bytes."""
    assert form.dumps({"a": [1, "é", None, True]}) == '{"a":[1,"é",null,true]}'.encode()


@BOTH
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("wrap", [lambda n: n, lambda n: [n], lambda n: {"a": {"b": (1, n)}}])
def test_nan_and_infinity_are_refused(form: ModuleType, number: float, wrap: Any) -> None:
    """They have no JSON form; neither null nor a bare word is sent in their place."""
    with pytest.raises(form.CodecError):
        form.dumps(wrap(number))


@BOTH
@pytest.mark.parametrize("raw", ["NaN", "[Infinity]", '{"a":-Infinity}'])
def test_constants_that_are_not_json_are_refused(form: ModuleType, raw: str) -> None:
    """The standard library reads them by default."""
    with pytest.raises(form.CodecError):
        form.loads(raw)


@BOTH
@pytest.mark.parametrize("key", [1, None, True, 1.5, ("a",), b"a"])
def test_keys_that_are_no_strings_are_refused(form: ModuleType, key: Any) -> None:
    """The standard library would turn them into strings, and the caller would not notice."""
    with pytest.raises(form.CodecError):
        form.dumps({"a": [{key: 1}]})


@BOTH
def test_lone_surrogates_are_read_and_not_written(form: ModuleType) -> None:
    """Servers cut strings in two and send the halves of a pair; UTF-8 cannot say them."""
    assert form.loads('"\\ud83d"') == form.loads(b'"\\ud83d"') == "\ud83d"
    assert form.loads('"\\ud83d\\ude00"') == "😀"
    with pytest.raises(form.CodecError, match="surrogate"):
        form.dumps({"a": "\ud83d"})


@BOTH
@pytest.mark.parametrize("number", [2**63 - 1, -(2**63), 2**64 - 1])
def test_integers_of_64_bits_are_exact(form: ModuleType, number: int) -> None:
    """None becomes a float on the way."""
    assert same(form.loads(form.dumps([number])), [number])


@BOTH
@pytest.mark.parametrize("raw", NOT_JSON)
def test_what_is_not_json_is_refused(form: ModuleType, raw: str | bytes) -> None:
    """One error, whatever is wrong, and whichever library noticed."""
    with pytest.raises(form.CodecError):
        form.loads(raw)


@BOTH
def test_depth_is_no_crash(form: ModuleType) -> None:
    """Neither a text nor a value that is nested too deeply gets out as RecursionError."""
    with pytest.raises(form.CodecError):
        form.loads("[" * 100_000)
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(form.CodecError):
        form.dumps(loop)


@BOTH
@pytest.mark.parametrize(
    "raw", [f'{{"{SECRET}": {SECRET}}}', f'"{SECRET}', f'["{SECRET}", NaN]', f'"{SECRET}\xff'.encode("latin-1")]
)
def test_errors_of_reading_quote_nothing(form: ModuleType, raw: str | bytes) -> None:
    """The text may be a prompt or an answer: neither the error nor its printed traceback has a word of it."""
    with pytest.raises(form.CodecError) as caught:
        form.loads(raw)
    assert SECRET not in repr(caught.value) + "".join(traceback.format_exception(caught.value))


@BOTH
@pytest.mark.parametrize(
    "value", [[SECRET, object()], {"a": SECRET, "b": math.nan}, [SECRET + "\ud800"], {"a": {1: SECRET}}]
)
def test_errors_of_writing_quote_no_value(form: ModuleType, value: Any) -> None:
    """The message names the place and the type."""
    with pytest.raises(form.CodecError) as caught:
        form.dumps(value)
    assert SECRET not in repr(caught.value) + "".join(traceback.format_exception(caught.value))


@BOTH
def test_the_place_is_named(form: ModuleType) -> None:
    """A caller finds the value that has no JSON form."""
    with pytest.raises(form.CodecError, match=r"a\[1\]\.b: object has no JSON form"):
        form.dumps({"a": [0, {"b": object()}]})


class Colour(Enum):
    """An enumeration as a program has it."""

    RED = "red"
    NONE = None


@BOTH
def test_enumerations_and_uuids_have_one_form(form: ModuleType) -> None:
    """With either library an enumeration is its value and a UUID its text."""
    value = {"a": [Colour.RED, Colour.NONE], "b": UUID(int=7)}
    assert form.dumps(value) == b'{"a":["red",null],"b":"00000000-0000-0000-0000-000000000007"}'


@BOTH
def test_pretty_is_for_people(form: ModuleType) -> None:
    """Indented, readable, and the same value."""
    pretty = form.dumps_pretty({"a": ["é"]})
    assert pretty == '{\n  "a": [\n    "é"\n  ]\n}'
    assert form.loads(pretty) == {"a": ["é"]}


def test_a_codec_error_is_a_value_error() -> None:
    """So that a program may catch it without knowing this module."""
    assert issubclass(codec.CodecError, ValueError)
