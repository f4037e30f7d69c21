"""What the tests of turns share: how a turn went, answers made of items, peers that refuse, and one that speaks HTTP beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from pixir_sync import Provider, Result, RetryPolicy, user
from tests.support.events import completed, created, response
from tests.support.peer import Conn, Script, ScriptedPeer
from tests.support.tls import authority
from tests.support.ws_peer import Script as WireScript
from tests.support.ws_peer import WebSocketPeer, Wire
from tests.transports.http.helpers import answers

if TYPE_CHECKING:
    from tests.transports.ws.conftest import PeerOf, ProviderOf

Json = dict[str, Any]

__all__ = [
    "Both", "Clock", "Talk", "accepting", "answer_of", "by", "cut", "delivered_over_http", "http_peer", "how", "message", "never",
    "overlapping", "quick", "refusing", "silent", "with_http",
]  # fmt: skip


def how(result: Result) -> str | None:
    """``delta``, or why it was none; None over HTTP."""
    facts = result.provider_metadata
    assert facts["used_previous_response_id"] == facts["continuation_attempted"]
    if facts["used_previous_response_id"]:
        assert facts["continuation_reset_reason"] is None
        return "delta"
    reason: str | None = facts["continuation_reset_reason"]
    return reason


class Talk:
    """A conversation whose history is one list that grows in place, as most programs keep it."""

    def __init__(self, provider: Provider, session: str | None = "s", **options: Any) -> None:
        self.history: list[Any] = []
        self._provider, self.options = provider, {"session": session, **options}

    def say(self, text: str, **options: Any) -> Result:
        """One turn: this text is appended, and the answer's items."""
        self.history.append(user(text))
        result = self._provider.complete(self.history, **{**self.options, **options})
        self.history.extend(result.output_items)
        return result


def overlapping(provider: Provider, *talks: Talk) -> None:
    """The first turn of each conversation while all the others run, so that each has a connection of its own."""
    streams = []
    for number, talk in enumerate(talks):
        talk.history.append(user(f"conversation {number}"))
        streams.append(provider.stream(talk.history, **talk.options))
        next(streams[-1])
    for talk, stream in zip(talks, streams, strict=True):
        talk.history.extend(stream.result().output_items)


def message(text: str, number: int = 1, **more: Any) -> Json:
    """A message as a server puts it out."""
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"id": f"msg_{number}", "type": "message", "status": "completed", "role": "assistant", "content": [part], **more}


def answer_of(items: Sequence[Json], id: str = "resp_1") -> list[Json]:
    """A response that puts out these items."""
    done = [{"type": "response.output_item.done", "output_index": at, "item": item} for at, item in enumerate(items)]
    return [created(id), *done, completed(response(id, output=list(items)))]


def quick(retries: int = 0, **settings: Any) -> RetryPolicy:
    """A retry policy whose own delays are short."""
    return RetryPolicy(max_retries=retries, initial_delay=0.01, **settings)


# For a peer that leaves the upgrade to its scripts.


def refusing(status: int, body: Any = b"", headers: Mapping[str, str | None] | None = None) -> WireScript:
    """Refuses the upgrade."""
    return lambda wire: wire.refuse(status, headers, body)


def accepting(script: WireScript) -> WireScript:
    """Says yes to the upgrade, and goes on with this script."""

    def run(wire: Wire) -> None:
        wire.accept()
        script(wire)

    return run


# For one that does not.


def cut(wire: Wire) -> None:
    """Reads a create, and tears the connection down."""
    wire.read_create()
    wire.cut()


def silent(wire: Wire) -> None:
    """Reads a create, says nothing, and waits for the client to leave."""
    wire.read_create()
    wire.expect_closed()


# HTTP beside it.


def http_peer(stack: ExitStack, tls: bool, script: Script = answers) -> ScriptedPeer:
    """A peer for the same provider's HTTP; by default it answers everything with "hi"."""
    return stack.enter_context(ScriptedPeer(script, ssl_context=authority().server_context() if tls else None))


def with_http(peer: Any, http: ScriptedPeer, **options: Any) -> Json:
    """The options of a provider that has the WebSocket at one peer and HTTP at the other."""
    return {"transport": "auto", "websocket_url": peer.websocket_url, "base_url": http.base_url, **options}


def never(conn: Conn) -> None:
    """The script of an HTTP peer that must not be asked."""
    conn.read_request()
    raise AssertionError("a request came over HTTP")


class Both:
    """A WebSocket peer and an HTTP peer of one provider."""

    def __init__(self, peer_of: PeerOf, provider_of: ProviderOf, stack: ExitStack, tls: bool) -> None:
        self._peer_of, self._provider_of, self._stack, self._tls = peer_of, provider_of, stack, tls

    def __call__(
        self, scripts: Any, *, http: Any = None, upgrade: bool = True, transport: str = "auto", **options: Any
    ) -> tuple[Provider, WebSocketPeer, ScriptedPeer]:
        beside = http_peer(self._stack, self._tls) if http is None else http_peer(self._stack, self._tls, http)
        peer = self._peer_of(scripts, upgrade=upgrade)
        given = {"retry": quick(), **with_http(peer, beside, transport=transport), **options}
        return self._provider_of(peer, **given), peer, beside


def by(result: Result) -> tuple[str, str | None, int]:
    """The transport of a turn, why it was not the first choice, and how many attempts there were."""
    facts = result.provider_metadata
    return facts["active_transport"], facts["fallback_reason"], facts["attempts"]


def delivered_over_http(result: Result, reason: str, attempts: int = 2) -> None:
    """The evidence is of the delivered call: nothing in it speaks of the socket, but why it was left."""
    assert by(result) == ("http_sse", reason, attempts) and result.text == "hi"
    facts = result.provider_metadata
    assert how(result) is None and facts["transport_preference"] == "auto"
    for name in ("websocket_key", "websocket_captured_response_id", "websocket_stored_previous_response_id", "close_code"):
        assert facts[name] is None, name
    assert isinstance(facts["fallback_message"], str) and facts["fallback_message"]


class Clock:
    """Seconds that pass when the test says so; for a `Gate`."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now
