"""What arrived at the server, for tests to look at. Its repr shows neither headers nor bodies.

Rules kept here:

* The server's thread appends, any thread reads: what a reader gets is a copy of that moment, and reading takes no lock.
* What has no such field, or is not the JSON object that it should be, gives an empty value and never an error: a test asks
  about requests that are wrong on purpose too.
* An assertion's message counts what came by method, path and transport. It never holds headers, a query or a body.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, overload

from pixir_sync.local.context import OUTPUTS, text_of

__all__ = ["Recorded", "Requests", "Transport"]

Transport = Literal["http_sse", "websocket", "http"]


@dataclass(frozen=True, slots=True)
class Recorded:
    """One HTTP request, one WebSocket upgrade or one WebSocket text frame.

    ``method`` is the HTTP method or ``"FRAME"``; ``headers`` (a frame's are its upgrade's) are looked up without
    regard to case; ``body`` is the decoded JSON, None where there is none or it is not JSON; ``connection`` numbers the
    TCP connection from 1; ``raw`` counts the bytes of the body or frame.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str] = field(repr=False)
    body: Any = field(repr=False)
    transport: Transport
    connection: int
    raw: int

    def _get(self, name: str) -> Any:
        return self.body.get(name) if isinstance(self.body, dict) else None

    def _string(self, name: str) -> str | None:
        found = self._get(name)
        return found if isinstance(found, str) else None

    @property
    def input(self) -> list[dict[str, Any]]:
        """The input items of this request, and no earlier ones; a string is one user message."""
        given = self._get("input")
        if isinstance(given, str):
            return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}]
        return [item for item in given if isinstance(item, dict)] if isinstance(given, list) else []

    @property
    def texts(self) -> list[str]:
        """The text of each user message in this request, in order."""
        return [text_of(item.get("content")) for item in self.input if item.get("role") == "user"]

    @property
    def text(self) -> str:
        """The last user text of this request, ``""`` where it has none (it may bring tool outputs only)."""
        return self.texts[-1] if self.texts else ""

    @property
    def tool_outputs(self) -> dict[str, str]:
        """The text of each tool output in this request, by its ``call_id``."""
        found = [item for item in self.input if item.get("type") in OUTPUTS]
        return {str(item.get("call_id")): text_of(item.get("output")) for item in found}

    @property
    def model(self) -> str | None:
        """The model that was asked for."""
        return self._string("model")

    @property
    def instructions(self) -> str | None:
        """The instructions (the system prompt)."""
        return self._string("instructions")

    @property
    def tools(self) -> list[str]:
        """The names of the tools, in order; of a tool without a name (one that the service runs), its type."""
        given = self._get("tools")
        found = [tool for tool in given if isinstance(tool, dict)] if isinstance(given, list) else []
        return [str(tool.get("name") or tool.get("type")) for tool in found]

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata of the request, empty where there is none."""
        found = self._get("metadata")
        return found if isinstance(found, dict) else {}

    @property
    def previous_response_id(self) -> str | None:
        """The response that this request continues."""
        return self._string("previous_response_id")

    @property
    def is_continuation(self) -> bool:
        """Whether the request continues a response, so that its input is only what is new."""
        return self.previous_response_id is not None

    @property
    def stream_id(self) -> str | None:
        """The lane of a WebSocket frame, None for the default lane."""
        return self._string("stream_id")


class Requests(Sequence[Recorded]):
    """What arrived so far, in order: a sequence that compares to a list, with what makes a test short.

    Threads may share it. A slice and `over` give a copy of that moment, to which nothing is added. It grows with what arrives,
    unless ``keep`` says how many are kept, the latest ones: for a server that runs for long.
    """

    def __init__(self, recorded: Iterable[Recorded] = (), keep: int | None = None) -> None:
        self._keep = keep
        self._recorded = list(recorded)  # list operations are atomic: readers copy it and need no lock
        # _arrived guards that a waiter does not miss what arrives between its look and its wait.
        self._arrived = threading.Condition()

    @overload
    def __getitem__(self, index: int) -> Recorded: ...

    @overload
    def __getitem__(self, index: slice) -> Requests: ...

    def __getitem__(self, index: int | slice) -> Recorded | Requests:
        return Requests(self._recorded[index]) if isinstance(index, slice) else self._recorded[index]

    def __len__(self) -> int:
        return len(self._recorded)

    def __iter__(self) -> Iterator[Recorded]:
        return iter(self._recorded.copy())

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, (Requests, list)) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as a list's: it changes

    def __repr__(self) -> str:
        return f"<Requests: {_counted(list(self))}>"

    def append(self, recorded: Recorded) -> None:
        """Add what arrived; wakes those who wait for it."""
        with self._arrived:
            self._recorded.append(recorded)
            if self._keep is not None:
                del self._recorded[: -self._keep]
            self._arrived.notify_all()

    def clear(self) -> None:
        """Forget what arrived so far: what a test looks at next came after this."""
        self._recorded.clear()

    @property
    def only(self) -> Recorded:
        """The one request that came. Raises AssertionError where it was none, or more than one."""
        found = list(self)
        if len(found) != 1:
            raise AssertionError(f"one request expected, {_counted(found)} came")
        return found[0]

    @property
    def last(self) -> Recorded:
        """The latest request. Raises AssertionError where none came."""
        found = list(self)
        if not found:
            raise AssertionError("a request expected, none came")
        return found[-1]

    @property
    def bodies(self) -> list[Any]:
        """The decoded body of each request, None for one that has none."""
        return [recorded.body for recorded in self]

    @property
    def texts(self) -> list[str]:
        """The last user text of each request, ``""`` for one that has none."""
        return [recorded.text for recorded in self]

    def over(self, transport: Transport) -> Requests:
        """Those that came over ``"websocket"``, over ``"http_sse"``, or as plain ``"http"`` without a stream."""
        return Requests(recorded for recorded in self if recorded.transport == transport)

    def wait(self, count: int = 1, timeout: float = 5.0) -> Requests:
        """Block until ``count`` requests are here; the requests. Raises AssertionError after ``timeout`` seconds."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self._recorded) >= count, timeout):
                came = _counted(self._recorded)
                raise AssertionError(f"{count} expected within {timeout:g} s, {came} came")
        return self[:]


def _counted(recorded: Iterable[Recorded]) -> str:
    """How many there are of what kind: ``3 (GET /v1/models over http, 2 of FRAME /v1/responses over websocket)``."""
    kinds = Counter(f"{found.method} {found.path} over {found.transport}" for found in recorded)
    listed = [kind if count == 1 else f"{count} of {kind}" for kind, count in kinds.items()]
    return f"{kinds.total()} ({', '.join(listed)})" if listed else "none"
