"""Server-sent events, the pure part: any chunks in, uniform blocks of whole events out, JSON objects out of those.

The parsing of an event's lines is sseclient-py's; the transport imports it when first used and hands its class in. What
stands here keeps from that parser everything it would stumble over.

Rules kept here:

* The events depend on the bytes of the body, never on where its chunks end. A fault is raised only after the events
  before it were handed out: a terminal event that was read counts.
* An event is handed out with the byte that ends it. A CR ends a line at once; an LF that follows it, perhaps in the
  next chunk, is swallowed then. (To wait would hold back the last event of a server that ends its lines with CR.)
* A block holds, per event, at most one ``event:`` line with a plain name, one ``data:`` line and one blank line.
  sseclient writes the names of unknown fields and of events to the log at DEBUG: nothing else may reach it.
  An ``event:`` line that the data says again is left out: with each the parser would have one line more to go through.
* The lines of multi-line data are joined with a tab. Tab and LF are alike to JSON (white space between tokens,
  forbidden within strings), and sseclient takes quadratic time over many lines.
* An event without its blank line is cut off and never handed out.
* The work is linear in the bytes, however small the chunks; the common case is a few calls over the whole chunk.
* No error and no log line holds anything of the content.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from pixir_sync.protocol.codec import loads
from pixir_sync.protocol.errors import FrameTooLarge, InvalidResponse, PixirError
from pixir_sync.protocol.events import IGNORED, TERMINAL

__all__ = ["EVENT_LIMIT", "Decoded", "EventBlocks", "EventDecoder", "ParsedEvent", "Parser"]

EVENT_LIMIT = 64 << 20
"""The largest event that is accepted, in bytes (images come whole, in one event)."""

_APART = TERMINAL | IGNORED
_BOM = b"\xef\xbb\xbf"
_NAME = rb"[A-Za-z0-9_.\-]{1,128}"
_plain_name = re.compile(_NAME).fullmatch
# Blocks that are already as they should be, which is what real servers send. Possessive: it never backtracks.
_is_uniform = re.compile(rb"(?>(?:event: ?" + _NAME + rb"\n)?data:[^\n]*+\n\n)++").fullmatch
# In a uniform block: the line that names an event whose data begins with the same name. It costs 0.4 µs to look for it, and
# the parser 0.9 µs to go through it.
_without_echoes = re.compile(rb"event: ?(" + _NAME + rb')\n(?=data: ?\{"type": ?"\1")').sub
_echoing_head = re.compile(rb"event: ?(" + _NAME + rb')\ndata: ?\{"type": ?"\1"').match


class ParsedEvent(Protocol):
    """What sseclient gives for an event; ``event`` is "message" where the server named none."""

    event: str
    data: str


class _Client(Protocol):
    def events(self) -> Iterator[ParsedEvent]: ...


Parser = Callable[[Iterator[bytes]], _Client]
"""``sseclient.SSEClient``: made from an iterator of bytes, its ``events()`` yields `ParsedEvent` objects."""

Decoded = tuple[list[dict[str, Any]], int, bool]
"""JSON objects, each with a type, in order; how many events held none; and whether a terminal event is among them."""


class EventBlocks:
    """Turns the chunks of one response body into blocks of whole events. Not for use by two threads at once.

    ``error`` is what `push` or `finish` will raise when called next, or None: a chunk held good events before a fault.
    A transport raises it once it has handed out those events, rather than wait for another chunk.
    """

    __slots__ = ("_cr", "_head", "_limit", "_start", "_tail", "error")

    def __init__(self, limit: int = EVENT_LIMIT) -> None:
        """``limit``: the largest event in bytes, its line ends counted as one byte each, without its blank line."""
        self._limit = limit
        self._tail = bytearray()  # the unfinished event: never starts with a line end, never holds an empty line
        self._start: bytes | None = b""  # what may yet become a BOM; None once that is settled
        self._cr = False  # the last chunk ended in CR, which has already counted as a line end
        self._head: bytes | None = None  # how the first event of the last block began, if by a name that is its type
        self.error: PixirError | None = None

    def push(self, chunk: bytes) -> bytes:
        """The events that this chunk completes, as one block; ``b""`` if there are none.

        Raises `InvalidResponse` for bytes that are not UTF-8 and `FrameTooLarge` for an event over the limit; both only
        when every event before the fault was handed out, and then at every further call.
        """
        if self.error is not None:
            raise self.error
        if self._start is not None:
            chunk = self._without_bom(self._start + chunk)
        if self._cr or b"\r" in chunk:
            chunk = self._with_lf(chunk)
        # Whole events, which is what a server sends that writes one at a time, need not go by way of the tail.
        block = chunk if not self._tail and chunk.endswith(b"\n\n") else self._take(chunk)
        if len(block) > self._limit or not block.isascii():
            block = self._checked(block)
        if len(self._tail) > self._limit and self.error is None:
            self.error = self._too_large()
        if self.error is not None and not block:
            raise self.error
        if not block:
            return block
        return self._alike(block) or _without_echoes(b"", block if _is_uniform(block) else _uniform(block))

    def _alike(self, block: bytes) -> bytes | None:
        """A run of events that begin like those before, as deltas do: 0.33 µs per event, and 0.57 in the general way.

        Three line ends for each head: then there are none but those that belong to the heads, and the block is uniform.
        """
        head = self._head
        if head is not None and block.startswith(head):
            rests = block[len(head) : -2].split(b"\n\n" + head)
            if block.count(b"\n") == 3 * len(rests):
                data = head[head.index(b"\n") + 1 :]
                return data + (b"\n\n" + data).join(rests) + b"\n\n"
        found = _echoing_head(block)
        self._head = found[0] if found is not None else None
        return None

    def finish(self) -> bool:
        """The body has ended. True if it ended inside an event, which is dropped. Raises like `push`."""
        if self.error is not None:
            raise self.error
        tail = (self._start or b"") + bytes(self._tail)
        self._start = None
        self._tail.clear()
        return any(line and not line.startswith(b":") for line in tail.split(b"\n"))

    def _without_bom(self, start: bytes) -> bytes:
        if len(start) < len(_BOM) and _BOM.startswith(start):
            self._start = start
            return b""
        self._start = None
        return start.removeprefix(_BOM)

    def _with_lf(self, chunk: bytes) -> bytes:
        if not chunk:
            return chunk  # the CR still waits
        if self._cr:
            chunk = chunk.removeprefix(b"\n")
        self._cr = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _take(self, chunk: bytes) -> bytes:
        """All up to the last empty line; the rest becomes the tail. Looks at each byte once."""
        tail = self._tail
        if not tail:
            end = chunk.rfind(b"\n\n") + 2
            if end == 1:
                tail += chunk.lstrip(b"\n")
                return b""
            tail += chunk[end:]
            return chunk[:end]
        seen = len(tail) - 1
        tail += chunk
        end = tail.rfind(b"\n\n", seen) + 2
        if end == 1:
            return b""
        block = bytes(tail[:end])
        del tail[:end]
        return block

    def _checked(self, block: bytes) -> bytes:
        """The events of the block up to the first fault, which is noted."""
        if len(block) > self._limit:
            block = self._within_limit(block)
        try:
            str(block, "utf-8")
        except UnicodeDecodeError as error:
            self.error = InvalidResponse("the event stream is not UTF-8", phase="stream", request_sent=True)
            end = block.rfind(b"\n\n", 0, error.start) + 2
            block = block[:end] if end > 1 else b""
        return block

    def _within_limit(self, block: bytes) -> bytes:
        start = 0
        while start < len(block):
            if block.startswith(b"\n", start):  # a further empty line is of no event
                start += 1
                continue
            end = block.index(b"\n\n", start)
            if end + 1 - start > self._limit:
                self.error = self._too_large()
                return block[:start]
            start = end + 2
        return block

    def _too_large(self) -> FrameTooLarge:
        text = f"an event of the server's is over the limit of {self._limit:,} bytes"
        return FrameTooLarge(text, phase="stream", request_sent=True)


def _uniform(block: bytes) -> bytes:
    """The same events in the one form that the parser gets; events without data are left out."""
    return b"".join(map(_uniform_event, block.split(b"\n\n")))


def _uniform_event(text: bytes) -> bytes:
    name = b""
    data = []
    for line in text.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":  # the last one counts, as in the specification
            name = value.removeprefix(b" ")
    if not data:
        return b""
    head = b"event: " + name + b"\n" if _plain_name(name) else b""
    return head + b"data: " + b"\t".join(data) + b"\n\n"


class _Supply:
    """The iterator that a parser reads from: it has an end after each block, and goes on with the next one."""

    __slots__ = ("block",)

    def __init__(self) -> None:
        self.block = b""

    def __iter__(self) -> _Supply:
        return self

    def __next__(self) -> bytes:
        block, self.block = self.block, b""
        if not block:
            raise StopIteration
        return block


class EventDecoder:
    """Turns the blocks of one response body into JSON objects. Not for use by two threads at once.

    There is one parser for all of a body: to make one asks the logging module for its logger, 2 µs for each block.
    """

    __slots__ = ("_parser", "_supply")

    def __init__(self, parser: Parser) -> None:
        self._supply = _Supply()
        self._parser = parser(self._supply)

    def decode(self, block: bytes) -> Decoded:
        """What a block from `EventBlocks.push` holds. Raises for nothing that a server can send.

        ``[DONE]``, empty data and keepalive events (by name or by type) are left out and not counted. An object without a
        type gets it from its ``event:`` line; without either it is counted as malformed.
        """
        events: list[dict[str, Any]] = []
        malformed, ended = 0, False
        self._supply.block = block
        for parsed in self._parser.events():
            name, text = parsed.event, parsed.data
            if name in IGNORED:
                continue
            try:
                event = loads(text)
            except ValueError:
                malformed += text.strip() not in ("", "[DONE]")
                continue
            kind = event.get("type") if type(event) is dict else None
            if type(kind) is not str:
                if type(event) is not dict or name == "message":
                    malformed += 1
                    continue
                event["type"] = kind = name
            if kind in _APART:
                if kind in IGNORED:
                    continue
                ended = True
            events.append(event)
        return events, malformed, ended
