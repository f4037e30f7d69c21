"""What the tests of `Provider` share: a transport that plays batches of events, a provider for a server, a peer at any path."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Protocol

from pixir_sync import Network, Provider, RetryPolicy
from pixir_sync.transports.base import Call, Transport
from tests.support.events import text_response
from tests.support.peer import Conn, ScriptedPeer
from tests.support.ws_peer import WebSocketPeer, Wire, conversation

Json = dict[str, Any]

__all__ = ["QUICK", "FakeTransport", "anywhere", "provider_for"]

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


def anywhere(transport: str, seen: list[tuple[str, Json]]) -> ScriptedPeer | WebSocketPeer:
    """A peer that answers the first request on each connection, at whatever path; ``seen`` gets the path and the body of each."""

    def over_http(conn: Conn) -> None:
        request = conn.read_request()
        seen.append((request.path, request.json))
        conn.start_sse()
        for event in text_response("ok"):
            conn.sse(event)
        conn.finish()

    def over_websocket(wire: Wire, create: Json) -> None:
        seen.append((wire.request.path, create))
        wire.answer("ok", to=create)

    return WebSocketPeer(conversation(over_websocket)) if transport == "websocket" else ScriptedPeer(over_http)
