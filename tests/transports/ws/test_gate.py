"""The breaker: when a WebSocket may be opened at all, with a clock of the test's own (row B25)."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from pixir_sync import Cancelled, ConnectFailed, ConnectionLost, ConnectTimeout, HandshakeRefused, PixirError, Provider
from pixir_sync.protocol.errors import (
    InvalidRequest,
    NotAuthenticated,
    PermissionDenied,
    ProviderClosed,
    RateLimited,
    TotalTimeout,
)
from pixir_sync.transports.ws.gate import Gate
from tests.support.events import text_response
from tests.support.ws_peer import Wire, answering, conversation
from tests.transports.ws.conftest import PeerOf, ProviderOf
from tests.transports.ws.turn_helpers import Clock, Talk, accepting, by, cut, how, http_peer, refusing, with_http

URL, OTHER, ID, SECOND = "wss://one/v1/responses", "wss://two/v1/responses", "id 1", "id 2"
DOWN, REFUSED = ConnectFailed("no"), HandshakeRefused("no", status=503)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate(clock: Clock) -> Gate:
    return Gate(now=clock)


def refusal(gate: Gate, url: str = URL, identity: str = ID) -> str | None:
    """The code with which an opening is refused; None where it is allowed."""
    try:
        gate.check(url, identity)
    except ConnectFailed as error:
        assert (error.phase, error.request_sent) == ("connect", False)
        return error.code
    return None


@pytest.mark.row("B25")
@pytest.mark.parametrize("error", [DOWN, ConnectTimeout("late"), ConnectionLost("lost"), REFUSED])
def test_the_pause_doubles_from_five_seconds_to_five_minutes(error: PixirError, gate: Gate, clock: Clock) -> None:
    """After each pause one probe is let through, and its failure makes the next pause twice as long."""
    assert refusal(gate) is None
    gate.failed(URL, ID, error)
    for pause in (5, 10, 20, 40, 80, 160, 300, 300, 300):
        assert gate.snapshot()["state"] == "open" and gate.snapshot()["retry_in"] == pause
        clock.now += pause - 0.001
        assert refusal(gate) == "breaker_open"
        clock.now += 0.001
        assert gate.snapshot()["state"] == "half_open"
        assert refusal(gate) is None, "the probe"
        assert [refusal(gate) for _ in range(3)] == ["breaker_open"] * 3, "one only"
        gate.failed(URL, ID, error)


@pytest.mark.row("B25")
def test_success_forgets_everything(gate: Gate, clock: Clock) -> None:
    """After it all may open, and the next failure's pause is five seconds again."""
    for _ in range(4):
        gate.failed(URL, ID, DOWN)
        clock.now += 300
        assert refusal(gate) is None
    gate.succeeded(URL, ID)
    assert gate.snapshot() == {"state": "closed", "failures": 0, "retry_in": 0.0, "unsupported_for": 0.0}
    assert [refusal(gate) for _ in range(3)] == [None] * 3
    gate.failed(URL, ID, DOWN)
    assert gate.snapshot()["retry_in"] == 5


@pytest.mark.row("B25")
def test_failures_of_openings_under_way_count_once(gate: Gate) -> None:
    """A hundred threads that find the same server dead are one failure."""
    for _ in range(100):
        gate.failed(URL, ID, DOWN)
    assert (gate.snapshot()["failures"], gate.snapshot()["retry_in"]) == (1, 5)


@pytest.mark.row("B25")
@pytest.mark.parametrize("error", [DOWN, ConnectTimeout("late"), ConnectionLost("lost")])
def test_a_network_failure_is_the_urls(error: PixirError, gate: Gate) -> None:
    """Nobody gets there, whoever asks; another URL is another place."""
    gate.failed(URL, ID, error)
    assert [refusal(gate, URL, ID), refusal(gate, URL, SECOND), refusal(gate, OTHER, ID)] == ["breaker_open"] * 2 + [None]


