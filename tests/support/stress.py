"""The stress test: many threads, each with several sessions, against a server that does its worst; every answer is checked.

``python -m tests.support.stress --seconds 600 --seed 7 [--tls] [--threads 16]`` runs it and prints the figures, and a line for
each defect. The other side is `tests.support.stress_peer`.

Rules kept here:

* The client knows each answer to the byte: it names the turn's nonce and the whole context. So a text that is mixed, doubled or
  cut, or a continuation from another context, cannot pass.
* What a consumer does (read, leave, drop, cancel, interrupt itself) is decided by the seed; when the threads meet is not.
* The garbage collector is off from the first stream to the last count.
* Half of the threads have ``transport="websocket"``, the others ``"auto"``. The providers are closed under them and replaced.
* Nothing is excused: an error that this turn could not have met, or another exception, is a defect.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import heapq
import json
import os
import random
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any

from pixir_sync import (
    Cancelled,
    CancelToken,
    Keepalive,
    Network,
    PixirError,
    PoolOptions,
    Provider,
    ProviderClosed,
    ResponseStream,
    Result,
    RetryPolicy,
    SessionBusy,
    Terminal,
    Timeouts,
    user,
)
from pixir_sync.transports.ws.connection import Connection
from tests.support.stress_peer import IDLE, answer_to, said

__all__ = ["Figures", "stress"]

Json = dict[str, Any]

# What a consumer does, and how often in a thousand.
ACTS = {
    "read": 600, "result": 40, "leave": 50, "drop": 60, "throw": 30, "cancel": 70, "token": 30, "close elsewhere": 30, "away": 8,
    "re-enter": 20, "at terminal": 30, "late cancel": 20, "never begun": 12,
}  # fmt: skip
_EXPECTED = frozenset({
    "connection_lost", "first_event_timeout", "idle_timeout", "write_timeout", "rate_limited", "response_failed", "overloaded",
    "connect_failed", "handshake_refused", "pool_timeout", "closed", "provider_http_error",
})  # fmt: skip
_STUCK = 20.0  # seconds; longer than all the limits of a turn and its replays
_SWAP = 4.0  # how long a provider lives
_TURNS = 12  # the longest conversation
_COUNTED = ("Connection", "ConnectionPool", "Engine", "Exchange", "Lane", "Lease", "ResponseStream", "Turn", "Waiter")


class Elsewhere(Exception):
    """The consumer's own error, in the middle of its loop."""


@dataclass
class Figures:
    """What happened. ``counts`` by name; ``defects`` must be empty."""

    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    server: Json = field(default_factory=dict)
    defects: list[str] = field(default_factory=list)
    slowest_cancel: float = 0.0
    seconds: float = 0.0

    def add(self, other: Figures) -> None:
        """Another thread's."""
        self.counts += other.counts
        self.errors += other.errors
        self.defects += other.defects
        self.slowest_cancel = max(self.slowest_cancel, other.slowest_cancel)

    def __str__(self) -> str:
        lines = [f"seed {self.seed}, {self.seconds:.0f} s, slowest cancel {self.slowest_cancel * 1000:.0f} ms"]
        for name, numbers in (("streams", self.counts), ("errors", self.errors), ("server", self.server.get("counts", {}))):
            lines.append(f"{name}: " + ", ".join(f"{what} {number}" for what, number in sorted(numbers.items())))
        lines.append(f"defects: {len(self.defects)}")
        return "\n".join([*lines, *(f"- {defect}" for defect in self.defects[:20])])


class Server:
    """The peer's process."""

    def __init__(self, seed: int, tls: bool) -> None:
        command = [sys.executable, "-m", "tests.support.stress_peer", "--seed", str(seed), *(["--tls"] if tls else [])]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        where = json.loads(self._process.stdout.readline())
        secure = "s" if tls else ""
        self.address, self.ca_file = f"{secure}://127.0.0.1:{where['port']}", where["ca_file"]

    def end(self) -> Json:
        """Let it end, and tell what it saw."""
        told, _ = self._process.communicate(timeout=30)
        found: Json = json.loads(told.splitlines()[-1])
        return found


