"""More threads and sessions than connections, with a `Provider` as a program has it (row B10)."""

from __future__ import annotations

import itertools
import json
import pickle
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from pixir_sync import Network, PoolOptions, PoolTimeout, Provider, Result
from pixir_sync.local import LocalServer, faults
from tests.support.fake import provider_for
from tests.support.own_process import ServerProcess
from tests.transports.http.helpers import in_thread, linux, wait_until
from tests.transports.ws.turn_helpers import Talk, how

Json = dict[str, Any]


def provider_of(server: ServerProcess, **options: Any) -> Provider:
    network = Network(ca_bundle=server.ca_file, trust_env=False)
    return provider_for(server, **{"transport": "websocket", "retry": 0, "network": network, "timeouts": 30, **options})


def pool_of(provider: Provider) -> Json:
    found: Json = provider.stats()["websocket"]["pool"]
    return found


def keepalive_threads() -> int:
    return sum(thread.name == "pixir-keepalive" for thread in threading.enumerate())


def texts_of(body: Json) -> list[str]:
    return [item["content"] for item in body["input"]]


def on_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    """What this gave on so many threads that began together."""
    start, stack = threading.Barrier(count), threading.stack_size(256 * 1024)

    def run(number: int) -> Any:
        start.wait(30)
        return work(number)

    try:
        with ThreadPoolExecutor(count) as threads:
            return list(threads.map(run, range(count), timeout=50))
    finally:
        threading.stack_size(stack)


class Watch:
    """Looks at a provider all the time: what it tells must hold together at every moment, also in the middle of a crowd."""

    def __init__(self, provider: Provider, size: int) -> None:
        self.provider, self.size, self.looks, self.wrong = provider, size, 0, Counter[str]()
        self._over = threading.Event()

    def _look(self) -> None:
        while not self._over.wait(0.02):
            stats = self.provider.stats()
            pool = stats["websocket"]["pool"]
            self.looks += 1
            self.wrong["threads"] += keepalive_threads() > 1
            self.wrong["size"] += not pool["size"] == pool["leased"] + pool["idle"] <= self.size == pool["max_size"]
            self.wrong["live"] += stats["connections"]["live"] > self.size
            self.wrong["holders"] += len(pool["holders"]) != min(pool["leased"], 64)
            self.wrong["order"] += (seconds := [h["seconds"] for h in pool["holders"]]) != sorted(seconds, reverse=True)

    def __enter__(self) -> Watch:
        self._looking = in_thread(self._look)
        return self

    def __exit__(self, *ended: object) -> None:
        self._over.set()
        self._looking.result(10)
        assert ended[0] is not None or (self.looks > 0 and not +self.wrong), self.wrong


def agree(provider: Provider, server: ServerProcess, results: list[Result]) -> Json:
    """What the provider tells of its calls is what the server saw; what that is."""
    stats, seen = provider.stats(), server.ask()
    deltas = sum(result.provider_metadata["used_previous_response_id"] for result in results)
    turns = {"full": len(results) - deltas} | ({"delta": deltas} if deltas else {})
    assert stats["turns"] == {"websocket": turns} and not stats["errors"] and not stats["replays"] and not stats["fallbacks"]
    assert (seen["requests"], seen["deltas"]) == (len(results), deltas)
    assert stats["connections"]["opened"] == seen["upgrades"] == seen["accepted"]
    assert stats["connections"]["opened"] + stats["connections"]["reused"] == len(results)
    assert stats["connections"]["live"] == seen["open"] == stats["websocket"]["pool"]["idle"]
    assert stats["bytes_sent"] == seen["bytes"] == sum(result.provider_metadata["bytes_sent"] for result in results)
    reused = sum(result.provider_metadata["connection_reused"] for result in results)
    assert stats["connections"]["reused"] == reused and sum(r.provider_metadata["attempts"] for r in results) == len(results)
    pool = stats["websocket"]["pool"]
    assert (pool["leased"], pool["waiting"], pool["holders"]) == (0, 0, []) and pool["size"] == pool["idle"]
    assert repr(provider._websocket._pool) == f"<ConnectionPool leased=0 idle={pool['idle']}>"  # type: ignore[union-attr]
    json.dumps(stats)
    return seen


