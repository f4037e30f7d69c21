"""Every event and every object that the local server sends is one of the official SDK's own types, to the last field."""

from __future__ import annotations

import contextlib
import http.client
import json
from typing import Any

import pytest
from openai.types import Model
from openai.types.responses import (
    CompactedResponse,
    InputTokenCountResponse,
    Response,
    ResponseInputMessageItem,
    ResponseItemList,
)
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from pixir_sync.local import (
    Answer,
    CustomCall,
    Failed,
    FunctionCall,
    HostedCall,
    Incomplete,
    LocalServer,
    Reasoning,
    Refusal,
    Text,
    faults,
)
from tests.interop.schema import HTTP_EVENTS, WEBSOCKET_EVENTS, event_mismatches, mismatches
from tests.interop.support import MODEL, TERMINAL

Json = dict[str, Any]

TOOLS: list[Json] = [
    {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}, "strict": False},
    {"type": "custom", "name": "run_code", "format": {"type": "text"}},
    {"type": "web_search"},
    {"type": "file_search", "vector_store_ids": ["vs_1"]},
    {"type": "code_interpreter", "container": {"type": "auto"}},
    {"type": "image_generation"},
    {"type": "mcp", "server_label": "local", "server_url": "http://127.0.0.1/mcp", "require_approval": "never"},
    {"type": "local_shell"},
    {"type": "shell"},
    {"type": "apply_patch"},
]
SCHEMA = {"type": "json_schema", "name": "place", "schema": {"type": "object", "properties": {"name": {"type": "string"}}}}
CITATION = {"type": "url_citation", "start_index": 0, "end_index": 3, "title": "Hello", "url": "http://127.0.0.1/hello"}

# What the model itself answers, by the request's fields.
REQUESTS: dict[str, Json] = {
    "text": {"input": "hello"},
    "function call": {"input": "use get_weather", "tools": TOOLS},
    "custom call": {"input": "use run_code", "tools": TOOLS},
    "two calls": {"input": "use get_weather and run_code", "tools": TOOLS, "store": False},
    "reasoning": {"input": "hello", "reasoning": {"effort": "low", "summary": "auto"}},
    "encrypted reasoning": {
        "input": "hello",
        "reasoning": {"effort": "high"},
        "include": ["reasoning.encrypted_content"],
        "store": False,
    },
    "structured": {"input": "hello", "text": {"format": SCHEMA, "verbosity": "low"}},
    "json object": {"input": "hello", "text": {"format": {"type": "json_object"}}},
    "cut off": {"input": "word " * 50, "max_output_tokens": 16},
    "cut off at once": {"input": "use get_weather", "tools": TOOLS, "max_output_tokens": 1},
    "conversation": {"input": "hello", "conversation": "conv_1"},
    "forced": {"input": "hello", "tools": TOOLS, "tool_choice": {"type": "function", "name": "get_weather"}},
    "allowed": {
        "input": "hello",
        "tools": TOOLS,
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "get_weather"}]},
    },
    "compacted": {"input": "word " * 500, "context_management": [{"type": "compaction", "compact_threshold": 200}]},
    "everything echoed": {
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "hello"}]}],
        "instructions": "Be brief.",
        "tools": TOOLS,
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "max_tool_calls": 3,
        "max_output_tokens": 1000,
        "metadata": {"a": "b"},
        "store": True,
        "prompt_cache_key": "key",
        "prompt_cache_retention": "24h",
        "safety_identifier": "one",
        "service_tier": "default",
        "temperature": 0.5,
        "top_p": 0.5,
        "top_logprobs": 3,
        "truncation": "auto",
        "user": "one",
    },
}

