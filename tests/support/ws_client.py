"""A raw WebSocket client, plain or TLS, for tests of servers: it sends bytes and reads frames, and knows no rules."""

from __future__ import annotations

import json
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.peer import DEADLINE
from tests.support.ws_peer import TEXT, Frame, WebSocketPeer

__all__ = [
    "CREATE", "PROOF", "UPGRADE", "connected", "create", "masked", "read_all", "read_exactly", "read_frame", "read_to", "reset",
]  # fmt: skip

UPGRADE = (
    b"GET /v1/responses HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-A: b\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
PROOF = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""The server's answer to the key above: RFC 6455, section 1.3."""
CREATE = {"type": "response.create", "model": "m"}
_KEY = b"\x37\xfa\x21\x3d"


def masked(opcode: int, payload: bytes, first: int = 0x80) -> bytes:
    """A client's frame, by the shortest code: an independent measure for the peer's parser."""
    size = len(payload)
    short = size if size < 126 else 126 if size < 1 << 16 else 127
    head = bytes([first | opcode, 0x80 | short]) + (b"" if size < 126 else struct.pack("!H" if size < 1 << 16 else "!Q", size))
    return head + _KEY + bytes(byte ^ _KEY[at % 4] for at, byte in enumerate(payload))


def create(**more: Any) -> bytes:
    """A client's frame with a response.create."""
    return masked(TEXT, json.dumps(CREATE | more).encode())


@contextmanager
def connected(peer: WebSocketPeer, *, upgraded: bool = True, ragged: bool = False) -> Iterator[socket.socket]:
    """A raw client, upgraded if so wished. ``ragged``: an end of TLS without close_notify is an error."""
    sock = socket.create_connection((peer.host, peer.port), DEADLINE)
    if peer.ca_file:
        context = ssl.create_default_context(cafile=peer.ca_file)
        sock = context.wrap_socket(sock, server_hostname=peer.host, suppress_ragged_eofs=not ragged)
    with sock:
        if upgraded:
            sock.sendall(UPGRADE)
            read_to(sock, b"\r\n\r\n")
        yield sock


def read_to(sock: socket.socket, mark: bytes) -> bytes:
    """One byte at a time, so that nothing after the mark is taken."""
    data = b""
    while not data.endswith(mark):
        byte = sock.recv(1)
        assert byte, f"the end came after {data!r}"
        data += byte
    return data


def read_exactly(sock: socket.socket, size: int) -> bytes:
    """So many bytes; an end before is `AssertionError`."""
    data = bytearray()
    while len(data) < size:
        piece = sock.recv(size - len(data))
        assert piece, f"the end came after {len(data)} of {size} bytes"
        data += piece
    return bytes(data)


def read_all(sock: socket.socket) -> bytes:
    """All up to the end of the connection."""
    return b"".join(iter(lambda: sock.recv(1 << 16), b""))


def read_frame(sock: socket.socket) -> Frame:
    """A server's frame; what is masked stays so."""
    first, second = read_exactly(sock, 2)
    size = second & 0x7F
    if size > 125:
        size = int.from_bytes(read_exactly(sock, 2 if size == 126 else 8), "big")
    return Frame(bool(first & 0x80), first >> 4 & 7, first & 15, bool(second & 0x80), read_exactly(sock, size))


def reset(sock: socket.socket) -> None:
    """Closes it with a RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
