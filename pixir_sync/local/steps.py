"""The steps in which an answer leaves the server: events, and what else can happen on a wire.

Rules kept here:

* A step is a value: it says what to do and does nothing. The front carries it out, over either transport.
* What one transport cannot do is left out there, and the step says so.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from pixir_sync.local.answers import Answer
from pixir_sync.local.errors import ApiError

__all__ = ["Binary", "Close", "Delay", "HttpError", "NotJson", "Pause", "Slowly", "Step", "Wire"]


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait until ``event`` is set; ``reached`` is set when the server gets here, everything before having been sent."""

    event: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class Delay:
    """Wait so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Close:
    """End the connection: by a close frame with ``code`` (WebSocket only), else by cutting the TCP connection.

    With ``reset`` the cut is a reset (RST), without it an end (FIN), both without a word.
    """

    code: int | None = None
    reason: str = ""
    reset: bool = False


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


@dataclass(frozen=True, slots=True)
class NotJson:
    """Send ``data`` where an event's JSON should be: in a text frame, or in the ``data`` line of a server-sent event."""

    data: bytes = b"{not json"


@dataclass(frozen=True, slots=True)
class Binary:
    """Send a binary frame. Over HTTP there is none: nothing happens."""

    data: bytes = b"\0"


Wire = dict[str, Any] | bytes | NotJson
"""What goes over the wire: an event, raw bytes (part of an HTTP body; a text frame over a WebSocket), or no JSON."""


@dataclass(frozen=True, slots=True)
class Slowly:
    """Send ``sent`` in pieces of ``size`` bytes, ``interval`` seconds apart; over a WebSocket the head of its frame too."""

    sent: Wire
    interval: float
    size: int


Step = Wire | Answer | Pause | Delay | Close | HttpError | Binary | Slowly
"""One step of an answer. An `Answer` becomes its events."""
