"""What the benchmark's peer answers: one long response as events, encoded once for both protocols.

Rules kept here:

* Both protocols carry the same JSON texts. An answer is encoded before anything is measured, all but its id and the time of a
  paced delta. No two answers have the same id, because a client may tell by it what is left over of the answer before.
* The events are those of a real server in their order: set-up, deltas, done events that repeat the text, one completed event.
* The text is mostly ASCII, with a letter beyond it here and there, as real text has.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import count, cycle, islice
from typing import Any

__all__ = ["OTHER_EVENTS", "Answer", "Bulk", "Paced", "chunk", "frame", "sse"]

Json = dict[str, Any]
Send = Callable[[bytes], object]
Encode = Callable[[bytes], bytes]

OTHER_EVENTS = 8
"""The events of an answer that are no deltas: four that open it and four that close it."""

_WORDS = ("streamed", "answers", "arrive", "piecewise", "while", "their", "readers", "waited", "déjà vu —", "patiently", "until",
          "everything", "is there")  # fmt: skip
_ITEM = "msg_0c58d3f1a97be4620068e1f0a1b2c3d4"
_CHUNK, _END = 16_384, b"0\r\n\r\n"
_ANY_ID = b"resp_" + b"?" * 48
_ANY_TIME = b"?" * 20
_numbers = count(1)


def _fresh_id() -> bytes:
    """An id of the same length as `_ANY_ID`."""
    return b"resp_%048x" % next(_numbers)


def frame(payload: bytes, opcode: int = 0x1) -> bytes:
    """A whole, unmasked WebSocket frame; text unless told otherwise."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, size))
    elif size < 1 << 16:
        head = bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big")
    return head + payload


def sse(payload: bytes) -> bytes:
    """An event of an event stream, named by the type that its JSON text begins with."""
    name = payload.split(b'"', 4)[3]
    return b"event: %s\ndata: %s\n\n" % (name, payload)


