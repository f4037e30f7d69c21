"""`Mortal`: how a connection ends, for everybody who is at it.

Rules kept here:

* The first reason stays; each waiter gets an error of its own from it.
* Ending it shuts the socket down, which wakes who polls. The descriptor is closed by the last one who leaves a role, and by
  nobody before that: a number that is free again may be another file's.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pixir_sync.protocol.frames import CLOSE, close_payload
from pixir_sync.transports.ws import death
from pixir_sync.transports.ws.death import Death
from pixir_sync.transports.ws.lanes import Lane
from pixir_sync.transports.ws.wire import wire_of
from pixir_sync.transports.ws.writer import Writer

if TYPE_CHECKING:
    import socket

__all__ = ["Mortal"]

# What a loss is called that hit no stream.
_BETWEEN = {"websocket_failed": "websocket_reconnected"}


class Mortal:
    """The part of a connection that ends.

    Attributes:
        death: why it is no more; None while it lives. reset_reason: why the next turn on it, or of its session, goes in full.
        secrets: the credential values that it was opened with. writer, lanes: for this package only.
    """

    __slots__ = ("__weakref__", "_cut", "_state", "_wire", "death", "lanes", "reset_reason", "secrets")

    writer: Writer

    def __init__(self, sock: socket.socket) -> None:
        self.death: Death | None = None
        self.reset_reason: str | None = None
        self.secrets: tuple[str, ...] = ()
        self.lanes: dict[str | None, Lane] = {}
        # Guards who writes, the lanes' parking locks, the outbox, death; with several lanes also who reads. Never held over I/O.
        self._state = threading.Lock()
        self._wire = wire_of(sock)
        self._cut = False  # `lose_idle` came while no stream was on it

    @property
    def alive(self) -> bool:
        return self.death is None

    @property
    def occupied(self) -> bool:
        """Whether somebody has the reading role."""
        raise NotImplementedError

    @property
    def fileno(self) -> int:
        """The descriptor's number, -1 where it is closed."""
        return -1 if self._wire.closed else self._wire.fileno

    def condemn(self) -> None:
        """An exception came between: what is on the wire, or was taken from it, is not whole. Under the state lock."""
        self._die(death.retired("caller_cancelled"))

    def _die(self, end: Death) -> None:
        """Under the state lock."""
        if self.death is None:
            self.death = end
            reset = _BETWEEN.get(end.reset, end.reset) if not self.lanes else end.reset
            self.reset_reason = self.reset_reason or reset
        for lane in list(self.lanes.values()):  # `Connection.end` takes no lock
            lane.unpark()
        self.writer.wake_waiting()

    def die(self, end: Death) -> None:
        """End the connection, for everybody. The first reason stays."""
        with self._state:
            self._die(end)
        self._wire.wake()
        self._leave()

    def lose(self) -> None:
        """Cut it without a word, as a network does. Takes no lock."""
        self._wire.wake()

    def lose_idle(self) -> None:
        """The same, where no stream is on it. One that begins in this moment finds it cut before it has sent anything."""
        with self._state:
            cut = self._cut = self._cut or not self.lanes
        if cut:
            self._wire.wake()

    def retire(self, reset: str = "websocket_reconnected") -> None:
        """Close it from this side, politely where that needs no waiting."""
        if self.death is None:
            self.writer.post(CLOSE, close_payload(1000))
            self.writer.flush(self)
        self.die(death.retired(reset))

    def _leave(self) -> None:
        """Close the descriptor of a dead connection, if nobody is at it any more.

        Whoever leaves comes here after it has given back what it had. So the last one finds that nobody has anything.
        """
        with self._state:
            last = self.death is not None and not self.occupied and self.writer.left
        if last:
            self._wire.close()
