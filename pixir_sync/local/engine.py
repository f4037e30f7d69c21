"""The engine: a request body in, server events out. No socket, no thread, no clock, no randomness.

Rules kept here:

* A request is checked and its context found when `Engine.respond` is called; what is wrong raises `ApiError` there. The
  iterator it gives never fails.
* A response is remembered before its terminal event is given out, and only then: what is broken off leaves no trace.
* A response that was steered is followed, in the same iterator, by its successor.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pixir_sync.local.admission import Admission, Body
from pixir_sync.local.answers import Answer, Compaction
from pixir_sync.local.context import tokens_of
from pixir_sync.local.errors import ApiError, missing
from pixir_sync.local.model import answer as model_answer
from pixir_sync.local.output import Event
from pixir_sync.local.rules import check_stream_id, compacts_at, steerable, warms_up
from pixir_sync.local.state import Connection, Turn
from pixir_sync.local.steering import MOST_STEERS, Refused, Steer, check_steer, failure, items_of, required_input
from pixir_sync.local.writer import Writer

__all__ = ["Engine"]


class Engine(Admission):
    """One service: answers requests, steers responses, watches what a scenario says in its place."""

    def respond(self, body: Body, connection: Connection | None = None, answer: Answer | None = None) -> Iterator[Event]:
        """The events that answer ``body``, a POST body or a ``response.create`` without its type.

        ``connection`` is the state of the WebSocket it came over, None for HTTP; ``answer`` is said instead of the model's.
        Raises `ApiError` for what is refused.
        """
        lane = None if connection is None else connection.lane(check_stream_id(body.get("stream_id")))
        turn = self.begin(body, connection, lane)
        return self._run(turn, connection, answer)

    def create(self, body: Body) -> dict[str, Any]:
        """The response object for a POST without ``stream``."""
        response: dict[str, Any] = {}
        for event in self.respond(body):
            response = event.get("response", response)
        return self.settle(response)

    def settle(self, response: dict[str, Any]) -> dict[str, Any]:
        """What a POST without ``stream`` is told of its response: a background one is queued until it is asked for."""
        record = self.store.records.get(str(response.get("id")))
        if not response.get("background") or record is None:
            return response
        record.pending = True
        return self.queued(response)

    @staticmethod
    def queued(response: dict[str, Any], status: str = "queued") -> dict[str, Any]:
        """The response as it looks before it has run."""
        unknown = {"completed_at": None, "usage": None, "incomplete_details": None}
        return {**response, "status": status, "output": [], **unknown}

    def observe(self, body: Body, connection: Connection | None, event: Any) -> None:
        """Keep the state true to an event that was not the engine's own (a scenario's, a fault's): keep what completed,
        evict on failure.

        A request or an event that makes no sense here is left alone: scenarios send what they like.
        """
        lane = None if connection is None else connection.lane(check_stream_id(body.get("stream_id")))
        kind = event.get("type") if isinstance(event, dict) else None
        if kind in ("error", "response.failed"):
            self.evict(body, lane)
        elif kind in ("response.completed", "response.incomplete") and isinstance(event.get("response"), dict):
            self.adopt(body, connection, lane, event["response"])

    def steer(self, body: Body, connection: Connection) -> Event:
        """Take a ``response.steer`` event; the event that answers it. Raises `ApiError` for one that names no response, or has no
        JSON form."""
        tokens_of(body)  # its input may go back to the client
        response_id, given = body.get("previous_response_id"), body.get("input")
        if not isinstance(response_id, str):
            raise missing("previous_response_id")
        turn = connection.running.get(response_id)
        try:
            check_steer(body)
            if turn is None:
                raise self._not_running(response_id, connection)
            return self._accepted(turn, given)
        except Refused as refused:
            fields = failure(refused, response_id, given)
            if turn is not None:
                return turn.event("steer.failed", **fields)
            return {"type": "response.steer.failed", "sequence_number": 0, **fields}

    def _not_running(self, response_id: str, connection: Connection) -> Refused:
        if connection.find(response_id) is not None or response_id in self.store.records:
            return Refused("response_already_completed", f"Response '{response_id}' has completed.")
        return Refused("response_not_found", f"Response '{response_id}' is not available on this connection.")

    def _accepted(self, turn: Turn, given: Any) -> Event:
        if not steerable(turn.body) or not self.models.steers(turn.body["model"]):
            raise Refused("steering_not_supported", "This response cannot be steered.")
        if len(turn.steers) >= MOST_STEERS:
            raise Refused("too_many_pending_steers", f"{MOST_STEERS} steers wait for this response already.")
        steer = Steer(self.make_id("steer"), given, items_of(given))
        turn.steers.append(steer)
        return turn.event("steer.accepted", steer=turn.named(steer))

    def _run(self, first: Turn, connection: Connection | None, answer: Answer | None) -> Iterator[Event]:
        if first.lane is not None:
            yield from _resolved(first)
        turn: Turn | None = first
        while turn is not None:
            yield from self._written(turn, connection, answer)
            answer = None
            turn, events = self._succession(turn, connection)
            yield from events

    def _written(self, turn: Turn, connection: Connection | None, answer: Answer | None) -> Iterator[Event]:
        running = {} if connection is None else connection.running
        body = turn.body

        def finish(response: dict[str, Any]) -> None:
            running.pop(turn.id, None)
            self.commit(turn, response)

        writer = Writer(
            turn.response,
            turn.output,
            input_tokens=turn.context.tokens + tokens_of(body.get("instructions")) + tokens_of(body.get("tools")),
            cached_tokens=turn.cached_tokens,
            now=self.now,
            finish=finish,
        )
        said = Answer() if warms_up(body) else self._with_compaction(turn, answer or model_answer(body, turn.context))
        running[turn.id] = turn
        try:
            for event in writer.warm_up() if warms_up(body) else writer.events(said):
                yield turn.tagged(event)
        finally:
            running.pop(turn.id, None)

    @staticmethod
    def _with_compaction(turn: Turn, answer: Answer) -> Answer:
        threshold = compacts_at(turn.body)
        if threshold is None or turn.context.tokens <= threshold:
            return answer
        return Answer(Compaction(turn.context.users), *answer.parts, end=answer.end)

    def _succession(self, turn: Turn, connection: Connection | None) -> tuple[Turn | None, list[Event]]:
        """What follows a response that ended: its successor, and the events of steers that must wait or cannot be kept."""
        if not turn.steers or turn.lane is None:
            return None, []
        stubs = required_input(turn.response["output"])
        if stubs and turn.response["status"] == "completed":
            turn.lane.waiting = turn
            why = {"reason": "waiting_for_required_input", "required_input": stubs}
            return None, [turn.event("steer.pending", steer=turn.named(steer), **why) for steer in turn.steers]
        items = [item for steer in turn.steers for item in steer.items]
        try:
            return self.begin({**turn.body, "input": items, "previous_response_id": turn.id}, connection, turn.lane), []
        except ApiError as error:
            return None, _lost(turn, error.message)


def _resolved(turn: Turn) -> Iterator[Event]:
    """A turn begins on a lane where steers waited: it has taken them, or they cannot be kept any more."""
    assert turn.lane is not None
    waiting, turn.lane.waiting = turn.lane.waiting, None
    if waiting is not None and waiting.id != turn.body.get("previous_response_id"):
        yield from _lost(waiting, "The lane went on without the response that was steered.")


def _lost(turn: Turn, why: str) -> list[Event]:
    refused = Refused("successor_creation_failed", why)
    return [turn.event("steer.failed", **failure(refused, turn.id, steer.given, steer.id)) for steer in turn.steers]
