"""The checks of a request's fields: what each takes, and that a refusal names the field and quotes nothing."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixir_sync.protocol.checks import CHOICES, RESERVED, check, choice, mapping, plain_text, text
from pixir_sync.protocol.errors import InvalidRequest
from pixir_sync.protocol.request import Request

NAN, INF = float("nan"), float("inf")
HUGE = 10**400  # larger than any float

TABLE: dict[str, tuple[list[Any], list[Any]]] = {
    "model": (["m", "a/b:c"], ["", " ", 5, b"m"]),
    "system_prompt": (["", "x"], [5, ["x"], {}]),
    "developer_context": (["", " ", "x"], [5, ["x"]]),
    "hosted_tools": ([[], [{"type": "mcp"}], ({"type": "web_search"},)],
                     [{}, "mcp", 5, [5], [{}], [{"type": ""}], [{"type": 5}], [{"type": "function"}], [{1: 2}]]),
    "web_search": ([True, False, {}, {"search_context_size": "low", "filters": {}, "user_location": {}, "sources": True},
                    {"filters": {"allowed_domains": ["a.example"]}, "external_web_access": False},
                    {"user_location": {"type": "approximate", "city": "Bonn", "country": "DE", "region": "N", "timezone": "Z"}}],
                   [5, "yes", ["low"], {"search_context_size": "tiny"}, {"contextsize": 1}, {1: 2}, {"sources": "yes"},
                    {"external_web_access": 1}, {"filters": ["a.example"]}, {"filters": {"allowed_domains": "a.example"}},
                    {"filters": {"allowed_domains": ["https://a.example"]}}, {"filters": {"allowed_domains": [""]}},
                    {"filters": {"domains": []}}, {"user_location": "Bonn"}, {"user_location": {"type": "exact"}},
                    {"user_location": {"country": "Germany"}}, {"user_location": {"city": 5}}, {"user_location": {"town": "B"}}]),
    "tool_choice": (["auto", "none", "required", {"type": "function", "name": "f"}],
                    ["any", "", 5, [], {}, {"type": ""}, {"type": 5}]),
    "parallel_tool_calls": ([True, False], [0, 1, "true"]),
    "reasoning_effort": (["none", "minimal", "low", "medium", "high", "xhigh", "max"], ["", "LOW", "lo", 1, True, ["low"]]),
    "reasoning_summary": (["auto", "concise", "detailed"], ["short", "", 1]),
    "verbosity": (["low", "medium", "high"], ["max", "", 1]),
    "temperature": ([0, 0.0, 1, 1.5, 2], [-0.1, NAN, INF, -INF, True, False, "1", 1j, [1]]),
    "top_p": ([0, 0.0, 0.5, 1], [-1, NAN, INF, True, "1"]),
    "max_output_tokens": ([1, 16, HUGE], [0, -1, 1.5, 1.0, NAN, True, "16"]),
    "prompt_cache_key": (["k", "a-b:c/d~!", "x" * 512], ["", " ", "a b", "a\n", "é", "x" * 513, 5, b"k"]),
    "prompt_cache_retention": (["in_memory", "24h"], ["48h", "", 24]),
    "metadata": ([{}, {"a": ""}, {"k" * 64: "v" * 512}, {str(n): "v" for n in range(16)}],
                 [[], "a", {"a": 5}, {1: "a"}, {"a": None}, {"k" * 65: "v"}, {"a": "v" * 513}, {str(n): "v" for n in range(17)}]),
    "service_tier": (["auto", "default", "flex", "priority"], ["fast lane", "", 1]),
    "include": ([[], ["a.b"], ("a",)], ["a", 5, {}, [""], [5]]),
    "store": ([True, False], [0, 1, "false", []]),
    "previous_response_id": (["resp_1"], ["", " ", 5, "resp\n1", "resp\x00", "é"]),
    "conversation": (["conv_1", {"id": "conv_1"}], ["", 5, {}, {"id": ""}, {"id": 5}, []]),
    "extra_body": ([{}, {"x": None}], [[], "x", 5, {1: 2}, *({name: 1} for name in RESERVED)]),
}  # fmt: skip
RIGHT = [(name, value) for name, (right, _) in TABLE.items() for value in right]
WRONG = [(name, value) for name, (_, wrong) in TABLE.items() for value in wrong]


def make(name: str, value: Any) -> Request:
    """A request with this one field, whatever its type."""
    return Request(**{name: value})


@pytest.mark.row("A7")
@pytest.mark.parametrize(("name", "value"), RIGHT, ids=[f"{name}={value!r:.30}" for name, value in RIGHT])
def test_what_is_right_is_taken(name: str, value: Any) -> None:
    """Zero, the empty and the largest that is allowed among them."""
    made = make(name, value)
    check(made)
    assert getattr(made, name) == value


@pytest.mark.row("A7")
@pytest.mark.parametrize(("name", "value"), WRONG, ids=[f"{name}={value!r:.30}" for name, value in WRONG])
def test_what_is_wrong_is_refused_by_name(name: str, value: Any) -> None:
    """InvalidRequest whose message begins with the field."""
    with pytest.raises(InvalidRequest) as caught:
        check(make(name, value))
    assert caught.value.message.startswith(name)


def test_every_field_has_a_check() -> None:
    """All but those that are checked where they are read."""
    assert {f.name for f in fields(Request)} - TABLE.keys() == {"history", "tools", "output_schema"}
    assert CHOICES.keys() < TABLE.keys()


@pytest.mark.parametrize(
    ("field", "value", "near"),
    [("reasoning_effort", "hihg", "high"), ("verbosity", "meduim", "medium"), ("service_tier", "flexx", "flex"),
     ("tool_choice", "requierd", "required"), ("reasoning_summary", "detaild", "detailed")],
)  # fmt: skip
def test_a_word_that_is_nearly_right_gets_a_hint(field: str, value: str, near: str) -> None:
    """With all the words that there are."""
    with pytest.raises(InvalidRequest, match=f"{field} must be one of .*did you mean '{near}'"):
        check(make(field, value))


@pytest.mark.row("A9")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"filter": {}}, r"web_search\.filter is not known; did you mean 'filters'"),
        ({"filters": {"allowed_domain": []}}, r"web_search\.filters\.allowed_domain is not known; did you mean 'allowed_d"),
        ({"user_location": {"contry": "DE"}}, r"web_search\.user_location\.contry is not known; did you mean 'country'"),
        ({"search_context_size": "hihg"}, r"web_search\.search_context_size must be one of .*; did you mean 'high'"),
    ],
)
def test_what_is_wrong_in_web_search_gets_its_full_name_and_a_hint(given: dict[str, Any], said: str) -> None:
    """Also where it is deep inside."""
    with pytest.raises(InvalidRequest, match=said):
        check(Request(web_search=given))


def test_two_owners_of_a_context_exclude_each_other() -> None:
    """previous_response_id or conversation, not both."""
    with pytest.raises(InvalidRequest, match="previous_response_id and conversation exclude each other"):
        check(Request(previous_response_id="r", conversation="c"))


def test_the_small_checks_name_what_they_check() -> None:
    """For options other than a request's fields."""
    text("session", "s")
    plain_text("originator", "me/1")
    mapping("x", {"a": 1})
    choice("transport", "auto", ("auto",))
    for verify, value, says in (
        (text, None, "x must be a string that is not blank, not NoneType"),
        (text, "\n", "x must be a string that is not blank, not a blank one"),
        (plain_text, "a\rb", "x must not hold control characters"),
        (plain_text, "a\x7f", "x must not hold control characters"),
        (plain_text, "ä", "x must hold ASCII characters only"),
        (mapping, [("a", 1)], "x must be a mapping with string keys, not list"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            verify("x", value)
        assert caught.value.message == says
    with pytest.raises(InvalidRequest, match="x must be one of a, b"):
        choice("x", ["a"], ("a", "b"))


@pytest.mark.row("A26")
@given(st.sampled_from(sorted(TABLE)), st.text("ZQX", min_size=8, max_size=40))
def test_no_refusal_quotes_what_was_given(name: str, word: str) -> None:
    """Whatever a field holds, the message does not hold it."""
    for value in (word, [word], {"x": word}, {"type": word + "!"}, word + "\n", {"a": [word]}, word * 60):
        try:
            check(make(name, value))
        except InvalidRequest as error:
            assert word not in error.message and error.details == {}


@pytest.mark.row("A7")
@given(st.sampled_from(["temperature", "top_p"]), st.floats() | st.integers())
def test_a_number_is_taken_exactly_if_it_is_finite_and_not_negative(name: str, value: float) -> None:
    """NaN and the infinities included."""
    fits = value >= 0 and (type(value) is int or math.isfinite(value))
    try:
        check(make(name, value))
    except InvalidRequest:
        assert not fits
    else:
        assert fits
