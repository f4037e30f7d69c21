"""The official SDK's errors over HTTP: each refusal of the local server becomes the exception that programs catch."""

from __future__ import annotations

from typing import Any

import pytest
from openai import (
    APIConnectionError,
    APIError,
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    InternalServerError,
    NotFoundError,
    OpenAI,
    PermissionDeniedError,
    RateLimitError,
)

from pixir_sync.local import Answer, Failed, LocalServer, faults
from tests.interop.support import MODEL


def test_a_bad_request(client: OpenAI) -> None:
    """A 400 names the parameter that is to blame."""
    with pytest.raises(BadRequestError) as caught:
        client.responses.create(model=MODEL, input="hello", temperature=3)
    assert (caught.value.param, caught.value.type) == ("temperature", "invalid_request_error")
    assert caught.value.request_id


def test_a_bad_request_before_a_stream(client: OpenAI) -> None:
    """What is refused before the stream begins is an HTTP error there as well."""
    nobody: Any = [{"role": "nobody", "content": "hello"}]
    with pytest.raises(BadRequestError) as caught:
        client.responses.create(model=MODEL, input=nobody, stream=True)
    assert caught.value.param == "input[0].role"


def test_an_unknown_model() -> None:
    """A model that is not in the list is a 404 of its own code."""
    with LocalServer(models=[MODEL]) as server, OpenAI(base_url=server.base_url, api_key=server.api_key) as client:
        with pytest.raises(NotFoundError) as caught:
            client.responses.create(model="other", input="hello")
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
        with pytest.raises(NotFoundError):
            client.models.retrieve("other")


def test_a_wrong_key(server: LocalServer) -> None:
    """Every way in is closed to another key."""
    with OpenAI(base_url=server.base_url, api_key="wrong", max_retries=0) as client:
        with pytest.raises(AuthenticationError) as caught:
            client.responses.create(model=MODEL, input="hello")
        assert (caught.value.status_code, caught.value.code) == (401, "invalid_api_key")
        with pytest.raises(AuthenticationError):
            client.responses.retrieve("resp_0")
        with pytest.raises(AuthenticationError):
            client.models.list()


def test_a_rate_limit(server: LocalServer, client: OpenAI) -> None:
    """A 429 carries the delay."""
    limit = faults.Refuse(status=429, code="rate_limit_exceeded", headers={"Retry-After": "7"})
    with server.fault(limit), pytest.raises(RateLimitError) as caught:
        client.responses.create(model=MODEL, input="hello")
    assert caught.value.code == "rate_limit_exceeded"
    assert caught.value.response.headers["Retry-After"] == "7"


def test_a_rate_limit_that_is_waited_out(server: LocalServer, client: OpenAI) -> None:
    """With retries the client waits as long as it was told, and the next attempt is answered."""
    limit = faults.Refuse(status=429, code="rate_limit_exceeded", headers={"retry-after-ms": "20"})
    with server.fault(limit, times=2) as placed:
        response = client.with_options(max_retries=2).responses.create(model=MODEL, input="hello")
        assert placed.struck == 2
    assert response.output_text == "Heard: hello (context: 1)"
    assert [request.headers["x-stainless-retry-count"] for request in server.requests] == ["0", "1", "2"]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_server_error(server: LocalServer, client: OpenAI, streamed: bool) -> None:
    """A 500 is raised without retries."""
    with server.fault(faults.Refuse(status=500)), pytest.raises(InternalServerError) as caught:
        client.responses.create(model=MODEL, input="hello", stream=streamed)
    assert caught.value.status_code == 500


def test_forbidden(server: LocalServer, client: OpenAI) -> None:
    """A 403 is a refusal of its own."""
    with server.fault(faults.Refuse(status=403, code="country_not_supported")), pytest.raises(PermissionDeniedError):
        client.responses.create(model=MODEL, input="hello")


@pytest.mark.parametrize("shape", ["string", "bare", "detail", "text"])
def test_other_shapes_of_a_refusal(server: LocalServer, client: OpenAI, shape: str) -> None:
    """Whatever its body looks like, a refusal is known by its status."""
    with server.fault(faults.Refuse(status=400, shape=shape)), pytest.raises(BadRequestError):  # type: ignore[arg-type]
        client.responses.create(model=MODEL, input="hello")


def test_an_error_in_the_stream(server: LocalServer, client: OpenAI) -> None:
    """A nested error in the midst of a stream is raised, after the events before it."""
    seen: list[str] = []
    with server.fault(faults.Refuse(status=500, code="server_error", message="Sorry.", shape="nested", after=3)):
        with client.responses.create(model=MODEL, input="hello", stream=True) as stream:
            with pytest.raises(APIError, match="Sorry") as caught:
                seen.extend(event.type for event in stream)
    assert len(seen) == 3
    assert not isinstance(caught.value, APIStatusError)


def test_a_flat_error_in_the_stream(server: LocalServer, client: OpenAI) -> None:
    """The shape of the service's own description is an event like the others, with its fields."""
    with server.fault(faults.Refuse(code="server_error", message="Sorry.", after=3)):
        with client.responses.create(model=MODEL, input="hello", stream=True) as stream:
            *before, last = stream
    assert last.type == "error" and (last.code, last.message, last.sequence_number) == ("server_error", "Sorry.", 3)
    assert len(before) == 3


def test_a_failed_response(server: LocalServer, client: OpenAI) -> None:
    """A response that failed is no exception: it says so itself."""
    server.scenario = Answer("So far", end=Failed("server_error", "Sorry."))
    with client.responses.stream(model=MODEL, input="hello") as stream:
        types = [event.type for event in stream]
    assert types[-1] == "response.failed"
    response = client.responses.create(model=MODEL, input="hello")
    assert response.status == "failed"
    assert response.error is not None
    assert (response.error.code, response.error.message) == ("server_error", "Sorry.")


def test_a_connection_that_is_cut(server: LocalServer, client: OpenAI) -> None:
    """A request whose connection is cut before the answer is a connection error."""
    with server.fault(faults.Drop()), pytest.raises(APIConnectionError):
        client.responses.create(model=MODEL, input="hello")
