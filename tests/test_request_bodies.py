"""What arrives at the server, over both transports: bodies compared whole, histories that the server itself judges."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pytest

from pixir_sync import InvalidRequest, InvalidResponse, Provider, Request, assistant, tool_output, user
from pixir_sync.local import HttpError, LocalServer, faults
from tests.support.both import Peer, TransportName, bare
from tests.support.events import text_response
from tests.support.fake import anywhere, provider_for

Json = dict[str, Any]
USER = {"type": "message", "role": "user", "content": "Hi"}
BASE: Json = {"model": "gpt-5.5", "input": [USER], "store": False, "include": ["reasoning.encrypted_content"]}
TOOL = {"type": "function", "name": "get_weather", "description": "The weather.", "strict": False,
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}  # fmt: skip


def sent(transport: TransportName, request: Any = "Hi", **fields: Any) -> Json:
    """The body, without its envelope, that reaches a peer, which takes anything."""
    with Peer(transport, text_response("ok")) as peer, peer.provider() as provider:
        provider.complete(request, **fields)
        return peer.bodies[0]


@contextmanager
def served(transport: TransportName, **options: Any) -> Iterator[tuple[LocalServer, Provider]]:
    """A local server, and a provider that sends each turn in full."""
    given = {"model": "local-model", "continuation": "off", **options}
    with LocalServer() as server, provider_for(server, transport=transport, **given) as provider:
        yield server, provider


@dataclass
class Weather:
    """A forecast."""

    city: str
    days: int


@pytest.mark.row("A5")
def test_instructions_and_developer_context_have_their_places(transport: TransportName) -> None:
    """system_prompt becomes instructions; developer_context, trimmed, is the first input item."""
    body = sent(transport, Request(system_prompt="Be brief.", developer_context="  The user is a pilot. \n", history="Hi"))
    first = {"type": "message", "role": "developer", "content": "The user is a pilot."}
    assert body == {**BASE, "instructions": "Be brief.", "input": [first, USER]}


@pytest.mark.row("A5")
@pytest.mark.parametrize("blank", [None, "", "  \n\t"])
def test_a_blank_developer_context_is_left_out(transport: TransportName, blank: str | None) -> None:
    """A developer_context without content leaves no trace."""
    assert sent(transport, "Hi", developer_context=blank) == BASE


@pytest.mark.row("A5")
def test_instructions_go_with_every_turn(transport: TransportName) -> None:
    """The second turn of a conversation carries the instructions again; the history before it stands behind the context."""
    with served(transport) as (server, provider):
        history = [user("one")]
        for text in ("two", "three"):
            result = provider.complete(history, instructions="Be brief.", developer_context="ctx", session="s")
            history += [*result.output_items, user(text)]
        first, second = (bare(request.body, transport) for request in server.requests)
        assert first["instructions"] == second["instructions"] == "Be brief."
        assert [item["role"] for item in second["input"]] == ["developer", "user", "assistant", "user"]


@pytest.mark.row("A4")
def test_nothing_of_another_transport_is_in_the_body(transport: TransportName) -> None:
    """HTTP has stream, a WebSocket type; neither has background, generate or stream_id; store is false unless it is asked for."""
    with Peer(transport, text_response("ok")) as peer, peer.provider() as provider:
        provider.complete("Hi")
        raw = peer.server.requests.only.body
    assert raw == {**BASE, **({"type": "response.create"} if transport == "websocket" else {"stream": True})}
    stored = sent(transport, store=True)
    assert stored["store"] is True and "include" not in stored


@pytest.mark.row("A6")
def test_tools_are_flat(transport: TransportName) -> None:
    """Functions and mappings become flat tools; the local server takes them."""

    def get_time(zone: str) -> str:
        """The time.

        Args:
            zone: the zone's name.
        """
        return zone

    zone = {"type": "string", "description": "the zone's name."}
    parameters = {"type": "object", "properties": {"zone": zone}, "required": ["zone"], "additionalProperties": False}
    with served(transport) as (server, provider):
        result = provider.complete("get_weather now", tools=[TOOL, get_time])
        assert server.requests[0].body["tools"] == [
            TOOL,
            {"type": "function", "name": "get_time", "description": "The time.", "parameters": parameters, "strict": True},
        ]
    assert [call.name for call in result.function_calls] == ["get_weather"]
    assert set(result.function_calls[0].args or {}) == {"city"}


@pytest.mark.row("A6")
def test_a_nested_function_key_is_refused(transport: TransportName) -> None:
    """The chat-style form of a tool is refused by name, and nothing is sent."""
    with Peer(transport, text_response("ok")) as peer, peer.provider() as provider:
        with pytest.raises(InvalidRequest, match=r"tools\[0\]\.function"):
            provider.stream("Hi", tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}])
        assert not peer.connections


OPTIONS: list[tuple[str, Any, Json]] = [
    ("tool_choice", "none", {"tool_choice": "none"}),
    ("tool_choice", {"type": "function", "name": "f"}, {"tool_choice": {"type": "function", "name": "f"}}),
    ("parallel_tool_calls", False, {"parallel_tool_calls": False}),
    ("parallel_tool_calls", True, {"parallel_tool_calls": True}),
    ("reasoning_effort", "low", {"reasoning": {"effort": "low"}}),
    ("reasoning_summary", "auto", {"reasoning": {"summary": "auto"}}),
    ("verbosity", "low", {"text": {"verbosity": "low"}}),
    ("temperature", 0, {"temperature": 0}),
    ("temperature", 0.0, {"temperature": 0.0}),
    ("temperature", 1.5, {"temperature": 1.5}),
    ("top_p", 0, {"top_p": 0}),
    ("top_p", 0.0, {"top_p": 0.0}),
    ("max_output_tokens", 1, {"max_output_tokens": 1}),
    ("prompt_cache_key", "k-1", {"prompt_cache_key": "k-1"}),
    ("prompt_cache_retention", "24h", {"prompt_cache_retention": "24h"}),
    ("metadata", {"a": "b"}, {"metadata": {"a": "b"}}),
    ("metadata", {}, {"metadata": {}}),
    ("service_tier", "flex", {"service_tier": "flex"}),
    ("include", ["message.output_text.logprobs"], {"include": ["message.output_text.logprobs", "reasoning.encrypted_content"]}),
    ("user", "u-1", {"user": "u-1"}),
    ("truncation", "auto", {"truncation": "auto"}),
    ("top_logprobs", 0, {"top_logprobs": 0}),
    ("model", "gpt-6", {"model": "gpt-6"}),
    ("extra_body", {"x_new": None, "y": [1]}, {"x_new": None, "y": [1]}),
]


@pytest.mark.row("A7")
@pytest.mark.parametrize(("name", "value", "added"), OPTIONS, ids=[f"{row[0]}={row[1]!r:.20}" for row in OPTIONS])
def test_every_option_is_forwarded_and_nothing_else(transport: TransportName, name: str, value: Any, added: Json) -> None:
    """An option adds its own field, 0 too, to a body that is otherwise the same: what is not given is absent."""
    body = sent(transport, "Hi", **{name: value})
    assert body == {**BASE, **added}
    assert all(type(body[field]) is type(wanted) for field, wanted in added.items())


@pytest.mark.row("A7")
def test_all_options_together_reach_the_server(transport: TransportName) -> None:
    """Options that share an object are merged, also with what extra_body says of it."""
    body = sent(transport, "Hi", reasoning_effort="high", reasoning_summary="concise", verbosity="high",
                extra_body={"reasoning": {"context": "all"}, "text": {"x": 1}})  # fmt: skip
    assert body["reasoning"] == {"effort": "high", "summary": "concise", "context": "all"}
    assert body["text"] == {"verbosity": "high", "x": 1}


SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
NAMED = {"name": "w", "schema": SCHEMA}


@pytest.mark.row("A8")
@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (NAMED, {"type": "json_schema", **NAMED, "strict": True}),
        (NAMED | {"strict": False}, {"type": "json_schema", **NAMED, "strict": False}),
        (SCHEMA, {"type": "json_schema", "name": "output", "schema": SCHEMA, "strict": True}),
    ],
    ids=["named", "not strict", "bare"],
)
def test_output_schema_becomes_text_format(transport: TransportName, given: Json, wanted: Json) -> None:
    """A mapping or a bare schema goes to text.format, beside the verbosity; the answer is parsed."""
    with served(transport) as (server, provider):
        result = provider.complete("Hi", output_schema=given, verbosity="low")
        assert server.requests[0].body["text"] == {"verbosity": "low", "format": wanted}
    assert result.parsed == json.loads(result.text) and set(result.parsed) == {"city"}


@pytest.mark.row("A8")
def test_a_data_class_gives_the_schema_and_the_value(transport: TransportName) -> None:
    """The answer to a schema from a data class is an instance of it."""
    with served(transport) as (server, provider):
        result = provider.complete("Hi", output_schema=Weather)
        shape = server.requests[0].body["text"]["format"]
    assert (shape["name"], shape["strict"], shape["schema"]["required"]) == ("Weather", True, ["city", "days"])
    assert isinstance(result.parsed, Weather)
    assert {"city": result.parsed.city, "days": result.parsed.days} == json.loads(result.text)


@pytest.mark.row("A8", "A26")
@pytest.mark.parametrize("text", ["I am sorry, Dave: zebra", '{"zebra": ', '{"city": 5, "days": "zebra"}'])
def test_an_answer_that_is_not_the_schema_is_an_invalid_response(transport: TransportName, text: str) -> None:
    """The raw text is in the partial result, and nothing of it in the error itself."""
    with Peer(transport, text_response(*text.split(" "))) as peer, peer.provider() as provider:
        with pytest.raises(InvalidResponse) as caught:
            provider.complete("Hi", output_schema=Weather)
        assert len(peer.bodies) == 1, "an answer that was paid for is not asked for again"
    error = caught.value
    assert error.partial is not None and error.partial.text == text.replace(" ", "")
    assert "zebra" not in f"{error!r} {error} {error.to_dict()}"
    assert error.output_seen and error.phase == "stream"


@pytest.mark.row("A10")
def test_the_cache_key_is_kept_on_a_retry(transport: TransportName) -> None:
    """The second attempt sends the very same body."""
    with Peer(transport, [HttpError(500)], text_response("ok")) as peer, peer.provider() as provider:
        assert provider.complete("Hi", prompt_cache_key="conversation-7").text == "ok"
        first, second = peer.bodies
    assert first == second and second["prompt_cache_key"] == "conversation-7"


@pytest.mark.row("A10", "C1")
def test_the_cache_key_is_kept_over_a_fallback() -> None:
    """What goes over HTTP after a WebSocket was refused is the body that would have gone over that, in the other envelope."""
    with LocalServer(faults=[faults.RefuseUpgrade(426)]) as server, provider_for(server) as provider:
        preview = provider.request_body_preview("Hi", prompt_cache_key="conversation-7")
        found = provider.complete("Hi", prompt_cache_key="conversation-7").provider_metadata
        upgrade, request = server.upgrades.only, server.requests.only
    assert (upgrade.method, request.method) == ("GET", "POST") and found["fallback_reason"] == "websocket_unsupported"
    assert bare(request.body, "http_sse") == bare(preview, "websocket") == {**BASE, "prompt_cache_key": "conversation-7"}


@pytest.mark.row("A10")
@pytest.mark.parametrize("key", ["", "a b", "é", "x" * 513, "line\n", 5])
def test_a_bad_cache_key_is_refused(transport: TransportName, key: Any) -> None:
    """Before any network, by name."""
    with Peer(transport, text_response("ok")) as peer, peer.provider() as provider:
        with pytest.raises(InvalidRequest, match="prompt_cache_key"):
            provider.stream("Hi", prompt_cache_key=key)
        assert not peer.connections


@pytest.mark.row("A10")
@pytest.mark.parametrize("extra", [{}, {"extra_body": {"prompt_cache_retention": "24h"}}])
def test_cache_retention_is_not_sent_to_the_chatgpt_backend(transport: TransportName, extra: Json) -> None:
    """That backend refuses the field; elsewhere it is sent. The key goes to both."""
    seen: list[tuple[str, Json]] = []
    with anywhere(transport, seen) as peer:
        for url in (peer.base_url.replace("/v1", "/backend-api/codex"), peer.base_url):
            with provider_for(peer, transport=transport, base_url=url) as provider:
                provider.complete("Hi", prompt_cache_key="k", prompt_cache_retention="24h", **extra)
    there, elsewhere = (bare(body, transport) for _, body in seen)
    assert [path for path, _ in seen] == ["/backend-api/codex/responses", "/v1/responses"]
    assert "prompt_cache_retention" not in there and there["prompt_cache_key"] == "k"
    assert elsewhere["prompt_cache_retention"] == "24h"


REQUESTS: list[Any] = [
    "Hi",
    [user("one"), assistant("two"), user("three")],
    {"input": "Hi", "instructions": "Be brief.", "temperature": 0.0, "tools": [TOOL]},
    Request(history="Hi", developer_context="ctx", output_schema=Weather, reasoning_effort="low", metadata={"a": "b"}),
]


@pytest.mark.row("A11")
@pytest.mark.parametrize("request_", REQUESTS, ids=["string", "items", "mapping", "Request"])
@pytest.mark.parametrize("preference", ["auto", "websocket", "http_sse", "sse"])
def test_the_preview_is_the_body_that_arrives(request_: Any, preference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs neither a socket nor a credential."""

    def no_sockets(*args: Any, **more: Any) -> None:
        raise AssertionError("the preview opened a socket")

    with monkeypatch.context() as patch:
        patch.delenv("OPENAI_API_KEY", raising=False)
        for name in ("socket", "create_connection", "getaddrinfo"):
            patch.setattr(socket, name, no_sockets)
        preview = Provider(model="local-model", transport=preference).request_body_preview(request_)
    with LocalServer() as server, provider_for(server, model="local-model", transport=preference) as provider:
        provider.complete(request_)
        assert server.requests[0].body == preview
    bare(preview, "http_sse" if preference in ("http_sse", "sse") else "websocket")


