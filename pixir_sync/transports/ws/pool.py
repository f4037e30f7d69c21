"""`ConnectionPool`: a bounded number of connections, each with one holder at a time.

Rules kept here:

* `_lock` is never held over I/O, `Pooled.retire` included, nor over the comparison of a prefix: `Ledger` decides under the lock,
  and what it decided is done after it.
* Nobody opens a connection before the one that made room for it is closed: there are never more than ``max_size`` sockets.
* A waiter is parked on a lock of its own, and gets a gift; one that was cancelled or interrupted puts it back for the next one.
* `abandon` and `close_soon` may run in the garbage collector or a signal handler, on a thread that holds `_lock`: they only
  leave word, which is heeded whenever somebody has the lock.
* No session's name and no header stands in an error, in the facts or in a repr.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from pixir_sync.cancellation import CancelToken, cancelled
from pixir_sync.config import PoolOptions
from pixir_sync.deadline import Deadline
from pixir_sync.forking import watch
from pixir_sync.protocol.continuation import Baseline, begins_with
from pixir_sync.protocol.errors import Cancelled, PixirError, PoolTimeout, ProviderClosed, SessionBusy
from pixir_sync.transports.ws.pool_facts import facts, overdue
from pixir_sync.transports.ws.pool_state import CANDIDATES, RECONNECTED, Idle, Lease, Ledger, Pooled, PoolKey, Waiter

__all__ = ["ConnectionPool", "Lease", "PoolKey", "Pooled"]


class ConnectionPool:
    """Leases connections to calls. Threads share it.

    Only `lease` waits. Every lease must come back, by `give_back` or `abandon`. Errors have the phase ``pool``.
    """

    def __init__(self, options: PoolOptions, now: Callable[[], float] = time.monotonic) -> None:
        self._options, self._now, self._closing = options, now, False
        self.after_fork()
        watch(self)

    def after_fork(self) -> None:
        """Begin anew, in a child process: what was leased or idle is the parent's. A pool that was closed stays closed."""
        # Guards the ledger: who has which connection, and who waits for one.
        self._lock = threading.Lock()
        self._ledger = Ledger(self._options, self._now)
        self._ledger.closed = self._closing
        # Guards that what is condemned is closed, one after the other. Held over calls that do not wait.
        self._retiring = threading.Lock()
        self._abandoned: SimpleQueue[tuple[Lease, str | None]] = SimpleQueue()

    def lease(
        self,
        key: PoolKey,
        session: str | None,
        *,
        items: list[dict[str, Any]] | None,
        deadline: Deadline,
        cancel: CancelToken,
        fresh: bool = False,
        prefer: object | None = None,
    ) -> Lease:
        """A connection for one call, or a place for one that the caller then opens (see `opened`).

        A session gets its own. Without one: of the idle ones without a session, the one that holds the longest beginning of
        ``items``, else the one used longest ago; else a place.

        Args:
            items: the call's input, for choosing; None where nothing is to be continued.
            fresh: never an idle one. prefer: this connection, where it is idle and fits.

        Raises:
            PoolTimeout: neither turn nor room before the deadline; ``details`` has the facts of `snapshot`.
            SessionBusy: this very thread has the session's lease.
            ProviderClosed, Cancelled: the pool was closed, or the call cancelled, before or during the wait.
        """
        waiter = Waiter(key, session, threading.get_ident(), items, fresh, prefer)
        try:
            if cancel.cancelled:
                raise _ended(cancel)
            if not self._ask(waiter):
                self._park(waiter, deadline, cancel)
            if waiter.claims:
                self._choose(waiter)
            assert waiter.lease is not None
            self._retire(wait=waiter.lease.connection is None)
            return waiter.lease
        except BaseException:
            self._leave(waiter)
            raise

    def _ask(self, waiter: Waiter) -> bool:
        """Serve a call at once, or put it behind those who wait."""
        with self._lock:
            self._catch_up()
            if self._ledger.closed:
                raise _ended()
            holder = self._ledger.sessions.get((waiter.key.scope, waiter.session))
            if isinstance(holder, Lease) and holder.thread == waiter.thread:
                raise SessionBusy("this thread is in the middle of another call of the same session", phase="pool")
            if self._ledger.grant(waiter):
                return True
            waiter.parked.acquire()
            self._ledger.waiting[waiter] = None
            return False

    def _park(self, waiter: Waiter, deadline: Deadline, cancel: CancelToken) -> None:
        """Wait until the call is served."""
        self._retire()  # before the wait, which may be long
        woken = True
        with cancel.waking(waiter.wake):
            while woken and not (waiter.served or self._ledger.closed or cancel.cancelled):
                seconds = deadline.timeout()
                woken = waiter.parked.acquire(timeout=-1 if seconds is None else min(seconds, threading.TIMEOUT_MAX))
        with self._lock:
            self._catch_up()  # a lease that was abandoned may be what this one waits for
            self._ledger.waiting.pop(waiter, None)
        if cancel.cancelled or self._ledger.closed:
            raise _ended(cancel)
        if not waiter.served:
            raise PoolTimeout("no connection became free in time", details=self.snapshot(), phase="pool")

    def _choose(self, waiter: Waiter) -> None:
        """Take the best of the claimed connections; the others are idle again."""
        claimed, items = [idle.connection for idle in waiter.claims], waiter.items or []
        best = next((c for c in claimed if c.baseline is not None and begins_with(items, c.baseline)), None)
        with self._lock:
            self._unclaim(waiter)
            if self._ledger.closed:
                raise _ended()
            waiter.items, waiter.prefer = None, best
            self._ledger.grant(waiter)
            self._catch_up()

    def _leave(self, waiter: Waiter) -> None:
        """Put back what a call has got and does not want any more."""
        with self._lock:
            self._ledger.waiting.pop(waiter, None)
            self._unclaim(waiter)
            if waiter.lease is not None:
                self._ledger.settle(waiter.lease, keep=True)
            self._catch_up()
        self._retire()

    def _unclaim(self, waiter: Waiter) -> None:
        """Needs the lock. What was claimed is idle again."""
        assert self._lock.locked()
        claims, waiter.claims = waiter.claims, []
        for idle in claims:
            idle.claimed = False
            if self._ledger.closed:
                self._ledger.condemn(idle, RECONNECTED)

    def _catch_up(self) -> None:
        """Needs the lock. Close, if that could not be done at once; take back what was abandoned, and serve those who wait."""
        assert self._lock.locked()
        if self._closing and not self._ledger.closed:
            self._ledger.shut()
        while not self._abandoned.empty():
            lease, reason = self._abandoned.get_nowait()
            self._ledger.settle(lease, keep=reason is None, reason=reason or RECONNECTED)
        self._ledger.serve()

    def _retire(self, *, wait: bool = False) -> None:
        """Close what is condemned, without the lock. ``wait``: for what others are closing, too."""
        condemned = self._ledger.condemned
        if condemned or wait:
            with self._retiring:
                while condemned:
                    condemned.popleft().retire()

    def opened(self, lease: Lease, connection: Pooled) -> None:
        """Put the connection that a lease's holder opened into the lease's place.

        Where there is no such place any more the connection is retired. Raises `ProviderClosed` if the pool was closed meanwhile,
        `Cancelled` if the lease had come back.
        """
        with self._lock:
            closed = self._ledger.closed
            placed = lease in self._ledger.leased and not closed
            if not placed:
                self._ledger.settle(lease, keep=False)
                self._ledger.condemned.append(connection)
            elif lease.connection is not connection:
                if lease.connection is not None:
                    self._ledger.condemned.append(lease.connection)  # it was replaced
                lease.connection = connection
        self._retire()
        if not placed:
            raise _ended() if closed else Cancelled("the call was given up while its connection was being opened", phase="pool")

    def give_back(self, lease: Lease, *, keep: bool) -> None:
        """End a lease, once. Its connection becomes idle, or is retired: if not ``keep``, or if it is dead or too old."""
        with self._lock:
            self._catch_up()
            self._ledger.settle(lease, keep=keep)
            self._catch_up()
        self._retire()

    def abandon(self, lease: Lease, reason: str | None) -> None:
        """End a lease from a finaliser: takes no lock. Its connection goes, with why its session begins anew; None keeps it."""
        self._abandoned.put((lease, reason))

    def peek(self, session: str | None, scope: str | None) -> list[Baseline]:
        """What a call may find to continue, the last used first. Takes no lock: the answer may be stale."""
        ledger = self._ledger
        loose = reversed(list(ledger.loose.get(scope, ()))) if session is None else ()
        connections = [h.connection for h in (*loose, ledger.sessions.get((scope, session))) if h is not None]
        return [held for c in connections if c is not None and (held := c.baseline) is not None][:CANDIDATES]

    def has_session(self, session: str, scope: str | None) -> bool:
        """Whether the session has a connection: in use, being opened, or idle and alive."""
        with self._lock:
            self._catch_up()
            holder = self._ledger.sessions.get((scope, session))
            has = holder is not None and (isinstance(holder, Lease) or holder.connection.alive)
        self._retire()
        return has

    def release(self, session: str, scope: str | None) -> None:
        """Let go of a session: its connection is retired, now or when it comes back, and no reason is remembered."""
        with self._lock:
            self._catch_up()
            holder = self._ledger.sessions.pop((scope, session), None)
            if isinstance(holder, Idle):
                self._ledger.condemn(holder, RECONNECTED)
            self._ledger.reasons.pop((scope, session), None)
            self._ledger.serve()  # those who waited for this session's turn open a connection of their own
        self._retire()

    def idle(self) -> list[Pooled]:
        """The connections that nobody has."""
        with self._lock:
            return [idle.connection for idle in self._ledger.idle]

    def leased(self) -> list[Pooled]:
        """The connections that somebody has."""
        with self._lock:
            return [lease.connection for lease in self._ledger.leased if lease.connection is not None]

    @property
    def live(self) -> int:
        """How many connections there are."""
        with self._lock:
            return len(self._ledger.idle) + sum(lease.connection is not None for lease in self._ledger.leased)

    def tend(self) -> int:
        """Retire the idle connections that are dead, too old, or were idle for too long, and take back what was abandoned.

        Called about twice a second. Returns how many places are still taken.
        """
        with self._lock:
            self._catch_up()
            for idle in overdue(self._ledger):
                self._ledger.weed(idle)
            self._ledger.serve()
            left = self._ledger.size
        self._retire()
        return left

    def leased_here(self) -> bool:
        """Whether this thread is in the middle of a call, perhaps with a lock in its hands. Takes none."""
        return any(lease.thread == threading.get_ident() for lease in list(self._ledger.leased))

    def close_soon(self) -> None:
        """Close with the next call of anything here, such as the keepalive thread's `tend`. Takes no lock."""
        self._closing = True

    def close(self) -> None:
        """Retire the idle connections, and let no more leases out. Idempotent.

        Those who wait get `ProviderClosed`. What is leased is retired when it comes back.
        """
        self._closing = True
        self.tend()  # the streams that were cancelled a moment ago have left their leases there

    def snapshot(self) -> dict[str, Any]:
        """Who holds what and for how long, the longest first, as plain JSON; sessions by a digest."""
        with self._lock:
            self._catch_up()
            found = facts(self._ledger)
        self._retire()
        return found

    def __repr__(self) -> str:
        ledger = self._ledger
        return f"<ConnectionPool {'closed ' if ledger.closed else ''}leased={len(ledger.leased)} idle={len(ledger.idle)}>"


def _ended(cancel: CancelToken | None = None) -> PixirError:
    """The error of a call that was cancelled, or whose pool is closed."""
    error = ProviderClosed("the provider is closed") if cancel is None or not cancel.cancelled else cancelled(cancel)
    error.phase = "pool"
    return error
