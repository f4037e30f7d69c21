"""What a fault is. Pure."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pixir_sync.local.steps import Step, events_in

__all__ = ["Exchange", "Fault", "Steps", "Strike", "first", "tagged"]

Steps = Iterator[Step]

Strike = Callable[[], bool]
"""A fault asks before it acts: true means that it may, and that it is counted as having struck."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """Which request is being answered: its body, the transport it came over, its lane (None the default one, and over HTTP)."""

    body: dict[str, Any]
    transport: Literal["websocket", "http_sse", "http"]
    stream_id: str | None = None


class Fault:
    """Something that goes wrong. Override either method; both are called on the server's event loop, and never block.

    ``outermost``: it comes behind all others, whenever it was placed, because what it gives is no event to them any more.
    """

    outermost: ClassVar[bool] = False

    def at_upgrade(self, strike: Strike) -> Step | None:
        """What happens to an upgrade: an `HttpError` refuses it, a `Pause` holds it, a `Close` ends it once it is made."""
        return None

    def on_answer(self, steps: Steps, strike: Strike, exchange: Exchange) -> Steps:
        """The steps that are taken in the place of these."""
        return steps

    def release(self) -> None:
        """Let go what the fault holds up; called when it is taken away."""


def first(steps: Steps, count: int) -> Generator[Step, None, bool]:
    """The steps up to and with the ``count``-th event, and whether there were so many; not one step more is asked for."""
    seen = 0
    while seen < count:
        try:
            step = next(steps)
        except StopIteration:
            return False
        yield step
        seen += len(events_in(step))
    return True


def tagged(event: dict[str, Any], exchange: Exchange) -> dict[str, Any]:
    """The event with the name of the request's lane; on the default lane there is none."""
    return event if exchange.stream_id is None else {**event, "stream_id": exchange.stream_id}
