"""`Multiplexed`: one WebSocket that several streams use at once, without a thread of its own.

A thread that waits for its stream's next event reads the socket itself, for everybody, while it has the *reading role*; the
others are parked, each on a lock of its own. What it reads for others goes into their lanes' queues.

Rules kept here (each was left out once in the model of tests/transports/ws/model.py, and each time a thread waited for ever):

1. `_reader` changes only under `_state`. Only the role's holder touches the parser, the poll object of the role and recv, and
   appends to queues.
2. A waiting consumer decides in one critical section, in this order: data, stopped, dead, role free (take it), deadline
   passed, park.
3. Parking: the lock is made, taken and stored under `_state`, and waited for outside; then the consumer decides anew.
4. The baton: whoever makes `_reader` None, and whoever leaves the wait without the role, un-parks in the same critical
   section (if the role is free) every stopped lane and one lane that waits for data.
5. What came un-parks only the lanes that it is for; death un-parks everybody.
6. To stop a lane is to set its flag first and to wake the reader second; the reader looks at the flag after it was woken.
7. All of the consumer's wait lies in one ``try``, whose handler gives the role back by identity, else un-parks itself, and
   passes the baton. The normal release lies inside of it, too.
8. `_dirty` is true from before recv until what came is in its queue. An exception in between condemns the connection, because
   bytes are lost; one that comes while nothing is in hand only gives the role back.
9. Rules 8 and 9 of `connection`.
"""

from __future__ import annotations

import select
import socket
import threading
from typing import Any

from pixir_sync.config import Keepalive
from pixir_sync.deadline import Deadline
from pixir_sync.transports.ws import death
from pixir_sync.transports.ws.connection import Connection
from pixir_sync.transports.ws.death import Death
from pixir_sync.transports.ws.lanes import Lane
from pixir_sync.transports.ws.routing import by_lane, meaning
from pixir_sync.transports.ws.wire import AT_MOST, Poller

__all__ = ["Multiplexed"]

_NOTHING = 0
_ROLE = threading.Lock()  # stands for: the reading role was taken


class Multiplexed(Connection):
    """An open WebSocket whose events name their stream. Threads share it, several of them stream on it."""

    __slots__ = ("_poller", "_reader")

    def __init__(self, sock: socket.socket, leftover: bytes, keepalive: Keepalive) -> None:
        super().__init__(sock, leftover, keepalive)
        self._poller = Poller(self._wire)
        self._reader: object | None = None

    @property
    def occupied(self) -> bool:
        return self._reader is not None

    @property
    def full(self) -> bool:
        """Never: a lane whose consumer is too far behind fails, and the others go on."""
        return False

    def receive(self, lane: Lane, deadline: Deadline) -> list[Any] | None:
        """As `Connection.receive`; the messages are decoded, to know whose they are."""
        if not lane.queue:
            self._wait(lane, deadline)
        if lane.queue:
            return lane.take()
        if not lane.stopped:
            self._raise_if_dead()
        return None

    def end(self, lane: Lane) -> None:
        """As `Connection.end`; the other streams stay."""
        if self.lanes.get(lane.name) is lane:
            self.lanes.pop(lane.name, None)
        self.served = True

    def _empty(self, lane: Lane, deadline: Deadline) -> None:
        self._wait(lane, deadline, emptying=True)

    # Waiting: rules 2 to 4 and 7.

    def _wait(self, lane: Lane, deadline: Deadline, emptying: bool = False) -> None:
        """Wait for data, a stop, the connection's death, or the deadline; read for everybody meanwhile."""
        try:
            while True:
                with self._state:
                    step = self._decide(lane, deadline)
                if step is None:
                    return
                if step is not _ROLE:
                    step.acquire(timeout=min(deadline.remaining(), AT_MOST))
                elif emptying:
                    self._open(lane, deadline)
                    return
                elif self._read_on(lane, deadline):
                    return
        except BaseException:
            self._interrupted(lane)
            raise
        finally:
            if not self.alive:
                self._leave()

    def _decide(self, lane: Lane, deadline: Deadline) -> threading.Lock | None:
        """`_ROLE`: it was taken. None: the wait is over. Else the lock to wait on. Under the state lock."""
        assert self._state.locked()
        lane.parked = None  # a consumer that was late to wake must not leave a ghost for the baton to go to
        if not (lane.queue or lane.stopped or self.death is not None):
            if self._reader is None:
                self._reader = lane
                return _ROLE
            if not deadline.passed:
                return lane.park()
        self._pass_baton()
        return None

    def _pass_baton(self) -> None:
        """Let the right ones look again, if nobody reads: all that were stopped, one that waits. Under the state lock."""
        if self._reader is not None:
            return
        passed = False
        for lane in list(self.lanes.values()):
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
        if self.death is not None:
            self._wire.wake()  # for who polls in order to write

    # Reading: with the role.

    def _read_on(self, lane: Lane, deadline: Deadline) -> bool:
        """Read until this lane has something, is stopped, or late, and give the role back. False: the consumer decides anew."""
        while self._reader is lane:
            mask = select.POLLIN | (select.POLLOUT if self.writer.blocked else 0)
            ready = self._poller.wait(mask, deadline)
            if ready & select.POLLOUT:
                self.writer.flush(self)
            if ready & ~select.POLLOUT:
                self._receive(lane)
            if self._reader is lane and deadline.passed:
                with self._state:
                    self._release()
                return True
        return bool(lane.queue) or lane.stopped or self.death is not None

    def _open(self, lane: Lane, deadline: Deadline) -> None:
        """Take in what came before this stream, then open it, in one holding of the role."""
        while self._receive(None) and self.death is None:
            if deadline.passed:
                break
        with self._state:
            lane.open = self.death is None and not deadline.passed
            self._release()

    def drain(self, limit: int) -> None:
        """As `Connection.drain`."""
        visitor = object()
        try:
            with self._state:
                if self._reader is not None or self.death is not None:
                    return
                self._reader = visitor
            while limit > 0 and self.alive:
                size = self._receive(None)
                if size == _NOTHING:
                    break
                limit -= size
            with self._state:
                self._release()
        except BaseException:
            self._interrupted(visitor)
            raise
        finally:
            if not self.alive:
                self._leave()

    def _receive(self, lane: Lane | None) -> int:
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
        self._give_out(data, lane, end)
        return len(data)

    def _give_out(self, data: bytes, lane: Lane | None, end: Death | None) -> None:
        parts, strays = by_lane(self._parser.feed(data), self.lanes)
        told = self.inbox.controls()
        end = meaning(strays, self) or told or end
        if end is not None:
            self.writer.flush(self)  # the answer to a close frame; it may well fail, which changes nothing
        with self._state:
            for target, batch, size in parts:
                target.put(batch, size)
                target.overflowed = target.full
                target.unpark()
            if end is not None:
                self._die(end)
            self._dirty = False
            if lane is not None and (lane.queue or lane.stopped or self.death is not None):
                self._release()
        if end is not None:
            self._wire.wake()
        else:
            self.writer.flush(self)
