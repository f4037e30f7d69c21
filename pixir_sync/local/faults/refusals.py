"""The one fault that refuses, in every shape that a refusal has on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pixir_sync.local.errors import ApiError
from pixir_sync.local.faults.base import Exchange, Fault, Steps, Strike, first, tagged
from pixir_sync.local.steps import HttpError

__all__ = ["Refuse", "Shape"]

Shape = Literal["nested", "flat", "failed", "error_then_failed", "string", "bare", "detail", "text"]
_AS_EVENTS = ("flat", "failed", "error_then_failed")


@dataclass(frozen=True, slots=True)
class Refuse(Fault):
    """A request is answered by an error, after so many events of its answer (0: instead of one).

    ``status`` None leaves it out, ``code`` may be None or a number; ``type`` follows from the status; ``headers`` such as
    Retry-After go with it. ``shape`` None is the service's own: ``nested``, and ``flat`` behind the first event over HTTP.
    Shapes:

    * ``nested``: ``{"type": "error", "status", "error": {type, code, message, param}}``; over HTTP a status, and the body
      ``{"error": ...}``.
    * ``flat``: the event ``{"type": "error", "code", "message", "param", "sequence_number"}``.
    * ``failed``: ``response.failed``, whose response has the error; ``error_then_failed``: the flat event, then that.
    * ``string``: the error is a bare string. ``bare``: it has only a message. ``detail``: ``{"detail": message}``.
    * ``text``: over HTTP a body that is no JSON.

    Over HTTP, before the first event, it is a response with that status, but for the second and third shape, which are
    events; behind the first event it is an event in any case. What no event can be is nested there. Without a stream it is a
    status, but for ``failed``, which is a response.
    """

    status: int | None = 500
    code: str | int | None = "server_error"
    message: str = "The server had an error while processing your request."
    type: str | None = None
    shape: Shape | None = None
    after: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)

    def on_answer(self, steps: Steps, strike: Strike, exchange: Exchange) -> Steps:
        before: list[dict[str, Any]] = []
        if not (yield from first(_remembered(steps, before), self.after)) or not strike():
            yield from steps
        elif self._is_a_status(exchange):
            yield HttpError(self.status or 500, self._body(), dict(self.headers))
        else:
            shape = self.shape or ("nested" if exchange.transport == "websocket" else "flat")
            for event in self._events(shape, before, steps):
                yield tagged(event, exchange)

    def _is_a_status(self, exchange: Exchange) -> bool:
        """Whether the request is refused by a status: over HTTP, as long as nothing was sent that says otherwise."""
        if exchange.transport == "http":
            return self.shape != "failed"
        return exchange.transport == "http_sse" and self.after == 0 and self.shape not in _AS_EVENTS

    def _error(self) -> dict[str, Any]:
        kind = self.type or ApiError(self.status or 500, "").type
        return {"type": kind, "code": self.code, "message": self.message, "param": None}

    def _body(self) -> Any:
        """The body of an HTTP response."""
        match self.shape:
            case "string":
                return {"error": self.message}
            case "bare":
                return {"error": {"message": self.message}}
            case "detail":
                return {"detail": self.message}
            case "text":
                return self.message.encode()
            case _:
                return {"error": self._error()}

    def _events(self, shape: Shape, before: list[dict[str, Any]], steps: Steps) -> list[dict[str, Any]]:
        number = len(before)
        flat = {**self._error(), "type": "error", "sequence_number": number}
        match shape:
            case "flat":
                return [flat]
            case "failed":
                return [self._failed(before, steps, number)]
            case "error_then_failed":
                return [flat, self._failed(before, steps, number + 1)]
            case _:
                return [self._frame()]

    def _frame(self) -> dict[str, Any]:
        """The event that stands for an HTTP response."""
        body = self._body() if self.shape != "text" else {"error": self._error()}
        event = {"type": "error", **body}
        if self.status is not None:
            event["status"] = self.status
        if self.headers:
            event["headers"] = dict(self.headers)
        return event

    def _failed(self, before: list[dict[str, Any]], steps: Steps, number: int) -> dict[str, Any]:
        """The response as it was last seen, or as it would have begun, failed."""
        seen = before or [step for step in first(steps, 1) if isinstance(step, dict)]
        told: list[dict[str, Any]] = [event["response"] for event in seen if "response" in event] or [{"output": []}]
        response = {**told[-1], "status": "failed", "error": {"code": self.code, "message": self.message}}
        return {"type": "response.failed", "sequence_number": number, "response": response}


def _remembered(steps: Steps, before: list[dict[str, Any]]) -> Steps:
    for step in steps:
        if isinstance(step, dict):
            before.append(step)
        yield step
