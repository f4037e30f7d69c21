"""Hooks: what a program may be told while calls run. They see facts, never a prompt, an answer or a credential."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

__all__ = ["Hook", "HookEvent"]


@dataclass(frozen=True, slots=True)
class HookEvent:
    """One thing that happened in a call.

    Attributes:
        name: ``attempt`` (one begins), ``retry`` (a failed one is followed by another), ``fallback`` (the next goes over
            another transport) or ``finish`` (the call ended, either way).
        transport: the attempt's transport. attempt: its number, from 1.
        reason: the row of the replay table, or how the call ended: ``completed``, ``incomplete`` or an error's kind.
        delay: the wait before the next attempt, in seconds. elapsed: since the call began, in seconds.
    """

    name: Literal["attempt", "retry", "fallback", "finish"]
    transport: str
    attempt: int
    reason: str = ""
    delay: float = 0.0
    elapsed: float = 0.0


class Hook(Protocol):
    """A callable that takes a `HookEvent`, on the thread of the call. It must be quick; what it raises ends the call."""

    def __call__(self, event: HookEvent, /) -> object: ...
