"""`Connection`: one WebSocket that several threads use at once, without a thread of its own.

A thread that waits for its stream's next event reads the socket itself, for everybody, while it has the *reading role*; the others
are parked, each on a lock of its own. What it reads for others goes into their lanes' queues.

Rules kept here (each was left out once in the model of tests/transports/ws, and each time a thread waited for ever):

1. `_reader` changes only under `_state`. Only the role's holder touches the parser, the poll object of the role and recv, and
   appends to queues.
2. A waiting consumer decides in one critical section, in this order: data, stopped, dead, role free (take it), deadline passed, park.
3. Parking: the lock is made, taken and stored under `_state`, and waited for outside; then the consumer decides anew.
4. The baton: whoever makes `_reader` None, and whoever leaves the wait without the role, un-parks in the same critical section (if
   the role is free) every stopped lane and one lane that waits for data.
5. What came un-parks only the lanes that it is for; death un-parks everybody.
6. To stop a lane is to set its flag first and to wake the reader second; the reader looks at the flag after it was woken.
7. All of the consumer's wait lies in one ``try``, whose handler gives the role back by identity, else un-parks itself, and passes
   the baton. The normal release lies inside of it, too.
8. `_dirty` is true from before recv until what came is in its queue. An exception in between condemns the connection, because bytes
   are lost; one that comes while nothing is in hand only gives the role back.
9. Locks are entered by ``with`` only, and no path holds two. Nothing here takes a lock in a finaliser, to stop a lane, or to wake.
10. Bytes that come while no stream is open belong to none: a stream takes the role once before it begins, and empties the socket.
"""

from __future__ import annotations

import select
import threading
import time
from typing import TYPE_CHECKING, Any

from pixir_sync.config import Keepalive
from pixir_sync.deadline import Deadline
from pixir_sync.protocol.continuation import Baseline
from pixir_sync.protocol.frames import CLOSE, PING, PONG, FrameParser, close_payload
from pixir_sync.transports.ws import death
from pixir_sync.transports.ws.death import Death
from pixir_sync.transports.ws.heartbeat import Heartbeat
from pixir_sync.transports.ws.lanes import Lane
from pixir_sync.transports.ws.routing import by_lane, meaning
from pixir_sync.transports.ws.wire import Poller, Wire
from pixir_sync.transports.ws.writer import Sent, Writer

if TYPE_CHECKING:
    import socket

__all__ = ["Connection", "Sent"]

_VISIT = 1 << 20  # bytes that the keepalive thread reads for an absent consumer at a time
_NOTHING = 0
_ANSWERS = 8
_ROLE = threading.Lock()  # stands for: the reading role was taken