class Alarm:
    """Calls functions later, on one thread of its own. Threads share it."""

    def __init__(self) -> None:
        self._orders: SimpleQueue[tuple[float, int, Callable[[], object]] | None] = SimpleQueue()
        self._numbers = count()
        self._thread = threading.Thread(target=self._run, name="stress-alarm")
        self._thread.start()

    def after(self, seconds: float, act: Callable[[], object]) -> None:
        self._orders.put((time.monotonic() + seconds, next(self._numbers), act))

    def end(self) -> None:
        self._orders.put(None)
        self._thread.join(10)

    def _run(self) -> None:
        due: list[tuple[float, int, Callable[[], object]]] = []
        while True:
            with suppress(Empty):
                order = self._orders.get(timeout=max(0.0, due[0][0] - time.monotonic()) if due else None)
                if order is None:
                    return
                heapq.heappush(due, order)
                del order
            while due and due[0][0] <= time.monotonic():
                heapq.heappop(due)[2]()


class Stage:
    """One way to reach the server: a provider that is replaced now and then. Threads share it."""

    def __init__(self, server: Server, transport: str, figures: Figures) -> None:
        self._options: Json = {
            "model": "m", "api_key": "sk-test", "transport": transport, "base_url": f"http{server.address}/v1",
            "websocket_url": f"ws{server.address}/{transport}", "network": Network(ca_bundle=server.ca_file, trust_env=False),
            "timeouts": Timeouts(connect=5, pool=5, write=2 * IDLE, idle=IDLE, total=None),
            "keepalive": Keepalive(interval=0.2, timeout=5), "pool": PoolOptions(max_size=28),
            "retry": RetryPolicy(max_retries=2, initial_delay=0.01),
        }  # fmt: skip
        self._figures = figures
        self.provider = Provider(**self._options)

    def swap(self) -> None:
        """A new provider; the old one is closed under those who use it."""
        old, self.provider = self.provider, Provider(**self._options)
        old.close()
        self._check_closed(old)

    def end(self) -> None:
        """Nobody uses the provider any more: everything must have come back, before it is closed and after."""
        provider, wanted = self.provider, {"leased": 0, "waiting": 0}
        del self.provider
        self._settled("leases", lambda: {name: _pool(provider)[name] for name in wanted}, wanted)
        assert provider._websocket is not None
        for connection in provider._websocket._pool.idle():
            assert isinstance(connection, Connection)
            self._settled("roles", partial(_roles, connection), [])
        provider.close()
        self._check_closed(provider)

    def _check_closed(self, provider: Provider) -> None:
        engine, websocket = provider._engine, provider._websocket
        assert engine is not None and websocket is not None
        self._settled("places of a closed pool", lambda: _pool(provider)["size"], 0)
        self._settled("streams of a closed provider", lambda: len(engine.live), 0)
        self._settled("a closed provider's keepalive thread", lambda: websocket._keepalive.running, False)
        stats = provider.stats()
        for group in ("connections", "replays", "fallbacks"):
            self._figures.counts.update({f"{group}.{name}": number for name, number in stats[group].items()})
        for transport, numbers in stats["turns"].items():
            self._figures.counts.update({f"turns.{transport}.{name}": number for name, number in numbers.items()})

    def _settled(self, what: str, look: Callable[[], object], wanted: object) -> None:
        found = settle(look, wanted)
        if found != wanted:
            self._figures.defects.append(f"left over: {what}: {found}")


def _pool(provider: Provider) -> Json:
    found: Json = provider.stats()["websocket"]["pool"]
    return found


def _roles(connection: Connection) -> list[str]:
    """What is in use of an idle connection."""
    writer = connection.writer
    held = {
        "reader": connection.occupied and connection.alive, "writer": writer.holder is not None and connection.alive,
        "waiting": bool(writer._waiting), "lanes": bool(connection.lanes), "dirty": connection._dirty and connection.alive,
        "state": connection._state.locked(), "io": connection._wire._io_lock.locked(),
    }  # fmt: skip
    return [name for name, whether in held.items() if whether]


