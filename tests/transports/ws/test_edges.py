"""What a reviewer broke once: headers by case, late ends, streams that nobody goes on with, stale sockets, odd events."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from typing import Any

import pytest

from pixir_sync import (
    Cancelled,
    ConnectionLost,
    DeadlineExceeded,
    FirstEventTimeout,
    Network,
    PoolOptions,
    Provider,
    RetryPolicy,
    TotalTimeout,
)
from pixir_sync.local import LocalServer
from tests.support.events import completed, created, response
from tests.support.ws_peer import Wire, answering, conversation
from tests.transports.ws.conftest import PeerOf, ProviderOf
from tests.transports.ws.turn_helpers import Talk, how, quick

BARE_DONE = {"type": "response.done"}


@pytest.mark.parametrize("own", ["user-agent", "USER-AGENT"])
def test_a_header_is_sent_once_whatever_its_case(own: str, peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """The user's own wins over ours, the credential over everybody's; no name is there twice."""
    peer = peer_of(answering())
    network = Network(ca_bundle=peer.ca_file, trust_env=False, headers={own: "mine"})
    provider = provider_of(peer, network=network)
    provider.complete("hi", headers={"authorization": "Bearer other", "X-One": "1"})
    head = peer.connections[0].head.decode().lower().split("\r\n")
    names = [line.split(":")[0] for line in head[1:] if line]
    assert len(names) == len(set(names))
    assert "user-agent: mine" in head and "authorization: bearer sk-test" in head and "x-one: 1" in head


@pytest.mark.row("C1")
def test_a_header_is_sent_once_over_http_too() -> None:
    """Both transports put headers together alike."""
    network = Network(headers={"user-agent": "mine"})
    with LocalServer() as server, Provider(
        model="m", api_key=server.api_key, base_url=server.base_url, transport="http_sse", network=network
    ) as provider:
        provider.complete("hi", headers={"authorization": "Bearer other"})
        assert server.requests[0].headers["user-agent"] == "mine"
        assert server.requests[0].headers["authorization"] == f"Bearer {server.api_key}"


@pytest.mark.parametrize("late", [{"type": "response.done", "response": response("resp_1", status="completed")}, BARE_DONE])
@pytest.mark.parametrize("between", [[], [{"type": "codex.rate_limits"}]])
def test_the_late_end_of_a_response_is_not_the_next_ones(
    late: dict[str, Any], between: list[dict[str, Any]], peer_of: PeerOf, provider_of: ProviderOf
) -> None:
    """Also behind an event that is of no response."""

    def second(wire: Wire, create: Any) -> None:
        wire.send_all([*between, late])
        wire.answer("two", to=create)

    talk = Talk(provider_of(peer_of(conversation("one", second))))
    assert talk.say("a").response_id == "resp_1"
    turn = talk.say("b")
    assert (turn.text, turn.response_id) == ("two", "resp_2")


def test_a_gateway_with_one_id_for_all_is_understood(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """The same response id each time: an answer that has begun is this turn's."""
    delta = {"type": "response.output_text.delta", "delta": "hi", "item_id": "m", "output_index": 0}
    events = [created("same"), delta, completed(response("same", text="hi"))]
    talk = Talk(provider_of(peer_of(conversation(events, events, events[1:]))))
    assert [talk.say(text).text for text in ("a", "b", "c")] == ["hi"] * 3


def begun(provider: Provider, session: str = "s") -> Any:
    stream = provider.stream("hi", session=session)
    next(stream)
    return stream


def half(wire: Wire) -> None:
    wire.read_create()
    wire.send(created("resp_1"))
    wire.hold()


