"""Input items: making them, and checking a history of them.

Rules kept here:

* Items are plain dicts and stay the caller's: nothing here changes one.
* A check is one pass with one look-up per item; it names the item and the field, never the content.
* What is only unknown passes: the server knows kinds of items and parts that this module does not.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from pixir_sync.protocol.checks import nearest
from pixir_sync.protocol.codec import CodecError, dumps
from pixir_sync.protocol.errors import InvalidRequest
from pixir_sync.protocol.history import CALLS, OUTPUTS, for_full_input, repair

__all__ = ["assistant", "check_history", "developer", "for_full_input", "image", "repair", "system", "tool_output", "user"]

_Item = dict[str, Any]

ROLES = ("user", "assistant", "system", "developer")
_CALL_ID = re.compile(r"[A-Za-z0-9_.:-]{1,160}")
_INPUT_PARTS = frozenset({"input_text", "input_image", "input_file", "input_audio"})
# How the files of each kind begin.
_IMAGES = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF87a": "gif", b"GIF89a": "gif"}


def _message(role: str, content: Any) -> _Item:
    return {"type": "message", "role": role, "content": content}


def _part(part: Any, where: str) -> _Item:
    if isinstance(part, str):
        return {"type": "input_text", "text": part}
    if isinstance(part, Mapping) and isinstance(part.get("type"), str):
        return dict(part)
    raise InvalidRequest(f"{where} must be a string or a content part with a type, not {type(part).__name__}")


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"{where} must be a string, not {type(value).__name__}")
    return value


def user(*content: Any) -> _Item:
    """A user message: one string, or several parts (strings, `image`, or parts of the API), also as one list.

    Raises `InvalidRequest` that names the part.

    >>> from pixir_sync import image, user
    >>> user("Hi")
    {'type': 'message', 'role': 'user', 'content': 'Hi'}
    >>> [part["type"] for part in user("What is this?", image("https://example.com/a.png"))["content"]]
    ['input_text', 'input_image']
    """
    if len(content) == 1 and isinstance(content[0], (list, tuple)):
        content = tuple(content[0])
    if len(content) == 1 and isinstance(content[0], str):
        return _message("user", content[0])
    if not content:
        raise InvalidRequest("user() needs a text or a part")
    return _message("user", [_part(part, f"user(): part {at}") for at, part in enumerate(content)])


def assistant(text: str) -> _Item:
    """A message of the assistant's, for a history that was kept as text.

    >>> from pixir_sync import assistant, user
    >>> history = [user("Name a colour"), assistant("Blue"), user("And its opposite?")]
    >>> history[1]["content"]
    [{'type': 'output_text', 'text': 'Blue'}]
    """
    return _message("assistant", [{"type": "output_text", "text": _text(text, "assistant(): text")}])


def developer(text: str) -> _Item:
    """A message of the developer's."""
    return _message("developer", _text(text, "developer(): text"))


def system(text: str) -> _Item:
    """A system message."""
    return _message("system", _text(text, "system(): text"))