def settle(look: Callable[[], object], wanted: object, deadline: float = 8.0) -> object:
    """What is found, once it is as wanted or the time is over."""
    until = time.monotonic() + deadline
    while (found := look()) != wanted and time.monotonic() < until:
        time.sleep(0.02)
    return found


@dataclass
class Plan:
    """One turn: what is asked, what the right answer is, and what the consumer does."""

    nonce: str
    act: str
    session: str | None
    items: list[Json]
    expected: str
    stop: int
    delay: float


class Worker:
    """One thread with its sessions."""

    def __init__(self, number: int, seed: int, stage: Stage, alarm: Alarm, sessions: int, pause: float = 0.0) -> None:
        """``pause``: how long it rests after a turn, in seconds, on average."""
        self.figures = Figures(seed)
        self.begun: float | None = None
        self._name, self._stage, self._alarm = f"{number}", stage, alarm
        self._rng, self._pause = random.Random(f"{seed} worker {number}"), pause
        self._histories: list[list[Json]] = [[] for _ in range(sessions)]
        self._turns = count()
        self.thread = threading.Thread(target=self._run, name=f"stress-{number}", daemon=True)
        self.stop = threading.Event()

    def _run(self) -> None:
        while not self.stop.is_set():
            self.begun = time.monotonic()
            try:
                self._turn()
            except BaseException:
                self._defect(f"raised: {traceback.format_exc(limit=-6)}")
            self.begun = None
            self.stop.wait(self._pause * 2 * self._rng.random())
        self._histories.clear()

    def _defect(self, what: str) -> None:
        self.figures.defects.append(f"thread {self._name}: {what}")

    # One turn.

    def _turn(self) -> None:
        rng = self._rng
        at = rng.randrange(len(self._histories))
        kind = rng.choices(["own", "loose", "shared"], [85, 10, 5])[0]
        history = self._histories[at] if kind != "shared" else []
        session = {"own": f"{self._name}-{at}", "loose": None, "shared": f"shared-{at}"}[kind]
        if len(history) >= 2 * _TURNS or rng.random() < 0.01:
            history.clear()
        plan = self._plan(history, session)
        if rng.random() < 0.01:
            self._stage.provider.release(f"{self._name}-{at}")
        result = self._call(plan)
        if result is not None:
            history[:] = [*plan.items, *result.output_items]
        elif rng.random() < 0.2:
            history[:] = plan.items  # a question that was not answered stays in some histories
        self.figures.counts["turns"] += 1

    def _plan(self, history: list[Json], session: str | None) -> Plan:
        rng = self._rng
        act = rng.choices(list(ACTS), list(ACTS.values()))[0]
        nonce = f"n{self._name}.{next(self._turns)}"
        size = rng.choices([0, 1_000, 300_000], [900, 90, 10])[0]
        items = [*history, user(nonce + " " + "x" * size)]
        return Plan(nonce, act, session, items, answer_to(nonce, said(items)), rng.randrange(12), rng.random() ** 3 * 0.2)

    def _call(self, plan: Plan) -> Result | None:
        provider, token = self._stage.provider, CancelToken()
        try:
            stream = provider.stream(plan.items, session=plan.session, cancel=token)
        except ProviderClosed:
            return None
        self.figures.counts["streams"] += 1
        self.figures.counts[f"act {plan.act}"] += 1
        cancelled_at: list[float] = []
        ways = {"cancel": stream.cancel, "token": token.cancel, "close elsewhere": stream.close}
        if plan.act in ways:
            end = ways[plan.act]

            def act() -> None:
                cancelled_at.append(time.monotonic())
                end()

            self._alarm.after(plan.delay, act)
        ended, seen = self._consume(stream, provider, plan)
        if isinstance(ended, Cancelled) and cancelled_at:
            self.figures.slowest_cancel = max(self.figures.slowest_cancel, time.monotonic() - cancelled_at[0])
        if plan.act != "drop":
            self._check(stream, plan, ended, seen, may_close=provider is not self._stage.provider)
        return ended if isinstance(ended, Result) else None

    def _consume(self, stream: ResponseStream, provider: Provider, plan: Plan) -> tuple[Result | PixirError | None, str]:
        """How the call ended (None: this consumer left it), and what its events said."""
        seen: list[str] = []
        try:
            if plan.act == "never begun":
                stream.cancel()
            elif plan.act == "result":
                result = stream.result()
                return result, result.text
            self._read(stream, provider, plan, seen)
        except PixirError as error:
            error.__traceback__ = None  # leads to this frame, which leads to the stream, which has the error
            return error, error.partial.text if plan.act == "result" and error.partial is not None else "".join(seen)
        except Elsewhere:
            return None, "".join(seen)
        if stream._turn.outcome is None:
            return None, "".join(seen)
        try:
            return stream.result(), "".join(seen)
        except PixirError as error:
            return error, "".join(seen)

    def _read(self, stream: ResponseStream, provider: Provider, plan: Plan, seen: list[str]) -> None:
        act = plan.act
        if act == "drop":
            for number, event in enumerate(stream):
                seen.append(event.text)
                if number >= plan.stop:
                    return
            return
        with stream:
            over = False
            for number, event in enumerate(stream):
                if over:
                    self._defect(f"{plan.nonce}: an event came after the terminal one")
                seen.append(event.text)
                over = isinstance(event, Terminal)
                if number == plan.stop:
                    self._in_the_middle(stream, provider, plan)
                    if act == "leave":
                        return
                if over and act == "late cancel":
                    stream.cancel()
                if over and act == "at terminal":
                    return

    def _in_the_middle(self, stream: ResponseStream, provider: Provider, plan: Plan) -> None:
        if plan.act == "throw":
            raise Elsewhere
        if plan.act == "away":
            time.sleep(2.5 * IDLE)  # the keepalive thread reads meanwhile
        if plan.act == "re-enter" and plan.session is not None:
            try:
                again = provider.complete(plan.items, session=plan.session)
            except PixirError as error:
                error.__traceback__ = None
                self._demand(isinstance(error, (SessionBusy, ProviderClosed)), plan, f"re-entry gave {error!r}")
            else:
                over = {stream.metadata["active_transport"], again.provider_metadata["active_transport"]}
                over_already = stream._turn.assembler.terminal is not None
                self._demand("http_sse" in over or over_already, plan, "the session was lent twice")

    # Whether it was right.

    def _check(self, stream: ResponseStream, plan: Plan, ended: Result | PixirError | None, seen: str, may_close: bool) -> None:
        outcome = stream._turn.outcome
        text = seen
        if ended is None:
            ended = outcome
        if isinstance(ended, Result):
            text = ended.text
            self.figures.counts["completed"] += 1
            self._demand(text == plan.expected, plan, f"the text is {text[:200]!r}")
            self._demand(seen == text, plan, f"the events said {seen[-80:]!r}, the result {text[-80:]!r}")
        else:
            assert ended is not None
            self.figures.errors[ended.kind] += 1
            part = ended.partial
            self._demand(part is not None and part.text == seen, plan, f"partial {_end(part)}, seen {seen[-40:]!r}")
            self._demand(plan.expected.startswith(seen), plan, f"the text begins with {seen[:200]!r}")
            own = ("leave", "throw", "cancel", "token", "close elsewhere", "never begun", "at terminal")
            ok = ended.kind in _EXPECTED or (ended.kind == "cancelled" and plan.act in own)
            self._demand(ok and (ended.kind != "closed" or may_close), plan, f"ended with {ended!r}: {ended}")
        self.figures.counts["bytes checked"] += len(text)
        self._check_end(stream, plan, ended)
        if isinstance(ended, PixirError):
            ended.__traceback__ = None

    def _check_end(self, stream: ResponseStream, plan: Plan, ended: Result | PixirError) -> None:
        """It has ended in one way, and stays so."""
        for _ in range(2):
            try:
                again: Result | PixirError = stream.result()
            except PixirError as error:
                again = error
            self._demand(again is ended, plan, f"ended with {ended!r}, then with {again!r}")
        with suppress(StopIteration):
            self._demand(next(stream) is None, plan, "an event came after the end")

    def _demand(self, holds: bool, plan: Plan, what: str) -> None:
        if not holds:
            self._defect(f"{plan.nonce} ({plan.act}, {plan.session}): {what}")


