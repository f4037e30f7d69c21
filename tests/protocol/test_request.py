"""`Request` and the body builder: pure, so that every rule can be looked at without a server."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixir_sync.protocol.errors import InvalidRequest
from pixir_sync.protocol.items import assistant, tool_output, user
from pixir_sync.protocol.request import Body, Request, build, make_request, outline, unknown_name

Json = dict[str, Any]


def body_of(
    request: Any = "Hi", *, chatgpt: bool = False, keeps: bool = False, reasons: bool | None = False, **given: Any
) -> Body:
    """The body under plain defaults (``keeps``: the provider's store); a warning is an error."""

    def warn(message: str) -> None:
        raise AssertionError(message)

    made = make_request(request, given)
    asks = None if reasons is None else lambda model: reasons
    stateless = "the ChatGPT backend" if chatgpt else None
    found = outline(made, model="m", store=keeps, reasons=asks, stateless=stateless, cache_retention=not chatgpt)
    return build(found, warn=warn)


def wire(request: Any = "Hi", **given: Any) -> Json:
    return body_of(request, **given).full(lambda content: None)


@pytest.mark.row("A7")
def test_a_request_with_nothing_but_an_input_is_small() -> None:
    """Model, input and store: nothing else, and nothing is null."""
    assert wire() == {"model": "m", "input": [user("Hi")], "store": False}


def test_a_request_is_frozen_and_shows_names_only() -> None:
    """Its repr has the fields that were given and no value of theirs."""
    request = Request(model="m", history="zebra", metadata={"a": "zebra"})
    assert repr(request) == "<Request model history metadata>"
    with pytest.raises(FrozenInstanceError):
        request.model = "n"  # type: ignore[misc]


def test_a_request_travels_as_json() -> None:
    """A plain one comes back equal."""
    request = Request(model="m", history=[user("Hi")], temperature=0.0, metadata={"a": "b"}, store=False)
    assert Request.from_json(request.to_json()) == request


@pytest.mark.parametrize(
    ("first", "given"),
    [
        ("Hi", {"temperature": 0, "instructions": "x"}),
        ([user("Hi")], {"temperature": 0, "system_prompt": "x"}),
        ({"input": "Hi", "temperature": 0}, {"system_prompt": "x"}),
        ({"history": "Hi", "instructions": "y", "temperature": 1}, {"temperature": 0, "instructions": "x"}),
        (Request(history="Hi", temperature=0), {"instructions": "x"}),
        (None, {"input": "Hi", "temperature": 0, "instructions": "x"}),
    ],
    ids=["string", "items", "mapping", "over a mapping", "Request", "fields"],
)
def test_all_forms_of_a_request_make_the_same_body(first: Any, given: Json) -> None:
    """Arguments by name go over those of the request."""
    assert wire(first, **given) == {"model": "m", "input": [user("Hi")], "store": False, "temperature": 0, "instructions": "x"}


def test_a_field_that_is_none_is_as_good_as_left_out() -> None:
    """Every field of Request given as None changes nothing, and does not undo what the request says."""
    nothing = {f.name: None for f in fields(Request) if f.name != "history"}
    assert wire("Hi", **nothing) == wire("Hi")
    assert wire(Request(history="Hi", temperature=1), temperature=None)["temperature"] == 1


def test_wire_names_that_have_no_field_go_into_the_body() -> None:
    """As they are, from a mapping and by name; what extra_body says goes over them."""
    more = {"truncation": "auto", "safety_identifier": "s"}
    assert wire({"input": "Hi", **more}) == wire("Hi", **more) == {**wire(), **more}
    assert wire("Hi", user="u", extra_body={"user": "v", "x": 1})["user"] == "v"
    both = make_request(Request(history="Hi", extra_body={"a": 1, "b": 1}), {"extra_body": {"b": 2}, "user": "u"})
    assert both.extra_body == {"a": 1, "b": 2, "user": "u"}


@pytest.mark.parametrize(
    ("name", "near"),
    [("temprature", "temperature"), ("reasoning_efort", "reasoning_effort"), ("systemprompt", "system_prompt"),
     ("inputs", "input"), ("instruction", "instructions"), ("max_tokens", "max_output_tokens"), ("qqqq", None)],
)  # fmt: skip
def test_an_unknown_name_gets_the_nearest_one(name: str, near: str | None) -> None:
    """As an argument and in a mapping alike."""
    for request, more in (("Hi", {name: 1}), ({"input": "Hi", name: 1}, {})):
        with pytest.raises(InvalidRequest, match=f"unknown .* '{name}'") as caught:
            make_request(request, more)
        assert ("did you mean" in caught.value.message) is (near is not None)
        assert near is None or near in caught.value.message
    assert unknown_name("option", "modl", ["model"]).message == "unknown option 'modl'; did you mean 'model'?"


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_request({"input": "Hi", "history": "Ho"}, {}),
        lambda: make_request("Hi", {"instructions": "a", "system_prompt": "b"}),
        lambda: make_request("Hi", {"input": "Ho"}),
        lambda: make_request([user("Hi")], {"history": "Ho"}),
    ],
)
def test_a_field_under_two_names_is_refused(make: Callable[[], Request]) -> None:
    """Neither of the two is silently dropped."""
    with pytest.raises(InvalidRequest, match="given twice"):
        make()


