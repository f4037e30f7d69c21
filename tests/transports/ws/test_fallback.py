"""What follows a failure on an open socket, row by row of the replay table: HTTP, another socket, a retry, or the error."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress

import pytest

from pixir_sync import (
    Cancelled,
    CancelToken,
    ConnectionLost,
    DeadlineExceeded,
    FirstEventTimeout,
    FrameTooLarge,
    IdleTimeout,
    NotAuthenticated,
    PermissionDenied,
    PixirError,
    PoolOptions,
    PoolTimeout,
    ProviderError,
    QuotaExceeded,
    ResponseFailed,
    TotalTimeout,
    WriteTimeout,
    user,
)
from pixir_sync.transports.ws import keepalive, message
from pixir_sync.transports.ws.gate import Gate
from tests.support.events import Json, created, error, text_response
from tests.support.ws_peer import TEXT, Script, Wire, answering, conversation
from tests.transports.http.helpers import in_thread, took
from tests.transports.ws.conftest import PeerOf, ProviderOf
from tests.transports.ws.turn_helpers import (
    Both,
    Clock,
    Talk,
    by,
    cut,
    delivered_over_http,
    how,
    never,
    overlapping,
    quick,
    silent,
)

BEGUN = text_response("Hel", "lo")[:-1]
HOSTED: Json = {"hosted_tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]}


@pytest.fixture
def both(peer_of: PeerOf, provider_of: ProviderOf, stack: ExitStack, tls: bool) -> Both:
    return Both(peer_of, provider_of, stack, tls)


def lose_after(*events: Json) -> Callable[[Wire], None]:
    """Reads a create, sends these, and ends the connection."""

    def script(wire: Wire) -> None:
        wire.read_create()
        wire.send_all(events, at_once=True)
        wire.hang_up()

    return script


# Lost on a reused socket before any event: once, a fresh socket, everything, free.


@pytest.mark.row("A25")
@pytest.mark.parametrize("transport", ["auto", "websocket"])
@pytest.mark.parametrize("session", [None, "s"])
@pytest.mark.parametrize("more", [{}, {"store": True}, HOSTED], ids=["plain", "stored", "hosted"])
def test_lost_on_a_reused_socket_is_replayed_on_a_fresh_one(transport: str, session: str | None, more: Json, both: Both) -> None:
    """Once, at once, whatever the policy's number of retries; nobody sees it but the evidence."""
    provider, peer, http = both([conversation("one", then=cut), answering()], transport=transport, http=never)
    talk = Talk(provider, session, **more)
    talk.say("one")
    turn = talk.say("two")
    assert by(turn) == ("websocket", None, 2) and how(turn) == "websocket_reconnected"
    assert [len(create["input"]) for create in peer.creates] == [1, 1, 3] and http.connections == []
    assert not turn.provider_metadata["connection_reused"]
    assert provider.stats()["replays"] == {"reused_connection_lost": 1}


