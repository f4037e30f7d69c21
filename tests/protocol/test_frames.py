"""WebSocket frames: any conversation in any chunks, every rule of RFC 6455 for a client, the limit, and what is sent."""

from __future__ import annotations

import pickle
import sys
import time
import tracemalloc
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import websocket
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pixir_sync.protocol.frames import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    FrameError,
    FrameParser,
    check_text,
    close_payload,
    frame,
)

CONTINUATION = 0
MASK = b"\x01\x02\x03\x04"
EDGES = [0, 1, 2, 125, 126, 127, 255, 65_535, 65_536, 65_537]
MASKED_EDGES = [*range(20), 125, 126, 16_383, 16_384, 16_385, 16_386, 16_387, 32_768, 49_155, 65_535, 65_536, 100_001]
VALID_CODES = [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4402, 4999]
INVALID_CODES = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1999, 2000, 2999, 5000, 65_535]


def server(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, width: int | None = None) -> bytes:
    """One frame of a server's; ``width``: the bytes of an extended length (0, 2, 8), where it shall not be the shortest form."""
    size = len(payload)
    if width is None:
        width = 0 if size <= 125 else 2 if size <= 65_535 else 8
    told = {0: size, 2: 126, 8: 127}[width]
    return bytes([fin << 7 | rsv << 4 | opcode, told]) + (size.to_bytes(width, "big") if width else b"") + payload


def fragments(*pieces: bytes) -> list[bytes]:
    """The frames of one text message."""
    last = len(pieces) - 1
    return [server(CONTINUATION if n else TEXT, piece, fin=n == last) for n, piece in enumerate(pieces)]


def decoded(data: bytes) -> tuple[int, int, bytes, bytes]:
    """The reference for what a client sends: first byte, form of the length, mask, payload. Exactly one frame."""
    form = data[1] & 0x7F
    at = {126: 4, 127: 10}.get(form, 2)
    size = form if form < 126 else int.from_bytes(data[2:at], "big")
    assert data[1] & 0x80 and len(data) == at + 4 + size
    mask = data[at : at + 4]
    return data[0], form, mask, bytes(byte ^ mask[n % 4] for n, byte in enumerate(data[at + 4 :]))


class Seen(NamedTuple):
    """All that a parser gave."""

    messages: list[bytes]
    pings: list[bytes]
    pongs: list[bytes]
    close: tuple[int, str] | None
    error: tuple[int, str] | None


def read(chunks: list[bytes], limit: int = 64 << 20) -> Seen:
    parser = FrameParser(limit)
    messages: list[bytes] = []
    for chunk in chunks:
        messages += parser.feed(chunk)
        assert parser.held <= limit + 127
    assert {type(piece) for piece in messages + parser.pings + parser.pongs} <= {bytes}
    error = None if parser.error is None else (parser.error.code, parser.error.message)
    return Seen(messages, parser.pings, parser.pongs, parser.close, error)


