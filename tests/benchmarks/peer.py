"""The other side of the comparisons: a process that answers faster than any client reads.

It speaks WebSocket and HTTP, plain and over TLS, on raw sockets. A request's ``model`` names the answer: ``bulk`` is 20,000
deltas as fast as they go, ``paced`` is one event per packet, half a millisecond apart, unless told otherwise. A request over HTTP
without ``stream`` gets the bulk answer as one JSON body::

    with Peer() as peer:
        Provider(base_url=peer.plain, model="bulk", ...)

Rules kept here:

* What is sent was encoded before; the peer's own work per answer is a ``sendall`` or three, per paced event one.
* It has a process of its own, so that its work is nobody's CPU time. It ends with the ``with`` block, or with its parent.
* It tells what it used, so that a comparison can show that the peer was not what was waited for.
* Nothing here comes from the package that is measured.
"""

from __future__ import annotations

import base64
import hashlib
import json
import multiprocessing
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any, NamedTuple

import trustme

from tests.benchmarks.answers import Answer, Bulk, Paced, frame

__all__ = ["DELTAS", "PACE", "PACED_DELTAS", "Peer"]

DELTAS = 20_000
PACED_DELTAS = 4_000
PACE = 0.0005
"""Seconds between two events of the paced answer."""

_GOLDEN = 0.618_034

_DEADLINE = 30.0
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _CLOSE, _PING, _PONG = 0x1, 0x8, 0x9, 0xA
_SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
_JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
_REFUSAL = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"


class Addresses(NamedTuple):
    """What the process tells of itself."""

    plain: str
    tls: str
    authority: str
    characters: int