@pytest.mark.parametrize("transport", ["auto", "websocket"])
def test_it_is_a_fresh_socket_and_not_another_idle_one(transport: str, both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one idle connection was dead, the others may be, too: the server was restarted."""
    monkeypatch.setattr(keepalive, "_TICK", 3600)
    provider, peer, _ = both([*[conversation("one", then=cut)] * 3, answering()], transport=transport, http=never)
    talks = [Talk(provider, None) for _ in range(3)]
    overlapping(provider, *talks)
    assert by(talks[0].say("two")) == ("websocket", None, 2)
    assert len(peer.connections) == 4


@pytest.mark.parametrize("transport", ["auto", "websocket"])
def test_a_reused_socket_that_is_closed_with_1008_is_lost_as_well(transport: str, both: Both) -> None:
    """That close code refuses an upgrade only where it comes right behind one."""

    def leave(wire: Wire) -> None:
        wire.read_create()
        wire.close(1008, "idle for too long")
        wire.expect_closed()

    provider, peer, _ = both([conversation("one", then=leave), answering()], transport=transport, http=never)
    talk = Talk(provider)
    talk.say("one")
    assert by(talk.say("two")) == ("websocket", None, 2) and len(peer.connections) == 2


def test_lost_again_goes_over_http(both: Both) -> None:
    """The fresh socket was lost, too: the row of fresh sockets."""
    provider, peer, http = both([conversation("one", then=cut), cut])
    talk = Talk(provider)
    talk.say("one")
    delivered_over_http(talk.say("two"), "connection_lost", 3)
    assert len(peer.creates) == 3 and [len(request.json["input"]) for request in http.requests] == [3]
    assert "previous_response_id" not in http.requests[0].json


def test_lost_again_without_http_is_the_error(both: Both) -> None:
    """Free once; after that the policy's retries, and here there are none."""
    provider, peer, _ = both([conversation("one", then=cut), cut], transport="websocket", http=never)
    talk = Talk(provider)
    talk.say("one")
    with pytest.raises(ConnectionLost) as caught:
        talk.say("two")
    assert caught.value.request_sent and caught.value.phase == "first_event" and len(peer.creates) == 3


def test_lost_on_a_reused_socket_after_an_event_is_no_free_replay(both: Both) -> None:
    """The response had begun: HTTP, or the retry policy."""
    provider, peer, http = both([conversation("one", then=lose_after(created("resp_2"))), answering()])
    talk = Talk(provider)
    talk.say("one")
    delivered_over_http(talk.say("two"), "connection_lost")
    assert len(peer.creates) == 2 and len(http.requests) == 1


@pytest.mark.parametrize("transport", ["auto", "websocket"])
def test_the_callers_own_context_is_not_replayed_elsewhere(transport: str, both: Both) -> None:
    """What the caller named may have died with the socket."""
    provider, peer, http = both([conversation("one", then=cut)], transport=transport, http=never, retry=quick(2))
    Talk(provider).say("one")
    with pytest.raises(ConnectionLost):
        provider.complete("two", session="s", previous_response_id="resp_1")
    assert len(peer.creates) == 2 and http.connections == []


# Lost on a fresh socket.


@pytest.mark.parametrize("events", [(), BEGUN[:2]], ids=["before created", "after created"])
def test_lost_on_a_fresh_socket_goes_over_http(events: tuple[Json, ...], both: Both) -> None:
    """At once, with everything."""
    provider, _, http = both([lose_after(*events)], retry=quick(2))
    delivered_over_http(Talk(provider).say("one"), "connection_lost")
    assert len(http.requests) == 1


@pytest.mark.parametrize("events", [(), BEGUN[:2]], ids=["before created", "after created"])
def test_lost_on_a_fresh_socket_without_http_is_tried_again(events: tuple[Json, ...], both: Both) -> None:
    """So often as the policy says; then the error."""
    lose = lose_after(*events)
    provider, peer, http = both([lose, lose, answering(), lose, lose, lose], transport="websocket", http=never, retry=quick(2))
    assert by(Talk(provider).say("one")) == ("websocket", None, 3)
    assert provider.stats()["replays"] == {"connection_lost": 2}
    with pytest.raises(ConnectionLost):
        Talk(provider, "other").say("one")
    assert len(peer.creates) == 6 and http.connections == []


@pytest.mark.parametrize("transport", ["auto", "websocket"])
@pytest.mark.parametrize("more", [{"store": True}, HOSTED], ids=["stored", "hosted"])
def test_what_may_have_had_effects_is_not_run_again(transport: str, more: Json, both: Both) -> None:
    """Kept responses and hosted tools, lost after created: raised."""
    provider, peer, http = both([lose_after(*BEGUN[:2])], transport=transport, http=never, retry=quick(2))
    with pytest.raises(ConnectionLost) as caught:
        Talk(provider, **more).say("one")
    assert caught.value.response_id == "resp_1" and not caught.value.output_seen
    assert len(peer.creates) == 1 and http.connections == []


@pytest.mark.parametrize("more", [{"store": True}, HOSTED], ids=["stored", "hosted"])
def test_before_created_there_were_no_effects(more: Json, both: Both) -> None:
    """The same, lost before created: over HTTP."""
    provider, _, http = both([lose_after()])
    delivered_over_http(Talk(provider, **more).say("one"), "connection_lost")
    assert len(http.requests) == 1


@pytest.mark.parametrize("transport", ["auto", "websocket"])
@pytest.mark.parametrize("reused", [False, True])
def test_after_output_nothing_is_replayed(transport: str, reused: bool, both: Both) -> None:
    """The error has what there was."""
    lose = lose_after(*BEGUN)
    provider, peer, http = both([conversation("one", then=lose) if reused else lose], transport=transport, http=never,
                                retry=quick(2))  # fmt: skip
    talk = Talk(provider)
    if reused:
        talk.say("one")
    with pytest.raises(ConnectionLost) as caught:
        talk.say("two")
    assert caught.value.output_seen and caught.value.partial is not None and caught.value.partial.text == "Hello"
    assert len(peer.connections) == 1 and http.connections == []


@pytest.mark.parametrize("code", [1001, 1005, 1006, 1011, 1012, 1013])
def test_each_close_code_that_is_worth_a_reconnect(code: int, both: Both) -> None:
    """An answer that a close frame ends before its output is tried again."""

    def leave(wire: Wire) -> None:
        wire.read_create()
        if code == 1006:
            wire.hang_up()
        else:
            wire.close(None if code == 1005 else code)
            wire.expect_closed()

    provider, _, _ = both([leave, answering()], transport="websocket", retry=quick(1))
    assert by(Talk(provider).say("one")) == ("websocket", None, 2)
    failing, _, _ = both([leave], transport="websocket")
    with pytest.raises(ConnectionLost) as caught:
        Talk(failing).say("one")
    assert caught.value.partial is not None and caught.value.partial.provider_metadata["close_code"] == code


# Close 1009, and an input over the frame limit.


def too_big(wire: Wire) -> None:
    wire.read_create()
    wire.close(1009, "message too big")
    wire.expect_closed()


@pytest.mark.row("B18")
@pytest.mark.parametrize("reused", [False, True])
def test_too_big_for_the_server_goes_over_http_once(reused: bool, both: Both) -> None:
    """Close 1009 before output; it is no reason for another call, which goes over the WebSocket as before."""
    scripts = [conversation("one", then=too_big) if reused else too_big, answering()]
    provider, peer, http = both(scripts, retry=quick(2))
    talk = Talk(provider)
    if reused:
        talk.say("one")
    delivered_over_http(talk.say("two"), "frame_too_large")
    assert len(http.requests) == 1 and provider.stats()["websocket"]["breaker"]["state"] == "closed"
    assert by(Talk(provider, "other").say("one")) == ("websocket", None, 1) and len(peer.connections) == 2


@pytest.mark.row("B18")
@pytest.mark.parametrize("events", [(), BEGUN], ids=["before output", "after output"])
@pytest.mark.parametrize("transport", ["auto", "websocket"])
def test_too_big_is_otherwise_the_error(transport: str, events: tuple[Json, ...], both: Both) -> None:
    """With ``websocket``, and after output in any case."""

    def say_and_close(wire: Wire) -> None:
        wire.read_create()
        wire.send_all(events, at_once=True)
        wire.close(1009)
        wire.expect_closed()

    provider, peer, http = both([say_and_close], transport=transport, retry=quick(2))
    if transport == "auto" and not events:
        delivered_over_http(Talk(provider).say("one"), "frame_too_large")
        return
    with pytest.raises(FrameTooLarge):
        Talk(provider).say("one")
    assert len(peer.connections) == 1 and http.connections == []


@pytest.mark.row("B18")
@pytest.mark.parametrize("standing", [False, True])
def test_a_request_over_the_limit_goes_over_http_unsent(standing: bool, both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a byte of it goes over the socket, none is opened for it, and one that stands keeps what it holds."""
    monkeypatch.setattr(message, "FRAME_LIMIT", 3_000)
    provider, peer, http = both(answering())
    talk = Talk(provider)
    if standing:
        talk.say("one")
    kept = list(talk.history)
    delivered_over_http(talk.say("x" * 3_000), "frame_too_large", 1)
    assert len(http.requests) == 1 and len(http.requests[0].json["input"]) == len(kept) + 1
    assert len(peer.connections) == len(peer.creates) == int(standing)
    talk.history[:] = kept
    turn = talk.say("small")
    assert how(turn) == ("delta" if standing else "no_previous_response")
    assert provider.stats()["websocket"]["breaker"]["state"] == "closed"


@pytest.mark.row("B18")
def test_it_is_what_goes_out_that_counts(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """A history over the limit whose delta is small stays on the socket; where it has to go in full it goes over HTTP."""
    monkeypatch.setattr(message, "FRAME_LIMIT", 3_000)
    forgotten = error("previous_response_not_found", status=400)
    provider, peer, http = both(conversation(*["ok"] * 4, [forgotten]))
    talk = Talk(provider)
    assert [how(talk.say("x" * 1_500)) for _ in range(4)] == ["no_previous_response", *["delta"] * 3]
    delivered_over_http(talk.say("on"), "frame_too_large", 2)
    assert len(http.requests[0].json["input"]) == 9 and len(peer.creates) == 5


@pytest.mark.row("B18")
@pytest.mark.parametrize("standing", [False, True])
def test_without_http_a_request_over_the_limit_is_the_error(
    standing: bool, both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FrameTooLarge before anything is sent; the connection and what it holds survive."""
    monkeypatch.setattr(message, "FRAME_LIMIT", 3_000)
    provider, peer, http = both(answering(), transport="websocket", http=never, retry=quick(2))
    talk = Talk(provider)
    if standing:
        talk.say("one")
    kept = list(talk.history)
    with pytest.raises(FrameTooLarge) as caught:
        talk.say("x" * 3_000)
    assert (caught.value.phase, caught.value.request_sent) == ("send", False)
    assert len(peer.creates) == int(standing) and http.connections == []
    talk.history[:] = kept
    assert how(talk.say("small")) == ("delta" if standing else "no_previous_response")
    assert len(peer.connections) == 1


@pytest.mark.row("B18")
def test_the_limit_is_sixteen_million_bytes_exactly(both: Both) -> None:
    """A message of that size goes out whole in one frame; one byte more goes over HTTP."""
    provider, peer, http = both(answering())
    bare = len(message._encoded(
        {"model": "m", "store": False}, [user("")], None)[0])  # fmt: skip
    result = provider.complete("x" * (16_000_000 - bare), session="s")
    frame = peer.connections[0].frames[0]
    assert by(result)[0] == "websocket" and len(frame.payload) == message.FRAME_LIMIT == 16_000_000 and frame.fin
    delivered_over_http(provider.complete("x" * (16_000_001 - bare), session="s"), "frame_too_large", 1)
    assert len(http.requests) == 1 and len(peer.connections) == 1


@pytest.mark.row("B18")
@pytest.mark.parametrize("fragments", [1, 400])
def test_the_server_may_send_large_messages(fragments: int, both: Both) -> None:
    """An image of 20 MB in one message is joined, whatever it comes in."""
    image = {"type": "response.image_generation_call.partial_image", "partial_image_b64": "A" * 20_000_000}

    def step(wire: Wire, create: Json) -> None:
        wire.send(image, fragments)
        wire.answer()

    provider, _, _ = both(conversation(step), transport="websocket")
    events = list(provider.stream("one", session="s"))
    assert events[0].data == image


@pytest.mark.row("B18")
def test_a_message_over_64_mib_ends_the_connection(both: Both) -> None:
    """It is refused by its declared size, and not asked for again: nothing of it is collected."""

    def step(wire: Wire, create: Json) -> None:
        wire.frame(TEXT, b'{"type"', length=(64 << 20) + 1)
        wire.expect_closed()

    provider, peer, http = both(conversation(step), transport="websocket", http=never, retry=quick(2))
    with pytest.raises(FrameTooLarge, match="over the limit of 67,108,864 bytes"):
        Talk(provider).say("one")
    assert len(peer.connections) == 1 and http.connections == []


# The provider's own errors.


@pytest.mark.parametrize("transport", ["auto", "websocket"])
@pytest.mark.parametrize(
    "fault",
    [error("server_error", status=500), error("rate_limit_exceeded", "Please try again in 20ms."), error("server_is_overloaded"),
     error("slow_down", status=429, headers={"retry-after-ms": "20"}),
     {"type": "response.failed", "response": {"status": "failed", "error": {"code": "server_error", "message": ""}}}],
)  # fmt: skip
def test_an_error_that_may_be_retried_is_sent_again_in_full(fault: Json, transport: str, both: Both) -> None:
    """On the same socket, after its delay; it counts as a retry, and never goes over HTTP."""
    provider, peer, _ = both(conversation("one", [fault], [fault], "two", "three"), transport=transport, http=never,
                             retry=quick(2))  # fmt: skip
    talk = Talk(provider)
    talk.say("one")
    turn = talk.say("two")
    assert by(turn) == ("websocket", None, 3) and how(turn) == "response_failed"
    assert [len(create["input"]) for create in peer.creates] == [1, 1, 3, 3] and len(peer.connections) == 1
    assert how(talk.say("three")) == "delta"


@pytest.mark.parametrize("transport", ["auto", "websocket"])
def test_the_delay_of_the_server_is_kept(transport: str, both: Both) -> None:
    """``retry-after`` in the error's own headers."""
    fault = error("slow_down", status=429, headers={"retry-after": "1"})
    provider, _, _ = both(conversation([fault], "one"), transport=transport, http=never, retry=quick(1))
    with took(1.0, 5.0):
        Talk(provider).say("one")


@pytest.mark.parametrize("transport", ["auto", "websocket"])
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (error("brand_new_code", type="x"), ResponseFailed), (error("insufficient_quota", status=429), QuotaExceeded),
        (error("invalid_prompt", status=400), ProviderError), (error("permission_denied", status=403), PermissionDenied),
        (error("invalid_api_key", status=401), NotAuthenticated),
    ],
)  # fmt: skip
def test_the_providers_other_errors_are_raised(fault: Json, kind: type[PixirError], transport: str, both: Both) -> None:
    """An unknown code without a status, and all that no retry can change. Only a refused key costs the connection."""
    fault = {**fault, "type": "error", "error": {**fault["error"], "type": "invalid_request_error"}}
    refused = kind is NotAuthenticated
    scripts = [conversation([fault]), conversation("two")] if refused else [conversation([fault], "two")]
    provider, peer, http = both(scripts, transport=transport, http=never, retry=quick(2))
    talk = Talk(provider)
    with pytest.raises(kind):
        talk.say("one")
    assert len(peer.creates) == 1 and http.connections == []
    assert how(talk.say("two")) == "response_failed" and len(peer.connections) == 1 + refused


