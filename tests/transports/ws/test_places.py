"""Which connection a call gets, how long one is kept, and who may end it: against the local server (B8, B9, B11, B13, B16)."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from pixir_sync import Keepalive, Network, PixirError, PoolOptions, Provider, ResponseStream
from pixir_sync.local import LocalServer, faults
from pixir_sync.transports.ws.pool_state import CANDIDATES
from tests.support.fake import provider_for
from tests.transports.http.helpers import in_thread, wait_until
from tests.transports.ws.turn_helpers import Talk, how, overlapping


def provider_of(server: LocalServer, **options: Any) -> Provider:
    return provider_for(server, **{"transport": "websocket", "retry": 0, "network": Network(trust_env=False), **options})


def connections_of(server: LocalServer, name: str) -> set[int]:
    """The connections on which requests came whose text begins with this."""
    return {recorded.connection for recorded in server.requests if recorded.text.startswith(name)}


# Scopes, and calls without a session.


@pytest.mark.row("B8", "B9")
def test_the_connections_of_scopes_are_never_shared() -> None:
    """24 threads in 6 scopes, with one session's name, with another and with none: no connection is ever two scopes'."""
    with LocalServer() as server, provider_of(server, pool=PoolOptions(max_size=6)) as provider:

        def work(number: int) -> None:
            scope, session = f"tenant {number % 6}", [None, "s", "t", None][number // 6]
            for turn in range(5):
                text = f"{scope}: {number}.{turn}"
                assert provider.complete(text, session=session, scope=scope).text == f"Heard: {text} (context: 1)"

        for future in [in_thread(lambda n=number: work(n)) for number in range(24)]:  # type: ignore[misc]
            future.result(30)
        owners = [connections_of(server, f"tenant {number}:") for number in range(6)]
        assert all(owners) and sum(map(len, owners)) == len(set().union(*owners)) == len(server.upgrades)
        assert len(server.requests) == 120


@pytest.mark.row("B9")
def test_of_many_conversations_the_last_eight_are_found_again() -> None:
    """Ten idle ones: a call is compared with the eight used last. An older conversation begins anew, on the oldest connection."""
    with LocalServer() as server, provider_of(server) as provider:
        talks = [Talk(provider, session=None) for _ in range(CANDIDATES + 2)]
        overlapping(provider, *talks)
        assert len(server.upgrades) == 10
        for talk in talks:
            assert talk.say("in this order").text == "Heard: in this order (context: 2)"
        old = talks[1].say("who knows me?")
        assert how(old) == "prefix_mismatch" and old.text == "Heard: who knows me? (context: 3)"
        last_used = [talks[1], *talks[:2:-1]]
        assert len(last_used) == CANDIDATES and [how(talk.say("and me?")) for talk in last_used] == ["delta"] * 8
        assert len(server.upgrades) == 10 and provider.stats()["websocket"]["pool"]["idle"] == 10


@pytest.mark.row("B9")
def test_one_that_is_in_use_is_nobody_elses() -> None:
    """While a conversation's connection answers, a branch of the same conversation has another one; later both are found."""
    with LocalServer() as server, provider_of(server) as provider:
        talk, stall = Talk(provider, session=None), faults.Stall(after=3)
        talk.say("one")
        branch = Talk(provider, session=None)
        branch.history = list(talk.history)
        with server.fault(stall, times=1) as placed:
            first = in_thread(lambda: talk.say("here"))
            placed.wait()
            assert how(branch.say("there")) == "no_previous_response"
            stall.release()
            assert how(first.result(5)) == "delta"
        assert [how(talk.say("here")), how(branch.say("there"))] == ["delta", "delta"]
        assert len(server.upgrades) == 2


# How long one is kept.


class Clock:
    """The pool's clock: the real one, put forward by the test."""

    def __init__(self, provider: Provider) -> None:
        self.ahead = 0.0
        pool: Any = provider._websocket._pool  # type: ignore[union-attr]
        pool._ledger.now = lambda: time.monotonic() + self.ahead