@pytest.mark.row("A5")
@pytest.mark.parametrize(("context", "wanted"), [("  be kind \n", "be kind"), ("", None), (" \n", None), ("a\n\nb", "a\n\nb")])
def test_developer_context_is_the_first_item(context: str, wanted: str | None) -> None:
    """Trimmed at its ends only; also before a history that is empty."""
    items = wire([user("Hi")], developer_context=context)["input"]
    assert items[:-1] == ([] if wanted is None else [{"type": "message", "role": "developer", "content": wanted}])
    if wanted:
        assert len(wire([], developer_context=context)["input"]) == 1


@pytest.mark.row("A7")
@pytest.mark.parametrize(
    ("given", "wanted"),
    [({"reasoning_effort": "low"}, {"effort": "low"}), ({"reasoning_summary": "auto"}, {"summary": "auto"}),
     ({"reasoning_effort": "none", "reasoning_summary": "none"}, {"effort": "none", "summary": "none"}),
     ({"reasoning_effort": "low", "extra_body": {"reasoning": {"effort": "high", "x": 1}}}, {"effort": "high", "x": 1}),
     ({"reasoning": {"effort": "low"}}, {"effort": "low"})],
)  # fmt: skip
def test_reasoning_is_one_object(given: Json, wanted: Json) -> None:
    """Both of its fields and what the wire name or extra_body says of it."""
    assert wire(**given)["reasoning"] == wanted


@pytest.mark.row("A15")
@pytest.mark.parametrize(
    ("given", "asked"),
    [({"reasons": True}, True), ({"reasons": False}, False), ({"reasoning_effort": "low"}, True),
     ({"reasons": True, "store": True}, False),
     ({"reasons": True, "previous_response_id": "r"}, False), ({"reasons": True, "conversation": "c"}, False),
     ({"reasons": True, "extra_body": {"store": True}}, False)],
)  # fmt: skip
def test_encrypted_reasoning_is_asked_for_where_it_is_needed(given: Json, asked: bool) -> None:
    """Where nothing is stored, the library owns the history, and the model reasons."""
    assert ("reasoning.encrypted_content" in wire(**given).get("include", [])) is asked


SIZED = {"type": "web_search", "search_context_size": "high"}
PLACE = {"city": "Bonn", "country": "DE"}
FOUND = ["web_search_call.action.sources"]


