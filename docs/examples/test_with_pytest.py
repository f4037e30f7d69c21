"""A program and its tests with pytest: the fixtures come with the package."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pixir_sync import Provider, tool_output, user
from pixir_sync.local import Answer, FunctionCall, LocalServer, Script, faults

# The program. It knows nothing of tests: its Provider finds the service in the environment.


def get_weather(city: str) -> dict[str, Any]:
    """The weather of a city."""
    return {"city": city, "sky": "clear"}


def ask(question: str) -> str:
    with Provider() as provider:
        history = [user(question)]
        while True:
            result = provider.complete(history, instructions="One line.", tools=[get_weather])
            history += result.output_items
            for call in result.function_calls:
                history.append(tool_output(call.call_id, json.dumps(get_weather(**(call.args or {})))))
            if not result.function_calls:
                return result.text


# Its tests.

pytestmark = pytest.mark.usefixtures("pixir_environment")  # no test of this file can reach the real service


def test_the_request_is_the_one_meant(pixir_server: LocalServer) -> None:
    assert ask("Good morning") == "Heard: Good morning (context: 1)"
    request = pixir_server.requests.only
    assert (request.text, request.instructions, request.tools) == ("Good morning", "One line.", ["get_weather"])


@pytest.mark.pixir_server(scenario="Fog.")
def test_the_answer_is_returned() -> None:
    assert ask("How is the weather?") == "Fog."


def test_a_call_is_answered(pixir_server: LocalServer) -> None:
    pixir_server.scenario = Script(Answer(FunctionCall("get_weather", {"city": "Graz"}, call_id="call_1")), "It is clear.")
    assert ask("How is the weather in Graz?") == "It is clear."
    first, second = pixir_server.requests
    assert json.loads(second.tool_outputs["call_1"]) == {"city": "Graz", "sky": "clear"}
    assert second.is_continuation and second.texts == []  # over a WebSocket only what is new is sent


def test_a_lost_connection_does_not_show(pixir_server: LocalServer) -> None:
    with pixir_server.fault(faults.Drop(), times=1) as lost:
        assert ask("Good morning") == "Heard: Good morning (context: 1)"
    assert lost.struck == 1


@pytest.mark.pixir_server(faults=[faults.RefuseUpgrade(426)])
def test_without_websockets_it_goes_over_http(pixir_server: LocalServer) -> None:
    ask("Good morning")
    assert len(pixir_server.upgrades) == 1
    assert pixir_server.requests.only.transport == "http_sse"
