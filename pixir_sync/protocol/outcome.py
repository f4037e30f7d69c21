"""From what an attempt assembled to the `Result` of the call, or the error that the answer itself is.

Rules kept here:

* ``partial`` never raises: it reads whatever there is, for the error of a failed turn.
* ``finished`` raises `InvalidResponse` where a complete answer cannot be used as what was asked for: a tool call whose
  arguments are no JSON object, or a text that is not the JSON of ``output_schema``. The raw text is in ``partial``; the
  message does not quote it. An answer cut off by a limit is not held to that: it says so in ``finish_reason``.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from pixir_sync.protocol.assembly import ResultAssembler
from pixir_sync.protocol.codec import CodecError, dumps, loads
from pixir_sync.protocol.errors import InvalidResponse, PixirError
from pixir_sync.protocol.result import Evidence, FinishReason, FunctionCall, Result, made_of, usage_counts

__all__ = ["Ending", "finish_reason", "finished", "partial"]

EVIDENCE_LIMIT = 100
"""The most sources and annotations that the evidence of web searches keeps, each."""

_INCOMPLETE: dict[str, FinishReason] = {
    "max_output_tokens": "length",
    "max_messages": "length",
    "content_filter": "content_filter",
    "steered": "steered",
}
_CLIENT_CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
_CALLS = tuple(_CLIENT_CALLS)  # a server's type may be anything, also what no dict can look up
_HOSTED = ("web_search_call", "file_search_call", "code_interpreter_call", "image_generation_call", "mcp_call",
           "mcp_list_tools", "shell_call", "computer_call", "tool_search_call")  # fmt: skip


class Ending:
    """An attribute that keeps how a call ended: a `Result`, a `PixirError`, or None while it runs.

    A raised error knows the call by its traceback. So that the two are no cycle, which only the garbage collector would end, the
    call keeps a copy without that; it gives the error itself as long as anybody has it, and then another copy.
    """

    def __set__(self, call: Any, ended: Result | PixirError) -> None:
        error = isinstance(ended, PixirError)
        call.__dict__["ended"] = (copy.copy(ended), weakref.ref(ended)) if error else (ended, None)

    def __get__(self, call: Any, owner: type) -> Result | PixirError | None:
        found: tuple[Result | PixirError, Callable[[], PixirError | None] | None] | None = call.__dict__.get("ended")
        if found is None:
            return None
        kept, known = found
        ended = kept if known is None else known()
        if ended is None:
            ended = copy.copy(kept)
            call.__dict__["ended"] = kept, weakref.ref(ended)
        return ended


def _strings(item: dict[str, Any], key: str, part_type: str, field: str) -> Iterator[str]:
    for part in _list(item.get(key)):
        if isinstance(part, dict) and part.get("type") == part_type and isinstance(part.get(field), str):
            yield part[field]


def _message_text(item: dict[str, Any]) -> str:
    content = item.get("content")
    return content if isinstance(content, str) else "".join(_strings(item, "content", "output_text", "text"))


def _reasoning(item: dict[str, Any]) -> Iterator[str]:
    summary = list(_strings(item, "summary", "summary_text", "text"))
    yield from summary or _strings(item, "content", "reasoning_text", "text")


def _dumped(value: Any) -> str:
    """Arguments that came as a JSON value instead of as text, as text."""
    try:
        return dumps(value).decode()
    except CodecError:  # half of a surrogate pair in a string
        return repr(value)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _call(item: dict[str, Any]) -> FunctionCall:
    kind = item["type"]
    value = item.get(_CLIENT_CALLS[kind])
    raw = value if isinstance(value, str) else "" if value is None else _dumped(value)
    args: Any = None
    if kind == "function_call":
        try:
            args = loads(raw) if raw.strip() else {}  # a tool without parameters often gets no arguments at all
        except CodecError:
            args = None
    return FunctionCall(
        call_id=str(item.get("call_id") or ""),
        name=str(item.get("name") or ""),
        args=args if isinstance(args, dict) else None,
        arguments=raw,
        type=kind,
    )


def _web_search(hosted: list[dict[str, Any]], messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts, sources and citations within `EVIDENCE_LIMIT`; the queries are the user's own words and stay out."""
    cited = [
        {name: note[name] for name in ("url", "title", "start_index", "end_index") if name in note}
        for item in messages
        for part in _list(item.get("content"))
        if isinstance(part, dict)
        for note in _list(part.get("annotations"))
        if isinstance(note, dict) and note.get("type") == "url_citation"
    ]
    searches = [item for item in hosted if item["type"] == "web_search_call"] if hosted else []
    if not searches and not cited:
        return {}
    actions = [item["action"] for item in searches if isinstance(item.get("action"), dict)]
    sources = [s["url"] for a in actions for s in _list(a.get("sources")) if isinstance(s, dict) and "url" in s]
    return {"calls": len(searches), "sources": sources[:EVIDENCE_LIMIT], "annotations": cited[:EVIDENCE_LIMIT]}


