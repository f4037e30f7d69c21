"""The pool of connections: who gets which one, who waits, and what becomes of it (parts of rows B9, B10, B11, B14, B16)."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from pixir_sync import Cancelled, CancelToken, PoolOptions, PoolTimeout, ProviderClosed, SessionBusy
from pixir_sync.deadline import Deadline
from pixir_sync.protocol.continuation import Baseline
from pixir_sync.transports.ws import pool as pool_module
from pixir_sync.transports.ws import pool_state
from pixir_sync.transports.ws.pool import ConnectionPool, Lease, Pooled, PoolKey
from tests.transports.http.helpers import in_thread, took, wait_until

DEADLINE = 5.0
KEY = PoolKey("wss://host/v1/responses", "salted", (("x-team", "hidden-value"),), None)


class Connection:
    """A connection without a socket. It is retired once, and never while somebody holds the pool's lock for it."""

    __slots__ = ("alive", "baseline", "opened_at", "pool", "reset_reason", "retired")

    def __init__(self, pool: ConnectionPool, baseline: Baseline | None = None) -> None:
        self.pool = pool
        self.alive = True
        self.opened_at = pool._ledger.now()
        self.baseline = baseline
        self.reset_reason: str | None = None
        self.retired = 0

    def retire(self) -> None:
        assert self.pool._lock.acquire(timeout=DEADLINE), "retired under the pool's lock"
        self.pool._lock.release()
        self.alive = False
        self.retired += 1
        assert self.retired == 1


class Bench:
    """A pool with a clock of its own, whose places are opened as they are leased."""

    def __init__(self, size: int = 128, **options: Any) -> None:
        self.time = 1000.0
        self.pool = ConnectionPool(PoolOptions(max_size=size, **options), lambda: self.time)
        self.made: list[Connection] = []

    def ask(
        self,
        session: str | None = None,
        *,
        key: PoolKey = KEY,
        items: list[dict[str, Any]] | None = None,
        seconds: float | None = DEADLINE,
        cancel: CancelToken | None = None,
        fresh: bool = False,
        prefer: object = None,
    ) -> Lease:
        """A lease, which may be a place only."""
        cancel = cancel or CancelToken()
        deadline = Deadline(seconds)
        return self.pool.lease(key, session, items=items, deadline=deadline, cancel=cancel, fresh=fresh, prefer=prefer)

    def take(self, session: str | None = None, **how: Any) -> Lease:
        """A lease with a connection."""
        lease = self.ask(session, **how)
        if lease.connection is None:
            self.made.append(Connection(self.pool))
            self.pool.opened(lease, self.made[-1])
        return lease

    def put(self, session: str | None = None, *, items: list[dict[str, Any]] | None = None, **how: Any) -> Pooled:
        """A new idle connection, that holds these items."""
        lease = self.take(session, fresh=True, **how)
        assert lease.connection is not None
        lease.connection.baseline = None if items is None else baseline(items)
        self.pool.give_back(lease, keep=True)
        return lease.connection

    def waiting(self, session: str | None = None, *, opens: bool = True, seconds: float | None = 60, **how: Any) -> Future[Lease]:
        """A thread that asks, and has begun to wait: for longer than any test does."""
        me: list[int] = []

        def work() -> Lease:
            me.append(threading.get_ident())
            return (self.take if opens else self.ask)(session, seconds=seconds, **how)

        future = in_thread(work)
        wait_until(lambda: future.done() or any([w.thread] == me for w in list(self.pool._ledger.waiting)), "the thread to wait")
        return future

    def counts(self) -> tuple[int, int, int]:
        """Leased, idle, waiting."""
        facts = self.pool.snapshot()
        return facts["leased"], facts["idle"], facts["waiting"]


def conversation(count: int, name: str = "q") -> list[dict[str, Any]]:
    return [{"type": "message", "role": "user", "content": f"{name} {number}"} for number in range(count)]


def baseline(items: list[dict[str, Any]]) -> Baseline:
    return Baseline(f"resp_{len(items)}", items, [], {})


