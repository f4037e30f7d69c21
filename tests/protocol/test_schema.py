"""Output schemas and function tools: types to JSON schema, answers back to typed values, every refusal by name."""

from __future__ import annotations

import datetime
import enum
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NewType, NotRequired, Optional, Required, TypedDict, Union

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixir_sync.protocol.errors import InvalidRequest
from pixir_sync.protocol.schema import check_tools, output_format, schema_of, tool_spec, value_of
from pixir_sync.protocol.shapes import shape_of


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Mixed(enum.Enum):
    PAIR = (1, 2)


@dataclass
class Address:
    street: Annotated[str, "street and number"]
    zip: str | None = None


@dataclass(frozen=True)
class Person:
    name: str
    age: int
    color: Color
    home: Address
    tags: tuple[str, ...] = ()
    secret: int = field(default=7, init=False)


@dataclass
class Node:
    value: int
    children: list[Node] = field(default_factory=list)


@dataclass
class Left:
    right: Right | None


@dataclass
class Right:
    left: Left | None


@dataclass
class Picky:
    text: str

    def __post_init__(self) -> None:
        if len(self.text) > 3:
            raise RuntimeError(f"too long: {self.text}")


@dataclass
class Odd:
    fine: int
    odd: complex


@dataclass
class Unresolved:
    field: NoSuchName  # type: ignore[name-defined]  # noqa: F821


class Options(TypedDict, total=False):
    name: Required[str]
    size: int
    note: NotRequired[str | None]


UserId = NewType("UserId", int)
STR, INT, NULL = {"type": "string"}, {"type": "integer"}, {"type": "null"}
ADDRESS = {
    "type": "object",
    "properties": {"street": {**STR, "description": "street and number"}, "zip": {"type": ["string", "null"]}},
    "required": ["street", "zip"],
    "additionalProperties": False,
}