# 64 threads, 8 connections.


@linux
@pytest.mark.row("B10")
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_sixty_four_threads_over_eight_connections(tls: bool) -> None:
    """Every answer is right, and the server never has more than 8 sockets, with sessions of three scopes and none at all."""
    with ServerProcess(tls=tls) as server, provider_of(server, pool=PoolOptions(max_size=8)) as provider:
        talks = {number: Talk(provider, f"s{number}", scope=f"t{number % 3}") for number in range(64) if number % 4}

        def work(number: int) -> list[Result]:
            results = []
            for turn in range(4):
                text = f"{number}.{turn}"
                result = talks[number].say(text) if number in talks else provider.complete(text)
                assert result.text == f"Heard: {text} (context: {turn + 1 if number in talks else 1})"
                results.append(result)
            return results

        with Watch(provider, 8):
            results = list(itertools.chain(*on_threads(64, work)))
        seen = agree(provider, server, results)
        assert seen["peak"] == seen["open"] == 8
        provider.close()
        wait_until(lambda: server.ask()["open"] == 0, "the server's sockets")
        assert keepalive_threads() == 0


@linux
@pytest.mark.row("B10", "B14")
def test_threads_that_share_sessions_over_few_connections() -> None:
    """64 threads, 12 sessions, 4 connections: turns of one session never meet, and each continues from what was there before."""
    with ServerProcess() as server, provider_of(server, pool=PoolOptions(max_size=4)) as provider:
        talks = [Talk(provider, f"s{number}") for number in range(12)]
        turns = [threading.Lock() for _ in talks]  # each guards one conversation's history over a whole turn

        def work(number: int) -> list[Result]:
            rng, results = random.Random(number), []
            for turn in range(4):
                at = rng.randrange(12)
                with turns[at]:
                    result = talks[at].say(f"{number}.{turn}")
                    asked = sum(item["role"] == "user" for item in talks[at].history if "role" in item)
                    assert result.text == f"Heard: {number}.{turn} (context: {asked})"
                    results.append(result)
            return results

        with Watch(provider, 4):
            results = list(itertools.chain(*on_threads(64, work)))
        seen = agree(provider, server, results)
        assert seen["peak"] == 4
        why = Counter(how(result) for result in results)
        assert why["no_previous_response"] == 12 and set(why) <= {"delta", "no_previous_response", "websocket_reconnected"}


# Order, eviction, and what a timeout tells.


@contextmanager
def holding(
    server: LocalServer, provider: Provider, count: int, **options: Any
) -> Iterator[tuple[list[Future[str]], faults.Stall]]:
    """So many streams that have their first events, each on a thread of its own, until the stall is released."""
    stall = faults.Stall(after=2)
    with server.fault(stall, when=lambda body: "held" in str(body["input"])) as placed:
        streams = []
        for number in range(count):
            streams.append(in_thread(lambda n=number: provider.complete(f"held {n}", session=f"private-{n}", **options).text))  # type: ignore[misc]
            placed.wait(strikes=number + 1)
        yield streams, stall


def local_provider(server: LocalServer, size: int, **options: Any) -> Provider:
    return provider_for(server, transport="websocket", retry=0, pool=PoolOptions(max_size=size), **options)


@pytest.mark.row("B10")
def test_those_who_wait_are_served_in_order() -> None:
    """Nine calls wait for one of three places, some of them without a session: whichever becomes free, the first has it."""
    with LocalServer() as server, local_provider(server, 3) as provider, ExitStack() as stack:
        stalls = [faults.Stall(after=2) for _ in range(12)]
        for number, stall in enumerate(stalls):
            stack.enter_context(server.fault(stall, when=lambda body, n=number: texts_of(body) == [f"call {n}"]))  # type: ignore[misc]

        def call(number: int) -> Future[str]:
            session = f"s{number}" if number % 3 else None
            future = in_thread(lambda: provider.complete(f"call {number}", session=session).text)
            wait_until(lambda: sum(pool_of(provider)[what] for what in ("leased", "waiting")) == number + 1, "the call")
            return future

        calls = [call(number) for number in range(12)]
        running, rng = [0, 1, 2], random.Random(1)
        server.requests.wait(3)
        for following in range(3, 12):
            stalls[ending := running.pop(rng.randrange(3))].release()
            assert calls[ending].result(5) == f"Heard: call {ending} (context: 1)"
            assert server.requests.wait(following + 1).last.text == f"call {following}"
            running.append(following)
        for ending in running:
            stalls[ending].release()
        assert all(future.result(5) for future in calls)