@pytest.mark.row("A9")
@pytest.mark.parametrize(
    ("given", "tools", "include"),
    [
        ({"web_search": True}, [{"type": "web_search"}], None),
        ({"web_search": False}, None, None),
        ({"web_search": {}}, [{"type": "web_search"}], None),
        ({"web_search": {"search_context_size": "high"}}, [SIZED], None),
        ({"web_search": {"filters": {"allowed_domains": ["a.example"]}}},
         [{"type": "web_search", "filters": {"allowed_domains": ["a.example"]}}], None),
        ({"web_search": {"user_location": PLACE}},
         [{"type": "web_search", "user_location": {"type": "approximate", **PLACE}}], None),
        ({"web_search": {"external_web_access": False}}, [{"type": "web_search", "external_web_access": False}], None),
        ({"web_search": {"sources": True}}, [{"type": "web_search"}], FOUND),
        ({"web_search": {"sources": False}}, [{"type": "web_search"}], None),
        ({"web_search": {"sources": True}, "include": FOUND}, [{"type": "web_search"}], FOUND),
        ({"web_search": True, "hosted_tools": [SIZED]}, [SIZED], None),
        ({"web_search": {"sources": True}, "hosted_tools": [{"type": "web_search_preview"}]},
         [{"type": "web_search_preview"}], None),
        ({"web_search": True, "tools": [SIZED]}, [SIZED], None),
        ({"web_search": True, "hosted_tools": [{"type": "file_search", "vector_store_ids": ["vs"]}]},
         [{"type": "file_search", "vector_store_ids": ["vs"]}, {"type": "web_search"}], None),
        ({"hosted_tools": [{"type": "mcp", "server_url": "https://a.example"}]},
         [{"type": "mcp", "server_url": "https://a.example"}], None),
        ({"hosted_tools": []}, None, None),
    ],
)  # fmt: skip
def test_web_search_and_hosted_tools(given: Json, tools: list[Json] | None, include: list[str] | None) -> None:
    """Options go into the tool, sources into the includes; a raw spec of a web search wins over the generated one."""
    before = deepcopy(given)
    sent = wire(**given)
    assert (sent.get("tools"), sent.get("include")) == (tools, include)
    assert given == before


def test_what_is_included_is_listed_once() -> None:
    """The caller's own come first, and the caller's list is not changed."""
    own = ["reasoning.encrypted_content", "x"]
    assert wire(include=own, reasons=True, web_search={"sources": True})["include"] == [*own, "web_search_call.action.sources"]
    assert own == ["reasoning.encrypted_content", "x"]


def test_a_server_without_encrypted_reasoning_is_not_asked_for_it() -> None:
    """Whatever the request says of reasoning; what the caller asks for by itself is sent."""
    assert "include" in wire(reasoning_effort="low")
    assert "include" not in wire(reasoning_effort="low", reasons=None)
    assert wire(include=["x"], reasons=None)["include"] == ["x"]


@pytest.mark.row("A10")
def test_the_chatgpt_backend_has_rules_of_its_own() -> None:
    """No retention, wherever it comes from; store is refused, wherever it comes from."""
    kept: Json = {"prompt_cache_retention": "24h"}
    stored: Json = {"store": True}
    for fields_ in (kept, {"extra_body": kept}):
        assert "prompt_cache_retention" not in wire(chatgpt=True, **fields_)
        assert wire(**fields_)["prompt_cache_retention"] == "24h"
    for fields_ in (stored, {"extra_body": stored}):
        with pytest.raises(InvalidRequest, match="store: the ChatGPT backend"):
            wire(chatgpt=True, **fields_)
    assert wire(chatgpt=True)["store"] is False


def test_fields_that_decide_are_checked_in_extra_body_too() -> None:
    """store, previous_response_id and conversation mean there what they mean by name."""
    for extra, says in (({"store": "yes"}, "store"), ({"previous_response_id": 5}, "previous_response_id"),
                        ({"previous_response_id": "a", "conversation": "b"}, "exclude each other")):  # fmt: skip
        with pytest.raises(InvalidRequest, match=says):
            wire(extra_body=extra)
    assert wire(extra_body={"previous_response_id": "r"}) == wire(previous_response_id="r")
    assert body_of(extra_body={"conversation": "c"}).caller_managed
    assert wire(store=True, extra_body={"store": False})["store"] is False
    assert wire(keeps=True)["store"] is True and wire(keeps=True, store=False)["store"] is False


@pytest.mark.row("A14")
def test_a_conversation_needs_no_input() -> None:
    """Everything else does."""
    assert wire([], conversation="c")["input"] == []
    with pytest.raises(InvalidRequest, match="history is empty"):
        wire([])
    with pytest.raises(InvalidRequest, match="history is empty"):
        wire(None)


