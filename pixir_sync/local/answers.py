"""What a model says, as values: the parts of an answer and how it ends. For scenarios, and for the local model itself.

::

    Answer("Hello")
    Answer(Reasoning("The user greets."), Text("Hel", "lo"), FunctionCall("wave", {"hand": "left"}))
    Answer("So far", end=Incomplete("content_filter"))

Rules kept here:

* An answer holds no id, no index, no sequence number and no usage: the server's writer gives them, so that an answer is a
  legal one whatever is in it.
* Values only: one answer may be given as often as one likes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pixir_sync.protocol.codec import dumps

__all__ = [
    "Answer", "CustomCall", "End", "Failed", "FunctionCall", "HostedCall", "Incomplete", "Part", "Reasoning", "Refusal", "Text",
]  # fmt: skip

Json = dict[str, Any]


@dataclass(frozen=True, init=False, slots=True)
class Text:
    """An assistant message.

    One string is written word by word, several are the deltas themselves. ``annotations`` (citations, for example) come
    behind the text.
    """

    deltas: tuple[str, ...]
    annotations: tuple[Json, ...]

    def __init__(self, *deltas: str, annotations: Sequence[Json] = ()) -> None:
        object.__setattr__(self, "deltas", deltas)
        object.__setattr__(self, "annotations", tuple(annotations))


@dataclass(frozen=True, slots=True)
class Refusal:
    """An assistant message that refuses."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A reasoning item with a summary, and a ``text`` of its own where the model shows its reasoning.

    ``encrypted``: whether it carries encrypted content; None where the request's ``include`` asks for it.
    """

    summary: str
    text: str = ""
    encrypted: bool | None = None


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """A call of a function tool. ``arguments`` is an object, or the text to send, JSON or not. ``call_id`` None makes one."""

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict)
    call_id: str | None = None

    @property
    def raw(self) -> str:
        """The arguments as they are sent."""
        return self.arguments if isinstance(self.arguments, str) else dumps(dict(self.arguments)).decode()


@dataclass(frozen=True, slots=True)
class CustomCall:
    """A call of a custom tool with free text. ``call_id`` None makes one."""

    name: str
    input: str
    call_id: str | None = None


@dataclass(frozen=True, init=False, slots=True)
class HostedCall:
    """A tool that the service runs itself: ``type`` is the item's, such as ``web_search_call``; ``fields`` are its other fields.

    It is announced, works, and is done, with the events that its kind has; a field that the kind needs and that is not given
    has a plausible value.
    """

    type: str
    fields: Json

    def __init__(self, type: str, **fields: Any) -> None:
        object.__setattr__(self, "type", type)
        object.__setattr__(self, "fields", fields)


@dataclass(frozen=True, slots=True)
class Compaction:
    """The compaction of the context so far, which the service puts out by itself where ``context_management`` asks for it."""

    users: int


Part = Text | Refusal | Reasoning | FunctionCall | CustomCall | HostedCall | Compaction


@dataclass(frozen=True, slots=True)
class Incomplete:
    """The answer ends incomplete: ``max_output_tokens``, ``content_filter``, ``max_messages``, ``steered``."""

    reason: str = "max_output_tokens"


@dataclass(frozen=True, slots=True)
class Failed:
    """The answer ends in ``response.failed``, after what was said before."""

    code: str = "server_error"
    message: str = "The server had an error while processing your request."


End = Incomplete | Failed


@dataclass(frozen=True, init=False, slots=True)
class Answer:
    """One answer: its parts in order (a string is a message) and its end, None for ``response.completed``."""

    parts: tuple[Part, ...]
    end: End | None

    def __init__(self, *parts: str | Part, end: End | None = None) -> None:
        object.__setattr__(self, "parts", tuple(Text(part) if isinstance(part, str) else part for part in parts))
        object.__setattr__(self, "end", end)
