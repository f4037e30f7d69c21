"""`CancelToken`: ends waits from any thread, from a signal handler or from a finaliser.

Rules kept here:

* No lock that another thread could hold is ever taken: cancelling is setting a flag and then calling the wake-ups. A wait
  registers its wake-up first and looks at the flag second, so that one of the two always sees the other.
* Wake-ups are kept in a dict: its single operations, and ``list`` of it, are atomic in CPython.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from itertools import count

from pixir_sync.protocol.errors import Cancelled, ConnectionLost, PixirError, ProviderClosed

__all__ = ["FORKED", "CancelToken", "cancelled"]

FORKED = "forked"
"""The reason of a call that belongs to the process that this one was forked from."""

_numbers = count()


class CancelToken:
    """Cancels any number of streams: give it as ``cancel=`` to each of them. Threads may share it.

    Attributes:
        reason: None while it was not cancelled; ``"cancelled"``, ``"closed"`` where the provider was closed, ``"forked"`` in a
            child process that inherited the call.

    >>> from pixir_sync import Cancelled, CancelToken, Provider
    >>> token, provider = CancelToken(), Provider(model="gpt-5.5", api_key="key")
    >>> streams = [provider.stream(question, cancel=token) for question in ("One", "Two")]
    >>> token.cancel()
    >>> try:
    ...     streams[0].result()
    ... except Cancelled as error:
    ...     print(error, token.cancelled, token.reason)
    the call was cancelled True cancelled
    """

    __slots__ = ("_wakers", "reason")

    def __init__(self) -> None:
        self.reason: str | None = None
        self._wakers: dict[int, Callable[[], None]] = {}

    @property
    def cancelled(self) -> bool:
        return self.reason is not None

    def cancel(self, reason: str = "cancelled") -> None:
        """Cancel, for good. Wakes every wait within milliseconds; calling it again does nothing. Never blocks."""
        if self.reason is None:
            self.reason = reason
        for wake in list(self._wakers.values()):
            wake()

    @contextlib.contextmanager
    def waking(self, wake: Callable[[], None]) -> Iterator[None]:
        """Call ``wake`` when this token is cancelled while the block runs; at once if it was cancelled before.

        ``wake`` runs on the cancelling thread: it must not block, and must not raise.
        """
        number = self.register(wake)
        try:
            yield
        finally:
            self.unregister(number)

    def register(self, wake: Callable[[], None]) -> int:
        """The first half of `waking`, for a registration that outlives a block."""
        number = next(_numbers)
        self._wakers[number] = wake
        if self.reason is not None:
            wake()
        return number

    def unregister(self, number: int) -> None:
        """The second half of `waking`."""
        self._wakers.pop(number, None)

    def wait(self, seconds: float | None) -> bool:
        """Sleep, or be woken by a cancel: true if it was cancelled. None sleeps until it is."""
        parked = threading.Lock()
        parked.acquire()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # already released by an earlier wake-up
                parked.release()

        with self.waking(wake):
            parked.acquire(timeout=-1 if seconds is None else min(seconds, threading.TIMEOUT_MAX))
        return self.reason is not None

    def __repr__(self) -> str:
        return f"<CancelToken {self.reason or 'live'}>"


def cancelled(token: CancelToken) -> PixirError:
    """The error of a cancelled call: `ProviderClosed` where the provider was closed under it, `ConnectionLost` after a fork."""
    if token.reason == FORKED:
        return ConnectionLost("the stream belongs to the process that this one was forked from", retryable=False)
    if token.reason == "closed":
        return ProviderClosed("the provider was closed while the call was running")
    return Cancelled("the call was cancelled")