@pytest.mark.row("A11")
def test_a_preview_is_the_callers_to_change() -> None:
    """Changing it changes neither the history nor the tools that it was made of."""
    history, tools = [user("Hi", "there")], [deepcopy(TOOL)]
    before = deepcopy((history, tools))
    preview = Provider(model="m").request_body_preview(history, tools=tools)
    preview["input"][0]["content"][0]["text"] = "changed"
    preview["tools"][0]["parameters"]["properties"].clear()
    assert (history, tools) == before


@pytest.mark.row("A12")
def test_on_payload_changes_in_place_or_replaces(transport: TransportName) -> None:
    """What the callback did to the payload, or gave back, is what arrives."""
    seen: list[Json] = []

    def change(payload: Json) -> None:
        seen.append(deepcopy(payload))
        payload["service_tier"] = "flex"

    assert sent(transport, "Hi", on_payload=change) == {**BASE, "service_tier": "flex"}
    assert seen == [BASE]
    other = {"model": "gpt-6", "input": "Hello", "store": False}
    said = {"type": "message", "role": "user", "content": "Hello"}
    assert sent(transport, "Hi", on_payload=lambda payload: other) == {**other, "input": [said]}


@pytest.mark.row("A12")
def test_on_payload_never_reaches_the_callers_objects(transport: TransportName) -> None:
    """It works on copies: the history, the tools and the metadata of the caller stay as they are, also within."""
    history, tools, metadata = [user("Hi", "there")], [deepcopy(TOOL)], {"a": "b"}
    before = deepcopy((history, tools, metadata))

    def change(payload: Json) -> None:
        payload["input"][0]["content"][0]["text"] = "changed"
        payload["input"].append(user("more"))
        payload["tools"][0]["parameters"]["properties"]["city"]["type"] = "number"
        payload["metadata"]["c"] = "d"

    body = sent(transport, history, tools=tools, metadata=metadata, on_payload=change)
    assert body["input"][0]["content"][0]["text"] == "changed" and len(body["input"]) == 2
    assert body["metadata"] == {"a": "b", "c": "d"}
    assert (history, tools, metadata) == before


