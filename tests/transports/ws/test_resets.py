"""Why a turn goes in full: one test for each reason (row B3), and the response that the server has forgotten (row B4)."""

from __future__ import annotations

import json
import threading
from typing import Any, get_args

import pytest

from pixir_sync import (
    Cancelled,
    CancelToken,
    ConnectionLost,
    Keepalive,
    PixirError,
    PoolOptions,
    ProviderError,
    TotalTimeout,
    user,
)
from pixir_sync.deadline import Deadline
from pixir_sync.protocol.continuation import Baseline, ResetReason
from pixir_sync.transports.ws import keepalive
from pixir_sync.transports.ws.exchange import Exchange
from pixir_sync.transports.ws.pool import ConnectionPool, PoolKey
from tests.support.events import Json, created, error, failed, text_response
from tests.support.ws_peer import CLOSE, TEXT, Wire, answering, conversation, frame_bytes
from tests.transports.http.helpers import in_thread, took, wait_until
from tests.transports.ws.conftest import PeerOf, ProviderOf
from tests.transports.ws.turn_helpers import Talk, how, silent

BEGUN = text_response("Hel", "lo")[:-1]


@pytest.fixture
def asleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keepalive thread does nothing by itself, so that it is the turn that finds a connection dead."""
    monkeypatch.setattr(keepalive, "_TICK", 3600)


# B3, in the order of the list.


@pytest.mark.row("B3")
@pytest.mark.parametrize("fields", [{"previous_response_id": "resp_9"}, {"conversation": "conv_9"}])
def test_caller_managed(fields: Json, peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """The caller owns the context: sent as it is, with no plan, and nothing is kept of it."""
    peer = peer_of(answering())
    talk = Talk(provider_of(peer))
    talk.say("one")
    assert how(talk.say("two", **fields)) == "caller_managed"
    assert peer.creates[1]["input"] == talk.history[:3]  # no repair, nothing left out
    assert {name: peer.creates[1].get(name) for name in fields} == fields
    assert how(talk.say("three")) == "no_previous_response"


@pytest.mark.row("B3")
def test_continuation_off(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Never a delta, always the same connection."""
    peer = peer_of(answering())
    talk = Talk(provider_of(peer, continuation="off"))
    assert [how(talk.say(text)) for text in ("one", "two", "three")] == ["continuation_off"] * 3
    assert [len(create["input"]) for create in peer.creates] == [1, 3, 5] and len(peer.connections) == 1