def sliced(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


# Any conversation, in any chunks

sizes = st.sampled_from(EDGES) | st.integers(0, 300)
payloads = st.builds(lambda size, seed: (seed * (size // len(seed) + 1))[:size], sizes, st.binary(min_size=1, max_size=9))
controls = st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125))
talks = st.lists(controls | st.lists(payloads, min_size=1, max_size=4), max_size=8)
closes = st.none() | st.just(b"") | st.builds(
    lambda code, reason: code.to_bytes(2, "big") + reason.encode(),
    st.sampled_from(VALID_CODES), st.text(st.characters(codec="utf-8"), max_size=30),
)  # fmt: skip
places = st.lists(st.integers(0, 1 << 20), max_size=40)


def told(talk: list[Any], between: list[tuple[int, bytes]], close: bytes | None) -> tuple[bytes, Seen]:
    """The bytes of a conversation and what it says; ``between``: control frames for the places between fragments."""
    seen, wire, waiting = Seen([], [], [], None, None), [], list(between)
    for step in talk:
        if isinstance(step, tuple):
            waiting.insert(0, step)
            parts = [b""]
        else:
            parts = fragments(*step)
            seen.messages.append(b"".join(step))
        for part in parts:
            wire.append(part)
            if waiting:
                opcode, payload = waiting.pop(0)
                wire.append(server(opcode, payload))
                (seen.pings if opcode == PING else seen.pongs).append(payload)
    if close is None:
        return b"".join(wire), seen
    said = (int.from_bytes(close[:2], "big"), close[2:].decode()) if close else (1005, "")
    return b"".join([*wire, server(CLOSE, close)]), seen._replace(close=said)


@settings(max_examples=150)
@given(talk=talks, between=st.lists(controls, max_size=4), close=closes, places=places, size=st.integers(1, 5_000))
def test_a_conversation_is_the_same_in_any_chunks(
    talk: list[Any], between: list[tuple[int, bytes]], close: bytes | None, places: list[int], size: int
) -> None:
    """Messages, fragments with control frames between them, and the close come out as they were sent, however they are cut."""
    wire, expected = told(talk, between, close)
    assert read([wire]) == expected
    assert read(cut(wire, places)) == expected
    assert read(sliced(wire, size if len(wire) < 50_000 else size + 1_000)) == expected
    if len(wire) < 5_000:
        assert read(sliced(wire, 1)) == expected


@settings(max_examples=200)
@given(
    talk=talks, close=closes, places=places, limit=st.sampled_from([3, 126, 300, 64 << 20]),
    damage=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=3),
)  # fmt: skip
def test_damaged_bytes_end_the_same_way_in_any_chunks(
    talk: list[Any], close: bytes | None, places: list[int], limit: int, damage: list[tuple[int, int]]
) -> None:
    """Whatever the bytes are: nothing is raised, and the chunks change neither what is handed out nor the fault."""
    wire = bytearray(told(talk, [], close)[0])
    for place, value in damage:
        wire[place : place + 1] = bytes([value])
    expected = read([bytes(wire)], limit)
    assert read(cut(bytes(wire), places), limit) == expected
    if len(wire) < 5_000:
        assert read(sliced(bytes(wire), 1), limit) == expected


@pytest.mark.parametrize("size", EDGES)
@pytest.mark.parametrize("step", [1, 3, 4_096, 1 << 20])
def test_every_form_of_a_length_is_read(size: int, step: int) -> None:
    """Frames of 7, 16 and 64 bits, at both ends of each, one after the other."""
    text = b"\x81" * size  # looks like frames itself
    assert read(sliced(server(TEXT, text) * 3, step)).messages == [text] * 3


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_the_library_writes_the_same_frames(step: int) -> None:
    """websocket-client as an independent encoder of what a server sends."""

    def said(data: bytes, opcode: int, fin: int = 1) -> bytes:
        made = websocket.ABNF.create_frame(data, opcode, fin)
        made.mask_value = 0
        return bytes(made.format())

    texts = [b"x" * size for size in EDGES]
    wire = [said(text, TEXT) for text in texts]
    wire += [said(b"on", TEXT, 0), said(b"?", PING), said(b"e ", CONTINUATION, 0), said(b"!", PONG)]
    wire += [said(b"message", CONTINUATION), said(b"\x03\xf3full", CLOSE)]
    assert read(sliced(b"".join(wire), step)) == Seen([*texts, b"one message"], [b"?"], [b"!"], (1011, "full"), None)


def test_messages_are_bytes_and_lists_are_the_owners() -> None:
    """Who takes the pings clears the list; the next ones are then alone in it."""
    parser = FrameParser()
    parser.feed(server(PING, b"1") + server(PING, b"2") + server(PONG, b"3"))
    assert (parser.pings, parser.pongs) == ([b"1", b"2"], [b"3"])
    parser.pings.clear()
    assert parser.feed(server(PING, b"4") + server(TEXT, b"5")) == [b"5"]
    assert (parser.pings, parser.pongs, parser.close, parser.error) == ([b"4"], [b"3"], None, None)


def test_nothing_is_nothing() -> None:
    """An empty chunk changes nothing, wherever it stands."""
    parser = FrameParser()
    assert [parser.feed(chunk) for chunk in [b"", b"\x81", b"", b"\x02a", b"", b"b", b""]] == [[], [], [], [], [], [b"ab"], []]


# The rules, one by one

OPEN = server(TEXT, b"SECRET", fin=False)
FAULTS = {
    "masked text": (frame(TEXT, b"SECRET", MASK), 1002),
    "masked ping": (frame(PING, b"SECRET", MASK), 1002),
    "masked, empty": (b"\x81\x80" + MASK, 1002),
    "masked, 16 bits": (frame(TEXT, b"SECRET" * 50, MASK), 1002),
    "reserved bit 1": (server(TEXT, b"SECRET", rsv=4), 1002),
    "reserved bit 2": (server(TEXT, b"SECRET", rsv=2), 1002),
    "reserved bit 3": (server(TEXT, b"SECRET", rsv=1), 1002),
    "reserved bit, 16 bits": (server(TEXT, b"SECRET" * 50, rsv=4), 1002),
    "reserved bit on a ping": (server(PING, rsv=4), 1002),
    "reserved bit on a continuation": (OPEN + server(CONTINUATION, rsv=2), 1002),
    **{f"opcode {opcode}": (server(opcode, b"SECRET"), 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    **{f"fragmented control {opcode}": (server(opcode, fin=False), 1002) for opcode in (CLOSE, PING, PONG)},
    **{f"control {opcode} of 126 bytes": (server(opcode, b"\x03\xe8" * 63), 1002) for opcode in (CLOSE, PING, PONG)},
    "control of 65,536 bytes": (server(PING, b"SECRET" * 11_000), 1002),
    "control with a long form": (server(PING, b"", width=2), 1002),
    "text inside a message": (OPEN + server(TEXT, b"SECRET"), 1002),
    "text of 16 bits inside a message": (OPEN + server(TEXT, b"SECRET" * 50), 1002),
    "fragment that starts inside a message": (OPEN + OPEN, 1002),
    "text inside a message that is empty so far": (server(TEXT, fin=False) + server(TEXT), 1002),
    "binary inside a message": (OPEN + server(BINARY), 1002),
    "continuation of nothing": (server(CONTINUATION, b"SECRET"), 1002),
    "continuation of nothing, not the last": (server(CONTINUATION, b"SECRET", fin=False), 1002),
    "16 bits for 0": (server(TEXT, b"", width=2), 1002),
    "16 bits for 125": (server(TEXT, b"s" * 125, width=2), 1002),
    "64 bits for 0": (server(TEXT, b"", width=8), 1002),
    "64 bits for 126": (server(TEXT, b"s" * 126, width=8), 1002),
    "64 bits for 65,535": (server(TEXT, b"s" * 65_535, width=8), 1002),
    "16 bits for 125 in a fragment": (server(TEXT, b"s" * 125, width=2, fin=False), 1002),
    "64 bits, top bit": (b"\x81\x7f" + (1 << 63).to_bytes(8, "big"), 1002),
    "64 bits, all": (b"\x81\x7f" + b"\xff" * 8, 1002),
    "64 bits, too large": (b"\x81\x7f" + ((1 << 63) - 1).to_bytes(8, "big"), 1009),
    "binary": (server(BINARY, b"SECRET"), 1003),
    "binary of 16 bits": (server(BINARY, b"SECRET" * 50), 1003),
    "binary, not the last": (server(BINARY, fin=False), 1003),
    "close of one byte": (server(CLOSE, b"\x03"), 1002),
    **{f"close code {code}": (server(CLOSE, code.to_bytes(2, "big") + b"SECRET"), 1002) for code in INVALID_CODES},
    "close reason not UTF-8": (server(CLOSE, b"\x03\xe8SECRET\xff"), 1007),
    "close reason cut inside a character": (server(CLOSE, b"\x03\xe8SECRET\xe2\x82"), 1007),
    "close reason with a surrogate": (server(CLOSE, b"\x03\xe8\xed\xa0\x80"), 1007),
}
BEFORE = server(TEXT, b"good") + server(PING, b"p") + server(PONG, b"q") + server(TEXT, b"t" * 300)


@pytest.mark.parametrize("size", [1, 2, 3, 1 << 20])
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_ends_it_after_what_came_before(name: str, size: int) -> None:
    """Each rule: the right code, all before it handed out, nothing after it, nothing kept, and no word of the content."""
    wire, code = FAULTS[name]
    parser = FrameParser()
    messages: list[bytes] = []
    for chunk in sliced(BEFORE + wire + server(TEXT, b"after") + server(PING) + server(CLOSE), size):
        messages += parser.feed(chunk)
    messages += parser.feed(server(TEXT, b"m" * 300))  # a chunk of one message, which has a way of its own
    assert (messages, parser.pings, parser.pongs) == ([b"good", b"t" * 300], [b"p"], [b"q"])
    assert parser.error is not None
    assert (parser.error.code, parser.close, parser.held) == (code, None, 0)
    assert "SECRET" not in f"{parser.error} {parser.error!r} {parser.error.message}"


@pytest.mark.parametrize("name", [name for name in FAULTS if "close" not in name])
def test_a_fault_is_seen_with_its_header(name: str) -> None:
    """No payload has to come before a frame is refused, and the first fault stays the fault."""
    wire, _ = FAULTS[name]
    start = len(OPEN) if wire.startswith(OPEN) else 0
    parser = FrameParser()
    parser.feed(wire[: start + 10])
    first = parser.error
    assert first is not None
    assert parser.feed(wire[start + 10 :] + server(BINARY)) == []
    assert parser.error is first


LEGAL = {
    "largest control frames": (
        server(PING, b"p" * 125) + server(PONG, b"q" * 125),
        Seen([], [b"p" * 125], [b"q" * 125], None, None),
    ),
    "empty frames": (server(TEXT) + server(PING) + server(PONG), Seen([b""], [b""], [b""], None, None)),
    "empty fragments": (b"".join(fragments(b"", b"", b"")), Seen([b""], [], [], None, None)),
    "an empty last fragment": (b"".join(fragments(b"a", b"")) + server(TEXT, b"b"), Seen([b"a", b"b"], [], [], None, None)),
    "an empty first fragment": (b"".join(fragments(b"", b"a")) + server(TEXT, b"b"), Seen([b"a", b"b"], [], [], None, None)),
    "controls between fragments": (
        server(PING, b"1").join(fragments(b"a" * 200, b"b", b"c" * 70_000)),
        Seen([b"a" * 200 + b"b" + b"c" * 70_000], [b"1", b"1"], [], None, None),
    ),
    "close inside a message": (OPEN + server(CLOSE, b"\x03\xe9bye"), Seen([], [], [], (1001, "bye"), None)),
    "close without a code": (server(CLOSE), Seen([], [], [], (1005, ""), None)),
    "longest reason": (server(CLOSE, b"\x0f\xa0" + b"r" * 123), Seen([], [], [], (4000, "r" * 123), None)),
    "reason of many bytes a character": (server(CLOSE, b"\x03\xe8" + "é€😀".encode()), Seen([], [], [], (1000, "é€😀"), None)),
    "text that is no UTF-8": (server(TEXT, b"\xff"), Seen([b"\xff"], [], [], None, None)),
    **{
        f"close code {code}": (server(CLOSE, code.to_bytes(2, "big")), Seen([], [], [], (code, ""), None)) for code in VALID_CODES
    },
}  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 1 << 20])
@pytest.mark.parametrize("name", LEGAL)
def test_what_is_allowed_is_taken(name: str, size: int) -> None:
    """The other side of each rule."""
    wire, expected = LEGAL[name]
    assert read(sliced(wire, size)) == expected


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_after_a_close_nothing_counts(size: int) -> None:
    """Messages before it are handed out; good frames, faults and another close after it are ignored, and nothing is kept."""
    parser = FrameParser()
    after = server(TEXT, b"b") + server(PING) + server(PONG) + server(CLOSE, b"\x03\xe9") + server(BINARY, b"x")
    got = [parser.feed(chunk) for chunk in sliced(server(TEXT, b"a") + OPEN + server(CLOSE, b"\x03\xe8") + after, size)]
    assert [message for messages in got for message in messages] == [b"a"]
    assert parser.feed(after) == [] and parser.feed(server(TEXT, b"m" * 300)) == []
    assert (parser.close, parser.error, parser.pings, parser.pongs, parser.held) == ((1000, ""), None, [], [], 0)


# The limit, and what is kept

LIMITS = [0, 1, 5, 124, 125, 126, 127, 300, 65_534, 65_535, 65_536, 70_000]


@pytest.mark.row("B18")
@pytest.mark.parametrize(
    ("limit", "step"), [(limit, step) for limit in LIMITS for step in (1, 997, 1 << 20) if limit < 1_000 or step > 1]
)
def test_the_limit_passes_and_one_byte_more_fails(limit: int, step: int) -> None:
    """Exact for every form of the length, in one frame and as a sum of fragments; the messages before it come out."""
    whole, over = b"w" * limit, b"o" * (limit + 1)
    half = limit // 2
    good = [server(TEXT, whole), *fragments(whole[:half], whole[half:]), *fragments(b"", whole, b"")]
    messages = [whole] * 3
    assert read(sliced(b"".join(good), step), limit) == Seen(messages, [], [], None, None)
    for bad in ([server(TEXT, over)], fragments(over[:half], over[half:]), fragments(over, b""), fragments(whole, b"o", b"")):
        seen = read(sliced(b"".join(good + bad), step), limit)
        assert (seen.messages, seen.error and seen.error[0]) == (messages, 1009)


@pytest.mark.row("B18")
def test_the_default_limit_is_64_mib() -> None:
    """Judged by the declared length alone."""
    parser, refused = FrameParser(), FrameParser()
    parser.feed(b"\x81\x7f" + (64 << 20).to_bytes(8, "big"))
    refused.feed(b"\x81\x7f" + ((64 << 20) + 1).to_bytes(8, "big"))
    assert parser.error is None and refused.error is not None and refused.error.code == 1009


@pytest.mark.row("B18")
@pytest.mark.parametrize("fin", [True, False])
def test_a_declared_gigabyte_fails_with_its_header(fin: bool) -> None:
    """Nothing is waited for, nothing is kept, also not of what comes next."""
    parser = FrameParser()
    head = bytes([fin << 7 | TEXT, 127]) + (1 << 30).to_bytes(8, "big")
    parser.feed(head[:-1])
    assert (parser.error, parser.held) == (None, 9)
    assert parser.feed(head[-1:] + b"x" * 1_000) == []
    assert parser.error is not None and (parser.error.code, parser.held) == (1009, 0)
    parser.feed(b"x" * 100_000)
    assert parser.held == 0


def test_control_frames_do_not_count_for_the_limit() -> None:
    """They are of their own size, and never larger than 125 bytes."""
    wire = server(PING, b"p" * 125).join(fragments(b"ab", b"c"))
    assert read([wire], 3) == Seen([b"abc"], [b"p" * 125], [], None, None)


HELD = [
    (b"", 0), (b"\x81", 1), (b"\x81\x7e", 2), (b"\x81\x7e\x01", 3), (b"\x81\x7f" + b"\0" * 6, 8),
    (server(TEXT, b"abc")[:-1], 2), (server(TEXT, b"abc"), 0), (server(TEXT, b"a" * 300)[:-1], 299),
    (server(TEXT, b"a" * 70_000)[:-7], 69_993), (server(TEXT, b"abc", fin=False), 3),
    (server(TEXT, b"abc", fin=False) + server(CONTINUATION, b"de", fin=False), 5),
    (server(TEXT, b"abc", fin=False) + server(CONTINUATION, b"de")[:-1], 4), (b"".join(fragments(b"abc", b"de")), 0),
    (server(PING, b"abc")[:-1], 4), (server(PING, b"abc"), 0), (server(TEXT, b"abc", fin=False) + server(PING, b"d")[:-1], 5),
]  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 1 << 20])
@pytest.mark.parametrize(("wire", "held"), HELD)
def test_held_tells_what_is_kept(wire: bytes, held: int, size: int) -> None:
    """Bytes of a cut header, of a cut control frame, and of the payload of an unfinished message."""
    parser = FrameParser()
    for chunk in sliced(wire, size):
        parser.feed(chunk)
    assert parser.held == held


