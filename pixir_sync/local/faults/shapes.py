"""Faults of shape: events that are missing, changed, or of a kind that is in no list. All of them were seen in the wild."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pixir_sync.local.faults.base import Exchange, Fault, Steps, Strike, first
from pixir_sync.local.steps import Step

__all__ = ["DoneMarker", "Ending", "Extra", "WithoutIndexes", "WithoutSetUp"]

_TERMINAL = ("response.completed", "response.incomplete", "response.failed")
_SET_UP = ("response.output_item.added", "response.content_part.added", "response.reasoning_summary_part.added")
_INDEXES = ("output_index", "content_index", "summary_index")


@dataclass(frozen=True, slots=True)
class Ending(Fault):
    """The terminal event looks otherwise.

    ``output``: the response's output is left out, null or an empty list, though there was one. ``status``: what its status says,
    whatever the event's name says. ``type``: the event's name (``response.done``, ``response.cancelled``).
    """

    output: Literal["omitted", "null", "empty"] | None = None
    status: str | None = None
    type: str | None = None

    def on_answer(self, steps: Steps, strike: Strike, exchange: Exchange) -> Steps:
        for step in steps:
            ends = isinstance(step, dict) and step.get("type") in _TERMINAL
            yield self._changed(step) if isinstance(step, dict) and ends and strike() else step

    def _changed(self, event: dict[str, Any]) -> dict[str, Any]:
        response = dict(event["response"])
        if self.status is not None:
            response["status"] = self.status
        if self.output == "omitted":
            del response["output"]
        elif self.output is not None:
            response["output"] = None if self.output == "null" else []
        return {**event, "type": self.type or event["type"], "response": response}


@dataclass(frozen=True, slots=True)
class WithoutSetUp(Fault):
    """Items and parts are not announced: their deltas come, and what is done."""

    def on_answer(self, steps: Steps, strike: Strike, exchange: Exchange) -> Steps:
        active = strike()
        return (step for step in steps if not (active and isinstance(step, dict) and step.get("type") in _SET_UP))


@dataclass(frozen=True, slots=True)
class WithoutIndexes(Fault):
    """Events name no index; the ids of the items stay."""

    def on_answer(self, steps: Steps, strike: Strike, exchange: Exchange) -> Steps:
        active = strike()
        for step in steps:
            if active and isinstance(step, dict):
                yield {name: value for name, value in step.items() if name not in _INDEXES}
            else:
                yield step


@dataclass(frozen=True, slots=True, init=False)
class Extra(Fault):
    """After so many events come some that no model sends: unknown ones, ``keepalive``, ``codex.rate_limits``, raw bytes.

    They are sent as they are, on a named lane too.
    """

    events: tuple[Step, ...]
    after: int

    def __init__(self, *events: Step, after: int = 0) -> None:
        object.__setattr__(self, "events", events)
        object.__setattr__(self, "after", after)

    def on_answer(self, steps: Steps, strike: Strike, exchange: Exchange) -> Steps:
        if (yield from first(steps, self.after)) and strike():
            yield from self.events
        yield from steps


@dataclass(frozen=True, slots=True)
class DoneMarker(Fault):
    """A stream of server-sent events ends with ``data: [DONE]``, as many gateways' do. HTTP only."""

    def on_answer(self, steps: Steps, strike: Strike, exchange: Exchange) -> Steps:
        yield from steps
        if exchange.transport == "http_sse" and strike():
            yield b"data: [DONE]\n\n"
