"""What soaks found, each as small as it can be."""

from __future__ import annotations

import gc
import threading
import warnings
from collections.abc import Iterator

import pytest

from pixir_sync import Cancelled, ConnectionLost, Network, Provider, ProviderClosed, RetryPolicy
from pixir_sync.deadline import Deadline
from pixir_sync.local import LocalServer, faults
from pixir_sync.transports.base import Call
from pixir_sync.transports.ws import wire as wire_module
from pixir_sync.transports.ws.lanes import Lane
from tests.support.fake import FakeTransport, Json, provider_for
from tests.support.tls import authority
from tests.support.ws_peer import WebSocketPeer, Wire
from tests.transports.ws.connection_helpers import begun, connected, receive


@pytest.mark.row("B16")
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_a_provider_that_is_forgotten_in_a_cycle_complains_of_nothing(secure: bool) -> None:
    """The collector finalises in any order: not one socket finds that nobody has closed it, idle or in mid-stream."""
    context = authority().server_context() if secure else None
    network = Network(trust_env=False, ca_bundle=authority().ca_file())
    with LocalServer(ssl_context=context) as server, server.fault(faults.Stall(after=4)) as placed:
        provider = provider_for(server, transport="websocket", network=network)
        provider.warm_up("hi", session="idle")
        cycle: list[object] = [provider, provider.stream("hi", session="busy")]
        next(cycle[1])  # type: ignore[call-overload]
        placed.wait()
        cycle.append(cycle)
        del provider, cycle
        with warnings.catch_warnings(record=True) as complaints:
            warnings.simplefilter("always")
            gc.collect()
        assert [str(complaint.message) for complaint in complaints] == []


@pytest.mark.row("B15", "B16")
@pytest.mark.parametrize(("way", "kind"), [("cancel", Cancelled), ("close", ProviderClosed)])
def test_a_cancel_wins_over_a_failure_that_would_be_replayed(way: str, kind: type[Exception]) -> None:
    """The connection is lost in the moment of the cancel: the failure alone would not have ended the call."""

    def lost(call: Call) -> Iterator[list[Json]]:
        stream.cancel() if way == "cancel" else provider.close()
        raise ConnectionLost("lost", phase="send")

    provider = Provider(transport=FakeTransport(lost), api_key="k", retry=RetryPolicy(initial_delay=0.001))
    stream = provider.stream("hi")
    with pytest.raises(kind):
        stream.result()
    assert list(provider.stats()["errors"].values()) == [1]


@pytest.mark.row("B15", "B16")
def test_a_failure_that_ends_the_call_anyway_stays_what_it_is() -> None:
    """There was nothing left to cancel."""

    def lost(call: Call) -> Iterator[list[Json]]:
        stream.cancel()
        raise ConnectionLost("lost", phase="send")

    with Provider(transport=FakeTransport(lost), api_key="k", retry=0) as provider:
        stream = provider.stream("hi")
        with pytest.raises(ConnectionLost):
            stream.result()


def test_dropping_connections_spares_one_that_was_leased_meanwhile() -> None:
    """It was idle when it was looked for, and a stream is on it by the time it would be cut."""
    go = threading.Event()

    def script(wire: Wire) -> None:
        wire.hold(until=go)
        wire.send({"type": "x"})
        wire.hold()

    with WebSocketPeer(script) as peer, connected(peer) as connection:
        lane = begun(connection)
        connection.lose_idle()
        go.set()
        assert receive(connection, lane) == [{"type": "x"}] and connection.alive


def test_a_stream_that_begins_on_a_connection_that_is_being_dropped_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever cut it has decided, and not come to the cut: the stream finds the end before it sends, so that it costs nothing."""
    with WebSocketPeer(lambda wire: wire.hold()) as peer, connected(peer) as connection:
        with monkeypatch.context() as late:
            late.setattr(wire_module.Wire, "wake", lambda wire: None)
            connection.lose_idle()
        with pytest.raises(ConnectionLost):
            connection.begin(Lane(), Deadline(5))
        assert not peer.wait_connections(1)[0].frames