@pytest.mark.row("B11")
@pytest.mark.parametrize(("seconds", "reason"), [(1_790, None), (1_800, "websocket_reconnected"), (3_000, "max_lifetime")])
@pytest.mark.parametrize("session", ["s", None])
@pytest.mark.parametrize("by", ["the lease", "the thread"])
def test_half_an_hour_idle_fifty_minutes_old(
    by: str, session: str | None, seconds: float, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the default options; found at the next lease, or before it by the keepalive thread, which then ends."""
    monkeypatch.setattr("pixir_sync.transports.ws.keepalive._TICK", 3600 if by == "the lease" else 0.02)
    with LocalServer() as server, provider_of(server) as provider:
        clock, talk = Clock(provider), Talk(provider, session)
        talk.say("one")
        assert how(talk.say("two")) == "delta"
        clock.ahead = seconds
        if by == "the thread" and reason is not None:
            wait_until(lambda: provider.stats()["connections"]["live"] == 0, "the thread")
            assert session is None or not provider.has_session(session)
            wait_until(lambda: not provider._websocket._keepalive.running, "its end")  # type: ignore[union-attr]
        turn = talk.say("three")
        assert turn.text == "Heard: three (context: 3)" and turn.provider_metadata["attempts"] == 1
        assert how(turn) == ("delta" if reason is None else reason if session else "no_previous_response")
        assert len(server.upgrades) == (1 if reason is None else 2)


@pytest.mark.row("B11")
def test_a_busy_session_grows_old_all_the_same() -> None:
    """Used every minute it is never idle: after fifty of them it has a fresh connection, between two turns."""
    with LocalServer() as server, provider_of(server) as provider:
        talk, went = Talk(provider), []
        for minute in range(60):
            went.append(how(talk.say(f"minute {minute}")))
            (connection,) = provider._websocket._pool.idle()  # type: ignore[union-attr]
            connection.opened_at -= 60
        assert went == ["no_previous_response", *["delta"] * 49, "max_lifetime", *["delta"] * 9]
        assert len(server.upgrades) == 2 and provider.stats()["connections"] == {"opened": 2, "reused": 58, "live": 1}


@pytest.mark.row("B11")
@pytest.mark.parametrize("transport", ["websocket", "auto"])
def test_the_servers_age_limit_is_not_seen(transport: str) -> None:
    """Its refusal of a connection that is too old is answered by a fresh one, in full, whether a retry is allowed or not."""
    with LocalServer() as server, provider_of(server, transport=transport) as provider:
        talk = Talk(provider)
        talk.say("one")
        with server.fault(faults.AgeLimit(), times=1):
            turn = talk.say("two")
        assert turn.text == "Heard: two (context: 2)" and how(turn) == "max_lifetime"
        assert turn.provider_metadata["active_transport"] == "websocket" and turn.provider_metadata["attempts"] == 2
        assert how(talk.say("three")) == "delta" and len(server.upgrades) == 2
        assert provider.stats()["replays"] == {"max_lifetime": 1} and not provider.stats()["errors"]


# How much is kept of it.


@pytest.mark.row("B13")
@pytest.mark.parametrize("session", ["s", None])
def test_too_much_to_keep(session: str | None) -> None:
    """Over the limit, by bytes, the socket stays and nothing is kept of the input: turns go in full until it is short again."""
    with LocalServer() as server, provider_of(server, pool=PoolOptions(max_retained_bytes=20_000)) as provider:
        talk = Talk(provider, session)
        assert [how(talk.say("small")), how(talk.say("x" * 5_000))] == ["no_previous_response", "delta"]
        assert how(talk.say("€" * 6_000)) == "delta"  # three bytes each: after this turn it is too much
        (connection,) = provider._websocket._pool.idle()  # type: ignore[union-attr]
        assert connection.baseline is None
        turns = [talk.say("on"), talk.say("and on")]
        assert [how(turn) for turn in turns] == ["retained_input_overflow"] * 2
        assert [turn.text for turn in turns] == ["Heard: on (context: 4)", "Heard: and on (context: 5)"]
        talk.history.clear()
        assert [how(talk.say("anew")), how(talk.say("anew"))] == ["retained_input_overflow", "delta"]
        assert len(server.upgrades) == 1 and connection.baseline is not None


# Who may end it.


def ends_well(stream: ResponseStream, stall: faults.Stall) -> None:
    stall.release()
    assert stream.result().text == "Heard: old (context: 1)"


def thrown_into(stream: ResponseStream, stall: faults.Stall) -> None:
    with pytest.raises(KeyboardInterrupt):
        stream.throw(KeyboardInterrupt)


LATE: dict[str, Callable[[ResponseStream, faults.Stall], object]] = {
    "well": ends_well,
    "cancelled": lambda stream, stall: stream.cancel(),
    "closed": lambda stream, stall: stream.close(),
    "closed elsewhere": lambda stream, stall: in_thread(stream.close).result(5),
    "thrown into": thrown_into,
    "dropped": lambda stream, stall: None,
}


@pytest.mark.row("B16")
@pytest.mark.parametrize("way", LATE)
def test_a_late_end_does_not_touch_the_successor(way: str) -> None:
    """A session was released in the middle of a turn and has begun anew: however the old turn ends, the new connection stays."""
    with LocalServer() as server, provider_of(server, keepalive=Keepalive(interval=0.2, timeout=5)) as provider:
        stall = faults.Stall(after=3)
        with server.fault(stall, when=lambda body: "old" in str(body["input"])) as placed:
            stream: ResponseStream | None = provider.stream("old", session="s")
            assert stream is not None
            next(stream)
            placed.wait()
            provider.release("s")
            assert not provider.has_session("s")
            talk = Talk(provider)
            assert how(talk.say("new")) == "no_previous_response"
            LATE[way](stream, stall)
            stream = None
            wait_until(lambda: provider.stats()["connections"]["live"] == 1, "the old connection to go")
            for text in ("on", "and on"):
                turn = talk.say(text)
                assert how(turn) == "delta" and turn.provider_metadata["connection_reused"]
        assert provider.has_session("s") and len(server.upgrades) == 2


@pytest.mark.row("B16")
def test_a_late_end_does_not_touch_a_successor_in_the_middle() -> None:
    """The same while the successor's own turn is running: each stream gets its answer; the session goes on with the second."""
    with LocalServer() as server, provider_of(server) as provider:
        stalls = [faults.Stall(after=3), faults.Stall(after=3)]
        with server.fault(stalls[0], when=lambda body: "old" in str(body["input"])):
            with server.fault(stalls[1], when=lambda body: "new" in str(body["input"])):
                streams = []
                for text in ("old", "new"):
                    streams.append(provider.stream(text, session="s"))
                    next(streams[-1])
                    if text == "old":
                        provider.release("s")
                assert provider.stats()["websocket"]["pool"]["leased"] == 2
                for stall, stream, text in zip(stalls, streams, ("old", "new"), strict=True):
                    stall.release()
                    assert stream.result().text == f"Heard: {text} (context: 1)"
                    assert provider.has_session("s")
        pool = provider.stats()["websocket"]["pool"]
        assert (pool["leased"], pool["idle"]) == (0, 1)


@pytest.mark.row("B16")
def test_releases_under_fire() -> None:
    """Two threads release what eight others use: every answer is right, and at the end there are as many sockets as sessions."""
    with LocalServer() as server, provider_of(server, pool=PoolOptions(max_size=8)) as provider:
        over = threading.Event()

        def release(number: int) -> int:
            count = 0
            while not over.wait(0.001):
                provider.release(f"s{count % 4}")
                provider.has_session(f"s{number}")
                count += 1
            return count

        def work(number: int) -> Counter[str | None]:
            went: Counter[str | None] = Counter()
            for turn in range(12):
                try:
                    result = provider.complete(f"{number}.{turn}", session=f"s{number % 4}")
                except PixirError as error:
                    went[error.kind] += 1
                else:
                    assert result.text == f"Heard: {number}.{turn} (context: 1)"
                    went[how(result)] += 1
            return went

        releasing = [in_thread(lambda n=number: release(n)) for number in range(2)]  # type: ignore[misc]
        working = [in_thread(lambda n=number: work(n)) for number in range(8)]  # type: ignore[misc]
        total: Counter[str | None] = sum((future.result(30) for future in working), Counter())
        over.set()
        assert all(future.result(5) > 0 for future in releasing)
        assert set(total) <= {"no_previous_response", "prefix_mismatch"} and total.total() == 96
        for number in range(4):
            provider.release(f"s{number}")
        pool = provider.stats()["websocket"]["pool"]
        assert (pool["size"], provider.stats()["connections"]["live"]) == (0, 0)
