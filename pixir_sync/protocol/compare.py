"""Snapshots of items, and what makes two items equal for continuation.

Rules kept here:

* A snapshot copies the containers and shares the leaves: it stays what it was whatever the caller does to its own objects.
* `same_item` is the slow form; it runs only where plain ``==`` failed. What it ignores, a server ignores too.
* ``1 == True`` and ``1 == 1.0`` in Python, and so here: a history that swaps one for the other counts as unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pixir_sync.protocol.codec import CodecError, loads

__all__ = ["LEAVES", "copied", "kept", "same_item", "snapshot"]

# What is ignored of an item, and what of whatever is inside it: an id in there may be part of what is said.
_IGNORED = frozenset({"id", "status", "annotations", "logprobs", "metadata"})
_IGNORED_INSIDE = frozenset({"annotations", "logprobs"})
# The calls that the caller's own program carries out: what they ask for counts, whatever their id.
_CLIENT_RUN = frozenset({"computer_call", "shell_call", "local_shell_call", "apply_patch_call"})
# Of this kind the status is the tool's word (completed, failed), not the item's way through the server.
_STATUS_COUNTS = "apply_patch_call_output"
_BY_ID = ("_call", "compaction", "item_reference", "mcp_list_tools", "mcp_approval_request")


def snapshot(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items with every container copied. Raises RecursionError for one that contains itself."""
    return [copied(item) for item in items]


LEAVES = frozenset({str, int, float, bool, type(None)})
"""What cannot change."""


def copied(value: Any) -> Any:
    """A value with every container copied and every leaf shared. Raises RecursionError for one that contains itself."""
    if isinstance(value, dict):
        made = dict(value)
        if not LEAVES.issuperset(map(type, made.values())):  # most items hold nothing but text: half of the work
            for key, inner in made.items():
                if type(inner) not in LEAVES:
                    made[key] = copied(inner)
        return made
    if isinstance(value, (list, tuple)):
        return [inner if type(inner) in LEAVES else copied(inner) for inner in value]
    return value if isinstance(value, str) or not isinstance(value, Mapping) else copied(dict(value))


_WORDS = frozenset({"type", "role", "status", "phase"})  # their values are few
# Not `sys.intern`: the words are the server's, and in Python 3.12 what is interned is never freed.
_SAME = {word: word for word in (
    "type", "id", "role", "status", "phase", "content", "text", "refusal", "annotations", "logprobs", "summary",
    "encrypted_content", "call_id", "name", "arguments", "input", "output", "action", "message", "assistant",
    "output_text", "reasoning", "function_call", "custom_tool_call", "web_search_call", "completed", "incomplete",
    "in_progress", "commentary", "final_answer",
)}  # fmt: skip


def kept(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A snapshot of what a server put out, in fewer bytes: names and words of the protocol are the same objects for everybody.

    Each that a decoder makes anew takes 60 bytes; of an idle connection that was a tenth with orjson, a fifth without.
    """
    return [_kept(item) for item in items]


def _kept(holder: Any) -> Any:
    """An item, or a part of its content."""
    if type(holder) is not dict:
        return copied(holder)
    made = {}
    for name, value in holder.items():
        if type(value) is str:
            value = _SAME.get(value, value) if name in _WORDS else value
        elif name == "content" and type(value) is list:
            value = [_kept(part) for part in value]
        else:
            value = copied(value)
        made[_SAME.get(name, name)] = value
    return made


def same_item(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two items mean the same to a server."""
    kind = one.get("type") or "message"
    if kind != (other.get("type") or "message"):
        return False
    if kind == "message":
        return _same_message(one, other)
    if kind == "function_call":
        return _named(one) == _named(other) and _same_arguments(one.get("arguments"), other.get("arguments"))
    if kind == "custom_tool_call":
        return _named(one) == _named(other) and bool(one.get("input") == other.get("input"))
    if _is_hosted(kind) and one.get("id") is not None and other.get("id") is not None:
        return bool(one["id"] == other["id"])
    if kind == _STATUS_COUNTS and one.get("status") != other.get("status"):
        return False
    return bool(_plain(one, _IGNORED) == _plain(other, _IGNORED))


def _is_hosted(kind: Any) -> bool:
    return isinstance(kind, str) and kind.endswith(_BY_ID) and kind not in _CLIENT_RUN


def _named(call: Mapping[str, Any]) -> tuple[Any, Any]:
    return call.get("call_id"), call.get("name")


def _same_message(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    if one.get("role") != other.get("role") or _parts(one) != _parts(other):
        return False
    phases = one.get("phase"), other.get("phase")
    return None in phases or phases[0] == phases[1]


def _parts(message: Mapping[str, Any]) -> list[Any]:
    """What a message says: (part type, text or refusal) for the parts of text, everything that counts for the others."""
    content = message.get("content")
    text_type = "output_text" if message.get("role") == "assistant" else "input_text"
    if isinstance(content, str):
        return [(text_type, content)]
    if not isinstance(content, (list, tuple)):
        return [content]
    return [_part(part) for part in content]


def _part(part: Any) -> Any:
    if isinstance(part, Mapping):
        kind = part.get("type")
        if kind in ("input_text", "output_text"):
            return kind, part.get("text")
        if kind == "refusal":
            return kind, part.get("refusal")
    return _plain(part)


def _plain(value: Any, ignored: frozenset[str] = _IGNORED_INSIDE) -> Any:
    """A value without what is ignored, and without nulls."""
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items() if inner is not None and name not in ignored}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value


def _same_arguments(one: Any, other: Any) -> bool:
    try:
        return one == other or bool(_parsed(one) == _parsed(other))
    except RecursionError:
        return False  # too deep to compare: in doubt they differ, and the input goes in full


def _parsed(text: Any) -> Any:
    """The value of arguments, so that white space and the order of keys do not count; text that is no JSON is itself."""
    if not isinstance(text, str):
        return text
    try:
        return ("json", loads(text))
    except CodecError:
        return text