def retired(*connections: object) -> list[int]:
    return [c.retired for c in connections if isinstance(c, Connection)]


# One call after the other


def test_a_place_becomes_a_connection_that_is_used_again() -> None:
    """The first lease is a place to open a connection for; the session's next one has that connection."""
    bench = Bench()
    first = bench.ask("s")
    assert (first.connection, first.reused, first.reset, first.thread) == (None, False, None, threading.get_ident())
    connection = Connection(bench.pool)
    bench.pool.opened(first, connection)
    bench.pool.give_back(first, keep=True)
    second = bench.ask("s")
    assert (second.connection, second.reused, second.reset) == (connection, True, None)
    assert connection.retired == 0


def test_what_is_not_kept_is_retired() -> None:
    """A connection that its holder does not want, or that died, never comes again; a place without one is just free."""
    bench = Bench(1)
    for keep, alive in ((False, True), (True, False)):
        lease = bench.take()
        bench.made[-1].alive = alive
        bench.pool.give_back(lease, keep=keep)
    bench.pool.give_back(bench.ask(), keep=True)
    assert retired(*bench.made) == [1, 1]
    assert bench.counts() == (0, 0, 0)


def test_every_session_and_scope_has_its_own() -> None:
    """Named sessions, sessions of that name in another scope, and calls without a name never meet."""
    bench = Bench()
    scoped = PoolKey(KEY.url, KEY.identity, KEY.headers, "tenant")
    for session in ("a", "b", None):
        for key in (KEY, scoped):
            bench.put(session, key=key)
    assert len({id(c) for c in bench.pool.idle()}) == 6
    again = [bench.ask(session, key=key).connection for session in ("a", "b", None) for key in (KEY, scoped)]
    assert again == bench.made


@pytest.mark.parametrize(
    ("changed", "reset"),
    [
        (PoolKey("wss://other/v1/responses", KEY.identity, KEY.headers, None), "endpoint_changed"),
        (PoolKey(KEY.url, "another", KEY.headers, None), "headers_changed"),
        (PoolKey(KEY.url, KEY.identity, (), None), "headers_changed"),
    ],
)
def test_a_session_that_goes_elsewhere_begins_anew(changed: PoolKey, reset: str) -> None:
    """Its connection is for another endpoint, credential or headers: it is retired, and the lease says why."""
    bench = Bench()
    old = bench.put("s")
    lease = bench.ask("s", key=changed)
    assert (lease.connection, lease.reset, retired(old)) == (None, reset, [1])


def test_a_failed_opening_does_not_lose_the_reason() -> None:
    """The session has not begun anew until a connection was opened for it: the next lease says why again."""
    bench = Bench()
    lease = bench.take("s")
    bench.pool.abandon(lease, "caller_cancelled")
    for _ in range(2):
        lease = bench.ask("s")
        assert lease.reset == "caller_cancelled"
        bench.pool.give_back(lease, keep=False)
    bench.pool.give_back(bench.take("s"), keep=True)
    assert bench.ask("s").reset is None


def test_the_connection_knows_best_why_it_went() -> None:
    """Its own reason goes before what the pool, or the one who abandoned it, would say."""
    bench = Bench(max_idle=None)
    connection = bench.put("t")
    ways: list[Callable[[Lease], None]] = [
        lambda lease: bench.pool.give_back(lease, keep=False),
        lambda lease: bench.pool.abandon(lease, "caller_cancelled"),
    ]
    for end in ways:
        lease = bench.take("s", fresh=True)
        assert lease.connection is not None
        lease.connection.reset_reason = "keepalive_failed"
        end(lease)
        assert bench.take("s").reset == "keepalive_failed"
        bench.pool.release("s", None)
    bench.time += PoolOptions().max_lifetime or 0
    connection.reset_reason = "response_failed"
    assert bench.ask("t").reset == "response_failed"


