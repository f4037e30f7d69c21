"""`Inbox`: from bytes to what they mean: messages for lanes, answers to control frames, the end of the connection.

Rules kept here:

* Only the holder of the reading role calls it; nothing here waits or takes a lock.
* What stands before a close frame or a fault in the same bytes is still given out.
* A flood of pings is answered by its last few, as the protocol allows. (Whatever comes, the writer keeps few of the answers.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pixir_sync.protocol.frames import CLOSE, PONG, FrameParser, close_payload
from pixir_sync.transports.ws.death import Death, closed_by_peer, misspoken
from pixir_sync.transports.ws.heartbeat import Heartbeat
from pixir_sync.transports.ws.lanes import Lane
from pixir_sync.transports.ws.routing import Served, by_lane, meaning
from pixir_sync.transports.ws.writer import Writer

__all__ = ["Inbox", "Part"]

Part = tuple[Lane, list[Any], int]
"""A lane, what came for it, and how many bytes that is."""

_ANSWERS = 8


class Inbox:
    """What comes in on one connection. ``received`` is how many bytes that was so far."""

    __slots__ = ("_heart", "_multiplexed", "_parser", "_writer", "received")

    def __init__(self, writer: Writer, heart: Heartbeat, *, multiplexed: bool) -> None:
        self._parser = FrameParser()
        self._writer, self._heart = writer, heart
        self._multiplexed = multiplexed
        self.received = 0

    @property
    def unfinished(self) -> bool:
        """Whether it stands in the middle of a frame or of a message."""
        return self._parser.held > 0

    def take(self, data: bytes, lanes: Mapping[str | None, Lane], connection: Served) -> tuple[list[Part], Death | None]:
        """What these bytes mean: parts for the lanes, and the end, if that is what they say."""
        messages = self._parser.feed(data)
        self.received += len(data)
        parser = self._parser
        end = self._controls() if parser.pings or parser.pongs or parser.close or parser.error else None
        if not messages:
            return [], end
        if self._multiplexed:
            parts, strays = by_lane(messages, lanes)
        else:
            lane = lanes.get(None)
            parts, strays = ([(lane, messages, len(data))], []) if lane is not None and lane.open else ([], messages)
        return parts, (meaning(strays, connection) if strays else None) or end

    def _controls(self) -> Death | None:
        """Answer and note the control frames; the end, if they or a fault of the server's are one."""
        parser = self._parser
        for payload in parser.pings[-_ANSWERS:]:
            self._writer.post(PONG, payload)
        parser.pings.clear()
        for payload in parser.pongs:
            self._heart.answered(payload)
        parser.pongs.clear()
        if parser.close is not None:
            code, reason = parser.close
            self._writer.post(CLOSE, close_payload(1000 if code == 1005 else code))
            return closed_by_peer(code, reason)
        return misspoken(parser.error) if parser.error is not None else None
