"""`Opening`: a connection while it is being opened, whoever is at its other end: a proxy, TLS, a server that upgrades or refuses.

Rules kept here:

* The socket never blocks. Every wait ends with the one deadline of the opening, and within `_SLICE` of a cancel: nothing shuts
  the socket down from another thread, so that nothing can hit a descriptor that was closed and used again.
* What is read is bounded: `HEAD_LIMIT` bytes for all heads together, `BODY_LIMIT` + 1 of a refusal's body.
* What the peer says never gets into a message. `Opening.fault` says what failed; it is set as the opening goes on.
* The block's end closes the socket, unless it was handed over.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

from pixir_sync.cancellation import CancelToken, cancelled
from pixir_sync.deadline import Deadline
from pixir_sync.protocol.classify import BODY_LIMIT
from pixir_sync.protocol.errors import ConnectFailed, ConnectTimeout, PixirError

__all__ = ["HEAD_LIMIT", "Head", "Opening"]

HEAD_LIMIT = 65_536
"""How much is read before the heads must have ended, in bytes."""

_CHUNK = 16_384
_BODY_WAIT = 2.0  # seconds for a refusal's body: its status says most
_SLICE = 0.05  # seconds between looks at the cancel flag
_BEGINS = b"HTTP/1."
_END = re.compile(rb"\r?\n\r?\n")
_STATUS = re.compile(r"HTTP/1\.[0-9] ([1-9][0-9]{2})(?: |$)")

T = TypeVar("T")


class Head(NamedTuple):
    """The head of an answer; names in lower case, equal ones joined, cookies left out."""

    status: int
    headers: dict[str, str]


class _TimedOut(Exception):
    """The deadline passed. No `TimeoutError`: websocket-client would make something else of that."""


class Opening:
    """A connected socket under a deadline and a cancel; a context manager. For one thread.

    Every method raises `ConnectFailed` or `Cancelled`; the block as a whole also `ConnectTimeout`.
    """

    def __init__(self, sock: socket.socket, deadline: Deadline, cancel: CancelToken) -> None:
        self.fault = "the connection could not be made"
        self._sock: socket.socket | None = sock
        self._deadline = deadline
        self._cancel = cancel
        self._unread = bytearray()
        self._allowance = HEAD_LIMIT  # how much more may be read

    def __enter__(self) -> Opening:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._sock is not None:
            self._sock.close()
        if isinstance(error, _TimedOut):
            raise ConnectTimeout("the connection was not ready in time", phase="connect") from None

    @property
    def sock(self) -> socket.socket:
        assert self._sock is not None, "the socket was handed over"
        return self._sock

    def hand_over(self) -> tuple[socket.socket, bytes]:
        """The socket, which the block's end then leaves open, and what was read too far."""
        sock, self._sock = self.sock, None
        return sock, bytes(self._unread)

    def failed(self, reason: str) -> ConnectFailed:
        return ConnectFailed(f"{self.fault}: {reason}", phase="connect")

    # Through the socket

    def secure(self, context: ssl.SSLContext, host: str) -> None:
        """Speak TLS from here on."""
        self.fault = "the TLS handshake failed"
        if self._unread:
            raise self.failed("the answer is not TLS")
        try:
            sock = context.wrap_socket(self.sock, server_hostname=host, do_handshake_on_connect=False)
        except (OSError, ValueError) as error:
            raise self._meaning(error) from error
        self._sock = sock
        self._done(sock.do_handshake, select.POLLIN)

    def send(self, data: bytes) -> None:
        """All of the data."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._done(partial(self.sock.send, rest), select.POLLOUT) :]

    def _more(self) -> None:
        """Receive once. The end of the stream is an error: whoever comes here needs more."""
        if not self._allowance:
            raise self.failed(f"its headers are longer than {HEAD_LIMIT} bytes")
        data = self._done(partial(self.sock.recv, min(_CHUNK, self._allowance)), select.POLLIN)
        if not data:
            raise self.failed("the connection was closed")
        self._allowance -= len(data)
        self._unread += data

    def _done(self, operation: Callable[[], T], events: int) -> T:
        """The outcome of an operation on the socket, tried again when the socket is ready for it."""
        while True:
            if self._cancel.cancelled:
                raise _cancelled(self._cancel)
            if self._deadline.passed:
                raise _TimedOut
            try:
                return operation()
            except BlockingIOError:
                wanted = events
            except ssl.SSLWantReadError:
                wanted = select.POLLIN
            except ssl.SSLWantWriteError:
                wanted = select.POLLOUT
            except OSError as error:
                raise self._meaning(error) from error
            poll = select.poll()
            poll.register(self.sock, wanted)
            poll.poll(1000 * min(_SLICE, self._deadline.remaining()))

    def _meaning(self, error: Exception) -> ConnectFailed:
        if isinstance(error, ssl.SSLCertVerificationError):
            return ConnectFailed("the server's certificate is not trusted", details={"certificate": True}, retryable=False,
                                 phase="connect")  # fmt: skip
        if isinstance(error, (ssl.SSLError, ValueError)):
            return ConnectFailed(self.fault, phase="connect")
        return self.failed("the connection was lost")

    # What an answer is made of

    def head(self) -> Head:
        """The head of the answer; those that only announce it are passed over."""
        while (head := self._next_head()).status < 200 and head.status != 101:
            pass
        return head

    def _next_head(self) -> Head:
        searched = 0
        while (end := _END.search(self._unread, max(0, searched - 3))) is None:
            if not _BEGINS.startswith(self._unread[: len(_BEGINS)]):
                raise self.failed("the answer is not HTTP")
            searched = len(self._unread)
            self._more()
        text = self._unread[: end.start()].decode("latin-1")
        del self._unread[: end.end()]
        first, *lines = text.split("\n")
        status = _STATUS.match(first.rstrip("\r"))
        if status is None:
            raise self.failed("the answer is not HTTP")
        return Head(int(status[1]), _headers(lines))

    def body(self, head: Head) -> bytes:
        """The body of a refusal: at most `BODY_LIMIT` + 1 bytes, and of those what comes soon and whole enough to be read."""
        self._deadline = self._deadline.sooner(_BODY_WAIT)
        self._allowance = HEAD_LIMIT
        body = bytearray()
        with contextlib.suppress(_TimedOut, ConnectFailed, ValueError):  # the status and what came say enough
            if "chunked" in head.headers.get("transfer-encoding", "").lower():
                self._take_chunks(body)
            elif head.status not in (204, 304):
                self._take(body, int(head.headers.get("content-length", BODY_LIMIT + 1)))
        return bytes(body)

    def _take(self, body: bytearray, size: int) -> None:
        size = min(size, BODY_LIMIT + 1 - len(body))
        while size > 0:
            if not self._unread:
                self._more()
            part = self._unread[:size]
            del self._unread[:size]
            body += part
            size -= len(part)

    def _take_chunks(self, body: bytearray) -> None:
        while len(body) <= BODY_LIMIT and (size := int(self._line().partition(b";")[0], 16)) > 0:
            self._take(body, size)
            self._line()

    def _line(self) -> bytes:
        while (end := self._unread.find(b"\n")) < 0:
            self._more()
        line = bytes(self._unread[:end])
        del self._unread[: end + 1]
        return line


def _headers(lines: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name, value = name.strip().lower(), value.strip()
        if colon and name != "set-cookie":
            found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _cancelled(cancel: CancelToken) -> PixirError:
    error = cancelled(cancel)
    error.phase = "connect"
    return error
