"""What the tests of `Provider` share: a transport that plays batches of events, a peer's script that answers call after call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Protocol

from pixir_sync import Network, Provider, RetryPolicy
from pixir_sync.transports.base import Call, Transport
from tests.support.peer import Conn, Script

Json = dict[str, Any]

__all__ = ["QUICK", "FakeTransport", "answers", "provider_for", "refusing"]

QUICK = RetryPolicy(initial_delay=0.001, jitter=0)
"""The default policy without its waits."""

Play = Callable[[Call], Iterable[list[Json]]]


class FakeTransport(Transport):
    """Plays one script per attempt, the last one again and again; a script is batches of events, or makes them of the call."""

    name: ClassVar[str] = "fake"

    def __init__(self, *scripts: Play | Iterable[list[Json]]) -> None:
        self.scripts = scripts
        self.calls: list[Call] = []
        self.left = 0
        self.closed = 0

    def attempt(self, call: Call) -> Iterator[list[Json]]:
        script = self.scripts[min(len(self.calls), len(self.scripts) - 1)]
        self.calls.append(call)
        call.evidence.active_transport = self.name
        try:
            yield from script(call) if callable(script) else script
        finally:
            self.left += 1

    def close(self) -> None:
        self.closed += 1


class _Place(Protocol):
    @property
    def base_url(self) -> str: ...


def provider_for(place: _Place, **options: Any) -> Provider:
    """A provider for a `LocalServer` or a `ScriptedPeer`, with a key, a model, short waits and nothing of the environment."""
    given = {
        "base_url": place.base_url,
        "model": "gpt-5.5",
        "retry": QUICK,
        "timeouts": 5,
        "network": Network(trust_env=False),
    }
    if "api_key" not in options and "credential" not in options:
        given["api_key"] = getattr(place, "api_key", "peer-key")
    return Provider(**{**given, **options})


def answers(*steps: list[Json] | Callable[[Conn], object]) -> Script:
    """A script for all connections of a peer: the n-th request gets the n-th step, those after it the last one.

    A step is a list of events, or a callable that says what to do.
    """
    lock = threading.Lock()
    left = iter(range(1 << 30))

    def script(conn: Conn) -> None:
        while True:
            conn.read_request()
            with lock:
                number = next(left)
            step = steps[min(number, len(steps) - 1)]
            if callable(step):
                step(conn)
                if conn.sock.fileno() < 0:
                    return
            else:
                conn.start_sse()
                for event in step:
                    conn.sse(event)
                conn.finish()

    return script


def refusing(status: int, body: Any = b"", headers: dict[str, str] | None = None) -> Callable[[Conn], object]:
    """A step for `answers`: a whole response with this status."""
    return lambda conn: conn.respond(status, body, headers)
