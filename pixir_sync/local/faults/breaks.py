"""Faults that break an answer off, hold it up, or put between its events what is none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from pixir_sync.local.faults.base import Exchange, Fault, Steps, Strike, first
from pixir_sync.local.steps import Binary, Close, Delay, NotJson, Pause, Slowly

__all__ = ["BinaryFrame", "Delays", "Drop", "Garbage", "SlowBytes", "Stall"]


@dataclass(frozen=True, slots=True)
class Drop(Fault):
    """The connection ends after so many events of an answer (0: before the first).

    Over a WebSocket with ``code``: by a close frame. Else the TCP connection is cut without a word, with ``reset`` by a reset.
    Over HTTP, with ``after=0``, not even the head of the response has left.
    """

    after: int = 0
    code: int | None = None
    reason: str = ""
    reset: bool = False

    def on_answer(self, steps: Steps, strike: Strike, exchange: Exchange) -> Steps:
        if (yield from first(steps, self.after)) and strike():
            yield Close(self.code, self.reason, self.reset)
        yield from steps


@dataclass(frozen=True, slots=True)
class Stall(Fault):
    """An answer stands still after so many events, until `release`. ``pause.reached`` is set once one does.

    A released one holds nothing up any more, and the end of its block releases it: make one for each block.
    """

    after: int = 0
    pause: Pause = field(default_factory=Pause)

    def on_answer(self, steps: Steps, strike: Strike, exchange: Exchange) -> Steps:
        if (yield from first(steps, self.after)) and strike():
            yield self.pause
        yield from steps

    def release(self) -> None:
        """Let every answer go on, now and from now on."""
        self.pause.event.set()


@dataclass(frozen=True, slots=True)
class Garbage(Fault):
    """After so many events comes what is no JSON, where an event should be; then the answer goes on."""

    after: int = 0
    data: bytes = b"{not json"

    def on_answer(self, steps: Steps, strike: Strike, exchange: Exchange) -> Steps:
        if (yield from first(steps, self.after)) and strike():
            yield NotJson(self.data)
        yield from steps


@dataclass(frozen=True, slots=True)
class BinaryFrame(Fault):
    """After so many events comes a binary frame; then the answer goes on. WebSocket only."""

    after: int = 0
    data: bytes = b"\0"

    def on_answer(self, steps: Steps, strike: Strike, exchange: Exchange) -> Steps:
        if exchange.transport == "websocket" and (yield from first(steps, self.after)) and strike():
            yield Binary(self.data)
        yield from steps


@dataclass(frozen=True, slots=True)
class SlowBytes(Fault):
    """Every event leaves in pieces of ``size`` bytes, ``interval`` seconds apart. A POST without a stream has no events."""

    outermost: ClassVar[bool] = True

    interval: float = 0.001
    size: int = 1

    def on_answer(self, steps: Steps, strike: Strike, exchange: Exchange) -> Steps:
        slow = exchange.transport != "http" and strike()
        for step in steps:
            yield Slowly(step, self.interval, self.size) if slow and isinstance(step, dict | bytes | NotJson) else step


@dataclass(frozen=True, slots=True)
class Delays(Fault):
    """Before every step passes a time, in seconds: an answer that can be watched."""

    seconds: float

    def on_answer(self, steps: Steps, strike: Strike, exchange: Exchange) -> Steps:
        slow = strike()
        while True:
            if slow:
                yield Delay(self.seconds)  # before the step is made: a steer that comes meanwhile comes before it
            try:
                yield next(steps)
            except StopIteration:
                return
