"""A peer for what is no streaming: short answers at once, long ones in blocks, thousands of connections in one thread.

A request's ``model`` names the answer: ``short`` is ten events, ``long`` a million. It speaks WebSocket and HTTP/SSE, plain and
over TLS 1.3::

    with ShortPeer() as peer:
        Provider(base_url=peer.plain, model="short", ...)

Rules kept here:

* A request is read to its last byte and parsed. The answer's ``metadata`` tells what came: its bytes and its input items.
* One thread polls all the connections, and each costs a socket and an empty buffer. While an answer is sent everybody else waits.
* It has a process of its own, which ends with the ``with`` block, or with its parent.
* No session tickets over TLS. They come while a client sends its first request; the official SDK reads in another thread, on the
  same TLS object, and some connections of a hundred then never open, or the process ends with a corrupted heap.
* Nothing here comes from the package that is measured.
"""

from __future__ import annotations

import base64
import hashlib
import json
import multiprocessing
import selectors
import socket
import ssl
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import trustme

from tests.benchmarks.answers import Bulk, chunk, frame, sse

__all__ = ["LONG", "SHORT", "ShortPeer", "long_answer", "short_answer"]

SHORT = 10
"""The events of the short answer."""
LONG = 1_001_008
"""The events of the long answer."""

_BLOCK = 1_300  # deltas after which the words come round again, so that the text of many blocks is one block's, repeated
_DEADLINE = 30.0
_ANY_ID = b"resp_" + b"?" * 48
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _CLOSE, _PING, _PONG = 0x1, 0x8, 0x9, 0xA
_SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: %s\r\n\r\n"
_SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
_READ = 1 << 18

Encode = Callable[[bytes], bytes]


class Addresses(NamedTuple):
    """What the process tells of itself."""

    plain: str
    tls: str
    authority: str


