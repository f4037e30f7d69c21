"""The page for those who come from the official SDK: its names exist there, and both programs of a pair print the same."""

from __future__ import annotations

import inspect
import re
from typing import Any, get_args

import openai
import pytest
from openai import OpenAI, _constants
from openai.lib.streaming.responses import ResponseStream
from openai.resources.responses.responses import ResponsesConnection, ResponsesResponseResource
from openai.types.responses import ParsedResponse, ResponseStreamEvent
from openai.types.responses.parsed_response import ParsedResponseFunctionToolCall
from pydantic import BaseModel

from pixir_sync import InvalidRequest, Provider, RetryPolicy, Timeouts, tool_spec
from pixir_sync.local import LocalServer
from tests.support.cited import PAGE, Names, column, pairs, section

CLIENT = OpenAI(api_key="a-key")
EVENTS: tuple[type[BaseModel], ...] = get_args(get_args(ResponseStreamEvent)[0])
THEIRS = Names(
    roots={
        "client": CLIENT,
        "create": CLIENT.responses.create,
        "client.responses.with_raw_response.create": CLIENT.responses.create,
        "response": ParsedResponse,
        "event": EVENTS,
        "stream": ResponseStream,
        "connection": ResponsesConnection,
        "connection.response": ResponsesResponseResource,
        "error": openai.APIStatusError,
        "call": ParsedResponseFunctionToolCall,
    },
    module=openai,
    strings={name for event in EVENTS for name in get_args(event.model_fields["type"].annotation)},
)


class GetWeather(BaseModel):
    """The weather of a city."""

    city: str


def test_the_version_is_the_pages() -> None:
    """The one that the page names is the one that is asked here."""
    assert f"`openai` {openai.__version__}." in PAGE.read_text(encoding="utf-8")


def test_every_name_of_theirs_exists() -> None:
    """Each name, attribute, keyword and type of event of the left column."""
    spans = column(0)
    assert len(spans) > 80
    for span in spans:
        THEIRS.look_up(span)


@pytest.mark.parametrize(
    "span",
    ["client.responses.creat()", "OpenAI(timeouts=3)", "create(temprature=1)", "Nothing", "response.usage.tokens", "error.status",
     '"response.text.delta"', "event.text_delta", "connection.response.stop()", "OpenAI(http_client=HttpClient())"],
)  # fmt: skip
def test_a_wrong_name_is_seen(span: str) -> None:
    """Without this the check above might check nothing."""
    with pytest.raises(LookupError):
        THEIRS.look_up(span)


def test_no_parameter_is_forgotten() -> None:
    """Each one of `create` is said to be the same, or has a line."""
    same, table = section("Parameters").split("\n|", 1)
    named = set(re.findall(r"`(\w+)`", same)) | set(re.findall(r"create\((\w+)=", table))
    assert set(inspect.signature(CLIENT.responses.create).parameters) - named == set()


def test_no_error_is_forgotten() -> None:
    """Each class of an error that a call may end in."""
    ours = {"OAuthError", "InvalidWebhookSignatureError"}  # of logins and of web hooks: not of this API
    named = {name: getattr(openai, name) for name in openai.__all__}
    errors = {name for name, kind in named.items() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert errors - ours - set(column(0)) == set()


@pytest.mark.parametrize(("theirs", "ours"), pairs())
def test_both_programs_print_the_same(
    theirs: str, ours: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is run as it stands, told by the environment where the server is."""
    printed = []
    for program in (theirs, ours):
        with LocalServer() as server, monkeypatch.context() as environment:
            for name, value in server.environment.items():
                environment.setenv(name, value)
            namespace: dict[str, Any] = {"__name__": "__main__"}
            try:
                exec(compile(program, "from_openai.md", "exec"), namespace)
            finally:
                if isinstance(client := namespace.get("client"), OpenAI):
                    client.close()
            printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != ""


def test_the_limits_and_retries_are_as_the_page_says() -> None:
    """Where it says that both do the same, and where it gives their figures."""
    retry, limit = RetryPolicy(), openai.DEFAULT_TIMEOUT
    assert (retry.max_retries, retry.initial_delay) == (openai.DEFAULT_MAX_RETRIES, _constants.INITIAL_RETRY_DELAY) == (2, 0.5)
    assert (retry.max_delay, retry.max_server_delay) == (_constants.MAX_RETRY_DELAY, _constants.MAX_RETRY_AFTER_DELAY) == (8, 120)
    assert (limit.connect, limit.pool, limit.read) == (5, 600, 600) and Timeouts() == Timeouts(connect=10, pool=30, idle=600)


def test_their_tool_is_taken() -> None:
    """The flat one as it is; of the nested one the error says how to write it."""
    assert tool_spec(openai.pydantic_responses_function_tool(GetWeather))["name"] == "GetWeather"
    with pytest.raises(InvalidRequest, match="tools are flat"):
        tool_spec(openai.pydantic_function_tool(GetWeather))


def test_their_items_go_into_a_history(server: LocalServer, client: OpenAI) -> None:
    """As the page says: dumped, without what is None."""
    response = client.responses.create(model="local-model", input="One")
    history = [{"role": "user", "content": "One"}, *(item.model_dump(exclude_none=True) for item in response.output)]
    with Provider(model="local-model", base_url=server.base_url, api_key=server.api_key) as provider:
        assert provider.complete([*history, {"role": "user", "content": "Two"}]).text == "Heard: Two (context: 2)"


def test_a_schema_of_pydantic_goes_both_ways(server: LocalServer) -> None:
    """Closed, as the strict form asks."""

    class City(BaseModel, extra="forbid"):
        name: str

    with Provider(model="local-model", base_url=server.base_url, api_key=server.api_key) as provider:
        result = provider.complete("A city, please", output_schema=City.model_json_schema())
    assert City.model_validate(result.parsed).name
