"""Steering with the official SDK's WebSocket client: input for a response that is already running."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from openai import OpenAI
from openai.resources.responses.responses import ResponsesConnection
from openai.types.responses import ResponseSteerAcceptedEvent, ResponseSteerFailedEvent, ResponseSteerPendingEvent
from openai.types.responses.responses_server_event import ResponsesServerEvent

from pixir_sync.local import LocalServer, faults
from tests.interop.support import MODEL, TERMINAL, final, lane_of, read_to, response_in

TOOL = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}


@contextmanager
def running(
    server: LocalServer, connection: ResponsesConnection, given: Any = "one", *, after: int = 5, **fields: Any
) -> Iterator[tuple[str, faults.Stall]]:
    """The id of a response that stands still in the midst of its answer, and what lets it go on."""
    stall = faults.Stall(after=after)
    with server.fault(stall, times=1):
        connection.response.create(model=MODEL, input=given, **fields)
        created = read_to(connection, "response.created")[-1]
        if after > 1:
            read_to(connection, "response.in_progress")
        yield response_in(created).id, stall


def steer(connection: ResponsesConnection, response_id: str, given: Any = "two") -> ResponsesServerEvent:
    """Steer, and the answer."""
    connection.response.steer(previous_response_id=response_id, input=given)
    return read_to(connection, "response.steer.accepted", "response.steer.failed")[-1]


def refused(event: ResponsesServerEvent) -> tuple[str, Any]:
    """The code of a refusal and the input that it gives back."""
    assert isinstance(event, ResponseSteerFailedEvent), event
    assert event.error.message
    return event.error.code, event.model_dump(exclude_unset=True)["steer"]["input"]


@pytest.mark.parametrize("lane", [None, "a"])
def test_accepted(server: LocalServer, connection: ResponsesConnection, lane: str | None) -> None:
    """The response ends as steered at the next safe place, and a successor follows by itself, with its input and settings."""
    named: dict[str, Any] = {} if lane is None else {"stream_id": lane}
    with running(server, connection, store=False, instructions="Be brief.", metadata={"a": "b"}, **named) as (first_id, stall):
        accepted = steer(connection, first_id)
        assert isinstance(accepted, ResponseSteerAcceptedEvent)
        assert accepted.steer.id and accepted.steer.previous_response_id == first_id
        stall.release()
        ended = read_to(connection, *TERMINAL)
        assert ended[-1].type == "response.incomplete"
        first = response_in(ended[-1])
        assert first.id == first_id
        assert first.incomplete_details is not None and first.incomplete_details.reason == "steered"
        follow = read_to(connection, *TERMINAL)
    assert follow[0].type == "response.created"
    second = response_in(follow[-1])
    assert second.id != first_id and second.previous_response_id == first_id
    assert (second.instructions, second.metadata) == ("Be brief.", {"a": "b"})
    assert second.output_text == "Heard: two (context: 2)"
    assert {lane_of(event) for event in [accepted, *ended, *follow]} == {lane}
    third = final(connection, "three", store=False, previous_response_id=second.id, **named)
    assert third.output_text == "Heard: three (context: 3)"


def test_two_steers_in_their_order(server: LocalServer, connection: ResponsesConnection) -> None:
    """Several submissions wait side by side, each under an id of its own; one successor takes them all."""
    with running(server, connection) as (first_id, stall):
        answers = [steer(connection, first_id, given) for given in ("two", "three")]
        assert len({event.steer.id for event in answers if isinstance(event, ResponseSteerAcceptedEvent)}) == 2
        stall.release()
        assert read_to(connection, *TERMINAL)[-1].type == "response.incomplete"
        second = response_in(read_to(connection, *TERMINAL)[-1])
    assert second.output_text == "Heard: three (context: 3)"


def test_messages_as_input(server: LocalServer, connection: ResponsesConnection) -> None:
    """Steering takes messages of the user, not only a text."""
    given = [{"role": "user", "content": "two"}, {"role": "user", "content": [{"type": "input_text", "text": "three"}]}]
    with running(server, connection) as (first_id, stall):
        assert steer(connection, first_id, given).type == "response.steer.accepted"
        stall.release()
        read_to(connection, "response.incomplete")
        second = response_in(read_to(connection, *TERMINAL)[-1])
    assert second.output_text == "Heard: three (context: 3)"


def test_pending_until_the_tool_has_answered(server: LocalServer, connection: ResponsesConnection) -> None:
    """A response that ends in calls keeps the steer: its stubs are filled, and the steer comes before them."""
    with running(server, connection, "use get_weather", after=4, tools=[TOOL], store=False) as (first_id, stall):
        accepted = steer(connection, first_id, "and be quick")
        assert isinstance(accepted, ResponseSteerAcceptedEvent)
        stall.release()
        first = response_in(read_to(connection, *TERMINAL)[-1])
        assert first.status == "completed"
        (call,) = [item for item in first.output if item.type == "function_call"]
        (pending,) = read_to(connection, "response.steer.pending")
    assert isinstance(pending, ResponseSteerPendingEvent)
    assert pending.reason == "waiting_for_required_input"
    assert pending.steer.model_dump() == accepted.steer.model_dump()
    (stub,) = pending.required_input
    assert stub.model_dump() == {"type": "function_call_output", "call_id": call.call_id, "name": "get_weather"}
    filled = {**stub.model_dump(exclude={"name"}), "output": "rain"}
    second = final(connection, [filled], store=False, previous_response_id=first_id)
    assert second.output_text == 'Tool answered: "rain" (context: 2)'


def test_an_unknown_response(connection: ResponsesConnection) -> None:
    """A response that is not on this connection cannot be steered."""
    assert refused(steer(connection, "resp_0")) == ("response_not_found", "two")
    assert final(connection).status == "completed"


def test_a_response_of_another_connection(server: LocalServer, client: OpenAI, connection: ResponsesConnection) -> None:
    """Steering is a matter of one connection."""
    with client.responses.connect() as other, running(server, connection) as (first_id, stall):
        assert refused(steer(other, first_id))[0] == "response_not_found"
        stall.release()
        assert read_to(connection, *TERMINAL)[-1].type == "response.completed"


def test_a_completed_response(connection: ResponsesConnection) -> None:
    """Too late is too late: the input comes back, to be sent as an ordinary turn."""
    done = final(connection)
    assert refused(steer(connection, done.id)) == ("response_already_completed", "two")


@pytest.mark.parametrize(
    "given",
    [
        "",
        [],
        [{"role": "system", "content": "two"}],
        [{"type": "function_call_output", "call_id": "call_0", "output": "rain"}],
        [{"role": "user", "content": "two", "id": "msg_0"}],
        [{"role": "user", "content": [{"type": "output_text", "text": "two"}]}],
    ],
    ids=str,
)
def test_invalid_input(server: LocalServer, connection: ResponsesConnection, given: Any) -> None:
    """Only the user's messages are taken; what is refused comes back as it was, and the response goes on."""
    with running(server, connection) as (first_id, stall):
        connection.response.steer(previous_response_id=first_id, input=given)
        event = read_to(connection, "response.steer.accepted", "response.steer.failed")[-1]
        assert event.type == "response.steer.failed"
        assert event.error.code == "invalid_input"
        assert event.steer.previous_response_id == first_id
        stall.release()
        assert read_to(connection, *TERMINAL)[-1].type == "response.completed"


