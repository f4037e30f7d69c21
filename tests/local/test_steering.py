"""Steering over a raw WebSocket: ``response.steer`` while a response runs, as section 2 of the protocol notes has it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pixir_sync.local import Answer, CustomCall, Failed, FunctionCall, LocalServer, Reasoning, faults
from tests.local.helpers import TOOL, call, http_connection, output, text, user
from tests.local.order import check_answer
from tests.local.raw import Client, Json, connect, kinds

ACCEPTED, PENDING, FAILED = "response.steer.accepted", "response.steer.pending", "response.steer.failed"
SETTINGS: Json = {
    "instructions": "be kind", "metadata": {"a": "b"}, "temperature": 0.5, "store": False, "parallel_tool_calls": False,
    "prompt_cache_key": "key-1",
}  # fmt: skip
WORDS = "many words so that there is something to steer"


@contextmanager
def running(server: LocalServer, client: Client, given: Any = WORDS, *, after: int = 6, **fields: Any) -> Iterator[list[Json]]:
    """A response that stands still after so many events, in the block; then it goes on. Gives its events so far."""
    with server.fault(faults.Stall(after=after), times=1) as placed:
        client.create(given, **{"store": False, **fields})
        placed.wait()
        yield [client.receive() for _ in range(after)]


def steered(client: Client, response_id: str, given: Any, **fields: Any) -> Json:
    """Steer, and the event that answers it."""
    client.steer(response_id, given, **fields)
    return client.receive()


def response_id(events: list[Json]) -> str:
    found: str = events[0]["response"]["id"]
    return found


def without_steers(events: list[Json]) -> list[Json]:
    """A response's own events, renumbered; with the steers between them their numbers have no gap."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    own = [event for event in events if not event["type"].startswith("response.steer.")]
    return [{**event, "sequence_number": number} for number, event in enumerate(own)]


def test_a_steered_response_ends_and_its_successor_follows(server: LocalServer) -> None:
    """Accepted; incomplete with reason steered; then a response nobody asked for, which continues it with the input."""
    with connect(server) as client:
        with running(server, client, **SETTINGS) as events:
            first = response_id(events)
            accepted = steered(client, first, "rather this")
            steer = accepted.pop("steer")
            assert accepted == {"type": ACCEPTED, "sequence_number": len(events)} and set(steer) == {"id", "previous_response_id"}
            assert steer["previous_response_id"] == first and steer["id"]
            events.append({**accepted, "steer": steer})
        events += client.until_terminal()
        ended = check_answer(without_steers(events))
        assert (ended["id"], ended["incomplete_details"]) == (first, {"reason": "steered"})
        assert 0 < len(text(ended)) < len(f"Heard: {WORDS} (context: 1)")
        successor = check_answer(client.until_terminal())
        assert (successor["previous_response_id"], successor["status"]) == (first, "completed")
        assert text(successor) == "Heard: rather this (context: 2)" and successor["id"] != first
        assert {name: successor[name] for name in SETTINGS} == SETTINGS
        client.silent()


def test_only_the_successor_is_continued(server: LocalServer) -> None:
    """It is the lane's latest: what follows continues it, and the response that was steered is no longer known."""
    with connect(server) as client:
        with running(server, client) as events:
            steered(client, response_id(events), "b")
        client.until_terminal()
        successor = client.until_terminal()[-1]["response"]
        answer = client.final("c", previous_response_id=successor["id"], store=False)
        assert text(answer) == "Heard: c (context: 3)"
        refused = client.refused(previous_response_id=response_id(events), store=False)
        assert refused["error"]["code"] == "previous_response_not_found"


def test_a_normal_end_is_followed_by_a_successor_too(server: LocalServer) -> None:
    """A steer that comes when all is said: the response completes as ever, and the successor follows."""
    with connect(server) as client:
        whole = len(client.turn("hi"))
        with running(server, client, "hi", after=whole - 1) as events:
            events.append(steered(client, response_id(events), "b"))
        events += client.until_terminal()
        assert check_answer(without_steers(events))["status"] == "completed"
        assert text(check_answer(client.until_terminal())) == "Heard: b (context: 2)"


