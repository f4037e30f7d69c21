"""Which request bodies are accepted: the fields, their types and ranges, and what goes with what.

Rules kept here:

* A refusal names the parameter, with its path, and is a 400 unless it says otherwise.
* A null is an absent value. A field that is unknown is let through, as gateways do.
* What a WebSocket alone has (``generate``, ``stream_id``) is refused over HTTP; ``background`` is refused over a
  WebSocket.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pixir_sync.local.errors import invalid, missing, not_found
from pixir_sync.local.schema import fit
from pixir_sync.protocol.codec import CodecError, dumps

__all__ = ["Models", "check_body", "check_stream_id", "compacts_at", "steerable", "warms_up"]

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_STREAM_ID = re.compile(r"[A-Za-z0-9_.-]{1,256}")
_CACHE_KEY = re.compile(r"[!-~]{1,512}")
_COMPACT_THRESHOLD = 200_000


@dataclass(frozen=True, slots=True)
class Models:
    """Which models there are, which of them reason, and which can be steered; None means any."""

    known: frozenset[str] | None = None
    reasoning: frozenset[str] | None = None
    steering: frozenset[str] | None = None

    def steers(self, model: str) -> bool:
        """Whether a response of this model can be steered."""
        return self.steering is None or model in self.steering

    def check(self, body: Mapping[str, Any]) -> None:
        """Raise `ApiError`: 404 for a model that is not there, 400 for reasoning asked of one that does not reason."""
        model = body["model"]
        if self.known is not None and model not in self.known:
            message = f"The model '{model}' does not exist or you do not have access to it."
            raise not_found(message, "model", "model_not_found")
        if self.reasoning is None or model in self.reasoning:
            return
        if "reasoning.encrypted_content" in (body.get("include") or ()):
            raise invalid("Encrypted content is not supported with this model.", "include")
        if (body.get("reasoning") or {}).get("effort") not in (None, "none"):
            message = "Unsupported parameter: 'reasoning.effort' is not supported with this model."
            raise invalid(message, "reasoning.effort", "unsupported_parameter")


def check_body(body: Mapping[str, Any], *, websocket: bool) -> dict[str, Any]:
    """The body without its nulls, checked. Raises `ApiError`."""
    clean = {key: value for key, value in body.items() if value is not None}
    if "model" not in clean:
        raise missing("model")
    for key, value in clean.items():
        if (rule := _FIELDS.get(key)) is not None:
            rule(value, key)
    _check_transport(clean, websocket)
    _check_tools(clean)
    _check_context(clean)
    return clean


def warms_up(body: Mapping[str, Any]) -> bool:
    """Whether a checked request asks for no output: ``generate: false``, or a prewarm, which goes before it."""
    return body.get("generate") is False or bool(body.get("prompt_cache_options", {}).get("prewarm"))


def compacts_at(body: Mapping[str, Any]) -> float | None:
    """From how many tokens on the service compacts the context by itself; None where it is not asked to."""
    found = [entry for entry in body.get("context_management", ()) if entry.get("type") == "compaction"]
    return (found[0].get("compact_threshold") or _COMPACT_THRESHOLD) if found else None


def steerable(body: Mapping[str, Any]) -> bool:
    """Whether the mode of a checked request allows steering."""
    return "conversation" not in body and compacts_at(body) is None and not warms_up(body)


def check_stream_id(stream_id: Any) -> str | None:
    """The lane's name, None the default lane. Raises `ApiError` for what is no name."""
    if stream_id is None:
        return None
    if not isinstance(stream_id, str) or not _STREAM_ID.fullmatch(stream_id):
        raise invalid("stream_id must be 1 to 256 characters of [A-Za-z0-9_.-].", "stream_id", "invalid_stream_id")
    return stream_id


def _check_transport(body: Mapping[str, Any], websocket: bool) -> None:
    for key in () if websocket else ("generate", "stream_id"):
        if key in body:
            raise invalid(f"Unknown parameter: '{key}'.", key, "unknown_parameter")
    if body.get("background"):
        if websocket:
            raise invalid("Background mode is not supported over a WebSocket.", "background", "unsupported_parameter")
        if body.get("store") is False:
            raise invalid("Background responses must be stored.", "background")


def _check_context(body: Mapping[str, Any]) -> None:
    if "previous_response_id" in body and "conversation" in body:
        message = "Only one of 'previous_response_id' and 'conversation' can be given."
        raise invalid(message, "previous_response_id", "mutually_exclusive_parameters")
    roots = ("input", "previous_response_id", "conversation", "prompt")
    if all(body.get(key, []) == [] for key in roots) and not warms_up(body):
        raise missing("input")


def _check_tools(body: Mapping[str, Any]) -> None:
    names = [_check_tool(tool, f"tools[{index}]") for index, tool in enumerate(body.get("tools", ()))]
    choice = body.get("tool_choice")
    if choice == "required" and not names:
        raise invalid("Tool choice 'required' must be specified with 'tools' parameter.", "tool_choice")
    if isinstance(choice, dict) and choice.get("type") in ("function", "custom") and choice.get("name") not in names:
        raise invalid("The tool of 'tool_choice' is not in the 'tools' parameter.", "tool_choice")


