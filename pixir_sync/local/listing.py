"""Items as they are listed: in the full form that the service gives them, whatever short form they came in. Pure."""

from __future__ import annotations

from typing import Any

__all__ = ["as_listed"]

Item = dict[str, Any]

_OUTPUTS = ("function_call_output", "custom_tool_call_output")


def as_listed(item: Item) -> Item:
    """The item, with its content as parts and with the fields that a short form leaves out."""
    if item["type"] in _OUTPUTS:
        return {"status": "completed", **item}
    if item["type"] != "message":
        return item
    content = item["content"]
    if isinstance(content, str):
        kind = "output_text" if item["role"] == "assistant" else "input_text"
        content = [{"type": kind, "text": content}]
    return {"status": "completed", **item, "content": [_part(part) for part in content]}


def _part(part: Item) -> Item:
    if part["type"] == "output_text":
        return {"annotations": [], "logprobs": [], **part}
    return {"detail": "auto", **part} if part["type"] == "input_image" else part
