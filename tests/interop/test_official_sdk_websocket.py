"""The official SDK's WebSocket client against the local server: turns, lanes, warm-up, errors, the end of a connection."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import pytest
from openai import OpenAI
from openai.resources.responses.responses import ResponsesConnection
from openai.types.responses.responses_server_event import ResponseTextWsDelta, ResponseWsCreated
from openai.types.websocket_reconnection import ReconnectingEvent, ReconnectingOverrides
from websockets.exceptions import InvalidStatus

from pixir_sync.local import Answer, LocalServer, Pause, faults
from tests.interop.support import (
    MODEL,
    TERMINAL,
    deadline,
    error_in,
    final,
    lane_of,
    read_terminals,
    read_to,
    response_in,
    turn,
)

TOOL = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}


def test_create(connection: ResponsesConnection) -> None:
    """One turn: numbered events in the usual order, none of which names a lane, with the text in deltas."""
    events = turn(connection)
    assert [event.type for event in events[:3]] == ["response.created", "response.in_progress", "response.output_item.added"]
    numbers = [event.sequence_number for event in events]
    assert numbers == list(range(len(events)))
    assert {lane_of(event) for event in events} == {None}
    deltas = [event.delta for event in events if isinstance(event, ResponseTextWsDelta)]
    response = response_in(events[-1])
    assert "".join(deltas) == response.output_text == "Heard: hello (context: 1)"
    assert response.usage is not None and response.usage.output_tokens == len(deltas) > 1


def test_iteration(connection: ResponsesConnection) -> None:
    """A program that iterates over the connection sees the same."""
    connection.response.create(model=MODEL, input="hello")
    seen = []
    with deadline(connection):
        for event in connection:
            seen.append(event.type)
            if event.type == "response.completed":
                break
    assert (seen[0], seen[-1]) == ("response.created", "response.completed")


def test_handlers(connection: ResponsesConnection, server: LocalServer) -> None:
    """So does one that registers handlers and dispatches until the server closes."""
    seen: list[str] = []

    def done(event: Any) -> None:
        seen.append(event.response.output_text)
        server.close_connections(code=1000)

    connection.on("response.completed", done)
    connection.response.create(model=MODEL, input="hello")
    with deadline(connection):
        connection.dispatch_events()
    assert seen == ["Heard: hello (context: 1)"]


def test_continuation_without_store(connection: ResponsesConnection) -> None:
    """The latest response is in the connection's memory: what came before counts as cached."""
    first = final(connection, "one", store=False)
    second = final(connection, "two", store=False, previous_response_id=first.id)
    third = final(connection, "three", store=False, previous_response_id=second.id)
    assert third.output_text == "Heard: three (context: 3)"
    assert third.usage is not None
    assert 0 < third.usage.input_tokens_details.cached_tokens < third.usage.input_tokens


def test_tool_round_trip(connection: ResponsesConnection) -> None:
    """A call is answered with nothing but its output."""
    first = final(connection, "use get_weather", store=False, tools=[TOOL])
    (call,) = [item for item in first.output if item.type == "function_call"]
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    second = final(connection, [output], store=False, tools=[TOOL], previous_response_id=first.id)
    assert second.output_text == 'Tool answered: "rain" (context: 1)'


def test_only_the_latest_is_remembered(connection: ResponsesConnection) -> None:
    """An older id without a store is not found; the socket is kept, and the latest can still be continued."""
    first = final(connection, "one", store=False)
    second = final(connection, "two", store=False, previous_response_id=first.id)
    (error,) = turn(connection, "three", store=False, previous_response_id=first.id)
    assert error_in(error) == (400, "previous_response_not_found", "previous_response_id")
    third = final(connection, "three", store=False, previous_response_id=second.id)
    assert third.output_text == "Heard: three (context: 3)"


def test_a_failed_continuation_forgets_what_it_continued(connection: ResponsesConnection) -> None:
    """The parent of a refused turn on its own lane is gone; a new chain goes on over the same socket."""
    first = final(connection, "one", store=False)
    orphan = {"type": "function_call_output", "call_id": "call_0", "output": "rain"}
    (error,) = turn(connection, [orphan], store=False, previous_response_id=first.id)
    assert error_in(error)[0] == 400
    (error,) = turn(connection, "two", store=False, previous_response_id=first.id)
    assert error_in(error)[1] == "previous_response_not_found"
    assert final(connection, "two", store=False).output_text == "Heard: two (context: 1)"