# type, its schema, an answer, the value of that answer
CASES: dict[str, tuple[Any, dict[str, Any], Any, Any]] = {
    "str": (str, STR, "x", "x"),
    "int": (int, INT, 3, 3),
    "int from 3.0": (int, INT, 3.0, 3),
    "float": (float, {"type": "number"}, 1.5, 1.5),
    "float from 1": (float, {"type": "number"}, 1, 1.0),
    "bool": (bool, {"type": "boolean"}, True, True),
    "None": (None, NULL, None, None),
    "Any": (Any, {}, {"a": [1]}, {"a": [1]}),
    "NewType": (UserId, INT, 3, 3),
    "list": (list[int], {"type": "array", "items": INT}, [1, 2], [1, 2]),
    "Sequence": (Sequence[int], {"type": "array", "items": INT}, [1], [1]),
    "bare list": (list, {"type": "array", "items": {}}, [1, "x"], [1, "x"]),
    "tuple of any length": (tuple[int, ...], {"type": "array", "items": INT}, [1, 2], (1, 2)),
    "pair": (tuple[int, int], {"type": "array", "items": INT, "minItems": 2, "maxItems": 2}, [1, 2], (1, 2)),
    "mixed pair": (
        tuple[int, str],
        {"type": "array", "items": {"anyOf": [INT, STR]}, "minItems": 2, "maxItems": 2},
        [1, "a"],
        (1, "a"),
    ),
    "dict": (dict[str, int], {"type": "object", "additionalProperties": INT}, {"a": 1}, {"a": 1}),
    "Mapping": (Mapping[str, int], {"type": "object", "additionalProperties": INT}, {"a": 1}, {"a": 1}),
    "bare dict": (dict, {"type": "object", "additionalProperties": {}}, {"a": None}, {"a": None}),
    "Literal": (Literal["a", "b"], {**STR, "enum": ["a", "b"]}, "b", "b"),
    "mixed Literal": (Literal[1, "a", None, True], {"type": ["integer", "string", "null", "boolean"],
                      "enum": [1, "a", None, True]}, True, True),
    "Enum": (Color, {**STR, "enum": ["red", "blue"]}, "blue", Color.BLUE),
    "IntEnum": (Level, {**INT, "enum": [1, 2]}, 2, Level.HIGH),
    "Optional": (Optional[int], {"type": ["integer", "null"]}, None, None),  # noqa: UP045
    "optional Enum": (Color | None, {"type": ["string", "null"], "enum": ["red", "blue", None]}, "red", Color.RED),
    "optional list": (list[int] | None, {"anyOf": [{"type": "array", "items": INT}, NULL]}, [1], [1]),
    "Union": (Union[int, str], {"anyOf": [INT, STR]}, "x", "x"),  # noqa: UP007
    "union with None": (int | str | None, {"anyOf": [INT, STR, NULL]}, None, None),
    "union of numbers keeps a float": (int | float, {"anyOf": [INT, {"type": "number"}]}, 2.0, 2.0),
    "union of records": (Address | list[int], {"anyOf": [ADDRESS, {"type": "array", "items": INT}]},
                         {"street": "s", "zip": None}, Address("s")),
    "Annotated": (Annotated[int, 5, "how many", "not this"], {**INT, "description": "how many"}, 3, 3),
    "datetime": (datetime.datetime, {**STR, "format": "date-time"}, "2026-11-20T21:00:00Z",
                 datetime.datetime(2026, 11, 20, 21, tzinfo=datetime.UTC)),
    "date": (datetime.date, {**STR, "format": "date"}, "2026-11-20", datetime.date(2026, 11, 20)),
    "dataclass": (Address, ADDRESS, {"street": "s", "zip": "1"}, Address("s", "1")),
    "absent default": (Address, ADDRESS, {"street": "s"}, Address("s")),
    "nested dataclass": (
        Person,
        {
            "type": "object",
            "properties": {"name": STR, "age": INT, "color": {**STR, "enum": ["red", "blue"]}, "home": ADDRESS,
                           "tags": {"type": "array", "items": STR}},
            "required": ["name", "age", "color", "home", "tags"],
            "additionalProperties": False,
        },
        {"name": "n", "age": 1, "color": "red", "home": {"street": "s", "zip": None}, "tags": ["t"]},
        Person("n", 1, Color.RED, Address("s"), ("t",)),
    ),
    "TypedDict": (
        Options,
        {
            "type": "object",
            "properties": {"name": STR, "size": {"type": ["integer", "null"]}, "note": {"type": ["string", "null"]}},
            "required": ["name", "size", "note"],
            "additionalProperties": False,
        },
        {"name": "n", "size": None, "note": None},
        {"name": "n", "note": None},
    ),
}  # fmt: skip


@pytest.mark.row("A8")
@pytest.mark.parametrize("name", CASES)
def test_type_gives_schema_and_value(name: str) -> None:
    """Each supported type has this schema, which is plain JSON, and an answer becomes this value of the right type."""
    tp, schema, data, value = CASES[name]
    assert schema_of(tp) == schema
    assert json.loads(json.dumps(schema_of(tp))) == schema
    built = value_of(tp, data)
    assert built == value and type(built) is type(value)


