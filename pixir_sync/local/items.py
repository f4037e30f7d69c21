"""Which input items are accepted, and what becomes of them: the shapes, and the rules for items that were never stored.

Rules kept here (protocol notes, section 4):

* An item's ``id`` must be one that was stored; a ``status`` is only allowed where the item is or will be stored.
* A reasoning item that is not stored needs its ``encrypted_content``, made by this model, and its ``summary``.
* A stored item that was put out behind a reasoning item needs that reasoning item.
* An ``item_reference`` becomes the stored item it names.
* A compaction item carries its own state: neither its id nor its status is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pixir_sync.local.errors import ApiError, invalid, missing, not_found
from pixir_sync.local.sealed import check_compaction, check_reasoning
from pixir_sync.local.state import StoredItem

__all__ = ["accept"]

Item = dict[str, Any]

_CALL_ID = re.compile(r"[A-Za-z0-9_.:-]{1,160}")
_ROLES = ("user", "assistant", "system", "developer")
_INPUT_PARTS = ("input_text", "input_image", "input_file", "input_audio")
_OUTPUT_PARTS = ("output_text", "refusal")
_REQUIRED: dict[str, tuple[str, ...]] = {
    "message": ("role", "content"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
    "custom_tool_call": ("call_id", "name", "input"),
    "custom_tool_call_output": ("call_id", "output"),
    "reasoning": (),
    "compaction": ("encrypted_content",),
    "item_reference": ("id",),
}
_HOSTED = re.compile(
    r"(web_search|file_search|code_interpreter|image_generation|computer|local_shell|shell|apply_patch|mcp)_call(_output)?"
    r"|mcp_list_tools|mcp_approval_(request|response)|tool_search_(call|output)|program(_output)?"
)


def accept(
    given: Any, *, model: str, store: bool, stored: Mapping[str, StoredItem], before: Iterable[str] = ()
) -> list[Item]:
    """The input as items, references resolved. ``before`` are the ids already in the context, read once and only where one is
    looked for: contexts are long. Raises `ApiError`."""
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}]
    items: Sequence[Any] = given if given is not None else ()
    accepted: list[Item] = []
    present: set[str] = set()
    earlier = iter(before)
    for index, item in enumerate(items):
        path = f"input[{index}]"
        item = _shaped(item, path)
        if item["type"] != "compaction":
            item = _known(item, path, store, stored)
        if item["type"] == "reasoning" and item.get("id") not in stored:
            _check_reasoning_item(item, path, model)
        _check_company(item, stored, present, earlier)
        present.add(str(item.get("id")))
        accepted.append(item)
    return accepted


def _shaped(given: Any, path: str) -> Item:
    """A copy with its type filled in and its nulls gone. Raises `ApiError` 400 for a shape that no item has."""
    if not isinstance(given, dict):
        raise invalid(f"Invalid type for '{path}': expected an object.", path, "invalid_type")
    item: Item = {key: value for key, value in given.items() if value is not None}
    kind = item.setdefault("type", "message" if "role" in item else None)
    if kind is None:
        raise missing(f"{path}.type")
    required = _REQUIRED.get(kind) if isinstance(kind, str) else None
    if required is None and not (isinstance(kind, str) and _HOSTED.fullmatch(kind)):
        raise invalid(f"Invalid value for '{path}.type': no such item.", f"{path}.type")
    for key in required or ():
        if key not in item:
            raise missing(f"{path}.{key}")
    if not isinstance(item.get("id", ""), str):
        raise invalid(f"Invalid type for '{path}.id': expected a string.", f"{path}.id", "invalid_type")
    if kind == "message":
        _check_message(item, path)
    elif kind == "compaction":
        check_compaction(item["encrypted_content"], f"{path}.encrypted_content")
    elif required and "call_id" in required:
        _check_call(item, path)
    return item


def _check_message(item: Item, path: str) -> None:
    role, content = item["role"], item["content"]
    if role not in _ROLES:
        raise invalid(f"Invalid value for '{path}.role'. Supported values are: {', '.join(_ROLES)}.", f"{path}.role")
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise invalid(f"Invalid type for '{path}.content'.", f"{path}.content", "invalid_type")
    allowed = _OUTPUT_PARTS if role == "assistant" else _INPUT_PARTS
    for index, part in enumerate(content):
        _check_part(part, f"{path}.content[{index}]", allowed)


def _check_part(part: Any, path: str, allowed: tuple[str, ...]) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in allowed:
        message = f"Invalid value for '{path}.type'. Supported values are: {', '.join(allowed)}."
        raise invalid(message, f"{path}.type")
    text = "refusal" if kind == "refusal" else "text" if kind in ("input_text", "output_text") else None
    if text is not None and not isinstance(part.get(text), str):
        raise missing(f"{path}.{text}")


def _check_call(item: Item, path: str) -> None:
    if not isinstance(item["call_id"], str) or not _CALL_ID.fullmatch(item["call_id"]):
        raise invalid("A call_id is 1 to 160 characters of [A-Za-z0-9_.:-].", f"{path}.call_id")
    for key in ("name", "arguments", "input"):
        if key in item and not isinstance(item[key], str):
            raise invalid(f"Invalid type for '{path}.{key}': expected a string.", f"{path}.{key}", "invalid_type")
    if not isinstance(item.get("output", ""), (str, list)):
        raise invalid(f"Invalid type for '{path}.output'.", f"{path}.output", "invalid_type")


def _known(item: Item, path: str, store: bool, stored: Mapping[str, StoredItem]) -> Item:
    """The item, or what its reference names. Raises `ApiError` for an id that was never stored or a stray status."""
    item_id = item.get("id")
    if item_id is not None and item_id not in stored:
        raise not_found(
            f"Item with id '{item_id}' not found. Items are not persisted when `store` is set to false. "
            "Try again with `store` set to true, or remove this item from your input.",
            "input",
        )
    if item["type"] == "item_reference":
        return stored[item["id"]].item
    if "status" in item and not store and item_id is None:
        raise invalid(f"Unknown parameter: '{path}.status'.", f"{path}.status", "unknown_parameter")
    return item


def _check_reasoning_item(item: Item, path: str, model: str) -> None:
    for key in ("encrypted_content", "summary"):
        if key not in item:
            raise missing(f"{path}.{key}")
    check_reasoning(item["encrypted_content"], model, f"{path}.encrypted_content")


def _check_company(item: Item, stored: Mapping[str, StoredItem], present: set[str], earlier: Iterator[str]) -> None:
    """A stored item needs the reasoning item that led to it."""
    known = stored.get(str(item.get("id")))
    if known is None or known.reasoning_id is None:
        return
    if known.reasoning_id not in present:
        present.update(earlier)
    if known.reasoning_id not in present:
        raise ApiError(
            400,
            f"Item '{item['id']}' of type '{item['type']}' was provided without its required 'reasoning' item: "
            f"'{known.reasoning_id}'.",
            param="input",
        )