def test_out_of_credit_is_the_error(both: Both) -> None:
    """Close 4402 of a gateway."""

    def leave(wire: Wire) -> None:
        wire.read_create()
        wire.close(4402, "out of credits")
        wire.expect_closed()

    provider, peer, http = both([leave], http=never, retry=quick(2))
    with pytest.raises(QuotaExceeded):
        Talk(provider).say("one")
    assert len(peer.connections) == 1 and http.connections == []


# Time limits and cancels: raised, over no transport again.


def stalls(wire: Wire) -> None:
    wire.read_create()
    wire.send_all(BEGUN[:2])
    wire.expect_closed()


def deaf(wire: Wire) -> None:
    wire.stop_reading()
    wire.hold()


LIMITS: dict[str, tuple[Script, Json, type[DeadlineExceeded]]] = {
    "first event": (silent, {"first_event": 0.2}, FirstEventTimeout),
    "idle, before the first event": (silent, {"idle": 0.2}, FirstEventTimeout),
    "idle": (stalls, {"idle": 0.2}, IdleTimeout),
    "total": (silent, {"total": 0.3}, TotalTimeout),
    "total, within the stream": (stalls, {"total": 0.3}, TotalTimeout),
    "write": (deaf, {"write": 0.3}, WriteTimeout),
}