class Chunk(bytes):
    """A chunk that knows how much was put in front of it, which is a copy of all of it."""

    in_front = 0

    def __radd__(self, front: bytes) -> bytes:
        Chunk.in_front = max(Chunk.in_front, len(front))
        return front + bytes(self)


@pytest.mark.row("B18")
def test_a_large_frame_in_many_chunks_takes_linear_time() -> None:
    """60 MB in chunks of 64 KB: only a cut header is ever put in front of a chunk. Quadratic, it would copy 29 GB."""
    Chunk.in_front = 0
    text, started = b"0123456789" * 6_000_000, time.monotonic()
    parser, wire = FrameParser(), server(TEXT, text) + server(TEXT, b"x")
    got = [message for chunk in sliced(wire, 65_536) for message in parser.feed(Chunk(chunk))]
    assert got == [text, b"x"]
    assert Chunk.in_front <= 9
    assert time.monotonic() - started < 10


@pytest.mark.row("B18")
@pytest.mark.parametrize("size", [5, 65_536])
def test_many_tiny_fragments_take_linear_time(size: int) -> None:
    """400,000 fragments of one byte; quadratic, they would copy 80 GB."""
    count, started = 400_000, time.monotonic()
    wire = b"\x01\x01a" + b"\x00\x01b" * (count - 2) + b"\x80\x01c"
    assert read(sliced(wire, size)).messages == [b"a" + b"b" * (count - 2) + b"c"]
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("piece", [b"", b"ab"])
def test_memory_follows_the_bytes_not_the_fragments(piece: bytes) -> None:
    """100,000 fragments take the room of their bytes; as a list of pieces they would take four megabytes."""
    parser = FrameParser()
    parser.feed(OPEN)
    wire = server(CONTINUATION, piece, fin=False) * 1_000
    tracemalloc.start()
    try:
        for _ in range(100):
            parser.feed(wire)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert parser.held == 6 + 100_000 * len(piece)
    assert kept < 2 * parser.held + 100_000


