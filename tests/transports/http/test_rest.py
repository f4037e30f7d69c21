"""The plain requests of the API against the local server, and their retries and limits (row A24, A23)."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pixir_sync import (
    Cancelled,
    ConnectionLost,
    FirstEventTimeout,
    InvalidRequest,
    InvalidResponse,
    NotAuthenticated,
    Overloaded,
    PixirError,
    Provider,
    ProviderClosed,
    ProviderError,
    user,
)
from pixir_sync.local import LocalServer
from tests.support.peer import Conn
from tests.transports.http.helpers import DEADLINE, KEY, Wire, in_thread, linux, nothing_left, refuse, took


@pytest.fixture(params=["plain", "tls"])
def server(request: pytest.FixtureRequest, plain: Wire, tls: Wire) -> Iterator[tuple[LocalServer, Provider]]:
    """A local server and a provider for it that stores."""
    wire = plain if request.param == "plain" else tls
    with (
        LocalServer(ssl_context=wire.server) as local,
        wire.provider(local.base_url, api_key=local.api_key, model=local.model, store=True) as provider,
    ):
        yield local, provider


@pytest.mark.row("A24")
def test_a_stored_response_can_be_had_again(server: tuple[LocalServer, Provider]) -> None:
    """retrieve gives the stored object, input_items its input, delete removes it; then it is a 404."""
    local, provider = server
    result = provider.complete("remember me")
    assert result.response_id is not None
    found = provider.retrieve(result.response_id)
    assert (found["id"], found["status"], found["output"]) == (result.response_id, "completed", result.output_items)
    [item] = provider.input_items(result.response_id)
    assert item["role"] == "user" and "remember me" in json.dumps(item)
    assert provider.delete(result.response_id)["deleted"] is True
    with pytest.raises(ProviderError) as caught:
        provider.retrieve(result.response_id)
    assert (caught.value.status, caught.value.retryable) == (404, False)
    assert [r.method for r in local.requests] == ["POST", "GET", "GET", "DELETE", "GET"]
    assert local.connections == 1


@pytest.mark.row("A24")
@pytest.mark.parametrize("name", ["retrieve", "delete", "cancel_response", "input_items"])
def test_an_unknown_id_is_a_404(server: tuple[LocalServer, Provider], name: str) -> None:
    """An id that the server does not know is its error, with status, code and request id, at the first request."""
    local, provider = server
    with pytest.raises(ProviderError) as caught:
        getattr(provider, name)("resp_unknown")
    error = caught.value
    assert (type(error), error.status) == (ProviderError, 404)
    assert error.request_id is not None and "resp_unknown" in error.message
    assert len(local.requests) == 1


@pytest.mark.row("A24")
def test_a_background_response_is_cancelled(server: tuple[LocalServer, Provider]) -> None:
    """cancel_response gives the server's object; a response that ran in the foreground cannot be cancelled."""
    local, provider = server
    rest = provider._rest()
    made = rest.post("/responses", {"model": local.model, "input": "x", "background": True, "store": True}, provider._token)
    assert provider.cancel_response(made["id"])["status"] == "cancelled"
    result = provider.complete("x")
    assert result.response_id is not None
    with pytest.raises(ProviderError) as caught:
        provider.cancel_response(result.response_id)
    assert caught.value.status == 400


@pytest.mark.row("A24")
def test_a_compacted_history_starts_a_new_chain(server: tuple[LocalServer, Provider]) -> None:
    """compact gives an output that stands for the history: the next turn sends it whole, and the server knows the context."""
    local, provider = server
    history: list[Any] = []
    for text in ("one", "two", "three"):
        history.append(user(text))
        history += provider.complete(history).output_items
    compacted = provider.compact(history)
    assert compacted["object"] == "response.compaction"
    result = provider.complete([*compacted["output"], user("four")])
    assert result.text == "Heard: four (context: 4)"
    sent = local.requests[3].body
    assert local.requests[3].path == "/v1/responses/compact"
    assert set(sent) <= {"model", "input", "instructions", "previous_response_id", "prompt_cache_key"}
    assert "previous_response_id" not in local.requests[4].body


