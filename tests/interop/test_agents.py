"""openai-agents over a WebSocket against the local server: an application on top of the official SDK."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from agents import Agent, ModelSettings, function_tool
from agents.responses_websocket_session import ResponsesWebSocketSession, responses_websocket_session

from pixir_sync.local import LocalServer
from tests.interop.support import MODEL

Talk = Callable[[ResponsesWebSocketSession], Awaitable[None]]


@function_tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city or 'town'}"


def agent(store: bool | None = None) -> Agent[None]:
    """An agent with one tool."""
    return Agent("helper", instructions="Be brief.", model=MODEL, tools=[get_weather], model_settings=ModelSettings(store=store))


def run(server: LocalServer, talk: Talk) -> None:
    """Talk within one session, which reaches nothing but the server and leaves nothing open."""

    async def within() -> None:
        async with asyncio.timeout(20):
            async with responses_websocket_session(
                api_key=server.api_key,
                base_url=server.base_url,
                websocket_base_url=server.websocket_url.removesuffix("/responses"),
            ) as session:
                await talk(session)

    asyncio.run(within())


def test_two_turns_with_the_whole_history(server: LocalServer) -> None:
    """The second turn sends what the first gave; both go over one connection."""

    async def talk(session: ResponsesWebSocketSession) -> None:
        first = await session.run(agent(), "one")
        assert first.final_output == "Heard: one (context: 1)"
        second = await session.run(agent(), [*first.to_input_list(), {"role": "user", "content": "two"}])
        assert second.final_output == "Heard: two (context: 2)"

    run(server, talk)
    assert len(server.upgrades) == 1
    assert [request.transport for request in server.requests] == ["websocket"] * 2


@pytest.mark.parametrize("store", [True, False])
def test_two_turns_by_id(server: LocalServer, store: bool) -> None:
    """The second turn names the first and sends only what is new, with a store and without."""

    async def talk(session: ResponsesWebSocketSession) -> None:
        first = await session.run(agent(store), "one")
        second = await session.run(agent(store), "two", previous_response_id=first.last_response_id)
        assert second.final_output == "Heard: two (context: 2)"

    run(server, talk)
    assert len(server.upgrades) == 1
    second = server.requests[1].body
    assert second["previous_response_id"] and len(second["input"]) == 1


def test_a_tool_call(server: LocalServer) -> None:
    """The agent calls its function and sends the output; then a second turn, all over one connection."""

    async def talk(session: ResponsesWebSocketSession) -> None:
        first = await session.run(agent(), "use get_weather")
        assert first.final_output.startswith('Tool answered: "rain in ')
        assert first.final_output.endswith('" (context: 1)')
        second = await session.run(agent(), [*first.to_input_list(), {"role": "user", "content": "two"}])
        assert second.final_output == "Heard: two (context: 2)"

    run(server, talk)
    assert len(server.upgrades) == 1
    assert len(server.requests) == 3


def test_a_streamed_run(server: LocalServer) -> None:
    """A streamed run passes the deltas on."""

    async def talk(session: ResponsesWebSocketSession) -> None:
        running = session.run_streamed(agent(), "one")
        deltas = [
            event.data.delta
            async for event in running.stream_events()
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
        ]
        assert "".join(deltas) == running.final_output == "Heard: one (context: 1)"
        assert len(deltas) > 1

    run(server, talk)
    assert len(server.upgrades) == 1


def test_an_error(server: LocalServer) -> None:
    """An error of the server is raised where the agent runs, and the session goes on."""

    async def talk(session: ResponsesWebSocketSession) -> None:
        with pytest.raises(Exception, match="not found"):
            await session.run(agent(), "one", previous_response_id="resp_0")
        assert (await session.run(agent(), "two")).final_output == "Heard: two (context: 1)"

    run(server, talk)