@pytest.mark.row("A14")
def test_the_library_repairs_what_it_owns() -> None:
    """An open call gets its output in the library's own history and not in the caller's context."""
    assert [item["type"] for item in wire([call(1)])["input"]] == ["function_call", "function_call_output"]
    assert wire([call(1)], previous_response_id="r")["input"] == [call(1)]
    warned: list[str] = []
    found = outline(Request(history=[user("Hi"), tool_output("c9", "zebra")]), model="m", store=False, reasons=None)
    build(found, warn=warned.append)
    assert len(warned) == 1 and "zebra" not in warned[0]


@pytest.mark.parametrize(
    ("given", "stores"),
    [({}, False), ({"store": True}, True), ({"tools": [{"name": "f"}]}, False), ({"web_search": True}, True),
     ({"tools": [{"type": "custom", "name": "f"}]}, False), ({"tools": [{"type": "web_search"}]}, True),
     ({"hosted_tools": [{"type": "mcp"}]}, True), ({"web_search": False}, False), ({"extra_body": {"store": True}}, True),
     ({"extra_body": {"tools": [{"type": "mcp"}]}}, True),
     ({"extra_body": {"tools": 5}}, False)],
)  # fmt: skip
def test_a_call_with_effects_is_known(given: Json, stores: bool) -> None:
    """What is kept, or run by the provider: after on_payload, too."""
    body = body_of(**given)
    assert body.stores is stores
    assert body.replaced({**body.payload, "store": True}).stores is True
    assert body.replaced({"model": "m", "input": "Hi"}).stores is False


@pytest.mark.row("A12")
def test_a_replaced_payload_is_a_body_again() -> None:
    """Its input and model are checked, who owns the context is read anew, the parser of the answer stays."""
    body = body_of(output_schema={"name": "w", "schema": {"type": "object"}})
    other = body.replaced({"model": "n", "input": "Ho", "previous_response_id": "r"})
    assert (other.fields, other.items) == ({"model": "n", "previous_response_id": "r"}, [user("Ho")])
    assert other.caller_managed and not body.caller_managed and other.parse is body.parse is not None
    bad: list[Any] = [[], {"model": "m", "input": [1]}, {"input": "Hi"}, {"model": " ", "input": "Hi"}]
    bad.append({"model": "m", "input": "Hi", "generate": False})
    for wrong in bad:
        with pytest.raises(InvalidRequest):
            body.replaced(wrong)


def call(n: int) -> Json:
    return {"type": "function_call", "call_id": f"c{n}", "name": "f", "arguments": "{}", "id": f"fc_{n}"}


def reasoning(n: int) -> Json:
    return {"type": "reasoning", "id": f"rs_{n}", "summary": [], "encrypted_content": f"e{n}"}


items = st.lists(
    st.one_of(
        st.builds(user, st.text(min_size=1).filter(str.strip)),
        st.builds(assistant, st.text()),
        st.builds(call, st.integers(0, 3)),
        st.builds(lambda n: tool_output(f"c{n}", "out"), st.integers(0, 3)),
        st.builds(reasoning, st.integers(0, 3)),
    ),
    min_size=1,
    max_size=8,
)


@pytest.mark.row("A14", "A15")
@given(items, st.booleans(), st.booleans())
def test_no_history_is_ever_changed(history: list[Json], store: bool, managed: bool) -> None:
    """Building, repairing and shaping a body leaves the caller's objects as they were; what the caller owns goes as it is."""
    history.insert(0, user("Hi"))
    before = deepcopy(history)
    request = Request(history=history, store=store, previous_response_id="r" if managed else None)
    body = build(outline(request, model="m", store=False, reasons=lambda model: True), warn=lambda message: None)
    sent = body.full(lambda content: "m" if content == "e0" else "other")["input"]
    assert history == before
    if managed:
        assert sent == history
    elif not store:
        assert not any("id" in item or "status" in item for item in sent)
        assert all(item["encrypted_content"] == "e0" for item in sent if item["type"] == "reasoning")
        calls = [item["call_id"] for item in sent if item["type"] == "function_call"]
        outputs = [item["call_id"] for item in sent if item["type"] == "function_call_output"]
        assert sorted(calls) == sorted(outputs) or len(set(calls)) < len(calls)
