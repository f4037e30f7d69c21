"""Section 8, point 3: the latest response per lane, the store, what is not found, what is evicted, what a disconnect loses."""

from __future__ import annotations

import pytest

from pixir_sync.local import LocalServer
from tests.local.helpers import TOOL, bare, both, call, http_connection, output, text, user
from tests.local.helpers import Wire as Asked
from tests.local.raw import Client, Json, body, connect

FAILURES: dict[str, Json] = {
    "orphan": {"given": [output("call_nobody", "?")]},
    "value": {"temperature": 9},
    "input": {"given": [{"type": "nonsense"}]},
    "item": {"given": [{**user("a"), "id": "msg_nobody"}]},
    "background": {"background": True},
    "model": {"model": 5},
}
failures = pytest.mark.parametrize("failing", FAILURES.values(), ids=FAILURES.keys())


def not_found(event: Json, response_id: str) -> bool:
    """Whether it is the one refusal of an id that cannot be continued from, whole."""
    error = {
        "type": "invalid_request_error",
        "code": "previous_response_not_found",
        "message": f"Previous response with id '{response_id}' not found.",
        "param": "previous_response_id",
    }
    return (event["type"], event["status"], event["error"]) == ("error", 400, error)


def continues(client: Client, response: Json, users: int, **fields: object) -> Json:
    """Continue from the response, which must make a context of so many user messages; the new response."""
    answer = client.final("on", previous_response_id=response["id"], **{"store": False, **fields})
    assert text(answer) == f"Heard: on (context: {users})"
    return answer


def evicted(client: Client, response: Json, **fields: object) -> None:
    """The response cannot be continued from."""
    assert not_found(client.refused(previous_response_id=response["id"], store=False, **fields), response["id"])


def test_the_latest_of_a_lane_is_continued(server: LocalServer) -> None:
    """Twenty turns with store false, each from the one before: the context grows by one every time."""
    with connect(server) as client:
        response = client.final("m1", store=False)
        for users in range(2, 21):
            previous, response = response, continues(client, response, users)
            assert response["previous_response_id"] == previous["id"]


@pytest.mark.parametrize("lane", [None, "side"])
def test_an_older_id_is_not_found_without_a_store(server: LocalServer, lane: str | None) -> None:
    """With store false only the lane's latest is known; asking for an older one leaves the latest alone."""
    fields: Json = {} if lane is None else {"stream_id": lane}
    with connect(server) as client:
        old = client.final("one", store=False, **fields)
        new = continues(client, old, 2, **fields)
        refused = client.refused(previous_response_id=old["id"], store=False, **fields)
        assert not_found(refused, old["id"]) and refused.get("stream_id") == lane
        continues(client, new, 3, **fields)


def test_an_unknown_id_is_not_found_over_http(server: LocalServer) -> None:
    """Over HTTP it is a 400 with the same error in its body, in one piece or asked for as a stream."""
    with http_connection(server) as connection:
        for stream in (False, True):
            asked = body(previous_response_id="resp_nobody", stream=stream)
            status, answer, _ = call(connection, "POST", "/v1/responses", asked)
            assert not_found({"type": "error", "status": status, **answer}, "resp_nobody")


def test_an_unstored_response_is_known_to_its_connection_only(server: LocalServer) -> None:
    """Neither another WebSocket nor HTTP finds it; its own connection does afterwards."""
    with connect(server) as client, connect(server) as other, http_connection(server) as connection:
        mine = client.final("one", store=False)
        evicted(other, mine)
        assert call(connection, "POST", "/v1/responses", body(previous_response_id=mine["id"]))[0] == 400
        continues(client, mine, 2)


def test_a_stored_response_is_reloaded(server: LocalServer) -> None:
    """With store true any older id can be continued from, in any lane, on any connection, over HTTP, more than once."""
    with connect(server) as client, connect(server) as other:
        first = client.final("one", store=True)
        second = client.final("two", previous_response_id=first["id"], store=True)
        third = client.final("three", previous_response_id=second["id"], store=True)
        for response, users in ((first, 2), (second, 3), (third, 4), (first, 2)):
            continues(client, response, users)
            continues(client, response, users, stream_id="side")
            continues(other, response, users)
    with http_connection(server) as connection:
        answer = call(connection, "POST", "/v1/responses", body("on", previous_response_id=second["id"]))[1]
        assert text(answer) == "Heard: on (context: 3)"


