"""Events: the view of each type, what carries text, what counts as output, what ends a response."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixir_sync.protocol.events import (
    EVENT_TYPES,
    IGNORED,
    LIFECYCLE,
    TERMINAL,
    Event,
    FunctionCallDelta,
    ItemDone,
    ReasoningDelta,
    RefusalDelta,
    Terminal,
    TextDelta,
    decode,
    is_output,
    is_terminal,
)
from tests.protocol.strategies import plain_json

VIEWS = {
    "response.output_text.delta": TextDelta,
    "response.refusal.delta": RefusalDelta,
    "response.reasoning_summary_text.delta": ReasoningDelta,
    "response.reasoning_text.delta": ReasoningDelta,
    "response.function_call_arguments.delta": FunctionCallDelta,
    "response.custom_tool_call_input.delta": FunctionCallDelta,
    "response.output_item.done": ItemDone,
    "response.completed": Terminal,
    "response.incomplete": Terminal,
    "response.failed": Terminal,
    "response.cancelled": Terminal,
    "response.done": Terminal,
    "error": Terminal,
    "response.created": Event,
    "response.output_item.added": Event,
    "response.web_search_call.searching": Event,
    "codex.rate_limits": Event,
    "no.such.event": Event,
}
OUTPUT = [
    "response.output_item.added", "response.output_item.done", "response.content_part.added",
    "response.content_part.done", "response.output_text.delta", "response.output_text.done",
    "response.output_text.annotation.added",
    "response.refusal.delta", "response.refusal.done", "response.reasoning_summary_part.added",
    "response.reasoning_summary_part.done", "response.reasoning_summary_text.delta", "response.reasoning_text.done",
    "response.function_call_arguments.delta", "response.custom_tool_call_input.done",
    "response.web_search_call.in_progress", "response.file_search_call.completed",
    "response.code_interpreter_call.interpreting", "response.code_interpreter_call_code.delta",
    "response.image_generation_call.partial_image", "response.mcp_call.completed", "response.mcp_call_arguments.delta",
    "response.mcp_list_tools.in_progress", "response.shell_call_output.delta", "response.audio.delta",
]  # fmt: skip
NO_OUTPUT = [
    "response.created", "response.queued", "response.in_progress", "codex.rate_limits", "keepalive",
    "response.metadata", "codex.response.metadata", "responsesapi.websocket_timing", "response.steer.accepted",
    "no.such.event", "error", "response.completed", "response.failed", "response.compaction.compacting",
]  # fmt: skip


@pytest.mark.row("A19")
@pytest.mark.parametrize(("kind", "view"), VIEWS.items(), ids=str)
def test_each_type_has_its_view(kind: str, view: type[Event]) -> None:
    """A type's view is exact; an unknown type is a plain event with the server's own object."""
    data = {"type": kind, "unknown_field": 1}
    event = decode(data)
    assert type(event) is view and event.type == kind and event.data is data


@given(st.sampled_from(sorted(EVENT_TYPES)), st.dictionaries(st.text(max_size=5), plain_json, max_size=3), plain_json)
def test_missing_and_odd_fields_never_raise(kind: str, fields: dict[str, Any], odd: Any) -> None:
    """Whatever the fields hold, a view has its attributes, with the right types."""
    for data in ({"type": kind}, {**fields, "type": kind}, {"type": kind, "delta": odd, "item": odd, "response": odd}):
        event = decode(data)
        assert isinstance(event.text, str)
        assert isinstance(getattr(event, "delta", ""), str)
        assert isinstance(getattr(event, "item", {}), dict) and isinstance(getattr(event, "response", {}), dict)


@pytest.mark.parametrize("kind", [name for name in VIEWS if name.endswith(".delta")])
def test_only_text_deltas_carry_text(kind: str) -> None:
    """`text` is the answer's text and nothing else: reasoning, refusals and arguments are in `delta`."""
    event = decode({"type": kind, "delta": "piece"})
    assert getattr(event, "delta") == "piece"  # noqa: B009
    assert event.text == ("piece" if type(event) is TextDelta else "")


def test_an_item_and_a_response_are_the_servers_own() -> None:
    """`item` and `response` are not copies."""
    item, response = {"type": "message"}, {"id": "resp_1"}
    done = decode({"type": "response.output_item.done", "item": item})
    end = decode({"type": "error", "response": response})
    assert isinstance(done, ItemDone) and done.item is item
    assert isinstance(end, Terminal) and end.response is response


@pytest.mark.parametrize("kind", OUTPUT)
def test_items_parts_and_deltas_are_output(kind: str) -> None:
    """After one of these a call is never replayed."""
    assert is_output(kind)


@pytest.mark.parametrize("kind", NO_OUTPUT)
def test_lifecycle_rate_limit_and_unknown_events_are_no_output(kind: str) -> None:
    """After these a call may still be replayed."""
    assert not is_output(kind)


@pytest.mark.row("A20")
def test_the_terminal_events() -> None:
    """Completed, failed, incomplete, cancelled, done and error end a response, and nothing else does."""
    ends = {f"response.{name}" for name in ("completed", "failed", "incomplete", "cancelled", "done")} | {"error"}
    assert ends == TERMINAL
    assert all(is_terminal({"type": kind}) for kind in ends)
    assert not any(is_terminal({"type": kind}) for kind in LIFECYCLE | IGNORED | set(OUTPUT)) and not is_terminal({})


def test_an_event_is_small_and_its_repr_shows_no_content() -> None:
    """No `__dict__`, and nothing of the answer in the repr."""
    for kind in VIEWS:
        event = decode({"type": kind, "delta": "SENTINEL", "item": {"a": "SENTINEL"}, "response": {"a": "SENTINEL"}})
        assert not hasattr(event, "__dict__")
        assert "SENTINEL" not in repr(event) and kind in repr(event)
