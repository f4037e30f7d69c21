"""`Guard`: the limits of one HTTP attempt, and the means to end its connection from any thread.

Rules kept here:

* A guard belongs to one call and one thread; a connection has the guard of the call that it serves, or none.
* What ran out is kept in `Guard.error`, because urllib3 wraps what a socket raises.
* A cancel shuts down a duplicate of the socket, so that neither TLS (which detaches the original) nor a close at the same moment
  (which would free the number for another file) can get in its way. The duplicate is closed when the last thread lets go of it.
"""

from __future__ import annotations

import contextlib
import math
import socket
import time

from pixir_sync.cancellation import CancelToken, cancelled
from pixir_sync.config import Timeouts
from pixir_sync.deadline import Deadline
from pixir_sync.protocol.errors import (
    ConnectTimeout,
    DeadlineExceeded,
    FirstEventTimeout,
    IdleTimeout,
    Phase,
    PixirError,
    TotalTimeout,
    WriteTimeout,
)

__all__ = ["Guard", "Waker"]


class Waker:
    """A duplicate of a connection's socket, for shutting it down from any thread."""

    __slots__ = ("__weakref__", "_sock")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock.dup()

    def wake(self) -> None:
        with contextlib.suppress(OSError):  # not connected any more: nobody waits; or the parent's, which a child has closed
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def __del__(self) -> None:
        self._sock.close()


class Guard:
    """The limits of one attempt, and what is known of its connection.

    Attributes:
        phase: how far the attempt has come. reused: whether the connection had served before. sent: whether any byte of the
            request went out. error: the limit that ran out, or what stopped the connecting.
        connect_ms: how long it took to connect, None for a connection that stood.
    """

    def __init__(self, timeouts: Timeouts, total: Deadline, cancel: CancelToken) -> None:
        self.timeouts = timeouts
        self.total = total
        self.cancel = cancel
        self.phase: Phase = "connect"
        self.reused = False
        self.sent = False
        self.bytes_sent = 0
        self.error: PixirError | None = None
        self.connect_ms: float | None = None
        self.connecting = Deadline(timeouts.connect)
        self._idle = math.inf if timeouts.idle is None else timeouts.idle
        self._reading = math.inf  # when the wait of a read is over
        self._waker: Waker | None = None
        self._number: int | None = None

    def expect_first(self) -> None:
        """The request is out: the wait for the first event begins."""
        self.phase = "first_event"
        first = self.timeouts.first_event
        self._reading = time.monotonic() + (self._idle if first is None else first)

    def expect_next(self) -> None:
        """An event came, and the consumer asks for the next one: the wait begins anew."""
        self.phase = "stream"
        self._reading = time.monotonic() + self._idle

    def expect_end(self, seconds: float) -> None:
        """The terminal event came: read on for so long, in order to use the connection again."""
        self._reading = time.monotonic() + seconds

    def read_timeout(self) -> float | None:
        """The seconds that a read may take now. Raises the limit that ran out."""
        return self._left(self.connecting.at if self.phase == "connect" else self._reading)

    def write_timeout(self) -> float | None:
        """The seconds that a write may take now. Raises the limit that ran out."""
        return self._left(Deadline(self.timeouts.write).at)

    def _left(self, at: float) -> float | None:
        """On the path of each read: points in time are plain numbers here, and the clock is read once."""
        if self.total.at < at:
            at = self.total.at
        if at == math.inf:
            return None
        left = at - time.monotonic()
        if left <= 0:
            raise self.expired()
        return left if left > 0.001 else 0.001  # 0 would mean: do not wait at all

    def expired(self, writing: bool = False) -> PixirError:
        """The error of the limit that ran out; kept as `error`."""
        kind: type[DeadlineExceeded]
        if self.total.passed:
            kind, what = TotalTimeout, "the call took longer than its total limit"
        elif self.phase == "connect":
            kind, what = ConnectTimeout, "the connection was not ready in time"
        elif writing:
            kind, what = WriteTimeout, "the server accepted no byte of the request for too long"
        elif self.phase == "first_event":
            kind, what = FirstEventTimeout, "no event came in time after the request"
        else:
            kind, what = IdleTimeout, "no further event came in time"
        self.error = kind(what, phase=self.phase, request_sent=self.sent)
        return self.error

    def check(self) -> None:
        """Raise where the call was cancelled, or where the limit for all of it has passed."""
        if self.cancel.reason is not None:
            raise self.placed(cancelled(self.cancel))
        if time.monotonic() >= self.total.at:
            raise self.expired()

    def placed(self, error: PixirError) -> PixirError:
        """The error with how far the attempt has come."""
        error.phase, error.request_sent = self.phase, self.sent
        return error

    def watch(self, waker: Waker) -> None:
        """Let a cancel of the call shut this connection down."""
        self.unwatch()
        self._waker = waker
        self._number = self.cancel.register(waker.wake)

    def unwatch(self) -> None:
        """The connection is no longer this call's. Takes no lock."""
        if self._number is not None:
            self.cancel.unregister(self._number)
        self._number = self._waker = None

    def abandon(self) -> None:
        """End the connection at once, whoever else still holds its descriptor. Takes no lock."""
        if self._waker is not None:
            self._waker.wake()
        self.unwatch()
