"""What authorises a call: the forms of a key, when it is read, and what cannot be sent."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from pixir_sync import ApiKey, ChatGPTToken, Credential, InvalidRequest, Network, NotAuthenticated, PixirError, Provider
from pixir_sync.credentials import CallableKey, EnvironmentKey, check_headers, secrets_of
from pixir_sync.local import HttpError, LocalServer, faults
from tests.support.both import Peer, TransportName
from tests.support.events import text_response
from tests.support.fake import provider_for
from tests.support.ws_peer import WebSocketPeer, Wire


class Token:
    """A credential of the program's own."""

    identity = "account-1"

    def __init__(self, *tokens: str) -> None:
        self.tokens = list(tokens)
        self.calls = 0

    def headers(self) -> Mapping[str, str]:
        self.calls += 1
        return {"Authorization": f"Bearer {self.tokens[0]}", "X-Account": "a-1"}


class Refreshable(Token):
    def refresh(self) -> None:
        del self.tokens[0]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalServer]:
    """A server, and no key in the environment."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with LocalServer() as running:
        yield running


@pytest.mark.row("D1")
@pytest.mark.parametrize(
    "option",
    [
        lambda key: {"api_key": key},
        lambda key: {"api_key": lambda: key},
        lambda key: {"credential": Token(key)},
        lambda key: {"credential": ApiKey(key)},
        lambda key: {"credential": CallableKey(lambda: key)},
    ],
    ids=["argument", "callable", "object", "ApiKey", "CallableKey"],
)
def test_each_form_of_a_key_is_taken(
    server: LocalServer, transport: TransportName, option: Callable[[str], dict[str, Any]]
) -> None:
    """The server sees the bearer, for a stream and for the other requests alike."""
    with provider_for(server, transport=transport, **option(server.api_key)) as provider:
        assert provider.complete("Hi").text == "Heard: Hi (context: 1)"
        assert provider.models() == ["local-model"]
    assert {request.headers["Authorization"] for request in server.requests} == {f"Bearer {server.api_key}"}


@pytest.mark.row("D1")
def test_the_environment_is_read_at_call_time(
    server: LocalServer, transport: TransportName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider that was made without a key finds the one that is set later; without one the error names the variable.

    A connection that was opened with another key is not used for it.
    """
    with provider_for(server, api_key=None, transport=transport) as provider:
        for call in (lambda: provider.complete("Hi"), provider.models):
            with pytest.raises(NotAuthenticated, match="OPENAI_API_KEY") as caught:
                call()
            assert server.connections == 0 and caught.value.status is None
        monkeypatch.setenv("OPENAI_API_KEY", f"  {server.api_key}\n")
        assert provider.complete("Hi").text == "Heard: Hi (context: 1)"
        monkeypatch.setenv("OPENAI_API_KEY", "other")
        with pytest.raises(NotAuthenticated) as caught:
            provider.complete("Hi")
        assert caught.value.status == 401 and caught.value.request_sent == (transport == "http_sse")
        monkeypatch.setenv("OPENAI_API_KEY", " ")
        with pytest.raises(NotAuthenticated, match="OPENAI_API_KEY"):
            provider.complete("Hi")


