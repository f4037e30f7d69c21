"""`Provider`: what it takes, what it refuses before any network, its life, and the HTTP side of the API."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from pixir_sync import (
    Cancelled,
    CancelToken,
    Event,
    InvalidRequest,
    InvalidResponse,
    NotAuthenticated,
    PixirError,
    Provider,
    ProviderClosed,
    ProviderConfig,
    ProviderError,
    Result,
    RetryPolicy,
    Timeouts,
    TotalTimeout,
    assistant,
    user,
)
from pixir_sync.local import HttpError, LocalServer, Pause, Step
from tests.support.both import Peer, TransportName, bare
from tests.support.events import created, text_response
from tests.support.fake import FakeTransport, provider_for
from tests.support.peer import Conn, ScriptedPeer

Json = dict[str, Any]


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with LocalServer() as running:
        yield running


@pytest.fixture
def provider(server: LocalServer, transport: TransportName) -> Iterator[Provider]:
    with provider_for(server, model="local-model", transport=transport) as made:
        yield made


# One call.


@pytest.mark.row("A1")
def test_a_stream_gives_typed_events_and_returns_the_result(provider: Provider) -> None:
    """The events come in the protocol's order, their texts joined are the result's; `yield from` gives the same Result."""
    seen: list[Event] = []

    def consumer() -> Iterator[Event]:
        result = yield from provider.stream("Hi there")
        assert isinstance(result, Result)
        returned.append(result)

    returned: list[Result] = []
    seen = list(consumer())
    kinds = list(dict.fromkeys(event.type for event in seen))
    assert kinds == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        "response.output_text.delta", "response.output_text.done", "response.content_part.done",
        "response.output_item.done", "response.completed",
    ]  # fmt: skip
    views = {event.type: type(event).__name__ for event in seen}
    assert views["response.output_text.delta"] == "TextDelta" and views["response.completed"] == "Terminal"
    assert views["response.output_item.done"] == "ItemDone" and views["response.created"] == "Event"
    assert "".join(event.text for event in seen) == returned[0].text == "Heard: Hi there (context: 1)"


@pytest.mark.row("A1")
def test_complete_returns_the_result(provider: Provider) -> None:
    """It is what the stream of the same request ends with."""
    with provider.stream("Hi") as stream:
        streamed = stream.result()
    result = provider.complete("Hi")
    assert str(result) == result.text == streamed.text == "Heard: Hi (context: 1)"
    assert result.finish_reason == "stop" and result.response_id != streamed.response_id


@pytest.mark.row("A1")
@pytest.mark.parametrize("request_", ["Hi", [user("Hi")], (user("Hi"),), {"input": "Hi"}, {"history": [user("Hi")]}, None])
def test_a_request_may_have_any_of_its_forms(provider: Provider, request_: Any) -> None:
    """A string, items, a mapping, or fields only."""
    fields = {"input": "Hi"} if request_ is None else {}
    assert provider.complete(request_, **fields).text == "Heard: Hi (context: 1)"


@pytest.mark.row("A2")
def test_a_transport_of_the_callers_drives_the_provider() -> None:
    """An injected strategy makes the attempts, gets the call, shows in the evidence and is closed with the provider."""
    fake = FakeTransport([text_response("Hel", "lo")])
    with Provider(transport=fake, model="m") as provider:
        result = provider.complete("Hi", session="s", scope="u", headers={"X-Trace": "1"}, timeouts=7)
        call = fake.calls[0]
    assert result.text == "Hello"
    assert result.provider_metadata["active_transport"] == result.provider_metadata["transport_preference"] == "fake"
    assert (call.session, call.scope, call.headers, call.timeouts.idle) == ("s", "u", {"X-Trace": "1"}, 7)
    assert call.full_input()["input"] == [user("Hi")]
    assert fake.closed == 1


@pytest.mark.row("A3")
@pytest.mark.parametrize(
    ("option", "preference", "active"),
    [({}, "auto", "websocket"), ({"transport": "auto"}, "auto", "websocket"),
     ({"transport": "websocket"}, "websocket", "websocket"), ({"transport": "http_sse"}, "http_sse", "http_sse"),
     ({"transport": "sse"}, "http_sse", "http_sse")],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)  # fmt: skip
def test_each_name_of_a_transport_leads_to_it(server: LocalServer, option: Json, preference: str, active: str) -> None:
    """The default is auto, which goes over the WebSocket; the preference is kept under its own name."""
    with provider_for(server, **option) as provider:
        assert provider.request_body_preview("Hi").get("type") == ("response.create" if active == "websocket" else None)
        found = provider.complete("Hi").provider_metadata
        assert list(provider.stats()["turns"]) == [active]
    assert (found["transport_preference"], found["active_transport"], found["fallback_reason"]) == (preference, active, None)
    assert [request.transport for request in server.requests] == [active] and len(server.upgrades) == (active == "websocket")


OPTIONS: list[tuple[Json, str]] = [
    ({"transport": "http"}, "transport must be one of"),
    ({"transport": "websockets"}, "did you mean 'websocket'"),
    ({"transport": "AUTO"}, "transport must be one of"),
    ({"transport": None}, "transport must be"),
    ({"transport": 5}, "transport must be"),
    ({"transport": object()}, "transport must be"),
    ({"transport": SimpleNamespace(attempt=print)}, "transport must be"),
    ({"transport": ""}, "transport must be one of"),
    ({"transport": "http-sse"}, "did you mean 'http_sse'"),
    ({"transport": "websocket "}, "did you mean 'websocket'"),
    ({"continuation": "on"}, "continuation must be one of"),
    ({"continuation": "exactly"}, "did you mean 'exact'"),
    ({"continuation": True}, "continuation must be"),
    ({"model": ""}, "model must be"),
    ({"model": 5}, "model must be"),
    ({"endpoint": "openia"}, "did you mean 'openai'"),
    ({"endpoint": 5}, "endpoint must be"),
    ({"store": 1}, "store must be true or false"),
    ({"store": None}, "store must be true or false"),
    ({"store": True, "endpoint": "chatgpt"}, "store: the ChatGPT backend"),
    ({"store": True, "base_url": "https://example.test/backend-api/codex"}, "store: the ChatGPT backend"),
    ({"organization": "a\nb"}, "organization must not hold control characters"),
    ({"project": 5}, "project must be"),
    ({"originator": ""}, "originator must be"),
    ({"hooks": "print"}, "hooks must be"),
    ({"hooks": [print, 5]}, "hooks must be"),
    ({"config": {}}, "config must be a ProviderConfig"),
    ({"api_key": 5}, "api_key must be"),
    ({"api_key": "k", "credential": object()}, "api_key and credential exclude each other"),
    ({"credential": object()}, "credential must have"),
    ({"modle": "m"}, "unknown option 'modle'; did you mean 'model'"),
    ({"max_retries": 3}, "unknown option 'max_retries'"),
    ({"timeout": 3}, "did you mean 'timeouts'"),
]


@pytest.mark.row("A3")
@pytest.mark.parametrize(("options", "says"), OPTIONS, ids=[f"{row[0]}"[:50] for row in OPTIONS])
def test_a_wrong_option_is_refused_by_name(options: Json, says: str) -> None:
    """InvalidRequest when the provider is made, with the option and the nearest name."""
    with pytest.raises(InvalidRequest, match=says):
        Provider(**options)


CALLS: list[tuple[Json, str]] = [
    ({"tempreature": 1}, "did you mean 'temperature'"),
    ({"request": 5}, "request must be"),
    ({"request": b"Hi"}, "request must be"),
    ({"request": {"inputs": "Hi"}}, "did you mean 'input'"),
    ({"request": {"input": "Hi", "history": "Ho"}}, "history is given twice"),
    ({"request": "Hi", "history": "Ho"}, "history: the input is given twice"),
    ({"request": None}, "history is empty"),
    ({"request": ""}, "history must not be a blank string"),
    ({"request": []}, "history is empty"),
    ({"request": ["Hi"]}, r"history\[0\] must be an item \(a dict\), not str; user\(text\)"),
    ({"request": [user("a"), None]}, r"history\[1\] must be an item"),
    ({"request": [{"role": "usr", "content": "Hi"}]}, r"history\[0\]\.role must be one of .*did you mean 'user'"),
    ({"request": [{"role": "tool", "content": "Hi"}]}, r"history\[0\] is a chat-style message: .*from_messages"),
    ({"request": [{"role": "user"}]}, r"history\[0\]\.content must be"),
    ({"request": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]}, r"history\[0\]\.content\[0\] is a chat-style"),
    ({"request": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, r"history\[0\]\.call_id"),
    ({"request": [{"type": "function_call", "name": "f", "call_id": "a b", "arguments": "{}"}]}, r"history\[0\]\.call_id"),
    ({"request": [{"type": "function_call", "name": "", "call_id": "a", "arguments": "{}"}]}, r"history\[0\]\.name"),
    ({"request": [{"type": "function_call", "name": "f", "call_id": "a", "arguments": {}}]}, r"history\[0\]\.arguments"),
    ({"request": [{"type": "function_call_output", "call_id": "a", "output": 5}]}, r"history\[0\]\.output"),
    ({"request": [{"type": "mesage", "role": "user"}]}, r"history\[0\]\.type is unknown; did you mean 'message'"),
    ({"request": [{"type": 5}]}, r"history\[0\]\.type"),
    ({"request": {"role": "user", "content": "Hi"}}, "unknown field of the request 'role'"),
    ({"request": "Hi", "session": ""}, "session must be"),
    ({"request": "Hi", "session": 5}, "session must be"),
    ({"request": "Hi", "scope": ""}, "scope must be"),
    ({"request": "Hi", "cancel": threading.Event()}, "cancel must be a CancelToken"),
    ({"request": "Hi", "on_payload": {}}, "on_payload must be callable"),
    ({"request": "Hi", "timeouts": "5"}, "timeouts must be"),
    ({"request": "Hi", "timeouts": True}, "timeouts must be"),
    ({"request": "Hi", "timeouts": -1}, r"timeouts\.idle"),
    ({"request": "Hi", "timeouts": {"idel": 5}}, "did you mean 'idle'"),
    ({"request": "Hi", "timeouts": {"total": float("nan")}}, r"timeouts\.total"),
    ({"request": "Hi", "headers": ["a"]}, "headers must be a mapping"),
    ({"request": "Hi", "store": True, "previous_response_id": "a", "conversation": "b"}, "exclude each other"),
    ({"request": "Hi", "tools": [{"name": "f"}, {"name": "f"}]}, r"tools\[1\]\.name"),
    ({"request": "Hi", "output_schema": "text"}, "output_schema"),
    ({"request": "Hi", "extra_body": []}, "extra_body"),
]


@pytest.mark.parametrize(("arguments", "says"), CALLS, ids=[f"{row[0]}"[:60] for row in CALLS])
def test_a_wrong_call_is_refused_before_any_network(server: LocalServer, arguments: Json, says: str) -> None:
    """InvalidRequest at the call itself, which names the field; the server sees no connection."""
    with provider_for(server) as provider:
        with pytest.raises(InvalidRequest, match=says) as caught:
            provider.stream(**{"request": "Hi", **arguments})
        assert not server.connections and caught.value.kind == "invalid_args"


def test_a_request_without_a_json_form_is_refused(transport: TransportName) -> None:
    """A value that JSON cannot say, and one that contains itself, are found when the request is read."""
    inner: Json = {"type": "object"}
    inner["properties"] = inner
    with Peer(transport, text_response("ok")) as peer, peer.provider() as provider:
        for extra in ({"x": object()}, {"x": float("nan")}, {"x": inner}):
            with pytest.raises(InvalidRequest) as caught:
                provider.complete("Hi", extra_body=extra)
            assert caught.value.phase == "shape"
        assert not peer.connections


# Limits of a call.


@pytest.mark.parametrize("given", [3, 3.5, Timeouts(idle=3.5), {"idle": 3.5}])
def test_timeouts_of_a_call_go_over_the_providers(given: Any) -> None:
    """One number is the idle limit and a mapping changes what it names; a Timeouts replaces all of them."""
    fake = FakeTransport([text_response("a")])
    with Provider(transport=fake, model="m", timeouts=Timeouts(connect=1)) as provider:
        provider.complete("Hi", timeouts=given)
    found = fake.calls[0].timeouts
    assert (found.idle, found.connect) == (3 if given == 3 else 3.5, 10 if isinstance(given, Timeouts) else 1)


def test_the_total_limit_holds_over_all_attempts(transport: TransportName) -> None:
    """A second attempt has only what the first one left, and a wait that would pass the limit is not begun."""
    silent: list[Step] = [created(), Pause()]
    with Peer(transport, text_response("ok"), [HttpError(500)], silent) as peer, peer.provider() as provider:
        provider.complete("Hi")  # what only a first call needs is there now
        with pytest.raises(TotalTimeout) as caught:
            provider.complete("Hi", timeouts=Timeouts(total=0.5))
        assert caught.value.partial is not None and len(peer.bodies) == 3
        assert 450 <= caught.value.partial.provider_metadata["total_ms"] < 2000
    slow = RetryPolicy(initial_delay=30, max_delay=30, jitter=0)
    with Peer(transport, [HttpError(500)]) as peer, peer.provider(retry=slow) as provider:
        with pytest.raises(ProviderError):
            provider.complete("Hi", timeouts=Timeouts(total=20))
        assert len(peer.bodies) == 1


def test_requests_per_minute_holds_a_call_back_until_its_turn(transport: TransportName) -> None:
    """With one place a minute the second call waits, here until its own limit; the first one did not."""
    with LocalServer() as server, provider_for(server, requests_per_minute=1, transport=transport) as provider:
        provider.complete("one")
        with pytest.raises(TotalTimeout):
            provider.complete("two", timeouts=Timeouts(total=0.1))
        assert len(server.requests) == 1


# Threads.


def test_threads_share_a_provider_and_never_mix_texts(server: LocalServer, transport: TransportName) -> None:
    """Eight providers with two threads each, all at once: every stream carries its own answer, piece by piece."""
    providers = [provider_for(server, transport=transport) for _ in range(8)]
    together = threading.Barrier(16)

    def run(number: int) -> list[tuple[str, str]]:
        together.wait(10)
        found = []
        for turn in range(4):
            with providers[number % 8].stream(f"thread {number} turn {turn}") as stream:
                found.append(("".join(event.text for event in stream), stream.result().text))
        return found

    with ThreadPoolExecutor(16) as pool:
        for number, found in enumerate(pool.map(run, range(16))):
            for turn, (streamed, text) in enumerate(found):
                assert streamed == text == f"Heard: thread {number} turn {turn} (context: 1)"
    for made in providers:
        stats = made.stats()
        assert stats["turns"] == {transport: {"full": 8}} and stats["errors"] == {}
        assert stats["connections"]["opened"] + stats["connections"]["reused"] == 8
        made.close()


# Life.


def test_close_ends_streams_in_flight_and_later_calls(transport: TransportName) -> None:
    """A stream that waits ends in ProviderClosed with its partial result; afterwards every call does. Twice is once."""
    with Peer(transport, [*text_response("Hel", "lo")[:5], Pause()]) as peer:
        provider = peer.provider()
        stream = provider.stream("Hi")
        while not next(stream).text:
            pass
        timer = threading.Timer(0.05, provider.close)
        timer.start()
        with pytest.raises(ProviderClosed) as caught:
            stream.result()
        timer.join()
        assert caught.value.partial is not None and caught.value.partial.text == "Hel"
        provider.close()
        for call in (lambda: provider.stream("Hi"), lambda: provider.complete("Hi"), provider.models, provider.probe,
                     lambda: provider.retrieve("resp_1"), lambda: provider.request_body_preview("Hi"),
                     lambda: provider.warm_up("Hi", session="s")):  # fmt: skip
            with pytest.raises(ProviderClosed):
                call()
        assert len(peer.bodies) == 1 and "closed" in repr(provider)
        assert provider.stats()["connections"]["live"] == 0


def test_a_stream_that_had_not_begun_ends_in_provider_closed(server: LocalServer, transport: TransportName) -> None:
    """A stream made before the close opens nothing after it."""
    provider = provider_for(server, transport=transport)
    stream = provider.stream("Hi")
    provider.close()
    with pytest.raises(ProviderClosed):
        next(stream)
    assert server.connections == 0


@pytest.mark.row("B1")
@pytest.mark.parametrize("preference", ["auto", "websocket", "http_sse"])
def test_nothing_is_opened_before_the_first_call(server: LocalServer, preference: str) -> None:
    """Neither a thread nor a connection: not by making a provider, not by making a stream, not by the lifecycle."""
    before = threading.enumerate()
    with provider_for(server, transport=preference) as provider:
        stream = provider.stream("Hi", session="s")
        assert provider.has_session("s") is False and provider.request_body_preview("Hi")
        if preference == "http_sse":
            assert provider.warm_up("Hi", session="s", scope="u") is False
        provider.release("s")
        pickle.loads(pickle.dumps(provider)).close()
        assert provider.stats()["connections"] == {"opened": 0, "reused": 0, "live": 0}
        stream.close()
    assert threading.enumerate() == before and server.connections == 0 and not server.requests


def test_warm_up_refuses_a_wrong_request(provider: Provider, server: LocalServer) -> None:
    """It says what is wrong, before any network; what the network does is never raised."""
    inner: Json = {"type": "object"}
    inner["properties"] = inner
    with pytest.raises(InvalidRequest, match="history is empty"):
        provider.warm_up([], session="s")
    with pytest.raises(InvalidRequest, match="session"):
        provider.warm_up("Hi", session="")
    if provider.config.transport == "websocket":
        with pytest.raises(InvalidRequest, match="contains itself"):
            provider.warm_up({"input": "Hi", "metadata": {}, "extra_body": {"x": inner}}, session="s")
    assert server.connections == 0


def test_a_provider_pickles(server: LocalServer, transport: TransportName, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its configuration travels, with a key that was given; a key of the environment is read anew; used before or not."""
    with provider_for(server, model="local-model", store=True, transport=transport) as provider:
        provider.complete("Hi")
        data = pickle.dumps(provider)
        with pickle.loads(data) as copy:
            assert copy.complete("Ho").text == "Heard: Ho (context: 1)"
            assert copy.config == provider.config and copy.stats()["turns"] == {transport: {"full": 1}}
    assert server.requests[1].connection != server.requests[0].connection
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    data = pickle.dumps(provider_for(server, api_key=None, transport=transport))
    assert b"wrong" not in data
    monkeypatch.setenv("OPENAI_API_KEY", server.api_key)
    with pickle.loads(data) as copy:
        assert copy.complete("Ho").text == "Heard: Ho (context: 1)"


