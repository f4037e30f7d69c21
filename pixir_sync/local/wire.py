"""The writing half of one WebSocket: every frame in one piece, one after the other, quickly or slowly.

Rules kept here:

* ``_writing`` is held while a frame leaves, so that a pong never breaks into a frame that leaves slowly.
* A client that has gone is a ConnectionError, which ends whoever writes. One that does not read holds up its own answers and
  nobody else: what is not part of an answer is given up after `PATIENCE` seconds.
* Nothing follows a close frame: what would, is left out in silence. Answers that run go on for the reading task to end.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from typing import Any, NoReturn

from aiohttp import WSMsgType, web

from pixir_sync.local.steps import NotJson, Slowly, Together, Wire
from pixir_sync.protocol.codec import dumps

__all__ = ["PATIENCE", "Writing", "abort", "cut", "payload_of", "trickled"]

PATIENCE = 1.0
"""How long a close frame, or an event that answers nothing, may wait for what leaves before it, in seconds."""

_POLL = 0.002
_LEAVING = 5.0  # how long what was written may take to leave before a cut


class Writing:
    """Sends frames on a WebSocket that was prepared."""

    def __init__(self, ws: web.WebSocketResponse, request: web.BaseRequest) -> None:
        self._ws, self._request = ws, request
        # Held while one frame leaves.
        self._writing = asyncio.Lock()
        self._closed = False
        self.slow = False  # whether a frame leaves slowly now, on purpose

    async def frame(self, payload: bytes, kind: WSMsgType = WSMsgType.TEXT) -> None:
        """Send a frame."""
        async with self._writing:
            if not self._closed or kind is WSMsgType.CLOSE:
                await self._ws.send_frame(payload, kind)

    async def event(self, event: dict[str, Any]) -> None:
        """Send an event."""
        await self.frame(dumps(event))

    @property
    def busy(self) -> bool:
        """Whether a frame is leaving."""
        return self._writing.locked()

    async def slowly(self, step: Slowly) -> None:
        """Send a text frame byte by byte, its head too."""
        async with self._writing:
            self.slow = True
            try:
                if not self._closed:
                    await trickled(self._request, _frame(step.sent), step)
            finally:
                self.slow = False

    async def together(self, step: Together) -> None:
        """Send text frames in one write."""
        async with self._writing:
            if not self._closed:
                _write(self._request, b"".join(map(_frame, step.sent)))

    async def close(self, code: int, reason: str = "") -> None:
        """Send a close frame, once, and leave it to the reading task to see the client's.

        Quiet if the client has gone; a connection that takes no frame in time is cut.
        """
        if self._closed:
            return
        payload = struct.pack("!H", code) + reason.encode()  # a code that is none raises here, while there is somebody to tell
        self._closed = True
        try:
            await asyncio.wait_for(self.frame(payload, WSMsgType.CLOSE), PATIENCE)
        except ConnectionError:
            return  # the client has gone already
        except TimeoutError:
            abort(self._request)

    def end(self) -> None:
        """The client has closed. Where that was its answer to ours, nothing more is to be said: aiohttp would close again."""
        transport = self._request.transport
        if self._closed and transport is not None:
            transport.close()


def payload_of(sent: Wire) -> bytes:
    """The bytes of what is sent."""
    if isinstance(sent, bytes):
        return sent
    return sent.data if isinstance(sent, NotJson) else dumps(sent)


def _frame(sent: Wire) -> bytes:
    """A text frame, without a mask, as a server's is."""
    payload = payload_of(sent)
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", 0x81, size) + payload
    return (struct.pack("!BBH", 0x81, 126, size) if size < 1 << 16 else struct.pack("!BBQ", 0x81, 127, size)) + payload


def _write(request: web.BaseRequest, data: bytes) -> None:
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client has gone")
    transport.write(data)


async def trickled(request: web.BaseRequest, data: bytes, pace: Slowly) -> None:
    """Write these bytes to the connection in pieces, with time between them."""
    for start in range(0, len(data), pace.size):
        _write(request, data[start : start + pace.size])
        await asyncio.sleep(pace.interval)


async def cut(request: web.BaseRequest, *, reset: bool = False) -> NoReturn:
    """Cut the TCP connection once what was written has left. Raises ConnectionResetError, to end the handler."""
    transport, until = request.transport, time.monotonic() + _LEAVING
    while transport is not None and not transport.is_closing() and transport.get_write_buffer_size():
        if time.monotonic() > until:
            break
        await asyncio.sleep(_POLL)
    abort(request, reset=reset)
    raise ConnectionResetError("cut by the scenario")


def abort(request: web.BaseRequest, *, reset: bool = False) -> None:
    """Cut the TCP connection now."""
    transport = request.transport
    if transport is not None:
        sock = transport.get_extra_info("socket")
        if reset and sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
