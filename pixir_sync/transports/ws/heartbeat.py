"""`Heartbeat`: when to ping, and when a peer that does not answer is dead. Pure: the clock is passed in.

Rules kept here:

* Alive is what answers pings: events alone are no answer. A ping goes out every interval, whatever else happens; while one is
  unanswered there is no second.
* The wait for an answer begins when the ping has left, and is put off while the answer cannot come through: in the middle of
  a frame that still grows, or while this side does not read because its consumer is too far behind.
* One thread sends the ping and puts its wait off, another may read the answer meanwhile. So who begins a wait looks once more.
"""

from __future__ import annotations

__all__ = ["Heartbeat"]


class Heartbeat:
    """The pings of one connection. Times in seconds of a monotonic clock.

    ``quiet_until``: nothing is to be done for them before that, unless something comes.
    """

    __slots__ = ("_asked", "_interval", "_next", "_number", "_payload", "_sent_at", "_timeout", "quiet_until")

    def __init__(self, interval: float, timeout: float, now: float) -> None:
        self._interval, self._timeout = interval, timeout
        self._next = now + interval
        self._number = 0
        self._payload = b""
        self._asked = False
        self._sent_at: float | None = None
        self.quiet_until = self._next

    def due(self, now: float) -> bytes | None:
        """The payload of a ping that should go out now, or None."""
        if self._asked or now < self._next:
            return None
        self._number += 1
        self._asked, self._payload = True, b"%d" % self._number
        self._next = max(self._next + self._interval, now)
        return self._payload

    def left(self, now: float) -> None:
        """The ping has left."""
        if self._asked:
            self._wait_from(now)

    def answered(self, payload: bytes) -> None:
        """A pong came; one that answers an earlier ping, or none, says nothing."""
        if payload == self._payload:
            self._asked, self._sent_at, self.quiet_until = False, None, self._next

    def put_off(self, now: float) -> None:
        """The answer cannot come through at present."""
        if self._sent_at is not None:
            self._wait_from(now)

    def _wait_from(self, now: float) -> None:
        self._sent_at, self.quiet_until = now, now + self._timeout
        if not self._asked:  # the reader, on another thread, had the answer in this moment
            self._sent_at, self.quiet_until = None, self._next

    def expired(self, now: float) -> bool:
        """Whether the peer owes an answer for too long."""
        return self._sent_at is not None and now - self._sent_at >= self._timeout
