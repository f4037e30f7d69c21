"""Scenarios: what a test makes the server send instead of the model's answer.

Rules kept here:

* A scenario is called with the request's body and gives None (the model answers) or the things to send, in order.
* What it gives is sent as it is over the transport of the request, each thing by itself. It runs on the server's event
  loop: to wait, it gives a `Pause`; it never blocks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from pixir_sync.local.errors import ApiError

__all__ = ["Close", "HttpError", "Pause", "Scenario", "Step"]


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait until ``event`` is set; ``reached`` is set when the server gets here, everything before having been sent."""

    event: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class Close:
    """End the connection: by a close frame with ``code`` (WebSocket only), else by cutting the TCP connection."""

    code: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class HttpError:
    """Refuse the request: an HTTP status with a body (a JSON value, or bytes as they are).

    Over a WebSocket, an error frame with that status and the body's ``error``. Must be the first step.
    """

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)

    def frame(self, stream_id: str | None = None) -> dict[str, Any]:
        """The error frame that says the same."""
        frame = ApiError(self.status, "Refused.", headers=self.headers).frame(stream_id)
        if isinstance(self.body, dict) and "error" in self.body:
            frame["error"] = self.body["error"]
        return frame


Step = dict[str, Any] | bytes | Pause | Close | HttpError
"""An event, raw bytes (part of an HTTP body; a text frame over a WebSocket), or a control object."""

Scenario = Callable[[dict[str, Any]], Iterable[Step] | None]
