"""One WebSocket: frames in, turns on lanes, events out.

Rules kept here:

* One task reads, so that pings are answered and a close is seen while a turn runs; one task per running turn answers.
* The reading task never waits behind a frame that is leaving: what it has to say then is said by a task of its own.
* A bad frame is answered with an error frame and the socket is kept; a binary frame ends it (1003), and so does one
  that is too big (1009).
* A client that does not answer a ping in time is closed with 1011; a connection that is too old is told so and closed, once
  nothing runs on it.
* When the socket ends, its state and its tasks are gone before the handler returns.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from aiohttp import WSMsgType, web

from pixir_sync.local.errors import ApiError, age_limit, invalid, missing
from pixir_sync.local.faults import Exchange
from pixir_sync.local.lanes import Schedule
from pixir_sync.local.playing import play
from pixir_sync.local.rules import check_stream_id
from pixir_sync.local.state import Connection
from pixir_sync.local.steps import Binary, Close, Delay, Finish, HttpError, NotJson, Pause, Slowly, Step, Together
from pixir_sync.local.waiting import waited
from pixir_sync.local.wire import Writing, abort, cut
from pixir_sync.protocol.codec import CodecError, loads

if TYPE_CHECKING:
    from pixir_sync.local.front import Front

__all__ = ["Socket"]

_CLOSING_TIME = 1.0
_MORE = 1 << 20

Body = dict[str, Any]


class Socket:
    """Serves one connection from its upgrade to its end. ``ending`` is the close frame that a fault sends at once."""

    def __init__(self, front: Front, request: web.BaseRequest, ending: Close | None = None) -> None:
        self._front, self._request, self._ending = front, request, ending
        self._settings = front.shared.settings
        self._ws = web.WebSocketResponse(
            timeout=_CLOSING_TIME,
            compress=self._settings.compression,
            # aiohttp resets a connection where more is to come: a client would lose the close frame. So it takes somewhat more.
            max_msg_size=self._settings.frame_limit * 2 + _MORE,
            autoping=False,
            autoclose=False,
        )
        self._state = Connection()
        self._lanes: Schedule[Body] = Schedule()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pong, self._settled = asyncio.Event(), asyncio.Event()

    async def run(self) -> web.StreamResponse:
        """Serve until either side closes."""
        await self._ws.prepare(self._request)
        self._out = Writing(self._ws, self._request)
        self._front.sockets.add(self)
        if self._ending is not None:
            self._spawn(self._shut(self._ending))
        if self._settings.ping_interval is not None:
            self._spawn(self._beat(self._settings.ping_interval))
        if self._settings.max_age is not None:
            self._spawn(self._grow_old(self._settings.max_age))
        try:
            async for message in self._ws:
                await self._read(message.type, message.data)
        finally:
            self._front.sockets.discard(self)
            self._out.end()
            self._state.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        return self._ws

    async def close(self, code: int, reason: str = "") -> None:
        """Send a close frame; the reading task sees the client's."""
        await self._out.close(code, reason)

    async def tell(self, event: Body) -> None:
        """Send an event that answers nothing."""
        await self._out.event(event)

    async def _read(self, kind: WSMsgType, data: Any) -> None:
        if kind is WSMsgType.TEXT and len(data) > self._settings.frame_limit // 4 and _size(data) > self._settings.frame_limit:
            await self._out.close(1009, "message too big")
        elif kind is WSMsgType.TEXT:
            await self._take(data)
        elif kind is WSMsgType.BINARY:
            await self._out.close(1003, "text frames only")
        elif kind is WSMsgType.PING:
            await self._reply(self._out.frame, data, WSMsgType.PONG)
        elif kind is WSMsgType.PONG:
            self._pong.set()

    async def _reply(self, say: Callable[..., Coroutine[Any, Any, None]], *what: Any) -> None:
        """Say what the reading task has to say: now, or behind the frame that is leaving, and before any other."""

        async def act() -> None:
            with contextlib.suppress(ConnectionError):  # the reading task sees the end too
                await say(*what)

        if self._out.busy:
            self._spawn(act())
        else:
            await say(*what)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _beat(self, interval: float) -> None:
        """Ping, and end the connection of a client that does not answer."""
        try:
            while True:
                await asyncio.sleep(interval)
                if self._out.slow:
                    continue  # a ping would wait for that, and the client is not to blame
                try:
                    await asyncio.wait_for(self._ping(), self._settings.ping_timeout)
                except TimeoutError:
                    await self._out.close(1011, "keepalive ping timeout")
                    await asyncio.sleep(_CLOSING_TIME)
                    abort(self._request)
                    return
        except ConnectionError:
            return  # the reading task sees the end too

    async def _ping(self) -> None:
        """A ping and its answer. A client that does not read is not even pinged."""
        self._pong.clear()
        await self._out.frame(b"", WSMsgType.PING)
        await self._pong.wait()

    async def _grow_old(self, age: float) -> None:
        await asyncio.sleep(age)
        if not self._lanes.idle:
            await self._settled.wait()
        try:
            await self._out.event(age_limit().frame())
        except ConnectionError:
            return  # the reading task sees the end too
        await self._shut(Close(1000))

    async def _take(self, text: str) -> None:
        """Record a frame and put its request into its lane, or answer at once."""
        stream_id: str | None = None
        try:
            body = self._decoded(text)
            if body.get("type") == "response.steer":
                await self._reply(self._out.event, self._front.shared.engine.steer(body, self._state))
                return
            stream_id = _checked(body, lanes=self._settings.lanes)
            self._state.lane(stream_id)
        except ApiError as error:
            await self._reply(self._out.event, error.frame(stream_id))
            return
        self._settled.clear()
        self._lanes.add(stream_id, {key: value for key, value in body.items() if key != "type"})
        self._start()

    def _start(self) -> None:
        for stream_id, body in self._lanes.start():
            self._spawn(self._work(stream_id, body))

    def _decoded(self, text: str) -> Body:
        """The client's event, recorded. Raises `ApiError` for what is none."""
        body: Any = None
        try:
            body = loads(text)
        except CodecError:
            raise invalid("We could not parse the JSON of your message.", code="invalid_json") from None
        finally:
            self._front.shared.requests.append(self._front.recorded(self._request, "FRAME", body, "websocket", _size(text)))
        if not isinstance(body, dict):
            raise invalid("The message is not a JSON object.", code="invalid_json")
        return body

    async def _work(self, stream_id: str | None, body: Body) -> None:
        try:
            await self._turn(body, stream_id)
        except ConnectionError:
            return  # the reading task sees the end of the connection too
        self._lanes.end(stream_id)
        self._start()
        if self._lanes.idle:
            self._settled.set()

    async def _turn(self, body: Body, stream_id: str | None) -> None:
        try:
            for step in play(self._front.shared, Exchange(body, "websocket", stream_id), self._state):
                await self._step(step, stream_id)
                await asyncio.sleep(0)  # the other lanes' turn
        except ApiError as error:
            await self._out.event(error.frame(stream_id))
        except ConnectionError:
            raise
        except Exception as error:
            self._front.shared.failures.append(error)
            await self._out.event(ApiError(500, "The local server failed.").frame(stream_id))

    async def _step(self, step: Step, stream_id: str | None) -> None:
        match step:
            case dict():
                await self._out.event(step)
            case bytes():
                await self._out.frame(step)
            case NotJson():
                await self._out.frame(step.data)
            case HttpError():
                await self._out.event(step.frame(stream_id))
            case Binary():
                await self._out.frame(step.data, WSMsgType.BINARY)
            case Slowly():
                await self._out.slowly(step)
            case Together():
                await self._out.together(step)
            case Finish():
                await self._end(Close(1000))
            case Close():
                await self._end(step)
            case Pause() | Delay():
                await waited(step)

    async def _shut(self, close: Close) -> None:
        """End the connection from a task that answers nothing."""
        with contextlib.suppress(ConnectionError):  # its very end
            await self._end(close)

    async def _end(self, close: Close) -> None:
        """Close or cut the connection; the reading task then ends everything."""
        if close.code is not None:
            await self._out.close(close.code, close.reason)
            await asyncio.sleep(_CLOSING_TIME)
        await cut(self._request, reset=close.reset)


def _size(text: str) -> int:
    """The bytes of a text frame."""
    return len(text.encode("utf-8", "surrogatepass"))


def _checked(body: Body, *, lanes: bool) -> str | None:
    """The lane of a client event. Raises `ApiError` for an event that is none."""
    if "type" not in body:
        raise missing("type")
    if body["type"] != "response.create":
        raise invalid("Invalid value for 'type'. Supported values are: response.create, response.steer.", "type")
    if not lanes and body.get("stream_id") is not None:
        raise invalid("Unknown parameter: 'stream_id'.", "stream_id", "unknown_parameter")
    return check_stream_id(body.get("stream_id"))