class Peer:
    """The peer process, as a context manager.

    Attributes:
        plain, tls: its base URLs.
        authority: a PEM file with the authority to trust; gone after the block.
        characters: the length of the text of the bulk answer.
    """

    plain: str
    tls: str
    authority: str
    characters: int

    def __init__(self, deltas: int = DELTAS, paced_deltas: int = PACED_DELTAS, *, pace: float = PACE) -> None:
        """``pace`` is the time in seconds between two events of the paced answer."""
        context = multiprocessing.get_context("spawn")  # a fork would inherit what the caller has open
        self._pipe, theirs = context.Pipe()
        sizes = (deltas, paced_deltas, pace)
        self._process = context.Process(target=_main, args=(theirs, *sizes), name="benchmark-peer", daemon=True)
        self._theirs = theirs

    def __enter__(self) -> Peer:
        self._process.start()
        self._theirs.close()
        try:
            if not self._pipe.poll(_DEADLINE):
                raise TimeoutError("the peer did not start")
            found: Addresses = self._pipe.recv()
        except BaseException:
            self.__exit__()
            raise
        self.plain, self.tls, self.authority, self.characters = found
        return self

    def __exit__(self, *exc: object) -> None:
        self._pipe.close()
        self._process.join(_DEADLINE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()


    def cpu(self) -> float:
        """The processor time that the process has used so far, in seconds."""
        self._pipe.send(None)
        if not self._pipe.poll(_DEADLINE):
            raise TimeoutError("the peer does not answer")
        used: float = self._pipe.recv()
        return used


def _ticks(pace: float, share: float) -> Iterator[None]:
    """Each step lasts until the next event is due, the first for this share of the pace. A late one makes the next one late."""
    due = time.monotonic() - (1 - share) * pace
    while True:
        due = max(due + pace, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
        yield


def _main(pipe: Connection, deltas: int, paced_deltas: int, pace: float) -> None:
    """The process: serves until the other end of the pipe is closed."""
    bulk = Bulk(deltas)
    numbers = count(1)
    # Answers that run at once do not beat together: their first events are spread over the pace.
    paced = Paced(paced_deltas, time.monotonic_ns, lambda: _ticks(pace, next(numbers) * _GOLDEN % 1))
    answers: dict[str, Answer] = {"bulk": bulk, "paced": paced}
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0  # as in `short_peer`
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with tempfile.TemporaryDirectory() as folder, _listener() as plain, _listener() as secure:
        pem = Path(folder) / "authority.pem"
        authority.cert_pem.write_to_path(str(pem))
        for listener, tls in ((plain, None), (secure, context)):
            threading.Thread(target=_accept, args=(listener, tls, answers), name="peer-accept", daemon=True).start()
        pipe.send(Addresses(_url("http", plain), _url("https", secure), str(pem), bulk.characters))
        with suppress(EOFError):
            while True:
                pipe.recv()
                pipe.send(time.process_time())


def _listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def _url(scheme: str, listener: socket.socket) -> str:
    return f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/v1"


def _accept(listener: socket.socket, tls: ssl.SSLContext | None, answers: Mapping[str, Answer]) -> None:
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=_serve, args=(sock, tls, answers), name="peer-serve", daemon=True).start()


def _serve(sock: socket.socket, tls: ssl.SSLContext | None, answers: Mapping[str, Answer]) -> None:
    """One connection, to its end."""
    with suppress(OSError), sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with tls.wrap_socket(sock, server_side=True) if tls else sock as stream, stream.makefile("rb") as reader:
            while (head := _read_head(reader)) is not None:
                if not head.path.partition("?")[0].endswith("/responses"):
                    stream.sendall(_REFUSAL)
                elif head.fields.get("upgrade", "").lower() == "websocket":
                    _serve_websocket(reader, stream, head.fields["sec-websocket-key"], answers)
                    return
                else:
                    body = json.loads(reader.read(int(head.fields["content-length"])))
                    _serve_http(stream, answers[body["model"]], body.get("stream", False))


def _serve_http(stream: socket.socket, answer: Answer, streamed: bool) -> None:
    if streamed:
        stream.sendall(_SSE_HEAD)
        answer.send_sse(stream.sendall)
    else:
        whole = answer.whole()
        stream.sendall(_JSON_HEAD % len(whole) + whole)


class _Head(NamedTuple):
    path: str
    fields: dict[str, str]


def _read_head(reader: IO[bytes]) -> _Head | None:
    """A request's head with its field names in lower case; None at the end of the connection."""
    first = reader.readline().decode("latin-1").split(" ")
    if len(first) < 3:
        return None
    fields: dict[str, str] = {}
    while line := reader.readline().strip():
        name, _, value = line.decode("latin-1").partition(":")
        fields[name.lower()] = value.strip()
    return _Head(first[1], fields)


def _serve_websocket(reader: IO[bytes], stream: socket.socket, key: str, answers: Mapping[str, Answer]) -> None:
    accept = base64.b64encode(hashlib.sha1(key.encode() + _MAGIC).digest())
    upgrade = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: "
    stream.sendall(upgrade + accept + b"\r\n\r\n")
    while (received := _read_frame(reader)) is not None:
        opcode, payload = received
        if opcode == _TEXT:
            request: dict[str, Any] = json.loads(payload)
            assert request["type"] == "response.create", request["type"]
            answers[request["model"]].send_websocket(stream.sendall)
        elif opcode == _PING:
            stream.sendall(frame(payload, _PONG))
        elif opcode == _CLOSE:
            stream.sendall(frame(payload, _CLOSE))
            return


def _read_frame(reader: IO[bytes]) -> tuple[int, bytes] | None:
    """A client's frame, unmasked; None at the end of the connection. Fragments are not expected here."""
    head = reader.read(2)
    if len(head) < 2:
        return None
    assert head[0] & 0x80 and head[1] & 0x80, "a whole and masked frame was expected"
    size = head[1] & 0x7F
    if size > 125:
        size = int.from_bytes(reader.read(2 if size == 126 else 8), "big")
    mask, masked = reader.read(4), reader.read(size)
    keys = (mask * (size // 4 + 1))[:size]
    return head[0] & 0x0F, (int.from_bytes(masked, "big") ^ int.from_bytes(keys, "big")).to_bytes(size, "big")
