"""Python types to JSON schema, and parsed JSON back to values of those types.

Rules kept here:

* One pass over a type gives its schema and the function that builds its values, so that the two cannot disagree.
* Records (dataclasses, TypedDicts) are written in the strict form: no further properties, every property required,
  with a default too; a key that may be absent is one that may be null. Types that the strict form cannot say (Any, a
  dict with free keys) make the whole schema not strict rather than be refused.
* What is wrong in the caller's types is `InvalidRequest` and names the place. What is wrong in the model's answer is
  ValueError and names the place, never the value nor a key that the model chose.
"""

from __future__ import annotations

import datetime
import enum
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from pixir_sync.protocol.errors import InvalidRequest
from pixir_sync.protocol.records import JSON_NAMES, Build, is_record, misfit, record_builder, record_fields

__all__ = ["Compiler", "Schema", "Shape", "described", "object_schema", "schema_of", "shape_of", "value_of"]

Schema = dict[str, Any]
_SIMPLE = ("string", "boolean", "integer", "number", "null")


def _scalar(kind: type) -> Build:
    """Exactly this JSON type (true is no integer), but 1.0 is an integer and 1 a number."""

    def build(data: Any, where: str) -> Any:
        if type(data) is kind:
            return data
        if kind is int and type(data) is float and data.is_integer():
            return int(data)
        if kind is float and type(data) is int and abs(data) < 1 << 1023:
            return float(data)
        raise misfit(where, JSON_NAMES[kind], data)

    return build


def _moment(kind: type[datetime.date]) -> Build:
    def build(data: Any, where: str) -> Any:
        try:
            return kind.fromisoformat(data)
        except (TypeError, ValueError):
            raise misfit(where, f"an ISO 8601 {kind.__name__}", data) from None

    return build


_SCALARS: dict[Any, tuple[Schema, Build]] = {
    **{kind: ({"type": JSON_NAMES[kind]}, _scalar(kind)) for kind in (str, bool, int, float, type(None))},
    datetime.datetime: ({"type": "string", "format": "date-time"}, _moment(datetime.datetime)),
    datetime.date: ({"type": "string", "format": "date"}, _moment(datetime.date)),
}