def test_memory_goes_with_the_connection(client: OpenAI) -> None:
    """An id of another connection is only found where it was stored."""
    with client.responses.connect() as connection:
        kept, lost = final(connection, "one", store=True), final(connection, "one", store=False)
    with client.responses.connect() as connection:
        (error,) = turn(connection, "two", previous_response_id=lost.id)
        assert error_in(error)[1] == "previous_response_not_found"
        assert final(connection, "two", previous_response_id=kept.id).output_text == "Heard: two (context: 2)"
    assert client.responses.retrieve(kept.id).id == kept.id


def test_lanes_have_their_own_chains(connection: ResponsesConnection) -> None:
    """Each lane's events carry its name, the default lane's none, and each continues its own latest response."""
    lanes: tuple[str | None, ...] = ("a", "b", None)
    ids: dict[str | None, str] = {}
    for given in ("one", "two"):
        for lane in lanes:
            named = {} if lane is None else {"stream_id": lane}
            previous = {"previous_response_id": ids[lane]} if lane in ids else {}
            connection.response.create(model=MODEL, input=f"{given} {lane}", store=False, **named, **previous)  # type: ignore[arg-type]
        events = read_terminals(connection, len(lanes))
        for lane in lanes:
            (*_, last) = [event for event in events if lane_of(event) == lane]
            ids[lane] = response_in(last).id
            turns = 1 if given == "one" else 2
            assert response_in(last).output_text == f"Heard: {given} {lane} (context: {turns})"


def test_a_lane_forks_from_another(connection: ResponsesConnection) -> None:
    """A fork starts from another lane's response, which its own lane can still continue, even after a failed fork."""
    first = final(connection, "one", store=False, stream_id="a")
    fork = final(connection, "fork", store=False, stream_id="b", previous_response_id=first.id)
    orphan = {"type": "function_call_output", "call_id": "call_0", "output": "rain"}
    (error,) = turn(connection, [orphan], store=False, stream_id="c", previous_response_id=first.id)
    assert (error_in(error)[0], lane_of(error)) == (400, "c")
    second = final(connection, "two", store=False, stream_id="a", previous_response_id=first.id)
    assert (fork.output_text, second.output_text) == ("Heard: fork (context: 2)", "Heard: two (context: 2)")


def test_one_lane_is_first_in_first_out(connection: ResponsesConnection) -> None:
    """Two requests on one lane run one after the other."""
    for given in ("one", "two"):
        connection.response.create(model=MODEL, input=given, store=False)
    events = read_terminals(connection, 2)
    edges = [event.type for event in events if event.type in ("response.created", "response.completed")]
    assert edges == ["response.created", "response.completed"] * 2
    assert response_in(events[-1]).output_text == "Heard: two (context: 1)"


def test_sixteen_in_flight(server: LocalServer, connection: ResponsesConnection) -> None:
    """Sixteen responses run at once; the seventeenth is not refused but waits for a place."""
    pauses = [Pause() for _ in range(17)]

    def scenario(body: dict[str, Any]) -> Iterable[Any]:
        return [pauses[int(body["stream_id"])], Answer("done")]

    server.scenario = scenario
    for number in range(17):
        connection.response.create(model=MODEL, input="hello", stream_id=str(number))
    for pause in pauses[:16]:
        assert pause.reached.wait(5)
    connection.send_raw("{")  # its answer shows that the frames before it were read
    assert error_in(read_to(connection, "error")[-1])[0] == 400
    assert not pauses[16].reached.is_set()
    pauses[3].event.set()
    (*_, last) = read_to(connection, *TERMINAL)
    assert lane_of(last) == "3"
    assert pauses[16].reached.wait(5)
    for pause in pauses:
        pause.event.set()
    ended = [lane_of(event) for event in read_terminals(connection, 16) if event.type in TERMINAL]
    assert sorted(ended, key=str) == sorted((str(number) for number in range(17) if number != 3), key=str)


def test_thirty_two_names(connection: ResponsesConnection) -> None:
    """The 33rd distinct name is refused; the 32 and the default lane go on."""
    for number in range(32):
        final(connection, stream_id=f"lane-{number}")
    (error,) = turn(connection, stream_id="one-too-many")
    assert error_in(error) == (400, "websocket_stream_limit_reached", "stream_id")
    assert final(connection, stream_id="lane-0").status == "completed"
    assert final(connection).status == "completed"


