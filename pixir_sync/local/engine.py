"""The engine: a request body in, server events out. No socket, no thread, no clock, no randomness.

Rules kept here:

* A request is checked and its context found when `Engine.respond` is called; what is wrong raises `ApiError` there. The
  iterator it gives never fails.
* Context = the previous response's input + its output + the new input. Instructions and tools are not inherited.
* A continuation reads its lane's latest response, another lane's (a fork), or the store; nothing else can be
  continued from.
* A response is remembered before its terminal event is given out, and only then: what is broken off leaves no trace.
* A continuation that is refused evicts the response it referred to if that was its own lane's latest; the store and
  the other lanes keep theirs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pixir_sync.local.context import EMPTY, Context, ids_in, tokens_of
from pixir_sync.local.errors import ApiError, invalid
from pixir_sync.local.events import Writer, response_object
from pixir_sync.local.items import accept
from pixir_sync.local.model import answer
from pixir_sync.local.rules import Models, check_body, check_stream_id
from pixir_sync.local.state import Connection, Lane, Record, Store, previous_not_found

__all__ = ["Engine"]

Event = dict[str, Any]
_PREFIXES = {"message": "msg", "function_call": "fc", "reasoning": "rs", "compaction": "cmp", "custom_tool_call": "ctc"}


@dataclass(slots=True)
class _Turn:
    """A request that was accepted: its checked body, its place, its context with the input."""

    body: dict[str, Any]
    lane: Lane | None
    context: Context
    cached_tokens: int
    response: dict[str, Any]


class Engine:
    """One service: its models, its store, its connections' turns.

    ``salt`` makes the ids of one server unlike those of another; ``now`` gives seconds since the epoch.
    """

    def __init__(
        self, *, models: Models | None = None, salt: str = "", now: Callable[[], float] = lambda: 0.0
    ) -> None:
        self.models = models or Models()
        self.store = Store()
        self.now = now
        self._salt = salt
        self._ids = 0

    def make_id(self, prefix: str) -> str:
        """A new id of the engine's own, ``prefix_`` and 32 hexadecimal digits."""
        self._ids += 1
        return f"{prefix}_{hashlib.sha256(f'{self._salt}:{self._ids}'.encode()).hexdigest()[:32]}"

    def respond(self, body: dict[str, Any], connection: Connection | None = None) -> Iterator[Event]:
        """The events that answer ``body``, a POST body or a ``response.create`` without its type.

        ``connection`` is the state of the WebSocket it came over, None for HTTP. Raises `ApiError` for what is refused.
        """
        stream_id = None if connection is None else check_stream_id(body.get("stream_id"))
        lane = None if connection is None else connection.lane(stream_id)
        try:
            turn = self._begin(body, connection, lane)
        except ApiError:
            self._evict(body, lane)
            raise
        return self._run(turn, stream_id)

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        """The response object for a POST without ``stream``; a background one is queued until it is asked for."""
        response: dict[str, Any] = {}
        for event in self.respond(body):
            response = event.get("response", response)
        if not response["background"]:
            return response
        self.store.records[response["id"]].pending = True
        return self.queued(response)

    @staticmethod
    def queued(response: dict[str, Any], status: str = "queued") -> dict[str, Any]:
        """The response as it looks before it has run."""
        return {**response, "status": status, "output": [], "usage": None, "incomplete_details": None}

    def observe(self, body: dict[str, Any], connection: Connection | None, event: Any) -> None:
        """Keep the state true to an event that was not the engine's own (a scenario's): commit what completed, evict
        on failure.

        A request or an event that makes no sense here is left alone: scenarios send what they like.
        """
        lane = None if connection is None else connection.lane(check_stream_id(body.get("stream_id")))
        kind = event.get("type") if isinstance(event, dict) else None
        if kind in ("error", "response.failed"):
            self._evict(body, lane)
        elif kind in ("response.completed", "response.incomplete") and isinstance(event.get("response"), dict):
            self._adopt(body, connection, lane, event["response"])

    def _adopt(
        self, body: dict[str, Any], connection: Connection | None, lane: Lane | None, response: dict[str, Any]
    ) -> None:
        try:
            turn = self._begin(body, connection, lane)
            output = [item for item in response.get("output") or () if isinstance(item, dict)]
            turn.response = {**turn.response, **response, "output": output}
            self._commit(turn, turn.response)
        except (ApiError, KeyError, TypeError):
            self._evict(body, lane)

    def input_context(self, body: dict[str, Any], before: Context, *, store: bool) -> Context:
        """The context after the body's input, checked. Raises `ApiError`."""
        known = frozenset(ids_in(before)) if store or self.store.items else frozenset()
        items = accept(
            body.get("input"), model=body["model"], store=store, stored=self.store.items, before=known
        )
        if store:
            items = [item if "id" in item else {**item, "id": self._item_id(item)} for item in items]
        return before.with_input(items)

    def previous(self, body: dict[str, Any], connection: Connection | None = None) -> Context:
        """The context that the body continues from. Raises `ApiError` 400 for an id that is not known here."""
        conversation = body.get("conversation")
        if conversation is not None:
            return self.store.conversation(_conversation_id(conversation))
        response_id = body.get("previous_response_id")
        if response_id is None:
            return EMPTY
        record = connection.find(response_id) if connection is not None else None
        record = record or self.store.records.get(response_id)
        if record is None:
            raise previous_not_found(response_id)
        return record.after

    def _item_id(self, item: dict[str, Any]) -> str:
        return self.make_id(_PREFIXES.get(item["type"], "item"))

    def _begin(self, body: dict[str, Any], connection: Connection | None, lane: Lane | None) -> _Turn:
        clean = check_body(body, websocket=connection is not None)
        self.models.check(clean)
        before = self.previous(clean, connection)
        context = self.input_context(clean, before, store=clean.get("store", True))
        tokens_of([value for key, value in clean.items() if key != "input"])  # the rest of the echo has a JSON form
        response = response_object(clean, self.make_id("resp"), int(self.now()))
        return _Turn(clean, lane, context, before.tokens, response)

    def _evict(self, body: dict[str, Any], lane: Lane | None) -> None:
        if lane is not None and lane.latest is not None and lane.latest.id == body.get("previous_response_id"):
            lane.latest = None

    def _run(self, turn: _Turn, stream_id: str | None) -> Iterator[Event]:
        body = turn.body
        writer = Writer(
            turn.response,
            input_tokens=turn.context.tokens + tokens_of(body.get("instructions")) + tokens_of(body.get("tools")),
            cached_tokens=turn.cached_tokens,
            make_id=self.make_id,
            finish=lambda response: self._commit(turn, response),
        )
        events = writer.warm_up() if body.get("generate") is False else writer.events(answer(body, turn.context))
        for event in events:
            yield event if stream_id is None else {**event, "stream_id": stream_id}

    def _commit(self, turn: _Turn, response: dict[str, Any]) -> None:
        after = turn.context.with_output(response["output"])
        record = Record(response, turn.context, after)
        if turn.lane is not None:
            turn.lane.latest = record
        if turn.body.get("store", True):
            self.store.add(record)
        if (conversation := turn.body.get("conversation")) is not None:
            self.store.conversations[_conversation_id(conversation)] = after


def _conversation_id(conversation: Any) -> str:
    found = conversation.get("id") if isinstance(conversation, dict) else conversation
    if not isinstance(found, str):
        raise invalid("Invalid type for 'conversation': expected an id.", "conversation", "invalid_type")
    return found
