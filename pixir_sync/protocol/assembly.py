"""`ResultAssembler`: the events of one attempt in, a `Result` out.

Rules kept here (the protocol's own):

* A ``done`` value replaces the deltas before it; a done item replaces what was built of it.
* A non-empty ``output`` of the terminal response overrides what was built; an empty, null or missing one keeps it.
* Any event but the terminal one may be missing, and any id or index. An item is found by its id, else by its index,
  else it is the open item of its kind, else it is new; an announcement that neither finds opens a new one. The answer
  does not depend on which of these the server sends.
* ``response.status`` decides over the name of the terminal event.
* Nothing here raises for odd input: what a failed turn produced is read from here, too.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any

from pixir_sync.protocol.events import EVENT_TYPES, LIFECYCLE, TERMINAL, Event
from pixir_sync.protocol.parts import PARTS, Item, announced

__all__ = ["HANDLERS", "PLAIN", "ResultAssembler", "View"]

_Data = dict[str, Any]
_NO_KEY = object()
_place = itemgetter("item_id", "output_index", "content_index")  # in one step, not three: a tenth less for a delta


class ResultAssembler:
    """Collects one attempt. Not for several threads at once.

    Attributes:
        response: the last response object that the server sent. response_id: its id, or an earlier one's.
        terminal: the terminal event's data, once it came. status: how the response ended, None before that.
        output_seen, events: whether output came, and how many events; the turn engine keeps them.
    """

    __slots__ = (
        "_append", "_by_id", "_by_index", "_items", "_key",
        "events", "output_seen", "response", "response_id", "status", "terminal",
    )  # fmt: skip

    def __init__(self) -> None:
        self.response: _Data = {}
        self.response_id: str | None = None
        self.terminal: _Data | None = None
        self.status: str | None = None
        self.output_seen = False
        self.events = 0
        self._items: list[Item] = []
        self._by_id: dict[str, Item] = {}
        self._by_index: dict[int, Item] = {}
        # The text that the last delta went to: nearly always the next one's, too.
        self._key: Any = _NO_KEY
        nowhere: list[str] = []
        self._append = nowhere.append

    def add(self, data: _Data) -> None:
        """Take one event's data, which must have a ``type``."""
        view = HANDLERS.get(data["type"])
        if view is not None:
            view[1](self, data)

    def output_items(self) -> list[_Data]:
        """The items: the terminal response's, where it has any, else what was built (by index, if all have one)."""
        final = self.response.get("output") if self.terminal is not None else None
        if isinstance(final, list) and final:
            return [item for item in final if isinstance(item, dict)]
        if all(item.index is not None for item in self._items):
            return [item.build() for item in sorted(self._items, key=lambda item: item.index or 0)]
        return [item.build() for item in self._items]

    # Finding the item that an event is about.

    def _find(self, data: _Data, kind: str, shell: _Data | None = None, *, done: bool = False) -> Item:
        item_id = data.get("item_id") if shell is None else shell.get("id")
        index = data.get("output_index")
        index = index if type(index) is int else None
        item = self._by_id.get(item_id) if isinstance(item_id, str) else None
        if item is not None and item is self._by_index.get(index) and item.index == index:  # type: ignore[arg-type]
            return item  # the usual case: there is nothing to learn of it
        item = self._known(item_id, index, kind, shell, done)
        if item is None:
            item = Item(kind, shell if shell is not None else announced(kind, item_id))
            self._items.append(item)
        if isinstance(item_id, str):
            self._by_id[item_id] = item
            item.item_id = item.item_id or item_id
        if index is not None:
            item.index = index
            self._by_index[index] = item
        return item

    def _known(self, item_id: Any, index: int | None, kind: str, shell: _Data | None, done: bool) -> Item | None:
        item = self._by_id.get(item_id) if isinstance(item_id, str) else None
        if item is not None:
            return item
        item = self._by_index.get(index) if index is not None else None
        if item is not None and item.kind == kind and not (item.done is not None and item.is_another(item_id, shell)):
            return item  # some gateways change the id from event to event; others count every item as the first
        candidates = [
            item
            for item in self._items
            if item.done is None and item.kind == kind and (index is None or item.index is None)
            and not item.is_another(item_id, shell)
        ]  # fmt: skip
        if shell is None or not candidates:
            return candidates[-1] if candidates else None
        return next((item for item in candidates if item.agrees(shell)), candidates[-1]) if done else None

    # What each kind of event does.

    def _lifecycle(self, data: _Data) -> None:
        response = data.get("response")
        if isinstance(response, dict):
            self.response = response
            if isinstance(response.get("id"), str):
                self.response_id = response["id"]

    def _terminal(self, data: _Data) -> None:
        if self.terminal is None:
            self.terminal = data
            self._lifecycle(data)
            self.status = _status(data["type"], self.response.get("status"))

    def _item_added(self, data: _Data) -> None:
        shell = data.get("item")
        if isinstance(shell, dict):
            item = self._find(data, str(shell.get("type", "message")), shell)
            if item.done is None:
                item.shell = shell
            self._key = _NO_KEY

    def _item_done(self, data: _Data) -> None:
        shell = data.get("item")
        if isinstance(shell, dict):
            self._find(data, str(shell.get("type", "message")), shell, done=True).done = shell
            self._key = _NO_KEY

    def _text_delta(self, data: _Data) -> None:
        try:
            key = _place(data)
        except KeyError:  # an index or an id is missing
            key = (data.get("item_id"), data.get("output_index"), data.get("content_index"))
        if key != self._key:
            item = self._find(data, "message")
            self._append = item.piece("text", data.get("content_index")).append
            # With neither id nor index the next delta may belong to another item: look it up each time.
            self._key = key if key[0] is not None or key[1] is not None else _NO_KEY
        delta = data.get("delta")
        if type(delta) is str:
            self._append(delta)

    def _part_added(self, data: _Data) -> None:
        part = data.get("part")
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind in PARTS:
            owner, field, _, _ = PARTS[kind]
            self._find(data, owner).part_begins(field)
            self._key = _NO_KEY

    def _part_done(self, data: _Data) -> None:
        part = data.get("part")
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(part, dict) and isinstance(kind, str) and kind in PARTS:
            owner, field, position, key = PARTS[kind]
            if isinstance(part.get(key), str):
                self._find(data, owner).settle(field, data.get(position), part[key], part)
                self._key = _NO_KEY


