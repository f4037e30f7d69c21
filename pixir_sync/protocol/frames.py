"""WebSocket frames (RFC 6455), the pure part of a client: any chunks in, whole text messages out, and masked frames to send.

Rules kept here:

* The messages, the control frames and the end depend on the bytes, never on where the chunks end.
* Everything before a fault or a close frame in a chunk is still handed out; nothing after it is looked at.
* What RFC 6455 forbids a server ends the parsing, with the close code that says so. No extension was asked for, so no
  reserved bit means anything. A binary frame is a fault (1003): the API speaks JSON text.
* A length over the limit is a fault as soon as its header is there: of what is refused, nothing is kept.
* The work is linear in the bytes however small the chunks and the fragments are, and so is the memory: an unfinished
  message is one buffer that grows. (A list of pieces would take fifty bytes for each fragment of two, and empty
  fragments, which no limit on the size ends, would fill it for ever.)
* Text is not decoded here. JSON decoders are strict about UTF-8, in the pass that they make anyway.
* No error holds anything of the content.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable
from typing import Any

__all__ = ["BINARY", "CLOSE", "PING", "PONG", "TEXT", "FrameError", "FrameParser", "check_text", "close_payload", "frame"]

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10

_CONTINUATION = 0
_OPCODES = (_CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG)
_FIN, _RESERVED, _CONTROL, _MASKED = 0x80, 0x70, 0x08, 0x80
_SHORT, _MEDIUM = 125, 0xFFFF  # the longest payloads whose length is told in 7 and in 16 bits
_WHOLE_TEXT = (_FIN | TEXT) << 8  # the first two bytes of an unfragmented text frame, as one number, less its length
_SHORT_TEXT = _WHOLE_TEXT + _SHORT  # the last such frame whose length is in those two
_MEDIUM_TEXT = _WHOLE_TEXT + 126  # such a frame whose length follows in 16 bits
_LEAST = _SHORT + 5  # the smallest frame whose length follows in 16 bits
_PIECE = 16_384  # masked at once; measured: smaller and larger numbers are slower

_unpack = struct.Struct(">HH").unpack_from


class FrameError(ValueError):
    """The other side broke the protocol.

    Attributes:
        code: the close code that tells it so: 1002 (protocol), 1003 (binary), 1007 (not UTF-8), 1009 (too big).
        message: what is wrong, in words of our own; it never quotes what came.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


