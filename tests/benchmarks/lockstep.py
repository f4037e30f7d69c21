"""A peer that sends a packet when its client waits for one, and never before: what the client does then is the same each time.

Rules kept here:

* The client's thread says that it is about to wait (a profile function sees the call of poll, or of a read that may block). It
  goes on when the packet is in its socket's buffer. No time is measured, so none can differ.
* Where something is there to be read, the call does not wait, and nothing is sent.
* The packets are made before; between two of them the peer's thread waits and changes nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import select
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from types import FrameType
from typing import Any, NamedTuple

from tests.benchmarks.answers import Bulk, chunk, frame, sse

__all__ = ["Lockstep", "Script", "may_block"]

_DEADLINE = 20.0
_LINGER = 0.02  # seconds that is waited for a request of a client that waits
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
_ANY_ID = re.compile(rb"resp_\?+")
_OPENING, _CLOSING = 4, 4  # events of an answer before and after its deltas
_READS = frozenset({"recv", "recv_into", "recvfrom", "recvfrom_into", "recvmsg"})
_WRITES = frozenset({"connect", "connect_ex", "send", "sendall", "sendmsg"})
_numbers = count(1)


def may_block(function: Any) -> bool:
    """Whether a call of this C function waits where nothing is there: a read of a socket that blocks, a poll, a select."""
    owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
    if isinstance(owner, socket.SocketType):
        return name in _READS and owner.gettimeout() != 0
    return function is select.select or (name == "poll" and type(owner).__module__ == "select")


class Script(NamedTuple):
    """An answer: so many deltas, so many in a packet; ``together``: all events of it in one packet."""

    deltas: int
    at_once: int = 1
    together: bool = False

    def packets(self, encode: Callable[[Sequence[bytes]], bytes]) -> list[bytes]:
        """The packets, with a fresh id: one for what comes before the deltas, and one for each event after them."""
        fresh = b"resp_%048x" % next(_numbers)
        events = [_ANY_ID.sub(fresh, event) for event in Bulk(self.deltas).events]
        if self.together:
            return [encode(events)]
        first, last = _OPENING, len(events) - _CLOSING
        cuts = [*range(first, last, self.at_once), *range(last, len(events) + 1)]
        return [encode(events[:first]), *(encode(events[a:b]) for a, b in zip(cuts, cuts[1:], strict=False))]


def _frames(events: Sequence[bytes]) -> bytes:
    return b"".join(map(frame, events))


def _chunks(events: Sequence[bytes]) -> bytes:
    """As one chunk; several events as two, cut in the middle of one, as servers that fill a buffer do."""
    data = b"".join(map(sse, events))
    middle = len(data) // 2 if len(events) > 1 else len(data)
    return b"".join(chunk(part) for part in (data[:middle], data[middle:]) if part)


class _Client:
    """One connection: what came on it and was not answered yet, and what is still to be sent."""

    def __init__(self, sock: socket.socket, scripts: Mapping[str, Script]) -> None:
        self.sock = sock
        self._scripts = scripts
        self._received = b""
        self._upgraded = False
        self._packets: list[bytes] = []  # those that were sent, too: to free them would show where memory is measured
        self._sent = 0

    @property
    def owes(self) -> bool:
        """Whether there is a packet to send."""
        return self._sent < len(self._packets)

    def send(self) -> None:
        """Send the next packet."""
        self._sent += 1
        with suppress(OSError):
            self.sock.sendall(self._packets[self._sent - 1])

    def read(self) -> bool:
        """Take in what is there; whether the connection goes on."""
        data = b""
        with suppress(OSError):
            data = self.sock.recv(1 << 20)
        self._received += data
        while self._answer():
            pass
        return bool(data)

    def _answer(self) -> bool:
        return self._answer_frame() if self._upgraded else self._answer_http()

    def _answer_http(self) -> bool:
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return False
        key = re.search(rb"(?i)sec-websocket-key: (\S+)", head)
        if key is not None:
            accept = base64.b64encode(hashlib.sha1(key[1] + _MAGIC).digest())
            upgrade = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: "
            self._packets.append(upgrade + accept + b"\r\n\r\n")
            self._upgraded, self._received = True, rest
            return True
        length = re.search(rb"(?i)content-length: (\d+)", head)
        size = int(length[1]) if length is not None else 0
        if len(rest) < size:
            return False
        self._received = rest[size:]
        first, *others = self._script(rest[:size]).packets(_chunks)
        self._packets += [_SSE_HEAD + first, *others]
        self._packets[-1] += b"0\r\n\r\n"
        return True

    def _answer_frame(self) -> bool:
        """Answer a whole frame of the client's; control frames are dropped."""
        data = self._received
        if len(data) < 2:
            return False
        width, size = 0, data[1] & 0x7F
        if size > 125:
            width = 2 if size == 126 else 8
            size = int.from_bytes(data[2 : 2 + width], "big")
        start = 6 + width
        if len(data) < start + size:
            return False
        mask, masked = data[start - 4 : start], data[start : start + size]
        keys = (mask * (size // 4 + 1))[:size]
        self._received = data[start + size :]
        if data[0] & 0x0F == 0x1:
            text = (int.from_bytes(masked, "big") ^ int.from_bytes(keys, "big")).to_bytes(size, "big")
            self._packets += self._script(text).packets(_frames)
        return True

    def _script(self, request: bytes) -> Script:
        return self._scripts[json.loads(request)["model"]]


class Lockstep:
    """The peer, as a context manager, and the handing over; `before` is for the client's thread.

    Attributes:
        base_url: of the API, plain.
    """

    def __init__(self, scripts: Mapping[str, Script]) -> None:
        """``scripts``: the answers by what a request names as its model."""
        self._scripts = scripts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.base_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self._clients: dict[int, _Client] = {}
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._number = -1  # of the client's socket
        self._over = False
        self._thread = threading.Thread(target=self._run, name="lockstep-peer", daemon=True)

    def __enter__(self) -> Lockstep:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over = True
        self._go.release()
        self._thread.join(_DEADLINE)
        for client in self._clients.values():
            client.sock.close()
        self._listener.close()

    # The client's side.

    def watch(self) -> None:
        """From here on the calling thread is the client's, until ``sys.setprofile(None)``. A counting calls `before` itself."""
        sys.setprofile(self._profile)

    def _profile(self, _frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call":
            self.before(function)

    def before(self, function: Any) -> None:
        """The client is about to call this C function."""
        owner = getattr(function, "__self__", None)
        if isinstance(owner, socket.SocketType) and function.__name__ in _WRITES:
            self._number = owner.fileno()
        elif may_block(function) and self._number >= 0 and not _readable(self._number):
            self._go.release()
            if not self._done.acquire(timeout=_DEADLINE):
                raise TimeoutError("the peer has not sent its packet")

    # The peer's side.

    def _run(self) -> None:
        while self._go.acquire() and not self._over:
            self._step()
            self._done.release()

    def _step(self) -> None:
        """Send the next packet, if there is one to send."""
        while True:
            owing = next((client for client in self._clients.values() if client.owes), None)
            if owing is not None:
                owing.send()
                return
            if not self._take_in():
                return

    def _take_in(self) -> bool:
        """Accept and read what is there, and wait a moment for it; whether there was anything."""
        ready = set(self._readable())
        if self._listener.fileno() in ready:
            sock, _ = self._listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._clients[sock.fileno()] = _Client(sock, self._scripts)
        for number in ready & self._clients.keys():
            if not self._clients[number].read():
                self._clients.pop(number).sock.close()
        return bool(ready)

    def _readable(self) -> Iterator[int]:
        poll = select.poll()
        for number in (self._listener.fileno(), *self._clients):
            poll.register(number, select.POLLIN)
        return (number for number, _ in poll.poll(_LINGER * 1000))


def _readable(number: int) -> bool:
    poll = select.poll()
    poll.register(number, select.POLLIN)
    return bool(poll.poll(0))