# What is sent


class Words(bytes):
    """What the stand-in for numpy makes of a buffer."""

    def __xor__(self, key: bytes) -> bytes:
        return bytes(byte ^ key[n % 4] for n, byte in enumerate(self))


class StandIn:
    """As much of numpy as is used, so that its branch runs where numpy is not installed, too."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def frombuffer(self, data: bytes, kind: str, count: int = -1) -> Words:
        assert kind == "u4" and (len(data) % 4 == 0 or count >= 0)
        self.sizes.append(len(data))
        return Words(data if count < 0 else data[: 4 * count])


@pytest.fixture(params=["int", "stand-in", "blocked", "half imported"])
def masking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every way to mask: without numpy, with a stand-in for it, and with one that does not work."""
    kind: str = request.param
    modules: dict[str, Any] = {"stand-in": StandIn(), "blocked": None, "half imported": object()}
    if kind == "int":
        monkeypatch.delitem(sys.modules, "numpy", raising=False)
    else:
        monkeypatch.setitem(sys.modules, "numpy", modules[kind])
    return kind


@pytest.mark.parametrize("size", MASKED_EDGES)
def test_a_sent_frame_is_read_by_the_reference(masking: str, size: int) -> None:
    """FIN, opcode, mask bit, the shortest form of the length, the mask as given, and the payload under it."""
    payload, mask = bytes(n * 7 % 251 for n in range(size)), b"\x00\x80\xff\x35"
    form = size if size < 126 else 126 if size < 65_536 else 127
    assert decoded(frame(TEXT, payload, mask)) == (0x81, form, mask, payload)