def test_store_is_true_unless_it_is_said_otherwise(server: LocalServer) -> None:
    """A request without store is stored, and its response says so."""
    with connect(server) as client:
        response = client.final("one")
    assert response["store"] is True
    with connect(server) as client:
        continues(client, response, 2)


@failures
@pytest.mark.parametrize("lane", [None, "side"])
def test_a_refused_continuation_evicts(server: LocalServer, lane: str | None, failing: Json) -> None:
    """A same-lane continuation that ends in a 4xx takes the id it referred to with it."""
    fields: Json = {} if lane is None else {"stream_id": lane}
    with connect(server) as client:
        latest = client.final("one", store=False, **fields)
        refused = client.refused(previous_response_id=latest["id"], store=False, **fields, **failing)
        assert 400 <= refused["status"] < 500 and refused["error"]["code"] != "previous_response_not_found"
        evicted(client, latest, **fields)
        continues(client, client.final("anew", store=False, **fields), 2, **fields)


@failures
def test_a_failed_request_without_an_id_evicts_nothing(server: LocalServer, failing: Json) -> None:
    """What is refused and refers to no response leaves the lane's latest alone."""
    with connect(server) as client:
        latest = client.final("one", store=False)
        client.refused(store=False, **failing)
        continues(client, latest, 2)


def test_an_evicted_response_that_is_stored_is_reloaded(server: LocalServer) -> None:
    """Eviction takes what the lane remembers; the store keeps its own."""
    with connect(server) as client:
        latest = client.final("one", store=True)
        client.refused(previous_response_id=latest["id"], **FAILURES["orphan"])
        continues(client, latest, 2)


def test_a_fork_continues_another_lanes_response(server: LocalServer) -> None:
    """A lane begins from another lane's latest with store false; both go on, each with a context of its own."""
    with connect(server) as client:
        parent = client.final("one", store=False)
        forks = [continues(client, parent, 2, stream_id=f"fork{number}") for number in range(3)]
        trunk = continues(client, parent, 2)
        for number, fork in enumerate(forks):
            fork = continues(client, fork, 3, stream_id=f"fork{number}")
            continues(client, fork, 4, stream_id=f"fork{number}")
        continues(client, trunk, 3)


def test_the_default_lane_forks_from_a_named_one(server: LocalServer) -> None:
    """A fork goes either way."""
    with connect(server) as client:
        parent = client.final("one", store=False, stream_id="side")
        continues(client, parent, 2)
        continues(client, parent, 2, stream_id="side")


@failures
def test_a_failed_fork_keeps_its_parent(server: LocalServer, failing: Json) -> None:
    """A fork that is refused evicts nothing: its parent goes on, in its own lane and by another fork."""
    with connect(server) as client:
        parent = client.final("one", store=False)
        refused = client.refused(previous_response_id=parent["id"], store=False, stream_id="fork", **failing)
        assert refused["stream_id"] == "fork"
        continues(client, parent, 2, stream_id="fork")
        continues(client, parent, 2)


def test_a_fork_is_lost_when_its_parent_goes_on(server: LocalServer) -> None:
    """With store false a lane that went on has no older response to fork from."""
    with connect(server) as client:
        parent = client.final("one", store=False)
        continues(client, parent, 2)
        evicted(client, parent, stream_id="fork")


def test_a_disconnect_loses_everything(server: LocalServer) -> None:
    """After a disconnect no lane's unstored response is found, on a new connection; what was stored is."""
    with connect(server) as client:
        plain = client.final("one", store=False)
        named = client.final("two", store=False, stream_id="side")
        kept = client.final("three", store=True, stream_id="kept")
    with connect(server) as client:
        evicted(client, plain)
        evicted(client, named, stream_id="side")
        continues(client, kept, 2)