@pytest.mark.parametrize("transport", ["auto", "websocket"])
@pytest.mark.parametrize("case", LIMITS)
def test_a_time_limit_is_raised(case: str, transport: str, both: Both) -> None:
    """A ten-minute think is not paid for twice."""
    script, limits, kind = LIMITS[case]
    provider, peer, http = both([script], transport=transport, http=never, retry=quick(2))
    text = "x" * 12_000_000 if case == "write" else "one"
    with pytest.raises(DeadlineExceeded) as caught:
        Talk(provider).say(text, timeouts=limits)
    assert type(caught.value) is kind and len(peer.connections) == 1 and http.connections == []


@pytest.mark.parametrize("transport", ["auto", "websocket"])
def test_the_pools_limit_is_raised(transport: str, both: Both) -> None:
    """No room for one more connection."""
    provider, peer, http = both(answering(), transport=transport, http=never, retry=quick(2), pool=PoolOptions(max_size=1))
    stream = provider.stream("one", session="a")
    next(stream)
    with pytest.raises(PoolTimeout):
        Talk(provider, "b").say("one", timeouts={"pool": 0.2})
    stream.result()
    assert by(Talk(provider, "b").say("one")) == ("websocket", None, 1) and http.connections == []


@pytest.mark.parametrize("transport", ["auto", "websocket"])
@pytest.mark.parametrize("when", ["connecting", "waiting"])
def test_a_cancel_is_raised(when: str, transport: str, both: Both) -> None:
    """While the connection is being opened, or the first event is awaited."""
    token, there = CancelToken(), threading.Event()

    def script(wire: Wire) -> None:
        wire.read_request()
        if when == "waiting":
            wire.accept()
            wire.read_create()
        there.set()
        with suppress(ConnectionError):
            wire.expect_closed()

    provider, peer, http = both(script, upgrade=False, transport=transport, http=never, retry=quick(2))

    def leave() -> None:
        there.wait(5)
        token.cancel()

    leaving = in_thread(leave)
    with pytest.raises(Cancelled):
        Talk(provider).say("one", cancel=token)
    leaving.result(5)
    assert len(peer.connections) == 1 and http.connections == []


