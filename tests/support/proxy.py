"""A small proxy for tests, plain or over TLS: CONNECT opens a tunnel, anything else is forwarded to the host that it names."""

from __future__ import annotations

import base64
import select
import socket
import ssl
import threading
from contextlib import closing, suppress


class ConnectProxy:
    """The proxy, as a context manager. ``heads`` are the heads of the requests that it got.

    ``login`` (``name:password``) is what it asks for, with a 407 for whoever does not say it; ``refuse`` makes it answer 403 to
    everybody, ``hang`` makes it answer nobody.

    One thread per connection reads and writes both of its sides: TLS objects are not for two threads at once.
    """

    def __init__(self, context: ssl.SSLContext | None = None, *, login: str | None = None) -> None:
        self.heads: list[str] = []
        self.refuse = self.hang = False
        self._wanted = None if login is None else b"basic " + base64.b64encode(login.encode()).lower()
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.02)
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._accept, name="proxy-accept", daemon=True)]
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> ConnectProxy:
        self._threads[0].start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        for thread in list(self._threads):
            thread.join(5)
        self._listener.close()

    def _accept(self) -> None:
        while not self._over.is_set():
            with suppress(TimeoutError):
                sock, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(sock,), name="proxy", daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with suppress(OSError):
            sock.settimeout(5)
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True)
            with closing(sock):
                self._forward(sock)
        sock.close()

    def _forward(self, sock: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            data = sock.recv(65536)
            if not data:
                return
            head += data
        self.heads.append(head.decode("latin-1"))
        method, target, _ = head.split(b"\r\n")[0].split(b" ")
        if self.hang:
            self._over.wait(10)
            return
        if self.refuse or (self._wanted is not None and self._wanted not in head.lower()):
            status = b"403 Forbidden" if self.refuse else b"407 Proxy Authentication Required"
            sock.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
            return
        place = target if method == b"CONNECT" else target.split(b"/")[2]
        host, port = place.decode().rsplit(":", 1)
        with socket.create_connection((host, int(port)), 5) as upstream:
            if method == b"CONNECT":
                sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                kept = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"proxy-")]
                upstream.sendall(b"\r\n".join(kept))
            self._pump(sock, upstream)

    def _pump(self, client: socket.socket, upstream: socket.socket) -> None:
        other = {client: upstream, upstream: client}
        while not self._over.is_set():
            waiting = isinstance(client, ssl.SSLSocket) and client.pending() > 0
            ready = [client] if waiting else select.select([client, upstream], [], [], 0.02)[0]
            for source in ready:
                data = source.recv(65536)
                if not data:
                    return
                other[source].sendall(data)