def test_a_steered_response_stops_between_items(server: LocalServer) -> None:
    """While it reasons, a response ends behind its reasoning, without a message."""
    server.scenario = Answer(Reasoning("Let me think about this for long"), "An answer")
    with connect(server) as client:
        with running(server, client, after=5) as events:
            server.scenario = None
            events.append(steered(client, response_id(events), "b"))
        events += client.until_terminal()
        response = check_answer(without_steers(events))
        assert response["incomplete_details"] == {"reason": "steered"}
        assert [item["type"] for item in response["output"]] == ["reasoning"]
        assert text(check_answer(client.until_terminal())) == "Heard: b (context: 2)"


IMAGE: Json = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
GOOD_INPUTS: dict[str, Any] = {
    "text": "last",
    "content-text": [{"type": "message", "role": "user", "content": "last"}],
    "no-type": [{"role": "user", "content": "last"}],
    "parts": [user("last")],
    "image": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "last"}, IMAGE]}],
}


@pytest.mark.parametrize("given", GOOD_INPUTS.values(), ids=GOOD_INPUTS.keys())
def test_steering_input_has_every_shape_of_a_user_message(server: LocalServer, given: Any) -> None:
    """A string, messages with text, with parts, with images, with and without their type."""
    with connect(server) as client:
        with running(server, client) as events:
            assert steered(client, response_id(events), given)["type"] == ACCEPTED
        client.until_terminal()
        assert text(check_answer(client.until_terminal())) == "Heard: last (context: 2)"


def test_several_steers_are_one_successor(server: LocalServer) -> None:
    """Each is accepted with an id of its own; one successor takes them all, in the order of submission."""
    with connect(server) as client, http_connection(server) as connection:
        with running(server, client, store=True) as events:
            ids = [steered(client, response_id(events), f"s{number}")["steer"]["id"] for number in range(5)]
        client.until_terminal()
        successor = check_answer(client.until_terminal())
        client.silent()
        items = call(connection, "GET", f"/v1/responses/{successor['id']}/input_items?order=asc")[1]["data"]
    assert len(set(ids)) == 5 and text(successor) == "Heard: s4 (context: 6)"
    users = [item["content"][0]["text"] for item in items if item["role"] == "user"]
    assert users == [WORDS, "s0", "s1", "s2", "s3", "s4"]


def test_a_successor_can_be_steered(server: LocalServer) -> None:
    """It is a response like any other: steered again, it ends steered and has a successor of its own."""
    first_stall, second_stall = faults.Stall(after=6), faults.Stall(after=14)
    with server.fault(first_stall) as first, server.fault(second_stall) as second, connect(server) as client:
        client.create(WORDS, store=False)
        first.wait()
        steered_id = client.receive()["response"]["id"]
        client.steer(steered_id, WORDS)
        client.until(ACCEPTED)
        first_stall.release()
        client.until("response.incomplete")
        second.wait()
        events = [client.receive() for _ in range(4)]
        assert events[0]["response"]["previous_response_id"] == steered_id
        events.append(steered(client, response_id(events), "third"))
        second_stall.release()
        events += client.until_terminal()
        assert check_answer(without_steers(events))["incomplete_details"] == {"reason": "steered"}
        last = check_answer(client.until_terminal())
    assert (last["previous_response_id"], text(last)) == (response_id(events), "Heard: third (context: 3)")


CALLS: list[FunctionCall | CustomCall] = [
    FunctionCall("f", {"a": "b" * 60}, call_id="call_1"),
    CustomCall("patch", "x" * 60, call_id="call_2"),
]
STUBS: list[Json] = [
    {"type": "function_call_output", "call_id": "call_1", "name": "f"},
    {"type": "custom_tool_call_output", "call_id": "call_2"},
]


