"""`Connection`: one open WebSocket with one stream at a time, which reads the socket on the thread that waits for its events.

Nothing stands between a waiting consumer and its socket: it receives, and has the messages in its hands. While it is away the
keepalive thread reads for it. Which of the two reads is all that must be settled for each event, so it is settled without a lock:
the *reading role* is a place in a dict that ``setdefault`` takes in one atomic step. (With the role under the state lock, and
each batch in a queue, as `multiplexed` needs it, an event costs 260 bytecodes more.)

Rules kept here (tests/transports/ws/solo.py has a model of them; each was left out once, and each time something went wrong):

1. Only who has the role touches the parser, the poll object of the stream and recv, and appends to the stream's queue.
2. A consumer looks at the queue after it has the role: what was read for it comes first.
3. Nobody but a consumer waits with the role. A `Visit` reads what is there; a consumer that comes meanwhile waits for its end.
4. Who has taken the role looks at `death` before it touches the socket. Who has given it back looks at `death` after that. So
   of those who leave a dead connection the last one knows that it is the last, and closes the descriptor.
5. To stop a stream is to set its flag first and to wake the reader second; the reader looks at the flag after it was woken.
6. All of the consumer's wait lies in one ``try``, whose handler gives the role back by identity.
7. `_dirty` is true from before recv until what came is in the hands of whoever called. An exception in between condemns the
   connection, because bytes may be lost; one in poll only gives the role back.
8. Locks are entered by ``with`` only, and no path holds two. None is taken in a finaliser, to stop a stream, or to wake.
9. Bytes that come while no stream is open belong to none: a stream takes the role once before it begins, and empties the
   socket.
"""

from __future__ import annotations

import select
import socket
from time import monotonic
from typing import Any

from pixir_sync.config import Keepalive
from pixir_sync.deadline import Deadline
from pixir_sync.protocol.continuation import Baseline
from pixir_sync.protocol.frames import FrameParser
from pixir_sync.transports.ws import death
from pixir_sync.transports.ws.death import Death
from pixir_sync.transports.ws.heartbeat import Heartbeat
from pixir_sync.transports.ws.inbox import Inbox
from pixir_sync.transports.ws.lanes import Lane, Visit
from pixir_sync.transports.ws.mortal import Mortal
from pixir_sync.transports.ws.routing import meaning
from pixir_sync.transports.ws.wire import AGAIN, AT_MOST, PIECE, READ, Poller
from pixir_sync.transports.ws.writer import Sent, Writer

__all__ = ["Connection", "Sent"]

_ROLE = "role"