# What a scenario lets the server say.
ANSWERS: dict[str, Answer] = {
    "deltas": Answer(Text("Hel", "lo", annotations=[CITATION])),
    "two messages": Answer("Hello", "again"),
    "empty": Answer(""),
    "nothing": Answer(),
    "refusal": Answer(Refusal("I will not.")),
    "reasoning": Answer(Reasoning("Think.", text="Thinking.", encrypted=True), "Hello"),
    "plain reasoning": Answer(Reasoning("", encrypted=False), "Hello"),
    "function calls": Answer(FunctionCall("a", {"b": 1}), FunctionCall("a", "{}", call_id="call_1")),
    "custom call": Answer(CustomCall("run_code", "print(1)")),
    "failed": Answer("Hel", end=Failed("server_error", "Sorry.")),
    "failed at once": Answer(end=Failed("rate_limit_exceeded", "Slow down.")),
    **{f"incomplete: {why}": Answer("Hel", end=Incomplete(why)) for why in ("max_output_tokens", "content_filter")},
    **{
        kind: Answer(HostedCall(kind), "Hello")
        for kind in (
            "web_search_call",
            "file_search_call",
            "code_interpreter_call",
            "image_generation_call",
            "mcp_call",
            "mcp_list_tools",
            "mcp_approval_request",
            "computer_call",
            "local_shell_call",
            "shell_call",
            "shell_call_output",
            "apply_patch_call",
            "apply_patch_call_output",
            "tool_search_call",
            "tool_search_output",
            "program",
            "program_output",
        )
    },
    "mcp_call failed": Answer(HostedCall("mcp_call", status="failed"), "Hello"),
}



class Wire:
    """Asks the server and gives what it sends, byte for byte."""

    def __init__(self, server: LocalServer) -> None:
        self.server = server
        self._headers = {"Authorization": f"Bearer {server.api_key}"}

    def call(self, method: str, path: str, value: Json | None = None) -> tuple[int, bytes]:
        """One HTTP exchange: the status and the body."""
        exchange = http.client.HTTPConnection(self.server.host, self.server.port, timeout=5)
        with contextlib.closing(exchange):
            exchange.request(method, f"/v1{path}", None if value is None else json.dumps(value), self._headers)
            answer = exchange.getresponse()
            return answer.status, answer.read()

    def created(self, **fields: Any) -> Json:
        """A response that was made just now."""
        response: Json = json.loads(self.call("POST", "/responses", {"model": MODEL, **fields})[1])
        return response

    def socket(self) -> Connection:
        """A WebSocket."""
        return connect(self.server.websocket_url, additional_headers=self._headers)

    def events(self, transport: str, fields: Json) -> list[bytes]:
        """The events that answer a request."""
        body = {"model": MODEL, **fields}
        if transport == "http_sse":
            _, answer = self.call("POST", "/responses", {**body, "stream": True})
            return [line.removeprefix(b"data: ") for line in answer.splitlines() if line.startswith(b"data: ")]
        with self.socket() as socket:
            socket.send(json.dumps({"type": "response.create", **body}))
            return receive_to(socket, *TERMINAL)


def receive_to(socket: Connection, *types: str) -> list[bytes]:
    """The frames up to the first of one of these types."""
    frames: list[bytes] = []
    while not frames or json.loads(frames[-1])["type"] not in types:
        frames.append(socket.recv(timeout=5, decode=False))
    return frames


def faults_in(transport: str, events: list[bytes]) -> list[str]:
    """What is wrong with the events, each fault once."""
    models = HTTP_EVENTS if transport == "http_sse" else WEBSOCKET_EVENTS
    assert events
    return list(dict.fromkeys(fault for event in events for fault in event_mismatches(models, event)))


@pytest.fixture
def wire(server: LocalServer) -> Wire:
    return Wire(server)


@pytest.mark.parametrize("case", REQUESTS)
def test_what_the_model_answers(wire: Wire, transport: str, case: str) -> None:
    """Whatever is asked of the model, its events are the SDK's."""
    assert faults_in(transport, wire.events(transport, REQUESTS[case])) == []


