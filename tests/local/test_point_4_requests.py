"""Section 8, point 4: warm-up and prewarm, what a WebSocket refuses and tolerates, and bad frames, which cost no socket."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pixir_sync.local import LocalServer
from tests.local.helpers import TOOL, both, call, http_connection, text, user
from tests.local.helpers import Wire as Asked
from tests.local.raw import Client, Json, body, connect, kinds

WARM: dict[str, Json] = {
    "generate": {"generate": False},
    "prewarm": {"prompt_cache_options": {"prewarm": True}},
    "prewarm-over-generate": {"prompt_cache_options": {"prewarm": True}, "generate": True},
}
warm_ups = pytest.mark.parametrize("warm", WARM.values(), ids=WARM.keys())
CREATE = {"type": "response.create", "model": "m", "input": "x"}


@warm_ups
def test_a_warm_up_puts_out_nothing(server: LocalServer, warm: Json) -> None:
    """Created, then completed with an empty output; input is counted, output is not."""
    with connect(server) as client:
        events = client.turn([user("one")], store=False, **warm)
    assert kinds(events) == ["created", "completed"] and [event["sequence_number"] for event in events] == [0, 1]
    created, done = (event["response"] for event in events)
    assert (created["status"], done["status"]) == ("in_progress", "completed") and created["id"] == done["id"]
    assert done["output"] == [] and created["usage"] is None
    assert done["usage"]["output_tokens"] == 0 < done["usage"]["input_tokens"]


@warm_ups
def test_a_warm_up_is_continued(server: LocalServer, warm: Json) -> None:
    """Its id can be continued from, by another warm-up too; what it prepared is then cached."""
    with connect(server) as client:
        first = client.final([user("one")], store=False, **warm)
        second = client.final([user("two")], previous_response_id=first["id"], store=False, **warm)
        answer = client.final([user("three")], previous_response_id=second["id"], store=False)
    assert text(answer) == "Heard: three (context: 3)"
    assert answer["usage"]["input_tokens_details"]["cached_tokens"] == second["usage"]["input_tokens"] > 0


@warm_ups
def test_a_warm_up_needs_no_input(server: LocalServer, warm: Json) -> None:
    """Instructions and tools alone can be prepared."""
    with connect(server) as client:
        fields: Json = {"instructions": "be kind", "tools": [TOOL], "store": False}
        first = client.final([], **fields, **warm)
        answer = client.final([user("one")], previous_response_id=first["id"], **fields)
    assert text(answer) == "Heard: one (context: 1)"


@warm_ups
def test_a_warm_up_of_a_lane_is_the_lanes(server: LocalServer, warm: Json) -> None:
    """Its events carry the lane's name, and the lane goes on from it."""
    with connect(server) as client:
        events = client.turn([user("one")], store=False, stream_id="side", **warm)
        assert [event["stream_id"] for event in events] == ["side", "side"]
        linked = {"previous_response_id": events[-1]["response"]["id"], "stream_id": "side", "store": False}
        assert text(client.final([user("two")], **linked)) == "Heard: two (context: 2)"


@warm_ups
def test_a_refused_warm_up_is_an_error(server: LocalServer, warm: Json) -> None:
    """A warm-up is checked like any request."""
    with connect(server) as client:
        assert client.refused(previous_response_id="resp_x", **warm)["error"]["code"] == "previous_response_not_found"
        assert client.refused([{"type": "nonsense"}], **warm)["status"] == 400


@pytest.mark.parametrize(
    "fields", [{"generate": True}, {"prompt_cache_options": {"prewarm": False}}, {"prompt_cache_options": {"mode": "implicit"}}]
)
def test_what_is_no_warm_up_generates(server: LocalServer, fields: Json) -> None:
    """Generate true, prewarm false and other cache options answer as ever."""
    with connect(server) as client:
        assert text(client.final("hi", **fields)) == "Heard: hi (context: 1)"


