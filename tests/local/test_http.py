"""The HTTP side of the local server, on a real socket with the standard library's client."""

from __future__ import annotations

import http.client
import json
import socket as sockets
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pixir_sync.local import Close, HttpError, LocalServer, Pause, Step
from tests.local.helpers import Json, bare, body, call, http_connection, next_event, start_stream, stream, text, user
from tests.support.ws_client import read_to


def test_post_answers_with_a_response_object(server: LocalServer) -> None:
    """Without stream the answer is one JSON object, with a request id and rate limits, and the request is on record."""
    with http_connection(server) as connection:
        status, answer, headers = call(connection, "POST", "/v1/responses", body("hi"))
        assert (status, answer["object"], answer["status"]) == (200, "response", "completed")
        assert text(answer) == "Heard: hi (context: 1)"
        assert headers["x-request-id"].startswith("req_")
        assert headers["openai-processing-ms"].isdecimal() and headers["x-ratelimit-limit-requests"]
        call(connection, "POST", "/responses", body("again"))
    first, second = server.requests
    assert (first.method, first.path, first.transport, first.body) == ("POST", "/v1/responses", "http", body("hi"))
    assert first.headers["authorization"] == "Bearer local-key" and first.raw > 20
    assert (first.connection, second.connection, server.connections) == (1, 1, 1)
    assert "local-key" not in repr(server.requests) and "again" not in repr(server.requests)


def test_stream_is_server_sent_events(server: LocalServer) -> None:
    """With stream the events come one by one, each with its event line, and the connection serves on afterwards."""
    with http_connection(server) as connection:
        for number in (1, 2):
            events = stream(connection, body(f"grüße {number} 👍"))
            assert [event["sequence_number"] for event in events] == list(range(len(events)))
            assert text(events[-1]["response"]) == f"Heard: grüße {number} 👍 (context: 1)"
        answer = start_stream(connection, body())
        assert answer.getheader("Content-Type") == "text/event-stream; charset=utf-8"
        assert answer.getheader("Transfer-Encoding") == "chunked"
        answer.read()
    assert server.connections == 1
    assert {request.transport for request in server.requests} == {"http_sse"}


@pytest.mark.parametrize("key", ["wrong", "local-kez", "ключ"])
def test_wrong_key_is_refused(shared: LocalServer, key: str) -> None:
    """A wrong bearer gets 401 with a JSON body that does not quote it."""
    with http_connection(shared) as connection:
        key = key.encode().decode("latin-1")
        status, answer, _ = call(connection, "POST", "/v1/responses", body(), key=key)
    assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
    assert set(answer["error"]) == {"message", "type", "param", "code"} and key not in answer["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "value", "status", "code"),
    [
        ("POST", "/v1/responses", b"{nonsense", 400, "invalid_json"),
        ("POST", "/v1/responses", b"\xff\xfe", 400, "invalid_json"),
        ("POST", "/v1/responses", [1], 400, "invalid_json"),
        ("POST", "/v1/responses", None, 400, "missing_required_parameter"),
        ("POST", "/v1/responses", body(previous_response_id="resp_x"), 400, "previous_response_not_found"),
        ("POST", "/v1/responses", body(stream=True, tools=5), 400, "invalid_type"),
        ("GET", "/v1/responses", None, 405, None),
        ("GET", "/v1/nothing", None, 404, None),
        ("PUT", "/v1/responses", None, 405, None),
        ("GET", "/v1/responses/resp_x", None, 404, None),
        ("DELETE", "/v1/responses/resp_x", None, 404, None),
        ("POST", "/v1/responses/resp_x/cancel", None, 404, None),
        ("GET", "/v1/responses/resp_x/input_items", None, 404, None),
        ("POST", "/v1/responses/compact", {}, 400, "missing_required_parameter"),
    ],
)
def test_refusals_are_json(
    shared: LocalServer, method: str, path: str, value: Any, status: int, code: str | None
) -> None:
    """Whatever is wrong over HTTP gets its status and an error object, and the connection is kept."""
    with http_connection(shared) as connection:
        before = shared.connections
        got, answer, headers = call(connection, method, path, value)
        assert (got, answer["error"]["code"]) == (status, code)
        assert answer["error"]["message"] and headers["x-request-id"]
        assert call(connection, "GET", "/v1/models")[0] == 200
        assert shared.connections == before + 1


def test_big_bodies_pass(shared: LocalServer) -> None:
    """A body of several megabytes is taken over HTTP; its long answer is streamed in at most a thousand deltas."""
    said = "word " * 500_000
    with http_connection(shared) as connection:
        events = stream(connection, body(said))
    assert text(events[-1]["response"]) == f"Heard: {said} (context: 1)"
    assert 900 < len(events) < 1100


