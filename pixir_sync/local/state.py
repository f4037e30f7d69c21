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
from pixir_sync.local.output import Event, Output
from pixir_sync.local.steering import Steer

__all__ = ["Connection", "Lane", "Record", "Store", "StoredItem", "Turn", "previous_not_found"]

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
    """A line of turns on one connection: its latest response, and the turn whose steers wait for the outputs of its calls."""

    name: str | None = None
    latest: Record | None = None
    waiting: Turn | None = None

    def steers_for(self, response_id: Any) -> list[dict[str, Any]]:
        """The items that wait to be part of the next request, if that one continues from this response."""
        turn = self.waiting
        return [item for steer in turn.steers for item in steer.items] if turn is not None and turn.id == response_id else []


@dataclass(slots=True)
class Turn:
    """A request that was accepted: its checked body, its lane (None over HTTP), its context with the input, its response, and
    the steers that came for it."""

    body: dict[str, Any]
    lane: Lane | None
    context: Context
    cached_tokens: int
    response: dict[str, Any]
    output: Output = field(init=False)
    steers: list[Steer] = field(default_factory=list)

    @property
    def id(self) -> str:
        return str(self.response["id"])

    def is_steered(self) -> bool:
        """Whether input waits to follow this response."""
        return bool(self.steers)

    def named(self, steer: Steer) -> dict[str, str]:
        """A steer of this turn, as its events name it."""
        return {"id": steer.id, "previous_response_id": self.id}

    def event(self, kind: str, **fields: Any) -> Event:
        """The next event of the response, on its lane."""
        return self.tagged(self.output.event(kind, **fields))

    def tagged(self, event: Event) -> Event:
        """The event with the name of its lane; on the default lane there is none."""
        name = None if self.lane is None else self.lane.name
        return event if name is None else {**event, "stream_id": name}


@dataclass(slots=True)
class Connection:
    """The state of one WebSocket: its lanes by name, None the default lane; the turns that run, by the ids of their responses."""

    lanes: dict[str | None, Lane] = field(default_factory=dict)
    running: dict[str, Turn] = field(default_factory=dict)

    def lane(self, stream_id: str | None) -> Lane:
        """The lane of that name, opened if it is new. Raises `ApiError` over the limit of named lanes."""
        lane = self.lanes.get(stream_id)
        if lane is None:
            if stream_id is not None and len(self.lanes.keys() - {None}) >= MOST_LANES:
                message = f"This connection already has {MOST_LANES} named streams."
                raise ApiError(400, message, code="websocket_stream_limit_reached", param="stream_id")
            lane = self.lanes[stream_id] = Lane(stream_id)
        return lane

    def find(self, response_id: str) -> Record | None:
        """The latest response of one of the lanes, if it has that id."""
        found = (lane.latest for lane in self.lanes.values())
        return next((record for record in found if record is not None and record.id == response_id), None)

    def close(self) -> None:
        """Forget everything, queued steers too."""
        self.lanes.clear()
        self.running.clear()


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An item with an id, the id of the reasoning item that must come with it (None if none must), and the id of the response
    that it was first stored with, and goes with (None if with none)."""

    item: dict[str, Any]
    reasoning_id: str | None = None
    owner: str | None = None


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
            self._keep(item, None, record.id)
        reasoning_id: str | None = None
        for item in record.response["output"]:
            if item.get("type") == "reasoning":
                reasoning_id = item.get("id")
                self._keep(item, None, record.id)
            else:
                self._keep(item, reasoning_id, record.id)

    def keep(self, items: Iterable[dict[str, Any]]) -> None:
        """Keep items by their ids, so that a later input may name them."""
        for item in items:
            self._keep(item, None, None)

    def _keep(self, item: dict[str, Any], reasoning_id: str | None, owner: str | None) -> None:
        item_id = item.get("id")
        if isinstance(item_id, str):
            self.items.setdefault(item_id, StoredItem(item, reasoning_id, owner))

    def remove(self, response_id: str) -> bool:
        """Forget a response and the items that were stored with it; false if there is none."""
        record = self.records.pop(response_id, None)
        if record is None:
            return False
        for item in (*record.before.items, *record.response["output"]):
            kept = self.items.get(str(item.get("id")))
            if kept is not None and kept.owner == response_id:  # what it only referred to is another one's
                del self.items[str(item["id"])]
        return True

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