def test_prewarm_is_there_over_http_and_generate_is_not(server: LocalServer) -> None:
    """Prewarm is an option of a POST; generate is the WebSocket's own and refused there."""
    with http_connection(server) as connection:
        status, answer, _ = call(connection, "POST", "/v1/responses", body(**WARM["prewarm"]))
        assert (status, answer["status"], answer["output"]) == (200, "completed", [])
        status, answer, _ = call(connection, "POST", "/v1/responses", body(generate=False))
        assert (status, answer["error"]["param"]) == (400, "generate")


def test_background_is_refused_over_a_websocket(server: LocalServer) -> None:
    """Background true gets an error frame that names it, false is let through; over HTTP it is taken."""
    with connect(server) as client:
        refused = client.refused(background=True)
        assert (refused["status"], refused["error"]["param"]) == (400, "background")
        assert text(client.final("hi", background=False)) == "Heard: hi (context: 1)"
    with http_connection(server) as connection:
        assert call(connection, "POST", "/v1/responses", body(background=True))[1]["status"] == "queued"


@pytest.mark.parametrize("stream", [True, False, None])
def test_stream_is_tolerated_over_a_websocket(server: LocalServer, stream: bool | None) -> None:
    """Whatever it says, the answer is events, and the field is echoed nowhere."""
    with connect(server) as client:
        events = client.turn("hi", stream=stream)
    assert kinds(events)[:2] == ["created", "in_progress"] and kinds(events)[-1] == "completed"
    assert "stream" not in events[-1]["response"]


FRAMES: dict[str, tuple[str, str, str | None]] = {
    "not-json": ("{nonsense", "invalid_json", None),
    "empty": ("", "invalid_json", None),
    "blank": (" ", "invalid_json", None),
    "cut": ('{"type": "response.create"', "invalid_json", None),
    "two": ("{}{}", "invalid_json", None),
    "array": ("[]", "invalid_json", None),
    "string": ('"response.create"', "invalid_json", None),
    "null": ("null", "invalid_json", None),
    "number": ("1e999", "invalid_json", None),
    "nan": ('{"type": "response.create", "model": "m", "input": "x", "temperature": NaN}', "invalid_json", None),
    "surrogate": ('{"type": "response.create", "model": "m", "input": "\\ud800"}', "invalid_json", None),
    "no-type": ("{}", "missing_required_parameter", "type"),
    "unknown-type": ('{"type": "response.cancel"}', "invalid_value", "type"),
    "session": ('{"type": "session.update"}', "invalid_value", "type"),
    "type-of-server": ('{"type": "response.created"}', "invalid_value", "type"),
    "type-no-text": ('{"type": 5}', "invalid_value", "type"),
    "type-a-list": ('{"type": ["response.create"]}', "invalid_value", "type"),
    "no-model": ('{"type": "response.create", "input": "x"}', "missing_required_parameter", "model"),
    "null-model": ('{"type": "response.create", "input": "x", "model": null}', "missing_required_parameter", "model"),
    "empty-model": ('{"type": "response.create", "input": "x", "model": ""}', "missing_required_parameter", "model"),
    "no-input": ('{"type": "response.create", "model": "m"}', "missing_required_parameter", "input"),
    "nested": ('{"type": "response.create", "response": {"model": "m", "input": "x"}}', "missing_required_parameter", "model"),
}


def serves_on(client: Client) -> None:
    """The socket is kept."""
    assert text(client.final("still here")) == "Heard: still here (context: 1)"


@pytest.mark.parametrize(("frame", "code", "param"), FRAMES.values(), ids=FRAMES.keys())
def test_a_bad_frame_gets_an_error_frame(server: LocalServer, frame: str, code: str, param: str | None) -> None:
    """A nested error event with its status, one for each frame, without a lane; then the socket serves on."""
    with connect(server) as client:
        for _ in range(2):
            client.send(frame)
            event = client.receive()
            assert set(event) == {"type", "status", "error"} and set(event["error"]) == {"type", "code", "message", "param"}
            assert (event["type"], event["status"], event["error"]["type"]) == ("error", 400, "invalid_request_error")
            assert (event["error"]["code"], event["error"]["param"]) == (code, param) and event["error"]["message"]
        serves_on(client)
    assert server.connections == 1 and len(server.requests) == 3


