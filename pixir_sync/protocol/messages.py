"""Chat-style messages to input items, and back.

Rules kept here:

* What one form can say and the other cannot is an `InvalidRequest` that names the place, never a silent loss. What is only
  about an item and no part of what is said may be left out: reasoning, ids, statuses, phases, annotations, a tool's name.
* A tool message does not tell the kind of its call: that is read from the call of its id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pixir_sync.protocol.errors import InvalidRequest
from pixir_sync.protocol.items import ROLES, check_history

__all__ = ["from_messages", "to_messages"]

_Item = dict[str, Any]

_OUTPUTS = {"function_call": "function_call_output", "custom_tool_call": "custom_tool_call_output"}
_PARTS = {"assistant": ("text", "refusal"), "system": ("text",), "developer": ("text",)}
_USER_PARTS = ("text", "image_url", "file", "input_audio")
_FUNCTION = ("function", "arguments", "function_call")
_FILE_FIELDS = ("file_id", "file_data", "filename")


def from_messages(messages: Sequence[Mapping[str, Any]]) -> list[_Item]:
    """Input items from chat-style messages: texts, refusals, images, files, audio, tool calls and their results.

    Raises `InvalidRequest` that names ``messages[i]`` and the field. A message's reasoning is left out: the API takes back
    only its own.

    >>> from pixir_sync import from_messages
    >>> from_messages([{"role": "user", "content": "Hi"}, {"role": "tool", "tool_call_id": "call_1", "content": "rain"}])[1]
    {'type': 'function_call_output', 'call_id': 'call_1', 'output': 'rain'}
    """
    if isinstance(messages, (str, Mapping)) or not isinstance(messages, Sequence):
        raise InvalidRequest("messages must be a list of chat-style messages")
    items: list[_Item] = []
    calls: dict[str, str] = {}  # the kind of the call of each id so far
    for at, message in enumerate(messages):
        where = f"messages[{at}]"
        if not isinstance(message, Mapping):
            raise InvalidRequest(f"{where} must be a mapping, not {type(message).__name__}")
        if message.get("role") in ("tool", "function"):
            items.append(_from_output(message, where, calls))
            continue
        made = _from_message(message, where)
        calls |= {item["call_id"]: item["type"] for item in made if item["type"] != "message"}
        items += made
    return items


def _from_output(message: Mapping[str, Any], where: str, calls: dict[str, str]) -> _Item:
    field = "name" if message["role"] == "function" and "tool_call_id" not in message else "tool_call_id"
    call_id = _filled(message.get(field), f"{where}.{field}")
    content = message.get("content")
    output = "" if content is None else _from_content(content, _USER_PARTS, f"{where}.content")
    return {"type": _OUTPUTS[calls.get(call_id, "function_call")], "call_id": call_id, "output": output}


def _from_message(message: Mapping[str, Any], where: str) -> list[_Item]:
    role = message.get("role")
    if role not in ROLES:
        raise InvalidRequest(f"{where}.role must be one of {', '.join(ROLES)}, tool")
    for field in ("name", "audio"):
        if message.get(field) is not None:
            raise InvalidRequest(f"{where}.{field} cannot be said by an input item")
    content = message.get("content")
    if role != "assistant":
        return [_message(role, _from_content(content, _PARTS.get(role, _USER_PARTS), f"{where}.content"))]
    said = None if content is None else _from_content(content, _PARTS["assistant"], f"{where}.content")
    if message.get("refusal"):
        parts = [{"type": "output_text", "text": said}] if said and isinstance(said, str) else said or []
        said = [*parts, {"type": "refusal", "refusal": _filled(message["refusal"], f"{where}.refusal")}]
    calls = _from_calls(message, where)
    if said is None and not calls:
        raise InvalidRequest(f"{where} says nothing: it has no content, no refusal and no tool_calls")
    return calls if calls and not said else [_message(role, said), *calls]


def _message(role: str, content: Any) -> _Item:
    return {"type": "message", "role": role, "content": content}


def _filled(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"{where} must be a string that is not empty")
    return value


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"{where} must be a string, not {type(value).__name__}")
    return value


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{where} must be a mapping, not {type(value).__name__}")
    return value


def _from_calls(message: Mapping[str, Any], where: str) -> list[_Item]:
    """The calls of an assistant's message; one of the older form is known by its function's name only."""
    calls = message.get("tool_calls")
    if calls is not None and not isinstance(calls, (list, tuple)):
        raise InvalidRequest(f"{where}.tool_calls must be a list, not {type(calls).__name__}")
    items = [_from_call(call, f"{where}.tool_calls[{n}]") for n, call in enumerate(calls or ())]
    older = message.get("function_call")
    if older is not None:
        where = f"{where}.function_call"
        name = _filled(_mapping(older, where).get("name"), f"{where}.name")
        arguments = _string(older.get("arguments"), f"{where}.arguments")
        items.append({"type": "function_call", "call_id": name, "name": name, "arguments": arguments})
    return items


def _from_call(call: Any, where: str) -> _Item:
    call_id = _filled(_mapping(call, where).get("id"), f"{where}.id")
    kind, field, target = ("custom", "input", "custom_tool_call") if "custom" in call else _FUNCTION
    inner = _mapping(call.get(kind), f"{where}.{kind}")
    name = _filled(inner.get("name"), f"{where}.{kind}.name")
    return {"type": target, "call_id": call_id, "name": name, field: _string(inner.get(field), f"{where}.{kind}.{field}")}


def _from_content(content: Any, allowed: tuple[str, ...], where: str) -> Any:
    if isinstance(content, str):
        return content
    if not isinstance(content, (list, tuple)):
        raise InvalidRequest(f"{where} must be a string or a list of parts, not {type(content).__name__}")
    return [_from_part(part, allowed, f"{where}[{n}]") for n, part in enumerate(content)]


def _from_part(part: Any, allowed: tuple[str, ...], where: str) -> _Item:
    kind = _mapping(part, where).get("type")
    if kind not in allowed:
        raise InvalidRequest(f"{where}.type must be one of {', '.join(allowed)}")
    if kind == "text":
        text_type = "output_text" if "refusal" in allowed else "input_text"
        return {"type": text_type, "text": _string(part.get("text"), f"{where}.text")}
    if kind == "refusal":
        return {"type": "refusal", "refusal": _string(part.get("refusal"), f"{where}.refusal")}
    inner = part.get(kind)
    if kind == "image_url":
        image = {"url": inner} if isinstance(inner, str) else _mapping(inner, f"{where}.image_url")
        url = _filled(image.get("url"), f"{where}.image_url.url")
        return {"type": "input_image", "image_url": url, "detail": image.get("detail") or "auto"}
    inner = _mapping(inner, f"{where}.{kind}")
    if kind == "input_audio":
        return {"type": "input_audio", "input_audio": dict(inner)}
    named = {name: inner[name] for name in _FILE_FIELDS if inner.get(name) is not None}
    if not named:
        raise InvalidRequest(f"{where}.file must have a file_id or file_data")
    return {"type": "input_file", **named}


def to_messages(items: Sequence[_Item]) -> list[_Item]:
    """Chat-style messages from input items. Raises `InvalidRequest` that names ``history[i]`` for what they cannot say.

    Reasoning is left out, and so are ids, statuses, phases and annotations.
    """
    messages: list[_Item] = []
    for at, item in enumerate(check_history(items)):
        kind, where = item.get("type", "message"), f"history[{at}]"
        if kind == "message":
            messages.append(_to_message(item, where))
        elif kind in _OUTPUTS:
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": None})
            messages[-1].setdefault("tool_calls", []).append(_to_call(item))
        elif kind in _OUTPUTS.values():
            output = item["output"]
            if not isinstance(output, str):
                output = [_to_part(part, f"{where}.output[{n}]") for n, part in enumerate(output)]
            messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": output})
        elif kind != "reasoning":
            raise InvalidRequest(f"{where}.type: chat-style messages cannot say an item of this kind")
    return messages


def _to_message(item: _Item, where: str) -> _Item:
    role, content = item["role"], item["content"]
    if isinstance(content, str):
        return {"role": role, "content": content}
    refusals = [part for part in content if part["type"] == "refusal"]
    parts = [_to_part(part, f"{where}.content[{n}]") for n, part in enumerate(content) if part["type"] != "refusal"]
    if not refusals:
        return {"role": role, "content": parts}
    if role != "assistant" or content[-len(refusals) :] != refusals:
        raise InvalidRequest(f"{where}.content: chat-style messages can say a refusal only at the end, and as the assistant")
    refusal = "".join(_string(part.get("refusal"), f"{where}.content: refusal") for part in refusals)
    return {"role": role, "content": parts or None, "refusal": refusal}


def _to_call(item: _Item) -> _Item:
    if item["type"] == "custom_tool_call":
        return {"id": item["call_id"], "type": "custom", "custom": {"name": item["name"], "input": item["input"]}}
    function = {"name": item["name"], "arguments": item["arguments"]}
    return {"id": item["call_id"], "type": "function", "function": function}


def _to_part(part: Any, where: str) -> _Item:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("input_text", "output_text"):
        return {"type": "text", "text": _string(part.get("text"), f"{where}.text")}
    if kind == "input_image" and isinstance(part.get("image_url"), str):
        return {"type": "image_url", "image_url": {"url": part["image_url"], "detail": part.get("detail") or "auto"}}
    if kind == "input_file" and part.keys() <= {"type", *_FILE_FIELDS}:
        return {"type": "file", "file": {name: part[name] for name in _FILE_FIELDS if name in part}}
    if kind == "input_audio" and isinstance(part.get("input_audio"), dict):
        return {"type": "input_audio", "input_audio": dict(part["input_audio"])}
    raise InvalidRequest(f"{where}: chat-style messages cannot say a part of this kind")
