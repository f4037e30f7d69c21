"""`KeepaliveThread`: the one thread of a provider: it pings, answers, reads for absent consumers, and retires the old.

Rules kept here:

* It is a daemon, it has a name, and it knows its pool only weakly: a provider that is forgotten is collected, and the thread
  ends.
* It starts with the first connection and ends after the last.
* It holds a reading role only for reads that do not wait, a bounded amount at a time: a consumer that comes back waits
  microseconds.
* It is woken through a `SimpleQueue`, which a finaliser may use on any thread, with any lock held.
* One visit twice a second, more often where the keepalive's own times are short. Which idle connections have something to say
  is one poll over all of them.
"""

from __future__ import annotations

import contextlib
import select
import threading
import time
import weakref
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import Protocol, cast

from pixir_sync.config import Keepalive
from pixir_sync.forking import watch
from pixir_sync.protocol.errors import ConnectionLost
from pixir_sync.protocol.frames import PING
from pixir_sync.transports.ws.connection import Connection
from pixir_sync.transports.ws.death import Death, broken, retired, unanswered
from pixir_sync.transports.ws.pool import Pooled
from pixir_sync.transports.ws.wire import AT_MOST

__all__ = ["KeepaliveThread"]

_TICK = 0.5
_VISIT = 1 << 20  # bytes read for an absent consumer at a time
_SHORTEST_TICK = 0.01


class Tended(Protocol):
    """What the thread asks of the pool."""

    def tend(self) -> int: ...
    def idle(self) -> Sequence[Pooled]: ...
    def leased(self) -> Sequence[Pooled]: ...


class KeepaliveThread:
    """Starts and restarts the thread of one pool. Threads share it."""

    def __init__(self, pool: Tended, options: Keepalive) -> None:
        self._tick = max(_SHORTEST_TICK, min(_TICK, options.interval / 4, options.timeout / 4))
        self._timeout = options.timeout
        self._begin(pool)
        watch(self)

    def _begin(self, pool: Tended) -> None:
        self._bell: SimpleQueue[threading.Lock | None] = SimpleQueue()
        self._busy = True  # whether the last visit left anything to look after
        bell = self._bell
        self._pool = weakref.ref(pool, lambda _: bell.put(None))
        # Guards whether there is a thread.
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def after_fork(self) -> None:
        """Begin anew, in a child process: the thread is the parent's."""
        pool = self._pool()
        if pool is not None:
            self._begin(pool)

    @property
    def running(self) -> bool:
        thread = self._thread
        return thread is not None and thread.is_alive()

    def ensure(self) -> None:
        """There is a connection: the thread runs from now on."""
        with self._lock:
            if not self.running:
                self._thread = threading.Thread(target=self._run, name="pixir-keepalive", daemon=True)
                self._thread.start()

    def ring(self) -> None:
        """Let it look at once; it ends when the last connection is gone. Takes no lock."""
        self._bell.put(None)

    def look(self, timeout: float) -> None:
        """Let it look at once, and wait until it has, and for its end where nothing is left. Takes no lock that others may have.

        On the thread itself, in a finaliser, it does nothing: the next visit is near.
        """
        thread, until = self._thread, time.monotonic() + timeout
        if thread is None or thread is threading.current_thread():
            return
        parked = threading.Lock()
        parked.acquire()
        self._bell.put(parked)
        while thread.is_alive() and time.monotonic() < until:
            if parked.acquire(timeout=_SHORTEST_TICK):  # it might have ended without a look at the bell
                if not self._busy:
                    thread.join(timeout)
                return

    def _run(self) -> None:
        while True:
            asked: threading.Lock | None = None
            with contextlib.suppress(Empty):  # the usual case: time for a visit
                asked = self._bell.get(timeout=self._tick)
            self._busy = self._visit()
            if asked is not None:
                asked.release()
            if not self._busy and self._ends():
                return

    def _ends(self) -> bool:
        """Whether this thread ends: not if a connection was opened in the moment when it was about to."""
        me = threading.current_thread()
        with self._lock:
            self._thread = None
        if not self._visit():
            return True
        with self._lock:
            if self._thread is None:
                self._thread = me
        return self._thread is not me

    def _visit(self) -> bool:
        """One round; whether there is anything left to look after."""
        pool = self._pool()
        if pool is None:
            return False
        now = time.monotonic()
        _tend_idle(cast("list[Connection]", pool.idle()), now, self._timeout)
        for connection in cast("list[Connection]", pool.leased()):
            _tend(connection, now, self._timeout, readable=False)
        return pool.tend() > 0


def _tend(connection: Connection, now: float, timeout: float, *, readable: bool) -> None:
    try:
        visit(connection, now, timeout, readable=readable)
    except Exception as error:  # a fault of ours, told to whoever uses this connection; the others keep their pings
        fault = type(error).__name__
        connection.die(Death(lambda: ConnectionLost(f"the keepalive thread failed with {fault}", retryable=False)))


def visit(connection: Connection, now: float, timeout: float, *, readable: bool) -> None:
    """Read for an absent consumer, answer the server, ping, and notice a peer that does not answer. Never waits.

    ``readable``: there is something to read, and nobody leased the connection. ``timeout``: of the pings, in seconds.
    """
    inbox, heart, writer = connection.inbox, connection.heart, connection.writer
    lanes = list(connection.lanes.values())
    for lane in lanes:
        if now - lane.limit.at > AT_MOST and connection.waited_on(lane):
            connection.stop(lane)  # its wait was begun anew by signals, each time; who wakes finds the limit passed
    before = connection.seen
    # Where nothing was read since the last visit the consumer is away, or it waits and has the role, which stops us.
    if readable or (lanes and (inbox.received == before or any(lane.queue for lane in lanes))):
        connection.drain(_VISIT)  # a consumer that is behind takes what there is and does not read: a pong would stay unseen
    connection.seen = inbox.received  # after the reading: the next visit may be the one that finds the peer dead
    if connection.full or (inbox.unfinished and inbox.received != before):
        heart.put_off(now)
    payload = heart.due(now)
    if payload is not None:
        writer.post(PING, payload)
    writer.flush(connection)
    if heart.expired(now):
        connection.die(unanswered(timeout))
    elif writer.failed is not None:
        connection.die(broken(writer.failed))
    elif not connection.alive:
        connection.die(retired("websocket_failed"))  # the first reason stays: this is for the descriptor, if it waited for us


def quiet(connection: Connection, now: float) -> bool:
    """Whether there is nothing to do for a connection, if nothing has come."""
    return now < connection.heart.quiet_until and connection.death is None and connection.writer.at_rest


def _tend_idle(connections: list[Connection], now: float, timeout: float) -> None:
    """Read those that have something to say; let each ping when it is time. The others are not visited: a third of the cost."""
    poll = select.poll()
    by_number = {connection.fileno: connection for connection in connections}
    by_number.pop(-1, None)
    for number in by_number:
        poll.register(number, select.POLLIN)
    ready = {number for number, _ in poll.poll(0)}
    for number, connection in by_number.items():
        if number in ready or not quiet(connection, now):
            _tend(connection, now, timeout, readable=number in ready)
