"""Sockets that obey a call: every read and write of an HTTP connection is bounded by the deadlines of the call it serves.

urllib3 and http.client know one timeout per socket operation, which a server that drips bytes never reaches, and nothing
that another thread could wake. Here a connection's socket asks the `Guard` of the present call before it reads or writes,
and the guard lets a cancel shut the connection down.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from pixir_sync.forking import PlainSocket, TLSSocket, watch
from pixir_sync.network import connect_tcp
from pixir_sync.protocol.errors import PixirError
from pixir_sync.transports.http.guard import Guard, Waker

__all__ = ["POOL_CLASSES", "guarding", "use_guarded_sockets"]

_BUFFER = 65536
_SLACK = 0.02
"""How much longer than its limit a read may wait, in seconds."""
_present = threading.local()


class guarding:
    """While the block runs, connections that this thread opens or takes belong to the guard's call."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def __enter__(self) -> Guard:
        _present.guard = self._guard
        return self._guard

    def __exit__(self, *exc: object) -> None:
        _present.guard = None


class _WithoutQuery(logging.Filter):
    """Takes the query, which may hold a key, out of what urllib3 logs of our own requests; other programs' lines stay."""

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(_present, "guard", None) is not None and isinstance(record.args, tuple):
            record.args = tuple(arg.partition("?")[0] if isinstance(arg, str) else arg for arg in record.args)
        return True


logging.getLogger("urllib3.connectionpool").addFilter(_WithoutQuery())


class _GuardedIO:
    """The reads and writes of a socket under a guard."""

    guard: Guard | None = None

    def makefile(self, mode: str = "r", buffering: int | None = None, **options: Any) -> Any:
        """http.client reads through this file. Its usual 8 KB are two calls to the system, and two batches, for each 16 KB."""
        return super().makefile(mode, _BUFFER if buffering is None else buffering, **options)  # type: ignore[misc]

    def recv_into(self, *args: Any) -> int:
        if self.guard is not None:
            self._allow(self.guard.read_timeout())
        try:
            return super().recv_into(*args)  # type: ignore[misc, no-any-return]
        except TimeoutError as error:
            raise self._expired(error) from None

    def recv(self, *args: Any) -> bytes:
        """What TLS within TLS reads with."""
        if self.guard is not None:
            self._allow(self.guard.read_timeout())
        try:
            return super().recv(*args)  # type: ignore[misc, no-any-return]
        except TimeoutError as error:
            raise self._expired(error) from None

    def _allow(self, left: float | None) -> None:
        """Let a read wait so long. A timeout that is nearly that stands: of three system calls for an event one less."""
        stands = self.gettimeout()  # type: ignore[attr-defined]
        if left is None or stands is None or not left <= stands <= left + _SLACK:
            self.settimeout(None if left is None else left + _SLACK / 2)  # type: ignore[attr-defined]

    def _expired(self, error: TimeoutError) -> BaseException:
        """The limit that ran out; the error itself where it is no limit of ours, as where the system gave the connection up."""
        return error if self.guard is None or error.errno is not None else self.guard.expired()

    def sendall(self, data: Any, flags: int = 0) -> None:
        guard = self.guard
        if guard is None or not data:
            return super().sendall(data, flags)  # type: ignore[misc, no-any-return]
        if guard.phase == "connect":
            return self._send_to_proxy(guard, data)
        guard.phase = "send"
        with memoryview(data) as whole, whole.cast("B") as view:
            at = 0
            while at < len(view):
                self.settimeout(guard.write_timeout())  # type: ignore[attr-defined]
                try:
                    at += self.send(view[at : at + 65536])  # type: ignore[attr-defined]
                except TimeoutError as error:
                    if error.errno is not None:
                        raise
                    raise guard.expired(writing=True) from None
                guard.sent = True
            guard.bytes_sent += len(view)
        guard.expect_first()
        return None

    def _send_to_proxy(self, guard: Guard, data: Any) -> None:
        """What is said to a proxy before the connection stands is no part of the request."""
        self.settimeout(guard.read_timeout())  # type: ignore[attr-defined]
        super().sendall(data)  # type: ignore[misc]