@pytest.mark.parametrize(
    "fields",
    [{"conversation": "conv_1"}, {"context_management": [{"type": "compaction", "compact_threshold": 100_000}]}],
    ids=str,
)
def test_responses_that_cannot_be_steered(
    server: LocalServer, connection: ResponsesConnection, fields: dict[str, Any]
) -> None:
    """A response that is bound to a conversation, or that compacts by itself, takes no steering."""
    with running(server, connection, **fields) as (first_id, stall):
        assert refused(steer(connection, first_id)) == ("steering_not_supported", "two")
        stall.release()
        assert read_to(connection, *TERMINAL)[-1].type == "response.completed"


def test_a_model_that_cannot_be_steered() -> None:
    """Not every model can."""
    with (
        LocalServer(steering_models=["other"]) as server,
        OpenAI(base_url=server.base_url, api_key=server.api_key) as client,
        client.responses.connect() as connection,
        running(server, connection) as (first_id, stall),
    ):
        assert refused(steer(connection, first_id)) == ("steering_not_supported", "two")
        stall.release()
        assert read_to(connection, *TERMINAL)[-1].type == "response.completed"


def test_too_many_steers(server: LocalServer, connection: ResponsesConnection) -> None:
    """There is an end to what may wait; what was accepted before is kept."""
    with running(server, connection) as (first_id, stall):
        accepted = 0
        while (event := steer(connection, first_id, f"steer {accepted}")).type == "response.steer.accepted":
            accepted += 1
            assert accepted < 100
        assert refused(event)[0] == "too_many_pending_steers"
        stall.release()
        read_to(connection, "response.incomplete")
        second = response_in(read_to(connection, *TERMINAL)[-1])
    assert second.output_text == f"Heard: steer {accepted - 1} (context: {accepted + 1})"


def test_other_lanes_go_on(server: LocalServer, connection: ResponsesConnection) -> None:
    """Steering one lane leaves the others alone."""
    with running(server, connection, stream_id="a", store=False) as (first_id, stall):
        assert final(connection, "other", stream_id="b", store=False).output_text == "Heard: other (context: 1)"
        assert steer(connection, first_id).type == "response.steer.accepted"
        assert final(connection, "another", stream_id="b", store=False).output_text == "Heard: another (context: 1)"
        stall.release()
        assert response_in(read_to(connection, "response.incomplete")[-1]).id == first_id
        assert response_in(read_to(connection, *TERMINAL)[-1]).output_text == "Heard: two (context: 2)"
