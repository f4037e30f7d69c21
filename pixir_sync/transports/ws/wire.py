"""`Wire`: the one socket of a connection, as every thread that touches it sees it.

Rules kept here:

* ``_io_lock`` is held for one non-blocking call and never across a wait: two threads inside one `ssl.SSLSocket`, one reading and
  one writing, hang or crash (1 to 14 % of first exchanges, a known defect of the interpreter). Of a plain socket the system lets
  one thread read while another writes.
* A recv takes as much as a TLS record can hold, so none leaves decrypted bytes behind that poll would not see.
* Where it can, a reader waits in recv itself (`WaitingWire`), not in poll before it: a tenth of what an event by itself costs.
  Nothing else on such a socket waits: it is asked not to, call by call. A signal whose handler returns begins the wait anew;
  under signals that come closer than `AT_MOST` the keepalive thread sees to the limits.
* `wake` takes no lock. It shuts the raw socket down, under TLS too, which wakes whoever waits; closing would not.
* The descriptor is closed only when nobody is in `wake`: the number could be another file's by then. A closer that finds somebody
  there leaves the closing to him.
* In a cycle that is collected, anything may be finalised first. So the socket is no part of the cycle: what closes it with its
  wire is kept here, or it would complain that nobody has closed it.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import ssl
import struct
import sys
import threading
import weakref
from collections.abc import Callable
from time import monotonic
from types import BuiltinFunctionType, MethodDescriptorType

from pixir_sync.deadline import Deadline

__all__ = ["AGAIN", "AT_MOST", "PIECE", "READ", "Poller", "TLSWire", "WaitingWire", "Wire", "wire_of"]

READ = 16_384
"""The bytes of one recv at most: a whole TLS record. Each stream that waits in recv holds as many."""
AGAIN = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""What says that nothing can be read or written now."""
AT_MOST = 1.0
"""The longest wait in one piece, in seconds. A Ctrl-C that comes between the interpreter's last look for signals and the system
call does not interrupt that, so it is seen after this; on a busy machine that gap is some milliseconds wide."""
PIECE = AT_MOST * 1000
"""The same in milliseconds, as poll wants it."""
_TIMEVAL = struct.pack("@ll", int(AT_MOST), 0)  # and as sockets want it: seconds, microseconds


class Wire:
    """A connected, non-blocking TCP socket. Threads share it; who may read and who may write is the connection's business.

    Attributes:
        waits: whether what `reader` gives waits for something to read, for `AT_MOST`.
    """

    __slots__ = ("__weakref__", "_io_lock", "_sock", "_wakers", "closed", "fileno")

    waits = False

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        # Guards every send, over TLS every read, too: one non-blocking call each.
        self._io_lock = threading.Lock()
        self._wakers: list[object] = []  # single operations only: those need no lock
        self.closed = False
        self.fileno = sock.fileno()
        _outlive(self, sock)

    def recv(self) -> bytes | None:
        """What is there, ``b""`` at the end, None where nothing is there yet. Raises OSError."""
        try:
            return self.reader()(READ)
        except AGAIN:
            return None

    def reader(self) -> Callable[[int], bytes]:
        """What reads so many bytes at most, for who reads often; it waits if the wire `waits`. Raises OSError, of which `AGAIN`.

        Without the lock: it would be a fiftieth of what an event by itself costs.
        """
        return self._sock.recv

    def send(self, data: memoryview) -> int:
        """How many bytes were taken, 0 where none can be taken now. Raises OSError."""
        with self._io_lock:
            try:
                return self._sock.send(data)
            except AGAIN:
                return 0

    def wake(self) -> None:
        """End every wait and every later read and write. From any thread, signal handler or finaliser."""
        me = object()
        try:
            self._wakers.append(me)
            if not self.closed:
                with contextlib.suppress(OSError):  # not connected any more: nobody waits
                    socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
        finally:
            if me in self._wakers:
                self._wakers.remove(me)
            if self.closed and not self._wakers:
                self._sock.close()

    def close(self) -> None:
        """Close the descriptor. By the last one that reads, writes or polls; takes no lock, and may come again."""
        self.closed = True
        if not self._wakers:
            self._sock.close()

    def __del__(self) -> None:
        self._sock.close()  # nobody is in it, whatever an interrupt left in the books


class WaitingWire(Wire):
    """The same of a socket that blocks, made by `wire_of`: what `reader` gives waits, `recv` and `send` ask it not to."""

    __slots__ = ()

    waits = True

    def recv(self) -> bytes | None:
        try:
            return self._sock.recv(READ, socket.MSG_DONTWAIT)
        except AGAIN:
            return None

    def send(self, data: memoryview) -> int:
        with self._io_lock:
            try:
                return self._sock.send(data, socket.MSG_DONTWAIT)
            except AGAIN:
                return 0


class TLSWire(Wire):
    """The same over TLS."""

    __slots__ = ()

    _sock: ssl.SSLSocket

    def reader(self) -> Callable[[int], bytes]:
        return self._take

    def _take(self, size: int) -> bytes:
        with self._io_lock:
            try:
                return self._sock.read(size)  # which `SSLSocket.recv` calls, after a look at what we know
            except ValueError:  # it is closed
                raise OSError(errno.EBADF, "the socket is closed") from None


def wire_of(sock: socket.socket) -> Wire:
    """The wire that suits a connected, non-blocking socket."""
    if isinstance(sock, ssl.SSLSocket):
        return TLSWire(sock)
    # Not under gevent, where a call that waits holds up everybody; nor on macOS, where a send waits that is asked not to.
    native = isinstance(type(sock).recv, MethodDescriptorType) and isinstance(select.poll, BuiltinFunctionType)
    if native and sys.platform == "linux":
        with contextlib.suppress(OSError):  # a system that wants the time in another form
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL)
            sock.setblocking(True)
            return WaitingWire(sock)
    return Wire(sock)


class _Last(weakref.ref[Wire]):
    """A wire's, with its socket. (A closure over the socket, for each wire its own, takes 300 bytes more.)"""

    __slots__ = ("sock",)

    sock: socket.socket


_last: set[_Last] = set()  # single operations only; hashed by the wire's identity


def _outlive(wire: Wire, sock: socket.socket) -> None:
    """Close the socket when its wire is gone, in whatever order a cycle is taken apart."""
    last = _Last(wire, _close)
    last.sock = sock
    _last.add(last)


def _close(last: _Last) -> None:
    _last.discard(last)
    last.sock.close()


class Poller:
    """A kept poll object for one role's waits. Not for two threads at once: that is an error of `select.poll`."""

    __slots__ = ("_mask", "_object", "_wire", "poll")

    def __init__(self, wire: Wire) -> None:
        self._wire, self._mask = wire, select.POLLIN
        self._object = select.poll()
        self._object.register(wire.fileno, select.POLLIN)
        self.poll = self._object.poll  # for who only waits for something to read; in milliseconds, never less than 0

    def wait(self, mask: int, deadline: Deadline) -> int:
        """Wait until the socket is ready, somebody wakes it, or the deadline passes (0), or for `AT_MOST` (0). Holds no lock."""
        if mask != self._mask:
            self._object.modify(self._wire.fileno, mask)
            self._mask = mask
        left = deadline.at - monotonic()
        ready = self.poll(PIECE if left >= AT_MOST else left * 1000 if left > 0 else 0)  # it rounds up
        return ready[0][1] if ready else 0