def test_stored_responses_have_an_address(server: LocalServer) -> None:
    """A stored response can be fetched, its input listed page by page, and deleted; then it is gone."""
    with http_connection(server) as connection:
        first = call(connection, "POST", "/v1/responses", body([user("one")]))[1]
        second = call(connection, "POST", "/v1/responses", body("two", previous_response_id=first["id"]))[1]
        path = f"/v1/responses/{second['id']}"
        assert call(connection, "GET", path)[1] == second
        page = call(connection, "GET", f"{path}/input_items?order=asc&limit=2")[1]
        assert (page["object"], page["has_more"], len(page["data"])) == ("list", True, 2)
        rest = call(connection, "GET", f"{path}/input_items?order=asc&after={page['last_id']}")[1]
        items = page["data"] + rest["data"]
        assert [item["role"] for item in items] == ["user", "assistant", "user"] and all(item["id"] for item in items)
        assert call(connection, "GET", f"{path}/input_items")[1]["data"] == items[::-1]
        assert call(connection, "GET", f"{path}/input_items?limit=0")[0] == 400
        assert call(connection, "DELETE", path)[1] == {"id": second["id"], "object": "response", "deleted": True}
        assert call(connection, "GET", path)[0] == 404
        lost = call(connection, "POST", "/v1/responses", body(previous_response_id=second["id"]))[1]
        assert lost["error"]["code"] == "previous_response_not_found"
        unstored = call(connection, "POST", "/v1/responses", body(store=False))[1]
        assert call(connection, "GET", f"/v1/responses/{unstored['id']}")[0] == 404


def test_background_responses_can_be_cancelled(server: LocalServer) -> None:
    """A background response is queued, runs when it is asked for, or is cancelled before; no other can be."""
    with http_connection(server) as connection:
        ran, stopped = (call(connection, "POST", "/v1/responses", body(background=True))[1] for _ in range(2))
        assert (ran["status"], ran["output"]) == ("queued", [])
        assert call(connection, "GET", f"/v1/responses/{ran['id']}")[1]["status"] == "completed"
        assert call(connection, "POST", f"/v1/responses/{ran['id']}/cancel")[1]["status"] == "completed"
        for _ in range(2):
            assert call(connection, "POST", f"/v1/responses/{stopped['id']}/cancel")[1]["status"] == "cancelled"
        plain = call(connection, "POST", "/v1/responses", body())[1]
        assert call(connection, "POST", f"/v1/responses/{plain['id']}/cancel")[0] == 400


def test_compaction_counts_on(server: LocalServer) -> None:
    """A compacted context is its user messages and one item; sent whole at the start of a new chain, the count goes on."""
    history = [user("one"), user("two"), user("three")]
    with http_connection(server) as connection:
        compacted = call(connection, "POST", "/v1/responses/compact", body(history))[1]
        assert compacted["object"] == "response.compaction" and compacted["usage"]["input_tokens"] > 0
        assert [item["type"] for item in compacted["output"]] == ["message", "message", "message", "compaction"]
        for output in (compacted["output"], bare(compacted["output"])):
            answer = call(connection, "POST", "/v1/responses", body([*output, user("four")], store=False))[1]
            assert text(answer) == "Heard: four (context: 4)"


def test_catalogue_lists_the_models(shared: LocalServer) -> None:
    """Without a list the default model is shown; with one, the list, and nothing else is served."""
    with http_connection(shared) as connection:
        listed = call(connection, "GET", "/v1/models")[1]
        assert [model["id"] for model in listed["data"]] == [shared.model]
    with LocalServer(models=["b", "a"]) as limited, http_connection(limited) as connection:
        assert [model["id"] for model in call(connection, "GET", "/v1/models")[1]["data"]] == ["a", "b"]
        assert call(connection, "GET", "/v1/models/a")[1]["id"] == "a"
        assert call(connection, "GET", "/v1/models/c")[1]["error"]["code"] == "model_not_found"
        assert call(connection, "POST", "/v1/responses", body())[0] == 404


def test_each_event_leaves_by_itself(server: LocalServer) -> None:
    """While a scenario pauses after event n, the client has event n and the server is not further."""
    pauses = [Pause() for _ in range(5)]
    steps: list[Step] = [step for n, pause in enumerate(pauses) for step in ({"type": f"e{n}"}, pause)]
    server.scenario = lambda _: steps
    with http_connection(server) as connection:
        answer = start_stream(connection, body())
        for number, pause in enumerate(pauses):
            assert next_event(answer) == {"type": f"e{number}"}
            assert pause.reached.wait(5)
            assert not any(later.reached.is_set() for later in pauses[number + 1 :])
            pause.event.set()
        assert next_event(answer) is None


