"""`Writer`: the writing role of a connection: whole frames only, pings and pongs between them.

Rules kept here:

* One thread at a time has the role, and sends whole frames. What cannot be finished condemns the connection: half a frame on the
  wire makes nonsense of all that follows.
* Pongs, pings and close frames go into the outbox. Whoever has the role sends them before and after its own frame, and looks once
  more after giving the role back, because somebody may have put one there who found the role taken. Of pongs that cannot be sent
  only the last few are kept: a flood of pings that nobody lets us answer must not fill the memory.
* The rest of a control frame that was sent in part goes before anything else.
* A reader never waits for writing: what cannot be sent now stays, and the reader polls for both. A writer that waits reads:
  otherwise both sides could wait for each other with full buffers.
* Where the system refuses to send, the role is never given back, and the reading side finds the reason: an error event or a close
  frame may still be on its way, and says more than the errno.
* The role is taken inside of the ``try`` whose handler gives it back, by identity. Any other exception (an interrupt) while it is
  held condemns the connection before the role is free.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from pixir_sync.deadline import Deadline
from pixir_sync.protocol.frames import PING, PONG, frame
from pixir_sync.transports.ws.lanes import Lane
from pixir_sync.transports.ws.wire import Poller, Wire

__all__ = ["Sent", "Writer"]

T = TypeVar("T")

_SLICE = 16_384  # one TLS record; and what the limit of the longest time without progress counts in
_PONGS = 8  # the most that wait; a server that is behind with reading is told of its last pings
_PING = 0x80 | PING


class Ends(Protocol):
    """What a writer asks of its connection."""

    @property
    def alive(self) -> bool: ...
    def condemn(self) -> None: ...


class Reads(Ends, Protocol):
    """What a writer that waits asks of it."""

    @property
    def readable(self) -> bool: ...
    def drain(self, limit: int) -> None: ...


class Told(Protocol):
    """What is told that a ping has left."""

    def left(self, now: float) -> None: ...


class Sent:
    """How sending a frame ended."""

    DONE, STOPPED, STALLED, FAILED = "done", "stopped", "stalled", "failed"


class Writer:
    """The outgoing half. ``state`` is the connection's lock; it guards who writes, who waits to write, and the outbox."""

    __slots__ = ("_outbox", "_poller", "_pongs", "_rest", "_state", "_waiting", "_wire", "failed", "heart", "holder")

    def __init__(self, wire: Wire, state: threading.Lock, heart: Told) -> None:
        self._wire, self._state = wire, state
        self._poller: Poller | None = None  # made at the first wait: most connections never wait to write
        self._outbox: list[bytes] = []  # few, mostly none: an empty deque takes 700 bytes more
        self._pongs: list[bytes] = []  # the outbox's second part
        self._rest: memoryview | None = None  # of a control frame; the role's holder's
        self._waiting: tuple[threading.Lock, ...] = ()  # mostly empty, and then no object of its own
        self.holder: object | None = None
        self.failed: OSError | None = None
        self.heart = heart

    @property
    def _owing(self) -> bool:
        return bool(self._rest or self._outbox or self._pongs)

    @property
    def blocked(self) -> bool:
        """Whether control frames wait, so that a reader should poll for writing, too."""
        return self._owing and self.holder is None

    @property
    def at_rest(self) -> bool:
        """Whether nothing is owed, and nothing went wrong."""
        return not (self._outbox or self._pongs or self._rest) and self.failed is None

    @property
    def left(self) -> bool:
        """Whether no thread is at the socket for writing."""
        return self.holder is None or self.failed is not None

    def post(self, opcode: int, payload: bytes) -> None:
        """Put a control frame into the outbox; `flush` sends it. Takes no lock."""
        (self._pongs if opcode == PONG else self._outbox).append(frame(opcode, payload, os.urandom(4)))
        del self._pongs[:-_PONGS]

    def flush(self, connection: Ends) -> None:
        """Send what can be sent of the outbox without waiting."""
        if not (self._outbox or self._pongs or self._rest):  # the usual case: this is asked after every read
            return
        aside = object()  # the role's holder that only empties the outbox

        def empty() -> bool:
            with self._state:
                if self.holder is not None or not connection.alive:
                    return False
                self.holder = aside
            return self._controls()

        while self._owing and self._holding(connection, aside, empty):
            pass

    def send(self, connection: Reads, lane: Lane, data: bytes, stall: float | None, deadline: Deadline) -> str:
        """Send one whole frame, after the control frames; how it went (`Sent`).

        ``STOPPED`` where the lane was stopped or the connection died, ``STALLED`` where a limit passed (``stall`` is the longest
        time without one byte accepted), ``FAILED`` where the system refused. After each of them the connection is of no use.
        """

        def push() -> str:
            if self._take(connection, lane, stall, deadline):
                return self._push(connection, lane, data, stall, deadline)
            return Sent.STOPPED if not connection.alive or lane.stopped else Sent.STALLED

        how = self._holding(connection, lane, push)
        self.flush(connection)
        return Sent.FAILED if how is None else how

    def _holding(self, connection: Ends, holder: object, act: Callable[[], T]) -> T | None:
        """What ``act`` gives, which takes the role; it is given back after it. None where the system refused."""
        try:
            done = act()
            with self._state:
                if self.holder is holder:
                    self.holder = None
                    self.wake_waiting()
            return done
        except OSError as error:
            self.failed = error.with_traceback(None)  # its frames know this writer: a cycle
            return None
        except BaseException:
            with self._state:
                if self.holder is holder:
                    connection.condemn()
                    self.holder = None
                self.wake_waiting()
            if not connection.alive:
                self._wire.wake()
            raise

    def _take(self, connection: Reads, lane: Lane, stall: float | None, deadline: Deadline) -> bool:
        limit: Deadline | None = None  # of the wait, where there has to be one
        while True:
            with self._state:
                if not connection.alive or lane.stopped:
                    return False
                if self.holder is None:
                    self.holder = lane
                    return True
                limit = limit or deadline.sooner(stall)
                if limit.passed:
                    return False
                turn = threading.Lock()
                turn.acquire()
                self._waiting += (turn,)
            turn.acquire(timeout=min(limit.remaining(), threading.TIMEOUT_MAX))

    def wake_waiting(self) -> None:
        """Let all who wait to write look again. Under the state lock."""
        while self._waiting:
            turn = self._waiting[-1]
            if turn.locked():  # not, where an interrupt came between these lines before
                turn.release()
            self._waiting = self._waiting[:-1]

    # With the role.

    def _controls(self) -> bool:
        """Send the control frames; whether all are out."""
        while True:
            if self._rest is None:
                frames = self._outbox or self._pongs
                if not frames:
                    return True
                self._rest = memoryview(frames.pop(0))
            sent = self._wire.send(self._rest)
            if sent == len(self._rest):
                if self._rest.obj[0] == _PING:  # type: ignore[index]
                    self.heart.left(time.monotonic())
                self._rest = None
            elif sent:
                self._rest = self._rest[sent:]
            else:
                return False

    def _push(self, connection: Reads, lane: Lane, data: bytes, stall: float | None, deadline: Deadline) -> str:
        view, begun = memoryview(data), False
        limit: Deadline | None = None  # of the wait for the next byte to be accepted
        while view:
            begun = begun or self._controls()  # before the frame: in the middle of it nothing may come between
            sent = self._wire.send(view[:_SLICE]) if begun else 0
            if sent:
                lane.sent += sent
                view, limit = view[sent:], None
                continue
            if not connection.alive or lane.stopped:
                return Sent.STOPPED
            limit = limit or deadline.sooner(stall)
            if limit.passed:
                return Sent.STALLED
            mask = select.POLLOUT | (select.POLLIN if connection.readable else 0)
            if self._poller is None:
                self._poller = Poller(self._wire)
            if self._poller.wait(mask, limit) & select.POLLIN:
                connection.drain(_SLICE * 16)
        return Sent.DONE