@pytest.mark.row("B15")
@pytest.mark.parametrize("how_left", ["cancelled", "closed elsewhere", "cancelled elsewhere"])
def test_a_cancelled_stream_keeps_nobody_waiting(how_left: str, peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Its session is free at once, although nobody goes on with the stream and somebody still holds it."""
    peer = peer_of([half, answering()])
    provider = provider_of(peer, timeouts={"pool": 5})
    streams = []
    if how_left == "cancelled":
        streams.append(begun(provider))
    else:
        worker = threading.Thread(target=lambda: streams.append(begun(provider)))
        worker.start()
        worker.join(5)
    (streams[0].close if how_left == "closed elsewhere" else streams[0].cancel)()
    turn = provider.complete("again", session="s")
    assert turn.text and how(turn) == "caller_cancelled"
    with pytest.raises(Cancelled):
        streams[0].result()
    assert provider.stats()["websocket"]["pool"]["leased"] == 0


@pytest.mark.row("B16")
def test_a_stream_that_is_held_does_not_outlive_close(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """`close` leaves no connection and no thread, whoever still holds a stream in the middle."""
    peer = peer_of(half)
    before = set(threading.enumerate())
    provider = provider_of(peer)
    stream = begun(provider)
    provider.close()
    assert provider.stats()["connections"]["live"] == 0
    left = set(threading.enumerate()) - before
    assert not any(thread.name == "pixir-keepalive" for thread in left)
    del stream


@pytest.mark.parametrize("odd", [{"type": ["x"]}, {"type": {}}, {}, [], 5, None])
def test_what_is_no_event_is_counted_and_no_progress(odd: Any, peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """JSON that is no event does not end the stream; nor does it keep a silent one alive."""

    said = json.dumps(odd)

    def odd_one(wire: Wire, create: Any) -> None:
        wire.send(said)
        wire.answer("ok", to=create)

    def drip(wire: Wire, create: Any) -> None:
        with suppress(OSError):
            while not wire.gone.wait(0.1):
                wire.send(said)

    provider = provider_of(peer_of([conversation(odd_one, drip)]), timeouts={"idle": 1, "total": 8})
    turn = provider.complete("hi", session="s")
    assert turn.text == "ok" and turn.provider_metadata["malformed_events"] == 1
    with pytest.raises(FirstEventTimeout):
        provider.complete("hi", session="s")


@pytest.mark.parametrize("policy", [quick(), RetryPolicy(max_retries=0, replay="never")])
def test_a_stale_socket_is_replaced_unseen(policy: RetryPolicy, peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Nothing was sent on it: a fresh one costs no retry, whatever the replay policy, also where the caller owns the context."""
    provider = provider_of(peer_of([answering(1), answering(1), answering(1)]), retry=policy)
    first = provider.complete("one", session="s", store=True)
    provider.drop_connections()
    second = provider.complete("two", session="s", store=True, previous_response_id=first.response_id)
    assert (second.text, second.provider_metadata["attempts"]) in {("ok", 1), ("ok", 2)}
    provider.drop_connections()
    assert provider.complete("three", session="s").text == "ok"


@pytest.mark.parametrize("code", [1000, 1008, 1009, 4402])
def test_how_an_idle_connection_ended_is_no_turns_error(code: int, peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Whatever the server said when it closed: nothing was asked then."""
    go = threading.Event()

    def close_idle(wire: Wire) -> None:
        wire.answer("one", to=wire.read_create())
        go.wait(5)
        wire.close(code)
        wire.expect_closed()

    peer = peer_of([close_idle, answering()])
    talk = Talk(provider_of(peer))
    talk.say("a")
    go.set()
    peer.connections[0].gone.wait(5)
    assert talk.say("b").text == "ok"


@pytest.mark.row("B13")
def test_what_is_retained_is_the_input(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Instructions, sent every turn, do not count again and again."""
    provider = provider_of(peer_of(answering()), pool=PoolOptions(max_retained_bytes=20_000))
    talk = Talk(provider, system_prompt="x" * 5_000)
    assert [how(talk.say("short")) for _ in range(8)] == ["no_previous_response", *["delta"] * 7]


def test_a_late_cancel_does_not_touch_the_next_call(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """A cancel that looked at its list before the call let go, and comes to act when the connection is another call's."""
    stops: list[Any] = []
    provider = provider_of(peer_of(conversation("one", "two")))
    with provider.stream("a", session="s") as stream:
        next(stream)
        stops += stream._turn.token._wakers.values()
        stream.result()
    with provider.stream("b", session="s") as second:
        next(second)
        for late in stops:
            late()
        assert second.result().text == "two"
    assert stops and second.result().provider_metadata["connection_reused"]


def test_an_empty_response_id_is_no_id(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """It cannot be continued from."""
    events = [created(""), completed(response("", text="hi"))]
    talk = Talk(provider_of(peer_of(conversation(events, events))))
    assert [how(talk.say(text)) for text in "ab"] == ["no_previous_response", "response_failed"]


def flood(wire: Wire) -> None:
    """Events without end, as fast as they are taken."""
    noise = b'{"type":"x.noise"}'
    with suppress(OSError):
        while not wire.gone.is_set():
            wire.raw((bytes([0x81, len(noise)]) + noise) * 3_000)


def test_a_flood_before_the_request_has_a_limit(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """A server that never stops talking between two turns cannot keep the next one from its limits."""
    peer = peer_of(conversation("one", then=flood))
    provider = provider_of(peer, timeouts={"first_event": 1, "idle": 1, "total": 3})
    provider.complete("a", session="s")
    with pytest.raises((DeadlineExceeded, ConnectionLost)):  # which limit: that depends on who is faster
        provider.complete("b", session="s")


def test_a_flood_of_events_does_not_outlast_the_total_limit(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Where there is always something to read the limit for the whole call holds all the same."""

    def endless(wire: Wire, create: Any) -> None:
        flood(wire)

    provider = provider_of(peer_of(conversation(endless)), timeouts={"total": 1})
    began = time.monotonic()
    with pytest.raises(TotalTimeout):
        provider.complete("a", session="s")
    assert time.monotonic() - began < 10


@pytest.mark.row("B9")
def test_a_response_that_the_caller_names_is_continued_where_it_is_known(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Without a session: of several idle connections the one whose last response it was."""
    peer = peer_of(answering())
    provider = provider_of(peer)
    streams = [provider.stream("one"), provider.stream("two")]
    for stream in streams:
        next(stream)
    ids = [stream.result().response_id for stream in streams]
    for id in reversed(ids):
        provider.complete("more", previous_response_id=id)
    asked = [[create["input"][0]["content"] for create in map(json.loads, (f.payload for f in wire.frames if f.opcode == 1))]
             for wire in peer.connections]  # fmt: skip
    assert asked == [["one", "more"], ["two", "more"]]
    creates = [json.loads([f for f in wire.frames if f.opcode == 1][1].payload) for wire in peer.connections]
    assert [create["previous_response_id"] for create in creates] == ids
