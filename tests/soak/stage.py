"""The providers of a soak, closed or forgotten in mid-traffic and replaced; their books must agree with what the callers saw.

Rules kept here:

* A provider's books are compared when the last of its calls has ended: every stream that ended by being read stands in
  ``stats()`` once, by its end.
* What is in a child process counts nothing here.
"""

from __future__ import annotations

import random
import threading
import time
import weakref
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pixir_sync import Keepalive, Network, PoolOptions, Provider, RetryPolicy, Timeouts
from pixir_sync.engine import Stats
from tests.soak.figures import Figures
from tests.soak.server import NAME
from tests.soak.words import KEY

__all__ = ["STAGES", "Generation", "Stage"]

Json = dict[str, Any]

IDLE = 15.0
"""The idle limit of ordinary calls, in seconds: only what is stuck reaches it."""
_SETTLED = 3.0  # seconds after its end, nobody begins a call with a provider any more


@dataclass(frozen=True)
class Plan:
    """How a stage's providers are made, and for how many threads.

    Attributes:
        pause: what those threads rest between two calls, in seconds, on average: a process without a moment's rest would measure
            nothing but itself. The first stage's are more than its connections, so that they wait for each other.
    """

    place: str
    transport: str
    max_size: int
    threads: int  # in 48
    max_lifetime: float | None = None
    max_idle: float | None = None
    pause: float = 0.6


STAGES = (
    Plan("plain", "websocket", 3, 14, pause=0.2),
    Plan("tls", "websocket", 24, 12, max_lifetime=7.0),
    Plan("plain", "auto", 24, 10, max_idle=4.0),
    Plan("tls", "auto", 2, 6),
    Plan("plain", "http_sse", 8, 3),
    Plan("tls", "http_sse", 8, 3),
)


@dataclass(eq=False)
class Generation:
    """One provider of a stage, and what its callers saw. Threads share it.

    Attributes:
        ended_at: when it was closed or forgotten, None before. forgotten: nobody closed it. running: calls in the air.
    """

    name: str
    plan: Plan
    provider: Provider | None
    stats: Stats
    websocket: Any  # a weak reference to its transport
    ended_at: float | None = None
    forgotten: bool = False
    running: int = 0
    saw: Counter[str] = field(default_factory=Counter)

    @property
    def keepalive(self) -> threading.Thread | None:
        websocket = self.websocket()
        thread: threading.Thread | None = None if websocket is None else websocket._keepalive._thread
        return thread


class Stage:
    """One way to reach a server. Threads share it."""

    def __init__(self, number: int, plan: Plan, where: Json, seed: int, figures: Figures) -> None:
        self.number, self.plan = number, plan
        self._where, self._figures = where, figures
        self._rng = random.Random(f"{seed} stage {number}")
        self._made = 0
        self.old: list[Generation] = []
        self.now = self._make()

    def options(self, name: str) -> Json:
        plan = self.plan
        return {
            "model": "gpt-5.5", "api_key": KEY, "transport": plan.transport, "base_url": self._where[plan.place],
            "network": Network(ca_bundle=self._where["ca_file"], trust_env=False, headers={NAME: name}),
            "timeouts": Timeouts(connect=10, pool=40, write=10, first_event=IDLE, idle=IDLE),
            "keepalive": Keepalive(interval=0.5, timeout=10),
            "pool": PoolOptions(max_size=plan.max_size, max_lifetime=plan.max_lifetime, max_idle=plan.max_idle),
            "retry": RetryPolicy(max_retries=2, initial_delay=0.02),
        }  # fmt: skip

    def _make(self) -> Generation:
        self._made += 1
        name = f"{self.number}.{self._made}"
        provider = Provider(**self.options(name))
        engine, websocket = provider._engine, provider._websocket
        assert engine is not None
        weak = weakref.ref(websocket) if websocket is not None else lambda: None
        return Generation(name, self.plan, provider, engine.stats, weak)

    def swap(self) -> None:
        """A new provider; the old one is closed, or forgotten, under those who use it."""
        old, self.now = self.now, self._make()
        self.end(old, forget=self._rng.random() < 0.4)

    def end(self, old: Generation, *, forget: bool = False) -> None:
        """Close it, or let it be forgotten."""
        old.ended_at, old.forgotten = time.monotonic(), forget  # before: who sees the end of it knows why
        self.old.append(old)
        if forget:
            old.provider = None
        elif old.provider is not None:
            old.provider.close()

    def settle(self) -> None:
        """Compare the books of those whose calls have all ended."""
        for old in self.old.copy():
            assert old.ended_at is not None
            if old.running == 0 and time.monotonic() - old.ended_at > _SETTLED:
                self.old.remove(old)
                self.compare(old)

    def compare(self, old: Generation) -> None:
        """Whether `Provider.stats()` told the truth."""
        told = old.stats.snapshot()
        turns = sum(number for of_transport in told["turns"].values() for number in of_transport.values())
        counted = Counter({"result": turns, **told["errors"]})
        if counted != old.saw:
            self._figures.defect(f"the books of {old.name} say {dict(counted)}, its callers saw {dict(old.saw)}")
        provider = old.provider
        if provider is not None:
            self._check_closed(old, provider.stats())
            if self.plan.transport == "auto":
                self._figures.last_stats = provider.stats()
        for group in ("connections", "replays", "fallbacks", "warm_ups"):
            for name, number in told.get(group, {}).items():
                self._figures.totals[f"{group}.{name}"] += number
        for transport, numbers in told["turns"].items():
            for name, number in numbers.items():
                self._figures.totals[f"turns.{transport}.{name}"] += number

    def _check_closed(self, old: Generation, stats: Json) -> None:
        pool = stats.get("websocket", {}).get("pool", {"size": 0})
        if pool["size"] or stats["connections"]["live"]:
            self._figures.defect(f"{old.name} is closed, nobody uses it, and it has {stats}")
        thread = old.keepalive
        if thread is not None and thread.is_alive():
            self._figures.defect(f"{old.name} is closed, and its keepalive thread runs")

    def look(self) -> None:
        """What must hold at any time."""
        provider = self.now.provider
        if provider is None:
            return
        stats = provider.stats()
        if "websocket" not in stats:
            return
        pool = stats["websocket"]["pool"]
        if pool["size"] > self.plan.max_size or pool["size"] != pool["leased"] + pool["idle"] or pool["waiting"] > 64:
            self._figures.defect(f"{self.now.name}: the pool says {pool}")
