"""The official SDK's HTTP client against the local server: what a program sees that knows nothing of the local server."""

from __future__ import annotations

import asyncio

import pytest
from openai import AsyncOpenAI, NotFoundError, OpenAI
from openai.types.responses import (
    CompactedResponse,
    FunctionToolParam,
    Response,
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseInputItemParam,
    ResponseReasoningItemParam,
    ResponseTextDeltaEvent,
)
from pydantic import BaseModel

from pixir_sync.local import LocalServer

MODEL = "local-model"
WEATHER: FunctionToolParam = {
    "type": "function",
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


class Place(BaseModel):
    """What a structured answer is parsed into."""

    name: str
    people: int
    rivers: list[str]


def call_in(response: Response) -> ResponseFunctionToolCall:
    """The one function call of a response."""
    (call,) = [item for item in response.output if isinstance(item, ResponseFunctionToolCall)]
    return call


def test_create(client: OpenAI) -> None:
    """The plainest call gives the model's text, what was asked for, and what it cost."""
    response = client.responses.create(model=MODEL, input="hello", instructions="Be brief.", metadata={"a": "b"})
    assert response.output_text == "Heard: hello (context: 1)"
    assert (response.status, response.model, response.error) == ("completed", MODEL, None)
    assert (response.instructions, response.metadata) == ("Be brief.", {"a": "b"})
    assert response.usage is not None
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens > 0


def test_create_as_a_stream(client: OpenAI) -> None:
    """``create(stream=True)`` gives typed events, numbered without a gap, whose deltas are the text."""
    with client.responses.create(model=MODEL, input="hello", stream=True) as stream:
        events = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    deltas = [event.delta for event in events if isinstance(event, ResponseTextDeltaEvent)]
    last = events[-1]
    assert isinstance(last, ResponseCompletedEvent)
    assert "".join(deltas) == last.response.output_text == "Heard: hello (context: 1)"
    assert len(deltas) > 1


def test_stream_helper(client: OpenAI) -> None:
    """``responses.stream`` builds its snapshots from the events alone, and they agree with the final response."""
    with client.responses.stream(model=MODEL, input="hello") as stream:
        snapshots = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert snapshots[-1] == final.output_text == "Heard: hello (context: 1)"
    assert final.status == "completed"


def test_stream_helper_of_a_tool_call(client: OpenAI) -> None:
    """The argument deltas of a call add up to its arguments."""
    with client.responses.stream(model=MODEL, input="use get_weather", tools=[WEATHER]) as stream:
        snapshots = [event.snapshot for event in stream if event.type == "response.function_call_arguments.delta"]
        final = stream.get_final_response()
    (call,) = [item for item in final.output if item.type == "function_call"]
    assert call.arguments == snapshots[-1]
    assert isinstance(call.parsed_arguments, dict) and isinstance(call.parsed_arguments["city"], str)


def test_continuation(client: OpenAI) -> None:
    """A stored response is continued by its id; the earlier tokens count as cached, the instructions are not inherited."""
    first = client.responses.create(model=MODEL, input="one", instructions="Be brief.", store=True)
    second = client.responses.create(model=MODEL, input="two", previous_response_id=first.id, store=True)
    third = client.responses.create(model=MODEL, input="three", previous_response_id=second.id)
    assert third.output_text == "Heard: three (context: 3)"
    assert (third.previous_response_id, third.instructions) == (second.id, None)
    assert first.usage is not None and third.usage is not None
    assert first.usage.input_tokens_details.cached_tokens == 0
    assert 0 < third.usage.input_tokens_details.cached_tokens < third.usage.input_tokens


def test_conversation(client: OpenAI) -> None:
    """A conversation collects its turns without an id of a response."""
    client.responses.create(model=MODEL, input="one", conversation="conv_1")
    second = client.responses.create(model=MODEL, input="two", conversation={"id": "conv_1"})
    assert second.output_text == "Heard: two (context: 2)"
    assert second.conversation is not None and second.conversation.id == "conv_1"


def test_an_unknown_previous_response(client: OpenAI) -> None:
    """An id that was never stored, or with ``store=False``, cannot be continued from."""
    first = client.responses.create(model=MODEL, input="one", store=False)
    for unknown in ("resp_0", first.id):
        with pytest.raises(Exception, match="not found") as caught:
            client.responses.create(model=MODEL, input="two", previous_response_id=unknown)
        assert getattr(caught.value, "status_code", None) == 400
        assert getattr(caught.value, "code", None) == "previous_response_not_found"


def test_tool_round_trip_by_id(client: OpenAI) -> None:
    """A call is answered with its output alone when the response is continued."""
    first = client.responses.create(model=MODEL, input="use get_weather", tools=[WEATHER])
    call = call_in(first)
    second = client.responses.create(
        model=MODEL,
        tools=[WEATHER],
        previous_response_id=first.id,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "rain"}],
    )
    assert second.output_text == 'Tool answered: "rain" (context: 1)'


