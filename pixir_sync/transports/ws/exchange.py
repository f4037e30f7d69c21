"""`Exchange`: one request on one connection: what to send, the events of its answer, and what the connection holds after it.

Rules kept here:

* The baseline leaves the connection when the request is sent, and a new one comes only with a completed response. So every other
  end, whatever it is, leaves none.
* What is sent is decided before anything is opened: a request that is too large for a frame costs no connection.
* `abandon` runs in finalisers: it takes no lock.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any, cast

from pixir_sync.cancellation import cancelled
from pixir_sync.config import ProviderConfig
from pixir_sync.deadline import Deadline
from pixir_sync.protocol.classify import from_event
from pixir_sync.protocol.codec import CodecError, dumps, loads, quick_loads
from pixir_sync.protocol.continuation import Mode
from pixir_sync.protocol.errors import (
    ConnectionLost,
    DeadlineExceeded,
    FirstEventTimeout,
    HandshakeRefused,
    IdleTimeout,
    InvalidResponse,
    NotAuthenticated,
    Phase,
    PixirError,
    TotalTimeout,
    WriteTimeout,
)
from pixir_sync.protocol.events import TERMINAL, is_output
from pixir_sync.protocol.frames import TEXT, FrameError, check_text, frame
from pixir_sync.transports.base import Call
from pixir_sync.transports.ws.connection import Connection, Sent
from pixir_sync.transports.ws.death import retired, stale
from pixir_sync.transports.ws.lanes import Lane
from pixir_sync.transports.ws.message import worded
from pixir_sync.transports.ws.routing import AGE_LIMIT, response_id

__all__ = ["Exchange"]

_NOT_FOUND = "previous_response_not_found"


class Exchange:
    """One attempt. Not for several threads at once, but for `abandon`.

    Attributes:
        connection: None before `run_on`. completed: whether the answer ended as completed and what it left was committed.
    """

    def __init__(
        self, call: Call, config: ProviderConfig, frame_limit: int,
        held: Connection | None, reset: str | None, on_cancel: Callable[[], None],
    ) -> None:  # fmt: skip
        """``held``: the connection that stands, None where one will be opened; ``reset``: why there is none, if that is known.

        ``frame_limit``: the bytes that the endpoint takes at most. ``on_cancel`` is called once the call was cancelled, from any
        thread; it must take no lock.
        """
        self.call = call
        self._on_cancel = on_cancel
        self._over = False
        self._retained_limit = config.pool.max_retained_bytes
        self.connection: Connection | None = None
        self._phase: Phase = "connect"
        self.lane = Lane()
        self._began = monotonic()
        self._link: int | None = None
        self._idle = math.inf if call.timeouts.idle is None else call.timeouts.idle
        self._limit = Deadline(None)  # of the wait for the next event; put off for each
        self._first = True  # no event came yet
        self._begun = False  # no event came that can only be of this response
        self._message = worded(call, cast(Mode, config.continuation), held, reset, frame_limit)

    # Sending, and the events.

    def run_on(self, connection: Connection) -> None:
        """Send the request on this connection. Raises `PixirError`."""
        call, lane = self.call, self.lane
        connection.reset_reason = None  # from here on a cancel may set it
        self.connection = call.preferred = connection
        self._link = call.cancel.register(self._stop)
        self._phase = "send" if connection.served else "connect"
        first = call.timeouts.idle if call.timeouts.first_event is None else call.timeouts.first_event
        try:
            self._limit.at = call.deadline.earlier(first)
            begun = connection.begin(lane, self._limit)
        except PixirError as error:
            if call.cancel.cancelled:
                raise self._placed(cancelled(call.cancel)) from None
            raise self._placed(stale(error) if connection.served else error) from None
        if not begun:
            raise self._stopped(FirstEventTimeout)
        self._phase = "send"
        connection.baseline = None
        try:
            how = connection.send(lane, frame(TEXT, self._message.data, os.urandom(4)), call.timeouts.write, call.deadline)
        finally:
            call.evidence.bytes_sent += lane.sent
        if how in (Sent.STOPPED, Sent.STALLED):
            if connection.death is not None and not lane.stopped:
                raise self._lost()
            raise self._stopped(WriteTimeout)
        self._phase = "first_event"
        self._limit.at = call.deadline.earlier(first)

    def batches(self) -> Iterator[list[Any]]:
        """The events up to the terminal one, as they come. Blocks. Raises `PixirError`.

        A wait begins when a batch is asked for: the time that the consumer took is none of it. What is no event of the response
        is no progress. (A generator keeps at hand what each wait needs: 25 bytecodes less than a method that is called for each.)
        """
        assert self.connection is not None
        lane, limit, assembler, receive = self.lane, self._limit, self.call.assembler, self.connection.receive
        idle, total, shown = self._idle, self.call.deadline.at, 0
        while assembler.terminal is None:
            now = monotonic()
            if assembler.events != shown:
                shown = assembler.events
                limit.at = late if (late := now + idle) < total else total
            try:
                # The limit passes also where there is always something to read.
                batch = receive(lane, limit) if now < limit.at else None
            except ConnectionLost as error:
                raise self._placed(cancelled(self.call.cancel) if self.call.cancel.cancelled else error) from None
            except PixirError as error:
                raise self._placed(error) from None
            if batch is None:
                raise self._stopped(IdleTimeout if shown else FirstEventTimeout)
            try:
                events = list(map(quick_loads, batch))
            except ValueError:
                events = self._readable(batch)
            if not self._begun:
                events = self._of_this_response(events)
            if events:
                yield events

    def _readable(self, batch: list[bytes]) -> list[Any]:
        """The objects of a batch without those that are none, which are counted. What is not UTF-8 ends the connection."""
        events: list[Any] = []
        for message in batch:
            try:
                events.append(loads(message))
            except CodecError:
                try:
                    check_text(message)
                except FrameError:
                    raise self._placed(InvalidResponse("the server sent text that is not UTF-8")) from None
                self.call.evidence.malformed_events += 1
        return events

    def _of_this_response(self, events: list[Any]) -> list[Any]:
        """The events without the late end of the last response, which may come until this one has begun."""
        last = self.connection.response_id if self.connection is not None else None
        kept: list[Any] = []
        for at, data in enumerate(events):
            kind = data.get("type") if isinstance(data, dict) else None
            if isinstance(kind, str):
                found = response_id(data)
                if kind in TERMINAL and last is not None and (found == last or (found is None and kind == "response.done")):
                    continue
                if kind in TERMINAL or kind == "response.created" or is_output(kind):
                    self._begun = True
                    kept += events[at:]
                    break
            kept.append(data)
        if self._first and kept:
            self._first = False
            self.call.evidence.first_event_ms = (monotonic() - self._began) * 1000
        return kept

    # The end.

    def finish(self) -> bool:
        """The terminal event was read: what the connection holds now; whether it can serve again. Takes no lock."""
        connection = self.connection
        assert connection is not None
        self._over = True  # before the look at `cancelled`, as `_stop` does it the other way round: one of the two sees the other
        self._let_go()
        connection.end(self.lane)
        return self._settled(connection) and not self.lane.cancelled

    def _settled(self, connection: Connection) -> bool:
        assembler = self.call.assembler
        connection.response_id = assembler.response_id or connection.response_id
        if assembler.status == "completed" and assembler.response_id:
            self._commit(connection, assembler.response_id)
            if connection.reset_reason == "websocket_failed":
                connection.reset_reason = "websocket_reconnected"  # it ended behind the terminal event: that cost nothing
            return True
        connection.reset_reason = "response_failed"
        if assembler.terminal is not None and assembler.terminal["type"] in ("error", "response.failed"):
            failed = from_event(assembler.terminal)
            if failed.code == _NOT_FOUND:
                connection.reset_reason = _NOT_FOUND
            elif failed.code == AGE_LIMIT:
                connection.reset_reason = "max_lifetime"
                return False
            elif isinstance(failed, NotAuthenticated):
                return False  # what it was opened with stays with it, whatever the credential gives from now on
        return True

    def _commit(self, connection: Connection, found: str) -> None:
        self.call.evidence.websocket_captured_response_id = found
        draft = self._message.draft
        if draft is None:
            return
        output = self.call.assembler.output_items()
        try:
            size = self._message.size + len(dumps(output))
        except CodecError:  # half of a surrogate pair: it can be kept and compared, and not be sent again
            size = self._message.size + connection.inbox.received
        if size > self._retained_limit:
            connection.reset_reason, connection.retained = "retained_input_overflow", 0
            return
        connection.baseline, connection.retained = draft.commit(found, output), size

    def failed(self, error: PixirError) -> None:
        """The attempt ended with an error that is not the provider's answer: the connection is of no further use."""
        self._let_go()
        connection = self.connection
        if connection is None:
            return
        if connection.death is not None:
            self.call.evidence.close_code = connection.death.close_code
        early = self._first and connection.served and isinstance(error, (ConnectionLost, HandshakeRefused))
        known = connection.death.reset if connection.death is not None else "websocket_failed"
        if self.call.cancel.cancelled:
            known = "caller_cancelled"
        elif early and known == "websocket_failed":
            known = "websocket_reconnected"
        connection.reset_reason = known
        connection.die(retired(known))

    def _stop(self) -> None:
        """The call was cancelled. From any thread; takes no lock. After the end it must not touch what may be another call's."""
        self.lane.cancelled = True
        if not self._over and self.connection is not None:
            self.connection.reset_reason = "caller_cancelled"  # said before anybody sees the end of the socket
            self.connection.stop(self.lane)
            self._on_cancel()

    def abandon(self) -> None:
        """The consumer left: the server is told by the end of the connection. Takes no lock."""
        self._let_go()
        connection = self.connection
        if connection is not None:
            if connection.reset_reason is None or self.call.cancel.cancelled:  # said before anybody sees the end of the socket
                connection.reset_reason = "caller_cancelled"
            connection.stop(self.lane)

    def _let_go(self) -> None:
        if self._link is not None:
            self.call.cancel.unregister(self._link)
            self._link = None

    # Errors.

    @property
    def phase(self) -> Phase:
        """How far it came."""
        return "stream" if self.call.assembler.events else self._phase

    def _placed(self, error: PixirError) -> PixirError:
        """The error with how far this attempt came."""
        error.phase = self.phase if error.phase is None else error.phase
        error.request_sent = self.lane.sent > 0
        return error

    def _lost(self) -> PixirError:
        assert self.connection is not None and self.connection.death is not None
        return self._placed(self.connection.death.error())

    def _stopped(self, kind: type[DeadlineExceeded]) -> PixirError:
        """Why a wait ended without a result: cancelled, or one of the limits."""
        if self.call.cancel.cancelled:
            return self._placed(cancelled(self.call.cancel))
        if self.lane.overflowed:
            return self._placed(ConnectionLost("the consumer was too far behind", retryable=False))
        if self.call.deadline.passed:
            return self._placed(TotalTimeout("the call took longer than its total limit"))
        return self._placed(kind(_LIMITS[kind]))


_LIMITS: dict[type[DeadlineExceeded], str] = {
    TotalTimeout: "the call took longer than its total limit",
    WriteTimeout: "the server accepted no byte of the request for too long",
    FirstEventTimeout: "no event came in time after the request",
    IdleTimeout: "no further event came in time",
}
