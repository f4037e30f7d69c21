"""A `LocalServer` for tests that say what it answers, over either transport.

What a test says about a call holds whatever carries it, so such a test takes the fixture ``transport`` and runs twice::

    with Peer(transport, [*begun, Close()], text_response("ok")) as peer, peer.provider() as provider:
        provider.complete("Hi")
        assert peer.bodies[0]["input"] == [...]

The n-th request gets the n-th answer, those after the last one the last one. An answer is a list of steps of `pixir_sync.local`,
an `Answer`, or a generator function of the request's body that yields such steps.

Rules kept here:

* An answer without a terminal event ends as one can over its transport: by the end of the body, or by a close frame (1000).
* ``bodies`` are without their envelope (``stream`` over HTTP, ``type`` over a WebSocket), which is checked and taken off.
* What goes wrong in an answer is raised where the block ends. Nothing outlives the block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, repeat
from typing import Any, Literal

from pixir_sync import Provider
from pixir_sync.local import Answer, Close, Finish, HttpError, LocalServer, Requests, Step
from pixir_sync.local.steps import events_in
from tests.support.fake import provider_for

__all__ = ["Peer", "Reply", "TransportName", "bare"]

Json = dict[str, Any]
TransportName = Literal["websocket", "http_sse"]
Reply = Iterable[Step] | Answer | Callable[[Json], Iterable[Step]]

_TERMINAL = ("response.completed", "response.incomplete", "response.failed", "response.cancelled", "response.done", "error")


def bare(body: Mapping[str, Any], transport: TransportName) -> Json:
    """A body without its envelope, which must be there, and the other transport's must not."""
    found = dict(body)
    if transport == "websocket":
        assert found.pop("type") == "response.create" and not found.keys() & {"stream", "background"}
    else:
        assert found.pop("stream") is True and not found.keys() & {"type", "background"}
    return found


class Peer:
    """The server, as a context manager. ``transport`` is what `provider` speaks; ``options`` are those of `LocalServer`."""

    def __init__(self, transport: TransportName, *replies: Reply, **options: Any) -> None:
        self.transport = transport
        self._replies = chain(replies, repeat(replies[-1]))  # only the server's event loop takes from it
        self.server = LocalServer(scenario=self._answer, **options)

    @property
    def bodies(self) -> list[Json]:
        """What was asked for, in order, without the envelopes."""
        return [bare(body, self.transport) for body in self.server.requests.bodies]

    @property
    def connections(self) -> int:
        """How many connections came."""
        return self.server.connections

    @property
    def heads(self) -> Requests:
        """Each request with its headers; over a WebSocket each upgrade."""
        return self.server.upgrades if self.transport == "websocket" else self.server.requests

    def provider(self, **options: Any) -> Provider:
        """A provider for this peer: see `tests.support.fake.provider_for`."""
        return provider_for(self.server, transport=self.transport, **options)

    def __enter__(self) -> Peer:
        self.server.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.server.__exit__(kind, error, trace)

    def _answer(self, body: Json) -> Iterator[Step]:
        reply = next(self._replies)
        steps = [reply] if isinstance(reply, Answer) else reply(body) if callable(reply) else reply
        ended = False
        for step in steps:
            ended = ended or _ends(step)
            yield step
        if not ended:
            yield Finish()


def _ends(step: Step) -> bool:
    """Whether an answer may end behind this step."""
    return isinstance(step, Answer | HttpError | Close) or any(event.get("type") in _TERMINAL for event in events_in(step))