def chunk(data: bytes) -> bytes:
    """One chunk of chunked transfer coding."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def _encoded(event: Json) -> bytes:
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()


def _response(status: str, output: list[Json], usage: Json | None) -> Json:
    """A response object with the fields that a real one repeats."""
    return {
        "id": _ANY_ID.decode(), "object": "response", "created_at": 1_795_000_000,
        "status": status, "background": False, "error": None, "incomplete_details": None, "instructions": None,
        "max_output_tokens": None, "max_tool_calls": None, "model": "gpt-5.5", "output": output, "parallel_tool_calls": True,
        "previous_response_id": None, "prompt_cache_key": None, "reasoning": {"effort": "none", "summary": None},
        "safety_identifier": None, "service_tier": "default", "store": False, "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"}, "tool_choice": "auto", "tools": [], "top_logprobs": 0,
        "top_p": 1.0, "truncation": "disabled", "usage": usage, "user": None, "metadata": {},
    }  # fmt: skip


def _usage(tokens: int) -> Json:
    return {
        "input_tokens": 12, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": tokens,
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": tokens + 12,
    }  # fmt: skip


def _part(text: str) -> Json:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def _item(status: str, content: list[Json]) -> Json:
    return {"id": _ITEM, "type": "message", "status": status, "content": content, "role": "assistant"}


def _opening() -> list[bytes]:
    """The events before the deltas."""
    response = _response("in_progress", [], None)
    at: Json = {"output_index": 0}
    part: Json = {"item_id": _ITEM, **at, "content_index": 0}
    events = [
        {"type": "response.created", "response": response},
        {"type": "response.in_progress", "response": response},
        {"type": "response.output_item.added", **at, "item": _item("in_progress", [])},
        {"type": "response.content_part.added", **part, "part": _part("")},
    ]
    return [_encoded({**event, "sequence_number": number}) for number, event in enumerate(events)]


def _closing(text: str, deltas: int) -> list[bytes]:
    """The events after the deltas."""
    done = _item("completed", [_part(text)])
    at: Json = {"output_index": 0}
    part: Json = {"item_id": _ITEM, **at, "content_index": 0}
    events = [
        {"type": "response.output_text.done", **part, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **part, "part": _part(text)},
        {"type": "response.output_item.done", **at, "item": done},
        {"type": "response.completed", "response": _response("completed", [done], _usage(deltas))},
    ]
    return [_encoded({**event, "sequence_number": deltas + 4 + number}) for number, event in enumerate(events)]


def _delta(number: int, text: str) -> bytes:
    """One piece of the text, of about 210 bytes."""
    return _encoded({
        "type": "response.output_text.delta", "sequence_number": number + 4, "item_id": _ITEM, "output_index": 0,
        "content_index": 0, "delta": text, "logprobs": [], "obfuscation": "yQp4Zt7"[: 1 + number % 5],
    })  # fmt: skip


class Answer:
    """An answer that can be sent in both protocols. ``send`` takes bytes and sends them all; threads may share it."""

    def send_websocket(self, send: Send) -> None:
        """Send the events as text frames."""
        raise NotImplementedError

    def send_sse(self, send: Send) -> None:
        """Send the events as the body of an HTTP response in chunked transfer coding, with its end."""
        raise NotImplementedError

    def whole(self) -> bytes:
        """The response by itself, as a JSON text."""
        raise NotImplementedError


class Bulk(Answer):
    """All events at once, faster than any client reads them.

    The event stream is cut into chunks of 16 KiB, wherever that falls: a server that has much to send fills its buffer.
    """

    def __init__(self, deltas: int) -> None:
        words = cycle(_WORDS)
        pieces = ["".join(f" {word}" for word in islice(words, 2)) for _ in range(deltas)]
        text = "".join(pieces)
        self.characters = len(text)
        self.events = [*_opening(), *map(_delta, range(deltas), pieces), *_closing(text, deltas)]
        self._websocket = b"".join(map(frame, self.events)).split(_ANY_ID)
        # Chunks begin anew where an id comes soon, which a cut would otherwise go through.
        parts = [b"".join(map(sse, part)) for part in (self.events[:4], self.events[4:-1], self.events[-1:])]
        chunks = [chunk(part[cut : cut + _CHUNK]) for part in parts for cut in range(0, len(part), _CHUNK)]
        self._sse = b"".join([*chunks, _END]).split(_ANY_ID)
        response = self.events[-1].partition(b'"response":')[2].rpartition(b',"sequence_number":')[0]
        self._whole = response.split(_ANY_ID)

    def send_websocket(self, send: Send) -> None:
        self._send(send, self._websocket)

    def send_sse(self, send: Send) -> None:
        self._send(send, self._sse)

    def whole(self) -> bytes:
        return _fresh_id().join(self._whole)

    @staticmethod
    def _send(send: Send, pieces: Sequence[bytes]) -> None:
        """Send what stands between the ids; a large piece without a copy, a short answer with one call."""
        first, second, deltas, completed = pieces
        fresh = _fresh_id()
        if len(deltas) < _CHUNK:
            send(fresh.join(pieces))
            return
        send(first + fresh + second + fresh)
        send(deltas)
        send(fresh + completed)


class Paced(Answer):
    """One event per packet, as a model writes them; the text of a delta is the time at which it was sent."""

    def __init__(self, deltas: int, clock: Callable[[], int], ticks: Callable[[], Iterator[object]]) -> None:
        """``clock`` gives nanoseconds, the client must read the same; each step of ``ticks()`` lasts until an event is due."""
        self._clock, self._ticks = clock, ticks
        self._opening, self._closing = _opening(), _closing("0" * 20, deltas)
        encoded = [_delta(number, _ANY_TIME.decode()) for number in range(deltas)]
        self._frames = [_around_time(frame(payload)) for payload in encoded]
        self._chunks = [_around_time(chunk(sse(payload))) for payload in encoded]

    def send_websocket(self, send: Send) -> None:
        self._send(send, frame, self._frames)

    def send_sse(self, send: Send) -> None:
        self._send(send, lambda payload: chunk(sse(payload)), self._chunks)
        send(_END)

    def _send(self, send: Send, encode: Encode, deltas: Sequence[tuple[bytes, bytes]]) -> None:
        fresh = _fresh_id()
        for payload in self._opening:
            send(encode(payload.replace(_ANY_ID, fresh)))
        for (before, after), _ in zip(deltas, self._ticks(), strict=False):
            send(b"%b%020d%b" % (before, self._clock(), after))
        for payload in self._closing:
            send(encode(payload.replace(_ANY_ID, fresh)))


def _around_time(encoded: bytes) -> tuple[bytes, bytes]:
    before, _, after = encoded.partition(_ANY_TIME)
    return before, after