def test_tool_round_trip_in_full(client: OpenAI) -> None:
    """The same with the whole input, as a stateless program sends it, reasoning included."""
    question: ResponseInputItemParam = {"role": "user", "content": "use get_weather"}
    first = client.responses.create(
        model=MODEL,
        input=[question],
        tools=[WEATHER],
        reasoning={"effort": "low", "summary": "auto"},
        include=["reasoning.encrypted_content"],
        store=False,
    )
    (thought,) = [item for item in first.output if item.type == "reasoning"]
    call = call_in(first)
    # The SDK's type wants an id, which the service refuses where nothing is stored.
    reasoning: ResponseReasoningItemParam = {  # type: ignore[typeddict-item]
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": part.text} for part in thought.summary],
        "encrypted_content": thought.encrypted_content,
    }
    second = client.responses.create(
        model=MODEL,
        tools=[WEATHER],
        store=False,
        input=[
            question,
            reasoning,
            {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments},
            {"type": "function_call_output", "call_id": call.call_id, "output": "rain"},
        ],
    )
    assert second.output_text == 'Tool answered: "rain" (context: 1)'


def test_custom_tool_round_trip(client: OpenAI) -> None:
    """A custom tool is called with free text."""
    tools: list[dict[str, str]] = [{"type": "custom", "name": "run_code"}]
    first = client.responses.create(model=MODEL, input="use run_code", tools=tools)  # type: ignore[arg-type]
    (call,) = [item for item in first.output if item.type == "custom_tool_call"]
    second = client.responses.create(
        model=MODEL,
        previous_response_id=first.id,
        input=[{"type": "custom_tool_call_output", "call_id": call.call_id, "output": "42"}],
    )
    assert (call.name, second.output_text) == ("run_code", 'Tool answered: "42" (context: 1)')


def test_structured_output(client: OpenAI) -> None:
    """``responses.parse`` turns the answer into the model class that it was given."""
    response = client.responses.parse(model=MODEL, input="Name a place.", text_format=Place)
    assert isinstance(response.output_parsed, Place)


def test_structured_output_as_a_stream(client: OpenAI) -> None:
    """The stream helper parses as well."""
    with client.responses.stream(model=MODEL, input="Name a place.", text_format=Place) as stream:
        final = stream.get_final_response()
    assert isinstance(final.output_parsed, Place)


def test_retrieve_and_delete(client: OpenAI) -> None:
    """A stored response can be fetched until it is deleted."""
    created = client.responses.create(model=MODEL, input="hello", store=True)
    assert client.responses.retrieve(created.id) == created
    client.responses.delete(created.id)
    with pytest.raises(NotFoundError):
        client.responses.retrieve(created.id)
    with pytest.raises(NotFoundError):
        client.responses.delete(created.id)


def test_what_is_not_stored_cannot_be_retrieved(client: OpenAI) -> None:
    """``store=False`` leaves nothing behind."""
    created = client.responses.create(model=MODEL, input="hello", store=False)
    with pytest.raises(NotFoundError):
        client.responses.retrieve(created.id)


def test_input_items(client: OpenAI) -> None:
    """The input is listed newest first, by pages if asked, and the client walks over all of them."""
    first = client.responses.create(model=MODEL, input="one", store=True)
    second = client.responses.create(model=MODEL, input="two", previous_response_id=first.id, store=True)
    page = client.responses.input_items.list(second.id, limit=1)
    assert page.has_next_page()
    walked = [item.model_dump() for item in page]
    assert [item["role"] for item in walked] == ["user", "assistant", "user"]
    assert [item["content"][0]["text"] for item in walked] == ["two", "Heard: one (context: 1)", "one"]
    ascending = client.responses.input_items.list(second.id, order="asc").data
    assert [item.model_dump() for item in ascending] == walked[::-1]


def test_background(client: OpenAI) -> None:
    """A background response is queued at first and complete when it is asked for."""
    queued = client.responses.create(model=MODEL, input="hello", background=True)
    assert (queued.status, queued.background, queued.output) == ("queued", True, [])
    done = client.responses.retrieve(queued.id)
    assert (done.status, done.output_text) == ("completed", "Heard: hello (context: 1)")


