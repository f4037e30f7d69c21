"""A scripted HTTP peer on raw sockets, which can do what no decent server does.

A script is ``script(conn)``; it runs on a thread of its own for each connection and says what happens byte by byte::

    def script(conn):
        conn.read_request()
        conn.start_sse()
        for event in text_response("Hel", "lo"):
            conn.sse(event)
        conn.finish()

    with ScriptedPeer(script) as peer:
        Provider(base_url=peer.base_url, ...)

Given a list of scripts, the first connection gets the first, and so on; a connection too many is an error.

Rules kept here:

* Every wait has a deadline; what is not there in time is `AssertionError`.
* An error of a script, `AssertionError` too, is raised where the ``with`` block ends, unless the block itself raised.
  So is the OSError of a send to a client that has gone: a script that expects it says ``with suppress(OSError)``.
* A client that hangs up between two requests just ends the script; so does the end of the block, there and in a `hold`.
* Nothing outlives the block: no thread, no socket.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

__all__ = ["ClientGone", "Conn", "Request", "Script", "ScriptedPeer"]

DEADLINE = 5.0
"""How long a wait lasts unless told otherwise, in seconds."""
_SLICE = 0.02  # how soon a wait sees that the block has ended


class ClientGone(Exception):
    """The client closed the connection, or the test ended, where a request could have begun."""


class Request(NamedTuple):
    """A request as it came; header names in lower case, of equal ones the last."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Conn:
    """One connection, in the hands of its script. ``number`` counts from 0; ``received`` is every byte that came."""

    def __init__(self, sock: socket.socket, number: int, peer: ScriptedPeer) -> None:
        self.sock = sock
        self.number = number
        self.received = bytearray()
        self.requests: list[Request] = []
        self._peer = peer
        self._unread = b""
        self._chunked = False
        self._gzip: Any = None

    # What comes in

    def read_request(self, deadline: float = DEADLINE) -> Request:
        """The next request, with its body. Raises `ClientGone` if the connection or the test ends before one begins."""
        until = time.monotonic() + deadline
        head = self._read_to(b"\r\n\r\n", until, may_end=True)
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        pairs = (line.split(":", 1) for line in lines)
        headers = {name.strip().lower(): value.strip() for name, value in pairs}
        request = Request(method, path, headers, self._read_body(headers, until))
        self.requests.append(request)
        self._peer._note(request)
        return request

    def wait_closed(self, deadline: float = DEADLINE) -> None:
        """Waits until the client has closed or reset the connection; what it still sends is recorded and dropped."""
        until = time.monotonic() + deadline
        while self._more(until, "the client to close the connection"):
            self._unread = b""

    def hold(self, event: threading.Event, deadline: float = DEADLINE) -> None:
        """Waits for the test to set an event."""
        until = time.monotonic() + deadline
        while not event.wait(_SLICE):
            if self._peer.ending.is_set():
                raise ClientGone
            assert time.monotonic() < until, f"the test did not set the event within {deadline} s"

    def _read_body(self, headers: Mapping[str, str], until: float) -> bytes:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return self._read_exactly(int(headers.get("content-length", "0")), until)
        parts = []
        while size := int(self._read_to(b"\r\n", until).partition(b";")[0], 16):
            parts.append(self._read_exactly(size, until))
            self._read_exactly(2, until)
        while self._read_to(b"\r\n", until) != b"\r\n":
            pass  # trailers
        return b"".join(parts)

    def _read_to(self, mark: bytes, until: float, *, may_end: bool = False) -> bytes:
        while mark not in self._unread:
            between = may_end and not self._unread
            if not self._more(until, "a request", between):
                if between:
                    raise ClientGone
                raise AssertionError("the client closed the connection within a request")
        end = self._unread.index(mark) + len(mark)
        found, self._unread = self._unread[:end], self._unread[end:]
        return found

    def _read_exactly(self, size: int, until: float) -> bytes:
        while len(self._unread) < size:
            assert self._more(until, "a request's body"), "the client closed the connection within a request's body"
        found, self._unread = self._unread[:size], self._unread[size:]
        return found

    def _more(self, until: float, what: str, between: bool = False) -> bool:
        """Receives once; False at the end of the stream. Between requests, the end of the test is an end too."""
        while True:
            self.sock.settimeout(_SLICE)
            try:
                data = self.sock.recv(1 << 16)
            except TimeoutError:
                if between and self._peer.ending.is_set():
                    return False
                assert time.monotonic() < until, f"waited in vain for {what}"
                continue
            except OSError:
                return False  # a reset, or TLS cut off: the client is gone all the same
            self.received += data
            self._unread += data
            return bool(data)

    # What goes out

    def send(self, data: bytes) -> None:
        """These bytes as they are."""
        self.sock.settimeout(DEADLINE)
        self.sock.sendall(data)

    def send_chunked(self, data: bytes) -> None:
        """One chunk of chunked transfer coding; empty data would end the body, and is not sent."""
        if data:
            self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def write(self, data: bytes) -> None:
        """Bytes of the body begun by `start_sse`, coded as was said there, and flushed."""
        if self._gzip is not None:
            data = self._gzip.compress(data) + self._gzip.flush(zlib.Z_SYNC_FLUSH)
        (self.send_chunked if self._chunked else self.send)(data)

    def respond(self, status: int, body: Any = b"", headers: Mapping[str, str] | None = None) -> None:
        """A whole response with its length; what is neither bytes nor string is sent as JSON."""
        raw = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        kind = "text/plain" if isinstance(body, (bytes, str)) else "application/json"
        self.send(_head(status, {"content-type": kind, "content-length": str(len(raw)), **(headers or {})}) + raw)

    def start_sse(
        self, status: int = 200, headers: Mapping[str, str] | None = None, *, chunked: bool = True, gzip: bool = False
    ) -> None:
        """The head of an event stream: chunked, or up to the end of the connection; perhaps compressed."""
        self._chunked = chunked
        self._gzip = zlib.compressobj(wbits=31) if gzip else None
        lines = {"content-type": "text/event-stream; charset=utf-8"}
        lines |= {"transfer-encoding": "chunked"} if chunked else {"connection": "close"}
        lines |= {"content-encoding": "gzip"} if gzip else {}
        self.send(_head(status, {**lines, **(headers or {})}))

    def sse(self, event: Mapping[str, Any], *, with_event_line: bool = True) -> None:
        """One event, written at once."""
        name = f"event: {event['type']}\n" if with_event_line else ""
        self.write(f"{name}data: {json.dumps(event, ensure_ascii=False)}\n\n".encode())

    def finish(self) -> None:
        """The proper end of the body; of one without chunks, the end of the connection."""
        if self._gzip is not None:
            data, self._gzip = self._gzip.flush(), None
            self.write(data)
        if self._chunked:
            self.send(b"0\r\n\r\n")
        else:
            self.close()

    # How it ends

    def close(self) -> None:
        """An orderly end of the connection, over TLS with close_notify."""
        if isinstance(self.sock, ssl.SSLSocket):
            self.sock.settimeout(_SLICE)
            with suppress(OSError, ValueError):
                self.sock.unwrap()  # times out where the client does not answer, which it need not
        self.cut()

    def cut(self) -> None:
        """The end of the TCP connection (FIN), over TLS without close_notify."""
        with suppress(OSError):
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)
        self.sock.close()

    def reset(self) -> None:
        """The connection is torn down with a reset (RST)."""
        with suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


