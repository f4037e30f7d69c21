"""`LocalServer`: the engine behind a real socket, in one daemon thread with an event loop of its own.

Rules kept here:

* Nothing listens before `start` and nothing is left after `close`: no thread, no socket, no task.
* ``_lock`` guards what is done to the running server, start to stop: one thing after the other. The server's own thread, which is
  waited for, never takes it: a scenario that calls these methods gets a RuntimeError.
"""

from __future__ import annotations

import secrets
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pixir_sync.local.engine import Engine
from pixir_sync.local.faults import Fault
from pixir_sync.local.faults.placing import Board, Placed, When
from pixir_sync.local.recording import Requests
from pixir_sync.local.rules import Models
from pixir_sync.local.running import Running
from pixir_sync.local.scenario import Scenario, begun
from pixir_sync.local.shared import Settings, Shared

if TYPE_CHECKING:
    from pixir_sync.local.front import Front

__all__ = ["LocalServer", "serve"]

_SERVED = 100  # requests that a server in a shell has a record of


class LocalServer:
    """A local Responses API server with a deterministic model, for tests and demonstrations.

    ``host`` and ``port`` are where it listens (port 0: any free one); with ``ssl_context`` it speaks https and wss.
    ``api_key`` is the one bearer that it takes; ``model`` is what its catalogue shows. Any model's name is accepted, reasons
    and can be steered, unless ``models``, ``reasoning_models`` and ``steering_models`` list those that are, do and can.

    ``scenario`` is what answers instead of the model (see `pixir_sync.local.scenario`), and may be set at any time; ``faults``
    are in place from the beginning (see `pixir_sync.local.faults`, and `fault`).

    Of its WebSockets: ``frame_limit`` is the largest message taken, in bytes (16 MiB); ``max_age`` how long one may be open, in
    seconds (an hour; None: for ever); ``ping_interval`` and ``ping_timeout`` when it pings and how long it waits for the
    answer, in seconds (20 each; an interval of None: never); ``compression`` whether permessage-deflate is taken where a client
    offers it, and ``lanes`` whether ``stream_id`` is known: services differ. ``keep``: of how many requests it has a record, the
    latest ones (None: of all).

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
        steering_models: Iterable[str] | None = None,
        scenario: Scenario | None = None,
        faults: Sequence[Fault] = (),
        frame_limit: int = 16 * 1024 * 1024,
        max_age: float | None = 3600.0,
        ping_interval: float | None = 20.0,
        ping_timeout: float = 20.0,
        compression: bool = False,
        lanes: bool = True,
        keep: int | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.host, self.model, self.api_key = host, model, api_key
        self._asked_port = port
        self._ssl = ssl_context
        engine = Engine(
            models=Models(_names(models), _names(reasoning_models), _names(steering_models)),
            salt=secrets.token_hex(8),
            now=time.time,
        )
        settings = Settings(
            api_key, model, frame_limit, max_age, ping_interval, ping_timeout, compression=compression, lanes=lanes
        )
        recorded = Requests(keep=keep), Requests(keep=keep)
        self._shared = Shared(engine, settings, Board(faults), *recorded, scenario=begun(scenario))
        self._lock = threading.Lock()
        self._running: Running | None = None

    @property
    def scenario(self) -> Scenario | None:
        """What answers instead of the model; None for the model. Takes effect with the next request."""
        return self._shared.scenario

    @scenario.setter
    def scenario(self, scenario: Scenario | None) -> None:
        self._shared.scenario = begun(scenario)

    def fault(self, *faults: Fault, times: int | None = None, when: When | None = None, required: bool = True) -> Placed:
        """Faults for a ``with`` block: they are in place while it runs, and what they hold up is released at its end.

        ``times``: how often each strikes at most (None: always). ``when``: only for requests whose body it is true of; at an
        upgrade there is none. ``required``: a block that ends without one strike raises AssertionError.
        """
        return Placed(self._shared.faults, faults, times, when, required)

    @property
    def requests(self) -> Requests:
        """Every HTTP request and WebSocket frame that arrived, in order; each is here before its answer begins."""
        return self._shared.requests

    @property
    def upgrades(self) -> Requests:
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

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables by which a program finds this server. Raises RuntimeError before `start`.

        ``PIXIR_ENDPOINT`` is blank, because with one of the user's own the program might go there.
        """
        found = {"OPENAI_BASE_URL": self.base_url, "OPENAI_API_KEY": self.api_key, "PIXIR_MODEL": self.model}
        return found | {"PIXIR_ENDPOINT": ""}

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
        """Listen. Does nothing while it listens already; after `close` it starts anew, with its store as it was.

        What failed in an earlier run is forgotten.
        """
        self._not_from_inside()
        with self._lock:
            if self._running is None:
                self._shared.failures.clear()
                self._running = Running(self._shared, self.host, self._asked_port, self._ssl)

    def close(self) -> None:
        """Stop: every request and connection ends, the thread too. May be called more than once, from any thread but its own."""
        self._not_from_inside()
        with self._lock:
            if self._running is not None:
                self._running.stop()
                self._running = None

    def cut_connections(self) -> None:
        """Cut every open TCP connection without a word, as a network does. Returns when it is done."""

        async def act(front: Front) -> None:
            front.cut()

        self._call(act)

    def close_connections(self, code: int = 1001, reason: str = "") -> None:
        """Send a close frame on every open WebSocket, as a server does that restarts. Returns when they have left."""

        async def act(front: Front) -> None:
            await front.close_sockets(code, reason)

        self._call(act)

    def send_all(self, event: dict[str, Any]) -> None:
        """Send an event that answers nothing on every open WebSocket. Returns when it has left."""

        async def act(front: Front) -> None:
            await front.tell(event)

        self._call(act)

    def _call(self, act: Callable[[Front], Coroutine[Any, Any, None]]) -> None:
        self._not_from_inside()
        with self._lock:
            if self._running is not None:
                self._running.call(act)

    def _not_from_inside(self) -> None:
        running = self._running
        if running is not None and running.is_here:
            raise RuntimeError("a scenario or a fault runs on the server's own thread, which cannot wait for itself; use a step")


def _names(given: Iterable[str] | None) -> frozenset[str] | None:
    return None if given is None else frozenset(given)


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
    server = LocalServer(host=host, port=port, api_key=api_key, model=model, keep=_SERVED)
    try:
        server.start()
        if on_ready is not None:
            on_ready(server)
        threading.Event().wait()
    except KeyboardInterrupt:
        return  # what Ctrl-C is for
    finally:
        server.close()