@contextmanager
def pending(
    server: LocalServer, client: Client, *steers: str, after: int = 12, **fields: Any
) -> Iterator[tuple[str, list[Json]]]:
    """A response that ended in two calls and was steered meanwhile; gives its id and the pending events."""
    server.scenario = Answer(*CALLS)
    with running(server, client, after=after, **fields) as events:
        accepted = [steered(client, response_id(events), given) for given in steers]
    server.scenario = None
    events += [*accepted, *client.until_terminal()]
    response = check_answer(without_steers(events))
    assert response["status"] == "completed"
    assert [item["call_id"] for item in response["output"]] == ["call_1", "call_2"]
    told = [client.receive() for _ in steers]
    assert [event["sequence_number"] for event in told] == [len(events) + number for number in range(len(steers))]
    assert [event["steer"] for event in told] == [event["steer"] for event in accepted]
    yield response["id"], told


@pytest.mark.parametrize("after", [5, 12], ids=["first-call", "later"])
def test_tool_outputs_come_first(server: LocalServer, after: int) -> None:
    """A response that ends in calls completes with all of them; each steer is pending, with the stubs of the outputs."""
    with connect(server) as client, pending(server, client, "one", "two", after=after) as (_, told):
        for event in told:
            assert (event["type"], event["reason"]) == (PENDING, "waiting_for_required_input")
            assert event["required_input"] == STUBS and "input" not in event["steer"]
        client.silent()


def filled(told: list[Json]) -> list[Json]:
    """The stubs, filled."""
    stubs: list[Json] = told[0]["required_input"]
    return [
        {key: value for key, value in {**stub, "output": f"out {number}"}.items() if key != "name"}
        for number, stub in enumerate(stubs)
    ]


@pytest.mark.parametrize("lane", [None, "side"])
def test_pending_steers_are_part_of_the_next_request(server: LocalServer, lane: str | None) -> None:
    """Prepended, in the order of submission, to the input of the explicit continuation, which keeps its own settings."""
    fields: Json = {} if lane is None else {"stream_id": lane}
    with connect(server) as client, http_connection(server) as connection:
        with pending(server, client, "one", "two", store=True, instructions="old", **fields) as (parent, told):
            answer = client.final(filled(told), previous_response_id=parent, instructions="new", **fields)
        items = call(connection, "GET", f"/v1/responses/{answer['id']}/input_items?order=asc")[1]["data"]
        client.silent()
    shown = [item["content"][0]["text"] if item["type"] == "message" else item["type"] for item in items]
    calls = ["function_call", "custom_tool_call"]
    assert shown == [WORDS, *calls, "one", "two", "function_call_output", "custom_tool_call_output"]
    assert text(answer) == 'Tool answered: "out 0", "out 1" (context: 3)' and answer["instructions"] == "new"


def test_stubs_are_taken_as_they_are(server: LocalServer) -> None:
    """A stub with its output filled in is a legal input item, its name too."""
    with connect(server) as client, pending(server, client, "one") as (parent, told):
        given = [{**stub, "output": "x"} for stub in told[0]["required_input"]]
        assert client.final(given, previous_response_id=parent, store=False)["status"] == "completed"


def test_pending_steers_are_committed_once(server: LocalServer) -> None:
    """The request after the next one has them in its context, not in its input again."""
    with connect(server) as client, pending(server, client, "one") as (parent, told):
        answer = client.final(filled(told), previous_response_id=parent, store=False)
        again = client.final("on", previous_response_id=answer["id"], store=False)
    assert text(again) == "Heard: on (context: 3)"


def lost(events: list[Json]) -> list[tuple[str, str, Any]]:
    """The steers that failed in these events: their ids, codes and inputs."""
    failed = [event for event in events if event["type"] == FAILED]
    return [(event["steer"]["id"], event["error"]["code"], event["steer"]["input"]) for event in failed]