def test_a_bad_frame_leaves_a_running_turn_alone(server: LocalServer) -> None:
    """Frames that are none, between and beside turns, take nothing from the answers, whose state is kept."""
    with connect(server) as client:
        first = client.final("one", store=False)
        for frame, _, _ in FRAMES.values():
            client.send(frame)
        client.create("two", previous_response_id=first["id"], store=False)
        events = client.until("response.completed")
    assert len([event for event in events if event["type"] == "error"]) == len(FRAMES)
    assert text(events[-1]["response"]) == "Heard: two (context: 2)"


def test_an_unknown_type_quotes_what_there_is(server: LocalServer) -> None:
    """The message of the refusal names the types that there are."""
    with connect(server) as client:
        client.send({"type": "response.cancel"})
        message = client.receive()["error"]["message"]
    assert "response.create" in message and "response.steer" in message


@both
def test_an_unknown_model_is_not_found(wire: Asked) -> None:
    """A model that is not in the server's list is a 404 with its code."""
    with LocalServer(models=["known"]) as server:
        (refused,) = wire(server)
    assert (refused["status"], refused["error"]["code"], refused["error"]["param"]) == (404, "model_not_found", "model")


@pytest.mark.parametrize("frame", [json.dumps(CREATE), json.dumps(CREATE, indent=2), "\n " + json.dumps(CREATE) + " \n"])
def test_json_is_json_however_it_is_laid_out(server: LocalServer, frame: str) -> None:
    """White space around and inside a frame means nothing."""
    with connect(server) as client:
        client.send(frame)
        assert client.until_terminal()[-1]["type"] == "response.completed"


@pytest.mark.parametrize("value", [0, "text", [1], {"a": None}, True])
def test_unknown_fields_are_let_through(server: LocalServer, value: Any) -> None:
    """A field that nobody knows is no error, as gateways have it."""
    with connect(server) as client:
        assert text(client.final("hi", brand_new=value)) == "Heard: hi (context: 1)"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
    | st.sampled_from(["auto", "none", "function", "custom", "allowed_tools", "message", "compaction", "json_schema"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["type", "name", "tools", "mode", "format", "schema", "id", "effort", "role", "content", "text", "enum"]),
        inner,
        max_size=4,
    ),
    max_leaves=8,
)  # fmt: skip
FIELDS = [
    "model", "input", "instructions", "tools", "tool_choice", "parallel_tool_calls", "max_tool_calls", "max_output_tokens",
    "reasoning", "text", "include", "metadata", "previous_response_id", "conversation", "store", "prompt",
    "context_management", "truncation", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "temperature",
    "top_p", "top_logprobs", "service_tier", "safety_identifier", "user", "moderation", "stream_options", "stream", "background",
    "generate", "stream_id",
]  # fmt: skip


@settings(max_examples=300)
@example(fields={"tool_choice": {"type": "allowed_tools", "tools": 5}}, tools=True)
@example(fields={"tools": [{"type": "function", "name": "get_weather", "parameters": {"type": []}}]}, tools=True)
@example(fields={"tools": [{"type": "function", "name": "get_weather", "parameters": {"type": ""}}]}, tools=True)
@given(fields=st.dictionaries(st.sampled_from(FIELDS), ANYTHING, min_size=1, max_size=3), tools=st.booleans())
def test_no_value_of_any_field_is_too_much(law_server: LocalServer, fields: Json, tools: bool) -> None:
    """Whatever stands in whichever fields, the answer is a response or the client's error: never a failure of the server."""
    with connect(law_server) as client:
        request: Json = {"type": "response.create", "model": "m", "input": "get_weather", "tools": [TOOL] if tools else []}
        client.send({**request, **fields})
        last = client.until_terminal()[-1]
        assert last["type"] != "error" or 400 <= last["status"] < 500, (fields, law_server.failures)