def _end(part: Result | None) -> str:
    return "none" if part is None else f"{part.text[-40:]!r}"


def _left(before: tuple[int, int], over_http: int) -> list[str]:
    """What this process has more of than before; ``over_http``: how many requests went that way."""

    def more() -> list[str]:
        threads, files = threading.active_count() - before[0], len(os.listdir("/proc/self/fd")) - before[1]
        return [f"{number} {name}" for name, number in (("threads", threads), ("descriptors", files)) if number > 0]

    found = settle(more, [])
    assert isinstance(found, list)
    kept = _kept()
    if kept and max(kept.values()) <= over_http:
        gc.collect()  # urllib3's errors hold each other and the call in a cycle; there is at most one for each of its calls
        kept = _kept()
    return [*found, *(f"{number} {name}" for name, number in kept.items())]


def _kept() -> Counter[str]:
    names = (type(one).__name__ for one in gc.get_objects() if str(type(one).__module__).startswith("pixir_sync"))
    return Counter(name for name in names if name in _COUNTED)


def _play(workers: list[Worker], stages: list[Stage], seconds: float, figures: Figures) -> None:
    """Let them run, closing a provider now and then; notice a thread that hangs."""
    until, swap = time.monotonic() + seconds, time.monotonic() + _SWAP
    for worker in workers:
        worker.thread.start()
    while True:
        time.sleep(0.1)
        now = time.monotonic()
        stuck = [w.thread.name for w in workers if w.begun is not None and now - w.begun > _STUCK]
        if stuck:
            figures.defects.append(f"hangs: {stuck}")
            faulthandler.dump_traceback()
            return
        if now > until:
            for worker in workers:
                worker.stop.set()
            if not any(worker.thread.is_alive() for worker in workers):
                return
        elif now > swap:
            for stage in stages:
                stage.swap()
            swap = time.monotonic() + _SWAP


