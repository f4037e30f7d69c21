"""One thread of the soak: conversations whose every answer it knows, and a consumer that behaves as consumers do.

Rules kept here:

* What the n-th call of a thread is (its session, act, fate, limits) follows from the seed, whatever came of the calls before.
* Nothing is excused: an end that neither this call's act nor its fate nor a noise of the server explains is a defect.
* In a child process none of this thread's books are touched, and no lock of the soak is taken.
"""

from __future__ import annotations

import gc
import random
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pixir_sync import (
    Cancelled,
    CancelToken,
    PixirError,
    Provider,
    ProviderClosed,
    ResponseStream,
    Result,
    SessionBusy,
    Terminal,
    Timeouts,
    tool_output,
    user,
)
from tests.soak.figures import Figures, Suspicion
from tests.soak.forks import Forks
from tests.soak.stage import IDLE, Generation, Stage
from tests.soak.words import FATES, SENTINEL, TOOL, answer_to
from tests.support.stress import Alarm, Elsewhere

__all__ = ["Worker"]

Json = dict[str, Any]

# What a consumer does, and how often in a thousand.
ACTS = {
    "read": 470, "result": 50, "leave": 40, "drop": 50, "throw": 25, "cancel": 60, "token": 30, "close elsewhere": 25,
    "away": 12, "re-enter": 15, "at terminal": 20, "late cancel": 20, "never begun": 10, "idle limit": 15, "total limit": 15,
    "hurry": 20, "tool": 60, "warm up": 15, "release": 20, "drop connections": 20, "long": 25, "oversize": 5, "fork": 4,
}  # fmt: skip
_LEAVES = ("leave", "throw", "cancel", "token", "close elsewhere", "never begun", "at terminal", "drop")
_OWN = {
    **dict.fromkeys(_LEAVES, {"cancelled"}), "idle limit": {"idle_timeout", "first_event_timeout"},
    "total limit": {"total_timeout"}, "hurry": {"pool_timeout"}, "oversize": {"frame_too_large"},
}  # fmt: skip
_NOISE = frozenset({
    "connection_lost", "handshake_refused", "connect_failed", "rate_limited", "permission_denied", "overloaded",
    "provider_http_error",
})  # fmt: skip
_LIMITS = {
    "idle limit": Timeouts(connect=10, pool=40, first_event=0.6, idle=0.4),
    "total limit": Timeouts(connect=10, pool=40, idle=IDLE, total=0.5),
    "hurry": Timeouts(connect=10, pool=0.02, idle=IDLE),
}
_SESSIONS, _TURNS, _SPELL, _SCOPES = 8, 10, 16, (None, "a", "b")
_AWAY = 0.8  # seconds: the keepalive thread reads meanwhile
_LARGEST = 120_000  # characters of a conversation
_LATE = 1.0  # seconds that a cancel may take


@dataclass
class Plan:
    """One turn: decided by the seed alone, but for the history."""

    nonce: str
    act: str
    fate: str
    times: int
    session: str | None
    scope: str | None
    stage: int
    history: list[Json]
    size: int
    stop: int
    delay: float
    reasons: bool
    items: list[Json]
    expected: str = ""
    fields: Json | None = None

    def __str__(self) -> str:
        return f"{self.nonce} (act {self.act!r}, fate {self.fate!r} x{self.times}, session {self.session}, stop {self.stop})"