class FrameParser:
    """Reads what one server sends after its upgrade. Not for use by two threads at once.

    Attributes:
        pings, pongs: the payloads of such frames, in order; who answers them takes them and clears the lists.
        close: code and reason once a close frame has come; the code is 1005 where the frame has none.
        error: the fault that ended the parsing. Once one of these two is set, further input is ignored.
        news: one of these four has changed; who looks at them sets it back. received: the bytes that came so far.
    """

    __slots__ = ("_between", "_body", "_ended", "_limit", "_medium", "_missing", "_more", "_rest", "_short", "close", "error",
                 "news", "pings", "pongs", "received")  # fmt: skip

    def __init__(self, max_message: int = 64 << 20) -> None:
        """``max_message``: the largest message that is accepted, in bytes, its fragments together."""
        self.pings: list[bytes] = []
        self.pongs: list[bytes] = []
        self.close: tuple[int, str] | None = None
        self.error: FrameError | None = None
        self.news, self.received = False, 0
        self._ended = False  # a close frame or a fault has come
        self._between = max_message > _MEDIUM  # nothing is held or has ended, and no such message is too large
        self._limit = max_message
        self._short = min(_SHORT_TEXT, _WHOLE_TEXT + max_message)
        self._medium = min(_MEDIUM, max_message)
        self._rest = b""  # a header, or a control frame, that is not whole
        self._body: bytes | bytearray = b""  # the payload of the unfinished message; a bytearray where there is any
        self._missing = 0  # how much of the data frame that has begun is still to come
        self._more = False  # the data frame that came last was not the last one of its message

    @property
    def held(self) -> int:
        """The bytes that are kept of an unfinished frame or message; its size is not known from them."""
        return len(self._rest) + len(self._body)

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads of the text messages that end in this chunk, not decoded. Look at ``news`` after it."""
        size = len(data)
        self.received += size
        if self._between and size >= _LEAST:
            # One message and nothing else, as it comes while a model writes: 42 bytecodes here, 130 below.
            head, length = _unpack(data)
            if head == _MEDIUM_TEXT and length == size - 4:
                return [data[4:]]
        messages: list[bytes] = []
        if not self._ended:
            self._read(data, messages)
            self._between = self._limit > _MEDIUM and not (self._rest or self._missing or self._more or self._ended)
        return messages

    def _read(self, data: bytes, messages: list[bytes]) -> None:
        if self._rest:
            data, self._rest = self._rest + data, b""
        at = self._payload(data, 0, messages) if self._missing else 0
        size, short, medium, unpack, append = len(data), self._short, self._medium, _unpack, messages.append
        while 0 <= at < size:
            # Whole text messages of up to 64 KB, which is nearly all that servers send.
            last = -1 if self._more else size - 4
            while at <= last:
                head, length = unpack(data, at)
                if head == _MEDIUM_TEXT and _SHORT < length <= medium:
                    start = at + 4
                elif _WHOLE_TEXT <= head <= short:
                    start, length = at + 2, head & 0x7F
                else:
                    break
                end = start + length
                if end > size:
                    break
                append(data[start:end])
                at = end
            if at != size:
                at = self._frame(data, at, messages)

    def _frame(self, data: bytes, at: int, messages: list[bytes]) -> int:
        """Read any one frame; where it ends, or -1 where the chunk ends in it, or all has ended with it."""
        start = at + 2
        if start > len(data):
            return self._keep(data, at)
        first, length = data[at], data[at + 1]
        if (fault := _fault(first, length, self._more)) is not None:
            return self._fail(*fault)
        if length > _SHORT:
            shortest, width = (_SHORT, 2) if length == 126 else (_MEDIUM, 8)
            start += width
            if start > len(data):
                return self._keep(data, at)
            length = int.from_bytes(data[start - width : start], "big")
            if length <= shortest:
                return self._fail(1002, "a length of the server's is not in its shortest form")
            if length >> 63:
                return self._fail(1002, "a length of the server's has its top bit set")
        if first & _CONTROL:
            end = start + length
            return self._control(first & 0x0F, data[start:end], end) if end <= len(data) else self._keep(data, at)
        if len(self._body) + length > self._limit:
            return self._fail(1009, f"a message of the server's is over the limit of {self._limit:,} bytes")
        self._missing, self._more = length, not first & _FIN
        return self._payload(data, start, messages)

    def _payload(self, data: bytes, start: int, messages: list[bytes]) -> int:
        """Take what is there of a data frame's payload; where it ends, or -1."""
        body, end = self._body, start + self._missing
        self._missing = max(0, end - len(data))
        if self._missing or self._more:
            self._body = body or bytearray()
            self._body += data[start:end]
            return -1 if self._missing else end
        if body:
            body += data[start:end]
            messages.append(bytes(body))
            self._body = b""
        else:
            messages.append(data[start:end])
        return end

    def _control(self, opcode: int, payload: bytes, end: int) -> int:
        self.news = True
        if opcode == CLOSE:
            said = _read_close(payload)
            if isinstance(said, FrameError):
                return self._fail(said.code, said.message)
            self.close = said
            return self._end()
        (self.pings if opcode == PING else self.pongs).append(payload)
        return end

    def _keep(self, data: bytes, at: int) -> int:
        self._rest = data[at:]
        return -1

    def _fail(self, code: int, message: str) -> int:
        self.error, self.news = FrameError(code, message), True
        return self._end()

    def _end(self) -> int:
        """Forget what is unfinished: nothing of it will ever be of use."""
        self._ended = True
        self._body = b""
        return -1