class GuardedSocket(_GuardedIO, PlainSocket):
    """A TCP socket under a guard."""


class GuardedSSLSocket(_GuardedIO, TLSSocket):
    """A TLS socket under a guard."""


def use_guarded_sockets(context: ssl.SSLContext) -> ssl.SSLContext:
    """Let a context make `GuardedSSLSocket`."""
    context.sslsocket_class = GuardedSSLSocket
    return context


class _GuardedConnection:
    """What both kinds of connection add to urllib3's."""

    sock: Any
    _guard: Guard | None = None
    _waker: Waker | None = None

    def _new_conn(self) -> socket.socket:
        guard: Guard = _present.guard
        try:
            limit = guard.connecting.sooner(guard.total.timeout())
            sock = connect_tcp(self._dns_host, self.port, limit, guard.cancel, GuardedSocket)  # type: ignore[attr-defined]
        except PixirError as error:
            guard.error = guard.expired() if guard.total.passed else error
            raise OSError(str(guard.error)) from None
        self._waker = Waker(sock)
        guard.watch(self._waker)
        sock.settimeout(guard.read_timeout())  # for the TLS handshake
        return sock

    def connect(self) -> None:
        guard: Guard = _present.guard
        began = time.monotonic()
        try:
            super().connect()  # type: ignore[misc]
        except TimeoutError:
            raise guard.expired() from None
        guard.connect_ms = (time.monotonic() - began) * 1000
        self._take()

    def _tunnel(self) -> None:
        """The proxy's answer has what is left of the limit for connecting, and so has the TLS handshake after it."""
        guard: Guard = _present.guard
        self._put_under(guard)
        super()._tunnel()  # type: ignore[misc]
        self.sock.settimeout(guard.read_timeout())

    def request(self, *args: Any, **kwargs: Any) -> None:
        guard: Guard = _present.guard
        if self.sock is not None and guard.connect_ms is None:
            guard.reused = True
            self._take()
        super().request(*args, **kwargs)  # type: ignore[misc]

    def _take(self) -> None:
        """The connection serves the present call from here on."""
        self._guard = guard = _present.guard
        self._put_under(guard)
        guard.phase = "send"
        if self._waker is not None:
            guard.watch(self._waker)

    def _put_under(self, guard: Guard) -> None:
        sock = getattr(self.sock, "socket", self.sock)  # for TLS within TLS the outer one, which does the reads and writes
        sock.guard = guard

    def let_go(self) -> None:
        """The connection is no longer the call's. Takes no lock."""
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.unwatch()

    def close(self) -> None:
        self._waker = None
        super().close()  # type: ignore[misc]


class _PlainConnection(_GuardedConnection, HTTPConnection):
    """A plain connection under a guard."""


class _TLSConnection(_GuardedConnection, HTTPSConnection):
    """A TLS connection under a guard."""


class _GuardedPool:
    """Takes a connection back only once the call that had it can no longer shut it down.

    urllib3 puts a connection back with the last byte of its body, which may be long before the call has ended: from then on
    it is perhaps another call's.
    """

    pool: Any

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        watch(self)

    def after_fork(self) -> None:
        """In a child process nobody may wait for the lock of this queue: urllib3 empties it in a finaliser, and at the end."""
        if self.pool is not None:
            self.pool.__init__(self.pool.maxsize)

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.let_go()
        super()._put_conn(conn)  # type: ignore[misc]


class _PlainPool(_GuardedPool, HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TLSPool(_GuardedPool, HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


POOL_CLASSES = {"http": _PlainPool, "https": _TLSPool}
"""urllib3's pools by scheme, with guarded connections."""
