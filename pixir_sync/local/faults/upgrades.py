"""Faults of the connection: at its upgrade, and of its age."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pixir_sync.local.errors import ApiError, age_limit
from pixir_sync.local.faults.base import Exchange, Fault, Steps, Strike
from pixir_sync.local.steps import Close, HttpError, Pause, Step

__all__ = ["AgeLimit", "CloseAfterUpgrade", "RefuseUpgrade", "StallUpgrade"]


@dataclass(frozen=True, slots=True)
class RefuseUpgrade(Fault):
    """Every upgrade is refused with ``status``: 404, 405, 426 and 501 say that there is no WebSocket here.

    ``body`` is a JSON value, or bytes as they are; None is an error object. ``headers`` are added.
    """

    status: int = 426
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def at_upgrade(self, strike: Strike) -> Step | None:
        body = ApiError(self.status, "The upgrade was refused.").body() if self.body is None else self.body
        return HttpError(self.status, body, dict(self.headers)) if strike() else None


@dataclass(frozen=True, slots=True)
class CloseAfterUpgrade(Fault):
    """The upgrade is answered with 101, and then at once by a close frame: with 1008, a refusal."""

    code: int = 1008
    reason: str = ""

    def at_upgrade(self, strike: Strike) -> Step | None:
        return Close(self.code, self.reason) if strike() else None


@dataclass(frozen=True, slots=True)
class StallUpgrade(Fault):
    """The upgrade is not answered until `release`. ``pause.reached`` is set once one waits.

    As of `Stall`, make one for each block.
    """

    pause: Pause = field(default_factory=Pause)

    def at_upgrade(self, strike: Strike) -> Step | None:
        return self.pause if strike() else None

    def release(self) -> None:
        self.pause.event.set()


@dataclass(frozen=True, slots=True)
class AgeLimit(Fault):
    """A connection has reached its age: the next request on it gets ``websocket_connection_limit_reached``, and it is closed."""

    def on_answer(self, steps: Steps, strike: Strike, exchange: Exchange) -> Steps:
        if exchange.transport == "websocket" and strike():
            yield age_limit().frame()
            yield Close(1000)
        else:
            yield from steps
