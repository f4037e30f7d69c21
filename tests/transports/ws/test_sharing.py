"""Who shares a connection: the pool's key, end to end (row B7)."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import pytest

from pixir_sync import Provider
from tests.support.ws_peer import answering
from tests.transports.http.helpers import wait_until
from tests.transports.ws.conftest import PeerOf, ProviderOf
from tests.transports.ws.turn_helpers import Talk, how, overlapping

pytestmark = pytest.mark.row("B7")

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0{}"

# Headers of a call that make it another one's: what the first call sends, and the second.
APART: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "account": ({"ChatGPT-Account-ID": "acct-1"}, {"ChatGPT-Account-ID": "acct-2"}),
    "organization": ({"OpenAI-Organization": "org-1"}, {"OpenAI-Organization": "org-2"}),
    "project": ({"OpenAI-Project": "proj-1"}, {"OpenAI-Project": "proj-2"}),
    "originator": ({"originator": "one"}, {"originator": "two"}),
    "user agent": ({"User-Agent": "one/1"}, {"User-Agent": "one/2"}),
    "beta header": ({"OpenAI-Beta": "a=1"}, {"OpenAI-Beta": "a=1,b=2"}),
    "cookie": ({"Cookie": "a=1"}, {"Cookie": "a=2"}),
    "another header": ({"X-Team": "red"}, {"X-Team": "blue"}),
    "a header more": ({}, {"X-Team": "red"}),
    "a header less": ({"X-Team": "red"}, {}),
    "an empty header": ({}, {"X-Team": ""}),
    "the case of a value": ({"X-Team": "red"}, {"X-Team": "Red"}),
    "a value moved": ({"X-A": "1", "X-B": "2"}, {"X-A": "2", "X-B": "1"}),
    "an authorization": ({}, {"Authorization": "Bearer sk-other"}),
}

# Those that leave it the same.
ALIKE: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    name: ({name: TRACE.format(1)}, {name: TRACE.format(2)})
    for name in ("traceparent", "tracestate", "baggage", "x-request-id", "X-Client-Request-Id", "X-Trace-ID",
                 "x-correlation-id", "b3", "X-B3-TraceId", "X-B3-SpanId", "X-B3-ParentSpanId", "X-B3-Sampled", "X-B3-Flags",
                 "X-Amzn-Trace-Id", "X-Cloud-Trace-Context")
} | {
    "a trace that begins": ({}, {"traceparent": TRACE.format(1)}),
    "a trace that ends": ({"Traceparent": TRACE.format(1)}, {}),
    "the order": ({"X-A": "1", "X-B": "2"}, {"X-B": "2", "X-A": "1"}),
    "the case of a name": ({"X-Team": "red"}, {"x-team": "red"}),
}  # fmt: skip


@pytest.mark.parametrize("what", APART)
def test_another_header_is_another_connection(what: str, peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """The second call has a socket of its own, which was opened with its own header; nothing of the first goes there."""
    peer = peer_of(answering())
    provider = provider_of(peer)
    first, second = APART[what]
    talk = Talk(provider, session=None, headers=first)
    talk.say("one")
    turn = talk.say("two", headers=second)
    assert how(turn) == "no_previous_response" and not turn.provider_metadata["connection_reused"]
    assert len(peer.connections) == 2
    for wire, sent in zip(peer.connections, (first, second), strict=True):
        for name, value in sent.items():
            if name != "Authorization":  # that one the credential has the last word on
                assert wire.request.headers[name.lower()] == value
    again = talk.say("three", headers=second)
    assert how(again) == "delta" and len(peer.connections) == 2


@pytest.mark.parametrize("what", ALIKE)
def test_traces_and_spelling_share_the_connection(what: str, peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Headers that tell calls apart, and the same headers spelt otherwise, keep the socket and the chain on it."""
    peer = peer_of(answering())
    first, second = ALIKE[what]
    for session in ("s", None):
        talk = Talk(provider_of(peer), session=session, headers=first)
        assert [how(talk.say("one")), how(talk.say("two", headers=second))] == ["no_previous_response", "delta"]
    assert len(peer.connections) == 2