@pytest.mark.row("B10")
def test_with_one_place_the_order_is_exact() -> None:
    """Ten calls wait for the only place, which each leaves to the next: the server hears them exactly as they came."""
    with LocalServer() as server, local_provider(server, 1) as provider:
        with holding(server, provider, 1) as (streams, stall):
            waiting = []
            for number in range(10):
                session = [None, f"s{number}", "shared"][number % 3]
                waiting.append(in_thread(lambda n=number, s=session: provider.complete(f"waits {n}", session=s).text))  # type: ignore[misc]
                wait_until(lambda n=number: pool_of(provider)["waiting"] == n + 1, "the call to wait")  # type: ignore[misc]
            stall.release()
            assert [call.result(10) for call in (*streams, *waiting)][1:] == [f"Heard: waits {n} (context: 1)" for n in range(10)]
        assert server.requests.texts[1:] == [f"waits {n}" for n in range(10)]


@pytest.mark.row("B10")
def test_the_session_idle_longest_makes_room() -> None:
    """At the limit its connection is closed: its next turn goes in full and says why; the others still send what is new."""
    with LocalServer() as server, local_provider(server, 4) as provider:
        talks = [Talk(provider, f"s{number}") for number in range(5)]
        for talk in talks[:4]:
            talk.say("one")
        assert how(talks[0].say("two")) == "delta"  # so that s1 is the one idle longest
        talks[4].say("one")
        assert [provider.has_session(f"s{number}") for number in range(5)] == [True, False, True, True, True]
        assert [how(talks[number].say("three")) for number in (0, 2, 3, 4)] == ["delta"] * 4
        again = talks[1].say("two")
        assert how(again) == "websocket_reconnected" and again.text == "Heard: two (context: 2)"
        assert not provider.has_session("s0") and len(server.upgrades) == 6
        assert provider.stats()["connections"] == {"opened": 6, "reused": 5, "live": 4}
        assert not provider.stats()["errors"] and not provider.stats()["replays"]


@pytest.mark.row("B10")
def test_a_connection_in_use_never_makes_room() -> None:
    """Where all places are in use a call waits for as long as it may; one that becomes idle is its."""
    with LocalServer() as server, local_provider(server, 2) as provider:
        with holding(server, provider, 2) as (streams, stall):
            late = in_thread(lambda: provider.complete("late", session="late", timeouts={"pool": None}).text)
            wait_until(lambda: pool_of(provider)["waiting"] == 1, "the call to wait")
            assert len(server.upgrades) == 2 and not late.done()
            stall.release()
            assert late.result(5) == "Heard: late (context: 1)"
            assert [stream.result(5) for stream in streams] == [f"Heard: held {n} (context: 1)" for n in range(2)]
        assert len(server.upgrades) == 3


