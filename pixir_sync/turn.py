"""`Turn`: one call from its first event to its one end: attempts, retries, fallback, assembly.

Rules kept here:

* A stream ends in exactly one way: a `Result`, or one `PixirError`. A terminal event that was read wins over a cancel.
* What comes after a failure is decided by the replay table (`pixir_sync.protocol.turn`) and carried out here, nowhere else.
* A turn does not know its generator nor its stream: without a cycle an abandoned call ends with its last reference, also while
  the garbage collector is off. No lock is taken on that way out, and no hook is called: its record waits (`pixir_sync.hooks`).
* Nor is a failed call a cycle: it knows its error without the traceback (`Ending`), and who raises an error has no name for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from functools import partial
from itertools import count
from typing import Any

from pixir_sync.cancellation import FORKED, CancelToken, cancelled
from pixir_sync.config import Timeouts
from pixir_sync.deadline import Deadline
from pixir_sync.engine import Engine, OnPayload, log
from pixir_sync.protocol import outcome
from pixir_sync.protocol.assembly import HANDLERS, PLAIN, ResultAssembler
from pixir_sync.protocol.classify import from_event
from pixir_sync.protocol.errors import Cancelled, ConnectionLost, InvalidRequest, PixirError, ProviderClosed, TotalTimeout
from pixir_sync.protocol.events import IGNORED, Event, Terminal, is_output, is_terminal, kind_of
from pixir_sync.protocol.outcome import Ending
from pixir_sync.protocol.request import Outline
from pixir_sync.protocol.result import Result
from pixir_sync.protocol.turn import GATED, Action, Decision, Situation, decide, own_words
from pixir_sync.transports.base import Call

__all__ = ["OnPayload", "Turn"]

_numbers = count()
_NO_DEADLINE = Deadline(None)  # of a call that has not begun
_DELIVERED = ("completed", "incomplete")
_REMEMBERED = 600.0  # seconds that it is remembered that a server has no WebSocket


class Turn:
    """One call from its first ``next`` to its end. One thread at a time; only `token` may be touched from others."""

    outcome = Ending()

    def __init__(
        self,
        engine: Engine,
        outline: Outline,
        *,
        session: str | None,
        scope: str | None,
        timeouts: Timeouts,
        headers: Mapping[str, str],
        on_payload: OnPayload | None,
        cancel: CancelToken | None,
    ) -> None:
        self.engine = engine
        self.token = CancelToken()
        self.evidence = engine.evidence()
        self.assembler = ResultAssembler()
        self.consumer: int | None = None  # the thread that asked for the last batch of events
        self._outline = outline
        self._session, self._scope = session, scope
        self._timeouts, self._headers = timeouts, headers
        self._on_payload, self._parent = on_payload, cancel
        self._began, self._deadline = 0.0, _NO_DEADLINE
        self._transport = engine.transports[engine.order[0]]
        self._situation = Situation(policy=engine.config.retry, preference=engine.preference)
        self._parse: Callable[[Any], Any] | None = None
        self._model = ""
        self._diary = engine.hooks.diary()
        self._sent, self._refreshed = False, 0

    # The one generator of a call.

    def run(self) -> Generator[Event, None, Result]:
        number = next(_numbers)
        self.consumer = threading.get_ident()
        link = self._parent.register(self.token.cancel) if self._parent is not None else None
        self.engine.live[number] = self.token
        try:
            call = self._begin()
            while True:
                try:
                    yield from self._attempt(call)
                    self.outcome = result = self._deliver()
                    self._report()
                    return result
                except PixirError as error:
                    if (decision := self._next_step(self._enriched(error))) is None:
                        raise
                self._carry_out(decision, call)
        except PixirError as error:
            self.outcome = self._enriched(error)
            self._report()
            raise
        finally:
            self.stop()
            self._tell(self._diary.leave)
            self.engine.live.pop(number, None)
            if link is not None and self._parent is not None:
                self._parent.unregister(link)

    def _begin(self) -> Call:
        """Read the request, once: what is sent from here on is a snapshot."""
        self.engine.hooks.deliver()  # of earlier calls: their time is none of this one's
        self._began = time.monotonic()
        self._diary.begin()
        self._deadline = Deadline(self._timeouts.total)
        if self.engine.closed:
            raise ProviderClosed("the provider is closed")
        self._check_cancel()
        self.engine.stats.fold()
        known = self._transport.known(self._session, self._scope) if self._on_payload is None else ()
        body = self.engine.snapshot(self._outline, known, self._on_payload)
        self._model = body.fields["model"]
        self._parse = body.parse
        self._situation.stores, self._situation.caller_managed = body.stores, body.caller_managed
        self._situation.refreshable = self.engine.refresher.renew is not None
        call = Call(
            body=body, timeouts=self._timeouts, deadline=self._deadline, cancel=self.token, evidence=self.evidence,
            authorize=dict, origin_of=self.engine.origins, headers=self._headers, session=self._session, scope=self._scope,
            identity=self.engine.identity, assembler=self.assembler,
        )  # fmt: skip
        if body.settled:
            body.check_rest()
        else:
            call.full_input()  # what a server would refuse is said before any network
        return call

    def _opened(self, call: Call) -> Iterator[list[Any]]:
        """The batches of a new attempt; nothing is opened yet."""
        call.assembler = self.assembler = ResultAssembler()
        self.evidence.next_attempt()
        self._sleep(self.engine.wait_for_rate())
        self._refreshed = self.engine.refresher.count  # before the credential is read
        call.authorize = partial(self.engine.authorize, call.secrets, self._headers)
        return self._transport.attempt(call)

    def _attempt(self, call: Call) -> Iterator[Event]:
        """Make one attempt and yield its events; ends after the terminal one, which it raises if it is an error.

        The path of each event: no lock, no log call, no copy, and no generator for a batch, which may be one event.
        """
        batches, assembler, token = self._opened(call), self.assembler, self.token
        try:
            for batch in batches:
                self.consumer = threading.get_ident()  # the stream may have gone to another thread
                for data in batch if assembler.terminal is None else ():
                    if token.reason is not None and (token.reason == FORKED or not any(map(is_terminal, batch))):
                        raise cancelled(token)
                    try:
                        view, take = HANDLERS[data["type"]]
                    except (KeyError, TypeError):  # unknown to us, or no event at all
                        kind = kind_of(data)
                        call.evidence.malformed_events += kind is None
                        if kind is None or kind in IGNORED:
                            continue
                        view, take = PLAIN
                    take(assembler, data)
                    assembler.events += 1
                    if view is Terminal:
                        if not self._failed(assembler):
                            self.engine.origins.note(assembler.output_items(), self._model)
                            yield Terminal(data)
                        break
                    if not assembler.output_seen:
                        assembler.output_seen = is_output(data["type"])
                    yield view(data)
                if token.reason is not None and token.reason == FORKED:
                    raise cancelled(token)  # before anything of the parent's is touched
        except PixirError:
            if assembler.terminal is None or self._failed(assembler):
                raise
        finally:
            self._count(batches)
        self._judge(assembler, call)

    def _count(self, batches: Iterator[list[Any]]) -> None:
        self.engine.count_attempt(self.evidence)
        self._diary.bytes_sent += self.evidence.bytes_sent
        if isinstance(batches, Generator):
            batches.close()

    def _judge(self, assembler: ResultAssembler, call: Call) -> None:
        """Raise, unless the attempt ended with an answer."""
        if assembler.terminal is None:
            raise ConnectionLost("the transport ended without a terminal event", phase="stream", request_sent=True)
        if self._failed(assembler):
            raise from_event(assembler.terminal, secrets=call.secrets, now=time.time())

    @staticmethod
    def _failed(assembler: ResultAssembler) -> bool:
        return assembler.status not in _DELIVERED

    # What follows an attempt.

    def _deliver(self) -> Result:
        self.evidence.total_ms = (time.monotonic() - self._began) * 1000
        return outcome.finished(self.assembler, self.evidence, self._parse)

    def _next_step(self, error: PixirError) -> Decision | None:
        """The replay table's answer; None where nothing follows."""
        now, assembler = self._situation, self.assembler
        now.transport = self._transport.name
        now.connection_reused = self.evidence.connection_reused
        now.any_event, now.output = assembler.events > 0, assembler.output_seen
        now.created = now.created or bool(assembler.response)
        decision = decide(error, now, self.engine.chance())
        if error.code in GATED:
            self.evidence.attempts -= 1  # nothing was tried
        delivered = assembler.terminal is not None and not self._failed(assembler)
        if decision.action is Action.RAISE or delivered:
            return None
        self._check_cancel()  # else the failure alone would not have ended the call
        if decision.delay >= self._deadline.remaining():
            return None  # the limit for the whole call would pass before the next attempt
        if decision.action is Action.HTTP:
            self.evidence.fallback_message = own_words(error)
        attempt, following = self.evidence.attempts, decision.action.value
        log.info("attempt %d failed with %s (%s), next: %s", attempt, error.kind, error.status, following)
        return decision

    def _carry_out(self, decision: Decision, call: Call) -> None:
        stats = self.engine.stats
        call.fresh = decision.action is Action.FULL_FRESH_SOCKET
        if decision.action is Action.HTTP:
            if decision.remember:
                self._transport.avoid(_REMEMBERED)
            self._transport, call.preferred = self.engine.transports["http_sse"], None
            self.evidence.fallback_reason = decision.reason
            self.evidence.continuation_reset_reason = None
            stats.note(f"fallbacks.{decision.reason}")
            return
        stats.note(f"replays.{decision.reason}")
        self._diary.replay(decision.reason)
        self._situation.retries += decision.action is Action.RETRY
        if decision.action is Action.REFRESH:
            self.engine.refresher.refresh(self._refreshed, self.token, self._deadline)
        self._sleep(decision.delay)

    def _sleep(self, seconds: float) -> None:
        if seconds > 0:
            self.token.wait(min(seconds, self._deadline.remaining()))
        self._check_cancel()
        if self._deadline.passed:
            raise TotalTimeout("the call took longer than its total limit")

    def _check_cancel(self) -> None:
        if self.token.cancelled:
            raise cancelled(self.token)

    # The end.

    def stop(self) -> None:
        """The consumer left: the end is the result where the terminal event was read, else `Cancelled` with what there is."""
        if self.outcome is not None:
            return
        try:
            if self.assembler.terminal is not None and not self._failed(self.assembler):
                self.outcome = self._deliver()
            else:
                left = cancelled(self.token) if self.token.cancelled else Cancelled("the stream was closed")
                self.outcome = self._enriched(left)
        except PixirError as error:
            self.outcome = self._enriched(error)

    def _enriched(self, error: PixirError) -> PixirError:
        """The error with what this call knows: nothing that was paid for is lost."""
        assembler = self.assembler
        self.evidence.total_ms = (time.monotonic() - self._began) * 1000 if self._began else None
        error.partial = outcome.partial(assembler, self.evidence)
        error.output_seen = assembler.output_seen
        error.request_sent = self._sent = self._sent or error.request_sent or assembler.events > 0  # by any attempt
        error.response_id = error.response_id or assembler.response_id
        error.request_id = error.request_id or self.evidence.request_id
        if error.phase is None:
            error.phase = "stream" if assembler.events else "shape" if isinstance(error, InvalidRequest) else "connect"
        return error

    def _report(self) -> None:
        """Count the end, and tell the hooks."""
        ended, note = self.outcome, self.engine.stats.note
        if isinstance(ended, PixirError):
            note(f"errors.{ended.kind}")
        elif self.evidence.active_transport is not None:
            note(f"turns.{self.evidence.active_transport}.{'delta' if self.evidence.used_previous_response_id else 'full'}")
        self._tell(self._diary.end)

    def _tell(self, tell: Callable[..., None]) -> None:
        if not self._diary or self.token.reason == FORKED:
            return  # nobody is left to tell, or it is for the parent to tell
        host, port = self.engine.place_of(self.evidence.active_transport or self._transport.name)
        tell(self.outcome, self.evidence, model=self._model, server_address=host, server_port=port)
