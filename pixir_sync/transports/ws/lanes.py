"""`Lane`: one stream's part of a connection: what came for it, and where its consumer is parked.

Rules kept here:

* Only the holder of the reading role appends to `queue`; only the lane's one consumer takes from it. Both are single
  operations of a deque, so that taking needs no lock.
* Bytes are counted by two counters, each written by one side.
* `stop` is a flag: it takes no lock, and the one who sets it wakes the reader afterwards.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from pixir_sync.deadline import Deadline

__all__ = ["RETAINED", "Lane", "Visit"]

RETAINED = 64 << 20
"""The most bytes that are kept for a consumer that is away."""

Batch = list[Any]


class Lane:
    """One stream on a connection.

    Attributes:
        name: ``stream_id`` on the wire; None is the default lane.
        queue: batches with their sizes: undecoded messages, or, on a connection of several lanes, the server's objects.
        parked: the lock that its consumer waits on, under the connection's state lock.
        read: reads what came; from `Connection.begin` on. poll: waits for it first, None where `read` does both.
        limit: of its consumer's waits; the consumer puts it off.
        open: whether what comes now is this lane's; before that it is left over from an earlier stream.
        cancelled, overflowed: set once, looked at by the reader and the consumer.
        sent: bytes of its frames.
    """

    __slots__ = ("added", "cancelled", "limit", "name", "open", "overflowed", "parked", "poll", "queue", "read", "sent", "taken")

    def __init__(self, name: str | None = None) -> None:
        self.name = name
        self.queue: deque[tuple[Batch, int]] = deque()
        self.parked: threading.Lock | None = None
        self.poll: Callable[[float], object] | None
        self.read: Callable[[int], bytes]
        self.limit: Deadline
        self.open = False
        self.cancelled = self.overflowed = False
        self.added = self.taken = self.sent = 0

    def put(self, batch: Batch, size: int) -> None:
        """Append what came; by the holder of the reading role."""
        self.queue.append((batch, size))
        self.added += size

    def take(self) -> Batch:
        """The next batch; by the consumer. The queue must not be empty."""
        batch, size = self.queue.popleft()
        self.taken += size
        return batch

    @property
    def full(self) -> bool:
        """Whether as much is kept as may be."""
        return self.added - self.taken >= RETAINED

    @property
    def stopped(self) -> bool:
        return self.cancelled or self.overflowed

    def park(self) -> threading.Lock:
        """A lock for the consumer to wait on, already taken. Under the connection's state lock."""
        lock = threading.Lock()
        lock.acquire()
        self.parked = lock  # last: an interrupt before this leaves nothing behind that somebody could release
        return lock

    def unpark(self) -> None:
        """Let the consumer look again. Under the connection's state lock."""
        lock = self.parked
        if lock is not None:
            if lock.locked():  # not, where an interrupt came between these lines before
                lock.release()
            self.parked = None

    def __repr__(self) -> str:
        state = "cancelled" if self.cancelled else "overflowed" if self.overflowed else "open" if self.open else "new"
        return f"<Lane {self.name or 'default'} {state} batches={len(self.queue)}>"


class Visit:
    """A reading role that waits for nothing. Who wants the role meanwhile waits for ``over``, which is released at its end."""

    __slots__ = ("over",)

    def __init__(self) -> None:
        self.over = threading.Lock()
        self.over.acquire()
