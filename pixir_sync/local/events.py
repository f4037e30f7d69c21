"""Server events: the response object, and the order of events in which an answer is written.

Rules kept here:

* Order: created, in_progress; per item added, its parts and deltas, done; one terminal event with the whole output
  and the usage.
* Sequence numbers begin at 0 for each response and have no gap.
* Every event is a tree of its own: what a consumer holds never changes afterwards.
* One output token is one delta. ``max_output_tokens`` cuts between two of them; what was begun is then closed as
  incomplete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pixir_sync.local.model import Call, Message, Part, Reasoning, pieces
from pixir_sync.local.sealed import seal_reasoning

__all__ = ["Writer", "response_object"]

Event = dict[str, Any]


def response_object(body: dict[str, Any], response_id: str, created_at: int) -> dict[str, Any]:
    """The response as it begins: the request echoed, nothing put out yet."""
    reasoning, text = body.get("reasoning") or {}, body.get("text") or {}
    conversation = body.get("conversation")
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_at,
        "status": "in_progress",
        "background": bool(body.get("background", False)),
        "conversation": {"id": conversation} if isinstance(conversation, str) else conversation,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "max_tool_calls": body.get("max_tool_calls"),
        "metadata": body.get("metadata") or {},
        "model": body["model"],
        "output": [],
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "previous_response_id": body.get("previous_response_id"),
        "prompt_cache_key": body.get("prompt_cache_key"),
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "safety_identifier": body.get("safety_identifier"),
        "service_tier": body.get("service_tier", "default"),
        "store": body.get("store", True),
        "temperature": body.get("temperature", 1.0),
        "text": {"format": text.get("format") or {"type": "text"}, "verbosity": text.get("verbosity", "medium")},
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools") or [],
        "top_logprobs": body.get("top_logprobs", 0),
        "top_p": body.get("top_p", 1.0),
        "truncation": body.get("truncation", "disabled"),
        "usage": None,
        "user": body.get("user"),
    }


class Writer:
    """Writes one answer as events. One response, one use.

    ``finish`` is told the final response object before the terminal event is given out, so that whoever sees that
    event can already continue from the response.
    """

    def __init__(
        self,
        response: dict[str, Any],
        *,
        input_tokens: int,
        cached_tokens: int,
        make_id: Callable[[str], str],
        finish: Callable[[dict[str, Any]], None],
    ) -> None:
        self._response = response
        self._input_tokens, self._cached_tokens = input_tokens, cached_tokens
        self._make_id, self._finish = make_id, finish
        self._limit = response["max_output_tokens"]
        self._written = self._reasoned = 0
        self._cut = False
        self._sequence = 0
        self._output: list[dict[str, Any]] = []

    def events(self, parts: list[Part]) -> Iterator[Event]:
        """The whole answer."""
        yield self._lifecycle("created")
        yield self._lifecycle("in_progress")
        for part in parts:
            if self._cut or self._spent():
                self._cut = True
                break
            match part:
                case Reasoning():
                    yield from self._reasoning(part)
                case Message():
                    yield from self._message(part)
                case Call():
                    yield from self._call(part)
        yield self._end()

    def warm_up(self) -> Iterator[Event]:
        """The answer to ``generate: false``: no output at all."""
        yield self._lifecycle("created")
        yield self._end()

    def _end(self) -> Event:
        response = self._response
        response["status"] = status = "incomplete" if self._cut else "completed"
        if self._cut:
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        response["usage"] = {
            "input_tokens": self._input_tokens,
            "input_tokens_details": {"cached_tokens": self._cached_tokens, "cache_write_tokens": 0},
            "output_tokens": self._written,
            "output_tokens_details": {"reasoning_tokens": self._reasoned},
            "total_tokens": self._input_tokens + self._written,
        }
        response["output"] = list(self._output)
        self._finish(dict(response))
        return self._lifecycle(status)

    def _event(self, kind: str, **fields: Any) -> Event:
        event = {"type": f"response.{kind}", "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return event

    def _lifecycle(self, kind: str) -> Event:
        return self._event(kind, response={**self._response, "output": list(self._output)})

    def _spent(self) -> bool:
        return self._limit is not None and self._written >= self._limit

    def _deltas(self, kind: str, text: str, said: list[str], longest: int = 64, **place: Any) -> Iterator[Event]:
        """One delta event per piece while tokens are left; ``said`` collects what was said."""
        for piece in pieces(text, longest):
            if self._spent():
                self._cut = True
                return
            self._written += 1
            said.append(piece)
            yield self._event(kind, **place, delta=piece)

    def _added(self, item: dict[str, Any]) -> tuple[Event, dict[str, Any]]:
        """The event that opens an item, and the place that the events inside it name."""
        index = len(self._output)
        return self._event("output_item.added", output_index=index, item=item), {
            "item_id": item["id"],
            "output_index": index,
        }

    def _done(self, item: dict[str, Any]) -> Event:
        index = len(self._output)
        self._output.append(item)
        return self._event("output_item.done", output_index=index, item=item)

    def _status(self) -> str:
        return "incomplete" if self._cut else "completed"

    def _reasoning(self, part: Reasoning) -> Iterator[Event]:
        item_id, model = self._make_id("rs"), self._response["model"]
        item: dict[str, Any] = {"id": item_id, "type": "reasoning", "summary": []}
        sealed = {"encrypted_content": seal_reasoning(model, item_id, done=False)} if part.encrypted else {}
        added, place = self._added({**item, **sealed})
        yield added
        place["summary_index"] = 0
        yield self._event("reasoning_summary_part.added", **place, part={"type": "summary_text", "text": ""})
        said: list[str] = []
        yield from self._deltas("reasoning_summary_text.delta", part.summary, said, **place)
        self._reasoned += len(said)
        text = "".join(said)
        yield self._event("reasoning_summary_text.done", **place, text=text)
        yield self._event("reasoning_summary_part.done", **place, part={"type": "summary_text", "text": text})
        if part.encrypted:
            sealed = {"encrypted_content": seal_reasoning(model, item_id, done=True)}
        yield self._done({**item, "summary": [{"type": "summary_text", "text": text}], **sealed})

    def _message(self, part: Message) -> Iterator[Event]:
        item = {"id": self._make_id("msg"), "type": "message", "role": "assistant"}
        added, place = self._added({**item, "status": "in_progress", "content": []})
        yield added
        place["content_index"] = 0
        empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        yield self._event("content_part.added", **place, part=empty)
        said: list[str] = []
        yield from self._deltas("output_text.delta", part.text, said, **place, logprobs=[])
        text = "".join(said)
        yield self._event("output_text.done", **place, text=text, logprobs=[])
        yield self._event("content_part.done", **place, part={**empty, "text": text})
        yield self._done({**item, "status": self._status(), "content": [{**empty, "text": text}]})

    def _call(self, part: Call) -> Iterator[Event]:
        kind, prefix, field, events = (
            ("custom_tool_call", "ctc", "input", "custom_tool_call_input")
            if part.custom
            else ("function_call", "fc", "arguments", "function_call_arguments")
        )
        item = {"id": self._make_id(prefix), "type": kind, "call_id": self._make_id("call"), "name": part.name}
        added, place = self._added({**item, "status": "in_progress", field: ""})
        yield added
        said: list[str] = []
        yield from self._deltas(f"{events}.delta", part.arguments, said, 12, **place)
        text = "".join(said)
        yield self._event(f"{events}.done", **place, **{field: text})
        yield self._done({**item, "status": self._status(), field: text})