@pytest.mark.row("A23")
def test_the_catalogue(plain: Wire) -> None:
    """models lists the server's ids, model_supported looks one up, probe names the model that answered."""
    with (
        LocalServer(models=["a", "b"], model="a") as local,
        plain.provider(local.base_url, api_key=local.api_key, model="a") as provider,
    ):
        assert provider.models() == ["a", "b"]
        assert (provider.model_supported("b"), provider.model_supported("c")) == (True, False)
        assert (provider.default_model(), provider.probe()) == ("a", "a")


@pytest.mark.parametrize("id", ["", "a\nb", "\x00"])
def test_what_is_no_id_is_refused_before_any_network(plain: Wire, id: str) -> None:
    """An id with control characters, or none, never gets as far as a socket."""
    with plain.peer([]) as peer, plain.provider(peer.base_url) as provider:
        for call in (provider.retrieve, provider.delete, provider.cancel_response, provider.input_items):
            with pytest.raises(InvalidRequest):
                call(id)
    assert peer.connections == []


def test_an_id_cannot_name_another_place(plain: Wire) -> None:
    """What is special in a URL is escaped."""
    with (
        plain.peer([refuse(404)]) as peer,
        plain.provider(peer.base_url) as provider,
        pytest.raises(ProviderError),
    ):
        provider.retrieve("../models?x=1#y")
    assert peer.requests[0].path == "/v1/responses/..%2Fmodels%3Fx%3D1%23y"


def answering(body: Any, headers: dict[str, str] | None = None, status: int = 200) -> Any:
    def script(conn: Conn) -> None:
        while True:
            conn.read_request()
            conn.respond(status, body, headers)

    return script


@pytest.mark.row("C4")
def test_the_retry_rule_holds_here_too(wire: Wire) -> None:
    """A passing refusal is retried after its delay, a lasting one is not, and the connection is kept."""

    def script(conn: Conn) -> None:
        for status in (503, 429, 200, 400):
            conn.read_request()
            conn.respond(status, {"data": [{"id": "m"}]}, {"retry-after-ms": "20"})

    with wire.peer([script]) as peer, wire.provider(peer.base_url) as provider:
        with took(0.04, 2):
            assert provider.models() == ["m"]
        with pytest.raises(ProviderError) as caught:
            provider.models()
    assert (caught.value.status, len(peer.requests)) == (400, 4)
    assert all(r.headers["authorization"] == f"Bearer {KEY}" and r.headers["accept"] == "application/json" for r in peer.requests)
    assert all("content-type" not in r.headers and r.method == "GET" for r in peer.requests)


@pytest.mark.row("D3")
def test_a_refused_token_is_refreshed_here_too(plain: Wire) -> None:
    """A 401 refreshes the credential once."""

    class Rotating:
        identity = "account"
        number = 0

        def headers(self) -> dict[str, str]:
            return {"Authorization": f"Bearer token-{self.number}"}

        def refresh(self) -> None:
            self.number += 1

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.respond(401)
        conn.read_request()
        conn.respond(200, {"data": []})
        conn.read_request()
        conn.respond(401)
        conn.read_request()
        conn.respond(401)

    with plain.peer([script]) as peer, plain.provider(peer.base_url, api_key=None, credential=Rotating()) as provider:
        assert provider.models() == []
        with pytest.raises(NotAuthenticated):
            provider.models()
    assert [r.headers["authorization"][-1] for r in peer.requests] == ["0", "1", "1", "2"]


