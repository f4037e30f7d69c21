"""What the pool knows and decides: who has which connection, who waits for one, and why a session begins anew.

Rules kept here:

* Nothing here takes a lock or does I/O. Whatever has to be closed goes onto `Ledger.condemned`; the pool retires it later.
* A place is a lease or an idle connection. There are never more than ``max_size``; at the limit the one idle longest makes room.
* A lease is known by its identity. One that came back before, or whose session was released, has no say over what came after it.
* After every change `Ledger.serve` goes over the waiters in the order in which they came. So whoever still waits cannot be
  served, and a newcomer that can be served overtakes nobody.
* A claimed connection is in use although nobody has it yet: somebody compares its baseline, outside of the lock.
* What changes hands leaves one place before it enters the next: an interrupt in between may leave a connection to the garbage
  collector, and never gives it to two.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple, Protocol

from pixir_sync.config import PoolOptions
from pixir_sync.protocol.continuation import Baseline

__all__ = ["CANDIDATES", "RECONNECTED", "REMEMBERED", "Idle", "Ledger", "Lease", "PoolKey", "Pooled", "Waiter"]

CANDIDATES = 8  # the most connections whose baselines are compared for a call without a session
REMEMBERED = 4_096  # the most sessions of which it is known why their connection went
RECONNECTED = "websocket_reconnected"

_Name = tuple[str | None, str | None]  # a session: its scope and its own name


class PoolKey(NamedTuple):
    """What a connection is never shared over: the URL, the credential's identity, the headers, the caller's scope."""

    url: str
    identity: str
    headers: tuple[tuple[str, str], ...]
    scope: str | None

    def __repr__(self) -> str:
        address = self.url.partition("?")[0]  # a query may hold a key
        return f"<PoolKey {address} headers={len(self.headers)}{' scoped' if self.scope is not None else ''}>"


class Pooled(Protocol):
    """What the pool asks of a connection."""

    opened_at: float  # in seconds of the pool's clock
    baseline: Baseline | None  # what it holds for a continuation
    reset_reason: str | None  # why it holds nothing, or why it died

    @property
    def alive(self) -> bool:
        """Whether it can still be used, as far as is known. Read under the pool's lock: it must not take one."""

    def retire(self) -> None:
        """Close it. Called once, never under the pool's lock; it must not raise."""


@dataclass(slots=True, eq=False, repr=False)
class Lease:
    """A place in the pool that one call has.

    Attributes:
        thread: who consumes it (`threading.get_ident`): a call for the same session on that thread would wait for ever.
        since: when it was leased, by the pool's clock. reused: whether the connection stood before.
        connection: None where the holder has to open one, for `ConnectionPool.opened`.
        reset: why a session that was known begins anew, or None.
    """

    key: PoolKey
    session: str | None
    thread: int
    since: float
    connection: Pooled | None
    reused: bool
    reset: str | None

    def __repr__(self) -> str:
        state = "opening" if self.connection is None else "reused" if self.reused else "opened"
        return f"<Lease {state}{' session' if self.session is not None else ''} reset={self.reset}>"


@dataclass(slots=True, eq=False, repr=False)
class Idle:
    """A connection that nobody has, since when, and whether somebody thinks of taking it."""

    key: PoolKey
    session: str | None
    connection: Pooled
    since: float
    claimed: bool = False


@dataclass(eq=False, repr=False)
class Waiter:
    """A call that asks for a connection. It gets a lease, or claims to choose from; until then it is parked on its own lock."""

    key: PoolKey
    session: str | None
    thread: int
    items: list[dict[str, Any]] | None
    fresh: bool
    prefer: object | None
    lease: Lease | None = None
    claims: list[Idle] = field(default_factory=list)
    parked: threading.Lock = field(default_factory=threading.Lock)

    @property
    def served(self) -> bool:
        return self.lease is not None or bool(self.claims)

    def wake(self) -> None:
        """Let its thread look again. Waits for nothing, and may be called any number of times."""
        with contextlib.suppress(RuntimeError):  # it is awake already
            self.parked.release()


