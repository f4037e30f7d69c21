"""The aiohttp front: HTTP and WebSocket on one port, every answer from the engine or from a scenario.

Rules kept here:

* Only this module, sse.py, websocket.py and wire.py know aiohttp. Everything runs on one event loop, so nothing needs a lock.
* One write per event: event n+1 leaves after event n left.
* A client that goes away cancels its handler; that is quiet. A fault of our own is kept in ``failures`` and answered
  with a 500.
* Every HTTP answer carries a request id and rate-limit headers; an upgrade and its frames carry none.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import time
from typing import Any

from aiohttp import ClientError, HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from pixir_sync.local import rest
from pixir_sync.local.errors import ApiError, invalid
from pixir_sync.local.recording import Recorded, Transport
from pixir_sync.local.shared import Shared
from pixir_sync.local.sse import Answering
from pixir_sync.local.steps import Close, HttpError, Pause
from pixir_sync.local.waiting import waited
from pixir_sync.local.websocket import Socket
from pixir_sync.local.wire import PATIENCE, abort
from pixir_sync.protocol.codec import CodecError, dumps, loads

__all__ = ["Front"]

_RATE_LIMIT = 10_000
_TOKEN_LIMIT = 2_000_000
_ROUTE = re.compile(r"(?:/v1)?/(?P<root>responses|models)(?:/(?P<id>[^/]+)(?:/(?P<what>cancel|input_items))?)?/?")


class Front(web.Server):
    """The request handler and the factory of connections; numbers them, and can cut them."""

    def __init__(self, shared: Shared) -> None:
        super().__init__(self._handle, request_factory=self._request, handler_cancellation=True, access_log=None)
        self.shared = shared
        self.numbers: dict[RequestHandler, int] = {}
        self.sockets: set[Socket] = set()
        self._open: dict[RequestHandler, asyncio.Transport] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def __call__(self) -> RequestHandler:
        protocol = super().__call__()
        self.shared.connections += 1
        self.numbers[protocol] = self.shared.connections
        return protocol

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._open[handler] = transport

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._open.pop(handler, None)
        self.numbers.pop(handler, None)

    def cut(self) -> None:
        """Cut every TCP connection, without a close frame."""
        for transport in list(self._open.values()):
            transport.abort()

    async def close_sockets(self, code: int, reason: str = "") -> None:
        """Send a close frame on every open WebSocket; what takes none in time is cut."""
        await asyncio.gather(*(socket.close(code, reason) for socket in self.sockets))

    async def tell(self, event: dict[str, Any]) -> None:
        """Send an event that answers nothing on every open WebSocket; a client that does not read is passed over."""
        told = (asyncio.wait_for(socket.tell(event), PATIENCE) for socket in self.sockets)
        for failed in await asyncio.gather(*told, return_exceptions=True):
            if isinstance(failed, BaseException) and not isinstance(failed, (ConnectionError, TimeoutError)):
                raise failed

    async def stop(self) -> None:
        """End every request and every connection; at the end nothing is left to run."""
        await self.close_sockets(1001)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.pre_shutdown()
        await self.shutdown(0.1)
        self.cut()
        deadline = time.monotonic() + 1
        while self._open and time.monotonic() < deadline:
            await asyncio.sleep(0)

    def _request(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        loop = asyncio.get_running_loop()
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=0)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        started = time.monotonic()
        try:
            return await self._answer(request, started)
        except ApiError as error:
            return self.json(error.body(), started, status=error.status, headers=error.headers)
        except ConnectionError:
            return web.Response()  # which nobody gets: an exception here would be logged as a fault of the server
        except Exception as error:
            self.shared.failures.append(error)
            return self.json(ApiError(500, "The local server failed.").body(), started, status=500)
        finally:
            self._tasks.discard(task)

    async def _answer(self, request: web.BaseRequest, started: float) -> web.StreamResponse:
        found = _ROUTE.fullmatch(request.path)
        root, what_id, what = found.group("root", "id", "what") if found else (None, None, None)
        if (root, what_id, request.method) == ("responses", None, "GET") and _wants_websocket(request):
            return await self._upgrade(request, started)
        body, bad = await self._read(request)
        self._authorize(request)
        if bad is not None:
            raise bad
        if (root, what_id, request.method) == ("responses", None, "POST"):
            return await Answering(self, request, {} if body is None else body, started).run()
        return self.json(self._rest(request, root, what_id or "", what, body), started)

    async def _upgrade(self, request: web.BaseRequest, started: float) -> web.StreamResponse:
        self.shared.upgrades.append(self.recorded(request, "GET", None, "websocket", 0))
        step = self.shared.faults.at_upgrade()
        if isinstance(step, HttpError):
            return self.refuse(step, started)
        if isinstance(step, Pause):
            await waited(step)
        self._authorize(request)
        try:
            return await Socket(self, request, step if isinstance(step, Close) else None).run()
        except web.HTTPBadRequest as error:
            raise invalid(f"The upgrade is none: {error.text}", code=None) from error
        except ConnectionError:
            raise
        except Exception as error:  # it speaks no HTTP any more: no 500 can tell
            self.shared.failures.append(error)
            abort(request)
            raise ConnectionResetError("the local server failed") from error

    async def _read(self, request: web.BaseRequest) -> tuple[Any, ApiError | None]:
        """The JSON body, recorded; and the refusal if it is none."""
        body, bad = None, None
        raw = b""
        try:
            if request.version == HttpVersion11 and request.headers.get("Expect", "").lower() == "100-continue":
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            raw = await request.read()
            body = loads(raw) if raw else None
        except (CodecError, ClientError, HttpProcessingError, web.RequestPayloadError):
            bad = invalid("We could not parse the JSON body of your request.", code="invalid_json")
        if bad is None and request.method == "POST" and body is not None and not isinstance(body, dict):
            bad = invalid("The body of the request is not a JSON object.", code="invalid_json")
        streams = isinstance(body, dict) and body.get("stream") is True
        recorded = self.recorded(request, request.method, body, "http_sse" if streams else "http", len(raw))
        self.shared.requests.append(recorded)
        return body, bad

    def recorded(self, request: web.BaseRequest, method: str, body: Any, transport: Transport, raw: int) -> Recorded:
        """A record of what arrived."""
        number = self.numbers.get(request.protocol, 0)
        return Recorded(method, request.path, request.query_string, request.headers, body, transport, number, raw)

    def _authorize(self, request: web.BaseRequest) -> None:
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        scheme, _, token = given.partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(token, self.shared.settings.api_key.encode()):
            message = "Incorrect API key provided." if given else "No API key was provided."
            raise ApiError(401, message, code="invalid_api_key")

    def _rest(self, request: web.BaseRequest, root: str | None, name: str, what: str | None, body: Any) -> Any:
        engine = self.shared.engine
        match (request.method, root, name, what):
            case ("GET", "models", "", None):
                return rest.models(engine, self.shared.settings.model)
            case ("GET", "models", _, None):
                return rest.model(engine, name)
            case ("POST", "responses", "compact", None):
                return rest.compact(engine, body or {})
            case ("POST", "responses", "input_tokens", None):
                return rest.input_tokens(engine, body or {})
            case ("GET", "responses", _, None) if name:
                return rest.retrieve(engine, name)
            case ("DELETE", "responses", _, None) if name:
                return rest.delete(engine, name)
            case ("POST", "responses", _, "cancel"):
                return rest.cancel(engine, name)
            case ("GET", "responses", _, "input_items"):
                return rest.input_items(engine, name, request.query)
        status, message = (404, "Invalid URL") if root is None else (405, "Method not allowed")
        raise ApiError(status, f"{message} ({request.method} {request.path}).")

    def json(
        self, value: Any, started: float, *, status: int = 200, headers: dict[str, str] | None = None
    ) -> web.Response:
        """A JSON answer with the usual headers."""
        own = {"Content-Type": "application/json", **self.headers(started), **(headers or {})}
        return web.Response(status=status, body=dumps(value), headers=own)

    def refuse(self, refusal: HttpError, started: float) -> web.Response:
        """The answer to a request that a scenario or a fault refuses."""
        if refusal.body is None:
            refusal = HttpError(refusal.status, ApiError(refusal.status, "Refused.").body(), refusal.headers)
        if isinstance(refusal.body, bytes):
            headers = {**self.headers(started), **refusal.headers}
            return web.Response(status=refusal.status, body=refusal.body, headers=headers)
        return self.json(refusal.body, started, status=refusal.status, headers=refusal.headers)

    def headers(self, started: float) -> dict[str, str]:
        """What every HTTP answer carries."""
        return {
            "x-request-id": self.shared.engine.make_id("req"),
            "openai-processing-ms": str(int((time.monotonic() - started) * 1000)),
            "x-ratelimit-limit-requests": str(_RATE_LIMIT),
            "x-ratelimit-remaining-requests": str(_RATE_LIMIT - 1),
            "x-ratelimit-reset-requests": "6ms",
            "x-ratelimit-limit-tokens": str(_TOKEN_LIMIT),
            "x-ratelimit-remaining-tokens": str(_TOKEN_LIMIT - 1),
            "x-ratelimit-reset-tokens": "0s",
        }


def _wants_websocket(request: web.BaseRequest) -> bool:
    return request.headers.get("Upgrade", "").lower() == "websocket"