@pytest.mark.row("B3")
def test_no_previous_response(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """A session's first turn, and its first after a release."""
    peer = peer_of(answering())
    provider = provider_of(peer)
    talk = Talk(provider)
    assert how(talk.say("one")) == "no_previous_response"
    provider.release("s")
    assert how(talk.say("two")) == "no_previous_response"
    assert len(peer.connections) == 2


@pytest.mark.row("B3")
def test_model_changed(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Another model; and back again."""
    peer = peer_of(answering())
    talk = Talk(provider_of(peer))
    talk.say("one")
    assert [how(talk.say("on", model=model)) for model in ("n", "n", "m")] == ["model_changed", "delta", "model_changed"]
    assert len(peer.connections) == 1


@pytest.mark.row("B3")
def test_request_changed(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Another value of a field that the server inherits."""
    peer = peer_of(answering())
    talk = Talk(provider_of(peer))
    talk.say("one")
    assert [how(talk.say("on", store=store)) for store in (True, True, False)] == ["request_changed", "delta", "request_changed"]


@pytest.mark.row("B3")
def test_prefix_mismatch(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """The history was edited before the last answer."""
    peer = peer_of(answering())
    talk = Talk(provider_of(peer))
    talk.say("one")
    talk.history[0] = user("edited")
    assert how(talk.say("two")) == "prefix_mismatch"


@pytest.mark.row("B3")
def test_output_mismatch(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """The last answer is not in the history."""
    peer = peer_of(answering())
    talk = Talk(provider_of(peer))
    talk.say("one")
    talk.history.pop()
    assert how(talk.say("two")) == "output_mismatch"


@pytest.mark.row("B3")
def test_empty_delta(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Nothing new since the last answer."""
    peer = peer_of(answering())
    provider = provider_of(peer)
    talk = Talk(provider)
    talk.say("one")
    assert how(provider.complete(talk.history, session="s")) == "empty_delta"
    assert len(peer.creates[1]["input"]) == 2


@pytest.mark.row("B3")
def test_previous_response_not_found(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """The server has forgotten the response: see the shapes below."""
    peer = peer_of(conversation("one", [error("previous_response_not_found", status=400)], "two", "three"))
    talk = Talk(provider_of(peer))
    talk.say("one")
    assert how(talk.say("two")) == "previous_response_not_found"
    assert how(talk.say("three")) == "delta"


def bench(key: PoolKey) -> tuple[ConnectionPool, Any]:
    class Connection:
        opened_at = 0.0
        baseline: Baseline | None = None
        reset_reason: str | None = None
        alive = True

        def retire(self) -> None:
            self.alive = False

    pool = ConnectionPool(PoolOptions(), now=lambda: 0.0)
    lease = pool.lease(key, "s", items=[], deadline=Deadline(5), cancel=CancelToken())
    connection = Connection()
    pool.opened(lease, connection)
    pool.give_back(lease, keep=True)
    return pool, connection


@pytest.mark.row("B3")
def test_endpoint_changed() -> None:
    """The session's connection is to another URL. One provider has one URL, so this is the pool's word only."""
    pool, connection = bench(PoolKey("wss://one/v1/responses", "id", (), None))
    there = PoolKey("wss://two/v1/responses", "id", (), None)
    lease = pool.lease(there, "s", items=[], deadline=Deadline(5), cancel=CancelToken())
    assert (lease.connection, lease.reset, connection.alive) == (None, "endpoint_changed", False)
    pool.give_back(lease, keep=False)
    pool.close()


@pytest.mark.row("B3")
def test_headers_changed(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Other headers make another connection; trace ids do not."""
    peer = peer_of(answering())
    talk = Talk(provider_of(peer))
    turns = [talk.say("on", headers=headers) for headers in (None, {"x-team": "a"}, {"x-team": "a", "traceparent": "00-1"}, None)]
    assert [how(turn) for turn in turns] == ["no_previous_response", "headers_changed", "delta", "headers_changed"]
    assert len(peer.connections) == 3
    assert [wire.request.headers.get("x-team") for wire in peer.connections] == [None, "a", None]
    assert [len(create["input"]) for create in peer.creates] == [1, 3, 1, 7]


@pytest.mark.row("B3")
@pytest.mark.parametrize("end", ["cut", "hang_up", "close"])
def test_websocket_reconnected(end: str, peer_of: PeerOf, provider_of: ProviderOf, asleep: None) -> None:
    """The connection ended between two turns, and the turn finds out: another one, unseen."""
    gone = threading.Event()

    def leave(wire: Wire) -> None:
        getattr(wire, end)()
        gone.set()
        if end == "close":
            wire.expect_closed()

    peer = peer_of([conversation("one", then=leave), answering()])
    provider = provider_of(peer)
    talk = Talk(provider)
    talk.say("one")
    assert gone.wait(5)
    turn = talk.say("two")
    assert how(turn) == "websocket_reconnected" and not turn.provider_metadata["connection_reused"]
    assert [len(create["input"]) for create in peer.creates] == [1, 3]
    assert how(talk.say("three")) == "delta"


@pytest.mark.row("B3")
@pytest.mark.parametrize("end", ["cut", "hang_up", "close"])
def test_websocket_reconnected_after_the_keepalive_thread_saw_it(end: str, peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """The same where the connection was found dead before the turn began."""

    def leave(wire: Wire) -> None:
        getattr(wire, end)()
        if end == "close":
            wire.expect_closed()

    peer = peer_of([conversation("one", then=leave), answering()])
    provider = provider_of(peer)
    talk = Talk(provider)
    talk.say("one")
    wait_until(lambda: provider.stats()["connections"]["live"] == 0, "the connection to go")
    turn = talk.say("two")
    assert how(turn) == "websocket_reconnected" and turn.provider_metadata["attempts"] == 1


@pytest.mark.row("B3")
def test_websocket_reconnected_where_it_ended_right_behind_the_answer(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """The close frame comes in one piece with the terminal event: the turn is whole, and the next one is not a failure."""

    def last(wire: Wire) -> None:
        wire.read_create()
        close = frame_bytes(CLOSE, (1000).to_bytes(2, "big"))
        wire.raw(b"".join(frame_bytes(TEXT, json.dumps(event).encode()) for event in text_response("ok")) + close)
        wire.expect_closed()

    peer = peer_of([last, answering()])
    talk = Talk(provider_of(peer))
    assert talk.say("one").text == "ok"
    assert how(talk.say("two")) == "websocket_reconnected"


@pytest.mark.row("B3")
def test_websocket_failed(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """The connection ended within an answer."""

    def fail(wire: Wire) -> None:
        wire.read_create()
        wire.send_all(BEGUN, at_once=True)
        wire.hang_up()

    peer = peer_of([conversation("one", then=fail), answering()])
    talk = Talk(provider_of(peer))
    talk.say("one")
    with pytest.raises(ConnectionLost):
        talk.say("two")
    assert how(talk.say("three")) == "websocket_failed"
    assert how(talk.say("four")) == "delta"


@pytest.mark.row("B3")
@pytest.mark.parametrize("busy", [False, True])
def test_keepalive_failed(busy: bool, peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """The server does not answer a ping: while nobody uses the connection, or within an answer."""

    def mute(wire: Wire) -> None:
        wire.auto_pong = False
        if busy:
            wire.read_create()
            wire.send_all(BEGUN, at_once=True)
        wire.expect_closed()

    peer = peer_of([conversation("one", then=mute), answering()])
    provider = provider_of(peer, keepalive=Keepalive(interval=0.2, timeout=0.3))
    talk = Talk(provider)
    talk.say("one")
    if busy:
        with pytest.raises(ConnectionLost):
            talk.say("two")
    wait_until(lambda: provider.stats()["connections"]["live"] == 0, "the connection to go")
    assert how(talk.say("three")) == "keepalive_failed"


@pytest.mark.row("B3")
@pytest.mark.parametrize("end", [failed(), error(), error("context_length_exceeded", status=400)])
def test_response_failed(end: Json, peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """The last answer ended otherwise than completed: the socket is good, the server's memory is not."""
    peer = peer_of(conversation("one", [created(), end], "three"))
    talk = Talk(provider_of(peer))
    talk.say("one")
    with pytest.raises(ProviderError):
        talk.say("two")
    turn = talk.say("three")
    assert how(turn) == "response_failed" and turn.provider_metadata["connection_reused"]


@pytest.mark.row("B3")
def test_caller_cancelled(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """The caller left in the middle of an answer."""

    def begin(wire: Wire) -> None:
        wire.read_create()
        wire.send_all(BEGUN, at_once=True)
        wire.expect_closed()

    peer = peer_of([conversation("one", then=begin), answering()])
    provider = provider_of(peer)
    talk = Talk(provider)
    talk.say("one")
    stream = provider.stream([*talk.history, user("two")], session="s")
    next(stream)
    stream.cancel()
    with pytest.raises(Cancelled):
        stream.result()
    assert how(talk.say("three")) == "caller_cancelled"


@pytest.mark.row("B3")
def test_caller_cancelled_before_the_answer_began(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """The request is on its way and nothing has come yet."""
    peer = peer_of([conversation("one", then=silent), answering()])
    provider = provider_of(peer)
    talk = Talk(provider)
    talk.say("one")
    token = CancelToken()

    def leave() -> None:
        peer.wait_creates(2)
        token.cancel()

    leaving = in_thread(leave)
    with pytest.raises(Cancelled):
        talk.say("two", cancel=token)
    leaving.result(5)
    assert how(talk.say("three")) == "caller_cancelled"


@pytest.mark.row("B3")
def test_caller_cancelled_whoever_sees_the_end_first(
    peer_of: PeerOf, provider_of: ProviderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection was taken back before its consumer had a say: the cancel is the reason all the same."""
    token = CancelToken()
    failed_as_it_is = Exchange.failed

    def late(self: Exchange, error: PixirError) -> None:
        wait_until(lambda: provider.stats()["websocket"]["pool"]["leased"] == 0, "the lease to be taken back")
        failed_as_it_is(self, error)

    def stop_it(wire: Wire) -> None:
        wire.read_create()
        token.cancel()
        wire.expect_closed()

    monkeypatch.setattr(Exchange, "failed", late)
    peer = peer_of([conversation("one", then=stop_it), answering()])
    provider = provider_of(peer)
    talk = Talk(provider)
    talk.say("one")
    with pytest.raises(Cancelled):
        talk.say("two", cancel=token)
    assert how(talk.say("three")) == "caller_cancelled"


@pytest.mark.row("B3", "B11")
def test_max_lifetime(peer_of: PeerOf, provider_of: ProviderOf, asleep: None) -> None:
    """The connection is as old as one may become: looked at when a turn wants it."""
    peer = peer_of(answering())
    provider = provider_of(peer, pool=PoolOptions(max_lifetime=0.2))
    talk = Talk(provider)
    talk.say("one")
    opened = threading.Event()
    opened.wait(0.25)
    assert how(talk.say("two")) == "max_lifetime"
    assert len(peer.connections) == 2


AGE = error("websocket_connection_limit_reached", "Responses websocket connection limit reached (60 minutes).", status=400)


@pytest.mark.row("B3", "B11")
@pytest.mark.parametrize("transport", ["websocket", "auto"])
@pytest.mark.parametrize("session", [None, "s"])
@pytest.mark.parametrize("lifecycle", [False, True])
def test_max_lifetime_by_the_servers_word(
    transport: str, session: str | None, lifecycle: bool, peer_of: PeerOf, provider_of: ProviderOf
) -> None:
    """The server's age limit in place of an answer: a fresh socket, everything, and the caller sees nothing of it."""
    begun = BEGUN[:2] if lifecycle else []
    peer = peer_of([conversation("one", [*begun, AGE], then=Wire.expect_closed), answering()])
    provider = provider_of(peer, transport=transport)
    talk = Talk(provider, session)
    talk.say("one")
    turn = talk.say("two")
    assert provider.stats()["connections"]["live"] == 1  # the old one is gone
    assert how(turn) == "max_lifetime" and turn.provider_metadata["active_transport"] == "websocket"
    assert [len(create["input"]) for create in peer.creates] == [1, 1, 3]
    assert turn.provider_metadata["attempts"] == 2 and provider.stats()["replays"] == {"max_lifetime": 1}


@pytest.mark.row("B3", "B11")
@pytest.mark.parametrize("transport", ["websocket", "auto"])
@pytest.mark.parametrize("noticed", ["turn", "keepalive"])
def test_max_lifetime_said_between_two_turns(
    transport: str, noticed: str, peer_of: PeerOf, provider_of: ProviderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same word, unasked, to a connection that nobody uses."""
    if noticed == "turn":
        monkeypatch.setattr(keepalive, "_TICK", 3600)
    over, said = threading.Event(), threading.Event()

    def age(wire: Wire) -> None:
        wire.hold(until=over)
        wire.send(AGE)
        wire.close(1000)
        said.set()
        wire.expect_closed()

    peer = peer_of([conversation("one", then=age), answering()])
    provider = provider_of(peer, transport=transport)
    talk = Talk(provider)
    talk.say("one")
    over.set()
    assert said.wait(5)
    if noticed == "keepalive":
        wait_until(lambda: provider.stats()["connections"]["live"] == 0, "the connection to go")
    turn = talk.say("two")
    assert how(turn) == "max_lifetime" and turn.provider_metadata["active_transport"] == "websocket"
    assert [len(create["input"]) for create in peer.creates] == [1, 3]


@pytest.mark.row("B3", "B11")
def test_the_age_limit_twice_is_an_error(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """A server that says it of a fresh connection too is not asked for ever."""
    peer = peer_of([conversation("one", [AGE], then=Wire.expect_closed), conversation([AGE], then=Wire.expect_closed)])
    talk = Talk(provider_of(peer))
    talk.say("one")
    with pytest.raises(ProviderError) as caught:
        talk.say("two")
    assert caught.value.code == "websocket_connection_limit_reached"


@pytest.mark.row("B3", "B13")
def test_retained_input_overflow(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """More input than may be kept, by its bytes: the socket stays, what it held is let go, and the next turn is full."""
    peer = peer_of(answering())
    provider = provider_of(peer, pool=PoolOptions(max_retained_bytes=2_000))
    talk = Talk(provider)
    assert how(talk.say("one")) == "no_previous_response"
    assert how(talk.say("x" * 600)) == "delta"
    assert how(talk.say("y" * 1_500)) == "delta"  # with this one it is too much
    turns = [talk.say("on"), talk.say("on")]
    assert [how(turn) for turn in turns] == ["retained_input_overflow"] * 2
    assert [turn.provider_metadata["connection_reused"] for turn in turns] == [True, True]
    talk.history.clear()
    assert [how(talk.say("small")), how(talk.say("again"))] == ["retained_input_overflow", "delta"]
    assert len(peer.connections) == 1


def test_every_reason_of_the_plan_has_its_test() -> None:
    """A reason that is new in the type has no test here yet."""
    tested = {name.removeprefix("test_") for name in globals()}
    assert set(get_args(ResetReason)) <= tested


# B4

MESSAGE = "Previous response with id 'resp_1' not found."
FLAT: Json = {"type": "error", "code": "previous_response_not_found", "message": MESSAGE, "param": "previous_response_id"}
GENERAL = {"type": "invalid_request_error", "code": "invalid_request_error", "message": MESSAGE, "param": None}
SHAPES: dict[str, Json] = {
    "nested": error("previous_response_not_found", MESSAGE),
    "nested, with status": error("previous_response_not_found", MESSAGE, status=400),
    "nested, without a message": error("previous_response_not_found", ""),
    "flat": FLAT,
    "flat, with status": FLAT | {"status": 400, "sequence_number": 3},
    "in response.failed": failed("previous_response_not_found", MESSAGE, id="resp_2"),
    "only as a message, nested": error(None, MESSAGE, status=400),
    "only as a message, flat": {"type": "error", "message": MESSAGE},
    "only as a message, with a number": {"type": "error", "status": 400, "error": {"code": 400, "message": MESSAGE}},
    "only as a message, with a general code": {"type": "error", "error": GENERAL},
    "only as a message, a bare string": {"type": "error", "error": MESSAGE},
    "only as a message, in response.failed": {
        "type": "response.failed", "response": {"id": "resp_2", "status": "failed", "error": {"message": MESSAGE}}},
    "as a code in the message": error("invalid_request_error", "previous_response_not_found: resp_1"),
}  # fmt: skip


@pytest.mark.row("B4")
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_forgotten_response_is_replayed_in_full(shape: str, begun: bool, peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """In whichever shape it is said: once, everything, on the same socket, also after the response seemed to begin."""
    lifecycle = [{"type": "codex.rate_limits"}, created("resp_2")] if begun else []
    peer = peer_of(conversation("one", [*lifecycle, SHAPES[shape]], "two", "three"))
    provider = provider_of(peer)
    talk = Talk(provider)
    talk.say("one")
    turn = talk.say("two")
    assert how(turn) == "previous_response_not_found" and turn.text == "two"
    assert [create.get("previous_response_id") for create in peer.creates] == ["resp_1" if n == 1 else None for n in range(3)]
    assert [len(create["input"]) for create in peer.creates] == [1, 1, 3]
    assert len(peer.connections) == 1 and turn.provider_metadata["connection_reused"]
    assert provider.stats()["replays"] == {"previous_response_not_found": 1}
    assert how(talk.say("three")) == "delta"


@pytest.mark.row("B4")
@pytest.mark.parametrize("session", [None, "s"])
@pytest.mark.parametrize("transport", ["auto", "websocket"])
def test_a_second_time_is_an_error(session: str | None, transport: str, peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """It is the server's, whatever the transport, and the connection is still good."""
    peer = peer_of(conversation("one", [FLAT], [FLAT | {"status": 400}], "three"))
    talk = Talk(provider_of(peer, transport=transport, retry=2), session=session)
    talk.say("one")
    with pytest.raises(ProviderError) as caught:
        talk.say("two")
    assert (caught.value.code, caught.value.status) == ("previous_response_not_found", 400)
    assert not caught.value.output_seen and len(peer.creates) == 3
    assert how(talk.say("three")) == "previous_response_not_found" and len(peer.connections) == 1


@pytest.mark.row("B4")
@pytest.mark.parametrize("shape", ["nested", "flat", "in response.failed"])
def test_after_output_it_is_not_replayed(shape: str, peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Somebody has seen a part of the answer."""
    peer = peer_of(conversation("one", [*BEGUN, SHAPES[shape]]))
    talk = Talk(provider_of(peer, retry=2))
    talk.say("one")
    with pytest.raises(ProviderError) as caught:
        talk.say("two")
    assert caught.value.code == "previous_response_not_found" and caught.value.output_seen
    assert caught.value.partial is not None and caught.value.partial.text == "Hello"
    assert len(peer.creates) == 2


@pytest.mark.row("B4")
def test_the_replay_has_the_time_that_is_left(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """The limit for the whole call goes on over it."""

    def slow(wire: Wire, create: Json) -> None:
        threading.Event().wait(1.4)
        wire.send(FLAT)

    peer = peer_of(conversation("one", slow, then=silent))
    talk = Talk(provider_of(peer))
    talk.say("one")
    with took(1.9, 3.2), pytest.raises(TotalTimeout):
        talk.say("two", timeouts={"total": 2})
    assert len(peer.creates) == 3


@pytest.mark.row("B4")
def test_a_forgotten_response_of_the_callers_own_is_an_error(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Where the caller names the response, a replay would drop its context."""
    peer = peer_of(conversation([FLAT]))
    with pytest.raises(PixirError) as caught:
        provider_of(peer).complete("on", session="s", previous_response_id="resp_1")
    assert caught.value.code == "previous_response_not_found" and len(peer.creates) == 1


@pytest.mark.row("B4")
def test_the_caller_sees_the_replays_beginning_only_after_the_first(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """A response that had been created shows a second time, under its own id; no error is among the events."""
    peer = peer_of(conversation("one", [created("resp_2"), SHAPES["in response.failed"]], "two"))
    provider = provider_of(peer)
    talk = Talk(provider)
    talk.say("one")
    kinds = [event.type for event in provider.stream([*talk.history, user("two")], session="s")]
    assert kinds.count("response.created") == 2 and kinds[-1] == "response.completed" and "response.failed" not in kinds
