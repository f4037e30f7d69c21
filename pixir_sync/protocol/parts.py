"""`Item`: one output item under way, put together from what the server announced, the pieces, and the done forms.

Rules kept here (the protocol's own):

* A ``done`` value replaces the deltas before it; a done item replaces what was built of it.
* A part without an index is the one that is being written, until its done value or the next announcement.
* Nothing here raises for odd input.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any

__all__ = ["PARTS", "Item", "announced"]

_Data = dict[str, Any]
_Key = tuple[str, int]  # a field of an item, and the position of its part

# Where the pieces of each field of an item go: the key, and the part that wraps them (None: a plain string).
_PLACES: dict[str, tuple[str, Callable[[str], _Data] | None]] = {
    "text": ("content", lambda text: {"type": "output_text", "text": text, "annotations": []}),
    "refusal": ("content", lambda text: {"type": "refusal", "refusal": text}),
    "summary": ("summary", lambda text: {"type": "summary_text", "text": text}),
    "reasoning": ("content", lambda text: {"type": "reasoning_text", "text": text}),
    "arguments": ("arguments", None),
    "input": ("input", None),
}

PARTS: dict[Any, tuple[str, str, str, str]] = {
    "output_text": ("message", "text", "content_index", "text"),
    "refusal": ("message", "refusal", "content_index", "refusal"),
    "summary_text": ("reasoning", "summary", "summary_index", "text"),
    "reasoning_text": ("reasoning", "reasoning", "content_index", "text"),
}
"""What each type of part is: its item's kind, its field, the key of its position in an event, the key of its value."""

# The item that stands for one whose announcement never came.
_UNANNOUNCED: dict[str, Callable[[], _Data]] = {
    "message": lambda: {"type": "message", "role": "assistant", "status": "in_progress", "content": []},
    "reasoning": lambda: {"type": "reasoning", "summary": []},
    "function_call": lambda: {"type": "function_call", "call_id": "", "name": "", "arguments": ""},
    "custom_tool_call": lambda: {"type": "custom_tool_call", "call_id": "", "name": "", "input": ""},
}


def announced(kind: str, item_id: Any) -> _Data:
    """What the server would have announced an item of this kind with."""
    shell = _UNANNOUNCED[kind]()
    return {**shell, "id": item_id} if isinstance(item_id, str) else shell


class Item:
    """One output item under way.

    Attributes:
        kind: its type. shell: the server's announcement, or what stands for it. done: its done form, once it came.
        item_id, index: as events named them.
    """

    __slots__ = ("_pieces", "_settled", "done", "index", "item_id", "kind", "shell")

    def __init__(self, kind: str, shell: _Data) -> None:
        self.kind = kind
        self.shell = shell
        self.item_id: str | None = None
        self.index: int | None = None
        self.done: _Data | None = None
        self._pieces: dict[_Key, list[str]] = {}
        # The parts that are complete, with the server's own form of them where it came.
        self._settled: dict[_Key, _Data | None] = {}

    def piece(self, field: str, position: Any) -> list[str]:
        """The pieces of the part at this position; without one, of the part that is being written."""
        return self._pieces.setdefault((field, position if type(position) is int else self._writing(field, None)), [])

    def settle(self, field: str, position: Any, value: str, part: _Data | None = None) -> None:
        """A done value came for a part: it replaces the pieces."""
        key = field, position if type(position) is int else self._writing(field, value)
        self._pieces.setdefault(key, [])[:] = [value]
        self._settled[key] = part

    def part_begins(self, field: str) -> None:
        """The server announced a part: those before it are complete, done value or not."""
        for key in self._pieces:
            if _PLACES[key[0]][0] == _PLACES[field][0]:
                self._settled.setdefault(key, None)

    def _writing(self, field: str, value: str | None) -> int:
        target, make = _PLACES[field]
        if make is None:
            return 0
        at, last = max(((at, name) for name, at in self._pieces if _PLACES[name][0] == target), default=(-1, ""))
        # Two events may bring the done value of one part: with the same value it is the same part.
        same = last == field and ((field, at) not in self._settled or self._pieces[field, at] == [value])
        return at if same else at + 1

    def build(self) -> _Data:
        """The item: the done form; where that has no content of its own, completed with the pieces."""
        item = self.done if self.done is not None else self.shell
        if not self._pieces:
            return item
        filled = dict(item)
        for target, plain in {(_PLACES[name][0], _PLACES[name][1] is None): None for name, _ in self._pieces}:
            if self.done is None or not filled.get(target):
                filled[target] = self._string(item, target) if plain else self._parts(item, target)
        return filled

    def _string(self, item: _Data, target: str) -> Any:
        return "".join(self._pieces[target, 0]) or item.get(target, "")

    def _parts(self, item: _Data, target: str) -> list[Any]:
        made: list[tuple[int, Any]] = []
        for (name, at), texts in self._pieces.items():
            place, make = _PLACES[name]
            if place == target and make is not None and texts:
                made.append((at, self._settled.get((name, at)) or make("".join(texts))))
        own, written = item.get(target), {at for at, _ in made}
        kept = [(at, part) for at, part in enumerate(own if isinstance(own, list) else ()) if at not in written]
        return [part for _, part in sorted(kept + made, key=itemgetter(0))]

    def agrees(self, done: _Data) -> bool:
        """Whether what was built so far may have become this done form: it says the same, or nothing yet."""
        return not self._pieces or _words(self.build()) == _words(done)

    def is_another(self, item_id: Any, shell: _Data | None) -> bool:
        """Whether the ids or the call ids say that an event is about another item than this one."""
        own, call_id = self.shell.get("call_id"), shell.get("call_id") if shell is not None else None
        if own and call_id and own != call_id:
            return True
        return isinstance(item_id, str) and self.item_id is not None and self.item_id != item_id


def _words(item: _Data) -> str:
    """All that an item says, in one string."""
    values = [item.get("arguments"), item.get("input")]
    for target in ("summary", "content"):
        parts = item.get(target)
        for part in parts if isinstance(parts, list) else ():
            if isinstance(part, dict):
                values += [part.get("text"), part.get("refusal")]
    return "".join(value for value in values if isinstance(value, str))
