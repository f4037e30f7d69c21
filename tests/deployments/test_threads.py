"""What the threads of one process share, where no other test shows it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pixir_sync import PoolOptions, PoolTimeout
from pixir_sync.hooks import TurnRecord
from pixir_sync.local import LocalServer, faults
from tests.deployments.servers import DEADLINE, asks, in_thread
from tests.support.both import TransportName
from tests.support.fake import provider_for

THREADS = 8


def test_the_first_calls_use_connections_of_one_session() -> None:
    """Eight threads that are all the first open eight HTTP connections, and use them again."""
    together = threading.Barrier(THREADS)
    with LocalServer() as server, provider_for(server, transport="http_sse") as provider, ThreadPoolExecutor(THREADS) as crowd:

        def first(number: int) -> str:
            together.wait(DEADLINE)
            return provider.complete(f"first {number}").text

        assert list(crowd.map(first, range(THREADS))) == [f"Heard: first {n} (context: 1)" for n in range(THREADS)]
        for _ in range(4):
            list(crowd.map(lambda number: provider.complete(f"then {number}"), range(THREADS)))
        assert provider.stats()["connections"]["opened"] <= THREADS


def test_what_is_called_runs_on_the_thread_of_the_call(transport: TransportName) -> None:
    """Hooks, a credential, ``on_payload`` and the reading of events: all of them on the thread that waits for the answer."""
    seen: dict[int, set[str]] = {}

    def note(name: str) -> None:
        seen.setdefault(threading.get_ident(), set()).add(name)

    class Badge:
        identity = "one"

        def headers(self) -> dict[str, str]:
            note("headers")
            return {"Authorization": "Bearer local-key"}

    def hook(record: TurnRecord) -> None:
        note("record")

    def payload(body: dict[str, Any]) -> None:
        note("payload")

    with LocalServer() as server, provider_for(server, transport=transport, credential=Badge(), hooks=hook) as provider:
        together = threading.Barrier(THREADS)

        def call() -> int:
            together.wait(DEADLINE)
            assert provider.complete("Hello", on_payload=payload).text == "Heard: Hello (context: 1)"
            return threading.get_ident()

        callers = {future.result(DEADLINE) for future in [in_thread(call) for _ in range(THREADS)]}
    assert seen == dict.fromkeys(callers, {"headers", "record", "payload"})


def test_max_size_bounds_the_websockets_of_a_process() -> None:
    """A call above it waits for a place, as long as ``Timeouts.pool`` says; over HTTP there is no such limit."""
    stall = faults.Stall(after=4)
    for transport in ("websocket", "http_sse"):
        with LocalServer() as server, provider_for(server, transport=transport, pool=PoolOptions(max_size=2)) as provider:
            with server.fault(stall, when=asks("held")) as placed:
                held = [in_thread(lambda n=n: provider.complete(f"held {n}").text) for n in range(2)]  # type: ignore[misc]
                server.requests.wait(2)
                placed.wait()
                if transport == "websocket":
                    with pytest.raises(PoolTimeout) as caught:
                        provider.complete("one more", timeouts={"pool": 0.1})
                    assert caught.value.details["leased"] == caught.value.details["max_size"] == 2
                else:
                    assert provider.complete("one more").text == "Heard: one more (context: 1)"
                stall.release()
                assert [future.result(DEADLINE) for future in held] == [f"Heard: held {n} (context: 1)" for n in range(2)]
