"""From the assembled response to the `Result`, or to the `InvalidResponse` that an unusable answer is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixir_sync.protocol.assembly import ResultAssembler
from pixir_sync.protocol.errors import InvalidResponse
from pixir_sync.protocol.outcome import EVIDENCE_LIMIT, finished, partial
from pixir_sync.protocol.result import Evidence, Result
from tests.protocol.strategies import Json, plain_json
from tests.support import events as wire


def assembled(output: list[Json], status: str = "completed", *, kind: str = "", **more: Any) -> ResultAssembler:
    assembler = ResultAssembler()
    response = wire.response(status=status, output=output, **more)
    assembler.add({"type": kind or f"response.{status}", "response": response})
    return assembler


def result_of(output: list[Json], status: str = "completed", parse: Any = None, **more: Any) -> Result:
    return finished(assembled(output, status, **more), Evidence(), parse)


def call(arguments: Any = "{}", **more: Any) -> Json:
    return {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "tool", "arguments": arguments, **more}


def text(said: str = "hello", annotations: Any = ()) -> Json:
    part = {"type": "output_text", "text": said, "annotations": list(annotations)}
    return {"type": "message", "role": "assistant", "content": [part]}


def details(reason: Any) -> Json:
    return {"incomplete_details": {"reason": reason}}


CUSTOM: Json = {"type": "custom_tool_call", "call_id": "call_2", "name": "shell", "input": "not { json"}
ENDS: dict[str, tuple[list[Json], str, str, Json, str | None]] = {
    # output, the event's name, the status, more of the response, finish_reason
    "text": ([text()], "response.completed", "completed", {}, "stop"),
    "nothing": ([], "response.completed", "completed", {}, "stop"),
    "a call": ([text(), call()], "response.completed", "completed", {}, "tool_calls"),
    "a custom call": ([CUSTOM], "response.completed", "completed", {}, "tool_calls"),
    "a hosted call": ([{"type": "web_search_call"}, text()], "response.completed", "completed", {}, "stop"),
    "max_output_tokens": ([text()], "response.incomplete", "incomplete", details("max_output_tokens"), "length"),
    "max_messages": ([text()], "response.incomplete", "incomplete", details("max_messages"), "length"),
    "content_filter": ([text()], "response.incomplete", "incomplete", details("content_filter"), "content_filter"),
    "steered": ([text()], "response.incomplete", "incomplete", details("steered"), "steered"),
    "cut off in a call": ([call('{"a')], "response.incomplete", "incomplete", details("max_output_tokens"), "length"),
    "an unknown reason": ([text()], "response.incomplete", "incomplete", details("new_reason"), "length"),
    "no reason": ([text()], "response.incomplete", "incomplete", {"incomplete_details": None}, "length"),
    "an odd reason": ([text()], "response.incomplete", "incomplete", details(["x"]), "length"),
    "status decides: incomplete": ([text()], "response.completed", "incomplete", details("steered"), "steered"),
    "status decides: completed": ([text()], "response.incomplete", "completed", {}, "stop"),
    "done": ([text()], "response.done", "completed", {}, "stop"),
    "done incomplete": ([text()], "response.done", "incomplete", details("steered"), "steered"),
    "failed": ([text()], "response.failed", "failed", {}, None),
    "cancelled": ([text()], "response.cancelled", "cancelled", {}, None),
    "status decides: failed": ([text()], "response.completed", "failed", {}, None),
}


@pytest.mark.row("A17", "A20")
@pytest.mark.parametrize(("output", "kind", "status", "more", "reason"), ENDS.values(), ids=ENDS)
def test_finish_reason(output: list[Json], kind: str, status: str, more: Json, reason: str | None) -> None:
    """Why an answer ended: its status decides over the event's name; a failure has no finish reason."""
    assembler = assembled(output, status, kind=kind, **more)
    assert partial(assembler, Evidence()).finish_reason == reason
    assert finished(assembler, Evidence(), None) == partial(assembler, Evidence())


NOT_OBJECTS = ['{"a": "SENTINEL', "SENTINEL", "[1]", "1", "null", '"SENTINEL"', "{}{}", "NaN", '{"a": NaN}', "[" * 5000]


