"""The output while it is being written: its items and indexes, the numbers of its events, and what may still be said.

Rules kept here:

* Sequence numbers begin at 0 for each response and have no gap, in the order in which the events leave.
* One output token is one delta. What may be said ends at ``max_output_tokens``, or where a steer came in; it ends between two
  deltas, and what was begun is then closed as incomplete. From the first call on a steer has to wait: the call's output, which
  only the client has, comes first.
* Every event is a tree of its own: what a consumer holds never changes afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pixir_sync.local.answers import Incomplete

__all__ = ["Event", "Output"]

Event = dict[str, Any]


class Output:
    """One response's output. ``limit`` is its ``max_output_tokens``; ``steered`` tells whether a steer has come in.

    ``cut`` says why nothing more may be said; ``calls``, whether the client's tools were called.
    """

    def __init__(
        self, model: str, *, make_id: Callable[[str], str], limit: int | None, steered: Callable[[], bool], encrypted: bool
    ) -> None:
        self.model, self.make_id, self.encrypted = model, make_id, encrypted
        self.items: list[dict[str, Any]] = []
        self.cut: Incomplete | None = None
        self.tokens = self.reasoning_tokens = 0
        self.calls = False
        self._limit, self._steered = limit, steered
        self._number = 0

    def event(self, kind: str, **fields: Any) -> Event:
        """The next event, ``response.KIND``."""
        event = {"type": f"response.{kind}", "sequence_number": self._number, **fields}
        self._number += 1
        return event

    def ends(self) -> bool:
        """Whether nothing more may be said; ``cut`` then says why."""
        if self.cut is None and self._limit is not None and self.tokens >= self._limit:
            self.cut = Incomplete()
        if self.cut is None and not self.calls and self._steered():
            self.cut = Incomplete("steered")
        return self.cut is not None

    def deltas(self, kind: str, pieces: Iterable[str], said: list[str], **place: Any) -> Iterator[Event]:
        """One delta event per piece while more may be said; ``said`` collects what was."""
        for piece in pieces:
            if self.ends():
                return
            self.tokens += 1
            said.append(piece)
            yield self.event(kind, **place, delta=piece)

    def status(self) -> str:
        """The status of the item that is closed now."""
        return "completed" if self.cut is None else "incomplete"

    def added(self, item: dict[str, Any]) -> tuple[Event, dict[str, Any]]:
        """The event that opens an item, and the place that the events inside it name."""
        index = len(self.items)
        place = {"item_id": item["id"], "output_index": index}
        return self.event("output_item.added", output_index=index, item=item), place

    def done(self, item: dict[str, Any]) -> Event:
        """The event that closes the item, which is now part of the output."""
        index = len(self.items)
        self.items.append(item)
        return self.event("output_item.done", output_index=index, item=item)