def test_reasons_are_kept_for_a_bounded_number_of_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that makes up ever new names does not fill the memory; the oldest reason goes."""
    monkeypatch.setattr(pool_state, "REMEMBERED", 3)
    bench = Bench()
    for session in "abcd":
        bench.pool.give_back(bench.take(session), keep=False)
    assert [bench.ask(session).reset for session in "abcd"] == [None, *["websocket_reconnected"] * 3]


def test_a_fresh_one_is_never_an_idle_one() -> None:
    """A call that asks for a fresh connection gets a place; a session's old connection goes, another's stays."""
    bench = Bench()
    named, loose = bench.put("s"), bench.put()
    lease = bench.ask("s", fresh=True)
    assert (lease.connection, lease.reset) == (None, "websocket_reconnected")
    assert bench.ask(fresh=True).connection is None
    assert retired(named, loose) == [1, 0]


# Without a session


def test_the_longest_match_is_taken() -> None:
    """Of the idle connections without a session it is the one that holds most of the input; the others stay."""
    bench = Bench()
    held = [bench.put(items=conversation(count)) for count in (2, 6, 4, 9)]
    held.append(bench.put(items=conversation(5, "other")))
    lease = bench.ask(items=conversation(8))
    assert lease.connection is held[1] and lease.reused
    assert bench.counts() == (1, 4, 0)


def test_without_a_match_it_is_the_one_used_longest_ago() -> None:
    """Also where there is nothing to compare, and then a new one."""
    bench = Bench()
    held = [bench.put(items=items) for items in (conversation(3, "a"), None, conversation(3, "b"))]
    assert bench.ask(items=conversation(5)).connection is held[0]
    assert bench.ask(items=None).connection is held[1]
    assert bench.ask(items=conversation(1)).connection is held[2]
    assert bench.ask(items=conversation(5)).connection is None


def test_only_a_few_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last used eight that may match; an older one is not found, and the order of use stays as it was."""
    bench = Bench()
    compared: list[Baseline] = []

    def differs(items: object, base: Baseline) -> int:
        compared.append(base)
        return 0

    held = [bench.put(items=conversation(2)), *(bench.put(items=conversation(2, f"other {n}")) for n in range(10))]
    monkeypatch.setattr(pool_module, "begins_with", differs)
    assert bench.ask(items=conversation(4)).connection is held[0]
    assert compared == [c.baseline for c in reversed(held[3:])]
    assert bench.pool.idle() == held[1:]


def test_keys_never_meet() -> None:
    """Over another endpoint, identity, header or scope nothing is shared, however well the input matches."""
    bench = Bench()
    bench.put(items=conversation(2))
    for key in (
        PoolKey("wss://other", KEY.identity, KEY.headers, None), PoolKey(KEY.url, "another", KEY.headers, None),
        PoolKey(KEY.url, KEY.identity, (), None), PoolKey(KEY.url, KEY.identity, KEY.headers, "tenant"),
    ):  # fmt: skip
        assert bench.ask(key=key, items=conversation(4)).connection is None
    same = PoolKey(KEY.url, KEY.identity, KEY.headers, None)
    assert bench.ask(key=same, items=conversation(4)).connection is bench.made[0]


def test_the_preferred_one_is_taken_where_it_is_idle_and_fits() -> None:
    """Whatever matches; in use or under another key it is not to be had."""
    bench = Bench()
    held = [bench.put(items=conversation(count)) for count in (3, 2)]
    lease = bench.ask(items=conversation(4), prefer=held[1])
    assert lease.connection is held[1]
    assert bench.ask(items=conversation(4), prefer=held[1]).connection is held[0]
    bench.pool.give_back(lease, keep=True)
    other = PoolKey("wss://other", KEY.identity, KEY.headers, None)
    assert bench.ask(key=other, prefer=held[1]).connection is None