def test_a_frame_by_the_real_numpy_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is installed: the stand-in above does not know all that numpy might do."""
    pytest.importorskip("numpy")
    payloads = [b"\x5a\xff\0" * (size // 3) + b"z" * (size % 3) for size in MASKED_EDGES]
    by_numpy = [frame(TEXT, payload, b"\x00\x80\xff\x35") for payload in payloads]
    monkeypatch.delitem(sys.modules, "numpy")
    assert by_numpy == [frame(TEXT, payload, b"\x00\x80\xff\x35") for payload in payloads]


@settings(max_examples=150)
@given(
    opcode=st.sampled_from([TEXT, BINARY, CLOSE, PING, PONG]), mask=st.binary(min_size=4, max_size=4),
    payload=st.binary(max_size=125) | payloads,
)  # fmt: skip
@example(opcode=TEXT, mask=bytes(4), payload=b"\0" * 20_000)
@example(opcode=TEXT, mask=b"\0\0\0\1", payload=b"\0" * 20_000)
def test_any_sent_frame_comes_back(opcode: int, mask: bytes, payload: bytes) -> None:
    """A round trip by the reference, and byte for byte what websocket-client would send."""
    if opcode & 8:
        payload = payload[:125]
    sent = frame(opcode, payload, mask)
    first, _, used, back = decoded(sent)
    assert (first, used, back) == (0x80 | opcode, mask, payload)
    theirs = websocket.ABNF.create_frame(payload, opcode)
    theirs.get_mask_key = lambda size: mask
    assert theirs.format() == sent


def test_numpy_is_used_for_large_frames_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a small one the call would cost more than it saves."""
    numpy = StandIn()
    monkeypatch.setitem(sys.modules, "numpy", numpy)
    frame(TEXT, b"x" * 16_384, MASK)
    assert numpy.sizes == []
    frame(TEXT, b"x" * 16_385, MASK)
    assert numpy.sizes == [16_385, 4]


