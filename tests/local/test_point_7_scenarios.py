"""Section 8, point 7: every scenario it names, over a WebSocket and over HTTP/SSE alike."""

from __future__ import annotations

from typing import Any

import pytest

from pixir_sync.local import (
    Answer,
    CustomCall,
    Delay,
    Failed,
    FunctionCall,
    HostedCall,
    HttpError,
    Incomplete,
    LocalServer,
    Pause,
    Reasoning,
    Refusal,
    Script,
    Step,
    Text,
    faults,
)
from tests.local.helpers import Wire as Asked
from tests.local.helpers import both, call, http_connection, output, text, user
from tests.local.order import check_answer
from tests.local.raw import Json, body, connect, kinds, only

KEEPALIVE: Json = {"type": "keepalive", "sequence_number": 3}
RATE_LIMITS: Json = {"type": "codex.rate_limits", "plan_type": "plus", "rate_limits": {"primary": {"used_percent": 5}}}
UNKNOWN: list[Json] = [{"type": "response.brand_new.delta", "x": [1]}, {"type": "brand.new"}, {"type": "response.metadata"}]
FLAT: Json = {"type": "error", "code": "server_error", "message": "Sorry", "param": None, "sequence_number": 0}


@both
@pytest.mark.parametrize("scenario", ["Hello there", Answer("Hello there"), Answer(Text("Hello", " there"))])
def test_text(wire: Asked, scenario: Any) -> None:
    """A string, an answer of a string, and deltas as they are given: a message with that text, for every request."""
    with LocalServer(scenario=scenario) as server:
        for _ in range(2):
            assert text(check_answer(wire(server))) == "Hello there"


@both
def test_refusal(wire: Asked) -> None:
    """A message whose only part is a refusal."""
    with LocalServer(scenario=Answer(Refusal("I will not"))) as server:
        (item,) = check_answer(wire(server))["output"]
    assert item["content"] == [{"type": "refusal", "refusal": "I will not"}]


@both
def test_reasoning(wire: Asked) -> None:
    """A reasoning item before the message; encrypted content where it is asked for, there and nowhere else."""
    with LocalServer(scenario=Answer(Reasoning("Think", text="Aloud"), "Hi")) as server:
        plain = check_answer(wire(server, store=False))["output"][0]
        sealed = check_answer(wire(server, store=False, include=["reasoning.encrypted_content"]))["output"][0]
    for item in (plain, sealed):
        assert item["summary"] == [{"type": "summary_text", "text": "Think"}]
        assert item["content"] == [{"type": "reasoning_text", "text": "Aloud"}]
    assert "encrypted_content" not in plain and sealed["encrypted_content"]


@both
def test_parallel_function_calls(wire: Asked) -> None:
    """Several calls in one answer, each with an id of its own."""
    calls = [FunctionCall("one", {"a": 1}), FunctionCall("two", "{}"), FunctionCall("one", {"a": 2}, call_id="call_mine")]
    with LocalServer(scenario=Answer(*calls)) as server:
        items = check_answer(wire(server))["output"]
    assert [(item["name"], item["arguments"]) for item in items] == [("one", '{"a":1}'), ("two", "{}"), ("one", '{"a":2}')]
    assert len({item["call_id"] for item in items}) == 3 and items[2]["call_id"] == "call_mine"


@both
def test_custom_and_hosted_tools(wire: Asked) -> None:
    """A custom call with free text, and a search that the service runs itself, with the fields given."""
    search = HostedCall("web_search_call", action={"type": "search", "query": "x"})
    with LocalServer(scenario=Answer(search, CustomCall("patch", "free text", call_id="call_1"))) as server:
        searched, custom = check_answer(wire(server))["output"]
    assert (searched["type"], searched["status"], searched["action"]["query"]) == ("web_search_call", "completed", "x")
    assert (custom["type"], custom["input"], custom["call_id"]) == ("custom_tool_call", "free text", "call_1")


@both
@pytest.mark.parametrize("reason", ["max_output_tokens", "content_filter", "max_messages"])
def test_incomplete(wire: Asked, reason: str) -> None:
    """What was said so far, and the reason."""
    with LocalServer(scenario=Answer("So far", end=Incomplete(reason))) as server:
        response = check_answer(wire(server))
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": reason})
    assert text(response) == "So far" and response["output"][0]["status"] == "incomplete"


@both
@pytest.mark.parametrize("said", [(), ("So far",)])
def test_failed(wire: Asked, said: tuple[str, ...]) -> None:
    """A failed response with its error, before any output or behind some."""
    with LocalServer(scenario=Answer(*said, end=Failed("rate_limit_exceeded", "Slow down"))) as server:
        response = check_answer(wire(server))
    assert response["error"] == {"code": "rate_limit_exceeded", "message": "Slow down"}
    assert [item["type"] for item in response["output"]] == ["message"] * len(said)