@pytest.mark.row("A8")
def test_recursive_dataclass_goes_through_definitions() -> None:
    """A class that contains itself is a definition; the root stays an object, and the answer is built to any depth."""
    node = {
        "type": "object",
        "properties": {"value": INT, "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}}},
        "required": ["value", "children"],
        "additionalProperties": False,
    }
    assert schema_of(Node) == {**node, "$defs": {"Node": node}}
    assert schema_of(list[Node]) == {"type": "array", "items": {"$ref": "#/$defs/Node"}, "$defs": {"Node": node}}
    described = {"anyOf": [{"$ref": "#/$defs/Node"}], "description": "a tree"}
    assert schema_of(Annotated[Node, "a tree"]) == {**described, "$defs": {"Node": node}}
    data = {"value": 1, "children": [{"value": 2, "children": [{"value": 3, "children": []}]}]}
    assert value_of(Node, data) == Node(1, [Node(2, [Node(3)])])


@pytest.mark.row("A8")
def test_classes_that_contain_each_other() -> None:
    """Mutual recursion ends, and every reference has its definition."""
    schema = schema_of(tuple[Left, Right])
    refs = {part.split('"')[0] for part in json.dumps(schema).split("#/$defs/")[1:]}
    assert refs and refs <= set(schema["$defs"])
    assert value_of(Left, {"right": {"left": {"right": None}}}) == Left(Right(Left(None)))


@pytest.mark.row("A8")
def test_equal_class_names_get_their_own_definitions() -> None:
    """Two recursive classes of the same name do not share a definition."""

    def make(hint: Any) -> type:
        inner = type("Same", (), {})
        inner.__annotations__ = {"value": hint, "next": Optional[inner]}  # noqa: UP045
        return dataclass(inner)

    pair: Any = tuple[make(int), make(str)]  # type: ignore[misc]
    definitions = schema_of(pair)["$defs"]
    assert sorted(part["properties"]["value"]["type"] for part in definitions.values()) == ["integer", "string"]


@pytest.mark.row("A8")
@pytest.mark.parametrize(
    ("tp", "place"),
    [(complex, "complex"), (set[int], "set"), (dict[int, str], "dict"), (Odd, "Odd.odd"), (list[Odd], "list[].odd"),
     (Mixed, "Mixed"), (Literal[b"x"], "Literal"), (Unresolved, "Unresolved"), ("Node", "schema"),
     (Address("x"), "schema"), (Callable[[], int], "Callable"), (tuple[int, complex], "tuple[1]")],
)  # fmt: skip
def test_unsupported_type_is_refused_by_name(tp: Any, place: str) -> None:
    """A type that has no JSON schema is InvalidRequest, and the message begins with the place."""
    with pytest.raises(InvalidRequest) as caught:
        schema_of(tp)
    assert str(caught.value).startswith(place)


MISFITS: list[tuple[Any, Any, str]] = [
    (str, 1, "output: expected string, got integer"),
    (int, True, "output: expected integer, got boolean"),
    (int, 1.5, "output: expected integer, got number"),
    (int, "SENTINEL", "output: expected integer, got string"),
    (float, 10**400, "output: expected number, got integer"),
    (bool, 1, "output: expected boolean, got integer"),
    (None, "SENTINEL", "output: expected null, got string"),
    (list[int], {"SENTINEL": 1}, "output: expected array, got object"),
    (list[int], [1, "SENTINEL"], "output[1]: expected integer, got string"),
    (tuple[int, str], [1], "output: expected array of 2, got array"),
    (tuple[int, str], [1, 2], "output[1]: expected string, got integer"),
    (dict[str, int], {"SENTINEL": "SENTINEL"}, "output[]: expected integer, got string"),
    (dict[str, int], ["SENTINEL"], "output: expected object, got array"),
    (Color, "SENTINEL", "output: expected one of 2 choices, got string"),
    (Level, True, "output: expected one of 2 choices, got boolean"),
    (Literal["a"], ["SENTINEL"], "output: expected one of 1 choices, got array"),
    (int | None, "SENTINEL", "output: expected one of 2 alternatives, got string"),
    (datetime.datetime, "SENTINEL", "output: expected an ISO 8601 datetime, got string"),
    (datetime.datetime, 5, "output: expected an ISO 8601 datetime, got integer"),
    (Address, ["SENTINEL"], "output: expected object, got array"),
    (Address, {}, "output.street: missing"),
    (Address, {"street": "SENTINEL", "SENTINEL": 1}, "output: 1 unknown properties"),
    (list[Address], [{"street": 5}], "output[0].street: expected string, got integer"),
    (Picky, {"text": "SENTINEL"}, "output: Picky refused the values (RuntimeError)"),
    (Options, {"size": 1}, "output.name: missing"),
]


@pytest.mark.row("A8", "A26")
@pytest.mark.parametrize(("tp", "data", "message"), MISFITS)
def test_answer_that_does_not_fit_is_value_error_without_content(tp: Any, data: Any, message: str) -> None:
    """An answer of another shape is ValueError that names the place and the kinds, and never the content."""
    with pytest.raises(ValueError) as caught:
        value_of(tp, data)
    assert str(caught.value) == message
    assert caught.value.__cause__ is None


@pytest.mark.row("A8")
def test_answer_nested_too_deeply_is_value_error() -> None:
    """An answer deeper than the interpreter's stack does not escape as RecursionError."""
    data: dict[str, Any] = {"value": 1, "children": []}
    for _ in range(5_000):
        data = {"value": 1, "children": [data]}
    with pytest.raises(ValueError, match="output: nested too deeply"):
        value_of(Node, data)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.row("A8")
@given(data=_json, tp=st.sampled_from([case[0] for case in CASES.values()]))
def test_any_json_is_a_value_or_value_error(data: Any, tp: Any) -> None:
    """Whatever the model answers, the outcome is a value or ValueError; nothing else escapes."""
    shape = shape_of(tp)
    try:
        built = shape.value(data)
    except ValueError as error:
        assert str(error).startswith("output")
    else:
        assert tp is Any or built == shape.value(data)


@pytest.mark.row("A8")
def test_output_format_of_a_dataclass() -> None:
    """A dataclass gives a strict format named after it, and the answer becomes an instance."""
    shape, parse = output_format(Address)
    assert shape == {"type": "json_schema", "name": "Address", "schema": ADDRESS, "strict": True}
    assert parse({"street": "s", "zip": None}) == Address("s")
    with pytest.raises(ValueError, match="output.street: expected string"):
        parse({"street": 1, "zip": None})


@pytest.mark.row("A8")
def test_output_format_of_a_typed_dict() -> None:
    """A TypedDict gives a strict format too, and the answer stays a dict, checked."""
    shape, parse = output_format(Options)
    assert (shape["name"], shape["strict"], shape["schema"]) == ("Options", True, schema_of(Options))
    assert parse({"name": "n", "size": 2, "note": None}) == {"name": "n", "size": 2, "note": None}


@pytest.mark.row("A8")
def test_types_outside_the_strict_form_are_not_strict() -> None:
    """Any and dicts with free keys cannot be said in strict form: the format says so itself."""

    @dataclass
    class Loose:
        extra: dict[str, int]

    @dataclass
    class Free:
        anything: Any

    assert output_format(Loose)[0]["strict"] is False
    assert output_format(Free)[0]["strict"] is False


@pytest.mark.row("A8")
def test_output_format_of_mappings() -> None:
    """Mappings go as they are: strict by default, bare schemas named "output", the answer unchanged."""
    schema = {"type": "object", "properties": {"a": INT}}
    assert output_format({"name": "n-1", "schema": schema})[0] == {
        "type": "json_schema", "name": "n-1", "schema": schema, "strict": True,
    }  # fmt: skip
    whole = {"type": "json_schema", "name": "n", "schema": schema, "strict": False, "description": "d"}
    assert output_format(whole)[0] == whole
    reference = {"$ref": "#/$defs/A", "$defs": {"A": schema}}
    bare: list[dict[str, Any]] = [schema, reference, {"anyOf": [schema]}, {"properties": {}}]
    for one in bare:
        shape, parse = output_format(one)
        assert shape == {"type": "json_schema", "name": "output", "schema": one, "strict": True}
        assert parse([1]) == [1]


@pytest.mark.row("A8")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("object", "output_schema: expected a mapping, or the class"),
        (Address("x"), "output_schema: expected a mapping, or the class"),
        (int, "output_schema: expected a mapping, or the class"),
        (Odd, "output_schema.odd: complex has no JSON schema"),
        ({}, "output_schema.name: missing"),
        ({"name": "n"}, "output_schema.schema: missing"),
        ({"schema": {}}, "output_schema.name: missing"),
        ({"name": "n", "shema": {}}, "output_schema.shema: unknown key; did you mean 'schema'?"),
        ({"name": "n", "schema": {}, "zzz": 1}, "output_schema.zzz: unknown key; known are name, schema"),
        ({"name": "a b", "schema": {}}, "output_schema.name: a name is 1 to 64 of"),
        ({"name": "", "schema": {}}, "output_schema.name: a name is 1 to 64 of"),
        ({"name": "n\n", "schema": {}}, "output_schema.name: a name is 1 to 64 of"),
        ({"name": "n" * 65, "schema": {}}, "output_schema.name: a name is 1 to 64 of"),
        ({"name": 5, "schema": {}}, "output_schema.name: a name is 1 to 64 of"),
        ({"name": "n", "schema": "{}"}, "output_schema.schema: expected a mapping, got str"),
        ({"name": "n", "schema": {}, "strict": "yes"}, "output_schema.strict: expected true or false, got str"),
        ({"name": "n", "schema": {}, "description": 5}, "output_schema.description: expected a string, got int"),
        ({"type": "object", "name": "n", "schema": {}}, "output_schema.type: beside a schema"),
        ({"type": "json_schema", "json_schema": {"name": "n"}}, "output_schema.json_schema: not nested here"),
    ],
)
def test_bad_output_schema_is_refused_by_name(given: Any, message: str) -> None:
    """Each wrong output_schema is InvalidRequest that names the field, and the nearest name of a misspelt key."""
    with pytest.raises(InvalidRequest) as caught:
        output_format(given)
    assert str(caught.value).startswith(message)


