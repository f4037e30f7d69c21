"""The deterministic model: what it says and calls, from a request and its context alone.

Rules kept here:

* It answers ``Heard: <the last user text> (context: <number of user messages>)``; after tool outputs, with the
  outputs quoted: ``Tool answered: "<output>" (context: <n>)``, several outputs in their order, separated by commas.
* It calls the tools whose names stand in the last user text as words, each once, in the order of the text;
  ``tool_choice`` and ``parallel_tool_calls`` are honoured.
* It says the same whether its context came in full or by continuation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pixir_sync.local.answers import Answer, CustomCall, FunctionCall, Part, Reasoning, Text
from pixir_sync.local.context import Context
from pixir_sync.local.schema import fit
from pixir_sync.protocol.codec import dumps

__all__ = ["answer", "pieces"]

_MOST_PIECES = 1000


def answer(body: dict[str, Any], context: Context) -> Answer:
    """What the model puts out for a checked request whose input is already part of ``context``."""
    called = _called(body, context)
    parts: list[Part] = [_call(tool) for tool in called] or [Text(_text(body, context))]
    effort = (body.get("reasoning") or {}).get("effort")
    if effort and effort != "none":
        what = f"call {', '.join(_name(tool) for tool in called)}" if called else "answer"
        summary = f"Message {context.users} was read with {effort} effort. The right thing is to {what}."
        parts.insert(0, Reasoning(summary))
    return Answer(*parts)


def pieces(text: str, longest: int = 64) -> list[str]:
    """The text in deltas: word by word, cut at ``longest``, never more than a thousand; joined they are the text."""
    words = [
        word[start : start + longest]
        for word in re.findall(r"\s*\S+|\s+", text)
        for start in range(0, len(word), longest)
    ]
    group = -(-len(words) // _MOST_PIECES) or 1
    return ["".join(words[start : start + group]) for start in range(0, len(words), group)]


def _text(body: dict[str, Any], context: Context) -> str:
    text_format = (body.get("text") or {}).get("format") or {}
    if text_format.get("type") == "json_schema":
        return dumps(fit(text_format.get("schema"))).decode()
    if context.outputs:
        said = "Tool answered: " + ", ".join(f'"{output}"' for output in context.outputs)
    else:
        said = f"Heard: {context.last_user}"
    if text_format.get("type") == "json_object":
        return dumps({"text": said, "context": context.users}).decode()
    return f"{said} (context: {context.users})"


def _called(body: dict[str, Any], context: Context) -> list[dict[str, Any]]:
    """The tools to call, in order."""
    tools = [tool for tool in body.get("tools") or () if tool.get("type") in ("function", "custom")]
    mode, tools = _choice(body.get("tool_choice") or "auto", tools)
    if mode == "none" or not tools:
        return []
    if mode == "forced":
        return tools[:1]
    called = [] if context.outputs else _named(context.last_user, tools)
    if not called and mode == "required":
        called = tools[:1]
    return called[:1] if body.get("parallel_tool_calls") is False else called


def _choice(choice: Any, tools: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """What ``tool_choice`` says: none, auto, required or forced, and the tools it leaves."""
    if isinstance(choice, str):
        return choice, tools
    kind = choice.get("type")
    if kind in ("function", "custom"):
        return "forced", [tool for tool in tools if tool["type"] == kind and _name(tool) == choice.get("name")]
    if kind == "allowed_tools":
        allowed = {str(tool.get("name")) for tool in choice.get("tools") or () if isinstance(tool, dict)}
        return choice.get("mode") or "auto", [tool for tool in tools if _name(tool) in allowed]
    return "auto", tools


def _named(text: str, tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tools whose names stand in the text as words, each once; a longer name wins over one that begins alike."""
    by_name = {_name(tool): tool for tool in reversed(tools)}
    names = "|".join(re.escape(name) for name in sorted(by_name, key=len, reverse=True))
    found = re.findall(rf"(?<![\w-])(?:{names})(?![\w-])", text)
    return [by_name[name] for name in dict.fromkeys(found)]


def _name(tool: dict[str, Any]) -> str:
    return str(tool["name"])


def _call(tool: dict[str, Any]) -> FunctionCall | CustomCall:
    name = _name(tool)
    if tool["type"] == "custom":
        return CustomCall(name, f"input for {name}")
    parameters = tool.get("parameters") or {"type": "object"}
    return FunctionCall(name, fit({"type": "object", **parameters}))