@pytest.mark.row("A12")
@pytest.mark.parametrize(
    ("given", "field"),
    [(5, "on_payload"), ({"model": "m", "input": [5]}, r"history\[0\]"), ({"input": "Hi"}, "model"),
     ({"model": "m", "input": "Hi", "stream": False}, "stream"),
     ({"model": "m", "input": "Hi", "background": True}, "background")],
)  # fmt: skip
def test_what_on_payload_gives_is_checked(transport: TransportName, given: Any, field: str) -> None:
    """A replacement that is no request is refused before any network."""
    with Peer(transport, text_response("ok")) as peer, peer.provider() as provider:
        with pytest.raises(InvalidRequest, match=field) as caught:
            provider.complete("Hi", on_payload=lambda payload: given)
        assert caught.value.phase == "shape" and not peer.connections


CALL = {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": "{}"}


@pytest.mark.row("A14")
def test_a_call_without_its_output_gets_one_that_says_so(transport: TransportName) -> None:
    """The server, which refuses open calls, takes the history; the caller's own is as it was."""
    history = [user("one"), dict(CALL), user("two")]
    before = deepcopy(history)
    with served(transport) as (server, provider):
        assert provider.complete(history).text == "Heard: two (context: 2)"
        items = server.requests[0].body["input"]
    assert [item["type"] for item in items] == ["message", "function_call", "function_call_output", "message"]
    assert items[2]["call_id"] == "call_1" and "No output" in items[2]["output"]
    assert history == before


@pytest.mark.row("A14")
def test_an_output_without_its_call_is_dropped_with_one_warning(
    transport: TransportName, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning names the place, once per call, and quotes nothing."""
    with served(transport) as (server, provider), caplog.at_level(logging.WARNING):
        result = provider.complete([user("one"), tool_output("call_9", "a zebra"), user("two")])
        assert [item["type"] for item in server.requests[0].body["input"]] == ["message", "message"]
    assert result.text == "Heard: two (context: 2)"
    warnings = [record.getMessage() for record in caplog.records if record.name.startswith("pixir_sync")]
    assert len(warnings) == 1 and "history[1]" in warnings[0] and "zebra" not in warnings[0]


@pytest.mark.row("A14")
@pytest.mark.parametrize(
    "owned",
    [{"previous_response_id": "resp_0"}, {"conversation": "conv_1"}, {"conversation": {"id": "conv_1"}},
     {"extra_body": {"previous_response_id": "resp_0"}}],
    ids=["previous_response_id", "conversation", "conversation object", "extra_body"],
)  # fmt: skip
def test_a_context_of_the_callers_own_goes_as_it_is(transport: TransportName, owned: Json) -> None:
    """No repair, no id or status left out, nothing asked for in addition."""
    history = [{**tool_output("call_9", "out"), "id": "fco_1", "status": "completed"}, dict(CALL)]
    body = sent(transport, history, **owned)
    flat = {**owned, **owned.get("extra_body", {})}
    flat.pop("extra_body", None)
    assert body == {"model": "gpt-5.5", "input": history, "store": False, **flat}


@pytest.mark.row("A14")
def test_a_continued_response_is_continued_on_the_server(transport: TransportName) -> None:
    """previous_response_id of a stored response works with nothing but the new item."""
    with served(transport, store=True) as (server, provider):
        first = provider.complete("one")
        second = provider.complete("two", previous_response_id=first.response_id)
        assert second.text == "Heard: two (context: 2)"
        assert len(server.requests[1].body["input"]) == 1


@pytest.mark.row("A15")
def test_a_replayed_history_obeys_the_rules_of_the_wire(transport: TransportName) -> None:
    """Output items go back without ids and statuses, reasoning with its encrypted content; the server takes them."""
    with served(transport) as (server, provider):
        history: list[Json] = [user("get_weather in Rome")]
        first = provider.complete(history, tools=[TOOL], reasoning_effort="low")
        assert first.reasoning_items and all("id" in item for item in first.output_items)
        history += [*first.output_items, tool_output(first.function_calls[0].call_id, "sunny"), user("thanks")]
        assert provider.complete(history, tools=[TOOL], reasoning_effort="low").text == "Heard: thanks (context: 2)"
        items = server.requests[1].body["input"]
    assert [item["type"] for item in items] == ["message", "reasoning", "function_call", "function_call_output", "message"]
    assert not any("id" in item or "status" in item for item in items)
    assert items[1]["encrypted_content"] == first.reasoning_items[0]["encrypted_content"]


@pytest.mark.row("A15")
@pytest.mark.parametrize("early", [False, True], ids=["result", "break after the terminal event"])
def test_reasoning_goes_to_its_own_model_only(transport: TransportName, early: bool) -> None:
    """A provider that saw where reasoning came from sends it there and leaves it out for another model."""
    with served(transport, model="model-a") as (server, provider):
        with provider.stream("one", reasoning_effort="low") as stream:
            for event in stream:
                if early and event.type == "response.completed":
                    break
        history = [user("one"), *stream.result().output_items, user("two")]
        for model in ("model-a", "model-b"):
            assert provider.complete(history, model=model, reasoning_effort="low").text == "Heard: two (context: 2)"
        same, other = (request.body["input"] for request in server.requests[1:])
    assert [item["type"] for item in same] == ["message", "reasoning", "message", "message"]
    assert [item["type"] for item in other] == ["message", "message", "message"]


@pytest.mark.row("A15")
def test_reasoning_of_a_model_that_on_payload_chose_is_that_models(transport: TransportName) -> None:
    """The origin is the model that was sent, not the one that was asked for."""
    with served(transport, model="model-a") as (server, provider):
        first = provider.complete("one", reasoning_effort="low", on_payload=lambda p: {**p, "model": "model-b"})
        history = [user("one"), *first.output_items, user("two")]
        assert provider.complete(history, reasoning_effort="low").text == "Heard: two (context: 2)"
        assert not any(item["type"] == "reasoning" for item in server.requests[1].body["input"])


@pytest.mark.row("A15")
def test_reasoning_without_encrypted_content_stays_at_home(transport: TransportName) -> None:
    """Such an item means nothing to a server that stored nothing; with store true everything goes as it is."""
    plain = {"type": "reasoning", "id": "rs_1", "summary": []}
    history = [user("one"), plain, assistant("two"), user("three")]
    assert [item["type"] for item in sent(transport, history)["input"]] == ["message", "message", "message"]
    assert sent(transport, history, store=True)["input"] == history
    with pytest.raises(InvalidRequest, match=r"\[0\] is an item_reference, which needs store"):
        sent(transport, [{"type": "item_reference", "id": "msg_1"}, user("one")])


def test_reserved_fields_are_refused_in_extra_body(transport: TransportName) -> None:
    """What the library sets itself is refused by name; the field is named again with the mapping form."""
    with Peer(transport, text_response("ok")) as peer, peer.provider() as provider:
        for name in ("type", "model", "input", "stream", "stream_id", "generate", "background"):
            with pytest.raises(InvalidRequest, match=rf"extra_body\.{name}"):
                provider.stream("Hi", extra_body={name: "x"})
        for name in ("stream", "type", "background"):
            with pytest.raises(InvalidRequest, match=name):
                provider.stream({"input": "Hi", name: True})
        assert not peer.connections