@pytest.mark.row("D1")
def test_a_key_that_was_given_wins_over_the_environment(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the environment's is not even looked at."""
    monkeypatch.setenv("OPENAI_API_KEY", "not-this")
    with provider_for(server, api_key=server.api_key) as provider:
        assert provider.complete("Hi").finish_reason == "stop"


@pytest.mark.row("D1")
def test_a_preset_has_its_own_variable(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of one service is never sent to another."""
    monkeypatch.setenv("OPENAI_API_KEY", server.api_key)
    monkeypatch.delenv("XAI_API_KEY", raising=False)
    with provider_for(server, api_key=None, endpoint="xai") as provider:
        with pytest.raises(NotAuthenticated, match="XAI_API_KEY"):
            provider.complete("Hi")
        assert server.connections == 0
        monkeypatch.setenv("XAI_API_KEY", server.api_key)
        assert provider.complete("Hi").finish_reason == "stop"


@pytest.mark.row("D1")
def test_a_credential_gives_its_headers_once_per_attempt(transport: TransportName) -> None:
    """All of them are sent, over those of the call; a retry asks again, though an open WebSocket has no use for the answer."""
    token = Token("t-123")
    replies = ([HttpError(500)], text_response("ok"))
    with Peer(transport, *replies, api_key="t-123") as peer, peer.provider(credential=token) as provider:
        provider.complete("Hi", headers={"x-account": "other", "X-Trace": "7"})
        assert token.calls == len(peer.bodies) == 2 and len(peer.heads) == (1 if transport == "websocket" else 2)
    for request in peer.heads:
        found = {name: request.headers[name] for name in ("authorization", "x-account", "x-trace")}
        assert found == {"authorization": "Bearer t-123", "x-account": "a-1", "x-trace": "7"}


@pytest.mark.row("D1")
def test_an_identity_is_not_read_before_it_is_needed(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A credential whose key is not there yet can be given."""
    monkeypatch.delenv("LATER_KEY", raising=False)
    with provider_for(server, credential=EnvironmentKey("LATER_KEY")) as provider:
        with pytest.raises(NotAuthenticated, match="LATER_KEY"):
            provider.complete("Hi")
        monkeypatch.setenv("LATER_KEY", server.api_key)
        assert provider.complete("Hi").finish_reason == "stop"


@pytest.mark.row("D3")
def test_a_refreshable_credential_is_refreshed_once(server: LocalServer, transport: TransportName) -> None:
    """After one 401 the refreshed token is used; a second 401 is the error."""
    with provider_for(server, credential=Refreshable("old", server.api_key), transport=transport) as provider:
        result = provider.complete("Hi")
        assert result.provider_metadata["attempts"] == 2 and provider.stats()["replays"] == {"credential_refreshed": 1}
    with provider_for(server, credential=Refreshable("old", "older", "oldest"), transport=transport) as provider:
        with pytest.raises(NotAuthenticated) as caught:
            provider.complete("Hi")
        assert caught.value.status == 401
    assert len(server.requests if transport == "http_sse" else server.upgrades) == 4


def _fails() -> str:
    raise OSError("the vault with sk-secret is shut")


class NoRefresh(Token):
    def refresh(self) -> None:
        raise OSError("the vault is shut")


@pytest.mark.row("D1")
def test_a_credential_that_fails_is_not_authenticated(server: LocalServer, transport: TransportName) -> None:
    """What it raised is the cause, and is not quoted; nothing was sent."""
    with provider_for(server, api_key=_fails, transport=transport) as provider:
        with pytest.raises(NotAuthenticated, match="OSError") as caught:
            provider.complete("Hi")
        assert "sk-secret" not in caught.value.message and caught.value.phase == "auth"
        assert isinstance(caught.value.__cause__, OSError) and server.connections == 0
    with provider_for(server, credential=NoRefresh("old"), transport=transport) as provider:
        with pytest.raises(NotAuthenticated, match="refreshed: OSError"):
            provider.complete("Hi")


BAD_KEYS = ["sk-a\nb", "sk-a\r\nX-Evil: 1", "sk-\x00", "sk-\x7f", "sk a", "sk-é", "sk-\u200b", " sk-a"]


@pytest.mark.row("D5")
@pytest.mark.parametrize("key", BAD_KEYS, ids=ascii)
def test_a_key_that_cannot_be_sent_is_refused(
    server: LocalServer, transport: TransportName, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """In each of its forms, before any network, and without a word of it."""
    monkeypatch.setenv("OPENAI_API_KEY", key.replace("\0", "\x01"))  # no environment can hold a zero

    def refused(message: str, options: dict[str, Any]) -> None:
        with pytest.raises(InvalidRequest, match=message) as caught:
            with provider_for(server, transport=transport, **options) as provider:
                provider.complete("Hi")
        assert "sk" not in f"{caught.value.message.replace('api_key', '')}{caught.value!r}"

    refused("api_key", {"api_key": key})
    refused(r"api_key\(\)", {"api_key": lambda: key})
    if key.strip() == key:
        refused("OPENAI_API_KEY", {"api_key": None})
    assert server.connections == 0


@pytest.mark.row("D5")
@pytest.mark.parametrize("key", ["", " ", "\n"])
def test_an_empty_key_is_no_key(key: str) -> None:
    """It is NotAuthenticated rather than a request without one."""
    with pytest.raises(NotAuthenticated, match="api_key is empty"):
        Provider(api_key=key, model="m")


@pytest.mark.row("D5")
@pytest.mark.parametrize("wrong", [5, None, b"sk"])
def test_a_callable_must_give_a_string(server: LocalServer, wrong: Any) -> None:
    """Anything else is refused before any network."""
    with provider_for(server, api_key=lambda: wrong) as provider:
        with pytest.raises(InvalidRequest, match=r"api_key\(\) must be a string"):
            provider.complete("Hi")
        assert server.connections == 0


HEADERS: list[tuple[Any, str]] = [
    ({"X-A": "b\r\nX-Evil: 1"}, "X-A"),
    ({"X-A": "b\n"}, "X-A"),
    ({"X-A": "\x00"}, "X-A"),
    ({"X-A": "\x7f"}, "X-A"),
    ({"X-A": "\u20ac"}, "X-A"),
    ({"X-A": " b"}, "X-A"),
    ({"X-A": "b "}, "X-A"),
    ({"X-A": 5}, "X-A"),
    ({"X-A": None}, "X-A"),
    ({"X-A": b"b"}, "X-A"),
    ({"": "b"}, "no header name"),
    ({"X A": "b"}, "no header name"),
    ({"X-A:": "b"}, "no header name"),
    ({"X-A\n": "b"}, "no header name"),
    ({"X-Ä": "b"}, "no header name"),
    ({5: "b"}, "no header name"),
    ([("X-A", "b")], "must be a mapping"),
    ("X-A: b", "must be a mapping"),
]


@pytest.mark.row("D5")
@pytest.mark.parametrize(("headers", "says"), HEADERS, ids=[ascii(row[0]) for row in HEADERS])
def test_a_header_that_cannot_be_sent_is_refused(
    server: LocalServer, transport: TransportName, headers: Any, says: str
) -> None:
    """Whether it comes with the call, with the network settings or from a credential: before any network."""

    class Own:
        identity = "a"

        def headers(self) -> Any:
            return headers

    with provider_for(server) as provider, pytest.raises(InvalidRequest, match=says):
        provider.stream("Hi", headers=headers)
    with pytest.raises(InvalidRequest, match=says):
        Network(headers=headers)
    with provider_for(server, credential=Own(), transport=transport) as provider:
        with pytest.raises(InvalidRequest, match=says) as caught:
            provider.complete("Hi")
    assert caught.value.phase == "auth" and server.connections == 0


@pytest.mark.row("D5")
@pytest.mark.parametrize("name", ["organization", "project", "originator"])
@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\x00", "a\tb", "ä", "", 5])
def test_a_name_that_goes_into_a_header_is_refused(name: str, value: Any) -> None:
    """Control characters and what is not ASCII, by the option's name."""
    with pytest.raises(InvalidRequest, match=name):
        Provider(model="m", **{name: value})


@pytest.mark.row("D5")
def test_headers_that_can_be_sent_arrive(transport: TransportName) -> None:
    """An empty value, a tab within one, Latin-1; the call's go over the network's, those over our own."""
    own = {"X-Empty": "", "X-Tab": "a\tb", "X-Latin": "caf\xe9", "X-Both": "call"}
    network = Network(trust_env=False, headers={"X-Both": "network", "X-Net": "1", "User-Agent": "mine/1"})
    with Peer(transport, text_response("ok")) as peer, peer.provider(network=network, originator="me") as provider:
        provider.complete("Hi", headers=own)
        found = peer.heads[0].headers
    # The server hands out the bytes of a header that are no UTF-8 as they came.
    arrived = {name: found[name].encode("utf-8", "surrogateescape").decode("latin-1") for name in own}
    assert arrived == own
    assert (found["x-net"], found["user-agent"], found["originator"]) == ("1", "mine/1", "me")


@pytest.mark.row("A26", "D1")
def test_a_key_shows_no_part_of_itself() -> None:
    """Neither in its repr nor in its identity, which tells accounts apart and is equal for equal keys."""
    one, other = ApiKey("sk-secret-1"), ApiKey("sk-secret-2")
    assert "secret" not in f"{one!r}{one.identity}{CallableKey(lambda: 'sk-secret')!r}"
    assert one.identity == ApiKey("sk-secret-1").identity != other.identity
    for credential in (one, Token("t")):
        held: Credential = credential
        assert isinstance(held, Credential)
    assert pickle.loads(pickle.dumps(one)).key() == "sk-secret-1"
    rotating = CallableKey(iter(["one", "two"]).__next__)
    before = rotating.identity
    assert [rotating.key(), rotating.key()] == ["one", "two"] and rotating.identity == before


class TeamKey(ApiKey):
    """A key that knows whose it is."""

    def __init__(self, key: str, team: str) -> None:
        super().__init__(key)
        self.team = team


@pytest.mark.parametrize("travel", [copy.copy, lambda key: pickle.loads(pickle.dumps(key))], ids=["copy", "pickle"])
def test_a_key_with_more_travels_whole(travel: Callable[[TeamKey], TeamKey]) -> None:
    """All but its identity, which is made anew: in another process it is another one."""
    key = TeamKey("sk-secret-1", "red")
    assert key.identity
    found = travel(key)
    assert (found.key(), found.team, found._identity) == ("sk-secret-1", "red", None) and found.identity == key.identity


def test_the_secrets_of_headers_are_their_credential_values() -> None:
    """With the scheme and without; short values would replace half of every message, and are left."""
    headers = {"Authorization": "Bearer sk-1234", "X-API-Key": "k-5678", "chatgpt-account-id": "acct", "X-Trace": "t-1111"}
    assert secrets_of(headers) == ["Bearer sk-1234", "sk-1234", "k-5678", "acct"]
    assert secrets_of({"authorization": "x y"}) == []
    assert check_headers(headers, "headers") == headers


def test_errors_of_a_credential_keep_their_kind(server: LocalServer, transport: TransportName) -> None:
    """A PixirError of the credential's own goes through as it is, with the phase auth."""

    def refuse() -> str:
        raise PixirError("not today", code="shut")

    with provider_for(server, api_key=refuse, transport=transport) as provider:
        with pytest.raises(PixirError) as caught:
            provider.complete("Hi")
        assert (type(caught.value), caught.value.code, caught.value.phase) == (PixirError, "shut", "auth")


# A ChatGPT login

CHATGPT = "https://chatgpt.com/backend-api/codex"
ELSEWHERE = [
    {"base_url": "https://api.example.test/backend-api/codex"},
    {"base_url": "https://chatgpt.com.example.test/v1"},
    {"base_url": "https://chatgpt.com:444/v1"},
    {"base_url": "http://chatgpt.com/v1", "network": Network(allow_insecure=True)},
    {"endpoint": "openai"},
    {"endpoint": "chatgpt", "websocket_url": "wss://api.example.test/responses"},
]


@pytest.mark.row("D4")
@pytest.mark.parametrize("place", ELSEWHERE, ids=[str(place)[:60] for place in ELSEWHERE])
def test_a_login_goes_to_its_own_place_only(place: dict[str, Any]) -> None:
    """A provider for another origin is refused when it is made: by another host, port or scheme, or for the WebSocket alone."""
    with pytest.raises(InvalidRequest, match="sent to https://chatgpt.com only"):
        Provider(credential=ChatGPTToken("secret-token", "acct-1"), model="m", **place)
    Provider(credential=ChatGPTToken("secret-token", "acct-1"), model="m", endpoint="chatgpt")
    Provider(credential=ChatGPTToken("secret-token", "acct-1"), model="m", base_url=CHATGPT.upper().replace("HTTPS", "https"))


@pytest.mark.row("D4")
def test_a_login_is_a_token_and_an_account(transport: TransportName) -> None:
    """Both are sent, to nobody that a redirect names; the account is the identity, so that a fresh token keeps the connection."""
    tokens = iter(["first", "second", "third"])
    login = ChatGPTToken(lambda: next(tokens), "acct-1")
    with LocalServer(api_key="first") as server, provider_for(server, credential=login, transport=transport) as provider:
        provider.complete("Hi", session="s")
        heads = server.upgrades if transport == "websocket" else server.requests
        assert heads.only.headers["chatgpt-account-id"] == "acct-1" and heads.only.headers["authorization"] == "Bearer first"
        if transport == "websocket":
            assert provider.complete("Hi", session="s").provider_metadata["connection_reused"] and len(server.upgrades) == 1
    assert login.identity == ChatGPTToken("other", "acct-1").identity != ChatGPTToken("other", "acct-2").identity
    assert "acct" not in repr(login) + repr(provider) and "first" not in repr(login)


@pytest.mark.row("D4")
def test_it_says_who_it_is(transport: TransportName) -> None:
    """Its own user agent, and an originator only where one was given; never another program's."""
    with LocalServer() as server:
        for originator in (None, "my_program"):
            with provider_for(server, transport=transport, originator=originator) as provider:
                provider.complete("Hi")
    heads = server.upgrades if transport == "websocket" else server.requests
    assert [head.headers.get("originator") for head in heads] == [None, "my_program"]
    for head in heads:
        assert head.headers["user-agent"].startswith("pixir-sync/") and "codex" not in str(dict(head.headers)).lower()


@pytest.mark.row("D4", "D5")
@pytest.mark.parametrize(("token", "account"), [("a b", "acct"), ("a\nb", "acct"), ("t", "acct\r\nX: y"), ("t", "ä"), (5, "a")])
def test_a_login_that_cannot_be_sent_is_refused(token: Any, account: str) -> None:
    """Before any network, and without a quote of it."""
    with pytest.raises(InvalidRequest) as caught:
        ChatGPTToken(token, account)
    assert "X: y" not in str(caught.value)


class Bound(Token):
    """A credential for one place, which it says in a property."""

    def __init__(self, origin: Any) -> None:
        super().__init__("secret-token")
        self._origin = origin

    @property
    def origin(self) -> Any:
        return self._origin


@dataclass(slots=True)
class Slotted:
    """The same with a slot."""

    origin: str = "https://vault.example.com/"
    identity: str = "account"

    def headers(self) -> dict[str, str]:
        return {"Authorization": "Bearer secret-token"}


@pytest.mark.row("D4")
def test_an_origin_counts_however_it_is_said() -> None:
    """In a property or a slot, with a slash, in capitals; one that is no string is refused, None is none."""
    for credential in (Bound("https://Vault.example.com"), Slotted()):
        Provider(credential=credential, model="m", base_url="https://vault.example.com/v1")
        with pytest.raises(InvalidRequest, match="sent to https://vault.example.com only"):
            Provider(credential=credential, model="m", base_url="https://evil.example.com/v1")
    Provider(credential=Bound(None), model="m", base_url="https://evil.example.com/v1")
    with pytest.raises(InvalidRequest, match="credential.origin must be a string, .*not int"):
        Provider(credential=Bound(5), model="m")


class NoIdentity(Token):
    def __init__(self, give: Callable[[], Any]) -> None:
        super().__init__("t-123")
        self._give = give

    @property
    def identity(self) -> Any:  # type: ignore[override]
        return self._give()


@pytest.mark.row("D1")
def test_an_identity_that_fails_is_not_authenticated() -> None:
    """Its words are not quoted; one that is no string is an invalid request. Before any network."""
    with LocalServer(api_key="t-123") as server:
        with provider_for(server, credential=NoIdentity(_fails), transport="websocket") as provider:
            with pytest.raises(NotAuthenticated, match="could not be had: OSError") as caught:
                provider.complete("Hi")
            assert "sk-secret" not in str(caught.value) and caught.value.phase == "auth"
        with provider_for(server, credential=NoIdentity(lambda: ["a"]), transport="websocket") as provider:
            with pytest.raises(InvalidRequest, match="credential.identity must be a string, not list"):
                provider.complete("Hi")
        assert not server.connections


class Signed(Token):
    def headers(self) -> dict[str, str]:
        return {**super().headers(), "X-Signature": "wombat-one", "x-functions-code": "wombat-two", "X-Place": "wombat-three"}


@pytest.mark.row("A26")
def test_whatever_a_credential_gives_is_concealed(transport: TransportName) -> None:
    """Under any header's name; and what looks like a key among the network's headers and the call's."""
    said = "no: wombat-one wombat-two wombat-three wombat-four wombat-five"
    with LocalServer(faults=[faults.Refuse(status=400, message=said)], api_key="t-123") as server:
        network = Network(trust_env=False, headers={"Api-Key": "wombat-four"})
        with provider_for(server, credential=Signed("t-123"), transport=transport, network=network) as provider:
            with pytest.raises(PixirError) as caught:
                provider.complete("Hi", headers={"X-Auth-Token": "wombat-five"})
    assert caught.value.message == "no:" + " [credential]" * 5 and "wombat" not in json.dumps(caught.value.to_dict())


@pytest.mark.row("A26", "D3")
def test_a_token_that_a_connection_was_opened_with_is_concealed() -> None:
    """It is the server's to quote, although the credential has another one by then; and the connection is not used again."""
    tokens = ["Bearer wombat-one", "Bearer wombat-two", "Bearer wombat-three"]

    class Rotating(Token):
        def headers(self) -> dict[str, str]:
            return {"Authorization": tokens[0]}

    def script(wire: Wire) -> None:
        opened = wire.request.headers["authorization"]
        wire.answer(to=wire.read_create())
        refusal = {"code": "invalid_api_key", "message": f"{opened} has expired", "type": "invalid_request_error"}
        wire.read_create()
        wire.send({"type": "error", "status": 401, "error": refusal})
        wire.hold()

    with WebSocketPeer(script) as peer:
        options = {"base_url": peer.base_url, "model": "m", "transport": "websocket", "network": Network(trust_env=False)}
        with Provider(credential=Rotating("x"), **options) as provider:
            for _ in range(2):
                provider.complete("Hi", session="s")
                del tokens[0]
                with pytest.raises(NotAuthenticated) as caught:
                    provider.complete("Hi", session="s")
                assert caught.value.status == 401 and "wombat" not in caught.value.message
            sent = [wire.request.headers["authorization"] for wire in peer.connections]
            assert sent == ["Bearer wombat-one", "Bearer wombat-two"]


@pytest.mark.row("D3")
@pytest.mark.parametrize("preference", ["auto", "websocket"])
def test_a_token_refused_on_an_open_websocket_is_replaced(preference: str) -> None:
    """A connection has the token that it was opened with for good: the refreshed one goes with another."""
    login = Refreshable("old", "new")

    def script(wire: Wire) -> None:
        create = wire.read_create()
        wire.answer("first", to=create)
        while True:
            create = wire.read_create()
            if wire.request.headers["authorization"] == "Bearer old":
                wire.send({"type": "error", "status": 401, "error": {"code": "invalid_api_key", "message": "expired"}})
            else:
                wire.answer("again", to=create)

    with WebSocketPeer(script) as peer:
        options = {"base_url": peer.base_url, "model": "m", "transport": preference, "network": Network(trust_env=False)}
        with Provider(credential=login, **options) as provider:
            assert [provider.complete("Hi", session="s").text for _ in range(3)] == ["first", "first", "again"]
            assert provider.stats()["replays"] == {"credential_refreshed": 1} and len(peer.connections) == 2