@pytest.mark.parametrize("name", ["", "with space", "a" * 257, "umlaut-ä"])
def test_a_bad_lane_name(connection: ResponsesConnection, name: str) -> None:
    """A name that none can have is refused, and the socket is kept."""
    (error,) = turn(connection, stream_id=name)
    assert error_in(error) == (400, "invalid_stream_id", "stream_id")
    assert final(connection).status == "completed"


@pytest.mark.parametrize("how", [{"generate": False}, {"prompt_cache_options": {"prewarm": True}}], ids=str)
def test_warm_up(connection: ResponsesConnection, how: dict[str, Any]) -> None:
    """Both ways of warming up put out nothing, and what they prepared is continued and counts as cached."""
    events = turn(connection, "one", store=False, **how)
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    warm = response_in(events[-1])
    assert (warm.output, warm.output_text) == ([], "")
    after = final(connection, "two", store=False, previous_response_id=warm.id)
    assert after.output_text == "Heard: two (context: 2)"
    assert after.usage is not None and after.usage.input_tokens_details.cached_tokens > 0


def test_warm_up_without_input(connection: ResponsesConnection) -> None:
    """Instructions and tools alone can be warmed up."""
    warm = final(connection, [], instructions="Be brief.", tools=[TOOL], generate=False)
    after = final(connection, "use get_weather", previous_response_id=warm.id, tools=[TOOL])
    assert [item.type for item in after.output] == ["function_call"]


def test_compaction_in_the_stream(connection: ResponsesConnection) -> None:
    """With ``context_management`` the service compacts by itself, says so, and the chain goes on from the response's id."""
    first = final(connection, "word " * 500, store=False)
    events = turn(
        connection,
        "two",
        store=False,
        previous_response_id=first.id,
        context_management=[{"type": "compaction", "compact_threshold": 200}],
    )
    second = response_in(events[-1])
    assert "compaction" in [item.type for item in second.output]
    third = final(connection, "three", store=False, previous_response_id=second.id)
    assert third.output_text == "Heard: three (context: 3)"
    assert third.usage is not None and first.usage is not None
    assert third.usage.input_tokens < first.usage.input_tokens


# The SDK's type of a compaction has no place for the user's messages, which its docstring puts there: it warns as it sends them.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
def test_going_on_from_a_compaction(client: OpenAI, connection: ResponsesConnection) -> None:
    """The window that HTTP gave starts a new chain on the WebSocket, without an id."""
    first = final(connection, "one", store=True)
    compacted = client.responses.compact(model=MODEL, previous_response_id=first.id)
    after = final(connection, [*compacted.output, {"role": "user", "content": "two"}], store=False)
    assert after.output_text == "Heard: two (context: 2)"


@pytest.mark.parametrize(
    ("frame", "code", "param"),
    [
        ("{not json", "invalid_json", None),
        ("[]", "invalid_json", None),
        ('{"type": "response.dance"}', "invalid_value", "type"),
        ('{"model": "m", "input": "hello"}', "missing_required_parameter", "type"),
        ('{"type": "response.create", "input": "hello"}', "missing_required_parameter", "model"),
        ('{"type": "response.create", "model": "m"}', "missing_required_parameter", "input"),
        ('{"type": "response.create", "model": "m", "input": "a", "background": true}', "unsupported_parameter", "background"),
        (
            '{"type": "response.create", "model": "m", "input": "a", "previous_response_id": "resp_0", "conversation": "conv_0"}',
            "mutually_exclusive_parameters",
            "previous_response_id",
        ),
    ],
)
def test_frames_that_make_no_sense(connection: ResponsesConnection, frame: str, code: str, param: str | None) -> None:
    """Each is answered with an error event that says what is wrong, and the socket is kept."""
    connection.send_raw(frame)
    (error,) = read_to(connection, "error")
    assert error_in(error) == (400, code, param)
    assert final(connection).status == "completed"


def test_stream_true_is_tolerated(connection: ResponsesConnection) -> None:
    """The field of HTTP does no harm here."""
    assert final(connection, stream=True).status == "completed"


def test_an_unknown_model() -> None:
    """A model that is not there is a 404 in an error event."""
    with LocalServer(models=[MODEL]) as server, OpenAI(base_url=server.base_url, api_key=server.api_key) as client:
        with client.responses.connect() as connection:
            connection.response.create(model="other", input="hello", stream_id="a")
            (error,) = read_to(connection, "error")
            assert error_in(error) == (404, "model_not_found", "model")
            assert lane_of(error) == "a"
            assert final(connection).status == "completed"


