"""TLS for the peers of the tests: one authority per process, and a connection's server end that threads may share.

Rules kept here:

* Every call on the socket and on the TLS object is non-blocking and under one lock; polling goes on outside of it. Two
  threads in recv and send of one SSLSocket would be a hazard, so the TLS object works in memory and never sees the socket.
* What one write gives stays together on the wire, whoever else writes.
* What arrived is what the socket gave: the end of the TCP connection and TLS's own end are told apart.
"""

from __future__ import annotations

import atexit
import errno
import functools
import os
import select
import shutil
import socket
import ssl
import struct
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import trustme

__all__ = ["Authority", "Channel", "authority"]

_PIECE = 1 << 18  # bytes given to one send or asked of one recv


class Authority:
    """A certificate authority and a server certificate for 127.0.0.1 and localhost. Take the process's one: `authority`."""

    def __init__(self) -> None:
        self.ca = trustme.CA()
        self.certificate = self.ca.issue_cert("127.0.0.1", "localhost")
        self._contexts: dict[ssl.TLSVersion, ssl.SSLContext] = {}
        self._file: str | None = None
        # Guards the two above: they are made at the first use.
        self._lock = threading.Lock()

    def server_context(self, minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
        """The context of a server with the certificate; one for each minimum version."""
        with self._lock:
            if minimum not in self._contexts:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.minimum_version = minimum
                self.certificate.configure_cert(context)
                self._contexts[minimum] = context
            return self._contexts[minimum]

    def ca_file(self, directory: Path | None = None) -> str:
        """The path of the authority's PEM: in this directory, or kept until the process ends."""
        if directory is not None:
            path = str(directory / "authority.pem")
            self.ca.cert_pem.write_to_path(path)
            return path
        with self._lock:
            if self._file is None:
                kept = tempfile.mkdtemp(prefix="pixir-tests-")
                atexit.register(_remove, kept, os.getpid())
                self._file = os.path.join(kept, "authority.pem")
                self.ca.cert_pem.write_to_path(self._file)
            return self._file


@functools.cache
def authority() -> Authority:
    """The authority of this process; making one takes milliseconds, so it is made once."""
    return Authority()


def _remove(directory: str, owner: int) -> None:
    if os.getpid() == owner:  # a forked child leaves its parent's file alone
        shutil.rmtree(directory, ignore_errors=True)


class Channel:
    """The server's end of one connection, plain or TLS. Threads may share it.

    Attributes: ``how`` (None, then how the client ended it: "fin" or "reset"), ``close_notify`` (whether TLS was ended
    properly before), ``alert`` (the reason of a TLS alert of the client, after which nothing is decrypted), ``closed`` (whether
    this end is closed), ``arrived`` (bytes that TCP gave, encrypted ones over TLS), ``reading`` (False: nothing more is taken
    from the socket).
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext | None, ending: socket.socket) -> None:
        """``ending``: a socket that becomes readable when the test ends, and so ends the waits that heed it."""
        sock.setblocking(False)
        self.how: str | None = None
        self.alert: str | None = None
        self.close_notify = self.closed = False
        self.arrived = 0
        self.reading = True
        self._sock = sock
        self._ending = ending
        self._incoming, self._encrypted = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._encrypted, server_side=True) if context else None
        self._outgoing = bytearray()
        self._queued = self._sent = 0  # bytes, since the beginning
        # Guards the socket, the TLS object and all of the state above.
        self._lock = threading.Lock()

    def handshake(self, until: float) -> bool:
        """TLS's handshake, if there is to be one. False if the test ended meanwhile. Raises `ssl.SSLError`, `OSError`.

        What came with its last bytes waits for a `read`, and no poll will tell of it.
        """
        while self._tls is not None:
            with self._lock:
                try:
                    self._tls.do_handshake()
                    done = True
                except ssl.SSLWantReadError:
                    done = False
                finally:
                    self._queue_encrypted()
                    with suppress(OSError):
                        self._flush()
            if done:
                break
            if self.wait(select.POLLIN, until - time.monotonic()):
                return False
            with self._lock:
                if not self._receive():
                    if self.how:
                        raise ConnectionResetError(errno.ECONNRESET, f"the client left within the TLS handshake: {self.how}")
                    if time.monotonic() > until:
                        raise TimeoutError("the client did not finish the TLS handshake")
        return True

    def wait(self, mask: int, timeout: float, heed_end: bool = True) -> bool:
        """Polls the socket; True if nothing is there and the test has ended."""
        poll = select.poll()
        with self._lock:
            if self.closed:
                return False
            poll.register(self._sock, mask)
        if heed_end:
            poll.register(self._ending, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(max(0.0, timeout) * 1000)]
        return ready == [self._ending.fileno()]

    def mask(self) -> int:
        """What to poll for in order to read: nothing more when the client has gone, only its going when reading stopped."""
        if self.how is not None:
            return 0
        return select.POLLIN if self.reading else select.POLLRDHUP

    def read(self) -> bytes:
        """What is there, decrypted; nothing if nothing is there, reading was stopped, or the client has gone (see ``how``)."""
        with self._lock:
            if self.closed or self.how is not None:
                return b""
            if not self.reading:
                self._look()
                return b""
            data = self._receive()
            if self._tls is None:
                return data
            return b"" if self.alert else self._decrypt()

    def write(self, data: bytes) -> int:
        """Queues these bytes; the mark that `flushed` takes. Raises OSError if this end is closed."""
        with self._lock:
            if self.closed:
                raise BrokenPipeError(errno.EPIPE, "the script has closed this connection")
            if self._tls is None:
                self._queue(data)
            else:
                view = memoryview(data)
                while view:
                    view = view[self._tls.write(view) :]
                self._queue_encrypted()
            return self._queued

    def flushed(self, mark: int) -> bool:
        """Sends what can be sent; whether all up to this mark has gone. Raises OSError if the client has."""
        with self._lock:
            self._flush()
            return self._sent >= mark

    def finish(self, notify: bool) -> None:
        """A FIN, after TLS's close_notify if so wished; this end can still read."""
        with self._lock, suppress(OSError):
            if self._tls is not None and notify and not self.closed:
                with suppress(ssl.SSLError):
                    self._tls.unwrap()
                self._queue_encrypted()
            self._flush()
            self._sock.shutdown(socket.SHUT_WR)

    def close(self, reset: bool = False) -> None:
        """Gives the socket back; with a RST if so wished, and by the system's own rule if there are bytes nobody read."""
        with self._lock:
            if reset and not self.closed:
                with suppress(OSError):
                    self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.closed = True
            self._sock.close()

    # With the lock held

    def _receive(self) -> bytes:
        """One recv; over TLS its bytes go to the TLS object."""
        assert self._lock.locked()
        try:
            data = self._sock.recv(_PIECE)
        except BlockingIOError:
            return b""
        except OSError:
            self.how = "reset"
            return b""
        self.arrived += len(data)
        if not data:
            self.how = "fin"
        elif self._tls is not None:
            self._incoming.write(data)
        return data

    def _decrypt(self) -> bytes:
        assert self._lock.locked()
        assert self._tls is not None
        parts = []
        with suppress(ssl.SSLWantReadError):
            try:
                while part := self._tls.read(_PIECE):
                    parts.append(part)
            except ssl.SSLZeroReturnError:
                self.how, self.close_notify = "fin", True
            except ssl.SSLError as error:
                if isinstance(error, ssl.SSLWantReadError) or "ALERT" not in (error.reason or ""):
                    raise
                self.alert = error.reason  # clients answer a missing close_notify so
        self._queue_encrypted()  # the answer to a key update
        with suppress(OSError):
            self._flush()
        return b"".join(parts)

    def _look(self) -> None:
        """Whether the client has gone, without taking a byte."""
        assert self._lock.locked()
        poll = select.poll()
        poll.register(self._sock, select.POLLRDHUP)
        for _, events in poll.poll(0):
            self.how = "reset" if events & select.POLLERR else "fin"

    def _queue(self, data: bytes) -> None:
        assert self._lock.locked()
        self._outgoing += data
        self._queued += len(data)

    def _queue_encrypted(self) -> None:
        self._queue(self._encrypted.read())

    def _flush(self) -> None:
        assert self._lock.locked()
        with suppress(BlockingIOError):
            while self._outgoing:
                sent = self._sock.send(self._outgoing[:_PIECE])
                del self._outgoing[:sent]
                self._sent += sent