def test_a_config_holds_all_options_and_options_win() -> None:
    """Provider(config=…) means its fields; an option beside it is preferred."""
    config = ProviderConfig(model="m", continuation="off", timeouts=Timeouts(idle=7))
    with Provider(config=config, model="n") as provider:
        assert (provider.default_model(), provider.config.continuation, provider.config.timeouts.idle) == ("n", "off", 7)


# The other side of the API.


@pytest.mark.row("A23")
def test_probe_models_and_model_supported(server: LocalServer, provider: Provider, transport: TransportName) -> None:
    """The catalogue is the server's; a probe is one tiny call, and raises what the call raises."""
    assert provider.models() == ["local-model"]
    assert provider.model_supported("local-model") and not provider.model_supported("other")
    assert provider.probe() == "local-model"
    assert bare(server.requests[-1].body, transport)["max_output_tokens"] == 16
    with provider_for(server, api_key="wrong", transport=transport) as other, pytest.raises(NotAuthenticated):
        other.probe()
    with pytest.raises(InvalidRequest, match="id"):
        provider.model_supported("")


@pytest.mark.row("A24")
def test_stored_responses_can_be_read_and_deleted(provider: Provider) -> None:
    """Retrieve, input_items (all pages, oldest first), cancel_response and delete; what is not there is a ProviderError 404."""
    turns = [item for n in range(70) for item in (user(f"q{n}"), assistant(f"a{n}"))] + [user("last")]
    result = provider.complete(turns, store=True)
    assert result.response_id is not None
    found = provider.retrieve(result.response_id)
    assert (found["id"], found["status"]) == (result.response_id, "completed")
    items = provider.input_items(result.response_id)
    assert len(items) == 141 and [item["role"] for item in items] == [item["role"] for item in turns]
    assert items[-1]["content"] in ("last", [{"type": "input_text", "text": "last"}])
    with pytest.raises(ProviderError) as caught:
        provider.cancel_response(result.response_id)
    assert caught.value.status == 400
    assert provider.delete(result.response_id)["deleted"] is True
    with pytest.raises(ProviderError) as caught:
        provider.retrieve(result.response_id)
    assert caught.value.status == 404 and caught.value.request_id
    for wrong in ("", "a\nb", 5):
        with pytest.raises(InvalidRequest, match="id"):
            provider.retrieve(wrong)  # type: ignore[arg-type]


