"""Where no WebSocket can be had: what a call then does, row by row of the replay table, on real sockets (row B17)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack

import pytest

from pixir_sync import (
    ConnectFailed,
    HandshakeRefused,
    Network,
    NotAuthenticated,
    Overloaded,
    PermissionDenied,
    PixirError,
    Provider,
    ProviderError,
    QuotaExceeded,
    RateLimited,
    user,
)
from pixir_sync.transports.ws.gate import Gate
from tests.support.events import Json
from tests.support.ws_peer import Script, Wire, answering
from tests.transports.http.helpers import full_backlog, took, wait_until
from tests.transports.ws.conftest import PeerOf, ProviderOf
from tests.transports.ws.turn_helpers import Both, Clock, Talk, accepting, by, delivered_over_http, never, quick, refusing


@pytest.fixture
def both(peer_of: PeerOf, provider_of: ProviderOf, stack: ExitStack, tls: bool) -> Both:
    return Both(peer_of, provider_of, stack, tls)


# Certificate not trusted: raise.


@pytest.mark.parametrize("tls", [True])
@pytest.mark.parametrize("transport", ["auto", "websocket"])
def test_an_untrusted_certificate_is_raised(transport: str, both: Both) -> None:
    """It may be an attacker: not over HTTP, not again."""
    provider, peer, http = both(answering(), transport=transport, retry=quick(2), network=Network(trust_env=False))
    with pytest.raises(ConnectFailed) as caught:
        Talk(provider).say("one")
    assert caught.value.details["certificate"] and not caught.value.request_sent
    wait_until(lambda: len(peer.refused) == 1, "the peer to see the refusal")
    assert http.connections == []


# Connect failed or timed out; 3xx, 400, 5xx at the upgrade; 101 then close 1008: HTTP at once, or the retry policy.


def closed_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def test_no_connection_goes_over_http(both: Both, tls: bool) -> None:
    """Nobody listens there: HTTP at once, which says so in its evidence."""
    provider, _, http = both(answering())
    other = Provider(config=provider.config, websocket_url=f"ws{'s' * tls}://127.0.0.1:{closed_port()}/v1/responses")
    with other:
        delivered_over_http(Talk(other).say("one"), "connect_failed")
        delivered_over_http(Talk(other).say("two"), "breaker_open", 1)
    assert len(http.requests) == 2


def test_no_connection_in_time_goes_over_http(both: Both, tls: bool) -> None:
    """Nobody answers there: HTTP when the limit for connecting is over."""
    provider, _, _ = both(answering())
    with full_backlog() as port:
        url = f"ws{'s' * tls}://127.0.0.1:{port}/v1/responses"
        with Provider(config=provider.config, websocket_url=url, timeouts={"connect": 0.3}) as other:
            delivered_over_http(Talk(other).say("one"), "connect_timeout")


def test_without_http_no_connection_is_tried_again(both: Both, tls: bool) -> None:
    """``websocket`` has the retry policy instead, and the error in the end."""
    provider, _, http = both(answering(), http=never)
    url = f"ws{'s' * tls}://127.0.0.1:{closed_port()}/v1/responses"
    with Provider(config=provider.config, websocket_url=url, transport="websocket", retry=quick(2)) as other:
        with pytest.raises(ConnectFailed) as caught:
            Talk(other).say("one")
        assert other.stats()["replays"] == {"connect_failed": 2}
    assert caught.value.partial is not None and caught.value.partial.provider_metadata["attempts"] == 3
    assert http.connections == []


def refused_1008(wire: Wire) -> None:
    wire.accept()
    wire.close(1008, "policy")
    wire.expect_closed()


REFUSALS: dict[str, tuple[Script, type[PixirError], str]] = {
    "301": (refusing(301, headers={"Location": "https://elsewhere.example/"}), HandshakeRefused, "handshake_refused"),
    "400": (refusing(400, {"error": {"message": "no"}}), HandshakeRefused, "handshake_refused"),
    "500": (refusing(500), HandshakeRefused, "handshake_refused"),
    "502": (refusing(502, "<html>bad gateway</html>"), HandshakeRefused, "handshake_refused"),
    "503": (refusing(503, headers={"Retry-After": "0"}), Overloaded, "overloaded"),
    "101, then close 1008": (refused_1008, HandshakeRefused, "handshake_refused"),
}


@pytest.mark.row("B17")
@pytest.mark.parametrize("case", REFUSALS)
def test_a_refused_upgrade_goes_over_http_at_once(case: str, both: Both) -> None:
    """Without a wait, and without another try of the WebSocket in this call."""
    script, _, reason = REFUSALS[case]
    provider, peer, http = both(script, upgrade=False, retry=quick(2))
    delivered_over_http(Talk(provider).say("one"), reason)
    assert len(peer.connections) == len(http.requests) == 1
    assert http.requests[0].json["input"] == [user("one")] and provider.stats()["fallbacks"] == {reason: 1}


@pytest.mark.row("B17")
@pytest.mark.parametrize("case", REFUSALS)
def test_without_http_a_refused_upgrade_is_tried_again(case: str, both: Both) -> None:
    """``websocket`` keeps to the retry policy: so often, and then the error with what the server said."""
    script, kind, _ = REFUSALS[case]
    provider, peer, http = both(script, upgrade=False, transport="websocket", retry=quick(2))
    with pytest.raises(kind) as caught:
        Talk(provider).say("one")
    assert len(peer.connections) == 3 and http.connections == []
    assert caught.value.status == (int(case) if case.isdecimal() else None)
    served, _, _ = both([script, accepting(answering())], upgrade=False, transport="websocket", retry=quick(2))
    assert by(Talk(served).say("one")) == ("websocket", None, 2)


# 404, 405, 426, 501: there is no WebSocket here.


@pytest.mark.row("B17")
@pytest.mark.parametrize("status", [404, 405, 426, 501])
def test_no_websocket_here_is_remembered_for_ten_minutes(status: int, both: Both) -> None:
    """HTTP at once, and for ten minutes no further upgrade; then it is asked again."""
    provider, peer, http = both([refusing(status), accepting(answering())], upgrade=False, retry=quick(2))
    assert provider._websocket is not None
    clock = Clock()
    provider._websocket._gate = Gate(now=clock)
    delivered_over_http(Talk(provider).say("one"), "websocket_unsupported")
    clock.now += 599
    for session in ("a", "b", None):
        delivered_over_http(Talk(provider, session).say("one"), "websocket_unsupported", 1)
    assert len(peer.connections) == 1 and len(http.requests) == 4
    assert provider.stats()["websocket"]["breaker"]["unsupported_for"] == 1
    clock.now += 1
    assert by(Talk(provider).say("one")) == ("websocket", None, 1)


@pytest.mark.row("B17")
@pytest.mark.parametrize("status", [404, 405, 426, 501])
def test_without_http_no_websocket_here_is_the_error(status: int, both: Both) -> None:
    """With what the server said: status, headers, body."""
    script = refusing(status, {"detail": "POST only"}, {"Allow": "POST"})
    provider, peer, http = both(script, upgrade=False, transport="websocket", retry=quick(2))
    with pytest.raises(HandshakeRefused) as caught:
        Talk(provider).say("one")
    ended = caught.value
    assert (ended.status, ended.message, ended.phase, ended.request_sent) == (status, "POST only", "connect", False)
    assert ended.details["headers"]["allow"] == "POST" and json.loads(ended.details["body"]) == {"detail": "POST only"}
    assert len(peer.connections) == 1 and http.connections == []


@pytest.mark.row("B17")
@pytest.mark.parametrize("transport", ["auto", "websocket"])
def test_a_provider_that_names_the_error_is_not_asked_again(transport: str, both: Both) -> None:
    """What no retry can change is no reason for one."""
    body = {"error": {"message": "The model 'm' does not exist", "code": "model_not_found", "type": "invalid_request_error"}}
    provider, peer, _ = both(refusing(404, body), upgrade=False, transport=transport, retry=quick(2),
                             http=lambda conn: (conn.read_request(), conn.respond(404, body)))  # fmt: skip
    with pytest.raises(ProviderError) as caught:
        Talk(provider).say("one")
    assert caught.value.code == "model_not_found" and len(peer.connections) == 1


# 401, 403, 429 at the upgrade: as over HTTP, never a fallback.


class Renewed:
    """A credential whose token is replaced by a refresh."""

    identity = "account"

    def __init__(self) -> None:
        self.tokens, self.refreshed = iter(("first", "second", "third")), 0
        self.token = next(self.tokens)

    def headers(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def refresh(self) -> None:
        self.refreshed += 1
        self.token = next(self.tokens)


@pytest.mark.row("B17", "D3")
@pytest.mark.parametrize("transport", ["auto", "websocket"])
def test_a_refused_key_is_refreshed_once(transport: str, both: Both) -> None:
    """401: one refresh, one more try, with the new token, at once."""
    credential = Renewed()
    provider, peer, http = both([refusing(401), accepting(answering())], upgrade=False, transport=transport, http=never,
                                credential=credential, api_key=None)  # fmt: skip
    assert by(Talk(provider).say("one")) == ("websocket", None, 2)
    assert [wire.request.headers["authorization"] for wire in peer.connections] == ["Bearer first", "Bearer second"]
    assert credential.refreshed == 1 and http.connections == []


@pytest.mark.row("B17")
@pytest.mark.parametrize("transport", ["auto", "websocket"])
@pytest.mark.parametrize("refreshable", [False, True])
def test_a_key_that_stays_refused_is_the_error(transport: str, refreshable: bool, both: Both) -> None:
    """A second 401, or one without anything to refresh."""
    body = {"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}}
    options: Json = {"credential": Renewed(), "api_key": None} if refreshable else {}
    provider, peer, http = both(refusing(401, body), upgrade=False, transport=transport, retry=quick(2), http=never, **options)
    with pytest.raises(NotAuthenticated) as caught:
        Talk(provider).say("one")
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
    assert len(peer.connections) == (2 if refreshable else 1) and http.connections == []


@pytest.mark.row("B17")
@pytest.mark.parametrize("transport", ["auto", "websocket"])
@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (403, {"error": {"message": "not for you"}}, PermissionDenied),
        (429, {"error": {"message": "no credit", "code": "insufficient_quota"}}, QuotaExceeded),
    ],
)
def test_the_providers_own_no_is_raised(status: int, body: Json, kind: type[PixirError], transport: str, both: Both) -> None:
    """Neither over HTTP nor again."""
    provider, peer, http = both(refusing(status, body), upgrade=False, transport=transport, retry=quick(2), http=never)
    with pytest.raises(kind) as caught:
        Talk(provider).say("one")
    assert caught.value.status == status and len(peer.connections) == 1 and http.connections == []
    assert provider.stats()["websocket"]["breaker"]["state"] == "closed"


@pytest.mark.row("B17")
@pytest.mark.parametrize("transport", ["auto", "websocket"])
def test_too_many_requests_waits_as_long_as_the_server_says(transport: str, both: Both) -> None:
    """429 with a Retry-After: the same again after it, on the WebSocket."""
    script = [refusing(429, headers={"Retry-After": "1"}), accepting(answering())]
    provider, peer, http = both(script, upgrade=False, transport=transport, retry=quick(2), http=never)
    with took(1.0, 5.0):
        assert by(Talk(provider).say("one")) == ("websocket", None, 2)
    assert http.connections == [] and len(peer.connections) == 2


@pytest.mark.row("B17")
@pytest.mark.parametrize("transport", ["auto", "websocket"])
def test_too_many_requests_for_too_long_is_the_error(transport: str, both: Both) -> None:
    """Longer than a call may wait for: raised at once, with the delay."""
    script = refusing(429, {"error": {"message": "slow", "code": "slow_down"}}, {"Retry-After": "500"})
    provider, peer, http = both(script, upgrade=False, transport=transport, retry=quick(2), http=never)
    with pytest.raises(RateLimited) as caught:
        Talk(provider).say("one")
    assert caught.value.retry_after == 500 and len(peer.connections) == 1 and http.connections == []