def test_a_wrong_key_at_the_upgrade(server: LocalServer) -> None:
    """The upgrade is refused with a 401 and a JSON body."""
    with OpenAI(base_url=server.base_url, api_key="wrong") as client:
        with pytest.raises(InvalidStatus) as caught:
            client.responses.connect().enter()
    assert caught.value.response.status_code == 401
    assert b'"invalid_api_key"' in caught.value.response.body
    assert len(server.upgrades) == 1


def test_a_refused_upgrade(server: LocalServer, client: OpenAI) -> None:
    """A gateway without WebSockets says 426."""
    with server.fault(faults.RefuseUpgrade(status=426)), pytest.raises(InvalidStatus) as caught:
        client.responses.connect().enter()
    assert caught.value.response.status_code == 426


def test_a_response_that_fails(server: LocalServer, connection: ResponsesConnection) -> None:
    """An error in the midst of an answer ends the turn and not the socket."""
    with server.fault(faults.Refuse(status=500, code="server_error", after=3)):
        events = turn(connection)
    assert error_in(events[-1])[:2] == (500, "server_error")
    assert len(events) == 4
    assert final(connection).status == "completed"


def test_the_age_limit(server: LocalServer, connection: ResponsesConnection) -> None:
    """A connection that is too old says so and closes; the next one works."""
    final(connection)
    with server.fault(faults.AgeLimit()):
        connection.response.create(model=MODEL, input="hello")
        with deadline(connection):
            events = list(connection)
    (error,) = [event for event in events if event.type == "error"]
    assert error_in(error)[:2] == (400, "websocket_connection_limit_reached")


def test_an_event_that_nobody_asked_for(server: LocalServer, connection: ResponsesConnection) -> None:
    """Events come while the connection is idle, of kinds that the SDK does not know too."""
    final(connection)
    server.send_all({"type": "codex.rate_limits", "plan_type": "plus"})
    (event,) = read_to(connection, "codex.rate_limits")
    assert event.model_dump()["plan_type"] == "plus"
    assert final(connection).status == "completed"


def test_reconnecting(server: LocalServer, client: OpenAI) -> None:
    """The SDK's own recovery works against a server that goes away: a new socket, and nothing remembered on it."""
    codes: list[int] = []
    again = threading.Event()

    def reconnecting(event: ReconnectingEvent) -> ReconnectingOverrides | None:
        codes.append(event.close_code)
        again.set()
        return None

    manager = client.responses.connect(on_reconnecting=reconnecting, initial_delay=0.01)
    with manager as connection:
        first = final(connection, "one", store=False)
        server.close_connections(code=1001)
        events = iter(connection)

        def ask() -> None:
            assert again.wait(5)
            connection.response.create(model=MODEL, input="two", store=False, previous_response_id=first.id)

        asking = threading.Thread(target=ask)
        asking.start()
        with deadline(connection):
            error = next(events)
        asking.join(5)
        assert error_in(error)[1] == "previous_response_not_found"
        assert final(connection, "two", store=False).output_text == "Heard: two (context: 1)"
    assert codes == [1001]
    assert len(server.upgrades) == 2


@pytest.mark.parametrize("offered", ["deflate", None])
@pytest.mark.parametrize("taken", [True, False])
def test_compression(offered: str | None, taken: bool) -> None:
    """permessage-deflate is used where the client offers it and the server takes it; large frames pass either way."""
    with LocalServer(compression=taken) as server, OpenAI(base_url=server.base_url, api_key=server.api_key) as client:
        with client.responses.connect(websocket_connection_options={"compression": offered}) as connection:
            agreed = connection._connection.response.headers.get("Sec-WebSocket-Extensions", "")  # type: ignore[union-attr]
            assert agreed.startswith("permessage-deflate") == (taken and offered == "deflate")
            long = "word " * 300_000
            assert final(connection, long).output_text == f"Heard: {long} (context: 1)"
            assert final(connection, "two").output_text == "Heard: two (context: 1)"


def test_created_comes_before_the_work(server: LocalServer, connection: ResponsesConnection) -> None:
    """A response that takes its time has an id from the start."""
    stall = faults.Stall(after=2)
    with server.fault(stall):
        connection.response.create(model=MODEL, input="hello")
        created, started = read_to(connection, "response.in_progress")
        assert isinstance(created, ResponseWsCreated) and created.response.status == "in_progress"
        stall.release()
        assert response_in(read_to(connection, *TERMINAL)[-1]).id == created.response.id
    assert started.type == "response.in_progress"
