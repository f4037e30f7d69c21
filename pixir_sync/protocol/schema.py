"""What the model must answer in and may call: ``text.format`` and function tools, in the form that goes on the wire.

Rules kept here:

* Checked before any network. Everything wrong is `InvalidRequest` that names the field, and the nearest name where one
  was misspelt; nothing is silently changed.
* A mapping is the caller's own word: checked for shape, its schema sent as it is. A type or a function is read by
  `shapes`.
* Function tools are flat. Tools of every other type (custom, hosted) pass as they are.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pixir_sync.protocol.checks import nearest
from pixir_sync.protocol.errors import InvalidRequest
from pixir_sync.protocol.records import is_record, type_hints
from pixir_sync.protocol.shapes import Compiler, Schema, described, object_schema, schema_of, shape_of, value_of

__all__ = ["check_tools", "output_format", "schema_of", "tool_spec", "value_of"]

_FORMAT_KEYS = ("name", "schema", "strict", "description", "type")
_TOOL_KEYS = ("type", "name", "description", "parameters", "strict")
_BARE_SCHEMA_KEYS = frozenset({"type", "properties", "$ref", "anyOf", "oneOf", "allOf", "$defs", "$schema", "enum"})
_format_name = re.compile(r"[A-Za-z0-9_-]{1,64}").fullmatch
_tool_name = re.compile(r"[A-Za-z0-9_.:-]{1,64}").fullmatch


def _refuse_unknown(given: Iterable[Any], known: tuple[str, ...], where: str) -> None:
    for key in given:
        if key not in known:
            hint = nearest(str(key), known, 0.5) or f"; known are {', '.join(known)}"
            raise InvalidRequest(f"{where}.{key}: unknown key{hint}")


def _check_kind(value: Any, kind: type, where: str) -> None:
    if not isinstance(value, kind):
        wanted = {str: "a string", bool: "true or false"}.get(kind, "a mapping")
        raise InvalidRequest(f"{where}: expected {wanted}, got {type(value).__name__}")


def _check_name(name: Any, where: str, matches: Callable[[str], Any], allowed: str) -> None:
    if not isinstance(name, str) or not matches(name):
        raise InvalidRequest(f"{where}: a name is 1 to 64 of {allowed}")


def output_format(output_schema: Any) -> tuple[dict[str, Any], Callable[[Any], Any]]:
    """The ``text.format`` object, and the function from the parsed answer to ``result.parsed``.

    Takes a dataclass or TypedDict class (strict where its types allow; the answer becomes a value of it), a mapping
    with ``name``, ``schema`` and perhaps ``strict`` (default true) and ``description``, or a bare JSON schema (named
    "output", strict). For mappings the answer stays as parsed. The function raises ValueError for an answer that does
    not fit the type. Raises `InvalidRequest`.
    """
    if is_record(output_schema):
        shape = shape_of(output_schema, "output_schema")
        name = re.sub(r"[^A-Za-z0-9_-]", "_", output_schema.__name__)[:64]
        return _format(name, shape.schema, shape.strict), shape.value
    if not isinstance(output_schema, Mapping):
        raise InvalidRequest("output_schema: expected a mapping, or the class of a dataclass or TypedDict")
    if "json_schema" in output_schema:
        raise InvalidRequest("output_schema.json_schema: not nested here; give name, schema and strict themselves")
    if "schema" not in output_schema and not _BARE_SCHEMA_KEYS.isdisjoint(output_schema):
        return _format("output", dict(output_schema), True), _as_it_is
    return _format_of_mapping(output_schema), _as_it_is


def _as_it_is(data: Any) -> Any:
    return data


def _format(name: str, schema: Schema, strict: bool) -> dict[str, Any]:
    return {"type": "json_schema", "name": name, "schema": schema, "strict": strict}


def _format_of_mapping(given: Mapping[str, Any]) -> dict[str, Any]:
    where = "output_schema"
    _refuse_unknown(given, _FORMAT_KEYS, where)
    for key in ("name", "schema"):
        if key not in given:
            raise InvalidRequest(f"{where}.{key}: missing")
    if given.get("type", "json_schema") != "json_schema":
        raise InvalidRequest(f"{where}.type: beside a schema it can only be 'json_schema'")
    _check_name(given["name"], f"{where}.name", _format_name, "A-Z a-z 0-9 _ -")
    _check_kind(given["schema"], Mapping, f"{where}.schema")
    _check_kind(given.get("strict", True), bool, f"{where}.strict")
    result = _format(given["name"], dict(given["schema"]), given.get("strict", True))
    if given.get("description") is not None:
        _check_kind(given["description"], str, f"{where}.description")
        result["description"] = given["description"]
    return result


def tool_spec(function_or_mapping: Callable[..., Any] | Mapping[str, Any]) -> dict[str, Any]:
    """The flat function tool for a function, or a checked copy of a mapping.

    Of a function: its name, the first paragraph of its docstring, its parameters from the type hints, their
    descriptions from ``Annotated[X, "..."]`` or the docstring's "Args:" section. ``strict`` is true if every parameter
    is required and of a type that the strict form can say. Raises `InvalidRequest` that names what is wrong.

    >>> from pixir_sync import tool_spec
    >>> def get_weather(city: str) -> str:
    ...     "The weather of a city."
    >>> spec = tool_spec(get_weather)
    >>> spec["name"], spec["description"], spec["strict"]
    ('get_weather', 'The weather of a city.', True)
    >>> spec["parameters"]["properties"]
    {'city': {'type': 'string'}}
    """
    return _tool(function_or_mapping, "tool")


def check_tools(tools: Any) -> list[dict[str, Any]]:
    """The tools of a request in wire form: functions and mappings; of types other than function as they are.

    Raises `InvalidRequest` that names the place, such as ``tools[2].name``; names are unique.
    """
    if not isinstance(tools, (list, tuple)):
        raise InvalidRequest(f"tools: expected a list of functions and mappings, got {type(tools).__name__}")
    specs: list[dict[str, Any]] = []
    names: dict[str, int] = {}
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        raw = isinstance(tool, Mapping) and tool.get("type", "function") != "function"
        spec = _raw_tool(tool, where) if raw else _tool(tool, where)
        name = spec.get("name")
        if isinstance(name, str) and names.setdefault(name, index) != index:
            raise InvalidRequest(f"{where}.name: {name!r} is taken by tools[{names[name]}]")
        specs.append(spec)
    return specs


def _raw_tool(tool: Mapping[str, Any], where: str) -> dict[str, Any]:
    _check_kind(tool["type"], str, f"{where}.type")
    if not tool["type"]:
        raise InvalidRequest(f"{where}.type: empty")
    if "name" in tool and tool["type"] == "custom":
        _check_name(tool["name"], f"{where}.name", _tool_name, "A-Z a-z 0-9 _ . : -")
    return dict(tool)


def _tool(tool: Any, where: str) -> dict[str, Any]:
    if isinstance(tool, Mapping):
        return _tool_of_mapping(tool, where)
    if inspect.isroutine(tool):
        return _tool_of_function(tool, where)
    raise InvalidRequest(f"{where}: expected a function or a mapping, got {type(tool).__name__}")


def _tool_of_mapping(tool: Mapping[str, Any], where: str) -> dict[str, Any]:
    if "function" in tool:
        raise InvalidRequest(f"{where}.function: tools are flat; move name, description and parameters one level up")
    _refuse_unknown(tool, _TOOL_KEYS, where)
    if tool.get("type", "function") != "function":
        raise InvalidRequest(f"{where}.type: expected 'function'")
    _check_name(tool.get("name"), f"{where}.name", _tool_name, "A-Z a-z 0-9 _ . : -")
    spec = {"type": "function", "name": tool["name"]}
    for key, kind in (("description", str), ("parameters", Mapping), ("strict", bool)):
        if tool.get(key) is not None:  # None is as good as left out, and null never goes on the wire
            _check_kind(tool[key], kind, f"{where}.{key}")
            spec[key] = tool[key]
    spec["parameters"] = dict(spec.get("parameters", {"type": "object", "properties": {}}))
    if spec["parameters"].get("type", "object") != "object":
        raise InvalidRequest(f"{where}.parameters.type: the parameters of a function are an object")
    return spec


def _tool_of_function(function: Callable[..., Any], where: str) -> dict[str, Any]:
    name = getattr(function, "__name__", None)
    _check_name(name, f"{where}.name", _tool_name, "A-Z a-z 0-9 _ . : -")
    where = f"{where}.{name}"
    about, of_parameters = _doc(inspect.getdoc(function) or "")
    compiler = Compiler()
    hints = type_hints(function, where)
    properties: Schema = {}
    required = []
    for parameter in _parameters(function, where):
        schema, _ = compiler.read(hints[parameter.name], f"{where}.{parameter.name}")
        text = schema.get("description") or of_parameters.get(parameter.name)
        properties[parameter.name] = described(schema, text)
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    spec = {"type": "function", "name": name, **({"description": about} if about else {})}
    strict = compiler.strict and len(required) == len(properties)
    return {**spec, "parameters": compiler.finished(object_schema(properties, required)), "strict": strict}


def _parameters(function: Callable[..., Any], where: str) -> list[inspect.Parameter]:
    """The parameters, each of which the model can give by name and has a type hint."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:
        raise InvalidRequest(f"{where}: the function has no signature") from None
    for parameter in parameters:
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise InvalidRequest(f"{where}.{parameter.name}: a {parameter.kind.description} parameter has no JSON form")
        if parameter.annotation is parameter.empty:
            raise InvalidRequest(f"{where}.{parameter.name}: has no type hint")
    return parameters


def _doc(text: str) -> tuple[str, dict[str, str]]:
    """The first paragraph of a docstring, in one line, and the descriptions of a Google-style "Args:" section."""
    about = " ".join(text.split("\n\n", 1)[0].split())
    section = re.search(r"^(?:Args|Arguments|Parameters):\n((?:[ \t]+.*(?:\n|$)|\n)+)", text, re.MULTILINE)
    if section is None:
        return about, {}
    lines = inspect.cleandoc("\n" + section[1])
    entries = re.findall(r"^(\w+)(?: *\(.*?\))?: *(.*(?:\n[ \t]+.*)*)", lines, re.MULTILINE)
    return ("" if about.startswith(("Args:", "Arguments:", "Parameters:")) else about), {
        name: " ".join(rest.split()) for name, rest in entries
    }