@pytest.mark.parametrize("case", REQUESTS)
def test_what_the_model_answers_without_a_stream(wire: Wire, case: str) -> None:
    """And so is the response as one object, when it is made and when it is fetched."""
    status, body = wire.call("POST", "/responses", {"model": MODEL, **REQUESTS[case]})
    assert (status, mismatches(Response, body)) == (200, [])
    response = json.loads(body)
    if response["store"]:
        status, body = wire.call("GET", f"/responses/{response['id']}")
        assert (status, mismatches(Response, body)) == (200, [])


@pytest.mark.parametrize("case", ANSWERS)
def test_what_a_scenario_says(server: LocalServer, wire: Wire, transport: str, case: str) -> None:
    """Each part and each end that an answer can have gives events that are the SDK's."""
    server.scenario = ANSWERS[case]
    assert faults_in(transport, wire.events(transport, {"input": "hello"})) == []


@pytest.mark.parametrize("case", ANSWERS)
def test_what_a_scenario_says_without_a_stream(server: LocalServer, wire: Wire, case: str) -> None:
    """The same as one object."""
    server.scenario = ANSWERS[case]
    status, body = wire.call("POST", "/responses", {"model": MODEL, "input": "hello"})
    assert (status, mismatches(Response, body)) == (200, [])


def test_a_continuation(wire: Wire, transport: str) -> None:
    """A response that goes on from another one names it."""
    first = wire.created(input="one")
    events = wire.events(transport, {"input": "two", "previous_response_id": first["id"]})
    assert faults_in(transport, events) == []
    assert json.loads(events[-1])["response"]["previous_response_id"] == first["id"]


def test_a_lane_and_a_warm_up(wire: Wire) -> None:
    """What only a WebSocket has: lanes' names, answers without output."""
    for fields in ({"stream_id": "a"}, {"generate": False}, {"prompt_cache_options": {"prewarm": True}}):
        assert faults_in("websocket", wire.events("websocket", {"input": "hello", **fields})) == []


def test_an_error_in_the_stream(server: LocalServer, wire: Wire, transport: str) -> None:
    """An error in the midst of an answer has the shape of its transport."""
    with server.fault(faults.Refuse(status=500, code="server_error", after=2)):
        assert faults_in(transport, wire.events(transport, {"input": "hello"})) == []


@pytest.mark.parametrize(
    "frame",
    [
        "{",
        '{"type": "response.dance"}',
        '{"type": "response.create", "input": "hello"}',
        '{"type": "response.create", "model": "m", "input": "hello", "stream_id": "a", "previous_response_id": "resp_0"}',
    ],
)
def test_error_frames(wire: Wire, frame: str) -> None:
    """So have the refusals on a WebSocket."""
    with wire.socket() as socket:
        socket.send(frame)
        assert faults_in("websocket", receive_to(socket, "error")) == []


@pytest.mark.parametrize("lane", [{}, {"stream_id": "a"}], ids=["default", "named"])
@pytest.mark.parametrize("given", ["hello", "use get_weather"])
def test_steering(server: LocalServer, wire: Wire, lane: Json, given: str) -> None:
    """Accepted, pending and failed, and what the steered response and its successor say."""
    stall = faults.Stall(after=4)
    with server.fault(stall, times=1), wire.socket() as socket:
        socket.send(json.dumps({"type": "response.create", "model": MODEL, "input": given, "tools": TOOLS, **lane}))
        frames = receive_to(socket, "response.created")
        response_id = json.loads(frames[-1])["response"]["id"]
        for target in (response_id, "resp_0"):
            socket.send(json.dumps({"type": "response.steer", "previous_response_id": target, "input": "two"}))
        frames += receive_to(socket, "response.steer.failed")
        stall.release()
        frames += receive_to(socket, "response.completed", "response.steer.pending")
        if given != "hello":
            frames += receive_to(socket, "response.steer.pending")
        socket.send(json.dumps({"type": "response.steer", "previous_response_id": response_id, "input": "three"}))
        frames += receive_to(socket, "response.steer.failed")
    assert faults_in("websocket", frames) == []


