"""The law of the two transports: what a server says gives the same events and the same end, whichever carries it."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pixir_sync import PixirError, Provider, Result, tool_output, user
from pixir_sync.local import Close, HttpError, LocalServer, Step
from tests.support.both import TransportName
from tests.support.events import Json, created, error, failed, function_call_response, incomplete, response, text_response
from tests.support.fake import provider_for

Seen = tuple[list[Json], Json]
TRANSPORTS: tuple[TransportName, ...] = ("websocket", "http_sse")
TOOL = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}


class Pair:
    """One server and a provider for each transport."""

    def __init__(self, server: LocalServer) -> None:
        self.server = server
        self.providers: dict[TransportName, Provider] = {
            name: provider_for(server, transport=name, model="local-model", retry=0) for name in TRANSPORTS
        }

    def replay(self, attempts: list[list[Json]]) -> list[tuple[Seen, int]]:
        """The same of a call that may be tried again, with its number of requests: each gets the next of these, then the last."""
        found = []
        for name in TRANSPORTS:
            bodies: list[Json] = []

            def answer(body: Json, bodies: list[Json] = bodies) -> list[Step]:
                bodies.append(body)
                return renamed(attempts[min(len(bodies), len(attempts)) - 1], f"resp_{len(bodies)}")

            self.server.scenario = answer
            with provider_for(self.server, transport=name, model="local-model") as provider:
                found.append((seen(provider, "Hi"), len(bodies)))
        self.server.scenario = None
        return found

    def play(self, steps: list[Step], request: Any = "Hi", **fields: Any) -> list[Seen]:
        """What one call over each of them sees, while the server answers with these steps."""
        self.server.scenario = lambda body: steps
        try:
            return [seen(provider, request, **fields) for provider in self.providers.values()]
        finally:
            self.server.scenario = None


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with LocalServer() as server:
        made = Pair(server)
        yield made
        for provider in made.providers.values():
            provider.close()


def seen(provider: Provider, request: Any, **fields: Any) -> Seen:
    """The data of a call's events, and its end as plain data without the evidence."""
    stream = provider.stream(request, **fields)
    events: list[Json] = []
    try:
        while True:
            events.append(next(stream).data)
    except StopIteration as stop:
        return events, without_evidence(stop.value)
    except PixirError as ended:
        assert ended.partial is not None
        facts = {**ended.to_dict(), "partial": without_evidence(ended.partial)}
        for name in ("request_id", "details", *(["message"] if ended.kind == "connection_lost" else [])):
            del facts[name]  # told of the carrier
        return events, facts


def without_evidence(result: Result) -> Json:
    found = {**result.to_dict(), "parsed": result.parsed}
    del found["provider_metadata"]
    return found


# What any server may say.

_ids = itertools.count(1)
TEXT = "response.output_text.delta"
ODD: list[Json] = [{"type": "response.brand_new", "x": [1]}, {"type": "keepalive"}, {"type": "codex.rate_limits"}, {"x": 1},
                   {"type": 5}, {"type": TEXT}, {"type": TEXT, "delta": None}, {"type": "response.output_item.done"}]  # fmt: skip
ITEMS = function_call_response("f", {"a": 1}, call_id="call_7", item_id="fc_7")[2:-1]
BEFORE: list[Json] = [*text_response("Hel", "lo")[:-1], *ITEMS, *ODD]
ENDS: list[Json] = [
    text_response("Hel", "lo")[-1], incomplete(), failed(), failed("rate_limit_exceeded", "slow down"), error(),
    error("context_length_exceeded", "too long", status=400), {"type": "error"}, {"type": "response.completed"},
    {"type": "response.cancelled", "response": response(status="cancelled")},
    {"type": "response.done", "response": response(status="completed")},
    {"type": "response.completed", "response": response(status="incomplete", incomplete_details={"reason": "content_filter"})},
    error("insufficient_quota"), error("rate_limit_exceeded", status=429),
]  # fmt: skip

lasts = st.sampled_from([*ENDS, None])


def renamed(events: list[Json], name: str | None = None) -> list[Step]:
    """The events with a response id of their own, for a server gives none twice; a cut where there is no terminal event."""
    text = json.dumps(events).replace('"resp_1"', f'"{name or f"resp_law_{next(_ids)}"}"')
    found: list[Step] = json.loads(text)
    return found if events and events[-1] in ENDS else [*found, Close()]


@pytest.mark.row("A20")
@given(st.lists(st.sampled_from(BEFORE), max_size=12), lasts)
@example([{"x": 1}], None)  # an object without a type is no event
def test_any_answer_is_the_same_over_both(pair: Pair, before: list[Json], last: Json | None) -> None:
    """Legal or not, with or without a terminal event: the same events, and an equal result or the same error."""
    over_websocket, over_http = pair.play(renamed([*before, last] if last is not None else before))
    assert over_websocket == over_http


@pytest.mark.row("A20")
@given(st.integers(0, len(text_response("Hel", "lo")) - 1), lasts)
def test_an_answer_that_ends_early_is_the_same_over_both(pair: Pair, length: int, last: Json | None) -> None:
    """A whole response, up to any of its events, and then any end."""
    begun = text_response("Hel", "lo")[:length]
    over_websocket, over_http = pair.play(renamed([*begun, last] if last is not None else begun))
    assert over_websocket == over_http


