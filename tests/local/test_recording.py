"""`Recorded` and `Requests`: what a test asks of the requests that arrived, and how it waits for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from pixir_sync.local.recording import Recorded, Requests, Transport

SECRET = "a-secret-that-no-message-shows"


def recorded(
    body: Any = None, *, transport: Transport = "websocket", method: str = "FRAME", path: str = "/v1/responses"
) -> Recorded:
    headers = {"Authorization": f"Bearer {SECRET}"}
    return Recorded(method, path, f"key={SECRET}", headers, body, transport, connection=1, raw=2)


def message(role: str, content: Any) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": content}


def part(text: str) -> dict[str, str]:
    return {"type": "input_text", "text": text}


def in_a_thread(act: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=act)
    thread.start()
    return thread


def test_an_input_of_text_is_one_user_message() -> None:
    """Whether a program sends a string or a list, the test sees a list of items."""
    found = recorded({"input": "Hello"})
    assert found.input == [message("user", [part("Hello")])]
    assert (found.text, found.texts) == ("Hello", ["Hello"])


def test_the_texts_are_those_of_the_user() -> None:
    """Every user message gives one text, its parts joined; what others said and what is no text stands aside."""
    image = {"type": "input_image", "image_url": "https://example.com/1.png"}
    items = [
        {"role": "user", "content": "First"},
        message("assistant", [{"type": "output_text", "text": "Heard"}]),
        message("developer", "Be brief"),
        message("user", [part("Sec"), image, part("ond")]),
    ]
    found = recorded({"input": items})
    assert found.texts == ["First", "Second"]
    assert found.text == "Second"
    assert found.input == items


def test_the_tool_outputs_stand_by_their_call() -> None:
    """A request that brings tool outputs and no user message has no text."""
    items = [
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "1"},
        {"type": "custom_tool_call_output", "call_id": "b", "output": [part("2"), part("3")]},
    ]
    found = recorded({"input": items, "previous_response_id": "resp_1"})
    assert found.tool_outputs == {"a": "1", "b": "23"}
    assert (found.text, found.texts) == ("", [])
    assert found.is_continuation and found.previous_response_id == "resp_1"


def test_the_fields_of_a_request_have_names() -> None:
    """A test need not dig in the body for what it asks most."""
    tools = [{"type": "function", "name": "get_weather"}, {"type": "web_search"}]
    body = {"model": "m", "instructions": "Be brief", "tools": tools, "metadata": {"user": "7"}, "stream_id": "side"}
    found = recorded(body)
    assert (found.model, found.instructions, found.stream_id) == ("m", "Be brief", "side")
    assert (found.tools, found.metadata) == (["get_weather", "web_search"], {"user": "7"})
    assert not found.is_continuation and found.previous_response_id is None


@pytest.mark.parametrize("body", [None, [], "text", {}, {"input": 1, "tools": "x", "metadata": [], "model": 3}, {"input": [1]}])
def test_what_is_no_request_has_empty_fields(body: Any) -> None:
    """A request without a body, or with a wrong one, answers every question without an error."""
    found = recorded(body)
    assert (found.input, found.text, found.texts, found.tools, found.metadata, found.tool_outputs) == ([], "", [], [], {}, {})
    assert (found.model, found.instructions, found.previous_response_id, found.stream_id) == (None, None, None, None)


def test_requests_are_a_list_to_a_test() -> None:
    """Length, index, slice, iteration, comparison and clear are those of a list."""
    requests = Requests()
    assert requests == [] and not requests and requests == Requests() and requests != ()
    first, second = recorded({"input": "one"}), recorded({"input": "two"})
    requests.append(first)
    requests.append(second)
    assert len(requests) == 2 and requests == [first, second] and list(requests) == [first, second]
    assert requests[-1] is second and requests[1:].only is second and first in requests
    requests.clear()
    assert requests == []
    with pytest.raises(TypeError, match="unhashable"):
        hash(requests)


def test_what_is_seen_while_more_arrives_stays_as_it_was() -> None:
    """An iteration, a slice and a selection are copies of their moment."""
    requests = Requests([recorded()])
    part_of_it, selected = requests[:], requests.over("websocket")
    for _ in requests:
        requests.append(recorded())
    assert (len(requests), len(part_of_it), len(selected)) == (2, 1, 1)


def test_bodies_and_texts_keep_their_places() -> None:
    """There is one of each for every request, so that they line up with the list."""
    requests = Requests([recorded(method="GET", transport="http"), recorded({"input": "Hello"})])
    assert requests.bodies == [None, {"input": "Hello"}]
    assert requests.texts == ["", "Hello"]


def test_over_selects_by_transport() -> None:
    """Each of the three ways to arrive can be looked at by itself."""
    frame, stream, plain = recorded(), recorded(transport="http_sse", method="POST"), recorded(transport="http", method="GET")
    requests = Requests([frame, stream, plain])
    assert requests.over("websocket") == [frame]
    assert requests.over("http_sse").only is stream
    assert requests.over("http").last is plain


def test_only_is_the_one_that_came() -> None:
    """Where there is exactly one, `only` and `last` are it."""
    found = recorded()
    assert Requests([found]).only is found
    assert Requests([found]).last is found


def test_only_says_what_came_instead() -> None:
    """The assertion counts by method, path and transport, and quotes nothing of what was sent."""
    with pytest.raises(AssertionError, match="^one request expected, none came$"):
        _ = Requests().only
    with pytest.raises(AssertionError, match="^a request expected, none came$"):
        _ = Requests().last
    requests = Requests([recorded({"input": SECRET}), recorded(method="GET", path="/v1/models", transport="http"), recorded()])
    with pytest.raises(AssertionError) as caught:
        _ = requests.only
    kinds = "2 of FRAME /v1/responses over websocket, GET /v1/models over http"
    assert str(caught.value) == f"one request expected, 3 ({kinds}) came"
    assert repr(requests) == f"<Requests: 3 ({kinds})>"
    assert repr(Requests()) == "<Requests: none>"
    assert SECRET not in f"{caught.value} {requests!r}"


def test_a_recorded_request_shows_no_content() -> None:
    """Neither headers nor body are in its repr, which a failing test prints."""
    shown = repr(Recorded("POST", "/v1/responses", "", {"Authorization": SECRET}, {"input": SECRET}, "http", 1, 2))
    assert SECRET not in shown and "POST" in shown


def test_wait_returns_at_once_when_enough_is_here() -> None:
    """What came before the wait counts."""
    requests = Requests([recorded(), recorded()])
    assert requests.wait(2, timeout=0) == requests
    assert len(requests.wait(timeout=0)) == 2


def test_wait_wakes_when_the_last_one_arrives() -> None:
    """A waiting test goes on as soon as the server's thread has recorded what it waits for."""
    requests = Requests()
    waiting = threading.Event()
    seen: list[Recorded] = []

    def wait() -> None:
        waiting.set()
        seen.extend(requests.wait(3, timeout=30))

    thread = in_a_thread(wait)
    assert waiting.wait(5)
    for _ in range(3):
        requests.append(recorded())
    thread.join(5)
    assert not thread.is_alive() and len(seen) == 3


def test_wait_fails_with_what_came() -> None:
    """After its time it says how many were expected and which ones came."""
    requests = Requests([recorded({"input": SECRET})])
    with pytest.raises(AssertionError) as caught:
        requests.wait(2, timeout=0.01)
    assert str(caught.value) == "2 expected within 0.01 s, 1 (FRAME /v1/responses over websocket) came"


def test_readers_and_the_appending_thread_do_not_meet() -> None:
    """While one thread appends thousands, every other one reads whole, growing lists and misses no wake-up."""
    requests, count = Requests(), 5000
    body = {"input": "Hello"}

    def append() -> None:
        for _ in range(count):
            requests.append(recorded(body))

    writers = [in_a_thread(append) for _ in range(2)]
    seen = 0
    while seen < 2 * count:
        seen = len(requests.wait(min(seen + 500, 2 * count)))
        assert set(requests.texts) == {"Hello"}
    for writer in writers:
        writer.join(5)
    assert len(requests) == 2 * count
