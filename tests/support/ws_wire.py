"""One connection of a scripted WebSocket peer: what its script may do with it. See `tests.support.ws_peer`."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import select
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.support import events
from tests.support.peer import DEADLINE, ClientGone, Request
from tests.support.tls import Channel

if TYPE_CHECKING:
    from tests.support.ws_peer import WebSocketPeer

__all__ = ["BINARY", "CLOSE", "CONTINUATION", "HOLD", "PING", "PONG", "TEXT", "Frame", "Json", "Wire", "frame_bytes"]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_CONTROL = (CLOSE, PING, PONG)

HOLD = 30.0
"""How long a connection is held unless told otherwise, in seconds."""

Json = dict[str, Any]

_SLICE = 0.02  # how soon a hold sees an event of the test, in seconds; nothing wakes that wait
_MASK_KEY = b"\x01\x02\x03\x04"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Frame(NamedTuple):
    """A frame as it came, its payload unmasked; ``rsv`` is the three reserved bits as a number."""

    fin: bool
    rsv: int
    opcode: int
    masked: bool
    payload: bytes

    @property
    def text(self) -> str:
        return self.payload.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.payload)

    @property
    def code(self) -> int | None:
        """The code of a close frame, if it has one."""
        return struct.unpack("!H", self.payload[:2])[0] if len(self.payload) >= 2 else None

    @property
    def reason(self) -> str:
        """The reason of a close frame."""
        return self.payload[2:].decode()


class Wire:
    """One connection, in the hands of its script.

    Attributes: ``number`` (from 0, in the order of arrival), ``head`` (the bytes of the upgrade request), ``received`` (every
    byte after it, decrypted), ``frames`` (all that were parsed of it), ``pings_seen``, ``pongs_seen``, ``last_create`` (what
    `read_create` gave last), ``auto_pong`` (True: `read_create` and `hold` answer pings), ``auto_close`` (True: they answer a
    close frame), ``opened`` and ``gone`` (events: this end said 101; the connection is over, whoever ended it).
    """

    def __init__(self, channel: Channel, number: int, peer: WebSocketPeer) -> None:
        self.number = number
        self.head = b""
        self.received = bytearray()
        self.frames: list[Frame] = []
        self.pings_seen = self.pongs_seen = 0
        self.last_create: Json = {}
        self.auto_pong = self.auto_close = True
        self.opened, self.gone = threading.Event(), threading.Event()
        self._channel = channel
        self._peer = peer
        self._request: Request | None = None
        self._unparsed = bytearray()
        self._unread: deque[Frame] = deque()
        # Guards all that is parsed and recorded above, and the order of reads; notified when something comes. Taken before
        # the channel's own lock, never after it.
        self._news = threading.Condition()

    def __repr__(self) -> str:
        state = self._channel.how or ("open" if self.opened.is_set() else "not open")
        return f"<Wire {self.number}: {state}, {len(self.frames)} frames, {len(self._unparsed)} bytes of another>"

    # The upgrade

    @property
    def request(self) -> Request:
        """The upgrade request: method, path, headers."""
        assert self._request is not None, "the request has not been read"
        return self._request

    @property
    def how(self) -> str | None:
        """How the connection ended: None while it has not, "fin" or "reset" by the client, "cut" by the script."""
        return self._channel.how

    @property
    def wire_bytes(self) -> int:
        """How many bytes came over TCP: with the request, and over TLS encrypted ones with TLS's own."""
        return self._channel.arrived

    @property
    def unparsed(self) -> bytes:
        """What came of a frame that is not whole yet."""
        with self._news:
            return bytes(self._unparsed)

    def read_request(self, deadline: float = DEADLINE) -> Request:
        """The head of the client's request, once. Raises `ClientGone` if the connection or the test ends before it is there."""
        self._read_until(lambda: self._request is not None, deadline, "an upgrade request")
        return self.request

    def accept(self, headers: Mapping[str, str | None] | None = None, trailing: bytes = b"") -> None:
        """Answers 101 with the right key and these headers too (None drops one); ``trailing`` goes in the same write."""
        key = self.read_request().headers.get("sec-websocket-key", "").encode()
        proof = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()
        lines: dict[str, str | None] = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": proof}
        self.raw(_head(101, lines, headers) + trailing)
        self.opened.set()
        self._peer._changed()

    def refuse(self, status: int, headers: Mapping[str, str | None] | None = None, body: Any = b"") -> None:
        """Answers the request with another status; a body that is neither bytes nor string is sent as JSON."""
        self.read_request()
        raw = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        kind = "text/plain" if isinstance(body, (bytes, str)) else "application/json"
        self.raw(_head(status, {"Content-Type": kind, "Content-Length": str(len(raw))}, headers) + raw)

    # What comes in

    def read_frame(self, deadline: float = DEADLINE) -> Frame:
        """The next frame, control frames too, nothing answered. Raises `ClientGone` where the client or the test has ended."""
        self._read_until(lambda: bool(self._unread), deadline, "a frame")
        with self._news:
            return self._unread.popleft()

    def read_message(self, deadline: float = DEADLINE) -> bytes:
        """The next text message, fragments joined; `auto_pong` and `auto_close` do their work on the way."""
        until = time.monotonic() + deadline
        parts: list[bytes] = []
        while True:
            frame = self.read_frame(until - time.monotonic())
            if frame.opcode in _CONTROL:
                self._answer_control(frame)
                continue
            expected = CONTINUATION if parts else TEXT
            assert frame.opcode == expected, f"the client sent opcode {frame.opcode} where {expected} was due"
            parts.append(frame.payload)
            if frame.fin:
                return b"".join(parts)

    def read_create(self, deadline: float = DEADLINE) -> Json:
        """The next text message as JSON; kept as ``last_create``, and on the peer's list of ``creates``."""
        create: Json = json.loads(self.read_message(deadline))
        self.last_create = create
        self._peer._note(create)
        return create

    def hold(self, deadline: float = HOLD, *, until: threading.Event | None = None) -> None:
        """Stays connected until the client goes or the block ends; with ``until``, until the test sets this event.

        Control frames are taken (and answered, see `auto_pong`); other frames stay for `read_frame`. Ends at a close frame
        too, once answered. With ``until`` all those ends are `ClientGone`, and a passed deadline is `AssertionError`.
        """
        end = time.monotonic() + deadline
        while until is None or not until.is_set():
            if self._take_control() or self._channel.how or self._step(end, _SLICE if until else math.inf):
                if until is not None and not until.is_set():
                    raise ClientGone
                return
            late = time.monotonic() > end
            assert not (late and until), f"the test did not set the event within {deadline} s"
            if late:
                return

    def expect_closed(self, deadline: float = DEADLINE) -> str | Frame:
        """Waits until the client has gone, not heeding the end of the block: "fin", "reset", or the close frame that came first.

        A close frame is not answered, and the next call goes on to the end of the connection. Other frames are dropped. "cut":
        the script had ended the connection before.
        """
        end = time.monotonic() + deadline
        while True:
            with self._news:
                while self._unread:
                    if (frame := self._unread.popleft()).opcode == CLOSE:
                        return frame
                if self._channel.how:
                    return self._channel.how
            assert time.monotonic() < end, "waited in vain for the client to close the connection"
            self._step(end, heed_end=False)

    def wait_frames(self, count: int, deadline: float = DEADLINE) -> list[Frame]:
        """For the test: waits until the script has read so many frames, control frames too; all of them."""
        with self._news:
            came = self._news.wait_for(lambda: len(self.frames) >= count, deadline)
            assert came, f"{len(self.frames)} of {count} frames came within {deadline} s"
            return list(self.frames)

    def stop_reading(self) -> None:
        """From now on nothing is taken from the socket; what was read already can still be had.

        `hold` and `expect_closed` still see a client that goes, unless its FIN is stuck behind bytes that do not fit.
        """
        self._channel.reading = False

    def resume_reading(self) -> None:
        """Ends `stop_reading`."""
        self._channel.reading = True

    # What goes out

    def raw(self, data: bytes, deadline: float = DEADLINE) -> None:
        """These bytes as they are.

        Raises OSError if the client has gone, AssertionError if it does not take them in time, `ClientGone` if the block ends
        while it does not.
        """
        end = time.monotonic() + deadline
        mark = self._channel.write(data)
        while not self._channel.flushed(mark):
            assert time.monotonic() < end, f"the client did not take {len(data)} bytes within {deadline} s"
            if self._step(end, mask=select.POLLOUT):
                raise ClientGone

    def frame(
        self,
        opcode: int,
        payload: bytes = b"",
        fin: bool = True,
        rsv: int = 0,
        masked: bool = False,
        length: int | None = None,
        width: int | None = None,
    ) -> None:
        """One frame, perhaps wrong: reserved bits as a number up to 7, a mask, a declared ``length`` that differs.

        ``width``: the bytes of an extended length (0, 2 or 8), where it shall not be the shortest form.
        """
        self.raw(frame_bytes(opcode, payload, fin, rsv, masked, length, width))

    def send(self, event: Mapping[str, Any] | bytes | str, fragments: int = 1) -> None:
        """One text message, in so many frames."""
        data = event if isinstance(event, bytes) else (event if isinstance(event, str) else _dumps(event)).encode()
        size = max(1, -(-len(data) // fragments))
        pieces = [data[at * size : (at + 1) * size] for at in range(fragments)]
        frames = (frame_bytes(CONTINUATION if n else TEXT, piece, n == fragments - 1) for n, piece in enumerate(pieces))
        self.raw(b"".join(frames))

    def send_all(self, messages: Iterable[Mapping[str, Any]], *, at_once: bool = False) -> None:
        """Each event as a text message; ``at_once``: all in one write."""
        frames = [frame_bytes(TEXT, _dumps(message).encode()) for message in messages]
        for data in [b"".join(frames)] if at_once else frames:
            self.raw(data)

    def answer(
        self,
        text: str = "ok",
        response_id: str | None = None,
        deltas: Sequence[str] | None = None,
        created: bool = True,
        terminal: str | None = "response.completed",
        model: str | None = None,
        *,
        to: Mapping[str, Any] | None = None,
        at_once: bool = False,
        **more: Any,
    ) -> Json:
        """A whole small response with one message; returns its response object as the terminal event has it.

        ``to``: the create that is answered, by default the last that was read; the response has its model,
        previous_response_id and (on every event) stream_id. ``response_id``: by default "resp_1" and so on, counted per peer;
        the message's id follows it. ``created`` False: without its first two events. ``terminal``: response.completed,
        response.incomplete, response.failed, or None for none. ``more``: further fields of the response object.
        """
        create = self.last_create if to is None else to
        name = self._peer.next_id() if response_id is None else response_id
        fields = {"model": model or create.get("model") or "gpt-5.5"}
        if create.get("previous_response_id") is not None:
            fields["previous_response_id"] = create["previous_response_id"]
        whole = events.text_response(*(deltas or [text]), id=name, item_id="msg_" + name.removeprefix("resp_"))
        done = _end(whole, terminal, fields | more)
        if terminal is None:
            whole.pop()
        lane = {"stream_id": create["stream_id"]} if create.get("stream_id") is not None else {}
        self.send_all([event | lane for event in whole[0 if created else 2 :]], at_once=at_once)
        return done

    def ping(self, payload: bytes = b"") -> None:
        """A ping."""
        self.frame(PING, payload)

    def pong(self, payload: bytes = b"") -> None:
        """A pong, asked for or not."""
        self.frame(PONG, payload)

    def close(self, code: int | None = 1000, reason: str | bytes = b"") -> None:
        """A close frame, and no more: the connection stays. A code of None sends none, and no reason."""
        said = reason if isinstance(reason, bytes) else reason.encode()
        self.frame(CLOSE, b"" if code is None else struct.pack("!H", code) + said)

    def drip(self, data: bytes, every: float) -> None:
        """One byte at a time, so many seconds apart. Raises `ClientGone` if the block ends meanwhile."""
        for at in range(len(data)):
            self.raw(data[at : at + 1])
            if self._peer.ending.wait(every):
                raise ClientGone

    # How it ends

    def hang_up(self, *, notify: bool = False) -> None:
        """A FIN without a close frame, over TLS without close_notify unless ``notify``. What still comes can be read."""
        self._channel.finish(notify)

    def cut(self) -> None:
        """The connection is torn down with a reset (RST), over TLS without a word. What came before is recorded."""
        try:
            self._drain()
        finally:
            self._channel.close(reset=True)
            self._has_gone()

    def _end(self) -> None:
        """What happens when the script is over."""
        try:
            if not self._channel.closed:
                self._channel.finish(notify=True)
                self._drain()
        finally:
            self._channel.close()
            self._has_gone()

    def _has_gone(self) -> None:
        self._channel.how = self._channel.how or "cut"
        self.gone.set()
        with self._news:
            self._news.notify_all()

    # Reading, by whichever thread

    def _read_until(self, there: Callable[[], bool], deadline: float, what: str) -> None:
        end = time.monotonic() + deadline
        while True:
            with self._news:
                if there():
                    return
                if self._channel.how:
                    raise ClientGone
            assert time.monotonic() < end, f"waited in vain for {what}"
            assert self._channel.reading, f"this wire stopped reading, and {what} is not there"
            if self._step(end):
                raise ClientGone

    def _step(self, end: float, at_most: float = math.inf, *, heed_end: bool = True, mask: int = 0) -> bool:
        """Polls once and takes what is there; True if the test has ended and nothing was."""
        timeout = min(end - time.monotonic(), at_most, DEADLINE)
        ended = self._channel.wait(self._channel.mask() | mask, timeout, heed_end)
        self._drain()
        return ended

    def _drain(self) -> None:
        with self._news:
            if data := self._channel.read():
                self._take(data)
                self._news.notify_all()
            if self._channel.how:
                self.gone.set()

    def _take(self, data: bytes) -> None:
        """Records and parses. With ``_news`` held."""
        self._unparsed += data
        if self._request is None:
            head, mark, rest = bytes(self._unparsed).partition(b"\r\n\r\n")
            if not mark:
                return
            self.head, self._request = head + mark, _request(head)
            self._unparsed = bytearray(rest)
            data = rest
        self.received += data
        while (found := _parse(self._unparsed)) is not None:
            frame, size = found
            del self._unparsed[:size]
            self.frames.append(frame)
            self._unread.append(frame)
            self.pings_seen += frame.opcode == PING
            self.pongs_seen += frame.opcode == PONG

    def _take_control(self) -> bool:
        """Takes and answers the control frames among what is unread; whether a close frame was answered."""
        with self._news:
            control = [frame for frame in self._unread if frame.opcode in _CONTROL]
            self._unread = deque(frame for frame in self._unread if frame.opcode not in _CONTROL)
        try:
            for frame in control:
                self._answer_control(frame)
        except ClientGone:
            return True
        return False

    def _answer_control(self, frame: Frame) -> None:
        """Raises `ClientGone` when a close frame was answered."""
        with suppress(OSError):  # the client may have left meanwhile, which the next read will see
            if frame.opcode == PING and self.auto_pong:
                self.pong(frame.payload)
            if frame.opcode == CLOSE and self.auto_close:
                self.close(frame.code)
        if frame.opcode == CLOSE and self.auto_close:
            raise ClientGone


# Bytes


def _dumps(event: Mapping[str, Any]) -> str:
    return json.dumps(event, ensure_ascii=False)


def _end(whole: list[Json], terminal: str | None, fields: Json) -> Json:
    """Puts the fields into every response object of these events, and the wished end at their end; its response object."""
    kind = terminal or "response.completed"
    status = kind.removeprefix("response.")
    last: Json = whole[-1]["response"]
    last["status"] = status
    if status == "incomplete":
        last["incomplete_details"] = {"reason": "max_output_tokens"}
    if status == "failed":
        last["error"] = {"code": "server_error", "message": "The server had an error"}
    whole[-1]["type"] = kind
    for event in whole:
        if "response" in event:
            event["response"].update(fields)
    return last


def _head(status: int, lines: Mapping[str, str | None], more: Mapping[str, str | None] | None) -> bytes:
    """A response's head; of two headers of one name, the second wins, and one of None is dropped."""
    chosen = {name.lower(): (name, value) for name, value in [*lines.items(), *(more or {}).items()]}
    text = "".join(f"{name}: {value}\r\n" for name, value in chosen.values() if value is not None)
    return f"HTTP/1.1 {status} Scripted\r\n{text}\r\n".encode("latin-1")


def _request(head: bytes) -> Request:
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ")
    pairs = (line.split(":", 1) for line in lines)
    return Request(method, path, {name.strip().lower(): value.strip() for name, value in pairs}, b"")


def frame_bytes(
    opcode: int,
    payload: bytes,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = False,
    length: int | None = None,
    width: int | None = None,
) -> bytes:
    """A frame's bytes, perhaps wrong: see `Wire.frame`."""
    length = len(payload) if length is None else length
    if width is None:
        width = 0 if length < 126 else 2 if length < 1 << 16 else 8
    short = {0: length, 2: 126, 8: 127}[width]
    extended = length.to_bytes(width, "big") if width else b""
    head = bytes([fin << 7 | rsv << 4 | opcode, masked << 7 | short]) + extended
    return head + (_MASK_KEY + _masked(payload, _MASK_KEY) if masked else payload)


def _parse(data: bytearray) -> tuple[Frame, int] | None:
    """The first frame of these bytes and its size in them; None if it is not whole."""
    if len(data) < 2:
        return None
    first, second = data[0], data[1]
    masked, size, at = bool(second & 0x80), second & 0x7F, 2
    if size > 125:
        at += 2 if size == 126 else 8
        if len(data) < at:
            return None
        size = int.from_bytes(data[2:at], "big")
    start = at + 4 * masked
    if len(data) < start + size:
        return None
    payload = bytes(data[start : start + size])
    if masked:
        payload = _masked(payload, bytes(data[at:start]))
    return Frame(bool(first & 0x80), first >> 4 & 7, first & 0x0F, masked, payload), start + size


def _masked(payload: bytes, key: bytes) -> bytes:
    """Masked or unmasked; as one large number, since a loop over megabytes would take seconds."""
    keys = (key * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(keys, "big")).to_bytes(len(payload), "big")