def _status(kind: str, status: Any) -> str:
    """How a response ended: by its status, else by the name of the event."""
    if status in ("completed", "incomplete", "failed", "cancelled") and kind != "error":
        return str(status)
    named = kind.removeprefix("response.")
    return "completed" if named == "done" else named


def _delta(kind: str, field: str, position: str) -> Callable[[ResultAssembler, _Data], None]:
    def handle(assembler: ResultAssembler, data: _Data) -> None:
        delta = data.get("delta")
        if type(delta) is str:
            assembler._find(data, kind).piece(field, data.get(position)).append(delta)

    return handle


def _done(kind: str, field: str, position: str, key: str) -> Callable[[ResultAssembler, _Data], None]:
    def handle(assembler: ResultAssembler, data: _Data) -> None:
        value = data.get(key)
        if type(value) is str:
            assembler._find(data, kind).settle(field, data.get(position), value)
            assembler._key = _NO_KEY

    return handle


View = tuple[type[Event], Callable[[ResultAssembler, _Data], None]]


def _ignore(assembler: ResultAssembler, data: _Data) -> None:
    """An event that adds nothing to the result."""


def _handlers() -> dict[str, View]:
    found: dict[str, Callable[[ResultAssembler, _Data], None]] = {
        **dict.fromkeys(LIFECYCLE, ResultAssembler._lifecycle),
        **dict.fromkeys(TERMINAL, ResultAssembler._terminal),
        "response.output_item.added": ResultAssembler._item_added,
        "response.output_item.done": ResultAssembler._item_done,
        "response.content_part.added": ResultAssembler._part_added,
        "response.content_part.done": ResultAssembler._part_done,
        "response.output_text.delta": ResultAssembler._text_delta,
        "response.output_text.done": _done("message", "text", "content_index", "text"),
        "response.refusal.delta": _delta("message", "refusal", "content_index"),
        "response.refusal.done": _done("message", "refusal", "content_index", "refusal"),
        "response.reasoning_summary_part.added": ResultAssembler._part_added,
        "response.reasoning_summary_part.done": ResultAssembler._part_done,
        "response.reasoning_summary_text.delta": _delta("reasoning", "summary", "summary_index"),
        "response.reasoning_summary_text.done": _done("reasoning", "summary", "summary_index", "text"),
        "response.reasoning_text.delta": _delta("reasoning", "reasoning", "content_index"),
        "response.reasoning_text.done": _done("reasoning", "reasoning", "content_index", "text"),
        "response.function_call_arguments.delta": _delta("function_call", "arguments", ""),
        "response.function_call_arguments.done": _done("function_call", "arguments", "", "arguments"),
        "response.custom_tool_call_input.delta": _delta("custom_tool_call", "input", ""),
        "response.custom_tool_call_input.done": _done("custom_tool_call", "input", "", "input"),
    }
    names = found.keys() | EVENT_TYPES.keys()
    return {name: (EVENT_TYPES.get(name, Event), found.get(name, _ignore)) for name in names}


HANDLERS: dict[str, View] = _handlers()
"""From an event's type to its view and what the assembler does with it: the one look-up per event."""
PLAIN: View = (Event, _ignore)
"""The same for a type that is unknown here."""