@contextlib.contextmanager
def comparing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[Future[Lease]]:
    """A call that has claimed both idle connections; it goes on comparing to the end of the block, and then takes the second."""
    held, started, go_on = [bench.put(items=conversation(n)) for n in (2, 1)], threading.Event(), threading.Event()

    def compare(items: object, base: Baseline) -> int:
        started.set()
        assert go_on.wait(DEADLINE)
        return int(base is held[1].baseline)

    monkeypatch.setattr(pool_module, "begins_with", compare)
    call = in_thread(lambda: bench.ask(items=conversation(4)))
    assert started.wait(DEADLINE)
    try:
        yield call
    finally:
        go_on.set()


def test_a_claim_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """While one call compares, another opens a connection; where there is no room it waits, and gets what the first left."""
    bench = Bench(3)
    with comparing(bench, monkeypatch) as first:
        assert bench.ask(seconds=0).connection is None
        third = bench.waiting()
        assert bench.counts() == (1, 2, 1) and bench.pool.live == 2
        assert bench.pool.tend() == 3
    assert first.result(DEADLINE).connection is bench.made[1]
    assert third.result(DEADLINE).connection is bench.made[0]


def test_a_close_while_comparing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was claimed is retired with the rest, and the call ends as closed."""
    bench = Bench()
    with comparing(bench, monkeypatch) as call:
        bench.pool.close()
        assert retired(*bench.made) == [0, 0]
    with pytest.raises(ProviderClosed):
        call.result(DEADLINE)
    assert retired(*bench.made) == [1, 1] and bench.counts() == (0, 0, 0)


def test_comparing_happens_outside_of_the_lock_and_may_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever comes out of it, even an interrupt, the claims are given back in their order."""
    bench = Bench()
    held = [bench.put(items=conversation(n)) for n in (1, 2, 3)]

    def interrupted(items: object, base: object) -> int:
        assert not bench.pool._lock.locked()
        raise KeyboardInterrupt

    monkeypatch.setattr(pool_module, "begins_with", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench.ask(items=conversation(4))
    assert bench.pool.idle() == held and bench.counts() == (0, 3, 0)
    assert bench.ask().connection is held[0]


def test_the_best_may_die_while_it_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is retired and the call gets another one."""
    bench = Bench()
    with comparing(bench, monkeypatch) as call:
        bench.made[1].alive = False
    assert call.result(DEADLINE).connection is bench.made[0]
    assert retired(*bench.made) == [0, 1]


# Room and time


def test_the_one_idle_longest_makes_room() -> None:
    """At the limit it goes, whatever its key; its session begins anew."""
    bench = Bench(2)
    first, second = bench.put("a", key=PoolKey("wss://other", "", (), None)), bench.put("b")
    assert bench.ask("c").connection is None
    assert retired(first, second) == [1, 0]
    bench.pool.give_back(bench.ask("b"), keep=True)
    assert bench.ask("a").reset == "websocket_reconnected"
    assert retired(first, second) == [1, 1]


def test_no_room_in_time() -> None:
    """PoolTimeout tells who holds what for how long, and no name."""
    bench = Bench(2)
    bench.take("secret session"), bench.ask()
    bench.time += 7
    with took(0.1, 2), pytest.raises(PoolTimeout) as caught:
        bench.ask("another secret", seconds=0.1)
    error = caught.value
    assert (error.phase, error.retryable, error.kind) == ("pool", True, "pool_timeout")
    facts = dict(error.details)
    holders = facts.pop("holders")
    assert facts == {"size": 2, "max_size": 2, "idle": 0, "leased": 2, "waiting": 0}
    assert [(h["state"], h["seconds"], h["thread"]) for h in holders] == [
        ("leased", 7, threading.get_ident()), ("opening", 7, threading.get_ident())]  # fmt: skip
    assert holders[1]["session"] is None and len(holders[0]["session"]) == 12
    assert "secret" not in f"{error!r} {error} {error.to_dict()} {bench.pool!r}"


def test_waiters_are_served_in_order() -> None:
    """Those who wait for room get it in the order in which they came, from whatever becomes free."""
    bench = Bench(2)
    held = [bench.take("a"), bench.take("b")]
    queue = [bench.waiting(name) for name in "cdefg"]
    for turn, call in enumerate(queue):
        assert [c.done() for c in queue] == [True] * turn + [False] * (5 - turn)
        bench.pool.give_back(held.pop(0), keep=turn % 2 == 0)
        held.append(call.result(DEADLINE))
    assert bench.counts() == (2, 0, 0)
    assert sum(retired(*bench.made)) == 5


def test_a_session_does_not_keep_its_place_from_those_who_came_first() -> None:
    """Who waits longer for room goes before the next call of the session that gave a connection back."""
    bench = Bench(1)
    lease = bench.take("a")
    other, next_of_a = bench.waiting("b"), bench.waiting("a")
    bench.pool.give_back(lease, keep=True)
    second = other.result(DEADLINE)
    assert not next_of_a.done()
    bench.pool.give_back(second, keep=True)
    assert next_of_a.result(DEADLINE).reset == "websocket_reconnected"


@pytest.mark.parametrize("where", ["lease", "give_back", "tend"])
@pytest.mark.parametrize(("option", "reset"), [("max_idle", "websocket_reconnected"), ("max_lifetime", "max_lifetime")])
def test_the_idle_and_the_old_go(where: str, option: str, reset: str) -> None:
    """Both limits hold for a new lease and for the keepalive thread's visit; only age counts for what is in use."""
    bench = Bench(**{option: 50})
    lease = bench.take("s")
    bench.time += 49
    bench.pool.give_back(lease, keep=True)
    lease = bench.ask("s")
    assert lease.reused
    bench.pool.give_back(lease, keep=True)
    if where == "give_back":
        lease = bench.ask("s")
        bench.time += 50
        bench.pool.give_back(lease, keep=True)
        assert retired(*bench.made) == [int(option == "max_lifetime")]
        bench.time += 50
    else:
        bench.time += 50
    if where == "tend":
        assert bench.pool.tend() == 0 and retired(*bench.made) == [1]
    lease = bench.ask("s")
    assert (lease.connection, lease.reset, retired(*bench.made)) == (None, reset, [1])


def test_the_dead_go() -> None:
    """An idle connection that died is not leased, with a session or without one, and not kept for long."""
    bench = Bench()
    named, loose, third = bench.put("s"), bench.put(items=conversation(1)), bench.put()
    for connection in bench.made[:2]:
        connection.alive, connection.reset_reason = False, "keepalive_failed"
    assert not bench.pool.has_session("s", None)
    assert bench.ask(items=conversation(2)).connection is third
    assert bench.ask("s").reset == "keepalive_failed"
    bench.put("t")
    bench.made[-1].alive = False
    assert bench.pool.tend() == 2
    assert retired(named, loose, third, bench.made[-1]) == [1, 1, 0, 1]


# More than one thread


def test_a_session_is_used_by_one_thread_after_the_other() -> None:
    """Eight threads on one session: never two at once, all on one connection, the room for more notwithstanding."""
    bench, inside, seen = Bench(), [0], set()

    def work() -> None:
        for _ in range(20):
            lease = bench.take("s")
            inside[0] += 1
            assert inside[0] == 1
            seen.add(lease.connection)
            inside[0] -= 1
            bench.pool.give_back(lease, keep=True)

    for call in [in_thread(work) for _ in range(8)]:
        call.result(DEADLINE)
    assert seen == set(bench.made) and len(seen) == 1


def test_the_same_thread_is_told_at_once() -> None:
    """To wait for the stream that it is itself in the middle of would never end; one that was handed on is no such stream."""
    bench = Bench()
    lease = bench.take("s")
    with took(0, 1), pytest.raises(SessionBusy) as caught:
        bench.ask("s", seconds=None)
    assert (caught.value.phase, caught.value.retryable) == ("pool", False)
    lease.thread = 0
    with pytest.raises(PoolTimeout) as late:
        bench.ask("s", seconds=0.01)
    assert not isinstance(late.value, SessionBusy)
    assert bench.ask("t").connection is None
    bench.pool.give_back(lease, keep=True)
    assert bench.ask("s").connection is lease.connection


@pytest.mark.parametrize("session", ["s", "other"])
def test_a_cancel_ends_the_wait(session: str) -> None:
    """For its turn or for room: the call ends, and takes no later gift."""
    bench, token = Bench(1), CancelToken()
    lease = bench.take("s")
    call = bench.waiting(session, cancel=token, seconds=None)
    with took(0, 1):
        token.cancel()
        with pytest.raises(Cancelled) as caught:
            call.result(DEADLINE)
    assert caught.value.phase == "pool"
    bench.pool.give_back(lease, keep=True)
    assert bench.counts() == (0, 1, 0)
    with pytest.raises(Cancelled):
        bench.ask("s", cancel=token)
    assert bench.counts() == (0, 1, 0)


@pytest.mark.parametrize("keep", [True, False])
def test_a_gift_that_comes_too_late_goes_to_the_next(keep: bool) -> None:
    """One that was cancelled before it saw its gift puts it back."""
    bench, token = Bench(1), CancelToken()
    lease = bench.take("s")
    refusing, following = bench.waiting("s", cancel=token), bench.waiting("s")
    token.reason = "closed"  # without a wake-up, so that the gift comes before the waiter knows
    bench.pool.give_back(lease, keep=keep)
    with pytest.raises(ProviderClosed):
        refusing.result(DEADLINE)
    got = following.result(DEADLINE)
    assert got.reused is keep
    assert got.reset == (None if keep else "websocket_reconnected")
    assert bench.counts() == (1, 0, 0)


def test_one_that_timed_out_gets_no_gift() -> None:
    """What becomes free afterwards is idle, and whoever comes then has it."""
    bench = Bench(1)
    lease = bench.take("s")
    call = bench.waiting("s", seconds=0.05)
    with pytest.raises(PoolTimeout):
        call.result(DEADLINE)
    bench.pool.give_back(lease, keep=True)
    assert bench.counts() == (0, 1, 0)


def test_an_interrupt_ends_the_wait() -> None:
    """Ctrl-C in the wait leaves neither a waiter nor a lease behind."""

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    bench = Bench(1)
    lease = bench.take()
    before = signal.signal(signal.SIGUSR1, interrupt)
    main = threading.main_thread().ident
    assert main is not None

    def kill() -> None:
        wait_until(lambda: bool(bench.pool._ledger.waiting), "the wait")
        signal.pthread_kill(main, signal.SIGUSR1)

    try:
        call = in_thread(kill)
        with pytest.raises(KeyboardInterrupt):
            bench.ask()
        call.result(DEADLINE)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert bench.counts() == (1, 0, 0)
    bench.pool.give_back(lease, keep=False)
    assert bench.counts() == (0, 0, 0)


def test_an_interrupt_while_another_is_closed_gives_the_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection that had to make room is closed on the thread that asks; what goes wrong there costs no place."""
    bench = Bench(1)
    bench.put("a")

    def interrupted(self: Connection) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Connection, "retire", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench.ask("b")
    assert bench.counts() == (0, 0, 0)


def test_many_threads_over_few_places() -> None:
    """64 threads, 8 places: all are served, and there are never more than 8 connections."""
    bench, start = Bench(8), threading.Barrier(64)

    def work(number: int) -> int:
        start.wait(DEADLINE)
        for turn in range(10):
            lease = bench.take(f"s{number % 24}" if number % 3 else None, items=conversation(2), seconds=30)
            assert bench.pool.live <= 8
            assert lease.connection is not None
            lease.connection.baseline = baseline(conversation(1 + turn % 3))
            bench.pool.give_back(lease, keep=(number + turn) % 5 > 0)
        return 1

    assert sum(call.result(30) for call in [in_thread(lambda n=n: work(n)) for n in range(64)]) == 64  # type: ignore[misc]
    leased, idle, waiting = bench.counts()
    assert (leased, waiting) == (0, 0) and idle <= 8
    assert set(retired(*bench.made)) <= {0, 1} and retired(*bench.made).count(0) == idle
