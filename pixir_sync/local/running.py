"""One run of the server: its thread, its event loop, its front.

Rules kept here:

* Nothing is left after `Running.stop`: no thread, no socket, no task.
* aiohttp is imported here, when a server starts; without it the error names the extra.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from pixir_sync.local.shared import Shared

if TYPE_CHECKING:
    from pixir_sync.local.front import Front

__all__ = ["Running"]

_BACKLOG = 1024


def _front_factory() -> Callable[[Shared], Front]:
    """The front's class; the import that needs the extra."""
    try:
        import aiohttp  # noqa: F401
    except ImportError as error:
        raise ImportError("the local server needs aiohttp: pip install 'pixir-sync[local]'") from error
    from pixir_sync.local.front import Front

    return Front


class Running:
    """One run of the server: its thread, its event loop, its front. Listens once it is made."""

    def __init__(self, shared: Shared, host: str, port: int, context: ssl.SSLContext | None) -> None:
        self._make_front = _front_factory()
        self._listening: Future[int] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(shared, host, port, context), name="pixir-local-server", daemon=True
        )
        self._thread.start()
        try:
            self.port = self._listening.result()
        except BaseException:
            if self._listening.exception() is None:  # it listens: it was this wait that was interrupted
                self.stop()
            self._thread.join()
            raise

    @property
    def is_here(self) -> bool:
        """Whether the caller runs on the server's own thread (a scenario, a fault), which cannot wait for itself."""
        return threading.current_thread() is self._thread

    def _run(self, shared: Shared, host: str, port: int, context: ssl.SSLContext | None) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._main(shared, host, port, context))
        except Exception as error:
            if self._listening.done():
                raise
            self._listening.set_exception(error)  # raised where the server was started

    async def _main(self, shared: Shared, host: str, port: int, context: ssl.SSLContext | None) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._front = front = self._make_front(shared)
        listener = await self._loop.create_server(front, host, port, ssl=context, backlog=_BACKLOG)
        self._listening.set_result(listener.sockets[0].getsockname()[1])
        await self._stopping.wait()
        for sock in listener.sockets:
            self._loop.remove_reader(sock.fileno())  # nothing more is accepted
        for _ in range(3):  # what was accepted just now gets its transport: behind a closed listener its socket would stay open
            await asyncio.sleep(0)
        listener.close()
        await front.stop()

    def stop(self) -> None:
        """End everything, and wait for the end. May be called again, after an interrupt for example."""
        if self._thread.is_alive():  # it is not in a child process either
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def call(self, act: Callable[[Front], Coroutine[Any, Any, None]]) -> None:
        """Let the front do something on its event loop, and wait until it is done. Not beside `stop`, nor on its own thread."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(act(self._front), self._loop).result()
