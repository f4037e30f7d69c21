"""Values that fit a JSON schema, checked by a small validator that shares nothing with the maker."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixir_sync.local.schema import fit

Json = dict[str, Any]
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "integer": (int,), "number": (int, float),
    "boolean": (bool,), "null": (type(None),),
}  # fmt: skip


def fits(value: Any, schema: Any) -> bool:
    """Whether the value fits, for the keywords that the laws use."""
    if isinstance(schema, bool):
        return schema
    kinds = schema.get("type", list(TYPES))
    kinds = [kinds] if isinstance(kinds, str) else kinds
    right_type = any(
        isinstance(value, TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool)) for kind in kinds
    )
    checks = [
        right_type,
        "const" not in schema or value == schema["const"],
        "enum" not in schema or value in schema["enum"],
        "anyOf" not in schema or any(fits(value, branch) for branch in schema["anyOf"]),
        all(fits(value, branch) for branch in schema.get("allOf", ())),
    ]
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        checks += [set(schema.get("required", ())) <= set(value)]
        checks += [fits(inner, properties[key]) for key, inner in value.items() if key in properties]
        checks += [schema.get("additionalProperties", True) is not False or set(value) <= set(properties)]
        checks += [schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", 99)]
    elif isinstance(value, list):
        checks += [schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 99)]
        checks += [fits(inner, schema.get("items", True)) for inner in value]
        unique = [inner for n, inner in enumerate(value) if inner not in value[:n]]
        checks += [not schema.get("uniqueItems") or unique == value]
    elif isinstance(value, str):
        checks += [schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 999)]
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        checks += [schema.get("minimum", value) <= value <= schema.get("maximum", value)]
        checks += ["exclusiveMinimum" not in schema or value > schema["exclusiveMinimum"]]
        checks += ["exclusiveMaximum" not in schema or value < schema["exclusiveMaximum"]]
        checks += [value % schema.get("multipleOf", value or 1) == 0]
    return all(checks)


@st.composite
def integers(draw: st.DrawFn) -> Json:
    low = draw(st.integers(-1000, 1000))
    schema: Json = {"type": "integer"}
    step = draw(st.sampled_from([None, 1, 5, 7]))
    if step:
        schema["multipleOf"] = step
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["minimum", "exclusiveMinimum"]))] = low
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["maximum", "exclusiveMaximum"]))] = low + 20
    return schema


@st.composite
def numbers(draw: st.DrawFn) -> Json:
    low = draw(st.floats(-1000, 1000))
    schema: Json = {"type": "number"}
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["minimum", "exclusiveMinimum"]))] = low
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["maximum", "exclusiveMaximum"]))] = low + 0.5
    return schema


@st.composite
def strings(draw: st.DrawFn) -> Json:
    least = draw(st.integers(0, 40))
    schema: Json = {"type": draw(st.sampled_from(["string", ["string", "null"]]))}
    if draw(st.booleans()):
        schema["minLength"] = least
    if draw(st.booleans()):
        schema["maxLength"] = least + draw(st.integers(0, 5))
    return schema


SCALARS = (
    integers()
    | numbers()
    | strings()
    | st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"const": "x"}, True, {}])
    | st.lists(st.integers() | st.text(), min_size=1, unique=True).map(lambda values: {"enum": values})
)


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> Json:
    properties = draw(st.dictionaries(st.text(min_size=1), inner, max_size=4))
    required = draw(st.lists(st.sampled_from(sorted(properties)), unique=True)) if properties else []
    schema: Json = {"type": "object", "properties": properties, "required": required}
    if draw(st.booleans()):
        schema["additionalProperties"] = False
    if draw(st.booleans()):
        schema["maxProperties"] = draw(st.integers(len(required), 5))
    return schema


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> Json:
    least = draw(st.integers(0, 3))
    schema: Json = {"type": "array", "items": draw(inner), "minItems": least}
    if draw(st.booleans()):
        schema["maxItems"] = least + draw(st.integers(0, 2))
    return schema


SCHEMAS = st.recursive(
    SCALARS,
    lambda inner: objects(inner) | arrays(inner) | st.lists(inner, min_size=1, max_size=3).map(lambda b: {"anyOf": b}),
    max_leaves=12,
)


@given(SCHEMAS)
def test_value_fits_its_schema(schema: Any) -> None:
    """For any schema of types, enums, bounds, objects, arrays and alternatives the value fits, always the same."""
    value = fit(schema)
    assert fits(value, schema)
    assert fit(schema) == value


@given(objects(SCHEMAS))
def test_required_and_typed_properties_are_there(schema: Json) -> None:
    """Required properties always; every declared one where the object may hold them."""
    value = fit(schema)
    assert set(schema["required"]) <= set(value)
    if "maxProperties" not in schema:
        assert set(value) >= set(schema["properties"])


@pytest.mark.parametrize(
    "items",
    [{"type": "integer", "minimum": 4}, {"type": "string"}, {"enum": ["a", "b", "c"]}, {"type": "number"},
     {"type": "object", "properties": {"n": {"type": "integer"}}}],
)  # fmt: skip
def test_unique_items_differ(items: Json) -> None:
    """A unique array holds no value twice."""
    schema = {"type": "array", "items": items, "minItems": 3, "uniqueItems": True}
    assert fits(fit(schema), schema)


def test_references_and_recursion_end() -> None:
    """A schema that contains itself comes to an end, references and allOf are followed."""
    tree: Json = {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "value": {"allOf": [{"type": "integer"}, {"minimum": 3}]},
                    "next": {"$ref": "#/$defs/node"},
                },
                "required": ["value"],
            }
        },
        "$ref": "#/$defs/node",
    }
    value = fit(tree)
    assert value["value"] == 3 and value["next"]["value"] == 3


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string", "format": "date"}, "2026-01-01"),
        ({"type": "string", "pattern": "^a+$", "examples": ["aaa"]}, "aaa"),
        ({"type": "integer", "minimum": 3, "exclusiveMinimum": True}, 4),
        ({"properties": {"a": {"type": "boolean"}}}, {"a": True}),
        ({"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "items": False}, [1, 2]),
    ],
)
def test_single_keywords(schema: Json, value: Any) -> None:
    """Formats, examples of a pattern, the older exclusive bound, a missing type and tuples are understood."""
    assert fit(schema) == value
