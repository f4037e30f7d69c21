"""The events of a stream: small slotted views over the server's JSON objects.

Rules kept here:

* `Event.data` is the server's object itself, never a copy; `Event.type` is the protocol's own name.
* Only `TextDelta` carries text in `Event.text`: joining the text of all events gives the answer and nothing else.
* An unknown type is a plain `Event`. A missing optional field never raises: it reads as ``""``, ``{}`` or None.
* Two tables say all there is to say about a type: its view, and whether it is output. Output is an item, a part or a
  delta; lifecycle, rate-limit and unknown events are not. After the first output a call is never replayed.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "EVENT_TYPES", "IGNORED", "LIFECYCLE", "TERMINAL", "Event", "FunctionCallDelta", "ItemDone", "ReasoningDelta",
    "RefusalDelta", "Terminal", "TextDelta", "decode", "is_output", "is_terminal", "kind_of",
]  # fmt: skip


class Event:
    """One event of the server's.

    Attributes:
        type: the protocol's name, for example ``response.output_text.delta``.
        data: the server's JSON object.
        text: the piece of the answer that it carries; ``""`` for all but `TextDelta`.
    """

    __slots__ = ("data", "text", "type")

    def __init__(self, data: dict[str, Any]) -> None:
        self.type: str = data["type"]
        self.data = data
        self.text = ""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.type}>"


class _Delta(Event):
    """Base of the pieces: `delta` is the piece itself."""

    __slots__ = ("delta",)

    def __init__(self, data: dict[str, Any]) -> None:
        self.type = data["type"]
        self.data = data
        self.text = ""
        delta = data.get("delta")
        self.delta: str = delta if type(delta) is str else ""


class TextDelta(_Delta):
    """A piece of the answer's text: `text`, and the same as `delta`."""

    __slots__ = ()

    def __init__(self, data: dict[str, Any]) -> None:
        self.type = data["type"]
        self.data = data
        delta = data.get("delta")
        self.delta = self.text = delta if type(delta) is str else ""


class ReasoningDelta(_Delta):
    """A piece of the reasoning, or of its summary: `delta`."""

    __slots__ = ()


class RefusalDelta(_Delta):
    """A piece of a refusal: `delta`."""

    __slots__ = ()


class FunctionCallDelta(_Delta):
    """A piece of a tool call's arguments (JSON text), or of a custom tool's input: `delta`."""

    __slots__ = ()


class ItemDone(Event):
    """An output item is complete: `item`, the server's object."""

    __slots__ = ("item",)

    def __init__(self, data: dict[str, Any]) -> None:
        super().__init__(data)
        item = data.get("item")
        self.item: dict[str, Any] = item if isinstance(item, dict) else {}


class Terminal(Event):
    """The last event of a response: `response`, the server's object (without one, ``{}``)."""

    __slots__ = ("response",)

    def __init__(self, data: dict[str, Any]) -> None:
        super().__init__(data)
        response = data.get("response")
        self.response: dict[str, Any] = response if isinstance(response, dict) else {}


EVENT_TYPES: dict[str, type[Event]] = {
    "response.output_text.delta": TextDelta,
    "response.refusal.delta": RefusalDelta,
    "response.reasoning_summary_text.delta": ReasoningDelta,
    "response.reasoning_text.delta": ReasoningDelta,
    "response.function_call_arguments.delta": FunctionCallDelta,
    "response.custom_tool_call_input.delta": FunctionCallDelta,
    "response.mcp_call_arguments.delta": FunctionCallDelta,
    "response.output_item.done": ItemDone,
    "response.completed": Terminal,
    "response.failed": Terminal,
    "response.incomplete": Terminal,
    "response.cancelled": Terminal,
    "response.done": Terminal,
    "error": Terminal,
}
"""The view of each type; every other type is a plain `Event`."""

TERMINAL = frozenset(name for name, view in EVENT_TYPES.items() if view is Terminal)

LIFECYCLE = frozenset({"response.created", "response.queued", "response.in_progress"})

IGNORED = frozenset({"keepalive"})
"""Sent by servers to keep a path open: not shown to the caller, and no sign of progress."""

_OUTPUT_PREFIXES = (
    "response.output_item.", "response.content_part.", "response.output_text.", "response.refusal.",
    "response.reasoning_", "response.function_call_arguments.", "response.custom_tool_call_input.",
    "response.web_search_call.", "response.file_search_call.", "response.code_interpreter_call",
    "response.image_generation_call.", "response.mcp_", "response.shell_call_", "response.audio.",
)  # fmt: skip


def decode(data: dict[str, Any]) -> Event:
    """The view of a server's object, which must have a ``type``."""
    return EVENT_TYPES.get(data["type"], Event)(data)


def is_output(kind: str) -> bool:
    """Whether an event of this type is output: an item, a part or a delta."""
    return kind.startswith(_OUTPUT_PREFIXES)


def kind_of(data: Any) -> str | None:
    """The type of a server's object, None for what is no event."""
    kind = data.get("type") if isinstance(data, dict) else None
    return kind if isinstance(kind, str) else None


def is_terminal(data: Any) -> bool:
    """Whether this is an object that ends its response."""
    return kind_of(data) in TERMINAL
