"""The law of the order of events (section 3 of the protocol notes), as a check of one response's events.

Written from the protocol, not from the server: for every kind of item the steps that may follow each other, and what must
agree between them.
"""

from __future__ import annotations

import re

from tests.local.raw import Json

__all__ = ["check_answer"]

# The steps inside an item, between its ``added`` and its ``done``, in the shape of a regular expression; each ends in a space.
_TEXT = r"content_part\.added (output_text\.delta )*(output_text\.annotation\.added )*output_text\.done content_part\.done "
_REFUSAL = r"content_part\.added (refusal\.delta )*refusal\.done content_part\.done "
_SUMMARY = (
    r"reasoning_summary_part\.added (reasoning_summary_text\.delta )*reasoning_summary_text\.done reasoning_summary_part\.done "
)
_REASONED = r"content_part\.added (reasoning_text\.delta )*reasoning_text\.done content_part\.done "
STEPS = {
    "message": f"({_TEXT}|{_REFUSAL})*",
    "reasoning": f"({_SUMMARY})*({_REASONED})*",
    "function_call": r"(function_call_arguments\.delta )*function_call_arguments\.done ",
    "custom_tool_call": r"(custom_tool_call_input\.delta )*custom_tool_call_input\.done ",
    "compaction": r"(compaction\.compacting )?",
    "web_search_call": r"web_search_call\.in_progress web_search_call\.searching web_search_call\.completed ",
    "file_search_call": r"file_search_call\.in_progress file_search_call\.searching file_search_call\.completed ",
    "code_interpreter_call": (
        r"code_interpreter_call\.in_progress (code_interpreter_call_code\.delta )*code_interpreter_call_code\.done "
        r"code_interpreter_call\.interpreting code_interpreter_call\.completed "
    ),
    "image_generation_call": (
        r"image_generation_call\.in_progress image_generation_call\.generating "
        r"(image_generation_call\.partial_image )*image_generation_call\.completed "
    ),
    "mcp_call": r"mcp_call\.in_progress (mcp_call_arguments\.delta )*mcp_call_arguments\.done mcp_call\.(completed|failed) ",
    "mcp_list_tools": r"mcp_list_tools\.in_progress mcp_list_tools\.(completed|failed) ",
}
# Which field of a ``done`` event its deltas make up.
_WHOLE = {
    "output_text": "text",
    "refusal": "refusal",
    "reasoning_summary_text": "text",
    "reasoning_text": "text",
    "function_call_arguments": "arguments",
    "custom_tool_call_input": "input",
    "code_interpreter_call_code": "code",
    "mcp_call_arguments": "arguments",
}
_EMPTY: dict[str, Json] = {
    "message": {"content": []},
    "function_call": {"arguments": ""},
    "custom_tool_call": {"input": ""},
    "reasoning": {"summary": []},
}
_TERMINAL = {"completed", "incomplete", "failed"}


def check_answer(events: list[Json]) -> Json:
    """Check the events of one response from its first to its terminal one; the final response object."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    names = [event["type"].removeprefix("response.") for event in events]
    start = 3 if names[1] == "queued" else 2
    assert [names[0], names[start - 1]] == ["created", "in_progress"] and names[-1] in _TERMINAL
    _check_lifecycle([event["response"] for event in (*events[:start], events[-1])], names[-1])
    items = _items(events[start:-1])
    last: Json = events[-1]["response"]
    assert last["output"] == [item[-1]["item"] for item in items]
    for index, item in enumerate(items):
        _check_item(item, index)
    return last


def _check_lifecycle(responses: list[Json], ending: str) -> None:
    *begun, last = responses
    assert len({response["id"] for response in responses}) == 1 and last["status"] == ending
    for response in begun:
        assert (response["object"], response["output"], response["usage"]) == ("response", [], None)
        assert response["status"] in ("queued", "in_progress")
    assert (last["error"] is not None) == (ending == "failed")
    assert (last["incomplete_details"] is not None) == (ending == "incomplete")
    assert ending == "failed" or last["usage"]["total_tokens"] == last["usage"]["input_tokens"] + last["usage"]["output_tokens"]


def _items(events: list[Json]) -> list[list[Json]]:
    """The events cut into items: each from its added to its done."""
    items: list[list[Json]] = []
    is_open = False
    for event in events:
        if event["type"] == "response.output_item.added":
            assert not is_open
            items.append([])
        assert items, f"{event['type']} stands outside of any item"
        is_open = event["type"] != "response.output_item.done"
        items[-1].append(event)
    assert not is_open
    return items


def _check_item(events: list[Json], index: int) -> None:
    added, *inner, done = events
    item, opened = done["item"], added["item"]
    assert all(event["output_index"] == index for event in events)
    assert all(event["item_id"] == item["id"] for event in inner)
    assert (opened["id"], opened["type"]) == (item["id"], item["type"])
    for field, value in _EMPTY.get(item["type"], {}).items():
        assert opened[field] == value
    if "status" in opened:
        assert opened["status"] == "in_progress" and item["status"] in ("completed", "incomplete", "failed")
    steps = "".join(f"{event['type'].removeprefix('response.')} " for event in inner)
    assert re.fullmatch(STEPS[item["type"]], steps), (item["type"], steps)
    _check_deltas(inner, item)


def _check_deltas(events: list[Json], item: Json) -> None:
    """The deltas joined are the value of the done event behind them, and that value stands in the item."""
    said = ""
    for event in events:
        name, _, step = event["type"].removeprefix("response.").rpartition(".")
        if step == "delta":
            said += event["delta"]
        elif step == "done" and name in _WHOLE:
            whole = event[_WHOLE[name]]
            assert said in ("", whole) and _holds(item, whole)
            said = ""
            assert not event.keys() & {"name", "call_id"}
        elif step == "done":
            parts = item["summary"] if name == "reasoning_summary_part" else item["content"]
            assert event["part"] == parts[event["summary_index" if name == "reasoning_summary_part" else "content_index"]]


def _holds(value: object, wanted: str) -> bool:
    """Whether a string stands anywhere in a JSON value."""
    if isinstance(value, dict):
        return any(_holds(one, wanted) for one in value.values())
    return any(_holds(one, wanted) for one in value) if isinstance(value, list) else value == wanted