def weather(city: Annotated[str, "name of the city"], days: int, unit: Literal["c", "f"]) -> str:
    """Tells the weather of
    a city.

    Not this.

    Args:
        city (str): not this, Annotated says it
        days: how many
            days ahead
        unit: Celsius: c, Fahrenheit: f

    Returns:
        text: nor this
    """
    return f"{city}{days}{unit}"


@pytest.mark.row("A6")
def test_tool_of_a_function() -> None:
    """A function gives a flat, strict tool: name, first paragraph, hints, descriptions."""
    assert tool_spec(weather) == {
        "type": "function",
        "name": "weather",
        "description": "Tells the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {**STR, "description": "name of the city"},
                "days": {**INT, "description": "how many days ahead"},
                "unit": {**STR, "enum": ["c", "f"], "description": "Celsius: c, Fahrenheit: f"},
            },
            "required": ["city", "days", "unit"],
            "additionalProperties": False,
        },
        "strict": True,
    }


@pytest.mark.row("A6")
def test_parameter_with_default_is_not_required_and_not_strict() -> None:
    """The model may leave out what has a default, and the strict form cannot say that."""

    def tool(a: int, b: str = "x") -> None: ...

    spec = tool_spec(tool)
    assert spec["parameters"]["required"] == ["a"]
    assert spec["strict"] is False
    assert "description" not in spec


