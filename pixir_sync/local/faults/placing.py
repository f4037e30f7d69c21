"""Faults in place: who put them there, how often they struck, when they are taken away.

Rules kept here:

* Any thread may place, look and take away; the server's event loop strikes.
* A fault that is placed and never strikes is a mistake of the test: leaving its block says so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from pixir_sync.local.faults.base import Exchange, Fault, Steps, Strike
from pixir_sync.local.steps import Step

__all__ = ["Board", "Placed"]

When = Callable[[dict[str, Any]], bool]


class Placed:
    """Faults that are in place while the ``with`` block runs. Made by `LocalServer.fault`.

    ``struck`` counts how often they acted. Leaving the block takes them away and releases what they hold up; where it ends
    without an exception and ``required`` faults never struck, it raises AssertionError. Threads may share it.
    """

    def __init__(self, board: Board, faults: Sequence[Fault], times: int | None, when: When | None, required: bool) -> None:
        self.faults = tuple(faults)
        self._board, self._when, self._required = board, when, required
        # Guards the count and what is left of the strikes; notified at each.
        self._news = threading.Condition()
        self._left: dict[int, float] = {id(fault): float("inf") if times is None else times for fault in self.faults}
        self._struck = 0

    @property
    def struck(self) -> int:
        """How often these faults have acted."""
        return self._struck

    def wait(self, timeout: float = 5.0, *, strikes: int = 1) -> None:
        """Wait until they have acted so often. Raises AssertionError after ``timeout`` seconds."""
        with self._news:
            if not self._news.wait_for(lambda: self._struck >= strikes, timeout):
                raise AssertionError(f"{self!r}: {strikes} expected within {timeout} s")

    def __repr__(self) -> str:
        names = ", ".join(type(fault).__name__ for fault in self.faults)
        return f"<Placed {names}: struck {self._struck} times>"

    def __enter__(self) -> Placed:
        self._board.add(self)
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._board.remove(self)
        for fault in self.faults:
            fault.release()
        if kind is None and self._required and not self._struck:
            raise AssertionError(f"{self!r}: the fault was in place and never happened")

    def concerns(self, body: dict[str, Any]) -> bool:
        """Whether these faults are for this request."""
        return self._when is None or self._when(body)

    def strike(self, fault: Fault) -> Strike:
        """What the fault asks before it acts."""

        def may() -> bool:
            with self._news:
                if self._left[id(fault)] <= 0:
                    return False
                self._left[id(fault)] -= 1
                self._struck += 1
                self._news.notify_all()
            return True

        return may


class Board:
    """All the faults that are in place, oldest first."""

    def __init__(self, faults: Sequence[Fault] = ()) -> None:
        # Guards the exchange of the tuple; readers take it as it is.
        self._lock = threading.Lock()
        self._placed: tuple[Placed, ...] = ()
        if faults:
            self.add(Placed(self, faults, None, None, False))

    def add(self, placed: Placed) -> None:
        """Put in place, behind the others."""
        with self._lock:
            self._placed = (*self._placed, placed)

    def remove(self, placed: Placed) -> None:
        """Take away; harmless where it is not in place."""
        with self._lock:
            self._placed = tuple(other for other in self._placed if other is not placed)

    def at_upgrade(self) -> Step | None:
        """What the first fault that strikes does to an upgrade."""
        for placed in self._placed:
            for fault in placed.faults:
                if (step := fault.at_upgrade(placed.strike(fault))) is not None:
                    return step
        return None

    def on_answer(self, steps: Steps, exchange: Exchange) -> Steps:
        """The steps, through every fault in place."""
        found = [(placed, fault) for placed in self._placed if placed.concerns(exchange.body) for fault in placed.faults]
        for placed, fault in sorted(found, key=lambda pair: pair[1].outermost):
            steps = fault.on_answer(steps, placed.strike(fault), exchange)
        return steps