def test_frame_imports_nothing() -> None:
    """numpy is used where the program has it, and never the reason that it is loaded."""
    before = set(sys.modules)
    frame(TEXT, b"x" * 100_000, MASK)
    assert "numpy" not in set(sys.modules) - before


@pytest.mark.parametrize(
    ("opcode", "size", "mask"), [(TEXT, 1, b"abc"), (TEXT, 1, b"abcde"), (PING, 126, MASK), (CLOSE, 126, MASK)]
)
def test_a_frame_that_may_not_be_sent_is_our_own_mistake(opcode: int, size: int, mask: bytes) -> None:
    """A ValueError, and not one that blames the server; one byte less passes."""
    assert len(frame(PING, b"x" * 125, MASK)) == 131
    with pytest.raises(ValueError, match="mask") as caught:
        frame(opcode, b"x" * size, mask)
    assert not isinstance(caught.value, FrameError)


# Close payloads, text, errors


@given(code=st.sampled_from(VALID_CODES), reason=st.text(st.characters(codec="utf-8"), max_size=60))
def test_a_close_payload_comes_back(code: int, reason: str) -> None:
    """What is sent can be read; of a reason that is too long, as many whole characters as fit."""
    payload = close_payload(code, reason)
    seen = read([server(CLOSE, payload)])
    assert seen.close is not None
    assert (seen.close[0], seen.error) == (code, None)
    said = seen.close[1]
    assert reason.startswith(said)
    assert said == reason or len((said + reason[len(said)]).encode()) > 123