@pytest.mark.row("A6")
def test_tool_parameters_of_records_and_methods() -> None:
    """A bound method has no self; recursive records become definitions of the parameters; free keys are not strict."""

    class Box:
        def put(self, node: Node, *, deep: bool) -> None: ...

        def tag(self, tags: dict[str, str]) -> None: ...

    spec = tool_spec(Box().put)
    assert spec["parameters"]["properties"] == {"node": {"$ref": "#/$defs/Node"}, "deep": {"type": "boolean"}}
    assert list(spec["parameters"]["$defs"]) == ["Node"]
    assert spec["strict"] is True
    assert tool_spec(Box().tag)["strict"] is False


@pytest.mark.row("A6")
def test_tool_without_parameters() -> None:
    """A function without parameters takes an empty object, strictly."""

    def now() -> None: ...

    assert tool_spec(now)["parameters"] == {
        "type": "object", "properties": {}, "required": [], "additionalProperties": False,
    }  # fmt: skip
    assert tool_spec(now)["strict"] is True


@pytest.mark.row("A6")
def test_tool_of_a_mapping_is_checked_and_copied() -> None:
    """A flat mapping passes as it is; what was left out or None stays out, but type and parameters are filled in."""
    given = {"name": "a.b:c-d_1", "description": None, "strict": None}
    spec = tool_spec(given)
    assert spec == {"type": "function", "name": "a.b:c-d_1", "parameters": {"type": "object", "properties": {}}}
    whole = {"type": "function", "name": "n", "description": "d", "parameters": {"type": "object"}, "strict": False}
    assert tool_spec(whole) == whole
    assert tool_spec(whole) is not whole
    assert given == {"name": "a.b:c-d_1", "description": None, "strict": None}


def star(*numbers: int) -> None: ...


def stars(**options: int) -> None: ...