@pytest.mark.row("B25")
@pytest.mark.parametrize("status", [None, 301, 400, 500, 503])
def test_a_refusal_is_the_urls_and_the_credentials(status: int | None, gate: Gate) -> None:
    """It may be meant for this one only."""
    gate.failed(URL, ID, HandshakeRefused("no", status=status))
    assert [refusal(gate, URL, ID), refusal(gate, URL, SECOND), refusal(gate, OTHER, ID)] == ["breaker_open", None, None]


@pytest.mark.row("B25")
def test_one_credentials_success_does_not_excuse_another(gate: Gate, clock: Clock) -> None:
    """It proves that the place can be reached, and nothing about who else is welcome."""
    gate.failed(URL, ID, REFUSED)
    gate.succeeded(URL, SECOND)
    assert refusal(gate, URL, ID) == "breaker_open"
    gate.failed(URL, ID, DOWN)
    clock.now += 5
    assert refusal(gate, URL, SECOND) is None
    gate.succeeded(URL, SECOND)
    assert [refusal(gate, URL, SECOND), refusal(gate, URL, ID)] == [None, None]


@pytest.mark.row("B25")
@pytest.mark.parametrize(
    "error", [NotAuthenticated("no", status=401), PermissionDenied("no", status=403), RateLimited("no", status=429)]
)
def test_the_providers_own_no_is_nobodys_failure(error: PixirError, gate: Gate, clock: Clock) -> None:
    """Somebody is there and talks: nothing is shut, and a probe that hears it has succeeded."""
    gate.failed(URL, ID, error)
    assert refusal(gate) is None
    gate.failed(URL, ID, DOWN)
    clock.now += 5
    assert refusal(gate) is None
    gate.failed(URL, ID, error)
    assert refusal(gate) is None and gate.snapshot()["state"] == "closed"


@pytest.mark.row("B25")
@pytest.mark.parametrize("error", [Cancelled("stop"), ProviderClosed("closed"), TotalTimeout("late"), InvalidRequest("wrong")])
def test_what_is_this_sides_own_says_nothing(error: PixirError, gate: Gate, clock: Clock) -> None:
    """No failure where none was; and a probe that ended so is handed to the next one at once."""
    gate.failed(URL, ID, error)
    assert refusal(gate) is None and gate.snapshot()["failures"] == 0
    gate.failed(URL, ID, DOWN)
    clock.now += 5
    assert refusal(gate) is None
    gate.failed(URL, ID, error)
    assert [refusal(gate), refusal(gate)] == [None, "breaker_open"]


@pytest.mark.row("B25")
def test_an_untrusted_certificate_is_no_outage(gate: Gate) -> None:
    """It is raised to the caller each time, never hidden behind a breaker."""
    gate.failed(URL, ID, ConnectFailed("no", details={"certificate": True}))
    assert refusal(gate) is None


@pytest.mark.row("B25")
def test_a_probe_that_meets_an_untrusted_certificate_is_not_lost(gate: Gate, clock: Clock) -> None:
    """The next one may look again."""
    gate.failed(URL, ID, DOWN)
    clock.now += 5
    assert refusal(gate) is None
    gate.failed(URL, ID, ConnectFailed("no", details={"certificate": True}))
    assert refusal(gate) is None


@pytest.mark.row("B25")
def test_a_probe_of_two_places_blames_the_one_that_failed(gate: Gate, clock: Clock) -> None:
    """The other place's own probe is not used up by it."""
    gate.failed(URL, ID, REFUSED)
    gate.failed(URL, ID, DOWN)
    clock.now += 5
    assert refusal(gate) is None
    gate.failed(URL, ID, DOWN)
    clock.now += 10
    assert refusal(gate) is None
    gate.failed(URL, ID, REFUSED)
    assert refusal(gate, URL, SECOND) is None
    gate.succeeded(URL, SECOND)
    clock.now += 10
    assert refusal(gate) is None


@pytest.mark.row("B25")
def test_a_probe_that_nobody_reports_on_is_given_up(gate: Gate, clock: Clock) -> None:
    """After five minutes another one may try."""
    gate.failed(URL, ID, DOWN)
    clock.now += 5
    assert [refusal(gate), refusal(gate)] == [None, "breaker_open"]
    clock.now += 300
    assert [refusal(gate), refusal(gate)] == [None, "breaker_open"]