SHORT: list[list[Json]] = [
    [], [{"type": "keepalive"}], [created()], [created(), {"type": "response.in_progress", "response": response()}],
    text_response("Hel")[:3], text_response("Hel")[:5], text_response("Hel", "lo")[:-1],
]  # fmt: skip
SCRIPTS = st.tuples(st.sampled_from(SHORT), lasts).map(lambda parts: [*parts[0], *([parts[1]] if parts[1] is not None else [])])


@pytest.mark.row("C4")
@given(st.lists(SCRIPTS, min_size=1, max_size=4))
@example([[failed()], [{"type": "keepalive"}]])  # a keepalive is no event: a reused connection that is lost after one is replaced
def test_a_call_is_replayed_alike_over_both(pair: Pair, attempts: list[list[Json]]) -> None:
    """Whether it is sent again, how often, and what its consumer sees of each attempt does not depend on what carries it."""
    over_websocket, over_http = pair.replay(attempts)
    assert over_websocket == over_http


REFUSALS = [
    (400, {"message": "m", "code": "bad", "type": "invalid_request_error", "param": "x"}),
    (400, {"message": "m", "code": "context_length_exceeded"}), (404, {"message": "m", "code": "model_not_found"}),
    (429, {"message": "m", "code": "rate_limit_exceeded"}), (429, {"message": "m", "type": "insufficient_quota"}),
    (503, {"message": "m", "code": "server_is_overloaded"}), (403, {"message": "m"}), (401, {"message": "m"}),
]  # fmt: skip


@pytest.mark.row("A21")
@pytest.mark.parametrize(("status", "said"), REFUSALS)
def test_a_refusal_is_the_same_over_both(pair: Pair, status: int, said: Json) -> None:
    """Only how far it came differs: HTTP refuses before the stream, a WebSocket by its first event."""
    (_, over_websocket), (_, over_http) = pair.play([HttpError(status, {"error": said})])
    assert (over_websocket.pop("phase"), over_http.pop("phase")) == ("stream", "first_event")
    assert over_websocket == over_http and over_http["status"] == status


# What the local server's model says.

Turn = Callable[[Json], tuple[list[Json], Json]]


def says(text: str, **fields: Any) -> Turn:
    """A turn: the user's message, and further fields of the request."""
    return lambda last: ([user(text)], fields)


def outputs(**fields: Any) -> Turn:
    """A turn that gives each call its output."""
    return lambda last: ([tool_output(call["call_id"], "sunny") for call in last["function_calls"]], fields)


SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
DIALOGUES: dict[str, list[Turn]] = {
    "text": [says("one"), says("two"), says("three é 🦘")],
    "tools": [says("get_weather", tools=[TOOL]), outputs(tools=[TOOL]), says("thanks")],
    "reasoning": [says("one", reasoning_effort="low"), says("two", reasoning_effort="high"), says("three")],
    "instructions": [says("one", instructions="Be brief.", developer_context="ctx"),
                     says("two", instructions="Be long.", developer_context="ctx")],
    "schema": [says("one", output_schema=SCHEMA), says("two", output_schema=SCHEMA)],
    "stored": [says("one", store=True), says("two", store=True)],
    "another model": [says("one", reasoning_effort="low"), says("two", model="other", reasoning_effort="low")],
    "cut short": [says("one", max_output_tokens=16), says("two")],
    "refused": [says("one"), says("two", temperature=99.0)],
}  # fmt: skip

_ID = re.compile(r'"((?:resp|msg|rs|fc|call|[a-z]{2,4})_)[0-9A-Za-z_]*[0-9][0-9A-Za-z_]*"')


_OWN = ("created_at", "completed_at", "encrypted_content", "previous_response_id", "usage", "usage_summary")


def anonymous(found: Any) -> Any:
    """The same with ids numbered in the order of their coming, and without what tells of the time, the chain or the cache."""
    names: dict[str, str] = {}
    text = _ID.sub(lambda m: names.setdefault(m[0], f'"{m[1]}{len(names)}"'), json.dumps(found))
    return json.loads(text, object_hook=lambda data: {k: v for k, v in data.items() if k not in _OWN})



def talk(provider: Provider, turns: list[Turn]) -> list[Any]:
    """What a conversation of these turns sees, turn by turn."""
    history: list[Json] = []
    last: Json = {}
    found: list[Any] = []
    for turn in turns:
        items, fields = turn(last)
        history += items
        events, last = seen(provider, history, session="s", **fields)
        history += last.get("output_items", [])
        last.pop("phase", None)  # of a refusal, see above
        found.append((events, last))
    return found


@pytest.mark.row("A1", "B2")
@pytest.mark.parametrize("turns", DIALOGUES.values(), ids=DIALOGUES)
def test_a_conversation_is_the_same_over_both(turns: list[Turn]) -> None:
    """With deltas on one side and whole inputs on the other: the server's model gives the same, turn by turn."""
    with LocalServer() as server:
        found = []
        for name in TRANSPORTS:
            with provider_for(server, transport=name, model="local-model", retry=0) as provider:
                found.append(anonymous(talk(provider, turns)))
                assert not server.failures
        over_websocket, over_http = found
    assert over_websocket == over_http and len(over_http) == len(turns)
