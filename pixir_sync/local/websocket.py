"""One WebSocket: frames in, lanes of turns, events out.

Rules kept here:

* One task reads, so that pings are answered and a close is seen while a turn runs; one task per lane answers, first in,
  first out.
* At most 16 turns run at once on a connection; further ones wait.
* A bad frame is answered with an error frame and the socket is kept; a binary frame ends it (1003), and so does one
  that is too big (1009).
* When the socket ends, its state and its tasks are gone before the handler returns.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NoReturn

from aiohttp import WSMsgType, web

from pixir_sync.local.errors import ApiError, invalid, missing
from pixir_sync.local.rules import check_stream_id
from pixir_sync.local.scenario import Close, HttpError, Pause, Step
from pixir_sync.local.state import Connection
from pixir_sync.protocol.codec import CodecError, dumps, loads

if TYPE_CHECKING:
    from pixir_sync.local.front import Front

__all__ = ["Socket", "cut", "waited"]

_IN_FLIGHT = 16
_CLOSING_TIME = 1.0
_POLL = 0.002

Body = dict[str, Any]


class Socket:
    """Serves one connection from its upgrade to its end."""

    def __init__(self, front: Front, request: web.BaseRequest) -> None:
        self._front, self._request = front, request
        self._ws = web.WebSocketResponse(
            timeout=_CLOSING_TIME, compress=False, max_msg_size=front.shared.frame_limit
        )
        self._state = Connection()
        self._lanes: dict[str | None, asyncio.Queue[Body]] = {}
        self._workers: set[asyncio.Task[None]] = set()
        self._places = asyncio.Semaphore(_IN_FLIGHT)

    async def run(self) -> web.StreamResponse:
        """Serve until either side closes."""
        await self._ws.prepare(self._request)
        self._front.closers.add(self._going_away)
        try:
            async for message in self._ws:
                if message.type is WSMsgType.TEXT:
                    await self._take(message.data)
                elif message.type is WSMsgType.BINARY:
                    await self._send_close(1003, "text frames only")
        finally:
            self._front.closers.discard(self._going_away)
            self._state.close()
            for worker in self._workers:
                worker.cancel()
            await asyncio.gather(*self._workers, return_exceptions=True)
        return self._ws

    async def _going_away(self) -> None:
        await self._send_close(1001, "")

    async def _send_close(self, code: int, reason: str) -> None:
        """Send a close frame and leave it to the reading task to see the client's."""
        if not self._ws.closed:
            payload = struct.pack("!H", code) + reason.encode()
            try:
                await self._ws.send_frame(payload, WSMsgType.CLOSE)
            except ConnectionError:
                return  # the client has gone already

    async def _take(self, text: str) -> None:
        """Record a frame and put its request into its lane, or answer at once what is wrong with it."""
        stream_id: str | None = None
        body: Any = None
        try:
            body = _decoded(text)
            self._record(body, text)
            stream_id = _checked(body)
            self._state.lane(stream_id)
        except ApiError as error:
            if body is None:
                self._record(None, text)
            await self._send(error.frame())
            return
        if stream_id not in self._lanes:
            self._lanes[stream_id] = asyncio.Queue()
            worker = asyncio.create_task(self._work(stream_id, self._lanes[stream_id]))
            self._workers.add(worker)
        self._lanes[stream_id].put_nowait(body)

    def _record(self, body: Any, text: str) -> None:
        size = len(text.encode("utf-8", "surrogatepass"))
        self._front.shared.requests.append(self._front.recorded(self._request, "FRAME", body, "websocket", size))

    async def _work(self, stream_id: str | None, queue: asyncio.Queue[Body]) -> None:
        """Answer the requests of one lane, one after the other."""
        while True:
            body = await queue.get()
            async with self._places:
                try:
                    await self._turn(body, stream_id)
                except ConnectionError:
                    return  # the reading task sees the end of the connection too

    async def _turn(self, body: Body, stream_id: str | None) -> None:
        try:
            for step in self._steps(body):
                await self._step(step, stream_id)
                await asyncio.sleep(0)  # the other lanes' turn
        except ApiError as error:
            await self._send(error.frame(stream_id))
        except ConnectionError:
            raise
        except Exception as error:
            self._front.shared.failures.append(error)
            await self._send(ApiError(500, "The local server failed.").frame(stream_id))

    def _steps(self, body: Body) -> Iterable[Step]:
        scripted = self._front.scripted(body, self._state)
        return self._front.shared.engine.respond(body, self._state) if scripted is None else scripted

    async def _step(self, step: Step, stream_id: str | None) -> None:
        if isinstance(step, HttpError):
            await self._send(step.frame(stream_id))
        elif isinstance(step, Pause):
            await waited(step)
        elif isinstance(step, Close):
            await self._end(step)
        elif isinstance(step, bytes):
            await self._ws.send_frame(step, WSMsgType.TEXT)
        elif isinstance(step, dict):
            await self._send(step)

    async def _end(self, close: Close) -> None:
        """Close or cut the connection; the reading task then ends everything."""
        if close.code is not None:
            await self._send_close(close.code, close.reason)
            await asyncio.sleep(_CLOSING_TIME)
        await cut(self._request)

    async def _send(self, event: dict[str, Any]) -> None:
        await self._ws.send_frame(dumps(event), WSMsgType.TEXT)


async def waited(pause: Pause) -> None:
    """Wait a scenario's pause out; polled, so that nothing is left behind when the request is cancelled meanwhile."""
    pause.reached.set()
    while not pause.event.is_set():
        await asyncio.sleep(_POLL)


async def cut(request: web.BaseRequest) -> NoReturn:
    """Cut the TCP connection once what was written has left. Raises ConnectionResetError, to end the handler."""
    transport = request.transport
    while transport is not None and not transport.is_closing() and transport.get_write_buffer_size():
        await asyncio.sleep(_POLL)
    if transport is not None:
        transport.abort()
    raise ConnectionResetError("cut by the scenario")


def _decoded(text: str) -> Body:
    try:
        body = loads(text)
    except CodecError:
        raise invalid("We could not parse the JSON of your message.", code="invalid_json") from None
    if not isinstance(body, dict):
        raise invalid("The message is not a JSON object.", code="invalid_json")
    return body


def _checked(body: Body) -> str | None:
    """The lane of a client event. Raises `ApiError` for an event that is none."""
    if "type" not in body:
        raise missing("type")
    if body["type"] != "response.create":
        raise invalid("Invalid value for 'type'. Supported values are: response.create.", "type")
    return check_stream_id(body.get("stream_id"))