@pytest.mark.row("B25")
def test_what_was_refused_here_is_not_counted(gate: Gate) -> None:
    """The gate's own no is no failure of the server's."""
    for code in ("breaker_open", "websocket_unsupported"):
        gate.failed(URL, ID, ConnectFailed("no", code=code))
    assert refusal(gate) is None


def test_no_websocket_here_is_remembered(gate: Gate, clock: Clock) -> None:
    """For this URL, whoever asks, and for so long."""
    gate.avoid(URL, 600)
    assert refusal(gate, URL, ID) == refusal(gate, URL, SECOND) == "websocket_unsupported"
    assert refusal(gate, OTHER, ID) is None
    assert gate.snapshot()["unsupported_for"] == 600
    clock.now += 599.9
    assert refusal(gate) == "websocket_unsupported"
    clock.now += 0.1
    assert refusal(gate) is None


# The same, seen from a provider.


def gated(provider: Provider, clock: Clock) -> Provider:
    """The provider with this clock at its gate."""
    assert provider._websocket is not None
    provider._websocket._gate = Gate(now=clock)
    return provider


@pytest.mark.row("B25")
def test_the_breaker_gates_openings_and_nothing_else(
    peer_of: PeerOf, provider_of: ProviderOf, stack: ExitStack, tls: bool, clock: Clock
) -> None:
    """While it is open a connection that stands serves on; what would need another goes over HTTP, until a probe succeeds."""
    scripts = [accepting(answering()), refusing(500), refusing(502), accepting(answering()), accepting(answering())]
    peer, http = peer_of(scripts, upgrade=False), http_peer(stack, tls)
    provider = gated(provider_of(peer, **with_http(peer, http)), clock)
    old, new = Talk(provider, "old"), Talk(provider, "new")
    assert by(old.say("one"))[:2] == ("websocket", None)

    def breaker() -> tuple[str, float]:
        found = provider.stats()["websocket"]["breaker"]
        return found["state"], found["retry_in"]

    assert breaker() == ("closed", 0)
    assert by(new.say("one"))[:2] == ("http_sse", "handshake_refused")
    assert breaker() == ("open", 5)
    assert by(new.say("two"))[:2] == ("http_sse", "breaker_open")
    turn = old.say("two")
    assert by(turn)[:2] == ("websocket", None) and how(turn) == "delta"
    assert breaker() == ("open", 5), "what a standing connection does says nothing about opening one"
    clock.now += 5
    assert by(new.say("three"))[:2] == ("http_sse", "handshake_refused") and breaker() == ("open", 10)
    clock.now += 9.9
    assert by(new.say("four"))[:2] == ("http_sse", "breaker_open")
    clock.now += 0.1
    assert by(new.say("five"))[:2] == ("websocket", None) and breaker() == ("closed", 0)
    assert by(Talk(provider, "third").say("one"))[:2] == ("websocket", None)
    assert how(old.say("three")) == how(new.say("six")) == "delta"
    assert len(peer.connections) == 5 and len(http.requests) == 4
    assert provider.stats()["fallbacks"] == {"handshake_refused": 2, "breaker_open": 2}


@pytest.mark.row("B25")
def test_only_one_probe_goes_at_a_time(
    peer_of: PeerOf, provider_of: ProviderOf, stack: ExitStack, tls: bool, clock: Clock
) -> None:
    """While one call probes, the others do not wait for it: they go over HTTP."""

    def slow(wire: Wire) -> None:
        wire.accept()
        wire.read_create()
        over_http = Talk(provider, "second").say("two")  # in the middle of the probe
        assert by(over_http)[:2] == ("http_sse", "breaker_open")
        wire.answer()
        wire.hold()

    peer, http = peer_of([refusing(500), slow], upgrade=False), http_peer(stack, tls)
    provider = gated(provider_of(peer, **with_http(peer, http)), clock)
    assert by(Talk(provider, "first").say("one"))[:2] == ("http_sse", "handshake_refused")
    clock.now += 5
    assert by(Talk(provider, "first").say("two"))[:2] == ("websocket", None)
    assert provider.stats()["websocket"]["breaker"]["state"] == "closed"


