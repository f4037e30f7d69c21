"""Streams for the laws of assembly: a random answer, and the random ways in which servers tell it.

A `Telling` says what a server leaves out and in which order it speaks. Whatever it is, the answer must be the same.
The rules that make a telling legal stand in `tellings` and `told`: the content of each part survives somewhere, items
begin in order, and two items or parts that nothing identifies are told one after the other, with a boundary between.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

from hypothesis import strategies as st

Json = dict[str, Any]
Name = Literal["id", "index", "none"]

PART_TYPES = {"text": "output_text", "refusal": "refusal", "summary": "summary_text", "reasoning": "reasoning_text"}
_STEMS = {
    "text": "response.output_text",
    "refusal": "response.refusal",
    "summary": "response.reasoning_summary_text",
    "reasoning": "response.reasoning_text",
    "arguments": "response.function_call_arguments",
    "input": "response.custom_tool_call_input",
}

_names = st.text(st.characters(codec="utf-8"), max_size=8)

plain_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_names, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
"""Any value that JSON can say and that comes back the same."""

objects = st.dictionaries(_names, plain_json, max_size=4)


@dataclass
class Spec:
    """One output item: its done form, and the pieces of each of its parts as (field, pieces)."""

    item: Json
    parts: list[tuple[str, list[str]]] = field(default_factory=list)


@dataclass
class Telling:
    """How a server tells an answer.

    Attributes:
        names: by what events name their item: always the id (the index now and then), always the index, or neither.
        positions: whether parts have an index: always, never, or now and then.
        keep: for each item, which kinds of event are sent of it.
        lying: whether deltas are wrong where a done form follows.
        interleave: whether the items are told at the same time.
        output: the terminal response's: full, empty, null, omitted.
    """

    names: Name
    positions: Literal["all", "none", "some"]
    keep: list[set[str]]
    lying: bool
    interleave: bool
    output: Literal["full", "empty", "null", "omitted"]
    random: Random


def _pieces(mark: str) -> st.SearchStrategy[list[str]]:
    # The mark keeps two parts from saying the same, which without ids would make them one.
    return st.lists(st.text(max_size=5), min_size=1, max_size=3).map(lambda texts: [mark + texts[0], *texts[1:]])


def part_of(name: str, text: str) -> Json:
    """The done form of a part of this field."""
    part = {"type": PART_TYPES[name], "refusal" if name == "refusal" else "text": text}
    return {**part, "annotations": []} if name == "text" else part


@st.composite
def specs(draw: st.DrawFn, number: int) -> Spec:
    """One output item of any kind."""
    kinds = ["message", "message", "reasoning", "function_call", "custom_tool_call", "web_search_call"]
    kind = draw(st.sampled_from(kinds))
    item: Json = {"id": f"item_{number}", "type": kind, "status": "completed"}
    if kind == "web_search_call":
        return Spec({**item, "action": {"type": "search", "query": "q"}})
    if kind in ("function_call", "custom_tool_call"):
        name = "arguments" if kind == "function_call" else "input"
        pieces = draw(_pieces('{"a": ' if name == "arguments" else f"{number}:"))
        pieces = [*pieces[:1], str(number), "}"] if name == "arguments" else pieces
        pieces[0] = '{"a": ' if name == "arguments" else pieces[0]
        return Spec({**item, "call_id": f"call_{number}", "name": "tool", name: "".join(pieces)}, [(name, pieces)])
    if kind == "message":
        names = draw(st.lists(st.sampled_from(["text", "text", "refusal"]), min_size=1, max_size=3))
    else:
        names = ["summary"] * draw(st.integers(0, 3)) or ["reasoning"] * draw(st.integers(1, 2))
    parts = [(name, draw(_pieces(f"{number}.{at}:"))) for at, name in enumerate(names)]
    target = "content" if kind == "message" or "reasoning" in names else "summary"
    whole: Json = {"role": "assistant"} if kind == "message" else {"summary": []}
    whole[target] = [part_of(name, "".join(pieces)) for name, pieces in parts]
    if kind == "reasoning" and draw(st.booleans()):
        whole["encrypted_content"] = f"sealed_{number}"
    return Spec({**item, **whole}, parts)


@st.composite
def answers(draw: st.DrawFn) -> list[Spec]:
    """An answer of one to four items."""
    return [draw(specs(number)) for number in range(draw(st.integers(1, 4)))]


@st.composite
def tellings(draw: st.DrawFn, answer: list[Spec]) -> Telling:
    """A legal way to tell this answer."""
    names: Name = draw(st.sampled_from(["id", "index", "none"]))
    boundary = draw(st.sampled_from(["added", "item_done"]))
    keep = []
    for spec in answer:
        sources = {"item_done"} if not spec.parts or "encrypted_content" in spec.item else set()
        sources = sources or draw(st.sets(st.sampled_from(["delta", "done", "part_done", "item_done"]), min_size=1))
        if "call_id" in spec.item:
            sources = sources - {"part_done"} or {"done"}  # a call has no parts
        kept = sources | draw(st.sets(st.sampled_from(["added", "part_added"])))
        if "call_id" in spec.item and "item_done" not in kept:
            kept |= {"added"}  # the name and the call id are nowhere else
        if names == "none":
            kept |= {boundary}
        if sources == {"delta"}:
            kept |= {"part_added"}  # the boundary between two parts
        keep.append(kept)
    return Telling(
        names=names,
        positions=draw(st.sampled_from(["all", "none", "some"])),
        keep=keep,
        lying=draw(st.booleans()),
        interleave=names != "none" and draw(st.booleans()),
        output=draw(st.sampled_from(["full", "empty", "null", "omitted"])),
        random=draw(st.randoms(use_true_random=False)),
    )


def _part_events(
    name: str, position: int, pieces: list[str], kept: set[str], lying: bool
) -> Iterator[tuple[str, Json]]:
    text = "".join(pieces)
    at = {("summary_index" if name == "summary" else "content_index"): position}
    owner = "response.reasoning_summary_part" if name == "summary" else "response.content_part"
    key = name if name in ("refusal", "arguments", "input") else "text"
    parted = name in PART_TYPES
    if parted:
        yield "part_added", {"type": f"{owner}.added", **at, "part": part_of(name, "")}
    wrong = lying and kept & {"done", "part_done", "item_done"}
    for piece in pieces:
        yield "delta", {"type": f"{_STEMS[name]}.delta", **at, "delta": f"wrong {piece}" if wrong else piece}
    yield "done", {"type": f"{_STEMS[name]}.done", **at, key: text}
    if parted:
        yield "part_done", {"type": f"{owner}.done", **at, "part": part_of(name, text)}


def _item_events(spec: Spec, number: int, kept: set[str], lying: bool) -> Iterator[Json]:
    """All events of one item that are kept, with every id and index."""
    begun = {**spec.item, "status": "in_progress"}
    begun |= {name: empty for name, empty in (("arguments", ""), ("input", ""), ("content", [])) if name in begun}
    if spec.item["type"] == "reasoning":
        begun |= {"summary": []}
        begun.pop("encrypted_content", None)
    events: list[tuple[str, Json]] = [("added", {"type": "response.output_item.added", "item": begun})]
    for position, (name, pieces) in enumerate(spec.parts):
        events += _part_events(name, position, pieces, kept, lying)
    if spec.item["type"] == "web_search_call":
        events += [("delta", {"type": "response.web_search_call.searching"})]
    events += [("item_done", {"type": "response.output_item.done", "item": spec.item})]
    for kind, event in events:
        if kind in kept:
            item_id = {} if "item" in event else {"item_id": spec.item["id"]}
            yield {**event, **item_id, "output_index": number}


def _left_out(event: Json, telling: Telling) -> Json:
    """The event without the names that this server does not send."""
    event = dict(event)
    sometimes = telling.random.random() < 0.5
    if telling.names == "none" or (telling.names == "index" and sometimes):
        event.pop("item_id", None)
        if "item" in event:
            event["item"] = {name: value for name, value in event["item"].items() if name != "id"}
    if telling.names == "none" or (telling.names == "id" and sometimes):
        event.pop("output_index", None)
    if telling.positions == "none" or (telling.positions == "some" and telling.random.random() < 0.5):
        event.pop("content_index", None)
        event.pop("summary_index", None)
    return event


def _merged(queues: list[list[Json]], random: Random) -> list[Json]:
    """One order of all events in which every item keeps its own, and items begin in order."""
    rest = [list(queue) for queue in queues if queue]
    begun, merged = 0, []
    while any(rest):
        ready = [at for at, queue in enumerate(rest) if queue and at < begun]
        at = random.choice([*ready, begun] if begun < len(rest) else ready)
        begun = max(begun, at + 1)
        merged.append(rest[at].pop(0))
    return merged


def told(answer: list[Spec], telling: Telling) -> list[Json]:
    """The events of this answer, told so."""
    rows = zip(answer, telling.keep, strict=True)
    queues = [list(_item_events(spec, at, kept, telling.lying)) for at, (spec, kept) in enumerate(rows)]
    queues = [[_left_out(event, telling) for event in queue] for queue in queues]
    body = _merged(queues, telling.random) if telling.interleave else [event for queue in queues for event in queue]
    response: Json = {"id": "resp_1", "model": "gpt-5.5", "status": "completed"}
    response["usage"] = {"input_tokens": 3, "output_tokens": 2}
    full = [spec.item for spec in answer]
    output: dict[str, Json] = {"full": {"output": full}, "empty": {"output": []}, "null": {"output": None}}
    return [
        {"type": "response.created", "response": {**response, "status": "in_progress", "usage": None, "output": []}},
        *body,
        {"type": "response.completed", "response": {**response, **output.get(telling.output, {})}},
    ]
