"""Section 8, point 9: responses by id, the count of input tokens, request ids and rate-limit headers."""

from __future__ import annotations

import re

import pytest

from pixir_sync.local import Answer, Failed, LocalServer
from tests.local.helpers import TOOL, call, http_connection, output, over_http, over_websocket, start_stream, text, user
from tests.local.raw import Json, body, connect

RATE_HEADERS = [
    f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")
]  # fmt: skip


def get(server: LocalServer, path: str, method: str = "GET", value: Json | None = None) -> tuple[int, Json]:
    """One exchange under ``/v1/responses``: its status and its body."""
    with http_connection(server) as connection:
        status, answer, _ = call(connection, method, f"/v1/responses{path}", value)
    return status, answer


def stored(server: LocalServer, turns: int) -> list[Json]:
    """A chain of stored turns over a WebSocket: their responses."""
    responses: list[Json] = []
    with connect(server) as client:
        for number in range(turns):
            link = {"previous_response_id": responses[-1]["id"]} if responses else {}
            responses.append(client.final([user(f"m{number}")], **link))
    return responses


@pytest.mark.parametrize("path", ["/v1/responses", "/responses"])
def test_a_stored_response_is_retrieved(server: LocalServer, path: str) -> None:
    """As its terminal event showed it, whichever transport it was made over, under either path."""
    with http_connection(server) as connection:
        for response in (over_websocket(server)[-1]["response"], over_http(server)[-1]["response"]):
            status, found, _ = call(connection, "GET", f"{path}/{response['id']}")
            assert (status, found) == (200, response)


def test_an_unstored_one_is_not_found(server: LocalServer) -> None:
    """Store false, unknown and failed ones are 404s with an error object, for every method."""
    unstored = over_websocket(server, store=False)[-1]["response"]["id"]
    server.scenario = Answer("x", end=Failed())
    failed = over_websocket(server)[-1]["response"]["id"]
    for response_id in (unstored, failed, "resp_nobody"):
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")):
            status, answer = get(server, f"/{response_id}{path}", method)
            assert status == 404 and response_id in answer["error"]["message"]
            assert answer["error"]["type"] == "invalid_request_error"


def test_a_deleted_response_is_gone(server: LocalServer) -> None:
    """It is neither found nor continued from, by HTTP or in the store; what continued from it before is still there."""
    first, second = stored(server, 2)
    assert get(server, f"/{first['id']}", "DELETE") == (200, {"id": first["id"], "object": "response", "deleted": True})
    assert get(server, f"/{first['id']}")[0] == get(server, f"/{first['id']}", "DELETE")[0] == 404
    lost = over_websocket(server, previous_response_id=first["id"])[0]
    assert lost["error"]["code"] == "previous_response_not_found"
    assert text(over_websocket(server, "on", previous_response_id=second["id"])[-1]["response"]) == "Heard: on (context: 3)"


def test_a_background_response_runs_or_is_cancelled(server: LocalServer) -> None:
    """Queued at first; it has run when it is asked for, unless it was cancelled; a cancel that is late changes nothing."""
    ran, stopped = (get(server, "", "POST", body(background=True))[1] for _ in range(2))
    for response in (ran, stopped):
        assert (response["status"], response["output"], response["usage"], response["background"]) == ("queued", [], None, True)
    done = get(server, f"/{ran['id']}")[1]
    assert (done["status"], text(done)) == ("completed", "Heard: hello (context: 1)")
    assert get(server, f"/{ran['id']}/cancel", "POST")[1] == done
    for _ in range(2):
        cancelled = get(server, f"/{stopped['id']}/cancel", "POST")[1]
        assert (cancelled["status"], cancelled["output"], cancelled["id"]) == ("cancelled", [], stopped["id"])
    assert get(server, f"/{stopped['id']}")[1]["status"] == "cancelled"


def test_only_a_background_response_is_cancelled(server: LocalServer) -> None:
    """Any other is a 400."""
    (response,) = stored(server, 1)
    status, answer = get(server, f"/{response['id']}/cancel", "POST")
    assert status == 400 and answer["error"]["message"] == "Cannot cancel a synchronous response."


def listed(server: LocalServer, response_id: str, query: str = "") -> Json:
    status, page = get(server, f"/{response_id}/input_items{query}")
    assert (status, page["object"]) == (200, "list")
    return page


def test_input_items_are_the_whole_input(server: LocalServer) -> None:
    """Those of the chain before it, its output included, and its own; newest first, or oldest first; each with an id."""
    *_, last = stored(server, 3)
    items = listed(server, last["id"], "?order=asc")["data"]
    assert [item["role"] for item in items] == ["user", "assistant", "user", "assistant", "user"]
    assert [item["content"][0]["text"] for item in items[::2]] == ["m0", "m1", "m2"]
    assert len({item["id"] for item in items}) == 5
    assert listed(server, last["id"])["data"] == listed(server, last["id"], "?order=desc")["data"] == items[::-1]


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 99])
def test_input_items_come_page_by_page(server: LocalServer, order: str, limit: int) -> None:
    """Following ``last_id`` with ``after`` shows every item once, in order; ``has_more`` is true on all pages but the last."""
    *_, last = stored(server, 3)
    everything = listed(server, last["id"], f"?order={order}")["data"]
    found: list[Json] = []
    more, after = True, ""
    while more:
        page = listed(server, last["id"], f"?order={order}&limit={limit}{after}")
        assert 1 <= len(page["data"]) <= limit
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        found += page["data"]
        more, after = page["has_more"], f"&after={page['last_id']}"
    assert found == everything