@both
def test_failed_leaves_nothing_to_continue(wire: Asked) -> None:
    """A response that failed is stored nowhere."""
    with LocalServer(scenario=Script(Answer("x", end=Failed()))) as server:
        failed = wire(server)[-1]["response"]
        (refused,) = wire(server, previous_response_id=failed["id"])
    assert refused["error"]["code"] == "previous_response_not_found"


@both
def test_an_error_alone(wire: Asked) -> None:
    """An error event and nothing else."""
    with LocalServer(scenario=lambda _: [FLAT]) as server:
        assert wire(server) == [FLAT]


@both
@pytest.mark.parametrize("after", [0, 2, 5])
def test_an_error_then_failed(wire: Asked, after: int) -> None:
    """Both, in this order, as over SSE: the flat error, then response.failed with the same."""
    fault = faults.Refuse(code="server_error", message="Sorry", shape="error_then_failed", after=after)
    with LocalServer() as server, server.fault(fault):
        events = wire(server, last="response.failed")
    assert kinds(events)[after:] == ["error", "failed"]
    assert kinds(events)[: min(after, 2)] == ["created", "in_progress"][:after]
    error, failed = events[-2:]
    assert (error["code"], error["message"]) == ("server_error", "Sorry")
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"] == {"code": "server_error", "message": "Sorry"}
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


@both
@pytest.mark.parametrize("extra", [[KEEPALIVE], [RATE_LIMITS], UNKNOWN], ids=["keepalive", "codex.rate_limits", "unknown"])
@pytest.mark.parametrize("after", [0, 1, 4])
def test_events_in_no_list(wire: Asked, extra: list[Json], after: int) -> None:
    """They come as they are, at their place, and the answer around them is whole."""
    with LocalServer() as server, server.fault(faults.Extra(*extra, after=after)) as placed:
        events = wire(server)
    assert events[after : after + len(extra)] == extra and placed.struck == 1
    check_answer(events[:after] + events[after + len(extra) :])


@both
@pytest.mark.parametrize("form", ["omitted", "null", "empty"])
def test_terminal_output(wire: Asked, form: Any) -> None:
    """The terminal event's output is left out, null or empty, though items were done; the rest is as ever."""
    with LocalServer(scenario=Answer("Hi", FunctionCall("f"))) as server, server.fault(faults.Ending(output=form)):
        *events, last = wire(server)
    assert len(only(events, "response.output_item.done")) == 2 and last["type"] == "response.completed"
    assert last["response"].get("output", "omitted") == {"omitted": "omitted", "null": None, "empty": []}[form]
    assert last["response"]["usage"]["total_tokens"] > 0


@both
@pytest.mark.parametrize("form", ["omitted", "null", "empty"])
def test_a_response_without_terminal_output_is_continued(wire: Asked, form: Any) -> None:
    """The server knows what it put out, whatever its last event says of it."""
    with LocalServer() as server:
        with server.fault(faults.Ending(output=form)):
            first = wire(server, [user("one")])[-1]["response"]
        assert text(wire(server, [user("two")], previous_response_id=first["id"])[-1]["response"]) == "Heard: two (context: 2)"


@both
def test_completed_with_status_incomplete(wire: Asked) -> None:
    """The event is named completed, and its response says incomplete, as vLLM does."""
    with LocalServer() as server, server.fault(faults.Ending(status="incomplete")):
        last = wire(server)[-1]
    assert (last["type"], last["response"]["status"]) == ("response.completed", "incomplete")


@both
@pytest.mark.parametrize("name", ["response.done", "response.cancelled"])
def test_terminal_events_of_gateways(wire: Asked, name: str) -> None:
    """A terminal event with another name."""
    with LocalServer() as server, server.fault(faults.Ending(type=name, status="cancelled")):
        last = wire(server, last=name)[-1]
    assert (last["type"], last["response"]["status"]) == (name, "cancelled")


@both
def test_deltas_without_set_up(wire: Asked) -> None:
    """No added events: the deltas come, then what is done."""
    answer = Answer(Reasoning("Think"), "Hi there", FunctionCall("f", {"a": 1}))
    with LocalServer(scenario=answer) as server, server.fault(faults.WithoutSetUp()):
        events = wire(server)
    assert not [event for event in events if event["type"].endswith(".added")]
    names = kinds(events)
    assert names[:3] == ["created", "in_progress", "reasoning_summary_text.delta"] and names[-1] == "completed"
    assert names.count("output_item.done") == 3 and "output_text.delta" in names
    assert text(events[-1]["response"]) == "Hi there"


