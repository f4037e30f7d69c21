"""Waiting on the event loop for what another thread sets."""

from __future__ import annotations

import asyncio

from pixir_sync.local.steps import Delay, Pause

__all__ = ["waited"]

_POLL, _MOST = 0.002, 0.02


async def waited(step: Pause | Delay) -> None:
    """Wait a step's time out. A pause is polled, so that nothing is left behind when the request is cancelled meanwhile.

    Cancelled it is where its connection ends.
    """
    if isinstance(step, Delay):
        await asyncio.sleep(step.seconds)
        return
    step.reached.set()
    try:
        between = _POLL
        while not step.event.is_set():
            await asyncio.sleep(between)
            between = min(between * 1.5, _MOST)  # hundreds may wait
    except asyncio.CancelledError:
        step.gone.set()
        raise
