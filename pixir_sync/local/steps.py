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

__all__ = [
    "Binary", "Close", "Delay", "Finish", "Head", "HttpError", "NotJson", "Pause", "Slowly", "Step", "Together", "Wire",
    "events_in",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait until ``event`` is set; ``reached`` is set when the server gets here, everything before having been sent.

    A client that ends the connection meanwhile ends the wait and the answer: ``gone`` is then set (and so it is where the server
    itself is closed). An ``event`` that nobody sets is thus the wait for the client's end.
    """

    event: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)
    gone: threading.Event = field(default_factory=threading.Event)


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
class Head:
    """Send the head of the event stream now, ahead of the first event. Over a WebSocket, or without ``stream``: nothing."""


@dataclass(frozen=True, slots=True)
class Finish:
    """End the answer here, whether or not a terminal event was sent: over HTTP with the proper end of the body.

    An answer over a WebSocket has no end but its terminal event: there the connection ends, by a close frame with 1000.
    """


@dataclass(frozen=True, slots=True)
class HttpError:
    """Refuse the request: an HTTP status with a body (a JSON value, or bytes as they are; None is an error object).

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


@dataclass(frozen=True, init=False, slots=True)
class Together:
    """Send all this in one write, so that it arrives at once: the parts of an HTTP body, or the frames of a WebSocket.

    For a fault that counts events it is one step: the fault strikes before it or behind it.
    """

    sent: tuple[Wire, ...]

    def __init__(self, *sent: Wire) -> None:
        object.__setattr__(self, "sent", sent)


Step = Wire | Answer | Pause | Delay | Head | Finish | Close | HttpError | Binary | Slowly | Together
"""One step of an answer. An `Answer` becomes its events."""


def events_in(step: Step) -> list[dict[str, Any]]:
    """The events that a step sends, however it sends them; an `Answer` has none yet."""
    match step:
        case Together():
            return [sent for sent in step.sent if isinstance(sent, dict)]
        case Slowly():
            return events_in(step.sent)
        case dict():
            return [step]
        case _:
            return []