@both
def test_missing_indexes(wire: Asked) -> None:
    """No event has an index; the ids of the items stay."""
    answer = Answer(Reasoning("Think", text="Aloud"), "Hi there", FunctionCall("f", {"a": 1}))
    with LocalServer(scenario=answer) as server, server.fault(faults.WithoutIndexes()):
        events = wire(server)
    assert not [event for event in events if event.keys() & {"output_index", "content_index", "summary_index"}]
    assert all("item_id" in event or "item" in event for event in events[2:-1])
    assert text(events[-1]["response"]) == "Hi there"


@both
def test_a_script_answers_one_request_after_the_other(wire: Asked) -> None:
    """The n-th request gets the n-th reply: text, answer, None for the model, steps, a function; then the model."""
    script = Script("one", Answer("two"), None, [{"type": "x"}, Answer("four")], lambda request: f"you said {request['input']}")
    with LocalServer(scenario=script) as server:
        said = [text(wire(server, f"m{number}")[-1]["response"]) for number in range(6)]
    assert said == ["one", "two", "Heard: m2 (context: 1)", "four", "you said m4", "Heard: m5 (context: 1)"]


@both
def test_a_scenario_decides_by_the_body(wire: Asked) -> None:
    """It is called with the body as it arrived; None is the model."""
    seen: list[Json] = []

    def scenario(request: Json) -> str | None:
        seen.append(request)
        return "scripted" if request["metadata"] == {"who": "me"} else None

    with LocalServer(scenario=scenario) as server:
        assert text(wire(server, metadata={"who": "me"})[-1]["response"]) == "scripted"
        assert text(wire(server, metadata={"who": "you"})[-1]["response"]) == "Heard: hello (context: 1)"
    assert [request["model"] for request in seen] == ["m", "m"]


@both
def test_steps_are_taken_in_their_order(wire: Asked) -> None:
    """Events as they are, an answer in between, a pause and a delay, which nobody sees."""
    pause = Pause()
    pause.event.set()
    steps: list[Step] = [{"type": "first"}, pause, Delay(0.01), Answer("Hi"), {"type": "last"}]
    with LocalServer(scenario=lambda _: steps) as server:
        events = wire(server, last="last")
    assert pause.reached.is_set() and (events[0], events[-1]) == ({"type": "first"}, {"type": "last"})
    assert text(check_answer(events[1:-1])) == "Hi"


@both
def test_a_scenarios_refusal(wire: Asked) -> None:
    """An HttpError is a status with its body, or an error frame with both."""
    refusal = HttpError(429, {"error": {"message": "slow", "code": "slow_down"}}, {"retry-after": "1"})
    with LocalServer(scenario=lambda _: [refusal]) as server:
        (event,) = wire(server)
    assert (event["status"], event["error"]) == (429, {"message": "slow", "code": "slow_down"})


@both
def test_an_answers_state_is_kept(wire: Asked) -> None:
    """A scripted answer is continued like the model's: its calls take outputs, its text is part of the context."""
    with LocalServer(scenario=Script(Answer("Hi", FunctionCall("f", call_id="call_1")))) as server:
        first = wire(server, [user("one")])[-1]["response"]
        second = wire(server, [output("call_1", "42")], previous_response_id=first["id"])[-1]["response"]
        assert text(second) == 'Tool answered: "42" (context: 1)'
        (refused,) = wire(server, [output("call_2", "42")], previous_response_id=first["id"])
        assert refused["status"] == 400


@both
def test_an_answer_is_still_checked(wire: Asked) -> None:
    """A scripted answer does not make a bad request good."""
    with LocalServer(scenario="never") as server:
        (refused,) = wire(server, previous_response_id="resp_nobody")
    assert refused["error"]["code"] == "previous_response_not_found"


def test_a_scripted_answer_is_on_its_lane() -> None:
    """The events of an answer carry the name of the lane that asked."""
    with LocalServer(scenario="Hi") as server, connect(server) as client:
        assert {event["stream_id"] for event in client.turn(stream_id="side")} == {"side"}
        assert not any("stream_id" in event for event in client.turn())


def test_a_scripted_answer_to_a_plain_post() -> None:
    """Without stream its response object is the answer."""
    with LocalServer(scenario=Answer("Hi")) as server, http_connection(server) as connection:
        status, response, _ = call(connection, "POST", "/v1/responses", body())
    assert (status, response["status"], text(response)) == (200, "completed", "Hi")


@both
def test_a_scenario_may_be_changed_while_it_runs(server: LocalServer, wire: Asked) -> None:
    """It takes effect with the next request; None is the model again."""
    for scenario, said in (("one", "one"), (Answer("two"), "two"), (None, "Heard: hello (context: 1)")):
        server.scenario = scenario
        assert text(wire(server)[-1]["response"]) == said