def test_pending_steers_are_handed_back_when_the_lane_goes_on_without_them(server: LocalServer) -> None:
    """A request that does not continue the response: each steer fails, with its id and its input."""
    with connect(server) as client, pending(server, client, "one", "two") as (_, told):
        client.create("something else", store=False)
        events = client.until_terminal()
        ids = [event["steer"]["id"] for event in told]
        assert lost(events) == [(ids[0], "successor_creation_failed", "one"), (ids[1], "successor_creation_failed", "two")]
        assert text(events[-1]["response"]) == "Heard: something else (context: 1)"


def test_pending_steers_are_handed_back_when_the_continuation_is_refused(server: LocalServer) -> None:
    """The refusal evicts the response, so that nothing can take them any more: they fail, by the next request at the latest."""
    with connect(server) as client, pending(server, client, "one") as (parent, told):
        client.create([output("call_x", "?")], previous_response_id=parent, store=False)
        client.create("something else", store=False)
        events = [*client.until("error"), *client.until("response.completed")]
        assert lost(events) == [(told[0]["steer"]["id"], "successor_creation_failed", "one")]


def test_a_steered_response_that_fails_hands_its_steers_back(server: LocalServer) -> None:
    """There is nothing to continue: the steer fails behind response.failed, with its id and its input."""
    server.scenario = Answer(FunctionCall("f", "x" * 60), end=Failed())
    with connect(server) as client:
        with running(server, client) as events:
            accepted = steered(client, response_id(events), [user("mine")])
        assert client.until_terminal()[-1]["type"] == "response.failed"
        event = client.receive()
        assert lost([event]) == [(accepted["steer"]["id"], "successor_creation_failed", [user("mine")])]


def failed(event: Json, code: str, given: Any, target: str) -> None:
    """The steer failed before it had an id; its input came back as it was."""
    assert event["type"] == FAILED and isinstance(event["sequence_number"], int)
    assert event["steer"] == {"input": given, "previous_response_id": target}
    assert set(event["error"]) == {"type", "code", "message"} and event["error"]["message"]
    assert (event["error"]["type"], event["error"]["code"]) == ("invalid_request_error", code)


def test_an_unknown_response_is_not_found(server: LocalServer) -> None:
    """Neither an unknown id nor one that runs on another connection; the default lane and the socket are as before."""
    with connect(server) as client, connect(server) as other:
        failed(steered(client, "resp_nobody", "x"), "response_not_found", "x", "resp_nobody")
        with running(server, other) as events:
            target = response_id(events)
            event = steered(client, target, "x")
            failed(event, "response_not_found", "x", target)
            assert "stream_id" not in event
        assert text(other.until_terminal()[-1]["response"]) == f"Heard: {WORDS} (context: 1)"
        other.silent()
        client.final()


def test_a_response_that_ended_has_completed(server: LocalServer) -> None:
    """The lane's latest, stored or not, takes no more input, and has no successor."""
    with connect(server) as client:
        for store in (True, False):
            response = client.final(store=store)
            failed(steered(client, response["id"], "x"), "response_already_completed", "x", response["id"])
        client.silent()


BAD_INPUTS: dict[str, Any] = {
    "null": None,
    "empty-text": "",
    "empty-list": [],
    "number": 5,
    "object": {"role": "user", "content": "x"},
    "strings": ["x"],
    "system": [{"role": "system", "content": "x"}],
    "developer": [{"role": "developer", "content": "x"}],
    "assistant": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]}],
    "tool-output": [output("call_1", "x")],
    "reference": [{"type": "item_reference", "id": "msg_1"}],
    "id": [{**user("x"), "id": "msg_1"}],
    "status": [{**user("x"), "status": "completed"}],
    "output-part": [{"role": "user", "content": [{"type": "output_text", "text": "x"}]}],
    "no-content": [{"role": "user"}],
    "one-bad": [user("x"), {"role": "system", "content": "x"}],
}


@pytest.mark.parametrize("given", BAD_INPUTS.values(), ids=BAD_INPUTS.keys())
def test_bad_input_is_handed_back(server: LocalServer, given: Any) -> None:
    """Only user messages of type, role and content; the response goes on as if nothing had come."""
    with connect(server) as client:
        with running(server, client) as events:
            failed(steered(client, response_id(events), given), "invalid_input", given, response_id(events))
        assert text(client.until_terminal()[-1]["response"]) == f"Heard: {WORDS} (context: 1)"
        client.silent()


