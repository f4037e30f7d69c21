"""The pool whatever happens: late and lost leases, finalisers, a close, and its laws over random histories (B10, B14, B16)."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Callable
from concurrent.futures import Future

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pixir_sync import Cancelled, CancelToken, PixirError, PoolTimeout, ProviderClosed
from pixir_sync.transports.ws.pool import ConnectionPool, Lease, PoolKey
from pixir_sync.transports.ws.pool_facts import overdue
from pixir_sync.transports.ws.pool_state import Idle
from tests.transports.http.helpers import in_thread, took, wait_until
from tests.transports.ws.test_pool import DEADLINE, KEY, Bench, Connection, baseline, conversation, retired

# Leases that come back late, twice, or never


def test_a_released_session_begins_with_a_connection_of_its_own() -> None:
    """What was leased is retired when it comes back; the successor, the session's name and its reason are not touched by that."""
    bench = Bench()
    old = bench.take("s")
    bench.pool.release("s", None)
    assert not bench.pool.has_session("s", None)
    new = bench.take("s")
    assert (new.reused, new.reset) == (False, None)
    for abandons in (False, True):
        if abandons:
            bench.pool.abandon(old, "caller_cancelled")
        else:
            bench.pool.give_back(old, keep=True)
        assert bench.pool.has_session("s", None) and bench.pool.leased() == [new.connection]
    assert retired(old.connection, new.connection) == [1, 0]
    bench.pool.give_back(new, keep=True)
    assert bench.ask("s").connection is new.connection


@pytest.mark.parametrize("opens", [True, False])
def test_what_a_released_session_left_behind_is_no_reason(opens: bool) -> None:
    """It began anew because it was released, and not because of how its last call then ended."""
    bench = Bench()
    bench.pool.give_back(bench.take("s"), keep=False)
    lease = bench.take("s") if opens else bench.ask("s")
    assert lease.reset == "websocket_reconnected"
    bench.pool.release("s", None)
    bench.pool.give_back(lease, keep=False)
    assert bench.ask("s").reset is None


def test_a_release_lets_the_next_one_in() -> None:
    """Who waited for the turn of a session that is released opens a connection of its own at once."""
    bench = Bench()
    old = bench.take("s")
    call = bench.waiting("s")
    bench.pool.release("s", None)
    assert call.result(DEADLINE).connection is bench.made[1]
    bench.pool.give_back(old, keep=True)
    assert retired(*bench.made) == [1, 0]


def test_a_release_of_an_idle_session_forgets_it() -> None:
    """Its connection is retired and no reason is remembered; to release what is not there is no error."""
    bench = Bench()
    connection = bench.put("s")
    bench.put("s", key=PoolKey(KEY.url, KEY.identity, KEY.headers, "tenant"))
    for _ in range(2):
        bench.pool.release("s", None)
        assert retired(connection) == [1]
    assert not bench.pool.has_session("s", None) and bench.pool.has_session("s", "tenant")
    assert bench.ask("s").reset is None


def test_a_lease_comes_back_once() -> None:
    """Given back again, or abandoned after that, it does nothing to who has the connection now."""
    bench = Bench()
    first = bench.take("s")
    bench.pool.give_back(first, keep=True)
    second = bench.ask("s")
    assert second.connection is first.connection
    bench.pool.give_back(first, keep=False)
    bench.pool.abandon(first, "caller_cancelled")
    assert bench.pool.tend() == 1
    assert retired(*bench.made) == [0] and bench.pool.leased() == [second.connection]


def test_a_connection_that_is_opened_too_late_is_retired() -> None:
    """After its lease came back there is no place for it."""
    bench = Bench()
    lease = bench.ask("s")
    bench.pool.give_back(lease, keep=False)
    late = Connection(bench.pool)
    with pytest.raises(Cancelled) as caught:
        bench.pool.opened(lease, late)
    assert caught.value.phase == "pool"
    assert retired(late) == [1] and bench.pool.live == 0


def test_a_replaced_connection_is_retired() -> None:
    """A holder that opens a second one for its place keeps that; the same one twice is one."""
    bench = Bench()
    lease = bench.take("s")
    second = Connection(bench.pool)
    for _ in range(2):
        bench.pool.opened(lease, second)
        assert retired(bench.made[0], second) == [1, 0]
    bench.pool.give_back(lease, keep=True)
    assert bench.pool.idle() == [second]