@pytest.mark.row("A17", "A26")
@pytest.mark.parametrize("raw", NOT_OBJECTS, ids=lambda raw: raw[:10])
def test_arguments_that_are_no_object_are_an_error_with_the_raw_string(raw: str) -> None:
    """The raw string is in `partial`, and nothing of it in the message, the details or `to_dict`."""
    with pytest.raises(InvalidResponse) as caught:
        result_of([text(), call(raw)])
    error = caught.value
    assert error.partial is not None and error.partial.text == "hello"
    assert [(found.arguments, found.args) for found in error.partial.function_calls] == [(raw, None)]
    assert error.details == {"call_id": "call_1", "name": "tool", "characters": len(raw)}
    assert "SENTINEL" not in json.dumps(error.to_dict()) + str(error) + repr(error)
    assert error.__cause__ is None and not error.retryable


@pytest.mark.row("A17")
@pytest.mark.parametrize("raw", NOT_OBJECTS, ids=lambda raw: raw[:10])
def test_a_truncated_answer_is_not_held_to_it(raw: str) -> None:
    """A call that a limit cut off is shown as it came, with no args, and is no error."""
    result = result_of([call(raw)], "incomplete", **details("max_output_tokens"))
    assert result.finish_reason == "length"
    assert [(found.arguments, found.args) for found in result.function_calls] == [(raw, None)]


@pytest.mark.row("A17")
@pytest.mark.parametrize(("arguments", "args", "raw"), [
    ('{"a": 1}', {"a": 1}, '{"a": 1}'),
    (' {"a": [true]} ', {"a": [True]}, ' {"a": [true]} '),
    ("", {}, ""),
    ("  ", {}, "  "),
    (None, {}, ""),
    ({"a": 1}, {"a": 1}, '{"a":1}'),
])  # fmt: skip
def test_arguments_are_parsed(arguments: Any, args: Json, raw: str) -> None:
    """`args` is the object, `arguments` the string as it came; none is an empty object, an object is taken as one."""
    found = result_of([call(arguments)]).function_calls[0]
    assert (found.args, found.arguments, found.call_id, found.name) == (args, raw, "call_1", "tool")


@pytest.mark.parametrize("arguments", [[1], 5, ["\ud800"]])
def test_arguments_of_another_type_are_an_error(arguments: Any) -> None:
    """What is neither a string nor an object does not become an empty object."""
    with pytest.raises(InvalidResponse):
        result_of([call(arguments)])


def test_a_custom_tools_input_is_free_text() -> None:
    """The input of a custom tool is not parsed and is no error."""
    found = result_of([CUSTOM]).function_calls[0]
    assert (found.type, found.args, found.arguments) == ("custom_tool_call", None, "not { json")


@pytest.mark.row("A8")
def test_the_answer_is_parsed() -> None:
    """With a parser, `parsed` is its value of the answer's JSON."""
    result = result_of([text('{"a": 1}')], parse=lambda value: ("parsed", value))
    assert result.parsed == ("parsed", {"a": 1}) and result.finish_reason == "stop"


def _refuses(value: Any) -> Any:
    raise ValueError(f"does not fit: {value}")


@pytest.mark.row("A8", "A26")
@pytest.mark.parametrize(("said", "parse"), [("SENTINEL {", dict), ('{"a": "SENTINEL"}', _refuses), ("", dict)])
def test_an_answer_that_does_not_parse_is_an_error_with_the_raw_text(said: str, parse: Any) -> None:
    """The text is in `partial`, and nothing of it in the message, the details or the chain of causes."""
    with pytest.raises(InvalidResponse) as caught:
        result_of([text(said)], parse=parse)
    error = caught.value
    assert error.partial is not None and error.partial.text == said and error.partial.parsed is None
    assert "SENTINEL" not in json.dumps(error.to_dict()) and error.details["characters"] == len(said)
    assert error.__cause__ is None and error.__suppress_context__


@pytest.mark.row("A8")
def test_what_is_no_finished_answer_is_not_parsed() -> None:
    """A call, a refusal and a truncated answer are not held to the schema."""
    refusal = {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}
    for result in (
        result_of([text("{"), call()], parse=_refuses),
        result_of([refusal], parse=_refuses),
        result_of([text("{")], "incomplete", parse=_refuses, **details("max_output_tokens")),
    ):
        assert result.parsed is None
    assert result_of([refusal]).refusal == "no"


@pytest.mark.row("A18")
def test_usage_and_its_summary() -> None:
    """The server's usage as it is, and its summary with the hit rate; None for both where there is none."""
    usage = wire.usage(10, 5, cached=5, reasoning=2)
    result = result_of([text()], usage=usage)
    summary = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15, "cached_tokens": 5, "cache_write_tokens": 0,
               "reasoning_tokens": 2, "cache_hit_rate": 0.5}  # fmt: skip
    assert result.usage == usage and result.usage_summary == summary
    assert (result_of([]).usage, result_of([]).usage_summary) == (None, None)