@pytest.mark.parametrize("fields", [{"stream_id": "side"}, {"model": "m"}, {"id": "steer_1"}])
def test_a_steer_has_no_other_fields(server: LocalServer, fields: Json) -> None:
    """The event accepts type, previous_response_id and input; a stream_id too is refused."""
    with connect(server) as client:
        with running(server, client) as events:
            failed(steered(client, response_id(events), "x", **fields), "invalid_input", "x", response_id(events))
        client.until_terminal()


def test_a_steer_without_a_response_is_an_error(server: LocalServer) -> None:
    """Nothing to fail for: an error frame that names the parameter; the socket is kept."""
    with connect(server) as client:
        client.send({"type": "response.steer", "input": "x"})
        event = client.receive()
        assert (event["type"], event["status"], event["error"]["param"]) == ("error", 400, "previous_response_id")
        client.final()


@pytest.mark.parametrize(
    "fields",
    [
        {"conversation": "conv_1", "store": True},
        {"context_management": [{"type": "compaction", "compact_threshold": 100_000}]},
        {"model": "plain"},
    ],
    ids=["conversation", "compaction", "model"],
)
def test_steering_is_not_supported_everywhere(fields: Json) -> None:
    """Not for a response bound to a conversation, with automatic compaction, or of a model that cannot: all go on."""
    with LocalServer(steering_models=["m"]) as server, connect(server) as client:
        with running(server, client, **fields) as events:
            failed(steered(client, response_id(events), "x"), "steering_not_supported", "x", response_id(events))
        assert text(client.until_terminal()[-1]["response"]) == f"Heard: {WORDS} (context: 1)"
        client.silent()


def test_too_many_steers_wait(server: LocalServer) -> None:
    """At some number (the service names none) further ones fail; those accepted are all committed."""
    with connect(server) as client:
        with running(server, client) as events:
            target, accepted = response_id(events), 0
            while (event := steered(client, target, f"s{accepted}"))["type"] == ACCEPTED:
                accepted += 1
                assert accepted < 1000
            failed(event, "too_many_pending_steers", f"s{accepted}", target)
            failed(steered(client, target, "x"), "too_many_pending_steers", "x", target)
        client.until_terminal()
        successor = client.until_terminal()[-1]["response"]
    assert accepted >= 2 and text(successor) == f"Heard: s{accepted - 1} (context: {accepted + 1})"


@pytest.mark.parametrize("given", ["x", []])
def test_events_of_a_named_lane_carry_its_name(server: LocalServer, given: Any) -> None:
    """Accepted or failed, the end and the successor: all name the lane of the response, which the steer does not."""
    with connect(server) as client:
        with running(server, client, stream_id="side") as events:
            assert steered(client, response_id(events), given)["stream_id"] == "side"
        found = client.until_terminal() + (client.until_terminal() if given else [])
        assert {event["stream_id"] for event in found} == {"side"}


def test_pending_on_a_named_lane(server: LocalServer) -> None:
    """The pending event too."""
    with connect(server) as client, pending(server, client, "one", stream_id="side") as (_, told):
        assert [event["stream_id"] for event in told] == ["side"]


def test_what_is_queued_in_the_lane_comes_behind_the_successor(server: LocalServer) -> None:
    """A request that waits in the lane is answered after the successor, and continues it if it says so by nothing else."""
    with connect(server) as client:
        with running(server, client) as events:
            client.create("queued", store=False)
            steered(client, response_id(events), "b")
        said = [text(client.until_terminal()[-1]["response"]) for _ in range(3)]
    assert said[1:] == ["Heard: b (context: 2)", "Heard: queued (context: 1)"]


