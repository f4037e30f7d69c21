"""How each part of an answer is written: the events of its item, in the protocol's order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pixir_sync.local.answers import Compaction, CustomCall, FunctionCall, HostedCall, Part, Reasoning, Refusal, Text
from pixir_sync.local.hosted import write_hosted
from pixir_sync.local.model import pieces
from pixir_sync.local.output import Event, Output
from pixir_sync.local.sealed import seal_compaction, seal_reasoning

__all__ = ["write"]

_CALL_PIECE = 12  # characters of arguments in one delta


def write(part: Part, output: Output) -> Iterator[Event]:
    """The events of one part."""
    match part:
        case Text() | Refusal():
            return _message(part, output)
        case Reasoning():
            return _reasoning(part, output)
        case FunctionCall():
            return _call(output, part, "function_call", "fc", "arguments", part.raw)
        case CustomCall():
            return _call(output, part, "custom_tool_call", "ctc", "input", part.input)
        case HostedCall():
            return write_hosted(part, output)
        case Compaction():
            return _compaction(part, output)


def _message(part: Text | Refusal, output: Output) -> Iterator[Event]:
    item = {"id": output.make_id("msg"), "type": "message", "role": "assistant"}
    added, place = output.added({**item, "status": "in_progress", "content": []})
    yield added
    place["content_index"] = 0
    content: list[dict[str, Any]] = []
    yield from _refusal(part, output, place, content) if isinstance(part, Refusal) else _text(part, output, place, content)
    yield output.done({**item, "status": output.status(), "content": content})


def _text(part: Text, output: Output, place: Event, content: list[dict[str, Any]]) -> Iterator[Event]:
    empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    yield output.event("content_part.added", **place, part=empty)
    said: list[str] = []
    deltas = pieces(part.deltas[0]) if len(part.deltas) == 1 else part.deltas
    yield from output.deltas("output_text.delta", deltas, said, **place, logprobs=[])
    text, annotations = "".join(said), [] if output.cut else list(part.annotations)
    for index, annotation in enumerate(annotations):
        yield output.event("output_text.annotation.added", **place, annotation_index=index, annotation=annotation)
    yield output.event("output_text.done", **place, text=text, logprobs=[])
    content.append({**empty, "text": text, "annotations": annotations})
    yield output.event("content_part.done", **place, part=content[0])


def _refusal(part: Refusal, output: Output, place: Event, content: list[dict[str, Any]]) -> Iterator[Event]:
    yield output.event("content_part.added", **place, part={"type": "refusal", "refusal": ""})
    said: list[str] = []
    yield from output.deltas("refusal.delta", pieces(part.text), said, **place)
    refusal = "".join(said)
    yield output.event("refusal.done", **place, refusal=refusal)
    content.append({"type": "refusal", "refusal": refusal})
    yield output.event("content_part.done", **place, part=content[0])


def _reasoning(part: Reasoning, output: Output) -> Iterator[Event]:
    item_id = output.make_id("rs")
    item: dict[str, Any] = {"id": item_id, "type": "reasoning", "summary": []}
    encrypted = output.encrypted if part.encrypted is None else part.encrypted
    # The content that comes with the added event is provisional: never the one that a later request may carry.
    added, place = output.added({**item, **_sealed(output.model, item_id, encrypted, done=False)})
    yield added
    before = output.tokens
    if part.summary:
        item["summary"] = [{"type": "summary_text", "text": ""}]
        yield from _summary(part.summary, output, {**place, "summary_index": 0}, item["summary"])
    if part.text:
        item["content"] = [{"type": "reasoning_text", "text": ""}]
        yield from _reasoning_text(part.text, output, {**place, "content_index": 0}, item["content"])
    output.reasoning_tokens += output.tokens - before
    yield output.done({**item, **_sealed(output.model, item_id, encrypted, done=True)})


def _sealed(model: str, item_id: str, encrypted: bool, *, done: bool) -> dict[str, str]:
    return {"encrypted_content": seal_reasoning(model, item_id, done=done)} if encrypted else {}


def _summary(text: str, output: Output, place: Event, summary: list[dict[str, Any]]) -> Iterator[Event]:
    yield output.event("reasoning_summary_part.added", **place, part=dict(summary[0]))
    said: list[str] = []
    yield from output.deltas("reasoning_summary_text.delta", pieces(text), said, **place)
    summary[0]["text"] = "".join(said)
    yield output.event("reasoning_summary_text.done", **place, text=summary[0]["text"])
    yield output.event("reasoning_summary_part.done", **place, part=dict(summary[0]))


def _reasoning_text(text: str, output: Output, place: Event, content: list[dict[str, Any]]) -> Iterator[Event]:
    yield output.event("content_part.added", **place, part=dict(content[0]))
    said: list[str] = []
    yield from output.deltas("reasoning_text.delta", pieces(text), said, **place)
    content[0]["text"] = "".join(said)
    yield output.event("reasoning_text.done", **place, text=content[0]["text"])
    yield output.event("content_part.done", **place, part=dict(content[0]))


def _call(
    output: Output, part: FunctionCall | CustomCall, kind: str, prefix: str, field: str, given: str
) -> Iterator[Event]:
    output.calls = True
    call_id = part.call_id or output.make_id("call")
    item = {"id": output.make_id(prefix), "type": kind, "call_id": call_id, "name": part.name}
    added, place = output.added({**item, "status": "in_progress", field: ""})
    yield added
    events = "function_call_arguments" if field == "arguments" else "custom_tool_call_input"
    said: list[str] = []
    yield from output.deltas(f"{events}.delta", pieces(given, _CALL_PIECE), said, **place)
    text = "".join(said)
    yield output.event(f"{events}.done", **place, **{field: text})
    yield output.done({**item, "status": output.status(), field: text})


def _compaction(part: Compaction, output: Output) -> Iterator[Event]:
    item = {"id": output.make_id("cmp"), "type": "compaction", "encrypted_content": ""}
    added, place = output.added(item)
    yield added
    yield output.event("compaction.compacting", **place)
    yield output.done({**item, "encrypted_content": seal_compaction(part.users)})