def stress(seconds: float, seed: int, *, tls: bool = False, threads: int = 16, sessions: int = 4) -> Figures:
    """Run it. What is wrong stands in the figures' ``defects``."""
    figures, began = Figures(seed), time.monotonic()
    before, collecting = (threading.active_count(), len(os.listdir("/proc/self/fd"))), gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        server = Server(seed, tls)
        alarm = Alarm()
        stages = [Stage(server, transport, figures) for transport in ("websocket", "auto")]
        workers = [Worker(number, seed, stages[number % 2], alarm, sessions) for number in range(threads)]
        _play(workers, stages, seconds, figures)
        for worker in workers:
            figures.add(worker.figures)
        del workers
        if not any(defect.startswith("hangs") for defect in figures.defects):
            alarm.end()
            for stage in stages:
                stage.end()
        del stages, alarm
        figures.server = server.end()
        figures.defects += [f"the server says: {defect}" for defect in figures.server["defects"]]
        if figures.server["open"]:
            figures.defects.append(f"left over: {figures.server['open']} connections at the server")
        del server
        over_http = sum(number for name, number in figures.counts.items() if name.startswith("fallbacks."))
        figures.defects += [f"left over: {what}" for what in _left(before, over_http)]
    finally:
        if collecting:
            gc.enable()
    figures.seconds = time.monotonic() - began
    return figures


def main() -> int:
    """The program: 1 where there was a defect."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--threads", type=int, default=16)
    given = parser.parse_args()
    figures = stress(given.seconds, given.seed, tls=given.tls, threads=given.threads)
    print(figures)
    return 1 if figures.defects else 0


if __name__ == "__main__":
    raise SystemExit(main())
