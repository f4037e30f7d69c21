"""The answer to one ``POST /v1/responses``: server-sent events, or the whole response at once.

Rules kept here:

* One write per event: event n+1 leaves after event n left.
* The head goes with the first event or bytes: until then a request can still be refused with a status.
* Without ``stream`` the same steps are taken, and the last response that they name is the answer; an error event is a status.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from aiohttp import web

from pixir_sync.local.errors import ApiError
from pixir_sync.local.faults import Exchange
from pixir_sync.local.playing import play
from pixir_sync.local.steps import Close, Delay, Finish, Head, HttpError, NotJson, Pause, Slowly, Step, Together, Wire, events_in
from pixir_sync.local.waiting import waited
from pixir_sync.local.wire import cut, payload_of
from pixir_sync.protocol.codec import dumps

if TYPE_CHECKING:
    from pixir_sync.local.front import Front

__all__ = ["Answering"]

_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}


class Answering:
    """Answers one request."""

    def __init__(self, front: Front, request: web.BaseRequest, body: dict[str, Any], started: float) -> None:
        self._front, self._request, self._body, self._started = front, request, body, started
        self._streams = body.get("stream") is True

    async def run(self) -> web.StreamResponse:
        """The answer, sent. Raises `ApiError` for what the engine refuses before anything was sent."""
        exchange = Exchange(self._body, "http_sse" if self._streams else "http")
        steps = takewhile(lambda step: not isinstance(step, Finish), play(self._front.shared, exchange, None))
        return await (self._stream(steps) if self._streams else self._whole(steps))

    async def _whole(self, steps: Iterator[Step]) -> web.StreamResponse:
        response: Any = None
        for step in steps:
            match step:
                case HttpError():
                    return self._front.refuse(step, self._started)
                case Close():
                    await cut(self._request, reset=step.reset)
                case Pause() | Delay():
                    await waited(step)
                case bytes() | NotJson():
                    head = {"Content-Type": "application/json", **self._front.headers(self._started)}
                    return web.Response(body=payload_of(step), headers=head)
            for event in events_in(step):
                if event.get("type") == "error":
                    status, error = _as_response(event)
                    return self._front.json(error, self._started, status=status)
                response = event.get("response", response)
        if isinstance(response, dict):
            response = self._front.shared.engine.settle(response)
        return self._front.json(response, self._started)

    async def _stream(self, steps: Iterator[Step]) -> web.StreamResponse:
        self._answer = web.StreamResponse(headers={**_HEADERS, **self._front.headers(self._started)})
        try:
            for step in steps:
                if isinstance(step, HttpError) and not self._answer.prepared:
                    return self._front.refuse(step, self._started)
                await self._step(step)
        except Exception as error:
            if self._answer.prepared and not isinstance(error, ConnectionError):  # too late for a status
                self._front.shared.failures.append(error)
                await cut(self._request)
            raise
        await self._answer.prepare(self._request)
        await self._answer.write_eof()
        return self._answer

    async def _step(self, step: Step) -> None:
        match step:
            case Pause() | Delay():
                await waited(step)
            case Close():
                await cut(self._request, reset=step.reset)
            case Head():
                await self._answer.prepare(self._request)
            case Together():
                await self._write(b"".join(map(_sse, step.sent)))
            case HttpError():
                await self._write(_sse(step.frame()))
            case Slowly():
                await self._slowly(step)
            case dict() | bytes() | NotJson():
                await self._write(_sse(step))

    async def _write(self, data: bytes) -> None:
        await self._answer.prepare(self._request)
        await self._answer.write(data)
        await asyncio.sleep(0)

    async def _slowly(self, step: Slowly) -> None:
        data = _sse(step.sent)
        for start in range(0, len(data), step.size):
            await self._write(data[start : start + step.size])
            await asyncio.sleep(step.interval)


def _sse(sent: Wire) -> bytes:
    """What goes over the wire for it; bytes go as they are."""
    if isinstance(sent, bytes):
        return sent
    if isinstance(sent, NotJson):
        return b"data: " + sent.data + b"\n\n"
    kind = sent.get("type")
    head = f"event: {kind}\n".encode() if isinstance(kind, str) else b""
    return head + b"data: " + dumps(sent) + b"\n\n"


def _as_response(event: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """The status and the body that say what an error event says."""
    status = event.get("status")
    if "error" in event:
        return status or 500, {"error": event["error"]}
    error = ApiError(status or 500, str(event.get("message")), code=event.get("code"), param=event.get("param"))
    return error.status, error.body()
