"""What the model has in front of it: an immutable chain of items, and the few facts the model needs of it.

Rules kept here:

* A context is never changed, only extended, so that a lane, its forks and the store share it; extending costs what
  the new items cost, however long the chain is.
* Calls and their outputs pair up: an output needs an open call before it, and a request may not end with an open
  call. (An output given twice has no open call the second time.)
* A context reached by continuation and one sent in full give the same facts, so that the model answers both alike.
* One token is four bytes of JSON, rounded up per item. Nobody's tokenizer, but it counts what was really sent. An id and a
  status count nothing, so that stored or not, chained or in full, one conversation is as long.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pixir_sync.local import sealed
from pixir_sync.local.errors import ApiError, invalid
from pixir_sync.protocol.codec import CodecError, dumps

__all__ = ["EMPTY", "Context", "tokens_of"]

Item = dict[str, Any]

_UNCOUNTED = ("id", "status")

CALLS = {"function_call": "function call", "custom_tool_call": "custom tool call"}
OUTPUTS = {"function_call_output": "function_call", "custom_tool_call_output": "custom_tool_call"}


def tokens_of(value: Any) -> int:
    """The tokens of a JSON value; 0 for None. Raises `ApiError` 400 where the value has no JSON form."""
    if value is None:
        return 0
    try:
        return -(-len(dumps(value)) // 4)
    except CodecError as error:
        raise invalid(f"Invalid request: {error}.", code="invalid_json") from None


def text_of(content: Any) -> str:
    """The text of a message's content or a tool's output: a string, or the text parts of a list, joined."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


@dataclass(frozen=True, slots=True)
class Context:
    """The items of one link and the facts of the whole chain up to it."""

    parent: Context | None = None
    items: tuple[Item, ...] = ()
    tokens: int = 0
    users: int = 0
    last_user: str = ""
    outputs: tuple[str, ...] = ()
    open_calls: Mapping[str, str] = field(default_factory=dict)

    def all_items(self) -> list[Item]:
        """Every item of the chain, oldest first."""
        links: list[tuple[Item, ...]] = []
        link: Context | None = self
        while link is not None:
            links.append(link.items)
            link = link.parent
        return [item for items in reversed(links) for item in items]

    def with_input(self, items: Iterable[Item]) -> Context:
        """The context after a request's input. Raises `ApiError` 400 where calls and outputs do not pair up."""
        after = self._extended(tuple(items))
        for call_id, kind in after.open_calls.items():
            raise invalid(f"No tool output found for {CALLS[kind]} {call_id}.", "input", code=None)
        return after

    def with_output(self, items: Iterable[Item]) -> Context:
        """The context after the model's own output, whose calls are still open. A compaction in it replaces what was before."""
        output = tuple(items)
        for index, item in enumerate(output):
            if item.get("type") == "compaction":
                return EMPTY._extended(output[index:])
        return self._extended(output)

    def _extended(self, items: tuple[Item, ...]) -> Context:
        facts = _Facts(self.users, self.last_user, list(self.outputs), dict(self.open_calls))
        tokens = self.tokens
        for item in items:
            tokens += tokens_of({key: value for key, value in item.items() if key not in _UNCOUNTED})
            facts.take(item)
        return Context(
            self, items, tokens, facts.users, facts.last_user, tuple(facts.outputs), facts.open_calls
        )


@dataclass(slots=True)
class _Facts:
    """The facts while items are being read; ``outputs`` are the tool outputs since the last message of the user or the model."""

    users: int
    last_user: str
    outputs: list[str]
    open_calls: dict[str, str]

    def take(self, item: Item) -> None:
        kind = item.get("type", "message")
        if kind in OUTPUTS:
            self._output(item, OUTPUTS[kind])
        elif kind in CALLS:
            self.open_calls[item["call_id"]] = kind
        elif kind == "message":
            self._message(item)
        elif kind == "compaction":
            self.users = sealed.users_of(item)  # it stands for everything before it
            self.outputs = []

    def _message(self, item: Item) -> None:
        if item.get("role") in ("system", "developer"):
            return  # an instruction behind an output leaves it to be answered
        self.outputs = []
        if item.get("role") == "user":
            self.users += 1
            self.last_user = text_of(item.get("content"))

    def _output(self, item: Item, call_kind: str) -> None:
        call_id = item["call_id"]
        if self.open_calls.get(call_id) != call_kind:
            name = CALLS[call_kind]
            raise ApiError(400, f"No tool call found for {name} output with call_id {call_id}.", param="input")
        del self.open_calls[call_id]
        self.outputs.append(text_of(item.get("output")))


EMPTY = Context()


def ids_in(context: Context) -> Iterator[str]:
    """The item ids in a context, oldest first. Looks at it only when the first one is asked for."""
    for item in context.all_items():
        if isinstance(item.get("id"), str):
            yield item["id"]