@pytest.mark.parametrize("limit", ["0", "101", "-1", "x", "1.5"])
def test_a_bad_limit_is_refused(server: LocalServer, limit: str) -> None:
    """From 1 to 100, and 20 where none is given."""
    (response,) = stored(server, 1)
    status, answer = get(server, f"/{response['id']}/input_items?limit={limit}")
    assert (status, answer["error"]["param"]) == (400, "limit")
    many = over_http(server, [user(f"m{number}") for number in range(30)])[-1]["response"]
    page = listed(server, many["id"])
    assert len(page["data"]) == 20 and page["has_more"]
    assert len(listed(server, many["id"], "?limit=100")["data"]) == 30


def test_tool_calls_are_listed_with_their_outputs(server: LocalServer) -> None:
    """Every kind of item has its place in the list."""
    with connect(server) as client:
        first = client.final("get_weather", tools=[TOOL])
        second = client.final([output(first["output"][0]["call_id"], "sunny")], previous_response_id=first["id"])
    kinds = [item["type"] for item in listed(server, second["id"], "?order=asc")["data"]]
    assert kinds == ["message", "function_call", "function_call_output"]


def test_input_tokens_count_what_a_request_would(server: LocalServer) -> None:
    """The same number as the usage of the request itself: plain, with instructions and tools, and as a continuation."""
    (previous,) = stored(server, 1)
    requests: list[Json] = [
        body([user("hi there")], store=False),
        body("hi there", store=False, instructions="be kind", tools=[TOOL]),
        body([user("on")], store=False, previous_response_id=previous["id"]),
    ]
    for request in requests:
        status, counted = get(server, "/input_tokens", "POST", request)
        usage = get(server, "", "POST", request)[1]["usage"]
        assert (status, counted) == (200, {"object": "response.input_tokens", "input_tokens": usage["input_tokens"]})


def test_counting_and_compacting_check_their_bodies(server: LocalServer) -> None:
    """A missing model, an unknown response and a malformed item are refused as for a request."""
    for path in ("/input_tokens", "/compact"):
        for fields, code in (
            ({"model": None}, "missing_required_parameter"),
            ({"previous_response_id": "resp_x"}, "previous_response_not_found"),
            ({"input": [{"type": "nonsense"}]}, "invalid_value"),
            ({"input": [{**user("a"), "id": "msg_x"}]}, None),
        ):
            status, answer = get(server, path, "POST", {**body(), **fields})
            assert 400 <= status < 500 and answer["error"]["code"] == code


def test_counting_stores_nothing(server: LocalServer) -> None:
    """What was counted or compacted has no address."""
    compacted = get(server, "/compact", "POST", body())[1]
    assert get(server, f"/{compacted['id']}")[0] == 404


def test_every_answer_has_a_request_id_of_its_own(server: LocalServer) -> None:
    """Good and bad, whole and streamed, a hundred in a row: all differ, on all connections."""
    found: list[str] = []
    for _ in range(10):
        with http_connection(server) as connection:
            for method, path, value in (
                ("POST", "/v1/responses", body()),
                ("POST", "/v1/responses", body(stream=True)),
                ("POST", "/v1/responses", b"{bad"),
                ("GET", "/v1/responses/resp_x", None),
                ("GET", "/v1/models", None),
                ("POST", "/v1/responses/compact", body()),
                ("POST", "/v1/responses/input_tokens", body()),
                ("GET", "/v1/nothing", None),
            ):
                if isinstance(value, dict) and value.get("stream"):
                    answer = start_stream(connection, value)
                    headers, _ = answer.headers, answer.read()
                else:
                    _, _, headers = call(connection, method, path, value)
                found.append(headers["x-request-id"])
                assert len(headers.get_all("x-request-id") or []) == 1
    assert len(set(found)) == len(found) == 80 and all(re.fullmatch(r"req_[0-9a-f]{32}", one) for one in found)


@pytest.mark.parametrize("stream", [True, False])
def test_answers_tell_the_rate_limits(server: LocalServer, stream: bool) -> None:
    """Limit, remaining and reset, of requests and of tokens, and how long it took."""
    with http_connection(server) as connection:
        answer = start_stream(connection, body()) if stream else None
        if answer is not None:
            headers, _ = answer.headers, answer.read()
        else:
            headers = call(connection, "POST", "/v1/responses", body())[2]
    for name in RATE_HEADERS:
        value = headers[name]
        assert re.fullmatch(r"\d+(\.\d+)?(ms|s|m)", value) if "reset" in name else value.isdecimal(), name
    for of in ("requests", "tokens"):
        assert 0 <= int(headers[f"x-ratelimit-remaining-{of}"]) < int(headers[f"x-ratelimit-limit-{of}"])
    assert headers["openai-processing-ms"].isdecimal()


def test_a_wrong_key_has_a_request_id_too(server: LocalServer) -> None:
    """A refusal of the credential can be asked about."""
    with http_connection(server) as connection:
        status, _, headers = call(connection, "GET", "/v1/models", key="wrong")
    assert status == 401 and headers["x-request-id"].startswith("req_")


def test_a_response_takes_only_its_own_items_with_it(server: LocalServer) -> None:
    """Deleting a response that referred to another one's item leaves that item where it was."""
    first = get(server, "", "POST", body())[1]
    reference: Json = {"type": "item_reference", "id": first["output"][0]["id"]}
    second = get(server, "", "POST", body([reference, user("again")]))[1]
    assert get(server, f"/{second['id']}", "DELETE")[0] == 200
    assert get(server, "", "POST", body([reference, user("and again")]))[0] == 200
    assert get(server, f"/{first['id']}", "DELETE")[0] == 200
    assert get(server, "", "POST", body([reference, user("once more")]))[0] == 404