def test_background(wire: Wire) -> None:
    """A background response while it is queued, when it is cancelled, when it is done."""
    for after in ("POST", "GET"):
        queued = wire.created(input="hello", background=True)
        path = f"/responses/{queued['id']}" + ("/cancel" if after == "POST" else "")
        assert mismatches(Response, json.dumps(queued).encode()) == []
        status, body = wire.call(after, path)
        assert (status, mismatches(Response, body)) == (200, [])


def test_input_items(wire: Wire) -> None:
    """A page of every kind of input that was sent in the ways that are allowed."""
    first = wire.created(input="use get_weather and run_code", tools=TOOLS, reasoning={"effort": "low"})
    calls = {item["type"]: item["call_id"] for item in first["output"] if "call_id" in item}
    second = wire.created(
        previous_response_id=first["id"],
        input=[
            {"type": "function_call_output", "call_id": calls["function_call"], "output": "rain"},
            {"type": "custom_tool_call_output", "call_id": calls["custom_tool_call"], "output": "42"},
            {"role": "developer", "content": "Be brief."},
            {"role": "assistant", "content": "I see."},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]},
            {"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"}]},
        ],
    )
    status, body = wire.call("GET", f"/responses/{second['id']}/input_items?order=asc")
    assert (status, mismatches(ResponseItemList, body)) == (200, [])
    assert len(json.loads(body)["data"]) == 10


def test_compaction(wire: Wire) -> None:
    """The compaction is one of the SDK's, but for the user's messages, which its type has no place for."""
    first = wire.created(input="one")
    status, body = wire.call("POST", "/responses/compact", {"model": MODEL, "input": "two", "previous_response_id": first["id"]})
    assert status == 200
    compacted = json.loads(body)
    *messages, item = compacted["output"]
    assert mismatches(CompactedResponse, json.dumps({**compacted, "output": [item]}).encode()) == []
    assert [mismatches(ResponseInputMessageItem, json.dumps(message).encode()) for message in messages] == [[], []]


def test_the_rest(wire: Wire) -> None:
    """The count of tokens and the catalogue."""
    status, body = wire.call("POST", "/responses/input_tokens", {"model": MODEL, "input": "hello"})
    assert (status, mismatches(InputTokenCountResponse, body)) == (200, [])
    status, body = wire.call("GET", f"/models/{MODEL}")
    assert (status, mismatches(Model, body)) == (200, [])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/responses/resp_0", 404),
        ("DELETE", "/responses/resp_0", 404),
        ("POST", "/responses", 400),
        ("GET", "/nowhere", 404),
        ("PUT", "/responses", 405),
    ],
)
def test_refusals(wire: Wire, method: str, path: str, status: int) -> None:
    """A refusal over HTTP is an ``error`` of four fields."""
    found, body = wire.call(method, path, {} if method == "POST" else None)
    assert found == status
    error = json.loads(body)
    assert list(error) == ["error"] and set(error["error"]) == {"message", "type", "param", "code"}
    assert isinstance(error["error"]["message"], str) and isinstance(error["error"]["type"], str)


def test_the_check_itself() -> None:
    """Without this it might find nothing, whatever is sent."""
    good = {"type": "response.output_text.done", "sequence_number": 1, "item_id": "a", "output_index": 0, "content_index": 0}
    whole = {**good, "text": "hello", "logprobs": []}
    for models in (HTTP_EVENTS, WEBSOCKET_EVENTS):
        assert event_mismatches(models, json.dumps(whole).encode()) == []
        assert len(event_mismatches(models, json.dumps({**good, "logprobs": []}).encode())) == 1
        assert len(event_mismatches(models, json.dumps({**whole, "output_index": "0"}).encode())) == 1
        assert len(event_mismatches(models, json.dumps({**whole, "texts": ""}).encode())) == 1
        assert len(event_mismatches(models, b'{"type": "response.dance"}')) == 1
