"""The official SDK's WebSocket sessions (``openai.lib.responses_websocket``) against the local server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from openai import AsyncOpenAI, OpenAI
from openai.lib.responses_websocket import (
    AsyncResponsesWebSocketSession,
    ResponsesWebSocketAccumulator,
    ResponsesWebSocketError,
    ResponsesWebSocketLane,
    ResponsesWebSocketLimits,
    ResponsesWebSocketSession,
)
from openai.types.responses import Response
from openai.types.responses.responses_client_event_param import ResponsesClientEventParam

from pixir_sync.local import Answer, FunctionCall, LocalServer, Reasoning, Refusal, Text, faults
from tests.interop.support import MODEL, TERMINAL, error_in

LIMITS = ResponsesWebSocketLimits(
    max_lanes=40, max_events_per_lane=1000, max_events=4000, max_bytes_per_lane=1 << 20, max_bytes=4 << 20
)


def request(given: str, previous: str | None = None) -> ResponsesClientEventParam:
    """A ``response.create`` of a program that stores nothing."""
    if previous is None:
        return {"type": "response.create", "model": MODEL, "input": given, "store": False}
    return {"type": "response.create", "model": MODEL, "input": given, "store": False, "previous_response_id": previous}


def ask(lane: ResponsesWebSocketLane, given: str, previous: str | None = None) -> Response:
    """One turn on a lane."""
    lane.send(request(given, previous))
    return lane.get_final_response(timeout=5)


@pytest.fixture
def session(client: OpenAI) -> Iterator[ResponsesWebSocketSession]:
    """A session with room for every lane of the server."""
    with client.responses.connect(websocket_connection_options={"max_size": None}) as connection:
        with ResponsesWebSocketSession(connection, limits=LIMITS) as session:
            yield session


def test_turns_on_lanes(session: ResponsesWebSocketSession, server: LocalServer) -> None:
    """Lanes run side by side on one socket, each with its own chain."""
    lanes = {name: session.lane(name) for name in ("a", "b", "c")}
    for name, lane in lanes.items():
        lane.send(request(f"one {name}"))
    firsts = {name: lane.get_final_response(timeout=5) for name, lane in lanes.items()}
    for name, lane in lanes.items():
        lane.send(request(f"two {name}", firsts[name].id))
    for name, lane in lanes.items():
        assert lane.get_final_response(timeout=5).output_text == f"Heard: two {name} (context: 2)"
    assert ask(session.default, "three").output_text == "Heard: three (context: 1)"
    assert len(server.upgrades) == 1


def test_a_fork(session: ResponsesWebSocketSession) -> None:
    """Once the fork is in progress the source lane may go on."""
    source, fork = session.lane("source"), session.lane("fork")
    first = ask(source, "one")
    fork.send(request("fork", first.id))
    while fork.recv(timeout=5).type != "response.in_progress":
        pass
    second = ask(source, "two", first.id)
    assert second.output_text == "Heard: two (context: 2)"
    assert fork.get_final_response(timeout=5).output_text == "Heard: fork (context: 2)"


def test_more_lanes_than_may_run(session: ResponsesWebSocketSession) -> None:
    """Thirty-two lanes at once: sixteen run, the others wait, all are answered."""
    lanes = [session.lane(f"lane-{number}") for number in range(32)]
    for number, lane in enumerate(lanes):
        lane.send(request(f"hello {number}"))
    for number, lane in enumerate(lanes):
        assert lane.get_final_response(timeout=5).output_text == f"Heard: hello {number} (context: 1)"
    late = session.lane("one-too-many")
    late.send(request("hello"))
    with pytest.raises(ResponsesWebSocketError) as caught:
        late.get_final_response(timeout=5)
    assert error_in(caught.value.event) == (400, "websocket_stream_limit_reached", "stream_id")


def test_an_error_reaches_its_lane(session: ResponsesWebSocketSession) -> None:
    """An error event names its lane, so that the session can hand it to the one who waits there."""
    lane, other = session.lane("a"), session.lane("b")
    lane.send(request("hello", "resp_0"))
    with pytest.raises(ResponsesWebSocketError) as caught:
        lane.get_final_response(timeout=5)
    assert error_in(caught.value.event)[1] == "previous_response_not_found"
    assert ask(other, "hello").status == "completed"


def test_steering_a_lane(session: ResponsesWebSocketSession, server: LocalServer) -> None:
    """A steer goes without a lane's name and is answered on the lane of its response, whose successor follows there."""
    lane, stall = session.lane("a"), faults.Stall(after=3)
    with server.fault(stall):
        lane.send(request("one"))
        created = lane.recv(timeout=5)
        assert created.type == "response.created"
        lane.send({"type": "response.steer", "previous_response_id": created.response.id, "input": "two"})
        while lane.recv(timeout=5).type != "response.steer.accepted":
            pass
        stall.release()
        while lane.recv(timeout=5).type != "response.incomplete":
            pass
        successor = lane.recv(timeout=5)
        assert successor.type == "response.created"
    final = lane.get_final_response(timeout=5)
    assert (final.id, final.output_text) == (successor.response.id, "Heard: two (context: 2)")


@pytest.mark.parametrize(
    "answer",
    [
        Answer(Text("Hel", "lo"), Text(" again")),
        Answer(Refusal("I will not.")),
        Answer(Reasoning("Think.", text="Thinking."), FunctionCall("wave", {"hand": "left"}), FunctionCall("wave", "{}")),
    ],
    ids=["text", "refusal", "calls"],
)
@pytest.mark.parametrize("end", [None, faults.Ending(output="empty"), faults.Ending(output="omitted")], ids=str)
def test_the_accumulator_agrees(
    session: ResponsesWebSocketSession, server: LocalServer, answer: Answer, end: faults.Ending | None
) -> None:
    """What the SDK puts together from the deltas and items is the answer that was given, however it ends."""
    server.scenario = answer
    accumulator, lane = ResponsesWebSocketAccumulator(), session.lane("a")
    items = []
    with server.fault(*([end] if end else []), required=end is not None):
        lane.send(request("hello"))
        while (event := lane.recv(timeout=5)).type not in TERMINAL:
            accumulator.add_event(event)
            if event.type == "response.output_item.done":
                items.append(event.item)
    built = accumulator.snapshot()
    said = "".join(part.text for item in items if item.type == "message" for part in item.content if part.type == "output_text")
    assert built.output_text == said
    calls = [output.arguments for output in built.output if output.type == "function_call"]
    assert calls == [item.arguments for item in items if item.type == "function_call"]
    accumulator.add_event(event)
    assert accumulator.get_final_response().status == "completed"


def test_the_asynchronous_session(server: LocalServer) -> None:
    """The asynchronous session sees the same."""

    async def talk() -> list[str]:
        async with AsyncOpenAI(base_url=server.base_url, api_key=server.api_key) as client:
            async with client.responses.connect(websocket_connection_options={"max_size": None}) as connection:
                async with AsyncResponsesWebSocketSession(connection, limits=LIMITS) as session:
                    lanes = [session.lane(name) for name in ("a", "b")]
                    for lane in lanes:
                        await lane.send(request("hello"))
                    async with asyncio.timeout(5):
                        return [(await lane.get_final_response()).output_text for lane in lanes]

    assert asyncio.run(talk()) == ["Heard: hello (context: 1)"] * 2