def _fault(first: int, second: int, more: bool) -> tuple[int, str] | None:
    """What is wrong with the first two bytes of a frame; ``more``: a fragmented message has begun."""
    opcode, fault = first & 0x0F, None
    if first & _RESERVED:
        fault = "a frame of the server's has a reserved bit set"
    elif opcode not in _OPCODES:
        fault = "a frame of the server's has an unknown opcode"
    elif second & _MASKED:
        fault = "a frame of the server's is masked"
    elif opcode & _CONTROL:
        if not first & _FIN:
            fault = "a control frame of the server's is fragmented"
        elif second > _SHORT:
            fault = f"a control frame of the server's is over {_SHORT} bytes"
    elif opcode == _CONTINUATION:
        fault = None if more else "the server continues a message that has not begun"
    elif more:
        fault = "the server begins a message within another"
    elif opcode == BINARY:
        return 1003, "the server sent a binary message"
    return None if fault is None else (1002, fault)


def _sendable(code: int) -> bool:
    """Whether this code may stand in a close frame."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def _read_close(payload: bytes) -> tuple[int, str] | FrameError:
    if not payload:
        return 1005, ""
    code = int.from_bytes(payload[:2], "big")  # of one byte alone: below 256, never valid
    if not _sendable(code):
        return FrameError(1002, "a close frame of the server's has no valid code")
    try:
        return code, str(payload[2:], "utf-8")
    except UnicodeDecodeError:
        return FrameError(1007, "the reason in a close frame of the server's is not UTF-8")


def check_text(payload: bytes) -> None:
    """Why a text message could not be decoded: raises `FrameError` (1007) if it is not strict UTF-8."""
    try:
        str(payload, "utf-8")
        return
    except UnicodeDecodeError as error:
        place = error.start
    raise FrameError(1007, f"a text message of the server's is not UTF-8 at byte {place:,}")  # here: no context holds the text


def close_payload(code: int, reason: str = "") -> bytes:
    """The payload of a close frame; a reason over 123 bytes loses its end, at a character.

    Raises ValueError for a code that may not be sent: 1004 to 1006, 1015, and all outside of 1000 to 1014 and 3000 to 4999.
    """
    if not _sendable(code):
        raise ValueError(f"{code} is no close code that may be sent")
    text = reason.encode("utf-8", "replace")[: _SHORT - 2].decode("utf-8", "ignore")
    return code.to_bytes(2, "big") + text.encode()


def frame(opcode: int, payload: bytes, mask: bytes) -> bytes:
    """One whole masked frame, its length in the shortest form.

    ``mask``: four bytes that nobody can foresee, new for each frame. Raises ValueError where they are not four, or where a
    control frame's payload is over 125 bytes.
    """
    length = len(payload)
    if len(mask) != 4 or (opcode & _CONTROL and length > _SHORT):
        raise ValueError("a mask has four bytes, and the payload of a control frame at most 125")
    if length <= _SHORT:
        head = bytes((_FIN | opcode, _MASKED | length))
    elif length <= _MEDIUM:
        head = struct.pack(">BBH", _FIN | opcode, _MASKED | 126, length)
    else:
        head = struct.pack(">BBQ", _FIN | opcode, _MASKED | 127, length)
    return b"".join((head, mask, *_masked(payload, mask)))


def _masked(payload: bytes, mask: bytes) -> Iterable[Any]:
    """The masked payload as buffers to be joined; by numpy where the program uses it anyway, several times as fast."""
    if len(payload) > _PIECE and (numpy := sys.modules.get("numpy")) is not None:
        whole = len(payload) & ~3
        try:
            words, key = numpy.frombuffer(payload, "u4", whole // 4), numpy.frombuffer(mask, "u4")
        except AttributeError:  # another thread is only just importing it
            return _masked_by_int(payload, mask)
        return words ^ key, bytes(a ^ b for a, b in zip(payload[whole:], mask, strict=False))
    return _masked_by_int(payload, mask)


def _masked_by_int(payload: bytes, mask: bytes) -> list[bytes]:
    width = min(len(payload), _PIECE)
    key = int.from_bytes((mask * (width // 4 + 1))[:width], "big")
    pieces = []
    for at in range(0, len(payload), _PIECE):
        piece = payload[at : at + _PIECE]
        size = len(piece)
        pieces.append((int.from_bytes(piece, "big") ^ key >> 8 * (width - size)).to_bytes(size, "big"))
    return pieces