class Connection(Mortal):
    """An open WebSocket. Threads share it, but one stream is on it at a time.

    Attributes:
        opened_at: when it was opened, of the monotonic clock. served: whether a stream ended well on it.
        baseline: what the server holds of the conversation; its lease's holder's. retained: how many bytes of input that is.
        response_id: the last response, whose late events are nobody's.
        heart, inbox: its parts; for this package only. seen: a note of the keepalive thread's.
    """

    __slots__ = ("_dirty", "_parser", "_reading", "baseline", "heart", "inbox", "opened_at", "response_id", "retained", "seen",
                 "served", "writer")  # fmt: skip

    def __init__(self, sock: socket.socket, leftover: bytes, keepalive: Keepalive) -> None:
        super().__init__(sock)
        self.opened_at = monotonic()
        self.served = False
        self.baseline: Baseline | None = None
        self.retained = 0
        self.response_id: str | None = None
        self.heart = Heartbeat(keepalive.interval, keepalive.timeout, self.opened_at)
        self.writer = Writer(self._wire, self._state, self.heart)
        self._parser = FrameParser()
        self.inbox = Inbox(self._parser, self.writer, self.heart)
        self.seen = 0
        self._reading: dict[str, object] = {}  # under `_ROLE` the one who reads; single operations only
        self._dirty = False
        if leftover:  # the first frames, which came with the answer to the upgrade: no stream is open yet
            self._heed(self._parser.feed(leftover), None)

    # What its users ask.

    @property
    def occupied(self) -> bool:
        """Whether somebody has the reading role."""
        return bool(self._reading)

    @property
    def readable(self) -> bool:
        """Whether somebody who waits for writing should read meanwhile."""
        return not self.occupied and not self.full

    @property
    def full(self) -> bool:
        """Whether a consumer is so far behind that nothing more is read."""
        return any(lane.full for lane in list(self.lanes.values()))

    def waited_on(self, lane: Lane) -> bool:
        """Whether the stream's consumer has the reading role."""
        return self._reading.get(_ROLE) is lane

    def __repr__(self) -> str:
        state = "dead" if self.death is not None else "busy" if self.lanes else "idle"
        return f"<{type(self).__name__} {state} served={self.served} baseline={self.baseline is not None}>"

    # A stream: begin, send, receive, end.

    def begin(self, lane: Lane, deadline: Deadline) -> bool:
        """Open a stream. What came before it is not its own: the socket is emptied first. False where time or stream ended.

        Raises the error that the connection died of.
        """
        lane.read, lane.limit = self._wire.reader(), deadline
        lane.poll = None if self._wire.waits else Poller(self._wire).poll  # 370 bytes, which an idle connection need not hold
        with self._state:
            self.lanes[lane.name] = lane
        if self._cut:
            self._wire.wake()  # whoever cut it may not have come to that yet
        self._empty(lane, deadline)
        if not lane.stopped:
            self._raise_if_dead()
        return lane.open

    def send(self, lane: Lane, data: bytes, stall: float | None, deadline: Deadline) -> str:
        """Send one frame; how it went, see `Writer.send`."""
        try:
            return self.writer.send(self, lane, data, stall, deadline)
        finally:
            if not self.alive:
                self._leave()

    def receive(self, lane: Lane, deadline: Deadline) -> list[Any] | None:
        """The next batch of messages; None where the lane was stopped or the deadline passed. Blocks.

        Raises the error that the connection died of, once everything that came before it was taken.
        """
        try:
            if self._reading.setdefault(_ROLE, lane) is not lane and not self._taken(lane, deadline):
                return None
            batch = lane.take() if lane.queue else self._read(lane, deadline)
            self._dirty = False
            del self._reading[_ROLE]
        except BaseException:
            self._interrupted(lane)
            raise
        if self.death is not None:
            self._leave()
            if batch is None and not lane.stopped:
                self._raise_if_dead()
        return batch

    def end(self, lane: Lane) -> None:
        """The stream is over; what still comes is nobody's. Takes no lock: it may be a finaliser that ends it."""
        if self.lanes.get(lane.name) is lane:
            self.lanes.clear()  # there is no other; after a pop its table would stay, for as long as the connection is idle
        self.served = True

    def stop(self, lane: Lane) -> None:
        """End a lane's waits. From any thread, signal handler or finaliser: takes no lock."""
        lane.cancelled = True
        self._wire.wake()

    def _raise_if_dead(self) -> None:
        if self.death is not None:
            raise self.death.error()

    # The role.

    def _taken(self, lane: Lane, deadline: Deadline) -> bool:
        """Wait for the end of the visits that are going on; whether the role was taken before the deadline."""
        while (holder := self._reading.setdefault(_ROLE, lane)) is not lane:
            assert isinstance(holder, Visit), "two streams wait on a connection that serves one at a time"
            if deadline.passed:
                return False
            holder.over.acquire(timeout=min(deadline.remaining(), AT_MOST))
        return True

    def _interrupted(self, holder: object) -> None:
        """An exception left the wait: nothing of this thread may stay behind."""
        if self._reading.get(_ROLE) is holder:
            if self._dirty:
                with self._state:
                    self.condemn()
                self._wire.wake()  # for who polls in order to write
            self._reading.pop(_ROLE, None)
        if not self.alive:
            self._leave()

    # Reading: with the role.

    def _read(self, lane: Lane, deadline: Deadline) -> list[Any] | None:
        """The messages of the next read that has any; None where the stream or the connection is over, or it is late.

        It does itself what `_fill` does for others: two calls less, a twentieth of what an event by itself costs.
        """
        while self.death is None and not lane.cancelled:
            left, poll = deadline.at - monotonic(), lane.poll
            if left < AT_MOST:  # too little for a recv that waits
                ready = (poll or Poller(self._wire).poll)(left * 1000 if left > 0 else 0)
            else:
                ready = poll is None or poll(PIECE)
            if ready:
                self._dirty = True
                try:
                    data = lane.read(READ)
                except AGAIN:  # somebody was quicker, or it is half a record
                    pass
                except OSError as error:
                    self._heed([], death.broken(error))
                else:
                    messages = self._parser.feed(data)
                    if self._parser.news or not data:
                        self._heed([], None if data else death.ended())
                    if messages:
                        return messages
            if not self._go_on(deadline):
                return None
        return None

    def _go_on(self, deadline: Deadline) -> bool:
        """Nothing came, or nothing that is for a stream. Send what is owed; whether there is time left."""
        self._dirty = False  # half a message is the parser's, and in nobody's hands
        self.writer.flush(self)
        while self.writer.blocked and not deadline.passed:
            if Poller(self._wire).wait(select.POLLIN | select.POLLOUT, deadline) & ~select.POLLOUT:
                break
            self.writer.flush(self)
        return not deadline.passed

    def _fill(self, stray: bool) -> list[bytes] | None:
        """One recv: the text messages that it completed, None where nothing is there. What else it says is seen to.

        ``stray``: no stream is open that they could be for.
        """
        self._dirty = True
        try:
            if (data := self._wire.recv()) is None:
                self._dirty = False
                return None
        except OSError as error:
            self._heed([], death.broken(error))
            return []
        messages = self._parser.feed(data)
        if stray or self._parser.news or not data:
            self._heed(messages if stray else [], None if data else death.ended())
        return messages

    def _heed(self, strays: list[bytes], end: Death | None) -> None:
        """Answer control frames; end the connection, if they, a message that is nobody's or the end of the bytes are its end."""
        told = self.inbox.controls()
        said = (meaning(strays, self) if strays else None) or told or end
        self.writer.flush(self)  # the answer to a close frame, too; it may well fail, which changes nothing
        if said is not None:
            with self._state:
                self._die(said)
            self._wire.wake()

    def _empty(self, lane: Lane, deadline: Deadline) -> None:
        """Take in what came before this stream, then open it, in one holding of the role."""
        try:
            if self._taken(lane, deadline):
                while self.death is None and not deadline.passed and not lane.stopped and self._fill(True) is not None:
                    self._dirty = False
                lane.open = self.death is None and not deadline.passed and not lane.stopped
                del self._reading[_ROLE]
        except BaseException:
            self._interrupted(lane)
            raise
        if self.death is not None:
            self._leave()

    def drain(self, limit: int) -> None:
        """Read without waiting, about this many bytes at most; for a thread that has no stream of its own to wait for."""
        visit = Visit()
        try:
            if self._reading.setdefault(_ROLE, visit) is visit:
                self._read_for_absent(limit)
                del self._reading[_ROLE]
        except BaseException:
            self._interrupted(visit)
            raise
        finally:
            visit.over.release()
        if self.death is not None:
            self._leave()

    def _read_for_absent(self, limit: int) -> None:
        """Read into the stream's queue; with the role."""
        parser = self._parser
        until = parser.received + limit
        while self.death is None and parser.received < until and not self.full:
            lane = self.lanes.get(None)
            mine = lane is not None and lane.open
            messages = self._fill(not mine)
            if messages is None:
                return
            if lane is not None and mine and messages:
                lane.put(messages, sum(map(len, messages)) + 2 * len(messages))  # of a message without a byte its frame counts
            self._dirty = False
