"""What the server remembers: responses by id, the latest response of each lane, the store.

Rules kept here:

* A lane remembers its latest response only. A connection's lanes go with the connection.
* The store holds what was asked to be stored, with the ids of its items, until it is deleted.
* One thread at a time: the front runs the engine on its event loop.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pixir_sync.local.context import EMPTY, Context
from pixir_sync.local.errors import ApiError

__all__ = ["Connection", "Lane", "Record", "Store", "StoredItem", "previous_not_found"]

MOST_LANES = 32


@dataclass(slots=True)
class Record:
    """One response that can be continued or retrieved.

    ``before`` is its context with its input, ``after`` with its output; ``pending`` is a background response not yet
    asked for.
    """

    response: dict[str, Any]
    before: Context
    after: Context
    pending: bool = False

    @property
    def id(self) -> str:
        return str(self.response["id"])


@dataclass(slots=True)
class Lane:
    """A line of turns on one connection."""

    latest: Record | None = None


@dataclass(slots=True)
class Connection:
    """The state of one WebSocket: its lanes by name, None the default lane."""

    lanes: dict[str | None, Lane] = field(default_factory=dict)

    def lane(self, stream_id: str | None) -> Lane:
        """The lane of that name, opened if it is new. Raises `ApiError` over the limit of named lanes."""
        lane = self.lanes.get(stream_id)
        if lane is None:
            if stream_id is not None and len(self.lanes.keys() - {None}) >= MOST_LANES:
                message = f"This connection already has {MOST_LANES} named streams."
                raise ApiError(400, message, code="websocket_stream_limit_reached", param="stream_id")
            lane = self.lanes[stream_id] = Lane()
        return lane

    def find(self, response_id: str) -> Record | None:
        """The latest response of one of the lanes, if it has that id."""
        found = (lane.latest for lane in self.lanes.values())
        return next((record for record in found if record is not None and record.id == response_id), None)

    def close(self) -> None:
        """Forget everything."""
        self.lanes.clear()


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An item with an id, and the id of the reasoning item that must come with it (None if none must)."""

    item: dict[str, Any]
    reasoning_id: str | None = None


@dataclass(slots=True)
class Store:
    """Stored responses and their items by id; conversations by id."""

    records: dict[str, Record] = field(default_factory=dict)
    items: dict[str, StoredItem] = field(default_factory=dict)
    conversations: dict[str, Context] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        """Keep a response, its input items and its output items."""
        self.records[record.id] = record
        for item in record.before.items:
            self._keep(item, None)
        reasoning_id: str | None = None
        for item in record.response["output"]:
            if item.get("type") == "reasoning":
                reasoning_id = item.get("id")
                self._keep(item, None)
            else:
                self._keep(item, reasoning_id)

    def _keep(self, item: dict[str, Any], reasoning_id: str | None) -> None:
        item_id = item.get("id")
        if isinstance(item_id, str):
            self.items.setdefault(item_id, StoredItem(item, reasoning_id))

    def remove(self, response_id: str) -> bool:
        """Forget a response and its items; false if there is none."""
        record = self.records.pop(response_id, None)
        if record is None:
            return False
        for item in self._own_items(record):
            self.items.pop(str(item.get("id")), None)
        return True

    @staticmethod
    def _own_items(record: Record) -> Iterable[dict[str, Any]]:
        return [*record.before.items, *record.response["output"]]

    def conversation(self, conversation_id: str) -> Context:
        """A conversation's context; an id that was never used names an empty one."""
        return self.conversations.get(conversation_id, EMPTY)


def previous_not_found(response_id: str) -> ApiError:
    """The refusal of an id that cannot be continued from."""
    return ApiError(
        400,
        f"Previous response with id '{response_id}' not found.",
        code="previous_response_not_found",
        param="previous_response_id",
    )