def test_a_session_with_other_headers_begins_anew(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """It has one connection at a time: the old one is closed politely, and the evidence says why the turn went in full."""
    peer = peer_of(answering())
    talk = Talk(provider_of(peer))
    talk.say("one")
    assert how(talk.say("two", headers={"X-Team": "blue"})) == "headers_changed"
    assert peer.connections[0].gone.wait(5) and [f.code for f in peer.connections[0].frames if f.opcode == 8] == [1000]
    assert how(talk.say("three", headers={"X-Team": "blue"})) == "delta"
    assert how(talk.say("four")) == "headers_changed"
    assert len(peer.connections) == 3


def test_conversations_without_a_session_keep_theirs_apart(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Two keys, two sockets, both kept: each call finds the one of its own key, though the other holds the same input."""
    peer = peer_of(answering())
    provider = provider_of(peer)
    teams = [Talk(provider, session=None, headers={"X-Team": team}) for team in ("red", "blue")]
    for talk in teams:
        talk.say("the same words")
    for _ in range(3):
        assert [how(talk.say("and again")) for talk in teams] == ["delta", "delta"]
    assert len(peer.connections) == 2
    for wire, team in zip(peer.connections, ("red", "blue"), strict=True):
        assert wire.request.headers["x-team"] == team and sum(frame.opcode == 1 for frame in wire.frames) == 4


# The credential.


class Login:
    """A login whose token is renewed now and then, and whose account may be another one."""

    def __init__(self) -> None:
        self.identity, self.token, self.asked = "account-1", "token-1", 0

    def headers(self) -> Mapping[str, str]:
        self.asked += 1
        return {"Authorization": f"Bearer {self.token}", "ChatGPT-Account-ID": self.identity}


def test_a_rotated_token_keeps_the_connection(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """The identity of a login is its account: a new token behind it goes on on the same socket; another account does not."""
    peer = peer_of(answering())
    login = Login()
    talk = Talk(provider_of(peer, api_key=None, credential=login), session=None)
    talk.say("one")
    for number in range(2, 5):
        login.token = f"token-{number}"
        assert how(talk.say("on")) == "delta"
    assert len(peer.connections) == 1 and login.asked == 4
    login.identity = "account-2"
    assert how(talk.say("on")) == "no_previous_response"
    login.identity = "account-1"
    assert how(talk.say("on")) == "output_mismatch"  # its own connection again, which has not heard the other account's turn
    assert [wire.request.headers["chatgpt-account-id"] for wire in peer.connections] == ["account-1", "account-2"]
    assert [wire.request.headers["authorization"] for wire in peer.connections] == ["Bearer token-1", "Bearer token-4"]


def test_a_key_that_a_function_gives_may_rotate(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Of a callable the identity is the callable."""
    peer = peer_of(answering())
    keys = iter(["sk-1", "sk-2", "sk-3"])
    talk = Talk(provider_of(peer, api_key=lambda: next(keys)))
    assert [how(talk.say("on")) for _ in range(3)] == ["no_previous_response", "delta", "delta"]
    assert [wire.request.headers["authorization"] for wire in peer.connections] == ["Bearer sk-1"]


@pytest.mark.parametrize("session", [None, "s"])
def test_another_key_of_the_environment_is_another_connection(
    session: str | None, peer_of: PeerOf, provider_of: ProviderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an API key the identity is the key itself, wherever it comes from."""
    peer = peer_of(answering())
    monkeypatch.setenv("OPENAI_API_KEY", "sk-first")
    talk = Talk(provider_of(peer, api_key=None), session=session)
    talk.say("one")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-second")
    assert how(talk.say("two")) == ("headers_changed" if session else "no_previous_response")
    assert [wire.request.headers["authorization"] for wire in peer.connections] == ["Bearer sk-first", "Bearer sk-second"]


# Providers: they share nothing, and the options of each are on its own socket.

OPTIONS: dict[str, tuple[dict[str, Any], str, str]] = {
    "api_key": ({"api_key": "sk-other"}, "authorization", "Bearer sk-other"),
    "organization": ({"organization": "org-2"}, "openai-organization", "org-2"),
    "project": ({"project": "proj-2"}, "openai-project", "proj-2"),
    "originator": ({"originator": "mine"}, "originator", "mine"),
    "credential": ({"credential": Login(), "api_key": None}, "chatgpt-account-id", "account-1"),
    "nothing": ({}, "authorization", "Bearer sk-test"),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_two_providers_have_two_sockets(option: str, peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Whatever distinguishes them, and also where nothing does."""
    peer = peer_of(answering())
    given, header, value = OPTIONS[option]
    providers = [provider_of(peer), provider_of(peer, **given)]
    results = [[provider.complete("Hi", session="s") for provider in providers] for _ in range(2)]
    assert [wire.request.headers.get(header) == value for wire in peer.connections] == [option == "nothing", True]
    assert [result.provider_metadata["connection_reused"] for result in results[1]] == [True, True]
    keys = {result.provider_metadata["websocket_key"] for row in results for result in row}
    assert len(keys) == (1 if option == "nothing" else 2)


def test_another_address_is_another_socket(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """base_url and websocket_url, their path and their query: each where it was told to go."""
    peers = [peer_of(answering()) for _ in range(2)]
    options: list[dict[str, Any]] = [
        {}, {"base_url": peers[1].base_url}, {"websocket_url": peers[1].websocket_url},
        {"websocket_url": peers[0].websocket_url + "?region=eu"}, {"base_url": peers[0].base_url + "/eu"},
    ]  # fmt: skip
    results = [provider_of(peers[0], **given).complete("Hi", session="s") for given in options]
    assert [wire.request.path for wire in peers[0].connections] == [
        "/v1/responses", "/v1/responses?region=eu", "/v1/eu/responses"]  # fmt: skip
    assert [wire.request.path for wire in peers[1].connections] == ["/v1/responses"] * 2
    assert len({result.provider_metadata["websocket_key"] for result in results}) == 4  # the second and the third are one place


# What is told of it.


def test_the_key_in_the_evidence_tells_connections_apart_and_nothing_else(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Equal for equal keys, different for different ones; no header, no name, no credential can be read from it."""
    peer = peer_of(answering())
    provider = provider_of(peer, api_key="sk-secret-key", organization="org-secret")
    with ExitStack() as stack:
        ways: list[dict[str, Any]] = [
            {"session": "secret-name"}, {"session": "secret-name", "headers": {"traceparent": "secret-trace"}},
            {"session": "secret-name", "scope": "secret-scope"}, {"session": "secret-other"}, {},
            {"headers": {"X-Team": "secret-team"}},
        ]  # fmt: skip
        results = [provider.complete("Hi", **way) for way in ways]
        pickled: Provider = stack.enter_context(Provider(config=provider.config))
        elsewhere = pickled.complete("Hi", session="secret-name")
    keys = [result.provider_metadata["websocket_key"] for result in results]
    assert keys[0] == keys[1] == elsewhere.provider_metadata["websocket_key"] and len(set(keys)) == 5
    assert all(len(key) == 16 and int(key, 16) >= 0 for key in keys)
    told = json.dumps([[result.provider_metadata for result in results], provider.stats()])
    assert "secret" not in f"{told} {provider!r} {provider._websocket._pool!r}"  # type: ignore[union-attr]


def test_the_longest_match_does_not_tempt(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """A call takes a fresh socket of its own key rather than another key's that holds all of its input."""
    peer = peer_of(answering())
    provider = provider_of(peer)
    talks = [Talk(provider, session=None) for _ in range(3)]
    overlapping(provider, *talks)
    for talk in talks:
        talk.say("more")
    stranger = Talk(provider, session=None, headers={"X-Team": "blue"})
    stranger.history = list(talks[1].history)
    assert how(stranger.say("more")) == "no_previous_response"
    assert len(peer.connections) == 4 and len(json.loads(peer.connections[3].frames[0].payload)["input"]) == 5


class Header(str):
    """A string that can be asked whether anybody has it."""


def test_a_header_of_a_call_is_kept_no_longer_than_its_connection(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """It may hold a key. The provider goes on, without it."""
    provider = provider_of(peer_of(answering()))
    given = Header("a-key")
    held = weakref.ref(given)
    provider.complete("hi", session="chat", headers={"X-Api-Key": given})
    del given
    assert held() is not None, "the pool needs it, to know whose the connection is"
    provider.release("chat")
    wait_until(lambda: gc.collect() >= 0 and held() is None, "the header to be forgotten")
    assert provider.complete("hi", session="chat").text