@pytest.mark.parametrize("body", [b"no json", b"[1]", b"\xff", b'"x"'])
def test_an_answer_that_is_no_object(wire: Wire, body: bytes) -> None:
    """What is no JSON object is InvalidResponse; an empty body is an empty object."""
    with (
        wire.peer([answering(body, {"x-request-id": "r"})]) as peer,
        wire.provider(peer.base_url) as provider,
        pytest.raises(InvalidResponse) as caught,
    ):
        provider.retrieve("a")
    assert (caught.value.status, caught.value.request_id, len(peer.requests)) == (200, "r", 1)


def test_an_empty_answer_is_an_empty_object(plain: Wire) -> None:
    """A success that says nothing is one."""
    with plain.peer([answering(b"")]) as peer, plain.provider(peer.base_url) as provider:
        assert provider.delete("a") == {}


def test_a_lost_connection(wire: Wire) -> None:
    """A connection that is cut in the middle of an answer is retried, and then an error."""

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.send(b'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"id"')
        conn.cut()

    with wire.peer([script] * 2 + [answering({"id": "a"})]) as peer, wire.provider(peer.base_url) as provider:
        assert provider.retrieve("a") == {"id": "a"}
    with (
        wire.peer(script) as peer,
        wire.provider(peer.base_url, retry=0) as provider,
        pytest.raises(ConnectionLost) as caught,
    ):
        provider.retrieve("a")
    assert caught.value.request_sent is True


@linux
@pytest.mark.parametrize("sent", [b"", b'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"id"'], ids=["silent", "half"])
def test_a_stalled_answer_ends_in_time(wire: Wire, sent: bytes) -> None:
    """The limits hold for the plain requests, and the connection of an unfinished answer is closed at once."""
    gone = threading.Event()

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.send(sent)
        conn.wait_closed()
        gone.set()

    with nothing_left(), wire.peer(script) as peer, wire.provider(peer.base_url, timeouts=0.2) as provider:
        with took(0.19, 1.7), pytest.raises(FirstEventTimeout):
            provider.retrieve("a")
        assert gone.wait(1)
    assert len(peer.requests) == 1


@linux
@pytest.mark.parametrize("place", ["answer", "body", "backoff"])
def test_close_ends_a_plain_request(wire: Wire, place: str) -> None:
    """close() ends a request that waits, wherever it waits, with ProviderClosed."""
    reached = threading.Event()

    def script(conn: Conn) -> None:
        conn.read_request()
        if place == "backoff":
            conn.respond(503, "", {"retry-after": "60"})
        if place == "body":
            conn.send(b'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"id"')
        reached.set()
        conn.wait_closed()

    with nothing_left(), wire.peer(script) as peer:
        provider = wire.provider(peer.base_url)
        call = in_thread(lambda: provider.retrieve("a"))
        assert reached.wait(DEADLINE)
        threading.Event().wait(0.05)
        with took(0, 0.9):
            provider.close()
            with pytest.raises(PixirError) as caught:
                call.result(DEADLINE)
    assert type(caught.value) is ProviderClosed
    assert not isinstance(caught.value, Cancelled)


def test_retries_end(plain: Wire) -> None:
    """After max_retries the last refusal is raised."""
    script = answering("", {"retry-after-ms": "1"}, 503)
    with (
        plain.peer([script]) as peer,
        plain.provider(peer.base_url, retry=2) as provider,
        pytest.raises(Overloaded),
    ):
        provider.models()
    assert len(peer.requests) == 3


def test_a_list_that_never_ends_is_an_invalid_response(plain: Wire) -> None:
    """A server that gives the same page again and again, whatever it is asked for, keeps nobody."""

    def script(conn: Conn) -> None:
        while True:
            conn.read_request()
            conn.respond(200, json.dumps({"data": [{"id": "a"}, {"id": "b"}], "has_more": True}))

    with plain.peer(script) as peer, plain.provider(peer.base_url) as provider:
        for ask in (provider.models, lambda: provider.input_items("resp_1")):
            with pytest.raises(InvalidResponse, match="the same page"):
                ask()
        assert len(peer.requests) == 4