class ShortPeer:
    """The peer process, as a context manager. ``long_events`` is the length of the long answer, at least.

    Attributes:
        plain, tls: its base URLs. authority: a PEM file with the authority to trust; gone after the block.
    """

    plain: str
    tls: str
    authority: str

    def __init__(self, long_events: int = LONG) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit what the caller has open
        self._pipe, self._theirs = context.Pipe()
        self._process = context.Process(target=_main, args=(self._theirs, long_events), name="short-peer", daemon=True)

    def __enter__(self) -> ShortPeer:
        self._process.start()
        self._theirs.close()
        try:
            if not self._pipe.poll(_DEADLINE):
                raise TimeoutError("the peer did not start")
            found: Addresses = self._pipe.recv()
        except BaseException:
            self.__exit__()
            raise
        self.plain, self.tls, self.authority = found
        return self

    def __exit__(self, *exc: object) -> None:
        self._pipe.close()
        self._process.join(_DEADLINE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()


def short_answer(number: int, size: int, items: int) -> list[bytes]:
    """The events of the short answer to a request of so many bytes and items, with an id made of the number."""
    told = b'"metadata":{"bytes":"%d","items":"%d"}' % (size, items)
    identity = b"resp_%048x" % number
    return [event.replace(_ANY_ID, identity).replace(b'"metadata":{}', told) for event in _SHORT_EVENTS]


def long_answer(number: int, events: int) -> Iterator[list[bytes]]:
    """The events of the long answer, block by block, and of those at least so many: whole blocks of deltas."""
    identity, text = b"resp_%048x" % number, _text(_BLOCK_EVENTS).encode()
    blocks = -(-(events - 8) // _BLOCK)
    yield [event.replace(_ANY_ID, identity) for event in _BLOCK_EVENTS[:4]]
    deltas = [event.split(b'"sequence_number":%d,' % at, 1) for at, event in enumerate(_BLOCK_EVENTS[4:-4], 4)]
    for block in range(blocks):
        first = block * _BLOCK + 4
        yield [b'%s"sequence_number":%d,%s' % (head, at, tail) for at, (head, tail) in enumerate(deltas, first)]
    for at, event in enumerate(_BLOCK_EVENTS[-4:]):
        old, new = (b'"sequence_number":%d' % (count * _BLOCK + 4 + at) for count in (1, blocks))
        yield [event.replace(_ANY_ID, identity).replace(old, new).replace(text, text * blocks)]


def _text(events: list[bytes]) -> str:
    """The whole text, as the first of the closing events has it."""
    return str(json.loads(events[-4])["text"])


_SHORT_EVENTS = Bulk(SHORT - 8).events
_BLOCK_EVENTS = Bulk(_BLOCK).events


def _main(pipe: Connection, long_events: int) -> None:
    """The process: serves until the other end of the pipe is closed."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0  # see the rules
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with tempfile.TemporaryDirectory() as folder, _listener() as plain, _listener() as secure:
        pem = Path(folder) / "authority.pem"
        authority.cert_pem.write_to_path(str(pem))
        pipe.send(Addresses(_url("http", plain), _url("https", secure), str(pem)))
        with selectors.DefaultSelector() as poll:
            poll.register(pipe, selectors.EVENT_READ)
            poll.register(plain, selectors.EVENT_READ, None)
            poll.register(secure, selectors.EVENT_READ, context)
            _serve(poll, pipe, long_events)


def _listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0), backlog=1024)


def _url(scheme: str, listener: socket.socket) -> str:
    return f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/v1"


def _serve(poll: selectors.BaseSelector, pipe: Connection, long_events: int) -> None:
    numbers = 0
    while True:
        for key, _ in poll.select():
            if key.fileobj is pipe:
                return
            if isinstance(key.data, Link):
                if not key.data.ready():
                    poll.unregister(key.fileobj)
                    key.data.sock.close()
            else:
                assert isinstance(key.fileobj, socket.socket)
                sock, _ = key.fileobj.accept()
                numbers += 1
                link = Link(_prepared(sock, key.data), numbers, long_events)
                poll.register(link.sock, selectors.EVENT_READ, link)


def _prepared(sock: socket.socket, context: ssl.SSLContext | None) -> socket.socket:
    """A socket that waits for nothing; of TLS, the handshake is still to come."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setblocking(False)
    return sock if context is None else context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)


class Link:
    """One connection: what came of the next request, and how it is answered. ``number`` makes its answers' ids its own."""

    __slots__ = ("_answers", "_inbox", "_long", "_number", "_websocket", "sock")

    def __init__(self, sock: socket.socket, number: int, long_events: int) -> None:
        self.sock = sock
        self._number, self._long, self._answers = number, long_events, 0
        self._inbox = bytearray()
        self._websocket = False

    def ready(self) -> bool:
        """Read what there is, and answer what is whole; False at the connection's end."""
        try:
            while data := self.sock.recv(_READ):
                self._inbox += data
                while (self._take_frame if self._websocket else self._take_request)():
                    pass
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        return False

    def _send(self, data: bytes) -> None:
        self.sock.settimeout(_DEADLINE)
        self.sock.sendall(data)
        self.sock.setblocking(False)

    def _take_request(self) -> bool:
        """Answer an HTTP request, if a whole one came; whether it did."""
        end = self._inbox.find(b"\r\n\r\n") + 4
        if end < 4:
            return False
        lines = self._inbox[:end].decode("latin-1").split("\r\n")[1:-2]
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        size = int(fields.get("content-length", "0"))
        if len(self._inbox) < end + size:
            return False
        body = bytes(self._inbox[end : end + size])
        del self._inbox[: end + size]
        if "sec-websocket-key" in fields:
            self._websocket = True
            digest = hashlib.sha1(fields["sec-websocket-key"].encode() + _MAGIC).digest()
            self._send(_SWITCH % base64.b64encode(digest))
        else:
            self._send(_SSE_HEAD)
            self._answer(body, lambda event: chunk(sse(event)))
            self._send(b"0\r\n\r\n")
        return True

    def _take_frame(self) -> bool:
        """Answer a frame, if a whole one came; whether it did. Fragments are not expected here."""
        inbox = self._inbox
        size = inbox[1] & 0x7F if len(inbox) > 1 else 0
        at = 2 if size < 126 else 4 if size == 126 else 10
        if len(inbox) < at + 4:
            return False
        assert inbox[0] & 0x80 and inbox[1] & 0x80, "a whole and masked frame was expected"
        size = size if at == 2 else int.from_bytes(inbox[2:at], "big")
        if len(inbox) < at + 4 + size:
            return False
        opcode, payload = inbox[0] & 0x0F, _unmasked(bytes(inbox[at : at + 4]), bytes(inbox[at + 4 : at + 4 + size]))
        del inbox[: at + 4 + size]
        if opcode == _TEXT:
            self._answer(payload, frame)
        elif opcode in (_PING, _CLOSE):
            self._send(frame(payload, _PONG if opcode == _PING else _CLOSE))
        return True

    def _answer(self, text: bytes, encode: Encode) -> None:
        request: dict[str, Any] = json.loads(text)
        given = request["input"]
        self._answers += 1
        number = self._number << 32 | self._answers
        if request["model"] == "long":
            for block in long_answer(number, self._long):
                self._send(b"".join(map(encode, block)))
        else:
            events = short_answer(number, len(text), 1 if isinstance(given, str) else len(given))
            self._send(b"".join(map(encode, events)))


def _unmasked(mask: bytes, masked: bytes) -> bytes:
    keys = (mask * (len(masked) // 4 + 1))[: len(masked)]
    return (int.from_bytes(masked, "big") ^ int.from_bytes(keys, "big")).to_bytes(len(masked), "big")
