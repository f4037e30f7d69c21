"""`Inbox`: what came on a connection beside messages: control frames, which it answers and notes, and faults of the server's.

Rules kept here:

* Only the holder of the reading role calls it; nothing here waits or takes a lock.
* A flood of pings is answered by its last few, as the protocol allows. (Whatever comes, the writer keeps few of the answers.)
"""

from __future__ import annotations

from pixir_sync.protocol.frames import CLOSE, PONG, FrameParser, close_payload
from pixir_sync.transports.ws.death import Death, closed_by_peer, misspoken
from pixir_sync.transports.ws.heartbeat import Heartbeat
from pixir_sync.transports.ws.writer import Writer

__all__ = ["Inbox"]

_ANSWERS = 8


class Inbox:
    """The incoming half. ``received`` is how many bytes came so far."""

    __slots__ = ("_heart", "_parser", "_writer")

    def __init__(self, parser: FrameParser, writer: Writer, heart: Heartbeat) -> None:
        self._parser = parser
        self._writer, self._heart = writer, heart

    @property
    def received(self) -> int:
        return self._parser.received

    @property
    def unfinished(self) -> bool:
        """Whether it stands in the middle of a frame or of a message."""
        return self._parser.held > 0

    def controls(self) -> Death | None:
        """Answer and note the control frames; the end, if they or a fault of the server's are one."""
        parser = self._parser
        parser.news = False
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