def test_a_close_payload_without_a_reason_is_its_code() -> None:
    """A lone surrogate, which UTF-8 cannot say, becomes a question mark."""
    assert (close_payload(1000), close_payload(1001, "\ud800!")) == (b"\x03\xe8", b"\x03\xe9?!")
    assert close_payload(1000, "é" * 62) == b"\x03\xe8" + "é".encode() * 61
    assert close_payload(1000, "r" * 124) == b"\x03\xe8" + b"r" * 123


@pytest.mark.parametrize("code", INVALID_CODES)
def test_a_close_code_that_may_not_be_sent_is_refused(code: int) -> None:
    """1005 and 1006 are what a program says of a connection, never what stands on the wire."""
    with pytest.raises(ValueError, match=str(code)) as caught:
        close_payload(code)
    assert not isinstance(caught.value, FrameError)


@pytest.mark.parametrize("payload", [b"", b"plain", "é€😀\0".encode(), b"\xf4\x8f\xbf\xbf"])
def test_good_text_passes(payload: bytes) -> None:
    """All of Unicode, to its last code point."""
    check_text(payload)


@pytest.mark.parametrize(
    "bad", [b"\xff", b"\x80", b"\xc0\xaf", b"\xe2\x82", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf0\x9f\x98"],
    ids=["never a byte", "continuation alone", "overlong", "cut off", "surrogate", "beyond Unicode", "cut off, 4"],
)  # fmt: skip
def test_bad_text_is_1007_and_is_not_quoted(bad: bytes) -> None:
    """The error tells the place; neither it nor an exception behind it holds the text."""
    with pytest.raises(FrameError) as caught:
        check_text(b"SECRET" + bad)
    error = caught.value
    assert (error.code, error.__context__, error.__cause__) == (1007, None, None)
    assert "byte 6" in error.message
    assert "SECRET" not in f"{error} {error!r}"


def test_a_frame_error_pickles() -> None:
    """With its code and its message, as every error of the house does."""
    error = FrameError(1002, "wrong")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.code, copy.message, str(copy)) == (FrameError, 1002, "wrong", "wrong (1002)")
    assert isinstance(error, ValueError)
