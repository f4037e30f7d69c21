"""Forks in mid-traffic: a child closes what it inherited, makes calls of its own, checks its answers and leaves.

Rules kept here:

* One fork at a time, so that no child keeps another one's pipe; many children may live at once.
* A child takes no lock of the soak: threads that held one do not exist there. What it saw it tells its parent by the pipe.
* A child that does not end is asked for its stack before it is ended.
"""

from __future__ import annotations

import faulthandler
import os
import random
import select
import signal
import threading
import time
from dataclasses import dataclass
from typing import Any

from pixir_sync import ConnectionLost, PixirError, Provider, ResponseStream, user
from tests.soak.figures import Figures, Suspicion
from tests.soak.server import NAME
from tests.soak.stage import STAGES
from tests.soak.words import SENTINEL, answer_to
from tests.support.children import Child

__all__ = ["Forks"]

_PATIENCE = 40.0  # seconds; a child that takes longer hangs
_NOISE = ("connection_lost", "handshake_refused", "connect_failed", "rate_limited", "permission_denied", "overloaded",
          "provider_http_error")  # fmt: skip


@dataclass(frozen=True)
class Told:
    """What a child saw: wrong things, and errors that a noise may explain as (kind, began, ended)."""

    wrong: list[str]
    errors: list[tuple[str, float, float]]
    streams: int


class Forks:
    """Makes the children. Threads share it."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        # Guards the moment of a fork.
        self._lock = threading.Lock()
        faulthandler.register(signal.SIGUSR1, all_threads=True)

    def fork(self, stream: ResponseStream, provider: Provider, session: str | None, stage: int, call: str) -> None:
        """Make a child in the middle of this stream, and wait for it."""
        seed = call

        def work() -> Told:
            return _in_the_child(random.Random(seed), stream, provider, session)

        with self._lock:
            child = Child(work)
        told = self._told(child, call)
        figures = self._figures
        with figures.lock:
            figures.counts["children"] += 1
            figures.counts["streams of children"] += told.streams if told is not None else 0
        if told is None:
            return
        for wrong in told.wrong:
            figures.defect(f"in a child of {call}: {wrong}")
        for kind, began, ended in told.errors:
            if kind in _NOISE:
                figures.suspicions.append(Suspicion(STAGES[stage].place, began, ended, kind, f"in a child of {call}"))
            else:
                figures.defect(f"in a child of {call}: {kind}")

    def _told(self, child: Child, call: str) -> Told | None:
        ready, _, _ = select.select([child._pipe], [], [], _PATIENCE)
        if not ready:
            os.kill(child.pid, signal.SIGUSR1)  # its stack goes to stderr
            time.sleep(1)
        try:
            told: Told = child.result(1.0 if not ready else 20.0)
            return told
        except AssertionError as error:
            self._figures.defect(f"a child of {call}: {error}")
            return None


def _in_the_child(rng: random.Random, stream: ResponseStream, provider: Provider, session: str | None) -> Told:
    told = Told([], [], 0)
    try:
        for _ in stream:
            pass
        if stream._turn.assembler.terminal is None:
            told.wrong.append("the parent's stream ended quietly")
    except ConnectionLost as error:
        if "forked" not in error.message:
            told.wrong.append(f"the parent's stream gave {error!r}: {error}")
    streams = _converse(rng, provider, session, told)
    stats = provider.stats()
    if stats["connections"]["live"] > 4 or stats["turns"] and streams == 0:
        told.wrong.append(f"its own books say {stats}")
    if rng.random() < 0.5:
        provider.close()
        if provider.stats()["connections"]["live"]:
            told.wrong.append(f"closed, and its books say {provider.stats()}")
    return Told(told.wrong, told.errors, streams)


def _converse(rng: random.Random, provider: Provider, session: str | None, told: Told) -> int:
    """A conversation of the child's own, under the parent's session."""
    history: list[dict[str, Any]] = []
    own, done = {NAME: f"child {os.getpid()}"}, 0
    for number in range(rng.randint(1, 3)):
        items, began = [*history, user(f"{SENTINEL}child{os.getpid()}.{number}")], time.monotonic()
        try:
            result = provider.complete(items, session=session, headers=own)
        except PixirError as error:
            if error.kind != "closed":
                told.errors.append((error.kind, began, time.monotonic()))
            continue
        done += 1
        if result.text != answer_to(items):
            told.wrong.append(f"the text is {result.text!r}, not {answer_to(items)!r}")
        history = [*items, *result.output_items]
    return done