@pytest.mark.row("B25")
def test_losses_after_output_do_not_count(
    peer_of: PeerOf, provider_of: ProviderOf, stack: ExitStack, tls: bool, clock: Clock
) -> None:
    """The server works, the connection did not hold: the next one is opened at once."""

    def lose(wire: Wire) -> None:
        wire.read_create()
        wire.send_all(text_response("Hel", "lo")[:-1], at_once=True)
        wire.hang_up()

    peer, http = peer_of([lose, lose, answering()]), http_peer(stack, tls)
    provider = gated(provider_of(peer, **with_http(peer, http)), clock)
    for _ in range(2):
        with pytest.raises(ConnectionLost) as caught:
            Talk(provider).say("one")
        assert caught.value.output_seen
    assert provider.stats()["websocket"]["breaker"] == {"state": "closed", "failures": 0, "retry_in": 0, "unsupported_for": 0}
    assert by(Talk(provider).say("one"))[:2] == ("websocket", None)
    assert http.requests == []


@pytest.mark.row("B25")
def test_losses_before_output_count(
    peer_of: PeerOf, provider_of: ProviderOf, stack: ExitStack, tls: bool, clock: Clock
) -> None:
    """A server that takes connections and drops them is as good as none."""
    peer, http = peer_of([cut]), http_peer(stack, tls)
    provider = gated(provider_of(peer, **with_http(peer, http)), clock)
    assert by(Talk(provider).say("one"))[:2] == ("http_sse", "connection_lost")
    assert by(Talk(provider).say("one"))[:2] == ("http_sse", "breaker_open")
    assert provider.stats()["websocket"]["breaker"]["state"] == "open"


@pytest.mark.row("B25")
def test_a_loss_on_a_reused_connection_does_not_count(
    peer_of: PeerOf, provider_of: ProviderOf, stack: ExitStack, tls: bool, clock: Clock
) -> None:
    """It had served, and it was idle: that is how connections end."""
    peer = peer_of([conversation("one", then=cut), answering()])
    provider = gated(provider_of(peer, **with_http(peer, http_peer(stack, tls))), clock)
    talk = Talk(provider)
    talk.say("one")
    assert by(talk.say("two"))[:2] == ("websocket", None) and how(talk.say("three")) == "delta"
    assert provider.stats()["websocket"]["breaker"]["failures"] == 0


@pytest.mark.row("B25")
def test_websocket_knows_no_breaker(peer_of: PeerOf, provider_of: ProviderOf, clock: Clock) -> None:
    """Who asks for a WebSocket gets each attempt made."""
    peer = peer_of([refusing(500), refusing(500), accepting(answering())], upgrade=False)
    provider = gated(provider_of(peer), clock)
    for _ in range(2):
        with pytest.raises(HandshakeRefused):
            Talk(provider).say("one")
    assert by(Talk(provider).say("one"))[:2] == ("websocket", None)


@pytest.mark.row("B25")
def test_a_probe_whose_caller_leaves_is_handed_on(
    peer_of: PeerOf, provider_of: ProviderOf, stack: ExitStack, tls: bool, clock: Clock
) -> None:
    """A call that was cancelled after its connection had opened has proved nothing: the next one probes."""

    def silent(wire: Wire) -> None:
        wire.accept()
        wire.read_create()
        stream.cancel()
        wire.expect_closed()

    peer, http = peer_of([refusing(500), silent, accepting(answering())], upgrade=False), http_peer(stack, tls)
    provider = gated(provider_of(peer, **with_http(peer, http)), clock)
    Talk(provider).say("one")
    clock.now += 5
    stream = provider.stream("two", session="s")
    with pytest.raises(Cancelled):
        stream.result()
    assert by(Talk(provider).say("three"))[:2] == ("websocket", None)
