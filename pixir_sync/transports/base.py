"""`Transport`, the strategy interface, and `Call`, what one call hands to it.

Rules kept here:

* A transport makes exactly one attempt, and never sends anything again by itself: that is the turn engine's business.
* It reads the call, fills in `Call.evidence`, and raises `PixirError` with the phase and whether the request was sent.
* It yields batches of the server's JSON objects as they arrive, and ends after the one that is terminal. A body or a connection
  that ends before it is `ConnectionLost`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pixir_sync.cancellation import CancelToken
from pixir_sync.config import Timeouts
from pixir_sync.deadline import Deadline
from pixir_sync.protocol.assembly import ResultAssembler
from pixir_sync.protocol.request import Body
from pixir_sync.protocol.result import Evidence

__all__ = ["Call", "Transport"]


@dataclass(eq=False, repr=False)
class Call:
    """One call, over all its attempts.

    Attributes:
        body: what to send; `full_input` makes the whole of it for the wire, once for all attempts.
        headers: the caller's own headers for this call. authorize: gives the credential's headers; called once per attempt.
        timeouts, deadline: the limits; `deadline` is the one for the whole call.
        cancel: ends every wait. evidence: filled in by the attempt.
        identity: the credential's; whose connections it may use. session, scope: likewise.
        fresh: use no connection that stood before. preferred: the connection of the last attempt, for the next one.
        assembler: what the attempt's events made so far; the turn engine feeds it between two batches, and counts in its
            ``events`` those that are the response's: whether there was progress since the last batch.
        secrets: credential values of the attempt, to be replaced in what a server says.
    """

    body: Body
    timeouts: Timeouts
    deadline: Deadline
    cancel: CancelToken
    evidence: Evidence
    authorize: Callable[[], Mapping[str, str]]
    origin_of: Callable[[str], str | None]
    headers: Mapping[str, str] = field(default_factory=dict)
    session: str | None = None
    scope: str | None = None
    identity: Callable[[], str] = str
    fresh: bool = False
    preferred: object | None = None
    assembler: ResultAssembler = field(default_factory=ResultAssembler)
    secrets: list[str] = field(default_factory=list)
    _full: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"<Call {self.body!r} attempts={self.evidence.attempts}>"

    def full_input(self) -> dict[str, Any]:
        """The body with the whole input, as a server accepts it; the same object for every attempt."""
        if self._full is None:
            self._full = self.body.full(self.origin_of)
        return self._full


class Transport(ABC):
    """One way to the server. Threads share it: an attempt keeps its state to itself.

    `name` stands in the evidence as ``active_transport``.

    >>> from pixir_sync import Call, Provider, Transport
    >>> class Canned(Transport):
    ...     name = "canned"
    ...     def attempt(self, call: Call):
    ...         call.evidence.active_transport = self.name
    ...         print("asked:", call.full_input()["input"][0]["content"])
    ...         yield [{"type": "response.completed", "response": {"id": "resp_1", "status": "completed", "output": []}}]
    >>> with Provider(model="gpt-5.5", api_key="key", transport=Canned()) as provider:
    ...     print(provider.complete("Hi").provider_metadata["active_transport"])
    asked: Hi
    canned
    """

    name: ClassVar[str]

    @abstractmethod
    def attempt(self, call: Call) -> Iterator[list[Any]]:
        """Make one attempt: yield batches of what the server sent, JSON values, up to and including the terminal event.

        Nothing is opened before the first ``next``. Closing the iterator early abandons the attempt: it must then let go of its
        connection without taking a lock, because that may happen in the garbage collector.
        """

    def known(self, session: str | None, scope: str | None) -> Sequence[list[dict[str, Any]]]:
        """The inputs that this transport's connections hold and that a coming call may begin with; may be stale.

        The lists themselves, never changed but by items added at their ends: they are compared with the call's history.
        """
        return ()

    def avoid(self, seconds: float) -> None:  # noqa: B027 - for one that the server may not offer
        """The server said that it does not offer this way: open nothing for so long."""

    def preview(self, body: dict[str, Any]) -> dict[str, Any]:
        """The body as this transport sends it: with the fields of its envelope."""
        return body

    def close(self) -> None:  # noqa: B027 - a transport with nothing to close need not say so
        """Let go of everything; idempotent."""