def object_schema(properties: Schema, required: Iterable[str]) -> Schema:
    """A closed object."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def described(schema: Schema, text: str | None) -> Schema:
    """The schema with a description; in strict form nothing may stand beside ``$ref``."""
    if not text:
        return schema
    return {"anyOf": [schema], "description": text} if "$ref" in schema else {**schema, "description": text}


def _admits_null(schema: Schema) -> bool:
    kind = schema.get("type", [])
    return not schema or kind == "null" or "null" in kind or any(map(_admits_null, schema.get("anyOf", [])))


def _nullable(schema: Schema) -> Schema:
    if _admits_null(schema):
        return schema
    if schema.get("type") not in _SIMPLE:
        return {"anyOf": [schema, {"type": "null"}]}
    choices = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
    return {**schema, "type": [schema["type"], "null"], **choices}


class Compiler:
    """One schema under construction; ``strict`` tells whether all that was read so far could be said in strict form."""

    def __init__(self) -> None:
        self.strict = True
        self._definitions: Schema = {}
        self._open: set[type] = set()  # the records that are being read
        self._names: dict[type, str] = {}  # the records that contain themselves
        self._builders: dict[type, Build] = {}

    def finished(self, schema: Schema) -> Schema:
        """The schema with its definitions. The root is an object and not a reference, as servers ask of it."""
        if not self._definitions:
            return schema
        if "$ref" in schema:
            schema = self._definitions[schema["$ref"].rpartition("/")[2]]
        return {**schema, "$defs": self._definitions}

    def read(self, tp: Any, where: str) -> tuple[Schema, Build]:
        """Schema and builder of any supported type. Raises `InvalidRequest` naming ``where`` for any other."""
        tp = type(None) if tp is None else tp
        if isinstance(tp, type) and tp in _SCALARS:
            return dict(_SCALARS[tp][0]), _SCALARS[tp][1]
        if tp is Any or tp is object:
            self.strict = False
            return {}, lambda data, where: data
        if is_record(tp):
            return self._record(tp, where)
        if isinstance(tp, type) and issubclass(tp, enum.Enum):
            return self._choice([(member.value, member) for member in tp], where)
        if isinstance(tp, typing.NewType):
            return self.read(tp.__supertype__, where)
        return self._generic(tp, get_origin(tp) or tp, get_args(tp), where)

    def _generic(self, tp: Any, origin: Any, args: tuple[Any, ...], where: str) -> tuple[Schema, Build]:
        if origin is typing.Annotated:
            schema, build = self.read(args[0], where)
            return described(schema, next((extra for extra in args[1:] if isinstance(extra, str)), None)), build
        if origin is Literal:
            return self._choice([(value, value) for value in args], where)
        if origin in (Union, types.UnionType):
            return self._union(args, where)
        if origin in (list, Sequence) or (origin is tuple and (not args or args[-1] is Ellipsis)):
            return self._array(tuple if origin is tuple else list, args[0] if args else Any, where)
        if origin is tuple:
            return self._tuple(args, where)
        if origin in (dict, Mapping) and args[:1] in ((), (str,)):
            return self._dict(args[1] if args else Any, where)
        raise InvalidRequest(f"{where}: {getattr(tp, '__name__', None) or repr(tp)} has no JSON schema")

    def _record(self, tp: type, where: str) -> tuple[Schema, Build]:
        if tp in self._open and tp not in self._names:
            taken = sum(name.rstrip("_") == tp.__name__.rstrip("_") for name in self._names.values())
            self._names[tp] = tp.__name__ + "_" * taken
        if tp in self._names:
            return {"$ref": f"#/$defs/{self._names[tp]}"}, lambda data, where: self._builders[tp](data, where)
        self._open.add(tp)
        properties, builders = {}, []
        for field in record_fields(tp, where):
            schema, build = self.read(field.hint, f"{where}.{field.name}")
            properties[field.name] = _nullable(schema) if field.null_is_absent else schema
            builders.append((field._replace(null_is_absent=field.null_is_absent and not _admits_null(schema)), build))
        self._open.discard(tp)
        self._builders[tp] = record_builder(tp, builders)
        whole = object_schema(properties, properties)
        if tp in self._names:
            self._definitions[self._names[tp]] = whole
            whole = {"$ref": f"#/$defs/{self._names[tp]}"}
        return whole, self._builders[tp]

    def _choice(self, choices: list[tuple[Any, Any]], where: str) -> tuple[Schema, Build]:
        kinds = list(dict.fromkeys(JSON_NAMES.get(type(value), "") for value, _ in choices))
        if not kinds or not set(_SIMPLE).issuperset(kinds):
            raise InvalidRequest(f"{where}: the choices must be strings, numbers, booleans or None, and at least one")
        by_type = {(type(value), value): result for value, result in choices}  # True is not 1

        def build(data: Any, where: str) -> Any:
            if isinstance(data, (dict, list)) or (type(data), data) not in by_type:
                raise misfit(where, f"one of {len(by_type)} choices", data)
            return by_type[type(data), data]

        return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": [value for value, _ in choices]}, build

    def _union(self, args: tuple[Any, ...], where: str) -> tuple[Schema, Build]:
        members = [(*self.read(arg, where), arg) for arg in args]
        # An integer's builder takes 1.0 too, so that floats go to the other alternatives first.
        for_floats = [build for _, build, _ in sorted(members, key=lambda member: member[2] is int)]

        def build(data: Any, where: str) -> Any:
            for attempt in for_floats if type(data) is float else [build for _, build, _ in members]:
                try:
                    return attempt(data, where)
                except ValueError:
                    continue  # the next alternative may fit
            raise misfit(where, f"one of {len(members)} alternatives", data)

        schemas = [schema for schema, _, arg in members if arg is not type(None)]
        if len(schemas) == 1 < len(members):
            return _nullable(schemas[0]), build
        return {"anyOf": [schema for schema, _, _ in members]}, build

    def _array(self, kind: Callable[[list[Any]], Any], item: Any, where: str) -> tuple[Schema, Build]:
        schema, inner = self.read(item, f"{where}[]")

        def build(data: Any, where: str) -> Any:
            if type(data) is not list:
                raise misfit(where, "array", data)
            return kind([inner(value, f"{where}[{index}]") for index, value in enumerate(data)])

        return {"type": "array", "items": schema}, build

    def _tuple(self, args: tuple[Any, ...], where: str) -> tuple[Schema, Build]:
        """A tuple of fixed length. The strict form has no prefixItems: the builder checks which type stands where."""
        parts = [self.read(arg, f"{where}[{index}]") for index, arg in enumerate(args)]
        distinct: list[Schema] = []
        for schema, _ in parts:
            if schema not in distinct:
                distinct.append(schema)

        def build(data: Any, where: str) -> Any:
            if type(data) is not list or len(data) != len(parts):
                raise misfit(where, f"array of {len(parts)}", data)
            return tuple(inner(data[index], f"{where}[{index}]") for index, (_, inner) in enumerate(parts))

        items = distinct[0] if len(distinct) == 1 else {"anyOf": distinct}
        return {"type": "array", "items": items, "minItems": len(parts), "maxItems": len(parts)}, build

    def _dict(self, value: Any, where: str) -> tuple[Schema, Build]:
        self.strict = False
        schema, inner = self.read(value, f"{where}[]")

        def build(data: Any, where: str) -> Any:
            if type(data) is not dict:
                raise misfit(where, "object", data)
            return {key: inner(member, f"{where}[]") for key, member in data.items()}

        return {"type": "object", "additionalProperties": schema}, build


class Shape(NamedTuple):
    """A type, read: its schema, whether that is in strict form, and the way back."""

    schema: Schema
    strict: bool
    build: Build

    def value(self, data: Any) -> Any:
        """The typed value of parsed JSON. Raises ValueError, quoting nothing of it, where it does not fit."""
        try:
            return self.build(data, "output")
        except RecursionError:
            raise ValueError("output: nested too deeply") from None


def shape_of(tp: Any, where: str | None = None) -> Shape:
    """Reads a type. Raises `InvalidRequest` that names the place, from ``where`` or the type's own name."""
    compiler = Compiler()
    schema, build = compiler.read(tp, where or str(getattr(tp, "__name__", "schema")))
    return Shape(compiler.finished(schema), compiler.strict, build)


def schema_of(tp: Any) -> Schema:
    """The JSON schema of a type: str, int, float, bool, None, Any, list, tuple, dict with str keys, Literal, Enum,
    Optional and Union, dataclass, TypedDict, datetime and date, and ``Annotated[X, "description"]`` of each.

    Raises `InvalidRequest` that names the field for other types.
    """
    return shape_of(tp).schema


def value_of(tp: Any, data: Any) -> Any:
    """The value of type ``tp`` that parsed JSON stands for: dataclass instances, Enum members, tuples, datetimes.

    Absent properties take their defaults. Raises ValueError, which names the place and quotes nothing, for data that
    does not fit, and `InvalidRequest` for an unsupported type.
    """
    return shape_of(tp).value(data)
