"""`LocalServer`: the engine behind a real socket, in one daemon thread with an event loop of its own.

Rules kept here:

* Nothing listens before `start` and nothing is left after `close`: no thread, no socket, no task.
* aiohttp is imported at the first `start`; without it the error names the extra.
* ``_lock`` guards who starts and who stops; the thread itself never takes it.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING

from pixir_sync.local.engine import Engine
from pixir_sync.local.recording import Recorded
from pixir_sync.local.rules import Models
from pixir_sync.local.scenario import Scenario
from pixir_sync.local.shared import Shared

if TYPE_CHECKING:
    from pixir_sync.local.front import Front

__all__ = ["LocalServer", "serve"]


_BACKLOG = 1024


def _front_factory() -> Callable[[Shared], Front]:
    """The front's class; the import that needs the extra."""
    try:
        import aiohttp  # noqa: F401
    except ImportError as error:
        raise ImportError("the local server needs aiohttp: pip install 'pixir-sync[local]'") from error
    from pixir_sync.local.front import Front

    return Front


class LocalServer:
    """A local Responses API server with a deterministic model, for tests and demonstrations.

    ``host`` and ``port`` are where it listens (port 0: any free one); ``api_key`` is the one bearer that it takes;
    ``model`` is what its catalogue shows. Any model's name is accepted unless ``models`` lists them; any model reasons
    unless ``reasoning_models`` lists those that do. ``scenario`` is called with each request's body before the model is
    (see `pixir_sync.local.scenario`), and may be set at any time. ``frame_limit`` is the largest WebSocket message
    taken, in bytes. With ``ssl_context`` it speaks https and wss.

    Threads may share it. Raises OSError where it cannot listen, ImportError without aiohttp (extra ``local``).
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str = "local-key",
        model: str = "local-model",
        models: Iterable[str] | None = None,
        reasoning_models: Iterable[str] | None = None,
        scenario: Scenario | None = None,
        frame_limit: int = 16 * 1024 * 1024,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.host, self.model, self.api_key = host, model, api_key
        self._asked_port = port
        self._ssl = ssl_context
        known = None if models is None else frozenset(models)
        reasoning = None if reasoning_models is None else frozenset(reasoning_models)
        engine = Engine(models=Models(known, reasoning), salt=secrets.token_hex(8), now=time.time)
        self._shared = Shared(engine, api_key, model, frame_limit, scenario)
        self._lock = threading.Lock()
        self._running: _Running | None = None

    @property
    def scenario(self) -> Scenario | None:
        """What answers instead of the model; None for the model. Takes effect with the next request."""
        return self._shared.scenario

    @scenario.setter
    def scenario(self, scenario: Scenario | None) -> None:
        self._shared.scenario = scenario

    @property
    def requests(self) -> list[Recorded]:
        """Every HTTP request and WebSocket frame that arrived, in order; each is here before its answer begins."""
        return self._shared.requests

    @property
    def upgrades(self) -> list[Recorded]:
        """Every WebSocket upgrade that was asked for, the refused ones too."""
        return self._shared.upgrades

    @property
    def connections(self) -> int:
        """How many TCP connections were accepted so far."""
        return self._shared.connections

    @property
    def failures(self) -> list[Exception]:
        """Exceptions of a scenario or of the server itself (the client got a 500); leaving ``with`` raises them."""
        return self._shared.failures

    @property
    def port(self) -> int:
        """The port it listens on. Raises RuntimeError before `start`."""
        running = self._running
        if running is None:
            raise RuntimeError("the local server is not running: use it as a context manager, or call start()")
        return running.port

    @property
    def base_url(self) -> str:
        """``http://HOST:PORT/v1``. Raises RuntimeError before `start`."""
        return self._url("http")

    @property
    def websocket_url(self) -> str:
        """``ws://HOST:PORT/v1/responses``. Raises RuntimeError before `start`."""
        return self._url("ws") + "/responses"

    def _url(self, scheme: str) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}{'s' if self._ssl is not None else ''}://{host}:{self.port}/v1"

    def __enter__(self) -> LocalServer:
        self.start()
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self.close()
        if kind is None and self.failures:
            raise RuntimeError("the local server failed while it served") from self.failures[0]

    def __repr__(self) -> str:
        state = "closed" if self._running is None else f"listening on {self.base_url}"
        return f"<LocalServer {state}, {self.connections} connections, {len(self.requests)} requests>"

    def start(self) -> None:
        """Listen. Does nothing while it listens already; after `close` it starts anew, with its store as it was."""
        with self._lock:
            if self._running is None:
                self._running = _Running(self._shared, self.host, self._asked_port, self._ssl)

    def close(self) -> None:
        """Stop: every request and connection ends, the thread too. May be called more than once."""
        with self._lock:
            running, self._running = self._running, None
        if running is not None:
            running.stop()

    def cut_connections(self) -> None:
        """Cut every open TCP connection without a word, as a network does. Returns when it is done."""
        running = self._running
        if running is not None:
            running.cut()


class _Running:
    """One run of the server: its thread, its event loop, its front. Listens once it is made."""

    def __init__(self, shared: Shared, host: str, port: int, context: ssl.SSLContext | None) -> None:
        self._make_front = _front_factory()
        self._listening: Future[int] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._main(shared, host, port, context)),
            name="pixir-local-server",
            daemon=True,
        )
        self._thread.start()
        try:
            self.port = self._listening.result()
        except BaseException:
            self._thread.join()
            raise

    async def _main(self, shared: Shared, host: str, port: int, context: ssl.SSLContext | None) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._front = front = self._make_front(shared)
        try:
            listener = await self._loop.create_server(front, host, port, ssl=context, backlog=_BACKLOG)
        except Exception as error:
            self._listening.set_exception(error)  # raised where the server was started
            return
        self._listening.set_result(listener.sockets[0].getsockname()[1])
        await self._stopping.wait()
        for sock in listener.sockets:
            self._loop.remove_reader(sock.fileno())  # nothing more is accepted
        for _ in range(3):  # what was accepted just now gets its transport: behind a closed listener its socket would stay open
            await asyncio.sleep(0)
        listener.close()
        await front.stop()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def cut(self) -> None:
        async def act() -> None:
            self._front.cut()

        asyncio.run_coroutine_threadsafe(act(), self._loop).result()


def serve(
    host: str = "127.0.0.1",
    port: int = 0,
    api_key: str = "local-key",
    on_ready: Callable[[LocalServer], object] | None = None,
    *,
    model: str = "local-model",
) -> None:
    """Run a `LocalServer` until Ctrl-C, which ends it cleanly. ``on_ready`` is called with the server once it listens.

    Blocks. Raises OSError where it cannot listen, ImportError without aiohttp.
    """
    server = LocalServer(host=host, port=port, api_key=api_key, model=model)
    try:
        server.start()
        if on_ready is not None:
            on_ready(server)
        threading.Event().wait()
    except KeyboardInterrupt:
        return  # what Ctrl-C is for
    finally:
        server.close()