# The history survives a fallback.


@pytest.mark.row("A25")
def test_a_conversation_goes_on_over_whatever_there_is(both: Both) -> None:
    """A turn over HTTP in the middle; the next one is full on a fresh socket, and then deltas again."""
    scripts = [conversation("one", then=lose_after(created("resp_2"))), answering()]
    provider, peer, http = both(scripts)
    assert provider._websocket is not None
    clock = Clock()
    provider._websocket._gate = Gate(now=clock)
    talk = Talk(provider)
    turns = [talk.say(f"turn {n}") for n in range(4)]
    assert [by(turn)[0] for turn in turns] == ["websocket", "http_sse", "websocket", "websocket"]
    assert [how(turn) for turn in turns] == ["no_previous_response", None, "websocket_failed", "delta"]
    assert len(peer.creates[2]["input"]) == 5 and len(http.requests[0].json["input"]) == 3


def test_a_turn_over_http_is_not_in_what_the_socket_holds(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket stays and does not know of the turn between: everything goes out, and is right."""
    provider, peer, http = both(answering())
    talk = Talk(provider)
    talk.say("one")
    monkeypatch.setattr(message, "FRAME_LIMIT", 10)
    delivered_over_http(talk.say("two"), "frame_too_large", 1)
    monkeypatch.setattr(message, "FRAME_LIMIT", 16_000_000)
    turn = talk.say("three")
    assert how(turn) == "output_mismatch" and turn.provider_metadata["connection_reused"]
    assert len(peer.creates[1]["input"]) == 5 and len(peer.connections) == 1
