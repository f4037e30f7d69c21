"""What the service takes and what it keeps: a body becomes a turn with its context, a response becomes a record. Pure.

Rules kept here:

* Context = the previous response's input + its output + the new input. Instructions and tools are not inherited.
* A continuation reads its lane's latest response, another lane's (a fork), or the store; nothing else can be
  continued from.
* A continuation that is refused, or that fails, evicts the response it referred to if that was its own lane's latest; the store
  and the other lanes keep theirs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from pixir_sync.local.context import EMPTY, Context, ids_in, tokens_of
from pixir_sync.local.errors import ApiError, invalid
from pixir_sync.local.items import accept
from pixir_sync.local.output import Output
from pixir_sync.local.response import response_object
from pixir_sync.local.rules import Models, check_body
from pixir_sync.local.state import Connection, Lane, Record, Store, Turn, previous_not_found

__all__ = ["Admission"]

Body = dict[str, Any]

_PREFIXES = {"message": "msg", "function_call": "fc", "reasoning": "rs", "compaction": "cmp", "custom_tool_call": "ctc"}


class Admission:
    """One service's models, its store, its ids.

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
        """A new id of the service's own, ``prefix_`` and 32 hexadecimal digits."""
        self._ids += 1
        return f"{prefix}_{hashlib.sha256(f'{self._salt}:{self._ids}'.encode()).hexdigest()[:32]}"

    def previous(self, body: Body, connection: Connection | None = None) -> Context:
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

    def input_context(self, body: Body, before: Context, *, store: bool) -> Context:
        """The context after the body's input, checked. Raises `ApiError`."""
        items = accept(
            body.get("input"), model=body["model"], store=store, stored=self.store.items, before=ids_in(before)
        )
        if store:
            items = [item if "id" in item else {**item, "id": self.item_id(item)} for item in items]
        return before.with_input(items)

    def item_id(self, item: dict[str, Any]) -> str:
        """A new id for an item of this type."""
        return self.make_id(_PREFIXES.get(item["type"], "item"))

    def begin(self, body: Body, connection: Connection | None, lane: Lane | None) -> Turn:
        """Take a request. Raises `ApiError`; then it has evicted what it referred to."""
        try:
            return self._begin(body, connection, lane)
        except ApiError:
            self.evict(body, lane)
            raise

    def _begin(self, body: Body, connection: Connection | None, lane: Lane | None) -> Turn:
        clean = check_body(body, websocket=connection is not None)
        self.models.check(clean)
        before = self.previous(clean, connection)
        queued = lane.steers_for(clean.get("previous_response_id")) if lane is not None else []
        clean_input = {**clean, "input": _joined(queued, clean.get("input"))} if queued else clean
        context = self.input_context(clean_input, before, store=clean.get("store", True))
        tokens_of([value for key, value in clean.items() if key != "input"])  # the rest of the echo has a JSON form
        response = response_object(clean, self.make_id("resp"), int(self.now()))
        turn = Turn(clean, lane, context, before.tokens, response)
        turn.output = Output(
            clean["model"],
            make_id=self.make_id,
            limit=response["max_output_tokens"],
            steered=turn.is_steered,
            encrypted="reasoning.encrypted_content" in (clean.get("include") or ()),
        )
        return turn

    def commit(self, turn: Turn, response: dict[str, Any]) -> None:
        """Keep what a turn came to."""
        if response["status"] == "failed":
            self.evict(turn.body, turn.lane)
            return
        after = turn.context.with_output(response["output"])
        record = Record(response, turn.context, after)
        if turn.lane is not None:
            turn.lane.latest = record
        if turn.body.get("store", True):
            self.store.add(record)
        if (conversation := turn.body.get("conversation")) is not None:
            self.store.conversations[_conversation_id(conversation)] = after

    def adopt(self, body: Body, connection: Connection | None, lane: Lane | None, response: dict[str, Any]) -> None:
        """Keep a response that was not written here (a scenario's), as far as it makes sense."""
        try:
            turn = self._begin(body, connection, lane)
            output = [item for item in response.get("output") or () if isinstance(item, dict)]
            self.commit(turn, {**turn.response, "status": "completed", **response, "output": output})
        except (ApiError, KeyError, TypeError):
            self.evict(body, lane)

    def evict(self, body: Body, lane: Lane | None) -> None:
        """Forget the lane's latest response if this request referred to it."""
        if lane is not None and lane.latest is not None and lane.latest.id == body.get("previous_response_id"):
            lane.latest = None


def _joined(queued: list[dict[str, Any]], given: Any) -> list[Any]:
    """Queued input first, then the request's own."""
    if isinstance(given, str):
        given = [{"type": "message", "role": "user", "content": given}]
    return [*queued, *(given or ())]


def _conversation_id(conversation: Any) -> str:
    found = conversation.get("id") if isinstance(conversation, dict) else conversation
    if not isinstance(found, str):
        raise invalid("Invalid type for 'conversation': expected an id.", "conversation", "invalid_type")
    return found