def _check_tool(tool: Any, path: str) -> Any:
    """Check one tool; its name, None where its kind has none."""
    _of(dict)(tool, path)
    if not isinstance(tool.get("type"), str):
        raise missing(f"{path}.type")
    if tool["type"] not in ("function", "custom"):
        return tool.get("name")
    if "name" not in tool:
        raise missing(f"{path}.name")
    if not isinstance(tool["name"], str) or not _NAME.fullmatch(tool["name"]):
        raise invalid("A tool's name is 1 to 64 characters of [A-Za-z0-9_.:-].", f"{path}.name")
    if tool.get("parameters") is not None:
        _check_schema(tool["parameters"], f"{path}.parameters", "invalid_function_parameters")
        if tool["parameters"].get("type", "object") != "object":
            message = f"Invalid schema for function '{tool['name']}': schema must be a JSON Schema of 'type: \"object\"'."
            raise invalid(message, f"{path}.parameters", "invalid_function_parameters")
    return tool["name"]


def _check_schema(schema: Any, path: str, code: str) -> None:
    """A schema is one that a value can be made for."""
    _of(dict)(schema, path)
    try:
        dumps(fit(schema))
    except (TypeError, ValueError, AttributeError, KeyError, ArithmeticError, RecursionError, CodecError):
        raise invalid(f"Invalid schema at '{path}'.", path, code) from None


Rule = Callable[[Any, str], None]

_TYPE_NAMES: dict[type, str] = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}


def _of(*kinds: type) -> Rule:
    """A rule: the value is of one of these types (a bool is no number)."""
    names = " or ".join(dict.fromkeys(_TYPE_NAMES.get(kind, "a number") for kind in kinds))

    def check(value: Any, path: str) -> None:
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise invalid(f"Invalid type for '{path}': expected {names}.", path, "invalid_type")

    return check


def _range(low: float, high: float | None = None, *kinds: type) -> Rule:
    right_type = _of(*(kinds or (int, float)))

    def check(value: Any, path: str) -> None:
        right_type(value, path)
        if value < low or (high is not None and value > high):
            what = f"at least {low}" if high is None else f"from {low} to {high}"
            raise invalid(f"Invalid '{path}': expected {what}.", path)

    return check


def _one_of(*values: str) -> Rule:
    def check(value: Any, path: str) -> None:
        if value not in values:
            raise invalid(f"Invalid value for '{path}'. Supported values are: {', '.join(values)}.", path)

    return check


def _check_choice(value: Any, path: str) -> None:
    if not isinstance(value, dict):
        _one_of("none", "auto", "required")(value, path)
    elif not isinstance(value.get("type"), str):
        raise missing(f"{path}.type")
    elif value["type"] == "allowed_tools":
        _of(list)(value.get("tools"), f"{path}.tools")


def _check_cache_key(value: Any, path: str) -> None:
    if not isinstance(value, str) or not _CACHE_KEY.fullmatch(value):
        raise invalid(f"'{path}' must be 1 to 512 printable ASCII characters without white space.", path)


def _check_metadata(value: Any, path: str) -> None:
    _of(dict)(value, path)
    if len(value) > 16 or not all(isinstance(text, str) for text in value.values()):
        raise invalid(f"'{path}' holds at most 16 strings.", path)


def _check_text(value: Any, path: str) -> None:
    _of(dict)(value, path)
    text_format = value.get("format")
    if text_format is None:
        return
    _of(dict)(text_format, f"{path}.format")
    _one_of("text", "json_object", "json_schema")(text_format.get("type"), f"{path}.format.type")
    if text_format["type"] == "json_schema":
        for key in ("name", "schema"):
            if key not in text_format:
                raise missing(f"{path}.format.{key}")
        _check_schema(text_format["schema"], f"{path}.format.schema", "invalid_json_schema")


def _check_reasoning(value: Any, path: str) -> None:
    _of(dict)(value, path)
    if value.get("effort") is not None:
        _of(str)(value["effort"], f"{path}.effort")


def _check_strings(value: Any, path: str) -> None:
    _of(list)(value, path)
    for index, one in enumerate(value):
        _of(str)(one, f"{path}[{index}]")


def _check_cache_options(value: Any, path: str) -> None:
    _of(dict)(value, path)
    if value.get("prewarm") is not None:
        _of(bool)(value["prewarm"], f"{path}.prewarm")


def _check_context_management(value: Any, path: str) -> None:
    _of(list)(value, path)
    for index, entry in enumerate(value):
        where = f"{path}[{index}]"
        _of(dict)(entry, where)
        _one_of("compaction")(entry.get("type"), f"{where}.type")
        if entry.get("compact_threshold") is not None:
            _range(1)(entry["compact_threshold"], f"{where}.compact_threshold")


def _check_model(value: Any, path: str) -> None:
    _of(str)(value, path)
    if not value:
        raise missing(path)


_FIELDS: dict[str, Rule] = {
    "model": _check_model,
    "input": _of(str, list),
    "instructions": _of(str),
    "tools": _of(list),
    "tool_choice": _check_choice,
    "parallel_tool_calls": _of(bool),
    "max_tool_calls": _range(1, None, int),
    "max_output_tokens": _range(1, None, int),
    "reasoning": _check_reasoning,
    "text": _check_text,
    "include": _check_strings,
    "metadata": _check_metadata,
    "previous_response_id": _of(str),
    "conversation": _of(str, dict),
    "store": _of(bool),
    "stream": _of(bool),
    "background": _of(bool),
    "generate": _of(bool),
    "temperature": _range(0, 2),
    "top_p": _range(0, 1),
    "top_logprobs": _range(0, 20, int),
    "truncation": _one_of("auto", "disabled"),
    "prompt_cache_key": _check_cache_key,
    "prompt_cache_options": _check_cache_options,
    "context_management": _check_context_management,
    "service_tier": _of(str),
    "user": _of(str),
    "safety_identifier": _of(str),
}