def finish_reason(assembler: ResultAssembler, calls: list[FunctionCall]) -> FinishReason | None:
    """Why the response ended; None where it did not end as completed or incomplete."""
    status = assembler.status
    if status == "completed":
        return "tool_calls" if calls else "stop"
    if status != "incomplete":
        return None
    details = assembler.response.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, dict) else None
    return _INCOMPLETE.get(str(reason), "length")


def partial(assembler: ResultAssembler, evidence: Evidence) -> Result:
    """What there is so far, as a `Result`. Never raises."""
    items = assembler.output_items()
    messages, reasoning, hosted = list[dict[str, Any]](), list[dict[str, Any]](), list[dict[str, Any]]()
    calls: list[FunctionCall] = []
    for item in items:
        kind = item.get("type", "message")
        if kind == "message":
            messages.append(item)
        elif kind == "reasoning":
            reasoning.append(item)
        elif kind in _CALLS:
            calls.append(_call(item))
        elif kind in _HOSTED:
            hosted.append(item)
    response = assembler.response
    usage, model = response.get("usage"), response.get("model")
    return made_of(Result, {
        "text": "".join(map(_message_text, messages)),
        "reasoning": "\n\n".join(text for item in reasoning for text in _reasoning(item)) if reasoning else "",
        "refusal": "".join(text for item in messages for text in _strings(item, "content", "refusal", "refusal")),
        "reasoning_items": reasoning,
        "function_calls": calls,
        "output_items": items,
        "provider_hosted_tools": [{name: item.get(name) for name in ("type", "id", "status")} for item in hosted],
        "web_search": _web_search(hosted, messages),
        "finish_reason": finish_reason(assembler, calls),
        "parsed": None,
        "usage": usage if isinstance(usage, dict) else None,
        "usage_summary": usage_counts(usage),
        "response_id": assembler.response_id,
        "model": model if isinstance(model, str) else None,
        "response": response or None,
        "provider_metadata": evidence.to_dict(),
    })  # fmt: skip


def finished(assembler: ResultAssembler, evidence: Evidence, parse: Callable[[Any], Any] | None) -> Result:
    """The `Result` of a response that ended as completed or incomplete.

    Raises `InvalidResponse` (with the result as its `partial`) where the arguments of a tool call are no JSON object,
    or the text does not parse as ``output_schema`` asks.
    """
    result = partial(assembler, evidence)
    if assembler.status != "completed":
        return result
    for call in result.function_calls:
        if not call.call_id or not call.name:
            raise InvalidResponse(
                "a tool call has no call_id or no name",
                details={"call_id": call.call_id, "name": call.name},
                partial=result,
            )
        if call.type == "function_call" and call.args is None:
            raise InvalidResponse(
                "the arguments of a tool call are no JSON object",
                details={"call_id": call.call_id, "name": call.name, "characters": len(call.arguments)},
                partial=result,
            )
    if parse is None or result.finish_reason != "stop" or result.refusal:
        return result
    try:
        return replace(result, parsed=parse(loads(result.text)))
    except ValueError as error:
        raise InvalidResponse(
            "the answer is not the JSON that output_schema asks for",
            details={"reason": str(error) if isinstance(error, CodecError) else "it does not fit the schema",
                     "characters": len(result.text)},
            partial=result,
        ) from None  # fmt: skip
