"""A value that fits a JSON schema, always the same one for the same schema.

Rules kept here:

* Required properties always; optional ones too while the value is shallow, so that typed arguments are seen, and so
  that a schema that contains itself comes to an end.
* ``const``, ``enum``, then combinations and references, then types. Bounds are met at their lower end.
* Best effort where a schema cannot be met or asks for a ``pattern``: ``examples`` and ``default`` serve there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["fit"]

_SHALLOW = 4
_FORMATS = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "duration": "PT1M",
    "email": "user@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_HINTS = {
    "properties": "object",
    "required": "object",
    "additionalProperties": "object",
    "items": "array",
    "prefixItems": "array",
    "minItems": "array",
    "minimum": "number",
    "maximum": "number",
    "exclusiveMinimum": "number",
    "exclusiveMaximum": "number",
    "multipleOf": "number",
    "minLength": "string",
    "maxLength": "string",
    "format": "string",
    "pattern": "string",
}


def fit(schema: Any, *, name: str = "value") -> Any:
    """A value that fits ``schema``; ``name`` is what an unbounded string says (properties say their own names)."""
    return _Fitter(schema).value(schema, name, 0, 0)


class _Fitter:
    """Holds the root schema, which references are looked up in.

    ``variant`` tells the elements of a unique array apart.
    """

    def __init__(self, root: Any) -> None:
        self._root = root

    def value(self, schema: Any, name: str, depth: int, variant: int) -> Any:
        if not isinstance(schema, Mapping):
            return name
        schema = self._resolved(schema, depth)
        if "const" in schema:
            return schema["const"]
        if isinstance(schema.get("enum"), list) and schema["enum"]:
            return schema["enum"][variant % len(schema["enum"])]
        match _type_of(schema):
            case "object":
                return self._object(schema, depth, variant)
            case "array":
                return self._array(schema, name, depth, variant)
            case "string":
                return _string(schema, name, variant)
            case "integer" | "number" as kind:
                return _number(schema, kind == "integer", variant)
            case "boolean":
                return variant % 2 == 0
            case _:
                return None

    def _resolved(self, schema: Mapping[str, Any], depth: int) -> Mapping[str, Any]:
        """The schema with its references followed and one branch of its combinations merged in."""
        for _ in range(64):  # a reference to itself says nothing: give up on it
            if "$ref" in schema:
                rest = {key: value for key, value in schema.items() if key != "$ref"}
                schema = _merged(self._lookup(schema["$ref"]), rest)
            elif isinstance(schema.get("allOf"), list):
                rest = {key: value for key, value in schema.items() if key != "allOf"}
                for part in schema["allOf"]:
                    rest = _merged(self._resolved(part, depth), rest)
                schema = rest
            elif branches := schema.get("anyOf") or schema.get("oneOf"):
                rest = {key: value for key, value in schema.items() if key not in ("anyOf", "oneOf")}
                schema = _merged(self._branch(branches, depth), rest)
            else:
                break
        return schema

    def _branch(self, branches: list[Any], depth: int) -> Mapping[str, Any]:
        """The first branch while shallow, else the simplest: a null or a scalar ends what would go on for ever."""
        found = [branch for branch in branches if isinstance(branch, Mapping)]
        if depth >= _SHALLOW:
            found.sort(key=lambda branch: "$ref" in branch or _type_of(branch) in ("object", "array"))
        return found[0] if found else {}

    def _lookup(self, reference: Any) -> Mapping[str, Any]:
        node = self._root
        for step in str(reference).lstrip("#").split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            node = node.get(step) if isinstance(node, Mapping) else None
        return node if isinstance(node, Mapping) else {}

    def _object(self, schema: Mapping[str, Any], depth: int, variant: int) -> dict[str, Any]:
        properties = schema.get("properties") or {}
        required = list(dict.fromkeys(schema.get("required") or ()))
        optional = [key for key in properties if key not in required] if depth < _SHALLOW else []
        room = max(0, schema.get("maxProperties", math.inf) - len(required))
        names = required + optional[: len(optional) if room == math.inf else int(room)]
        more = schema.get("additionalProperties", True)
        names += [f"extra_{n}" for n in range(max(0, schema.get("minProperties", 0) - len(names)))]
        order = sorted(names, key=lambda key: list(properties).index(key) if key in properties else len(properties))
        return {key: self.value(properties.get(key, more), key, depth + 1, variant) for key in order}

    def _array(self, schema: Mapping[str, Any], name: str, depth: int, variant: int) -> list[Any]:
        first = list(schema.get("prefixItems") or ())
        least = int(schema.get("minItems", 0))
        wanted = max(least, 1 if depth < _SHALLOW else 0, len(first))
        rest = schema.get("items", {})
        if rest is False:
            wanted = min(wanted, len(first))
        wanted = min(wanted, int(schema.get("maxItems", wanted)))
        schemas = [*first[:wanted], *[rest] * (wanted - len(first))]
        unique = bool(schema.get("uniqueItems"))
        return [self.value(inner, name, depth + 1, n if unique else variant) for n, inner in enumerate(schemas)]


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both schemas at once: properties and required names are united, the tighter of two bounds wins."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if key in ("properties", "$defs") and isinstance(old, Mapping):
            merged[key] = {**old, **value}
        elif key == "required" and isinstance(old, list):
            merged[key] = [*old, *value]
        elif key in ("minimum", "exclusiveMinimum", "minLength", "minItems") and _numeric(old, value):
            merged[key] = max(old, value)
        elif key in ("maximum", "exclusiveMaximum", "maxLength", "maxItems") and _numeric(old, value):
            merged[key] = min(old, value)
        else:
            merged[key] = value
    return merged


def _numeric(*values: Any) -> bool:
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)


def _type_of(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kinds = [one for one in kind if one != "null"]
        kind = kinds[0] if kinds else "null"
    if isinstance(kind, str):
        return kind
    return next((hint for key, hint in _HINTS.items() if key in schema), "string")


def _string(schema: Mapping[str, Any], name: str, variant: int) -> str:
    if "pattern" in schema:
        given = [*(schema.get("examples") or ()), schema.get("default")]
        return next((value for value in given if isinstance(value, str)), name)
    text = _FORMATS.get(str(schema.get("format")), name)
    if variant:
        text = f"{variant}{text}"
    least, most = int(schema.get("minLength", 0)), schema.get("maxLength")
    text = text + "x" * (least - len(text))
    return text if most is None else text[: int(most)]


def _number(schema: Mapping[str, Any], whole: bool, variant: int) -> float | int:
    step = schema.get("multipleOf", 1 if whole else 0)
    low, above = _bound(schema, "minimum", "exclusiveMinimum", max)
    high, below = _bound(schema, "maximum", "exclusiveMaximum", min)
    if whole or step:
        return _multiple(step or 1, whole, (low, above), (high, below)) + variant * (step or 1)
    if low is None:
        return 1 + variant if high is None else high - 1 - variant
    if high is None:
        return low + 1 + variant
    return low + (high - low) / (2 + variant) if low < high else low


def _multiple(
    step: Any, whole: bool, low: tuple[float | None, bool], high: tuple[float | None, bool]
) -> float | int:
    """The lowest multiple of ``step`` within the bounds; without a lower bound 1 or the highest that fits."""
    if whole and step != int(step):
        step = step * 10 if step * 10 == int(step * 10) else 1
    count = 1
    if low[0] is not None:
        count = math.ceil(low[0] / step)
        count += 1 if low[1] and count * step <= low[0] else 0
    elif high[0] is not None:
        most = math.floor(high[0] / step)
        most -= 1 if high[1] and most * step >= high[0] else 0
        count = min(count, most)
    value = count * step
    return int(value) if whole else value


def _bound(schema: Mapping[str, Any], key: str, strict_key: str, pick: Any) -> tuple[float | None, bool]:
    """One end of a range, and whether it is itself outside; the older form (``exclusiveMinimum: true``) too."""
    plain, strict = schema.get(key), schema.get(strict_key)
    if strict is True:
        return plain, plain is not None
    if strict is None or strict is False:
        return plain, False
    if plain is None or pick(plain, strict) == strict:
        return strict, True
    return plain, False