# Finalisers


@pytest.mark.parametrize("method", ["lease", "give_back", "has_session", "release", "snapshot", "tend", "close"])
def test_an_abandoned_lease_is_taken_back_by_the_next_call(method: str) -> None:
    """Its connection is retired then, by nearly every method."""
    bench = Bench()
    other, lease = bench.take(), bench.take("s")
    bench.pool.abandon(lease, "caller_cancelled")
    assert retired(*bench.made) == [0, 0] and bench.pool.leased() == [other.connection, lease.connection]
    calls: dict[str, Callable[[], object]] = {
        "lease": lambda: bench.ask("t"),
        "give_back": lambda: bench.pool.give_back(other, keep=True),
        "has_session": lambda: bench.pool.has_session("s", None),
        "release": lambda: bench.pool.release("t", None),
        "snapshot": bench.pool.snapshot,
        "tend": bench.pool.tend,
        "close": bench.pool.close,
    }
    calls[method]()
    assert retired(lease.connection) == [1] and lease.connection not in bench.pool.leased()


def test_an_abandoned_lease_may_keep_its_connection() -> None:
    """Without a reason there is nothing wrong with it: its stream had come to its end."""
    bench = Bench()
    lease = bench.take("s")
    bench.pool.abandon(lease, None)
    assert bench.ask("s").connection is lease.connection and retired(*bench.made) == [0]


def test_an_abandoned_lease_serves_those_who_wait() -> None:
    """The keepalive thread's visit hands it on; a waiter whose time is over looks for itself."""
    bench = Bench(1)
    for seconds in (DEADLINE, 0.05):
        lease = bench.take("s")
        call = bench.waiting("t", seconds=seconds)
        bench.pool.abandon(lease, "caller_cancelled")
        if seconds == DEADLINE:
            bench.pool.tend()
        bench.pool.give_back(call.result(DEADLINE), keep=False)
    assert bench.counts() == (0, 0, 0)


def test_one_that_waits_closes_first_what_it_took_back() -> None:
    """A wait may be long, and nobody else might do it."""
    bench = Bench(2)
    bench.take("s")
    bench.pool.abandon(bench.take("t"), "caller_cancelled")
    call = bench.waiting("s")
    wait_until(lambda: retired(*bench.made) == [0, 1], "the retirement")
    assert not call.done()
    bench.pool.close()
    assert isinstance(call.exception(DEADLINE), ProviderClosed)


class Stream:
    """What a caller forgets, in a reference cycle, so that only the collector finds it."""

    def __init__(self, pool: ConnectionPool, lease: Lease) -> None:
        self.pool, self.lease, self.myself = pool, lease, self

    def __del__(self) -> None:
        self.pool.abandon(self.lease, "caller_cancelled")


def test_a_finaliser_under_the_lock_blocks_nothing() -> None:
    """The collector runs where it likes, even on a thread that holds the pool's lock."""
    bench = Bench(1)
    Stream(bench.pool, bench.take("s"))

    def collect() -> None:
        with bench.pool._lock:
            gc.collect()
            assert not bench.pool._abandoned.empty()

    in_thread(collect).result(DEADLINE)
    assert bench.ask("s").reset == "caller_cancelled"


def test_finalisers_come_at_any_time() -> None:
    """Threads that forget every other stream, with a collector that runs all the time, lose no place."""
    bench, before = Bench(4), gc.get_threshold()

    def work(number: int) -> None:
        for turn in range(30):
            lease = bench.take()
            if turn % 2:
                Stream(bench.pool, lease)
            else:
                bench.pool.give_back(lease, keep=True)
            if turn % 5 == 0:
                bench.pool.tend()

    gc.set_threshold(20)
    try:
        calls = [in_thread(lambda n=n: work(n)) for n in range(8)]  # type: ignore[misc]
        wait_until(lambda: gc.collect() + bench.pool.tend() >= 0 and all(call.done() for call in calls), "the threads", 20)
        for call in calls:
            call.result(DEADLINE)
        gc.collect()
    finally:
        gc.set_threshold(*before)
    leased, idle, waiting = bench.counts()
    assert (leased, waiting) == (0, 0) and retired(*bench.made).count(0) == idle