def test_cancel(client: OpenAI) -> None:
    """A background response that was cancelled stays so; a synchronous one cannot be."""
    queued = client.responses.create(model=MODEL, input="hello", background=True)
    assert client.responses.cancel(queued.id).status == "cancelled"
    assert client.responses.retrieve(queued.id).status == "cancelled"
    created = client.responses.create(model=MODEL, input="hello")
    with pytest.raises(Exception, match="synchronous") as caught:
        client.responses.cancel(created.id)
    assert getattr(caught.value, "status_code", None) == 400


# The SDK's type of a compaction has no place for the user's messages, which its docstring puts there: it warns as it sends them.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
def test_compact_and_go_on(client: OpenAI) -> None:
    """A compaction is a window of input: the user's messages and one opaque item, from which a new chain starts."""
    first = client.responses.create(model=MODEL, input="one", store=True)
    compacted = client.responses.compact(model=MODEL, input="two", previous_response_id=first.id)
    assert isinstance(compacted, CompactedResponse)
    assert [item.type for item in compacted.output] == ["message", "message", "compaction"]
    after = client.responses.create(model=MODEL, input=[*compacted.output, {"role": "user", "content": "three"}])  # type: ignore[list-item]
    assert after.output_text == "Heard: three (context: 3)"
    again = client.responses.create(model=MODEL, input="four", previous_response_id=after.id)
    assert again.output_text == "Heard: four (context: 4)"


def test_compaction_in_the_stream(client: OpenAI) -> None:
    """With ``context_management`` the service compacts by itself, and the chain goes on from the response's id."""
    first = client.responses.create(model=MODEL, input="word " * 500, store=True)
    second = client.responses.create(
        model=MODEL,
        input="two",
        previous_response_id=first.id,
        context_management=[{"type": "compaction", "compact_threshold": 200}],
    )
    assert "compaction" in [item.type for item in second.output]
    third = client.responses.create(model=MODEL, input="three", previous_response_id=second.id)
    assert third.output_text == "Heard: three (context: 3)"
    assert third.usage is not None and first.usage is not None
    assert third.usage.input_tokens < first.usage.input_tokens


def test_count_of_input_tokens(client: OpenAI) -> None:
    """The count is what the same request costs."""
    response = client.responses.create(model=MODEL, input="hello", instructions="Be brief.", tools=[WEATHER])
    counted = client.responses.input_tokens.count(model=MODEL, input="hello", instructions="Be brief.", tools=[WEATHER])
    assert response.usage is not None
    assert (counted.object, counted.input_tokens) == ("response.input_tokens", response.usage.input_tokens)


def test_models(client: OpenAI, server: LocalServer) -> None:
    """The catalogue names the model."""
    assert [model.id for model in client.models.list()] == [server.model]
    assert client.models.retrieve(server.model).id == server.model


def test_request_id_and_rate_limits(client: OpenAI) -> None:
    """Each answer has its own request id, and the headers of the rate limits."""
    first = client.responses.create(model=MODEL, input="hello")
    second = client.responses.create(model=MODEL, input="hello")
    assert first._request_id and second._request_id and first._request_id != second._request_id
    raw = client.responses.with_raw_response.create(model=MODEL, input="hello")
    assert raw.request_id == raw.headers["x-request-id"]
    assert int(raw.headers["openai-processing-ms"]) >= 0
    for what in ("requests", "tokens"):
        limit, remaining = (int(raw.headers[f"x-ratelimit-{part}-{what}"]) for part in ("limit", "remaining"))
        assert 0 < remaining <= limit
        assert raw.headers[f"x-ratelimit-reset-{what}"]
    assert raw.parse().output_text == "Heard: hello (context: 1)"


def test_async_client(server: LocalServer) -> None:
    """The asynchronous client sees the same."""

    async def talk() -> tuple[str, str]:
        async with AsyncOpenAI(base_url=server.base_url, api_key=server.api_key, max_retries=0, timeout=5) as client:
            created = await client.responses.create(model=MODEL, input="one", store=True)
            async with client.responses.stream(model=MODEL, input="two", previous_response_id=created.id) as stream:
                final = await stream.get_final_response()
            return created.output_text, final.output_text

    assert asyncio.run(talk()) == ("Heard: one (context: 1)", "Heard: two (context: 2)")


def test_the_environment_alone_is_enough(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that reads its settings from the environment needs no change at all."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    with OpenAI() as client:
        assert client.responses.create(model=server.model, input="hello").output_text == "Heard: hello (context: 1)"