def test_a_cut_loses_everything(server: LocalServer) -> None:
    """So does a connection that is cut without a close."""
    with connect(server) as client:
        plain = client.final("one", store=False)
        server.cut_connections()
        assert client.ended() is None
    with connect(server) as client:
        evicted(client, plain)


@pytest.mark.parametrize("kind", ["function", "custom"])
def test_an_orphan_output_fails_and_evicts(server: LocalServer, kind: str) -> None:
    """A tool output whose call is not in the context is a 400 that says so, and the response is gone."""
    item: Json = {"type": f"{kind}_call_output" if kind == "function" else "custom_tool_call_output", "output": "?"}
    with connect(server) as client:
        latest = client.final("one", store=False)
        refused = client.refused([{**item, "call_id": "call_nobody"}], previous_response_id=latest["id"], store=False)
        assert (refused["status"], refused["error"]["param"]) == (400, "input")
        assert "No tool call found" in refused["error"]["message"] and "call_nobody" in refused["error"]["message"]
        evicted(client, latest)


def test_a_missing_output_fails_and_evicts(server: LocalServer) -> None:
    """Going on from a call without its output is a 400 that names the call, and the response is gone."""
    with connect(server) as client:
        latest = client.final("get_weather", tools=[TOOL], store=False)
        call_id = latest["output"][0]["call_id"]
        refused = client.refused("never mind", previous_response_id=latest["id"], tools=[TOOL], store=False)
        assert refused["status"] == 400 and refused["error"]["message"] == f"No tool output found for function call {call_id}."
        evicted(client, latest)


def test_a_tool_output_continues(server: LocalServer) -> None:
    """The output of a call that the context holds is taken, once."""
    with connect(server) as client:
        first = client.final("get_weather", tools=[TOOL], store=False)
        given = [output(first["output"][0]["call_id"], "sunny")]
        answer = client.final(given, previous_response_id=first["id"], store=False)
        assert text(answer) == 'Tool answered: "sunny" (context: 1)'
        refused = client.refused(given, previous_response_id=answer["id"], store=False)
        assert "No tool call found" in refused["error"]["message"]


@both
def test_previous_response_with_conversation_is_refused(server: LocalServer, wire: Asked) -> None:
    """One of the two only, whether the ids are known or not."""
    (refused,) = wire(server, previous_response_id="resp_x", conversation="conv_x")
    assert (refused["status"], refused["error"]["code"]) == (400, "mutually_exclusive_parameters")


def test_instructions_are_not_inherited(server: LocalServer) -> None:
    """A continuation has the instructions and tools that it is given, or none: the echo and the count of tokens say so."""
    long = "Be kind. " * 100
    with connect(server) as client:
        first = client.final("one", instructions=long, tools=[TOOL], store=False)
        without = client.final("two", previous_response_id=first["id"], store=False)
        again = client.final("three", previous_response_id=without["id"], instructions=long, tools=[TOOL], store=False)
    assert (first["instructions"], without["instructions"], again["instructions"]) == (long, None, long)
    assert (len(first["tools"]), without["tools"], len(again["tools"])) == (1, [], 1)
    counted = [response["usage"]["input_tokens"] for response in (first, without, again)]
    assert counted[1] < counted[0] - 100 and counted[2] > counted[1] + 200


def test_tools_are_not_inherited(server: LocalServer) -> None:
    """A continuation without tools calls none, though its text names one."""
    with connect(server) as client:
        first = client.final("hello", tools=[TOOL], store=False)
        second = client.final("get_weather", previous_response_id=first["id"], store=False)
    assert [item["type"] for item in second["output"]] == ["message"]


def test_a_full_input_starts_anew(server: LocalServer) -> None:
    """A request without previous_response_id has nothing of the lane's past: the same conversation in full answers alike."""
    with connect(server) as client:
        first = client.final([user("one")], store=False)
        chained = client.final([user("two")], previous_response_id=first["id"], store=False)
        full = client.final([user("one"), *bare(first["output"]), user("two")], store=False)
        assert text(full) == text(chained) == "Heard: two (context: 2)"
        assert text(client.final("alone", store=False)) == "Heard: alone (context: 1)"