@pytest.mark.row("B10")
def test_no_room_in_time_tells_who_holds_what() -> None:
    """PoolTimeout.details: the sizes, and of each holder its thread, for how long, and a digest of the session's name."""
    with LocalServer() as server, local_provider(server, 3) as provider:
        with holding(server, provider, 2, scope="private-scope") as (streams, stall):
            loose = provider.stream("held without a name")
            next(loose)
            with pytest.raises(PoolTimeout) as caught:
                provider.complete("private words", session="private-late", timeouts={"pool": 0.2})
            error = caught.value
            facts = dict(error.details)
            holders = facts.pop("holders")
            assert facts == {"size": 3, "max_size": 3, "idle": 0, "leased": 3, "waiting": 0}
            assert [set(holder) for holder in holders] == [{"session", "state", "thread", "seconds"}] * 3
            assert [holder["state"] for holder in holders] == ["leased"] * 3
            threads = {thread.ident for thread in threading.enumerate()}
            assert len({h["thread"] for h in holders}) == 3 and {h["thread"] for h in holders} <= threads
            assert holders[2]["thread"] == threading.get_ident() and holders[2]["session"] is None
            assert len({h["session"] for h in holders[:2]}) == 2 and all(int(h["session"], 16) for h in holders[:2])
            assert 60 > holders[0]["seconds"] >= holders[1]["seconds"] >= holders[2]["seconds"] >= 0.2
            assert (error.phase, error.retryable, error.request_sent, error.status) == ("pool", True, False, None)
            assert error.partial is not None
            told = [repr(error), str(error), json.dumps(error.to_dict()), repr(error.details), repr(error.partial),
                    json.dumps(error.partial.provider_metadata), json.dumps(provider.stats()), repr(provider)]  # fmt: skip
            assert b"private" not in pickle.dumps(error) and not any("private" in one for one in told)
            assert pickle.loads(pickle.dumps(error)).details == error.details
            stall.release()
            assert loose.result().text == "Heard: held without a name (context: 1)"
            assert len([stream.result(5) for stream in streams]) == 2
        assert provider.stats()["errors"] == {"pool_timeout": 1} and len(server.requests) == 3


def test_the_digest_of_a_session_is_the_same_each_time() -> None:
    """So that two timeouts can be seen to have met the same holder; with another scope it is another."""
    with LocalServer() as server, local_provider(server, 2) as provider:
        with holding(server, provider, 1) as (first, stall):
            other = provider.stream("held elsewhere", session="private-0", scope="tenant")
            next(other)
            seen = [[holder["session"] for holder in pool_of(provider)["holders"]] for _ in range(2)]
            assert seen[0] == seen[1] and len(set(seen[0])) == 2
            stall.release()
            other.result(), first[0].result(5)


# Crowds.


@linux
@pytest.mark.row("B10")
def test_a_thousand_sessions_over_128_connections() -> None:
    """Two rounds over the pool's default size: all answers right, 128 sockets, one thread; in round two the evicted say so."""
    with ServerProcess() as server, provider_of(server) as provider:
        talks = [Talk(provider, f"session {number}") for number in range(1000)]
        results: list[Result] = []

        def say(number: int, turn: int) -> Result:
            result = talks[number].say(f"{number}.{turn}")
            assert result.text == f"Heard: {number}.{turn} (context: {turn + 1})"
            return result

        with Watch(provider, 128), ThreadPoolExecutor(32) as threads:
            results += threads.map(say, range(1000), itertools.repeat(0), timeout=50)
            assert {how(result) for result in results} == {"no_previous_response"}
            assert sum(provider.has_session(f"session {number}") for number in range(1000)) == 128
            second = list(threads.map(say, reversed(range(1000)), itertools.repeat(1), timeout=50))
        why = Counter(how(result) for result in second)
        # The last 128 of round one are idle when round two begins with them, but for those whose turns ended out of order.
        assert set(why) == {"delta", "websocket_reconnected"} and 64 <= why["delta"] <= 128
        assert all(how(result) == "delta" for result in second[:32]) and all(how(r) != "delta" for r in second[200:])
        seen = agree(provider, server, results + second)
        assert seen["peak"] == seen["open"] == 128 and keepalive_threads() == 1
        assert len({result.response_id for result in results + second}) == 2000


@linux
@pytest.mark.row("B10")
def test_two_thousand_threads_once() -> None:
    """One call each, half of them with a session of its own: all answers right over at most 128 sockets, with one thread more."""
    with ServerProcess() as server, provider_of(server) as provider:

        def work(number: int) -> Result:
            result = provider.complete(f"call {number}", session=f"s{number}" if number % 2 else None)
            assert result.text == f"Heard: call {number} (context: 1)"
            return result

        with Watch(provider, 128):
            results = on_threads(2000, work)
        seen = agree(provider, server, results)
        assert seen["peak"] <= 128 and keepalive_threads() == 1
        assert repr(provider) == f"<Provider gpt-5.5 {server.base_url}>"