@pytest.mark.row("A24")
def test_a_compacted_conversation_goes_on(server: LocalServer, provider: Provider) -> None:
    """The output of compact begins a new history, in which the server still counts the messages of the old one."""
    whole = provider.compact([user("one"), assistant("1"), user("two")], instructions="Be brief.", temperature=0)
    assert set(server.requests[0].body) == {"model", "input", "instructions"}
    # The user's messages, and what stands for all of it.
    assert [item["type"] for item in whole["output"]] == ["message", "message", "compaction"]
    assert provider.complete([*whole["output"], user("three")]).text == "Heard: three (context: 3)"


@pytest.mark.row("A24")
@pytest.mark.parametrize("answer", [b"[]", b"no", {"data": 5}, {}], ids=repr)
def test_a_strange_answer_to_a_list_is_an_invalid_response(answer: Any) -> None:
    """What is no list of objects is an error of the library's own kind."""

    def script(conn: Conn) -> None:
        while True:
            conn.read_request()
            conn.respond(200, answer)

    with ScriptedPeer(script) as peer, provider_for(peer) as provider:
        for call in (provider.models, lambda: provider.input_items("resp_1")):
            with pytest.raises(InvalidResponse):
                call()


def test_every_error_is_a_pixir_error(server: LocalServer, transport: TransportName) -> None:
    """One except clause catches a refusal, a cancel and a wrong argument; each turns into plain data."""
    token = CancelToken()
    token.cancel()
    with provider_for(server, api_key="wrong", transport=transport) as provider:
        for kind, fields in ((NotAuthenticated, {}), (Cancelled, {"cancel": token}), (InvalidRequest, {"top_p": -1})):
            with pytest.raises(PixirError) as caught:
                provider.complete("Hi", **fields)
            assert type(caught.value) is kind
            assert json.loads(json.dumps(caught.value.to_dict()))["kind"] == caught.value.kind