def tool_output(call_id: str, output: Any) -> _Item:
    """The output of a tool call, for a function or a custom tool.

    Args:
        call_id: the call's ``call_id`` (not its ``id``).
        output: a string; a content part such as `image`, or a list of parts and strings; or any JSON value, which is sent as
            its text. Raises `InvalidRequest` for a value that has no JSON form.

    >>> from pixir_sync import tool_output
    >>> tool_output("call_1", {"sky": "clear"})
    {'type': 'function_call_output', 'call_id': 'call_1', 'output': '{"sky":"clear"}'}
    """
    if not _text(call_id, "tool_output(): call_id"):
        raise InvalidRequest("tool_output(): call_id must be the call_id of the call")
    if _is_part(output):
        output = [output]
    if isinstance(output, (list, tuple)) and _are_parts(output):
        output = [_part(part, "tool_output(): output") for part in output]
    elif not isinstance(output, str):
        try:
            output = dumps(output).decode()
        except CodecError as error:
            raise InvalidRequest(f"tool_output(): output has no JSON form: {error}") from None
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def _is_part(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(kind := value.get("type"), str) and kind in _INPUT_PARTS


def _are_parts(values: Sequence[Any]) -> bool:
    return any(map(_is_part, values)) and all(isinstance(value, str) or _is_part(value) for value in values)


def image(source: str | bytes | bytearray | memoryview, *, detail: str = "auto", media_type: str | None = None) -> _Item:
    """An image part for `user` and `tool_output`. Raises `InvalidRequest`.

    Args:
        source: a URL (http, https or data), or the image's bytes, which are sent as a data URL.
        detail: ``auto``, ``low``, ``high`` or ``original``.
        media_type: what the bytes are, such as ``image/png``; by default PNG, JPEG, GIF and WebP are told by their first bytes.

    >>> from pixir_sync import image
    >>> image("https://example.com/a.png", detail="low")
    {'type': 'input_image', 'image_url': 'https://example.com/a.png', 'detail': 'low'}
    >>> image(b"GIF89a")["image_url"]
    'data:image/gif;base64,R0lGODlh'
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
        source = f"data:{media_type or _media_type(data)};base64,{base64.b64encode(data).decode()}"
    elif not _text(source, "image(): source")[:8].lower().startswith(("https://", "http://", "data:")):
        raise InvalidRequest("image() takes an http or data URL, or bytes; read a file yourself")
    if detail not in ("auto", "low", "high", "original"):
        raise InvalidRequest("image(): detail must be one of auto, low, high, original")
    return {"type": "input_image", "image_url": source, "detail": detail}


def _media_type(data: bytes) -> str:
    for start, kind in _IMAGES.items():
        if data.startswith(start):
            return f"image/{kind}"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    raise InvalidRequest("image(): these bytes are no PNG, JPEG, GIF or WebP; name the media_type")


# Checking a history.


def check_history(history: Any, start: int = 0) -> list[_Item]:
    """The history as a list of items, the items themselves. A string is one user message. ``start``: the place of the first one.

    Raises `InvalidRequest` that names the item and the field: ``history[3].call_id``.
    """
    if history is None:
        return []
    if isinstance(history, str):
        if not history.strip():
            raise InvalidRequest("history must not be a blank string")
        return [user(history)]
    if isinstance(history, Mapping):
        raise InvalidRequest("history must be a list of items, not one item: put it into a list")
    if not isinstance(history, (list, tuple)):
        raise InvalidRequest(f"history must be a string or a list of items, not {type(history).__name__}")
    for at, item in enumerate(history, start):
        if not isinstance(item, dict):
            raise InvalidRequest(f"history[{at}] must be an item (a dict), not {type(item).__name__}{_hint(item)}")
        kind = item.get("type", "message")
        text = kind == "message" and isinstance(item.get("content"), str)
        if text and item.get("role") in ROLES and _CHAT_FIELDS.isdisjoint(item):
            continue  # most items, without a look-up and a call: half of the work
        if not isinstance(kind, str) or not kind:
            raise InvalidRequest(f"history[{at}].type must be a string that is not empty")
        _CHECKS.get(kind, _any_item)(item, at)
    return list(history)


def _hint(item: Any) -> str:
    if isinstance(item, str):
        return "; user(text) makes one of a string"
    return "; model_dump(exclude_none=True) makes one of it" if hasattr(item, "model_dump") else ""


def _any_item(item: _Item, at: int) -> None:
    """An item of a kind that needs no check, or a word that is nearly one that does."""
    problem = _problem(item["type"])
    if problem is not None:
        raise InvalidRequest(f"history[{at}]{problem}")


@lru_cache(maxsize=64)  # a history repeats its few kinds, and finding the nearest is slow
def _problem(kind: str) -> str | None:
    if kind in _INPUT_PARTS or kind in ("output_text", "refusal", "text", "image_url"):
        return " is a part of a message, not an item: user() makes a message of parts"
    hint = nearest(kind, _CHECKS, 0.9)
    return f".type is unknown{hint}" if hint else None


_CHAT_FIELDS = frozenset({"tool_calls", "function_call", "tool_call_id"})
_CHAT_PARTS = ("text", "image_url", "file")


def _check_message(item: _Item, at: int) -> None:
    role = item.get("role")
    if role in ("tool", "function") or not _CHAT_FIELDS.isdisjoint(item):
        raise InvalidRequest(f"history[{at}] is a chat-style message: convert the history with from_messages()")
    if role is None and "type" not in item:
        raise InvalidRequest(f"history[{at}].type is missing; only a message, with role and content, may be without it")
    if role not in ROLES:
        raise InvalidRequest(f"history[{at}].role must be one of {', '.join(ROLES)}{nearest(role, ROLES, 0.75)}")
    content = item.get("content")
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise InvalidRequest(f"history[{at}].content must be a string or a list of parts, not {type(content).__name__}")
    for n, part in enumerate(content):
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise InvalidRequest(f"history[{at}].content[{n}] must be a part (a dict with a type); user() makes one of a string")
        if part["type"] in _CHAT_PARTS:
            raise InvalidRequest(f"history[{at}].content[{n}] is a chat-style part: convert the history with from_messages()")


def _check_id(item: _Item, at: int) -> None:
    call_id = item.get("call_id")
    if not isinstance(call_id, str) or _CALL_ID.fullmatch(call_id) is None:
        raise InvalidRequest(f"history[{at}].call_id must be 1 to 160 characters of A-Z a-z 0-9 _ . : -")


def _check_call(item: _Item, at: int) -> None:
    _check_id(item, at)
    if not isinstance(item.get("name"), str) or not item["name"]:
        raise InvalidRequest(f"history[{at}].name must be the name of the tool")
    field = "arguments" if item["type"] == "function_call" else "input"
    if not isinstance(item.get(field), str):
        raise InvalidRequest(f"history[{at}].{field} must be a string, not {type(item.get(field)).__name__}")


def _check_output(item: _Item, at: int) -> None:
    _check_id(item, at)
    if not isinstance(item.get("output"), (str, list)):
        raise InvalidRequest(
            f"history[{at}].output must be a string or a list of parts, not {type(item.get('output')).__name__};"
            " tool_output() makes one of any value"
        )


def _check_reference(item: _Item, at: int) -> None:
    if not isinstance(item.get("id"), str) or not item["id"]:
        raise InvalidRequest(f"history[{at}].id must be the id of the item that is referred to")


_CHECKS: dict[str, Callable[[_Item, int], None]] = {
    **dict.fromkeys([*CALLS, *OUTPUTS], _check_id),
    "message": _check_message,
    "function_call": _check_call,
    "custom_tool_call": _check_call,
    "function_call_output": _check_output,
    "custom_tool_call_output": _check_output,
    "item_reference": _check_reference,
    "reasoning": lambda item, at: None,
    "local_shell_call_output": lambda item, at: None,  # it may name its call by another field
}