def bare(a, b: int) -> None: ...  # type: ignore[no-untyped-def]


def slash(a: int, /) -> None: ...


def odd(a: int, b: complex) -> None: ...


@pytest.mark.row("A6")
@pytest.mark.parametrize(
    ("tool", "message"),
    [
        (star, ".star.numbers: a variadic positional parameter has no JSON form"),
        (stars, ".stars.options: a variadic keyword parameter has no JSON form"),
        (slash, ".slash.a: a positional-only parameter has no JSON form"),
        (bare, ".bare.a: has no type hint"),
        (odd, ".odd.b: complex has no JSON schema"),
        (lambda: None, ".name: a name is 1 to 64 of"),
        (Address, ": expected a function or a mapping, got type"),
        ("weather", ": expected a function or a mapping, got str"),
        ({"type": "function", "function": {"name": "n"}}, ".function: tools are flat"),
        ({"nmae": "n"}, ".nmae: unknown key; did you mean 'name'?"),
        ({"name": "n", "input_schema": {}}, ".input_schema: unknown key; known are type, name"),
        ({"type": "function"}, ".name: a name is 1 to 64 of"),
        ({"name": "a b"}, ".name: a name is 1 to 64 of"),
        ({"name": "n" * 65}, ".name: a name is 1 to 64 of"),
        ({"name": "n", "description": 5}, ".description: expected a string, got int"),
        ({"name": "n", "parameters": [1]}, ".parameters: expected a mapping, got list"),
        ({"name": "n", "parameters": {"type": "array"}}, ".parameters.type: the parameters of a function are an"),
        ({"name": "n", "strict": 1}, ".strict: expected true or false, got int"),
    ],
)
def test_bad_tool_is_refused_by_name(tool: Any, message: str) -> None:
    """Each wrong tool is InvalidRequest that names the place, alone and in a request's list."""
    with pytest.raises(InvalidRequest) as caught:
        tool_spec(tool)
    assert str(caught.value).startswith("tool" + message)
    with pytest.raises(InvalidRequest) as caught:
        check_tools([{"name": "ok"}, tool])
    assert str(caught.value).startswith("tools[1]" + message)


@pytest.mark.row("A6")
def test_check_tools_mixes_functions_mappings_and_other_types() -> None:
    """Functions and function tools come out flat; tools of another type pass as they are, in order."""
    custom = {"type": "custom", "name": "grep", "format": {"type": "text"}}
    hosted = {"type": "web_search", "search_context_size": "low"}
    tools = check_tools((weather, custom, hosted, hosted, {"name": "n"}))
    assert [tool.get("name") for tool in tools] == ["weather", "grep", None, None, "n"]
    assert tools[1:4] == [custom, hosted, hosted]
    assert tools[1] is not custom
    assert check_tools([]) == []


@pytest.mark.row("A6")
@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ({"name": "n"}, "tools: expected a list of functions and mappings, got dict"),
        ("n", "tools: expected a list of functions and mappings, got str"),
        (None, "tools: expected a list of functions and mappings, got NoneType"),
        ([weather, {"name": "x"}, {"name": "weather"}], "tools[2].name: 'weather' is taken by tools[0]"),
        ([weather, {"type": "custom", "name": "weather"}], "tools[1].name: 'weather' is taken by tools[0]"),
        ([{"type": ""}], "tools[0].type: empty"),
        ([{"type": 5}], "tools[0].type: expected a string, got int"),
        ([{"type": "custom", "name": "a b"}], "tools[0].name: a name is 1 to 64 of"),
    ],
)
def test_bad_tools_are_refused_by_place(tools: Any, message: str) -> None:
    """A list that is none, a name given twice and a strange type are InvalidRequest that names the place."""
    with pytest.raises(InvalidRequest) as caught:
        check_tools(tools)
    assert str(caught.value).startswith(message)


@pytest.mark.row("A6")
def test_tool_spec_makes_function_tools_only() -> None:
    """A raw tool of another type goes into a request as it is, not through tool_spec."""
    with pytest.raises(InvalidRequest, match=r"tool.type: expected 'function'"):
        tool_spec({"type": "custom", "name": "n"})
