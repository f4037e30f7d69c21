"""Dataclasses and TypedDicts: which properties they have, and how an instance is built from parsed JSON.

Rules kept here:

* A property's default is used where the property is absent; for a TypedDict, null stands for an optional key left out.
* An error names the place and the kinds of value, never the value, not even in the words of the class's own checks.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, NamedTuple, get_args, get_origin

from pixir_sync.protocol.errors import InvalidRequest

__all__ = ["JSON_NAMES", "Build", "Field", "is_record", "misfit", "record_builder", "record_fields", "type_hints"]

Build = Callable[[Any, str], Any]
"""Builds the typed value from parsed JSON, given the name of the place; ValueError if it does not fit."""

JSON_NAMES: dict[type, str] = {
    str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null", dict: "object", list: "array",
}  # fmt: skip


def misfit(where: str, wanted: str, data: Any) -> ValueError:
    """What to raise for data of the wrong kind; names the kinds only."""
    return ValueError(f"{where}: expected {wanted}, got {JSON_NAMES.get(type(data), 'something else')}")


def type_hints(owner: Any, where: str) -> dict[str, Any]:
    """The resolved hints of a class or function. Raises `InvalidRequest` for names that do not resolve."""
    try:
        return typing.get_type_hints(owner, include_extras=True)
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        raise InvalidRequest(f"{where}: its type hints cannot be resolved: {error}") from error


def is_record(tp: Any) -> bool:
    """Whether this is a dataclass or a TypedDict (the class, not an instance)."""
    return isinstance(tp, type) and (is_dataclass(tp) or hasattr(tp, "__required_keys__"))


class Field(NamedTuple):
    """A property of a record: may it be absent, and does null mean that it is."""

    name: str
    hint: Any
    optional: bool
    null_is_absent: bool


def record_fields(tp: Any, where: str) -> list[Field]:
    """What may stand in a record, in the order of the class. Raises `InvalidRequest` if its hints do not resolve."""
    hints = type_hints(tp, where)
    if is_dataclass(tp):
        return [
            Field(f.name, hints[f.name], f.default is not MISSING or f.default_factory is not MISSING, False)
            for f in fields(tp)
            if f.init
        ]
    found = []
    for name, hint in hints.items():
        origin = get_origin(hint)
        marked = origin in (typing.Required, typing.NotRequired)
        # The hints decide first: of hints that are strings, Python 3.11 does not see the markers in __required_keys__.
        optional = origin is typing.NotRequired if marked else name not in tp.__required_keys__
        found.append(Field(name, get_args(hint)[0] if marked else hint, optional, optional))
    return found


def record_builder(tp: Any, builders: list[tuple[Field, Build]]) -> Build:
    """The function that makes an instance from a JSON object, property by property."""
    known = {field.name for field, _ in builders}

    def build(data: Any, where: str) -> Any:
        if type(data) is not dict:
            raise misfit(where, "object", data)
        if unknown := len(data.keys() - known):
            raise ValueError(f"{where}: {unknown} unknown properties")
        values = {}
        for field, inner in builders:
            if field.name in data and not (field.null_is_absent and data[field.name] is None):
                values[field.name] = inner(data[field.name], f"{where}.{field.name}")
            elif not field.optional:
                raise ValueError(f"{where}.{field.name}: missing")
        try:
            return tp(**values)
        except Exception as error:  # the caller's own checks: their message may quote what the model wrote
            raise ValueError(f"{where}: {tp.__name__} refused the values ({type(error).__name__})") from None

    return build
