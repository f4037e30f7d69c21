"""Which request of a connection runs when. Pure.

Rules kept here:

* One lane runs one request at a time, first in, first out.
* At most ``limit`` requests run on a connection; further ones wait, in the order in which they could have begun.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

__all__ = ["IN_FLIGHT", "Schedule"]

IN_FLIGHT = 16
"""Responses that run at once on one connection."""

T = TypeVar("T")


class Schedule(Generic[T]):
    """The waiting and the running requests of one connection."""

    def __init__(self, limit: int = IN_FLIGHT) -> None:
        self._limit = limit
        self._waiting: dict[str | None, deque[T]] = {}
        self._ready: deque[str | None] = deque()  # idle lanes where a request waits, in the order in which they came to be
        self._running: set[str | None] = set()

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self._running and not self._ready

    def add(self, lane: str | None, request: T) -> None:
        """A request has come for this lane (None: the default one)."""
        waiting = self._waiting.setdefault(lane, deque())
        waiting.append(request)
        if len(waiting) == 1 and lane not in self._running:
            self._ready.append(lane)

    def start(self) -> list[tuple[str | None, T]]:
        """The requests that begin now, each with its lane; `end` must follow for each."""
        begun = []
        while self._ready and len(self._running) < self._limit:
            lane = self._ready.popleft()
            self._running.add(lane)
            begun.append((lane, self._waiting[lane].popleft()))
        return begun

    def end(self, lane: str | None) -> None:
        """The request that ran on this lane has ended."""
        self._running.discard(lane)
        if self._waiting[lane]:
            self._ready.append(lane)