def test_scenario_sends_bytes_and_refusals(server: LocalServer) -> None:
    """Raw bytes go into the body as they are; an HttpError is a status with its body and headers; None is the model."""
    script: dict[str, list[Step] | None] = {
        "raw": [b": comment\n\n", {"type": "x"}, b"data: cut"],
        "busy": [HttpError(429, {"error": {"message": "slow"}}, {"Retry-After": "3"})],
        "page": [HttpError(502, b"[1]", {"Content-Type": "text/html"})],
    }
    server.scenario = lambda request: script.get(request["input"])
    with http_connection(server) as connection:
        assert start_stream(connection, body("raw")).read() == b': comment\n\nevent: x\ndata: {"type":"x"}\n\ndata: cut'
        for stream in (True, False):
            status, answer, headers = call(connection, "POST", "/v1/responses", body("busy", stream=stream))
            assert (status, answer, headers["Retry-After"]) == (429, {"error": {"message": "slow"}}, "3")
        status, page, headers = call(connection, "POST", "/v1/responses", body("page"))
        assert (status, headers["Content-Type"]) == (502, "text/html") and str(page) == "[1]"
        assert text(call(connection, "POST", "/v1/responses", body("other"))[1]) == "Heard: other (context: 1)"


def test_scenario_answers_a_plain_post(server: LocalServer) -> None:
    """Without stream the response object of a scenario's terminal event is the answer."""
    server.scenario = lambda _: [{"type": "response.completed", "response": {"id": "resp_s", "output": []}}]
    with http_connection(server) as connection:
        assert call(connection, "POST", "/v1/responses", body())[1] == {"id": "resp_s", "output": []}
        assert call(connection, "GET", "/v1/responses/resp_s")[1]["status"] == "completed"


def test_close_cuts_the_body(server: LocalServer) -> None:
    """A Close ends the connection in mid-body: what came before arrives, the end of the body does not."""
    server.scenario = lambda _: [{"type": "x"}, Close()]
    with http_connection(server) as connection:
        answer = start_stream(connection, body())
        assert next_event(answer) == {"type": "x"}
        with pytest.raises(http.client.IncompleteRead):
            answer.read()


def test_client_that_leaves_is_forgotten_quietly() -> None:
    """A client that goes away in mid-stream ends its request; nothing fails and nothing is stored."""
    pause = Pause()
    steps: list[Step] = [{"type": "x"}, pause, {"type": "y"}]
    with LocalServer(scenario=lambda _: steps) as server:
        with http_connection(server) as connection:
            assert next_event(start_stream(connection, body())) == {"type": "x"}
            assert pause.reached.wait(5)
        pause.event.set()
    assert server.failures == []


def test_failing_scenario_is_a_500_and_is_raised() -> None:
    """An exception in a scenario is answered with a 500, or a cut once the stream has begun, and raised at the end."""

    def broken(request: Json) -> Iterator[Step]:
        if request["input"] == "later":
            yield {"type": "x"}
        raise KeyError("broken")

    with (
        pytest.raises(RuntimeError, match="local server failed"),
        LocalServer(scenario=broken) as server,
        http_connection(server) as connection,
    ):
        assert call(connection, "POST", "/v1/responses", body())[0] == 500
        assert call(connection, "POST", "/v1/responses", body(stream=True))[0] == 500
        answer = start_stream(connection, body("later"))
        assert next_event(answer) == {"type": "x"}
        with pytest.raises(http.client.IncompleteRead):
            answer.read()
    assert [type(failure) for failure in server.failures] == [KeyError] * 3


def test_many_streams_at_once(server: LocalServer) -> None:
    """Fifty clients stream at once and each gets its own answer."""
    answers: dict[int, str] = {}

    def work(number: int) -> None:
        with http_connection(server) as connection:
            answers[number] = text(stream(connection, body(f"n{number}"))[-1]["response"])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert answers == {number: f"Heard: n{number} (context: 1)" for number in range(50)}


def exchanged(server: LocalServer, request: bytes) -> bytes:
    """What comes for these bytes, up to the end of the first head."""
    with sockets.create_connection((server.host, server.port), 5) as sock:
        sock.sendall(request)
        return read_to(sock, b"\r\n\r\n")


def head(line: str, *lines: str) -> bytes:
    return "\r\n".join([line, "Host: h", "Authorization: Bearer local-key", *lines, "", ""]).encode()


def test_a_client_that_waits_for_100_continue_is_told_to_go_on(server: LocalServer) -> None:
    """The body may be held back until the server asks for it (curl does so)."""
    data = json.dumps(body()).encode()
    with sockets.create_connection((server.host, server.port), 5) as sock:
        sock.sendall(head("POST /v1/responses HTTP/1.1", "Expect: 100-continue", f"Content-Length: {len(data)}"))
        assert read_to(sock, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(data)
        assert read_to(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_a_body_that_is_not_compressed_as_it_says_is_refused(server: LocalServer) -> None:
    """It is the client's mistake, not the server's: a 400, and no failure."""
    request = head("POST /v1/responses HTTP/1.1", "Content-Encoding: gzip", "Content-Length: 5") + b"plain"
    assert exchanged(server, request).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("missing", ["Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version"])
def test_half_an_upgrade_is_refused(server: LocalServer, missing: str) -> None:
    """An upgrade without one of its headers is the client's mistake: a 400, and no failure."""
    lines = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    del lines[missing]
    found = exchanged(server, head("GET /v1/responses HTTP/1.1", *(f"{name}: {value}" for name, value in lines.items())))
    assert found.startswith(b"HTTP/1.1 400 ") and b"x-request-id" in found