def test_steering_a_fork_leaves_the_other_lane_alone(server: LocalServer) -> None:
    """Two lanes run from one parent; one is steered: it has a successor, the other ends as if nothing had happened."""
    with connect(server) as client:
        parent = client.final([user("root")], store=False)
        link: Json = {"previous_response_id": parent["id"], "store": False}
        with server.fault(faults.Stall(after=6), times=2) as placed:
            client.create(WORDS, **link)
            client.create(WORDS, **link, stream_id="fork")
            placed.wait(strikes=2)
            events = [client.receive() for _ in range(12)]
            fork = [event for event in events if event.get("stream_id") == "fork"]
            steered(client, response_id(fork), "aside")
        found = client.per_lane(3)
        trunk = found[None][-1]["response"]
        assert (trunk["status"], text(trunk)) == ("completed", f"Heard: {WORDS} (context: 2)")
        assert [event["type"] for event in found["fork"] if event["type"] in ("response.incomplete", "response.completed")] == [
            "response.incomplete", "response.completed",
        ]  # fmt: skip
        assert text(found["fork"][-1]["response"]) == "Heard: aside (context: 3)"
        client.silent()
        assert text(client.final("on", previous_response_id=trunk["id"], store=False)) == "Heard: on (context: 3)"


def test_queued_steers_die_with_the_connection(server: LocalServer) -> None:
    """Cut while a steer waits: the response and the steer are gone, nothing is stored, no successor runs anywhere."""
    with server.fault(faults.Stall(after=6), times=1) as placed:
        with connect(server) as client:
            client.create(WORDS, store=True)
            placed.wait()
            target = client.receive()["response"]["id"]
            client.steer(target, "lost")
            client.until(ACCEPTED)
            server.cut_connections()
        with connect(server) as client:
            failed(steered(client, target, "again"), "response_not_found", "again", target)
            client.refused(previous_response_id=target)


def test_pending_steers_die_with_the_connection(server: LocalServer) -> None:
    """A stored response can be continued on a new connection, without the steers that waited for it on the old one."""
    with connect(server) as client, pending(server, client, "one", store=True) as (parent, told):
        given = filled(told)
    with connect(server) as client:
        answer = client.final(given, previous_response_id=parent)
    assert text(answer) == 'Tool answered: "out 0", "out 1" (context: 1)'


def test_a_steer_that_is_too_late_races_safely(server: LocalServer) -> None:
    """Sent without looking, behind fifty requests, each is accepted or has completed; every accepted one has a successor."""
    with connect(server) as client:
        for number in range(50):
            client.create(f"m{number}", store=False)
            created = client.receive()
            client.steer(created["response"]["id"], "steer")
            events = client.until(ACCEPTED, FAILED)
            answer = events[-1]
            if answer["type"] == FAILED:
                assert answer["error"]["code"] == "response_already_completed" and kinds(events)[-2] == "completed"
                continue
            client.until_terminal()
            successor = client.until_terminal()[-1]["response"]
            assert successor["previous_response_id"] == created["response"]["id"]
            assert text(successor) == "Heard: steer (context: 2)"
        client.silent()


def test_tools_are_inherited(server: LocalServer) -> None:
    """A successor may call the tools of the request that was steered."""
    with connect(server) as client:
        with running(server, client, tools=[TOOL]) as events:
            steered(client, response_id(events), "get_weather now")
        client.until_terminal()
        successor = check_answer(client.until_terminal())
    assert [item["type"] for item in successor["output"]] == ["function_call"]


def test_steers_are_on_record(server: LocalServer) -> None:
    """Like every frame."""
    with connect(server) as client:
        client.final()
        steered(client, "resp_nobody", "x")
    assert [recorded.body["type"] for recorded in server.requests] == ["response.create", "response.steer"]


def test_a_steer_between_slow_events_keeps_their_numbers_in_order(server: LocalServer) -> None:
    """Whatever holds an answer up, its events leave in the order of their numbers, the steer's among them."""
    with server.fault(faults.Delays(0.15)), connect(server) as client:
        client.create("a b c d e f", store=False)
        events = [client.receive() for _ in range(4)]
        client.steer(response_id(events), "x")
        events += client.until_terminal()
        check_answer(without_steers(events))
