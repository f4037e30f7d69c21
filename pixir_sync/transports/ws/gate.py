"""`Gate`: whether a WebSocket may be opened at all. It knows nothing of connections that are open: those are always used.

Rules kept here:

* Only calls that may go over HTTP instead (``transport="auto"``) ask; ``"websocket"`` knows no breaker.
* A place that cannot be reached is one breaker per URL; a refusal is one per URL and credential, because it may be meant for
  that one.
* That a server has no WebSocket is remembered for ten minutes. Its own errors (401, 403, 429) are nobody's failure here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from pixir_sync.forking import watch
from pixir_sync.protocol.errors import (
    Cancelled,
    ConnectFailed,
    ConnectionLost,
    ConnectTimeout,
    InvalidRequest,
    PixirError,
    ProviderClosed,
    TotalTimeout,
)
from pixir_sync.protocol.retry import Breaker
from pixir_sync.protocol.turn import GATED

__all__ = ["Gate"]

_PROVIDERS_OWN = (401, 403, 429)
_THIS_SIDE = (Cancelled, ProviderClosed, TotalTimeout, InvalidRequest)  # they say nothing about the server
Place = tuple[str, str | None]


class Gate:
    """The breakers of one transport. Threads share it. Times in seconds of ``now``, a monotonic clock."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._breakers: dict[Place, Breaker] = {}
        self._unsupported: dict[str, float] = {}
        self.after_fork()
        watch(self)

    def after_fork(self) -> None:
        """What is known of the servers stays known in a child process."""
        # Guards the breakers and what is unsupported.
        self._lock = threading.Lock()

    def check(self, url: str, identity: str) -> None:
        """Raise `ConnectFailed` where nothing should be opened now; its code is the reason for going over HTTP."""
        now = self._now()
        with self._lock:
            if self._unsupported.get(url, now) > now:
                raise ConnectFailed("the server has no WebSocket here, as it said lately", code="websocket_unsupported",
                                    phase="connect")  # fmt: skip
            places = [place for place in ((url, None), (url, identity)) if place in self._breakers]
            if any(now < self._breakers[place].open_until for place in places):
                raise ConnectFailed("the WebSocket failed lately and is left alone for a while", code="breaker_open",
                                    phase="connect")  # fmt: skip
            for place in places:
                self._breakers[place].allows(now)  # takes the probe

    def succeeded(self, url: str, identity: str) -> None:
        """A connection that was opened gave its first event."""
        if not self._breakers:
            return
        with self._lock:
            for place in ((url, None), (url, identity)):
                self._breakers.pop(place, None)

    def failed(self, url: str, identity: str, error: PixirError) -> None:
        """Opening one failed, or it was lost before any output came on it."""
        if error.code in GATED:
            return
        if error.status in _PROVIDERS_OWN:
            self.succeeded(url, identity)  # somebody is there, and talks
            return
        own = isinstance(error, _THIS_SIDE) or error.details.get("certificate")
        network = isinstance(error, (ConnectFailed, ConnectTimeout, ConnectionLost))
        blamed = None if own else (url, None if network else identity)
        now = self._now()
        with self._lock:
            for place in ((url, None), (url, identity)):
                if place != blamed and place in self._breakers:
                    self._breakers[place].withdrawn(now)  # a probe that proved nothing of this place
            if blamed is not None:
                self._breakers.setdefault(blamed, Breaker()).failed(now)

    def withdrawn(self, url: str, identity: str) -> None:
        """What was opened was given up before it proved anything: a probe is the next one's."""
        self.failed(url, identity, Cancelled("given up"))

    def avoid(self, url: str, seconds: float) -> None:
        """Open none to this URL for so long."""
        with self._lock:
            self._unsupported[url] = self._now() + seconds

    def snapshot(self) -> dict[str, Any]:
        """What is shut, and for how long: plain data."""
        now = self._now()
        with self._lock:
            waits = [max(0.0, breaker.open_until - now) for breaker in self._breakers.values()]
            failures = sum(breaker.failures for breaker in self._breakers.values())
            unsupported = [until - now for until in self._unsupported.values() if until > now]
        state = "open" if any(waits) else "half_open" if waits else "closed"
        return {"state": state, "failures": failures, "retry_in": max(waits, default=0.0),
                "unsupported_for": max(unsupported, default=0.0)}  # fmt: skip