# Room


@pytest.mark.row("B10")
@pytest.mark.parametrize("way", ["evicted", "given back", "too old"])
def test_nobody_opens_before_there_is_room(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place is had at once, and given out when the connection that had it is closed, whoever closes that."""
    bench, closing, closed = Bench(1, max_lifetime=50), threading.Event(), threading.Event()
    lease = bench.take("a")
    retire = Connection.retire

    def slowly(self: Connection) -> None:
        closing.set()
        assert closed.wait(DEADLINE)
        retire(self)

    if way != "given back":
        bench.pool.give_back(lease, keep=True)
    monkeypatch.setattr(Connection, "retire", slowly)
    bench.time += 50 if way == "too old" else 0
    acts: dict[str, Callable[[], object]] = {
        "evicted": lambda: bench.ask("b"),
        "given back": lambda: bench.pool.give_back(lease, keep=False),
        "too old": bench.pool.tend,
    }
    first = in_thread(acts[way])
    assert closing.wait(DEADLINE)
    second = in_thread(lambda: bench.ask("c", seconds=60))
    wait_until(lambda: bench.pool.snapshot()["leased" if way != "evicted" else "waiting"] == 1, "the second call")
    assert not first.done() and not second.done() and retired(*bench.made) == [0]
    closed.set()
    got = first.result(DEADLINE)
    if isinstance(got, Lease):
        bench.pool.give_back(got, keep=False)
    assert second.result(DEADLINE).connection is None and retired(*bench.made) == [1]


# The end


def test_a_word_that_it_is_to_close_takes_no_lock() -> None:
    """`close_soon` may come on a thread that holds the lock: whatever is done next finds the pool closed and retires the idle."""
    bench = Bench(3)
    idle, leased = bench.put("a"), bench.take("b")
    call = bench.waiting("b", seconds=None)
    assert bench.pool.leased_here() and not in_thread(bench.pool.leased_here).result(DEADLINE)
    with bench.pool._lock:
        bench.pool.close_soon()
        assert bench.pool.leased_here()
    assert retired(idle) == [0] and not call.done()
    with pytest.raises(ProviderClosed):
        bench.ask("c")
    with pytest.raises(ProviderClosed):
        call.result(DEADLINE)
    assert bench.pool.tend() == 1 and retired(idle, leased.connection) == [1, 0]
    bench.pool.give_back(leased, keep=True)
    assert bench.pool.tend() == 0 and retired(leased.connection) == [1] and "closed" in repr(bench.pool)


def test_a_close_ends_the_waits_and_the_idle() -> None:
    """Waiters get ProviderClosed, idle connections are retired, and what is leased is retired when it comes back."""
    bench = Bench(3)
    idle, leased, place = bench.put("a"), bench.take("b"), bench.ask("c")
    calls = [bench.waiting("b", seconds=None), bench.waiting("c")]
    with took(0, 1):
        for _ in range(2):
            bench.pool.close()
        for call in calls:
            with pytest.raises(ProviderClosed) as caught:
                call.result(DEADLINE)
            assert caught.value.phase == "pool"
    assert retired(idle, leased.connection) == [1, 0]
    late = Connection(bench.pool)
    with pytest.raises(ProviderClosed):
        bench.pool.opened(place, late)
    bench.pool.give_back(place, keep=False)
    bench.pool.give_back(leased, keep=True)
    assert retired(leased.connection, late) == [1, 1]
    with pytest.raises(ProviderClosed):
        bench.ask("a")
    assert bench.counts() == (0, 0, 0) and bench.pool.tend() == 0 and "closed" in repr(bench.pool)


def test_a_gift_before_the_close_is_refused() -> None:
    """A waiter that has not seen its gift when the pool closes ends as closed, and the connection is retired."""
    bench, given = Bench(1), threading.Event()
    lease = bench.take("s")
    call = bench.waiting("s")
    (waiter,) = bench.pool._ledger.waiting
    wake, waiter_class = waiter.wake, type(waiter)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waiter_class, "wake", lambda self: given.set())
        bench.pool.give_back(lease, keep=True)
        assert given.is_set()
        bench.pool.close()
    wake()
    with pytest.raises(ProviderClosed):
        call.result(DEADLINE)
    assert retired(*bench.made) == [1] and bench.counts() == (0, 0, 0)


# What it tells


def test_peek_takes_no_lock() -> None:
    """The baselines that a call may continue: its session's, leased or idle, or the last used eight of its scope."""
    bench = Bench()
    held = [bench.put(items=conversation(n + 1)).baseline for n in range(10)]
    named = bench.put("s", items=conversation(20))
    bench.put("t"), bench.put(key=PoolKey("wss://host", "", (), "tenant"), items=conversation(30)), bench.ask("u")
    with bench.pool._lock:
        assert bench.pool.peek(None, None) == held[:1:-1]
        assert bench.pool.peek("s", None) == [named.baseline]
        assert [b.response_id for b in bench.pool.peek(None, "tenant")] == ["resp_30"]
        assert [bench.pool.peek(s, None) for s in ("t", "u", "v")] == [[], [], []]
        assert bench.pool.peek("s", "tenant") == bench.pool.peek(None, "another") == []
    bench.ask("s")
    assert bench.pool.peek("s", None) == [named.baseline]


def test_it_tells_how_it_stands() -> None:
    """Numbers, holders and connections agree, and the facts are plain JSON."""
    bench = Bench(8)
    idle, leased, place = bench.put("a"), bench.take("b"), bench.ask("c")
    assert bench.pool.idle() == [idle] and bench.pool.leased() == [leased.connection] and bench.pool.live == 2
    assert [bench.pool.has_session(s, None) for s in "abcd"] == [True, True, True, False]
    facts = json.loads(json.dumps(bench.pool.snapshot()))
    assert (facts["size"], facts["idle"], facts["leased"], facts["max_size"]) == (3, 1, 2, 8)
    assert [h["state"] for h in facts["holders"]] == ["leased", "opening"]
    assert facts["holders"] == bench.pool.snapshot()["holders"]
    assert repr(bench.pool) == "<ConnectionPool leased=2 idle=1>"
    assert (repr(leased), repr(place)) == ("<Lease opened session reset=None>", "<Lease opening session reset=None>")


def test_the_facts_are_bounded() -> None:
    """An error of a large pool does not list thousands; it lists those who hold for longest."""
    bench = Bench(200)
    for number in range(100):
        bench.ask(f"s{number}")
        bench.time += 1
    seconds = [holder["seconds"] for holder in bench.pool.snapshot()["holders"]]
    assert seconds == [100 - n for n in range(64)]


def test_a_repr_shows_no_secret() -> None:
    """Neither a header's value, nor an identity, nor the URL's query, a scope or a session."""
    key = PoolKey("wss://host/v1?api-key=hidden-1", "hidden-2", (("x", "hidden-3"),), "hidden-4")
    bench = Bench()
    lease = bench.take("hidden-5", key=key, items=conversation(1, "hidden-6"))
    told = f"{key!r} {lease!r} {bench.pool!r} {bench.pool.snapshot()}"
    bench.pool.give_back(lease, keep=True)
    assert "hidden" not in f"{told} {bench.pool!r} {list(bench.pool._ledger.idle)!r}"
    assert "wss://host/v1" in repr(key) and "scoped" in repr(key)


# The laws

SESSIONS = st.sampled_from([None, None, "a", "b", "c"])
KEYS = st.sampled_from([KEY, PoolKey("wss://other", KEY.identity, KEY.headers, None)])
PICK = st.integers(0, 1_000)


class PoolLaws(RuleBasedStateMachine):
    """Random histories on a pool of three; those who wait are threads, everybody else is this one."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(3, max_idle=100, max_lifetime=300)
        self.held: list[Lease] = []
        self.ended: list[Lease] = []  # may come back again, and must not matter
        self.limbo: list[Lease] = []  # abandoned, and not taken back yet
        self.released: set[Lease] = set()
        self.known: set[str] = set()  # sessions that had a connection since they were released
        self.queue: list[tuple[str | None, Future[Lease], CancelToken]] = []  # in the order of their coming

    @property
    def pool(self) -> ConnectionPool:
        return self.bench.pool

    def got(self, lease: Lease) -> None:
        lease.thread = 0  # handed to a thread that is none of these
        self.held.append(lease)
        if lease.session is not None and not lease.reused:
            assert (lease.reset is not None) == (lease.session in self.known)
            if lease.connection is not None:
                self.known.add(lease.session)
        else:
            assert lease.reset is None

    def settle(self) -> None:
        """Let the threads that were served, cancelled or sent away end; those served must have been the first that could be."""
        waiting = self.pool._ledger.waiting
        wait_until(lambda: sum(not call.done() for _, call, _ in self.queue) == len(waiting), "the threads that are served")
        wait_until(lambda: len(self.opened_now()) == self.pool.live, "the retirements")
        if self.pool._abandoned.empty():
            self.limbo.clear()
        left, before, overtaken = [], self.queue, []
        for session, call, token in before:
            if not call.done():
                left.append((session, call, token))
                overtaken.append(session)
            elif (error := call.exception()) is None:
                assert all(self.busy(s) for s in overtaken), "served before one that came first and could be served"
                self.got(call.result())
            else:
                assert isinstance(error, Cancelled) and token.cancelled
        self.queue = left

    def opened_now(self) -> set[int]:
        return {id(connection) for connection in self.bench.made if not connection.retired}

    def busy(self, session: str | None) -> bool:
        return isinstance(self.pool._ledger.sessions.get((None, session)), Lease)

    def pick(self, number: int) -> Lease:
        return self.held.pop(number % len(self.held))

    @rule(session=SESSIONS, key=KEYS, length=st.none() | st.integers(1, 4), fresh=st.booleans(), number=PICK, opens=st.booleans())
    def ask(self, session: str | None, key: PoolKey, length: int | None, fresh: bool, number: int, opens: bool) -> None:
        idle = self.pool.idle()
        items = None if length is None else conversation(length)
        prefer = idle[number % len(idle)] if idle and number % 3 == 0 else None
        ask = self.bench.take if opens else self.bench.ask
        could = not self.busy(session) and (self.pool._ledger.size < 3 or bool(idle) or bool(self.limbo))
        try:
            lease = ask(session, key=key, items=items, seconds=0, fresh=fresh, prefer=prefer)
        except PoolTimeout:
            assert not could or self.limbo
        else:
            assert not (fresh and lease.reused)
            assert (lease.session, lease.key) == (session, key)
            self.got(lease)
        self.settle()

    @rule(session=SESSIONS, key=KEYS)
    def wait(self, session: str | None, key: PoolKey) -> None:
        token = CancelToken()
        call = self.bench.waiting(session, opens=False, key=key, seconds=60, cancel=token)
        self.queue.append((session, call, token))
        self.settle()

    @precondition(lambda self: self.queue)
    @rule(number=PICK, quietly=st.booleans())
    def cancel(self, number: int, quietly: bool) -> None:
        _, call, token = self.queue[number % len(self.queue)]
        if quietly:
            token.reason = "cancelled"  # it learns of it only with its gift
        else:
            token.cancel()
            assert isinstance(call.exception(DEADLINE), Cancelled)
        self.settle()

    @precondition(lambda self: self.held)
    @rule(number=PICK)
    def open(self, number: int) -> None:
        lease = self.held[number % len(self.held)]
        self.bench.made.append(Connection(self.pool))
        self.pool.opened(lease, self.bench.made[-1])
        if lease.session is not None and lease not in self.released:
            self.known.add(lease.session)

    @precondition(lambda self: self.held)
    @rule(number=PICK, keep=st.booleans(), length=st.integers(0, 3))
    def give_back(self, number: int, keep: bool, length: int) -> None:
        lease = self.pick(number)
        if lease.connection is not None:
            lease.connection.baseline = baseline(conversation(length)) if length else None
        self.pool.give_back(lease, keep=keep)
        self.ended.append(lease)
        self.settle()

    @precondition(lambda self: self.held)
    @rule(number=PICK, reason=st.sampled_from([None, "caller_cancelled"]))
    def abandon(self, number: int, reason: str | None) -> None:
        lease = self.pick(number)
        self.pool.abandon(lease, reason)
        self.limbo.append(lease)
        self.ended.append(lease)

    @precondition(lambda self: self.ended)
    @rule(number=PICK, keep=st.booleans(), abandons=st.booleans())
    def come_back_late(self, number: int, keep: bool, abandons: bool) -> None:
        lease = self.ended[number % len(self.ended)]
        if abandons:
            self.pool.abandon(lease, "caller_cancelled")
        else:
            self.pool.give_back(lease, keep=keep)
        self.settle()

    @rule(session=st.sampled_from(["a", "b", "c"]))
    def release(self, session: str) -> None:
        self.pool.snapshot()
        self.settle()
        self.released.update(lease for lease in self.held if lease.session == session)
        self.known.discard(session)
        self.pool.release(session, None)
        assert self.pool.has_session(session, None) == self.busy(session)
        self.settle()

    @rule(number=PICK)
    def die(self, number: int) -> None:
        alive = [c for c in self.bench.made if not c.retired]
        if alive:
            alive[number % len(alive)].alive = False

    @rule(seconds=st.sampled_from([1, 60, 150]))
    def advance(self, seconds: int) -> None:
        self.bench.time += seconds

    @rule()
    def tend(self) -> None:
        left = self.pool.tend()
        for connection in self.bench.made:
            assert connection.alive or connection.retired or connection in self.pool.leased()
        self.settle()
        assert self.pool.snapshot()["size"] <= left <= 3  # a gift may have been refused meanwhile

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        """Every open connection is idle or leased, not both; there are never too many; each is retired at most once."""
        ledger, idle, leased = self.pool._ledger, self.pool.idle(), self.pool.leased()
        assert ledger.size <= 3 and not ledger.condemned
        assert len(ledger.leased) == len(self.held) + len(self.limbo)
        assert len(idle) + len(leased) == len({id(c) for c in (*idle, *leased)}) == self.pool.live
        assert self.opened_now() == {id(c) for c in (*idle, *leased)}
        assert not any(entry.claimed for entry in ledger.idle)

    @invariant()
    def a_session_has_one_connection(self) -> None:
        """Those that were released meanwhile apart."""
        ledger = self.pool._ledger
        named: list[Lease | Idle] = [lease for lease in ledger.leased if lease not in self.released]
        owners = [owner for owner in [*named, *ledger.idle] if owner.session is not None]
        assert len({owner.session for owner in owners}) == len(owners)
        assert {id(owner) for owner in owners} == {id(owner) for owner in ledger.sessions.values()}
        assert all(ledger.loose.values()), "a scope that nothing is idle of takes no memory"
        assert sum(map(len, ledger.loose.values())) == sum(entry.session is None for entry in ledger.idle)

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        """Who waits, waits for a turn, or because every place is in use."""
        for session, _, _ in self.queue:
            assert self.busy(session) or len(self.pool._ledger.leased) == 3

    def teardown(self) -> None:
        self.pool.close()
        for _, call, _ in self.queue:
            assert isinstance(call.exception(DEADLINE), ProviderClosed | Cancelled)
        for lease in self.held:
            self.pool.give_back(lease, keep=True)
        assert self.pool.tend() == 0 and set(retired(*self.bench.made)) <= {1}
        with pytest.raises(PixirError):
            self.bench.ask()


AGES = st.integers(0, 6)


@given(st.lists(st.tuples(AGES, AGES, st.booleans(), st.booleans()), max_size=6), st.none() | AGES, st.none() | AGES)
def test_one_pass_finds_what_a_look_at_each_does(
    idle: list[tuple[int, int, bool, bool]], max_idle: int | None, max_lifetime: int | None
) -> None:
    """`overdue` says again, of all at once, what `Ledger.fault` says of one."""
    bench = Bench(6, max_idle=max_idle or None, max_lifetime=max_lifetime or None)
    ledger = bench.pool._ledger
    for number, (unused, age, alive, claimed) in enumerate(idle):
        connection = Connection(bench.pool)
        connection.opened_at, connection.alive = bench.time - age, alive
        ledger.idle[Idle(KEY, f"s{number}", connection, bench.time - unused, claimed)] = None
    assert overdue(ledger) == [i for i in ledger.idle if ledger.fault(i.connection, i.since) is not None and not i.claimed]


TestPoolLaws = PoolLaws.TestCase
TestPoolLaws.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