class Worker:
    """One thread."""

    def __init__(
        self, number: int, seed: int, stages: list[Stage], home: int, figures: Figures, alarm: Alarm, forks: Forks
    ) -> None:
        self.begun: float | None = None
        self.doing = ""
        self.calls = 0
        self.stop = threading.Event()
        self._number, self._seed, self._stages, self._home = number, seed, stages, home
        self._figures, self._alarm, self._forks = figures, alarm, forks
        self._pause = stages[home].plan.pause
        self._histories: dict[object, list[Json]] = {}
        self.thread = threading.Thread(target=self._run, name=f"soak-{number}", daemon=True)

    def _run(self) -> None:
        while not self.stop.is_set():
            self.begun = time.monotonic()
            try:
                self._turn()
            except BaseException:
                self._figures.defect(f"thread {self._number}, {self.doing}: {traceback.format_exc(limit=-8)}")
            self.calls += 1
            self.begun = None
            self.stop.wait(random.Random(f"{self._seed} worker {self._number} pause {self.calls}").expovariate(1 / self._pause))
        self._histories.clear()

    # The programme.

    def _plan(self) -> Plan:
        rng = random.Random(f"{self._seed} worker {self._number} call {self.calls}")
        act = rng.choices(list(ACTS), list(ACTS.values()))[0]
        own = random.Random(f"{self._seed} worker {self._number} spell {self.calls // _SPELL}").randrange(_SESSIONS)
        own = own if rng.random() < 0.9 else rng.randrange(_SESSIONS)
        kind = rng.choices(["own", "loose", "shared"], [75, 20, 5])[0]
        session = {"own": f"{self._number}-{own // 2}", "loose": None, "shared": f"shared-{own}"}[kind]
        stage = self._home if rng.random() < 0.85 else rng.randrange(len(self._stages))
        faulty, fate = rng.random() < 0.3, rng.choice(list(FATES))
        patient = act in ("idle limit", "cancel", "token", "close elsewhere")
        if act in ("idle limit", "total limit") and rng.random() < 0.8:
            faulty, fate = True, rng.choice(("stall 0", "stall 5")) if act == "idle limit" else "delays"
        if not faulty or (FATES[fate].patient and not patient) or act in ("warm up", "fork", "oversize"):
            fate = ""
        scope = _SCOPES[own % len(_SCOPES)]
        forget, new = rng.random() < 0.02, rng.random() < 0.03
        place = self._stages[stage].plan.place  # where what was encrypted is understood
        history = self._histories.setdefault((place, session, scope) if kind != "shared" else None, [])
        if kind == "shared" or new or len(history) >= 2 * _TURNS or sum(len(str(item)) for item in history) > _LARGEST:
            history.clear()
        size = {"long": 12_000, "oversize": 400_000}.get(act, rng.choices([10, 200, 2_000], [80, 15, 5])[0])
        return Plan(
            f"{SENTINEL}{self._number}.{self.calls}", act, fate, rng.choice((1, 1, 2, 9)), session, scope, stage, history, size,
            rng.randrange(12), rng.random() ** 3 * 0.3, rng.random() < 0.15 and not forget, [],
        )  # fmt: skip

    def _turn(self) -> None:
        plan = self._plan()
        self.doing = str(plan)
        text = plan.nonce + (" look_up " if plan.act == "tool" else " ") + "word " * (plan.size // 5)
        plan.items = [*plan.history, user(text)]
        plan.fields = {"metadata": {"nonce": plan.nonce, "fate": plan.fate, "times": str(plan.times)}}
        if plan.reasons:
            plan.fields["reasoning_effort"] = "low"
        if plan.act == "tool":
            plan.fields["tools"] = [TOOL]
        plan.expected = "" if plan.act == "tool" else answer_to(plan.items)
        generation, provider = self._enter(self._stages[plan.stage])
        try:
            self._play(plan, generation, provider)
        finally:
            del provider
            with self._figures.lock:
                generation.running -= 1

    def _enter(self, stage: Stage) -> tuple[Generation, Provider]:
        while True:
            generation = stage.now
            with self._figures.lock:
                generation.running += 1
            provider = generation.provider
            if provider is not None:
                return generation, provider
            with self._figures.lock:  # it was forgotten in this moment
                generation.running -= 1

    def _play(self, plan: Plan, generation: Generation, provider: Provider) -> None:
        with suppress(ProviderClosed):
            if plan.act == "warm up" and plan.session is not None:
                provider.warm_up(plan.items, session=plan.session, scope=plan.scope)
            elif plan.act == "drop connections":
                provider.drop_connections()
        result = self._call(plan, generation, provider)
        if result is not None and plan.act == "tool":
            result = self._after_the_tool(plan, result, generation, provider)
        if result is not None:
            plan.history[:] = [*plan.items, *result.output_items]
        if plan.act == "oversize":
            plan.history.clear()
        if plan.act == "release" and plan.session is not None:
            provider.release(plan.session, plan.scope)
            if provider.has_session(plan.session, plan.scope) and not plan.session.startswith("shared"):
                self._defect(plan, "it has a session that was released")

    def _after_the_tool(self, plan: Plan, result: Result, generation: Generation, provider: Provider) -> Result | None:
        """The second half of a tool's round trip."""
        calls = result.function_calls
        called = [(call.name, sorted(call.args or {})) for call in calls]
        self._demand(called == [("look_up", ["what"])], plan, f"it called {called}")
        plan.items = [*plan.items, *result.output_items, *(tool_output(call.call_id, f"{plan.nonce} found") for call in calls)]
        plan.expected, plan.fate = answer_to(plan.items), ""
        assert plan.fields is not None
        plan.fields["metadata"] = {"nonce": plan.nonce + "t", "fate": "", "times": "0"}
        return self._call(plan, generation, provider)

    # One call.

    def _call(self, plan: Plan, generation: Generation, provider: Provider) -> Result | None:
        token, began = CancelToken(), time.monotonic()
        try:
            stream = provider.stream(plan.items, session=plan.session, scope=plan.scope, cancel=token,
                                     timeouts=_LIMITS.get(plan.act), **(plan.fields or {}))  # fmt: skip
        except ProviderClosed:
            return None
        cancelled_at: list[float] = []
        ways: dict[str, Callable[[], None]] = {"cancel": stream.cancel, "token": token.cancel, "close elsewhere": stream.close}
        if plan.act in ways:
            end = ways[plan.act]

            def act() -> None:
                cancelled_at.append(time.monotonic())
                end()

            self._alarm.after(plan.delay, act)
        ended, seen, read = self._consume(stream, generation, provider, plan)
        now = time.monotonic()
        if isinstance(ended, Cancelled) and cancelled_at and read:
            self._slow(plan, now - cancelled_at[0], stream)
        self._count(plan, generation, ended, read)
        if plan.act != "drop":
            self._check(stream, plan, generation, ended, seen, (began, now))
        return ended if isinstance(ended, Result) else None

    def _slow(self, plan: Plan, seconds: float, stream: ResponseStream) -> None:
        figures = self._figures
        if seconds > figures.slowest_cancel:
            figures.slowest_cancel, figures.slowest_cancelled = seconds, f"{plan}: {stream.metadata}"
        if seconds > _LATE + figures.slowest_pulse:
            self._defect(plan, f"a cancel took {seconds:.2f} s")

    def _count(self, plan: Plan, generation: Generation, ended: Result | PixirError | None, read: bool) -> None:
        kind = "left" if ended is None else "result" if isinstance(ended, Result) else ended.kind
        with self._figures.lock:
            self._figures.ends[kind] += 1
            self._figures.acts[plan.act] += 1
            if read:
                generation.saw[kind] += 1
            if isinstance(ended, Result):
                self._figures.counts["turns"] += 1
                self._figures.counts["deltas"] += bool(ended.provider_metadata["used_previous_response_id"])

    def _consume(self, stream: ResponseStream, generation: Generation, provider: Provider, plan: Plan
                 ) -> tuple[Result | PixirError | None, str, bool]:
        """How the call ended (None: this consumer left it), what its events said, and whether it was read to its end."""
        seen: list[str] = []
        try:
            if plan.act == "never begun":
                stream.cancel()
            if plan.act in ("result", "never begun"):
                result = stream.result()
                return result, result.text, True
            with stream:
                if self._read(stream, generation, provider, plan, seen):
                    return stream.result(), "".join(seen), True
        except PixirError as error:
            error.__traceback__ = None  # leads to this frame, which leads to the stream, which has the error
            partial = error.partial.text if error.partial is not None else ""
            return error, partial if plan.act == "result" else "".join(seen), True
        except Elsewhere:
            return None, "".join(seen), False
        return None, "".join(seen), False

    def _read(self, stream: ResponseStream, generation: Generation, provider: Provider, plan: Plan, seen: list[str]) -> bool:
        """Whether it was read to its end."""
        over = False
        for number, event in enumerate(stream):
            if over:
                self._defect(plan, "an event came after the terminal one")
            seen.append(event.text)
            over = isinstance(event, Terminal)
            if number == plan.stop:
                if plan.act in ("leave", "drop"):
                    return False
                self._in_the_middle(stream, generation, provider, plan)
            if over and plan.act == "late cancel":
                stream.cancel()
            if over and plan.act == "at terminal":
                return False
        return True

    def _in_the_middle(self, stream: ResponseStream, generation: Generation, provider: Provider, plan: Plan) -> None:
        if plan.act == "throw":
            raise Elsewhere
        if plan.act == "away":
            time.sleep(_AWAY)
        if plan.act == "fork":
            self._forks.fork(stream, provider, plan.session, plan.stage, str(plan))
        if plan.act == "re-enter" and plan.session is not None:
            self._re_enter(stream, generation, provider, plan)

    def _re_enter(self, stream: ResponseStream, generation: Generation, provider: Provider, plan: Plan) -> None:
        try:
            again = provider.complete(plan.items, session=plan.session, scope=plan.scope)
            with self._figures.lock:
                generation.saw["result"] += 1
        except PixirError as error:
            error.__traceback__ = None
            with self._figures.lock:
                generation.saw[error.kind] += error.partial is not None  # else it was refused before it was a stream
            expected = isinstance(error, (SessionBusy, ProviderClosed)) or error.kind in _NOISE
            self._demand(expected, plan, f"re-entry gave {error!r}")
            return
        over = {stream.metadata["active_transport"], again.provider_metadata["active_transport"]}
        self._demand("http_sse" in over or stream._turn.assembler.terminal is not None, plan, "the session was lent twice")

    # Whether it was right.

    def _check(self, stream: ResponseStream, plan: Plan, generation: Generation, ended: Result | PixirError | None, seen: str,
               when: tuple[float, float]) -> None:  # fmt: skip
        outcome = stream._turn.outcome if ended is None else ended
        assert outcome is not None
        if isinstance(outcome, Result):
            self._demand(outcome.text == plan.expected, plan, f"the text is {outcome.text[:300]!r}, not {plan.expected[:300]!r}")
            self._demand(seen == outcome.text, plan, f"the events said {seen[-80:]!r}, the result {outcome.text[-80:]!r}")
            total = outcome.provider_metadata["input_items_total"]
            self._demand(total == len(plan.items), plan, f"{total} items instead of {len(plan.items)}")
        else:
            part = outcome.partial
            said = None if part is None else part.text
            self._demand(said == seen, plan, f"partial {said!r:.200}, seen {seen!r:.200}")
            self._demand(plan.expected.startswith(seen), plan, f"the text begins with {seen[:200]!r}")
            self._check_kind(plan, generation, outcome, when)
        with self._figures.lock:
            self._figures.counts["bytes checked"] += len(seen)
        self._check_end(stream, plan, outcome)
        if isinstance(outcome, PixirError):
            outcome.__traceback__ = None

    def _check_kind(self, plan: Plan, generation: Generation, error: PixirError, when: tuple[float, float]) -> None:
        own = _OWN.get(plan.act, set()) | (FATES[plan.fate].kinds if plan.fate else set())
        if error.kind in own or (error.kind == "closed" and generation.ended_at is not None and not generation.forgotten):
            return
        what = f"{plan} on {generation.name}: {error!r}: {error} phase {error.phase} {stream_facts(error)}"
        if error.kind in _NOISE:
            self._figures.suspicions.append(Suspicion(generation.plan.place, *when, error.kind, what))
        else:
            self._figures.defect(f"ended as it must not: {what}")

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
            self._defect(plan, what)

    def _defect(self, plan: Plan, what: str) -> None:
        self._figures.defect(f"{plan}: {what}")


def stream_facts(error: PixirError) -> Json:
    """What the evidence of a failed call says."""
    meta = error.partial.provider_metadata if error.partial is not None else {}
    names = ("active_transport", "fallback_reason", "attempts", "connection_reused", "close_code", "total_ms", "first_event_ms")
    return {name: meta.get(name) for name in names} | error.details


def collect(rng: random.Random) -> str:
    """Switch the garbage collector on or off, or let it run."""
    act = rng.choice(("on", "off", "now"))
    if act == "now":
        gc.collect()
    else:
        (gc.enable if act == "on" else gc.disable)()
    return act
