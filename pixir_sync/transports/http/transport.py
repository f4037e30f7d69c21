"""One attempt over HTTP with server-sent events: the whole input out, events in as they arrive."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from pixir_sync.config import ProviderConfig
from pixir_sync.forking import importing, watch
from pixir_sync.protocol.checks import encoded
from pixir_sync.protocol.errors import ConnectionLost, InvalidResponse
from pixir_sync.transports.base import Call, Transport

if TYPE_CHECKING:
    from pixir_sync.protocol.sse import Decoded
    from pixir_sync.transports.http.guard import Guard
    from pixir_sync.transports.http.session import HttpSession, Response

__all__ = ["HttpTransport"]

_REUSE_WAIT = 0.25
"""How long the end of the body is waited for after the terminal event, in seconds, so that the connection can serve again."""

_EVIDENCE_HEADERS = "x-ratelimit-"


class HttpTransport(Transport):
    """Responses over HTTP/SSE. Threads share it; connections are kept by its session."""

    name: ClassVar[str] = "http_sse"

    def __init__(self, config: ProviderConfig) -> None:
        self._config = config
        # At most one, which all threads get: setdefault is atomic, and a session that lost the race was never used.
        self._made: dict[str, HttpSession] = {}
        self._running: dict[object, None] = {}
        watch(self)

    def after_fork(self) -> None:
        """The calls that run are the parent's; the session makes itself anew in a child process."""
        self._running.clear()

    @property
    def live(self) -> int:
        """How many calls run: each holds a connection."""
        return len(self._running)

    @property
    def session(self) -> HttpSession:
        """The session, made (and requests imported) when first used."""
        found = self._made.get("session")
        if found is None:
            with importing:
                from pixir_sync.transports.http.session import HttpSession

            found = self._made.setdefault("session", HttpSession(self._config.network))
        return found

    def close(self) -> None:
        for session in list(self._made.values()):
            session.close()

    def preview(self, body: dict[str, Any]) -> dict[str, Any]:
        return body | {"stream": True}

    def attempt(self, call: Call) -> Iterator[list[dict[str, Any]]]:
        with importing:
            from pixir_sync.transports.http.guard import Guard

        guard = Guard(call.timeouts, call.deadline, call.cancel)
        evidence, began = call.evidence, time.monotonic()
        response: Response | None = None
        self._running[guard] = None
        try:
            response = self._open(call, guard)
            for events, malformed, ended in self._batches(response):
                evidence.malformed_events += malformed
                if not events:
                    continue
                if evidence.first_event_ms is None:
                    evidence.first_event_ms = (time.monotonic() - began) * 1000
                yield events
                if ended:
                    whole, response = response, None
                    whole.finish(_REUSE_WAIT)
                    return
                guard.expect_next()
        finally:
            if response is not None:
                response.abandon()
            self._running.pop(guard, None)
        raise ConnectionLost("the event stream ended before the response did", phase=guard.phase, request_sent=True)

    def _open(self, call: Call, guard: Guard) -> Response:
        """Send the request. The evidence is filled in also where that fails."""
        evidence = call.evidence
        evidence.active_transport = self.name
        data, headers = self._request(call)
        try:
            response = self.session.exchange("POST", self._config.address("/responses"), headers, data, guard, call.secrets)
        finally:
            evidence.connection_reused, evidence.connect_ms = guard.reused, guard.connect_ms
            evidence.bytes_sent += guard.bytes_sent
        evidence.request_id = response.headers.get("x-request-id")
        evidence.rate_limits = {n: v for n, v in response.headers.items() if n.startswith(_EVIDENCE_HEADERS)}
        took = response.headers.get("openai-processing-ms", "")
        evidence.processing_ms = float(took) if took.isdigit() else None
        kind = response.headers.get("content-type", "")
        if kind and not kind.lower().startswith("text/event-stream"):
            response.abandon()
            raise InvalidResponse(f"the server answered with {kind.split(';')[0][:80]}, not with an event stream",
                                  phase="first_event", request_sent=True)  # fmt: skip
        return response

    def _request(self, call: Call) -> tuple[bytes, dict[str, str]]:
        from pixir_sync.network import merged, shared_headers

        body = call.full_input()
        call.evidence.input_items_sent = call.evidence.input_items_total = len(body["input"])
        data = encoded(self.preview(body))
        credential = call.authorize()
        own = {"Accept": "text/event-stream", "Content-Type": "application/json"}
        return data, merged(own, shared_headers(self._config), call.headers, credential)

    @staticmethod
    def _batches(response: Response) -> Iterator[Decoded]:
        """What each read of the body brings, where it brings the end of an event."""
        with importing:
            from sseclient import SSEClient

            from pixir_sync.protocol.sse import EventBlocks, EventDecoder

        guard, blocks, decoder = response.guard, EventBlocks(), EventDecoder(SSEClient)
        try:
            while chunk := response.read():
                block = blocks.push(chunk)
                if block:
                    yield decoder.decode(block)
                if blocks.error is not None:
                    raise blocks.error
                guard.check()
            guard.check()  # a cancel shuts the connection down, which may look like the end of the body
            blocks.finish()
        finally:
            blocks.error = None  # the traceback of one that was raised knows the blocks: no cycle
