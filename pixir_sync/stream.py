"""`ResponseStream`: one call as the caller sees it.

Rules kept here:

* A stream holds its turn and its generator; neither knows the stream (see `pixir_sync.turn`).
* It has no ``__del__``: iterating goes to the inner generator, which may outlive this object.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from types import TracebackType
from typing import Any

from pixir_sync.protocol.errors import InvalidRequest, PixirError
from pixir_sync.protocol.events import Event
from pixir_sync.protocol.result import Result
from pixir_sync.turn import Turn

__all__ = ["ResponseStream"]


class ResponseStream(Generator[Event, None, Result]):
    """One model call as a generator of events; its return value is the `Result`. Also a context manager.

    Nothing happens before the first ``next()``. One thread consumes it at a time; `cancel` and `close` may be called from any
    thread, at any time. Leaving the ``with`` block early, or dropping the stream, ends the call on the server's side too.

    >>> from pixir_sync import Provider
    >>> from pixir_sync.local import LocalServer
    >>> with LocalServer() as server, Provider(model="m", base_url=server.base_url, api_key=server.api_key) as provider:
    ...     with provider.stream("Hello") as stream:
    ...         for event in stream:
    ...             print(event.text, end="|" if event.text else "")
    Heard:| Hello| (context:| 1)|
    >>> stream.result().finish_reason
    'stop'
    """

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._events = turn.run()

    def __iter__(self) -> Generator[Event, None, Result]:
        return self._events  # without this object in between, an event costs less

    def __next__(self) -> Event:
        return self.send(None)

    def send(self, value: None, /) -> Event:
        """The next event. Raises `PixirError`, and StopIteration with the `Result` at the end."""
        try:
            return self._events.send(value)
        except ValueError as error:
            if "already executing" in str(error):
                raise InvalidRequest("the stream is consumed by another thread: one consumer at a time") from None
            raise

    def throw(self, *args: Any) -> Event:
        """Raise an exception inside of the stream, which ends it."""
        return self._events.throw(*args)

    def close(self) -> None:
        """End the call early. Never raises; idempotent.

        Before the first ``next()``, and from another thread than the consumer's, it is a cancel: a consumer must not take the
        quiet end of its loop for the end of the answer.
        """
        if self._turn.consumer != threading.get_ident() and self._turn.outcome is None:
            self.cancel()
            return
        try:
            self._events.close()
        except ValueError:  # already executing: this is a callback of the call itself
            self.cancel()
        else:
            self._turn.stop()

    def cancel(self) -> None:
        """End the call from any thread: its consumer gets `Cancelled`, or the result if the terminal event was read."""
        self._turn.token.cancel()

    def result(self) -> Result:
        """Read the stream to its end and give its `Result`; after success always the same one.

        Raises the error that ended it, the same one each time; after an early close `Cancelled`, with the partial result.
        """
        if self._turn.outcome is None:
            try:
                for _ in self._events:
                    pass
            except ValueError as error:
                if "already executing" in str(error):
                    raise InvalidRequest("the stream is consumed by another thread: one consumer at a time") from None
                raise
            self._turn.stop()  # where the inner generator was closed without our knowledge
        ended = self._turn.outcome
        if isinstance(ended, PixirError):
            try:
                raise ended
            finally:
                del ended  # its traceback knows this frame: no cycle
        assert ended is not None
        return ended

    @property
    def text_stream(self) -> Iterator[str]:
        """Only the pieces of the answer's text."""
        return (event.text for event in self._events if event.text)

    @property
    def metadata(self) -> dict[str, Any]:
        """The evidence so far, as in ``Result.provider_metadata``."""
        return self._turn.evidence.to_dict()

    def __enter__(self) -> ResponseStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        ended = self._turn.outcome
        state = "running" if ended is None else ended.kind if isinstance(ended, PixirError) else ended.finish_reason
        return f"<ResponseStream {state} attempts={self._turn.evidence.attempts}>"