class Ledger:
    """The pool's books. Every method and attribute needs the pool's lock, except `condemned`, which is emptied without it.

    Attributes:
        leased, idle, loose, waiting: the oldest first. loose: the idle ones without a session, by scope. size: places taken.
        sessions: who has a session's connection. reasons: why the connection of a session went that has none now.
    """

    def __init__(self, options: PoolOptions, now: Callable[[], float]) -> None:
        self.options, self.now = options, now
        self.closed = False
        self.leased: dict[Lease, None] = {}
        self.idle: dict[Idle, None] = {}
        self.loose: dict[str | None, dict[Idle, None]] = {}
        self.sessions: dict[_Name, Lease | Idle] = {}
        self.reasons: dict[_Name, str] = {}
        self.waiting: dict[Waiter, None] = {}
        self.condemned: deque[Pooled] = deque()

    @property
    def size(self) -> int:
        return len(self.leased) + len(self.idle)

    def serve(self) -> None:
        """Give those who wait what they can have now, in their order. What an interrupt left half done is done here, too."""
        for waiter in list(self.waiting):
            if not waiter.served and self.size >= self.options.max_size and all(idle.claimed for idle in self.idle):
                return
            if waiter.served or self.grant(waiter):
                waiter.wake()
                self.waiting.pop(waiter, None)

    def grant(self, waiter: Waiter) -> bool:
        """Give a call its lease, or claims to choose from; false where it has to wait."""
        if waiter.session is None:
            return self._grant_loose(waiter)
        name = (waiter.key.scope, waiter.session)
        holder = self.sessions.get(name)
        if isinstance(holder, Lease):
            return False
        if holder is not None:
            if (unfit := self._unfit(holder, waiter)) is None:
                return self._lease(waiter, holder)
            self.condemn(holder, unfit)
        return self._make_room() and self._lease(waiter, None, self.reasons.pop(name, None))

    def _grant_loose(self, waiter: Waiter) -> bool:
        loose = () if waiter.fresh else self.loose.get(waiter.key.scope, ())
        fitting = [idle for idle in loose if not idle.claimed and idle.key == waiter.key]
        for idle in fitting:
            if idle.connection is waiter.prefer and not self.weed(idle):
                return self._lease(waiter, idle)
        claims = self._comparable(fitting, waiter.items)
        oldest = next((idle for idle in fitting if not self.weed(idle)), None)
        if oldest is None:
            return self._make_room() and self._lease(waiter, None)
        if not claims or claims == [oldest]:
            return self._lease(waiter, oldest)
        for idle in claims:
            idle.claimed = True
        waiter.claims = claims
        return True

    def _comparable(self, fitting: list[Idle], items: list[dict[str, Any]] | None) -> list[Idle]:
        """Of the last used those whose baseline, by its length, could begin this input; the longest first."""
        most = len(items or ())
        held = ((idle, idle.connection.baseline) for idle in (reversed(fitting) if most else ()))
        sized = ((idle, len(baseline.input)) for idle, baseline in held if baseline is not None)
        lengths = dict(islice(((idle, n) for idle, n in sized if 0 < n <= most and not self.weed(idle)), CANDIDATES))
        return sorted(lengths, key=lengths.__getitem__, reverse=True)

    def weed(self, idle: Idle) -> bool:
        """Whether an idle connection is gone, because it was no longer good: that is looked at here."""
        if (fault := self.fault(idle.connection, idle.since)) is not None:
            self.condemn(idle, fault)
        return idle not in self.idle

    def _unfit(self, idle: Idle, waiter: Waiter) -> str | None:
        """Why a call cannot have its session's idle connection."""
        if idle.key != waiter.key:
            return "headers_changed" if idle.key.url == waiter.key.url else "endpoint_changed"
        if waiter.fresh:
            return idle.connection.reset_reason or RECONNECTED
        return self.fault(idle.connection, idle.since)

    def fault(self, connection: Pooled, idle_since: float | None = None) -> str | None:
        """Why a connection is not worth keeping: it is dead, too old, or was idle for too long."""
        now, options = self.now(), self.options
        if connection.alive:
            if options.max_lifetime is not None and now - connection.opened_at >= options.max_lifetime:
                return connection.reset_reason or "max_lifetime"
            if idle_since is None or options.max_idle is None or now - idle_since < options.max_idle:
                return None
        return connection.reset_reason or RECONNECTED

    def _make_room(self) -> bool:
        """Whether there is a place for one more, if need be that of the connection idle for longest."""
        oldest = next((idle for idle in self.idle if not idle.claimed), None)
        if self.size >= self.options.max_size and oldest is not None:
            self.condemn(oldest, oldest.connection.reset_reason or RECONNECTED)
        return self.size < self.options.max_size

    def _lease(self, waiter: Waiter, idle: Idle | None, reset: str | None = None) -> bool:
        """Give a call this connection, or a place for one of its own."""
        if idle is not None:
            self._take_out(idle)
        connection = None if idle is None else idle.connection
        lease = Lease(waiter.key, waiter.session, waiter.thread, self.now(), connection, connection is not None, reset)
        waiter.lease = lease
        self.leased[lease] = None
        if waiter.session is not None:
            self.sessions[waiter.key.scope, waiter.session] = lease
        return True

    def _take_out(self, idle: Idle) -> None:
        self.idle.pop(idle, None)
        scope = idle.key.scope
        self.sessions.pop((scope, idle.session), None)
        if idle.session is None and scope in self.loose:
            self.loose[scope].pop(idle, None)
            if not self.loose[scope]:
                del self.loose[scope]

    def condemn(self, idle: Idle, reason: str) -> None:
        """Take an idle connection out, once, to be retired; its session's next lease says why."""
        if idle in self.idle:
            self._take_out(idle)
            self.condemned.append(idle.connection)
            self._remember((idle.key.scope, idle.session), reason)

    def shut(self) -> None:
        """No more leases: the idle go now, what is leased or claimed when it comes back, and those who wait look up."""
        self.closed = True
        for idle in [idle for idle in self.idle if not idle.claimed]:
            self.condemn(idle, RECONNECTED)
        for waiter in list(self.waiting):
            waiter.wake()
        self.waiting.clear()

    def _remember(self, name: _Name, reason: str | None) -> None:
        if name[1] is not None and reason is not None:
            self.reasons.pop(name, None)
            self.reasons[name] = reason
            while len(self.reasons) > REMEMBERED:
                del self.reasons[next(iter(self.reasons))]

    def settle(self, lease: Lease, *, keep: bool, reason: str = RECONNECTED) -> None:
        """Take a lease back, unless it has come back before: its connection becomes idle, or is condemned."""
        if lease not in self.leased:
            return
        del self.leased[lease]
        name, connection = (lease.key.scope, lease.session), lease.connection
        current = lease.session is None or self.sessions.get(name) is lease  # else it was released meanwhile
        if current:
            self.sessions.pop(name, None)
        if connection is None:
            why = lease.reset  # nothing was opened: the session still begins anew, for the same reason if for any
        else:
            why = self.fault(connection) if keep else connection.reset_reason or reason
            if why is None and current and not self.closed:
                self._put(Idle(lease.key, lease.session, connection, self.now()), name)
            else:
                self.condemned.append(connection)
        if current:
            self._remember(name, why)

    def _put(self, idle: Idle, name: _Name) -> None:
        self.idle[idle] = None
        if idle.session is None:
            self.loose.setdefault(idle.key.scope, {})[idle] = None
        else:
            self.sessions[name] = idle