Script = Callable[[Conn], object]


class ScriptedPeer:
    """The peer, as a context manager; listens from its construction on a free port of loopback.

    Attributes: ``base_url`` (for a Provider), ``host``, ``port``, ``connections`` (the `Conn` of each that was
    accepted), ``requests`` (all of them, in order), ``refused`` (the errors of TLS handshakes), ``ending`` (set when
    the block ends).
    """

    def __init__(
        self,
        script: Script | Sequence[Script],
        *,
        ssl_context: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        deadline: float = DEADLINE,
    ) -> None:
        """``deadline``: how long the scripts have, after the block has ended, to end themselves."""
        self._script = script
        self._ssl = ssl_context
        self._deadline = deadline
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(_SLICE)
        self.host, self.port = host, self._listener.getsockname()[1]
        self.base_url = f"{'https' if ssl_context else 'http'}://{host}:{self.port}/v1"
        self.ending = threading.Event()
        self.connections: list[Conn] = []
        self.requests: list[Request] = []
        self.refused: list[OSError] = []
        self._errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        # Guards the lists above; notified when one grows.
        self._news = threading.Condition()
        self._acceptor = threading.Thread(target=self._accept, name="peer-accept", daemon=True)

    def __enter__(self) -> ScriptedPeer:
        self._acceptor.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.ending.set()
        self._acceptor.join(self._deadline)
        self._listener.close()
        until = time.monotonic() + self._deadline
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        stuck = [thread for thread in self._threads if thread.is_alive()]
        for conn in self.connections if stuck else ():
            conn.cut()
        for thread in stuck:
            thread.join(self._deadline)
            self._errors.append(AssertionError(f"the script of {thread.name} did not end"))
        if self._errors and error is None:
            raise self._errors[0]

    def _note(self, request: Request) -> None:
        with self._news:
            self.requests.append(request)
            self._news.notify_all()

    def _accept(self) -> None:
        while not self.ending.is_set():
            try:
                sock, _ = self._listener.accept()
            except TimeoutError:
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            conn = Conn(sock, len(self.connections), self)
            thread = threading.Thread(target=self._serve, args=(conn,), name=f"peer-{conn.number}", daemon=True)
            with self._news:
                self.connections.append(conn)
                self._threads.append(thread)
                self._news.notify_all()
            thread.start()

    def _serve(self, conn: Conn) -> None:
        try:
            if self._shaken_hands(conn):
                self._script_of(conn.number)(conn)
        except ClientGone:
            pass  # the ordinary end of a kept-alive connection
        except BaseException as error:  # raised again where the block ends
            self._errors.append(error)
        finally:
            conn.cut()

    def _shaken_hands(self, conn: Conn) -> bool:
        if self._ssl is None:
            return True
        conn.sock.settimeout(DEADLINE)
        try:
            conn.sock = self._ssl.wrap_socket(conn.sock, server_side=True)
        except OSError as error:
            self.refused.append(error)
            return False
        return True

    def _script_of(self, number: int) -> Script:
        if callable(self._script):
            return self._script
        assert number < len(self._script), f"connection {number} came and there are {len(self._script)} scripts"
        return self._script[number]


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Scripted\r\n{lines}\r\n".encode("latin-1")