def test_reasoning_is_the_summary_else_the_reasoning_itself() -> None:
    """Summary parts are paragraphs; an item without a summary shows its reasoning text."""
    one = {"type": "reasoning", "summary": [{"type": "summary_text", "text": t} for t in ("a", "b")],
           "content": [{"type": "reasoning_text", "text": "hidden"}]}  # fmt: skip
    two = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "c"}]}
    result = result_of([one, two, text()])
    assert result.reasoning == "a\n\nb\n\nc" and result.reasoning_items == [one, two] and result.text == "hello"


def test_hosted_tools_are_told_by_type_id_and_status() -> None:
    """What ran on the provider's side, without what it was about."""
    kinds = ["web_search_call", "file_search_call", "code_interpreter_call", "image_generation_call", "mcp_call"]
    items = [{"type": kind, "id": f"{kind}_1", "status": "completed", "code": "SENTINEL"} for kind in kinds]
    result = result_of([*items, call()])
    assert result.provider_hosted_tools == [{"type": k, "id": f"{k}_1", "status": "completed"} for k in kinds]
    assert result.output_items[:-1] == items


@pytest.mark.row("A27")
def test_web_search_evidence_has_counts_sources_and_citations_and_no_query() -> None:
    """What was searched stays out; what was found stays in."""
    note = {"type": "url_citation", "url": "https://a.example", "title": "A", "start_index": 0, "end_index": 5}
    action = {"type": "search", "query": "SENTINEL", "queries": ["SENTINEL"],
              "sources": [{"type": "url", "url": "https://a.example"}, {"type": "api", "name": "weather"}]}  # fmt: skip
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": action}
    result = result_of([search, {"type": "web_search_call"}, text("hello", [note, {"type": "file_citation"}])])
    assert result.web_search == {
        "calls": 2, "sources": ["https://a.example"], "annotations": [{k: v for k, v in note.items() if k != "type"}],
    }  # fmt: skip
    assert "SENTINEL" not in json.dumps([result.web_search, result.provider_hosted_tools, result.provider_metadata])
    assert result_of([text()]).web_search == {}


@pytest.mark.row("A27")
def test_web_search_evidence_is_limited() -> None:
    """At most so many sources and citations; the count of the searches is whole."""
    many = EVIDENCE_LIMIT + 5
    sources = [{"url": f"https://{n}.example"} for n in range(many)]
    notes = [{"type": "url_citation", "url": f"https://{n}.example"} for n in range(many)]
    search = {"type": "web_search_call", "action": {"type": "search", "sources": sources}}
    found = result_of([search] * 3 + [text("x", notes)]).web_search
    assert (found["calls"], len(found["sources"]), len(found["annotations"])) == (3, EVIDENCE_LIMIT, EVIDENCE_LIMIT)


def test_the_result_tells_the_response_and_the_evidence() -> None:
    """Id, model, the server's object and the evidence of the call."""
    assembler = assembled([text()])
    result = finished(assembler, Evidence(attempts=2), None)
    assert (result.response_id, result.model, result.response) == ("resp_1", "gpt-5.5", assembler.response)
    assert result.provider_metadata["attempts"] == 2
    empty = partial(ResultAssembler(), Evidence())
    assert empty == Result(provider_metadata=Evidence().to_dict())


odd_fields = st.dictionaries(st.sampled_from(["usage", "model", "id", "incomplete_details"]), plain_json)


@pytest.mark.row("A19")
@given(st.lists(plain_json), odd_fields)
def test_odd_responses_never_raise_in_partial(output: list[Any], more: Json) -> None:
    """A partial result is made from anything."""
    result = partial(assembled(output, "incomplete", **more), Evidence())
    assert Result.from_json(result.to_json()) == result


@pytest.mark.row("A17")
@pytest.mark.parametrize("missing", ["call_id", "name"])
def test_a_call_that_cannot_be_answered_is_an_invalid_response(missing: str) -> None:
    """Without its id or its name no output could be given back; what came is in the partial result."""
    item = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    del item[missing]
    assembler = ResultAssembler()
    assembler.add({"type": "response.completed", "response": {"status": "completed", "output": [item]}})
    with pytest.raises(InvalidResponse) as caught:
        finished(assembler, Evidence(), None)
    assert caught.value.partial is not None and caught.value.partial.output_items == [item]