class Connection:
    """An open WebSocket. Threads share it.

    Attributes:
        opened_at: when it was opened, of the monotonic clock. served: whether a stream ended well on it.
        baseline: what the server holds of the conversation; its lease's holder's. retained: how many bytes of input that is.
        reset_reason: why the next turn on it, or of its session, goes in full.
        response_id: the last response, whose late events are nobody's.
    """

    def __init__(self, sock: socket.socket, leftover: bytes, keepalive: Keepalive, *, multiplexed: bool = False) -> None:
        self.opened_at = time.monotonic()
        self.served = False
        self.baseline: Baseline | None = None
        self.retained = 0
        self.reset_reason: str | None = None
        self.response_id: str | None = None
        # Guards who reads, who writes, the lane and its parking lock, the outbox, death. Never held over I/O.
        self._state = threading.Lock()
        self._wire = Wire(sock)
        self._parser = FrameParser()
        self._poller = Poller(self._wire)
        self._heart = Heartbeat(keepalive.interval, keepalive.timeout, self.opened_at)
        self._pong_limit = keepalive.timeout
        self._writer = Writer(self._wire, self._state, self._heart.left)
        self._reader: object | None = None
        self._dirty = False
        self._multiplexed = multiplexed
        self._lanes: dict[str | None, Lane] = {}
        self._death: Death | None = None
        self._received = 0
        self._seen = (0, 0)  # the keepalive thread's: what was received, and the consumer's visits, at its last visit
        if leftover:
            self._take_in(leftover, None)

    # What its users ask.

    @property
    def dead(self) -> bool:
        return self._death is not None

    @property
    def alive(self) -> bool:
        return self._death is None

    @property
    def death(self) -> Death | None:
        return self._death

    @property
    def fileno(self) -> int:
        """The descriptor's number, -1 where it is closed."""
        return -1 if self._wire.closed else self._wire.fileno

    @property
    def readable(self) -> bool:
        """Whether somebody who waits for writing should read meanwhile."""
        return self._reader is None and not self._full

    @property
    def _full(self) -> bool:
        """Whether a consumer is so far behind that nothing more is read. With several lanes that lane fails, the others go on."""
        return not self._multiplexed and any(lane.full for lane in list(self._lanes.values()))

    def __repr__(self) -> str:
        state = "dead" if self.dead else "busy" if self._lanes else "idle"
        return f"<Connection {state} served={self.served} baseline={self.baseline is not None}>"

    # A stream: begin, send, receive, end.

    def begin(self, lane: Lane, deadline: Deadline) -> bool:
        """Open a stream. What came before it is not its own: the socket is emptied first. False where time or stream ended.

        Raises the error that the connection died of.
        """
        with self._state:
            self._lanes[lane.name] = lane
        self._wait(lane, deadline, emptying=True)
        self._raise_if_dead()
        return lane.open

    def send(self, lane: Lane, data: bytes, stall: float | None, deadline: Deadline) -> str:
        """Send one frame; how it went, see `Writer.send`."""
        return self._writer.send(self, lane, data, stall, deadline)

    def receive(self, lane: Lane, deadline: Deadline) -> list[Any] | None:
        """The next batch of messages; None where the lane was stopped or the deadline passed. Blocks.

        Raises the error that the connection died of, once everything that came before it was taken.
        """
        lane.visits += 1
        if lane.queue:
            return lane.take()
        self._wait(lane, deadline)
        if lane.queue:
            return lane.take()
        if not lane.stopped:
            self._raise_if_dead()
        return None

    def end(self, lane: Lane) -> None:
        """The stream is over; what still comes is nobody's."""
        with self._state:
            if self._lanes.get(lane.name) is lane:
                del self._lanes[lane.name]
        self.served = True

    def stop(self, lane: Lane) -> None:
        """End a lane's waits. From any thread, signal handler or finaliser: takes no lock."""
        lane.cancelled = True
        self._wire.wake()

    def _raise_if_dead(self) -> None:
        if self._death is not None:
            raise self._death.error()

    # Waiting: rules 2 to 4 and 7.

    def _wait(self, lane: Lane, deadline: Deadline, emptying: bool = False) -> None:
        """Wait until there is data, the lane is stopped, the connection dead, or time over; read for everybody meanwhile."""
        try:
            while True:
                with self._state:
                    step = self._decide(lane, deadline)
                if step is None:
                    return
                if step is not _ROLE:
                    step.acquire(timeout=min(deadline.remaining(), threading.TIMEOUT_MAX))
                elif emptying:
                    self._empty(lane, deadline)
                    return
                elif self._read(lane, deadline):
                    return
        except BaseException:
            self._interrupted(lane)
            raise
        finally:
            if self.dead:
                self._leave()

    def _decide(self, lane: Lane, deadline: Deadline) -> threading.Lock | None:
        """`_ROLE`: it was taken. None: the wait is over. Else the lock to wait on. Under the state lock."""
        assert self._state.locked()
        if not (lane.queue or lane.stopped or self._death is not None):
            if self._reader is None:
                self._reader = lane
                return _ROLE
            if not deadline.passed:
                return lane.park()
        lane.parked = None
        self._pass_baton()
        return None

    def _pass_baton(self) -> None:
        """Let the right ones look again, if nobody reads: all that were stopped, one that waits for data. Under the state lock."""
        if self._reader is not None:
            return
        passed = False
        for lane in self._lanes.values():
            if lane.parked is not None and (lane.stopped or not (passed or lane.queue)):
                passed = passed or not lane.stopped
                lane.unpark()

    def _release(self) -> None:
        """Give the role back. Under the state lock."""
        self._reader = None
        self._pass_baton()

    def _interrupted(self, holder: object) -> None:
        """An exception left the wait: nothing of this thread may stay behind."""
        with self._state:
            if self._reader is holder:
                if self._dirty:
                    self.condemn()
                self._reader = None
            if isinstance(holder, Lane):
                holder.parked = None
            self._pass_baton()

    # Reading: with the role.

    def _read(self, lane: Lane, deadline: Deadline) -> bool:
        """Read until there is something for this lane, it is stopped, or time is over; gives the role back.

        Whether the wait is over; else the consumer decides anew.
        """
        while self._reader is lane:
            mask = select.POLLIN | (select.POLLOUT if self._writer.blocked else 0)
            ready = self._poller.wait(mask, deadline)
            if ready & select.POLLOUT:
                self._writer.flush(self)
            if ready & ~select.POLLOUT:
                self._fill(lane)
            elif not ready and deadline.passed:
                with self._state:
                    self._release()
                return True
        return bool(lane.queue) or lane.stopped or self._death is not None

    def _empty(self, lane: Lane, deadline: Deadline) -> None:
        """Take in what came before this stream, then open it, in one holding of the role."""
        while self._fill(None) and self._death is None:
            if deadline.passed:
                break
        with self._state:
            lane.open = self._death is None and not deadline.passed
            self._release()

    def drain(self, limit: int) -> None:
        """Read without waiting, about this many bytes at most; for a thread that has no stream of its own to wait for."""
        visitor = object()
        with self._state:
            if self._reader is not None or self._death is not None:
                return
            self._reader = visitor
        try:
            while limit > 0 and not self._full:
                size = self._fill(None)
                if size == _NOTHING:
                    break
                limit -= size
            with self._state:
                self._release()
        except BaseException:
            self._interrupted(visitor)
            raise
        finally:
            if self.dead:
                self._leave()

    def _fill(self, lane: Lane | None) -> int:
        """One recv, parsed and put where it belongs; how many bytes came.

        If something came for `lane`, or it is over, the role is given back in the same critical section.
        """
        self._dirty = True
        end: Death | None = None
        try:
            data = self._wire.recv()
        except OSError as error:
            data, end = b"", death.broken(error)
        if data is None:
            self._dirty = False
            return _NOTHING
        if not data and end is None:
            end = death.ended()
        self._take_in(data, lane, end)
        return len(data)

    def _take_in(self, data: bytes, lane: Lane | None, end: Death | None = None) -> None:
        messages = self._parser.feed(data) if data else []
        self._received += len(data)
        end = self._controls() or end
        parts, strays = self._route(messages, len(data)) if messages else ([], [])
        if strays:
            end = meaning(strays, self) or end
        with self._state:
            for target, batch, size in parts:
                target.put(batch, size)
                target.overflowed = self._multiplexed and target.full
                target.unpark()
            if end is not None:
                self._die(end)
            self._dirty = False
            if lane is not None and (lane.queue or lane.stopped or self._death is not None):
                self._release()
        if end is not None:
            self._wire.wake()
        else:
            self._writer.flush(self)

    def _route(self, messages: list[bytes], size: int) -> tuple[list[tuple[Lane, list[Any], int]], list[bytes]]:
        """What is for which lane, and what is for none."""
        if self._multiplexed:
            return by_lane(messages, self._lanes)
        lane = self._lanes.get(None)
        return ([(lane, messages, size)], []) if lane is not None and lane.open else ([], messages)

    def _controls(self) -> Death | None:
        """Answer and note the control frames; the end, if they or a fault of the server's are one."""
        parser = self._parser
        if parser.pings:
            for payload in parser.pings[-_ANSWERS:]:  # of a flood the last ones, as the protocol allows
                self._writer.post(PONG, payload)
            parser.pings.clear()
        for payload in parser.pongs:
            self._heart.answered(payload)
        parser.pongs.clear()
        if parser.close is not None:
            code, reason = parser.close
            self._writer.post(CLOSE, close_payload(1000 if code == 1005 else code))
            self._writer.flush(self)  # its answer may well fail, which changes nothing
            return death.closed_by_peer(code, reason)
        return death.misspoken(parser.error) if parser.error is not None else None

    # The end.

    def condemn(self) -> None:
        """An exception came between: what is on the wire, or was taken from it, is not whole. Under the state lock."""
        self._die(death.retired("caller_cancelled"))

    def _die(self, end: Death) -> None:
        """Under the state lock."""
        if self._death is None:
            self._death = end
            self.reset_reason = self.reset_reason or end.reset
        for lane in self._lanes.values():
            lane.unpark()
        self._writer.wake_waiting()

    def die(self, end: Death) -> None:
        """End the connection, for everybody. The first reason stays."""
        with self._state:
            self._die(end)
        self._wire.wake()
        self._leave()

    def retire(self, reset: str = "websocket_reconnected") -> None:
        """Close it from this side, politely where that needs no waiting."""
        if self._death is None:
            self._writer.post(CLOSE, close_payload(1000))
            self._writer.flush(self)
        self.die(death.retired(reset))

    def _leave(self) -> None:
        """Close the descriptor of a dead connection, if nobody is at it any more."""
        with self._state:
            last = self._death is not None and self._reader is None and self._writer.left
        if last:
            self._wire.close()

    def __del__(self) -> None:
        self._wire.close()

    # The keepalive thread.

    def tend(self, now: float, idle: bool) -> None:
        """Read for an absent consumer, answer the server, ping, and notice a peer that does not answer. Never waits."""
        visits = sum(lane.visits for lane in list(self._lanes.values()))
        before, self._seen = self._seen, (self._received, visits)
        if idle or visits == before[1]:
            self.drain(_VISIT)
        if self._full or (self._parser.held and self._received != before[0]):
            self._heart.put_off(now)
        payload = self._heart.due(now)
        if payload is not None:
            self._writer.post(PING, payload)
        self._writer.flush(self)
        if self._heart.expired(now):
            self.die(death.unanswered(self._pong_limit))
        elif self._writer.failed is not None:
            self.die(death.broken(self._writer.failed))
