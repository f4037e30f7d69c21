"""Legal server events for scripts: whole responses as lists of events, in the protocol's order, numbered from 0.

Each function makes new objects, so that a test may change what it got (and call `number` again where it adds or drops).
"""

from __future__ import annotations

import json
from typing import Any

Json = dict[str, Any]

__all__ = [
    "completed", "created", "error", "failed", "function_call_response", "incomplete", "number", "response",
    "text_response", "usage",
]  # fmt: skip


def usage(input_tokens: int = 10, output_tokens: int = 5, cached: int = 0, reasoning: int = 0) -> Json:
    """A usage object in today's naming."""
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": input_tokens + output_tokens,
    }


def response(id: str = "resp_1", *, status: str = "in_progress", output: list[Json] | None = None, **more: Any) -> Json:
    """A response object; ``more`` sets further fields, such as usage, error or incomplete_details."""
    whole = {"id": id, "object": "response", "created_at": 1_795_000_000, "model": "gpt-5.5", "status": status}
    return {**whole, "output": output or [], "error": None, "incomplete_details": None, "usage": None, **more}


def number(events: list[Json]) -> list[Json]:
    """The same events with sequence numbers from 0."""
    for index, event in enumerate(events):
        event["sequence_number"] = index
    return events


def created(id: str = "resp_1") -> Json:
    """``response.created``, the first event of a response."""
    return {"type": "response.created", "response": response(id), "sequence_number": 0}


def completed(whole: Json | None = None) -> Json:
    """``response.completed`` of a response object (an empty one by default), which becomes completed with a usage."""
    whole = whole or response()
    done = {**whole, "status": "completed", "usage": whole["usage"] or usage()}
    return {"type": "response.completed", "response": done}


def incomplete(reason: str = "max_output_tokens", *, id: str = "resp_1", output: list[Json] | None = None) -> Json:
    """``response.incomplete``."""
    details = {"reason": reason}
    whole = response(id, status="incomplete", output=output, incomplete_details=details, usage=usage())
    return {"type": "response.incomplete", "response": whole}


def failed(code: str = "server_error", message: str = "The server had an error", *, id: str = "resp_1") -> Json:
    """``response.failed``."""
    whole = response(id, status="failed", error={"code": code, "message": message})
    return {"type": "response.failed", "response": whole}


def error(code: str | None = "server_error", message: str = "The server had an error", **more: Any) -> Json:
    """The nested form of the ``error`` event; ``more`` goes on the top level (status, headers)."""
    return {"type": "error", "error": {"type": "server_error", "code": code, "message": message, "param": None}, **more}


def _response_of(id: str, item_events: list[Json], item: Json) -> list[Json]:
    begin = [created(id), {"type": "response.in_progress", "response": response(id)}]
    return number([*begin, *item_events, completed(response(id, output=[item]))])


def text_response(*deltas: str, id: str = "resp_1", item_id: str = "msg_1") -> list[Json]:
    """All events of a response whose message is these deltas joined."""
    text = "".join(deltas)
    at = {"item_id": item_id, "output_index": 0, "content_index": 0}
    message = {"id": item_id, "type": "message", "role": "assistant"}
    part = {"type": "output_text", "annotations": [], "logprobs": []}
    item = {**message, "status": "completed", "content": [{**part, "text": text}]}
    return _response_of(
        id,
        [
            _added({**message, "status": "in_progress", "content": []}),
            {"type": "response.content_part.added", **at, "part": {**part, "text": ""}},
            *({"type": "response.output_text.delta", **at, "delta": delta, "logprobs": []} for delta in deltas),
            {"type": "response.output_text.done", **at, "text": text, "logprobs": []},
            {"type": "response.content_part.done", **at, "part": {**part, "text": text}},
            _done(item),
        ],
        item,
    )


def function_call_response(
    name: str, arguments: Any, *, call_id: str = "call_1", id: str = "resp_1", item_id: str = "fc_1"
) -> list[Json]:
    """All events of a response that calls one function; ``arguments`` is an object, or the raw string to send."""
    raw = arguments if isinstance(arguments, str) else json.dumps(arguments)
    at = {"item_id": item_id, "output_index": 0}
    call = {"id": item_id, "type": "function_call", "call_id": call_id, "name": name}
    item = {**call, "status": "completed", "arguments": raw}
    half = len(raw) // 2
    return _response_of(
        id,
        [
            _added({**call, "status": "in_progress", "arguments": ""}),
            {"type": "response.function_call_arguments.delta", **at, "delta": raw[:half]},
            {"type": "response.function_call_arguments.delta", **at, "delta": raw[half:]},
            {"type": "response.function_call_arguments.done", **at, "arguments": raw},
            _done(item),
        ],
        item,
    )


def _added(item: Json) -> Json:
    return {"type": "response.output_item.added", "output_index": 0, "item": item}


def _done(item: Json) -> Json:
    return {"type": "response.output_item.done", "output_index": 0, "item": item}
