"""The scripted WebSocket peer: what a script says is what is on the wire, plain and over TLS, and every byte is on record."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import websocket

from tests.support.peer import DEADLINE
from tests.support.ws_client import CREATE, PROOF, UPGRADE, connected, create, masked, read_all, read_frame, reset
from tests.support.ws_peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    ClientGone,
    Frame,
    Script,
    Step,
    WebSocketPeer,
    Wire,
    answering,
    conversation,
    frame_bytes,
)

both = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])


# What comes in


@both
def test_an_ordinary_client_converses(tls: bool) -> None:
    """websocket-client is upgraded and gets whole responses; the peer counts ids and keeps what it was asked."""
    with WebSocketPeer(answering(), tls=tls) as peer:
        client = websocket.create_connection(peer.websocket_url, DEADLINE, sslopt={"ca_certs": peer.ca_file} if tls else None)
        for n in (1, 2):
            client.send(json.dumps(CREATE | {"previous_response_id": f"before_{n}"}))
            events = [json.loads(client.recv())]
            while events[-1]["type"] != "response.completed":
                events.append(json.loads(client.recv()))
            assert [event["sequence_number"] for event in events] == list(range(len(events)))
            assert events[0]["type"] == "response.created"
            last = events[-1]["response"]
            assert (last["id"], last["model"], last["previous_response_id"]) == (f"resp_{n}", "m", f"before_{n}")
            assert (last["status"], last["output"][0]["content"][0]["text"]) == ("completed", "ok")
        client.close()
        assert [asked["previous_response_id"] for asked in peer.wait_creates(2)] == ["before_1", "before_2"]
    scheme = "s" if tls else ""
    assert peer.base_url == f"http{scheme}://127.0.0.1:{peer.port}/v1"
    assert peer.websocket_url == f"ws{scheme}://127.0.0.1:{peer.port}/v1/responses"
    assert (peer.ca_file is not None) is tls
    assert [frame.opcode for frame in peer.connections[0].frames] == [TEXT, TEXT, CLOSE]


@both
def test_every_byte_is_recorded(tls: bool) -> None:
    """The request's head, each frame as it was and the part of one that never became whole; whatever the script reads."""
    sent = masked(TEXT, b"\xc3\xa9") + masked(PING, b"p") + masked(BINARY, b"x" * 300, first=0x70) + b"\x01\x05half"
    with WebSocketPeer(lambda wire: wire.expect_closed(), tls=tls) as peer, connected(peer) as client:
        for at in range(len(sent)):
            client.sendall(sent[at : at + 1])
        client.close()
    wire = peer.connections[0]
    assert wire.head == UPGRADE
    assert (wire.request.method, wire.request.path, wire.request.headers["x-a"]) == ("GET", "/v1/responses", "b")
    assert bytes(wire.received) == sent
    assert wire.unparsed == b"\x01\x05half"
    assert wire.frames == [
        Frame(True, 0, TEXT, True, b"\xc3\xa9"),
        Frame(True, 0, PING, True, b"p"),
        Frame(False, 7, BINARY, True, b"x" * 300),
    ]
    assert (wire.frames[0].text, wire.pings_seen, wire.pongs_seen) == ("é", 1, 0)
    assert (wire.wire_bytes == len(UPGRADE + sent)) is not tls
    assert repr(wire) == "<Wire 0: fin, 3 frames, 6 bytes of another>"


def test_frames_of_every_size_are_parsed() -> None:
    """Payloads around the limits of the length's forms, megabytes too, come out as they were."""
    payloads = [bytes([n % 251]) * n for n in (0, 1, 125, 126, 65535, 65536, 1_000_001)]
    with WebSocketPeer(lambda wire: wire.hold(), upgrade=True) as peer, connected(peer) as client:
        for payload in payloads:
            client.sendall(masked(TEXT, payload))
        client.sendall(b"\x89\x00" + masked(CLOSE, struct.pack("!H", 1001) + b"bye"))
        frames = peer.connections[0].wait_frames(len(payloads) + 2)
        assert read_frame(client) == Frame(True, 0, PONG, False, b"")
    assert [frame.payload for frame in frames[:-2]] == payloads
    assert (frames[-2].masked, frames[-1].code, frames[-1].reason) == (False, 1001, "bye")


def test_fragments_of_a_create_are_joined() -> None:
    """A client may cut its message, with a ping between; read_create gives one object."""
    data = create()
    cut = masked(TEXT, b'{"a":', first=0) + masked(PING, b"") + masked(CONTINUATION, b" 1}")
    with WebSocketPeer(conversation([], [])) as peer, connected(peer) as client:
        client.sendall(cut + data)
        assert peer.wait_creates(2) == [{"a": 1}, CREATE]


@both
def test_pings_are_answered_unless_told_otherwise(tls: bool) -> None:
    """read_create and hold answer pings and a close frame; with auto_pong and auto_close off, they do not."""

    def quiet(wire: Wire) -> None:
        wire.auto_pong = wire.auto_close = False
        wire.hold()

    sent = [masked(PING, b"1"), masked(CLOSE, b"\x03\xe9bye")]
    with WebSocketPeer([lambda wire: wire.hold(), answering(), quiet], tls=tls) as peer:
        for _ in range(2):
            with connected(peer) as client:
                client.sendall(b"".join(sent))
                assert read_frame(client) == Frame(True, 0, PONG, False, b"1")
                assert read_frame(client) == Frame(True, 0, CLOSE, False, b"\x03\xe9")
                assert read_all(client) == b""
        with connected(peer) as client:
            client.sendall(b"".join(sent))
            peer.connections[2].wait_frames(2)
            socket.socket.shutdown(client, socket.SHUT_WR)
            assert read_all(client) == b""
    assert [wire.pings_seen for wire in peer.connections] == [1, 1, 1]


def test_hold_leaves_other_frames_to_the_script() -> None:
    """What comes while the script holds for the test's event can be read afterwards; pings are answered meanwhile."""
    event = threading.Event()

    def script(wire: Wire) -> None:
        wire.hold(until=event)
        wire.answer("late", to=wire.read_create())

    with WebSocketPeer(script) as peer, connected(peer) as client:
        client.sendall(create() + masked(PING, b"x"))
        assert read_frame(client).opcode == PONG
        event.set()
        assert b"late" in read_all(client)


@both
def test_how_the_client_left_is_known(tls: bool) -> None:
    """expect_closed tells a FIN, a reset, and a close frame before either."""
    seen: list[str | Frame] = []
    done = threading.Event()

    def script(wire: Wire) -> None:
        seen.append(how := wire.expect_closed())
        if isinstance(how, Frame):
            seen.append(wire.expect_closed())
        assert wire.gone.is_set()
        done.set()

    with WebSocketPeer(script, tls=tls) as peer:
        for leave in (socket.socket.close, reset, lambda sock: sock.sendall(masked(CLOSE, b"\x03\xe9"))):
            done.clear()
            with connected(peer) as client:
                client.sendall(create())
                leave(client)
            assert done.wait(DEADLINE)
    assert seen[:2] == ["fin", "reset"]
    assert isinstance(seen[2], Frame) and (seen[2].code, seen[3]) == (1001, "fin")


# What goes out

Send = Callable[[Wire], None]
FAULTS: dict[str, tuple[Send, bytes]] = {
    "a wrong mask bit": (lambda wire: wire.frame(TEXT, b"ab", masked=True), b"\x81\x82\x01\x02\x03\x04\x60\x60"),
    "reserved bits": (lambda wire: wire.frame(TEXT, b"a", rsv=5), b"\xd1\x01a"),
    "an unknown opcode": (lambda wire: wire.frame(0xB, b"a"), b"\x8b\x01a"),
    "a fragmented ping": (lambda wire: wire.frame(PING, b"a", fin=False), b"\x09\x01a"),
    "a ping that is too long": (lambda wire: wire.ping(b"a" * 126), b"\x89\x7e\x00\x7e" + b"a" * 126),
    "a length that never comes": (lambda wire: wire.frame(TEXT, b"ab", length=1 << 40), b"\x81\x7f\0\0\1\0\0\0\0\0ab"),
    "a negative length": (lambda wire: wire.frame(TEXT, b"", length=1 << 63), b"\x81\x7f\x80\0\0\0\0\0\0\0"),
    "a length in a longer form": (lambda wire: wire.frame(TEXT, b"a", width=8), b"\x81\x7f\0\0\0\0\0\0\0\1a"),
    "a continuation of nothing": (lambda wire: wire.frame(CONTINUATION, b"a"), b"\x80\x01a"),
    "a binary frame": (lambda wire: wire.frame(BINARY, b"a"), b"\x82\x01a"),
    "text that is none": (lambda wire: wire.send(b"\xff"), b"\x81\x01\xff"),
    "a close frame": (lambda wire: wire.close(1011, "why"), b"\x88\x05\x03\xf3why"),
    "a close frame without code": (lambda wire: wire.close(None), b"\x88\x00"),
    "half a code": (lambda wire: wire.frame(CLOSE, b"\x03"), b"\x88\x01\x03"),
    "an unasked pong": (lambda wire: wire.pong(b"a"), b"\x8a\x01a"),
    "bytes": (lambda wire: wire.raw(b"\x00\xff"), b"\x00\xff"),
    "one byte at a time": (lambda wire: wire.drip(b"abc", 0.001), b"abc"),
    "fragments": (lambda wire: wire.send("añb", fragments=3), b"\x01\x02a\xc3\x00\x02\xb1b\x80\x00"),
    "an object": (lambda wire: wire.send({"é": 1}), b'\x81\x09{"\xc3\xa9": 1}'),
    "many at once": (lambda wire: wire.send_all([{}, {}], at_once=True), b"\x81\x02{}\x81\x02{}"),
    "one by one": (lambda wire: wire.send_all([{}, {}]), b"\x81\x02{}\x81\x02{}"),
}


@both
@pytest.mark.parametrize("name", FAULTS)
def test_what_is_sent_is_on_the_wire(name: str, tls: bool) -> None:
    """Every frame, legal or not, byte by byte; and the end of the script is a proper end, over TLS too."""
    send, expected = FAULTS[name]
    with WebSocketPeer(send, tls=tls) as peer, connected(peer, ragged=True) as client:
        assert read_all(client) == expected


def test_a_drip_is_one_byte_at_a_time() -> None:
    """The second byte is not sent before its time, nor after the end of the block."""
    with ExitStack() as longer:
        with WebSocketPeer(lambda wire: wire.drip(frame_bytes(TEXT, b"a"), 60)) as peer:
            client = longer.enter_context(connected(peer))
            assert client.recv(1) == b"\x81"
        assert read_all(client) == b""


@pytest.mark.parametrize(
    ("terminal", "status"),
    [("response.completed", "completed"), ("response.incomplete", "incomplete"), ("response.failed", "failed"), (None, None)],
)
def test_an_answer_ends_as_told(terminal: str | None, status: str | None) -> None:
    """The terminal event, or none; with the text's deltas, further fields and the lane of its create on every event."""
    objects: list[dict[str, Any]] = []

    def script(wire: Wire) -> None:
        made = wire.answer(
            response_id="resp_x", deltas=["a", "b"], created=False, terminal=terminal, model="n", to=wire.read_create(), more=1
        )
        objects.append(made)

    with WebSocketPeer(script) as peer, connected(peer) as client:
        client.sendall(create(stream_id="lane"))
        data = read_all(client)
    events = [json.loads(piece[piece.index(b"{") :]) for piece in data.split(b"\x81")[1:]]
    assert {event["stream_id"] for event in events} == {"lane"}
    assert [event["delta"] for event in events if "delta" in event] == ["a", "b"]
    assert events[0]["type"] == "response.output_item.added"
    if terminal is None:
        assert events[-1]["type"] == "response.output_item.done"
        return
    last = events[-1]["response"]
    assert (events[-1]["type"], last["status"], last) == (terminal, status, objects[0])
    assert (last["id"], last["model"], last["more"], last["output"][0]["id"]) == ("resp_x", "n", 1, "msg_x")
    assert (last["incomplete_details"] is not None, last["error"] is not None) == (status == "incomplete", status == "failed")


# How it ends


@both
def test_a_cut_is_a_reset(tls: bool) -> None:
    """The client gets what was sent before, then ECONNRESET, also over TLS; what it had sent is on record."""
    go = threading.Event()

    def script(wire: Wire) -> None:
        wire.send("last")
        assert go.wait(DEADLINE)
        wire.cut()
        with pytest.raises(BrokenPipeError):
            wire.send("too late")
        with pytest.raises(ClientGone):
            while True:
                wire.read_frame()

    with WebSocketPeer(script, tls=tls) as peer, connected(peer) as client:
        assert read_frame(client).payload == b"last"
        client.sendall(masked(PING, b"unread"))
        go.set()
        with pytest.raises(ConnectionResetError):
            socket.socket.recv(client, 1)  # some versions of Python make an end of it in SSLSocket.recv
    assert bytes(peer.connections[0].received) == masked(PING, b"unread")


@pytest.mark.parametrize("notify", [False, True])
@both
def test_hanging_up_is_a_fin(tls: bool, notify: bool) -> None:
    """The client sees the end, over TLS a ragged one unless told otherwise; the script still reads what comes."""
    ragged = tls and not notify

    def script(wire: Wire) -> None:
        wire.hang_up(notify=notify)
        if not ragged:
            assert wire.read_frame() == Frame(True, 0, PONG, True, b"still")
        assert wire.expect_closed() == "fin"

    with WebSocketPeer(script, tls=tls) as peer, connected(peer, ragged=True) as client:
        if ragged:
            with pytest.raises(ssl.SSLEOFError):
                client.recv(1)
        else:
            assert client.recv(1) == b""
            client.sendall(masked(PONG, b"still"))
        client.close()


@both
def test_a_peer_that_stopped_reading_still_writes(tls: bool) -> None:
    """Nothing leaves the socket, so that the client's writes fill up; the script's sends arrive; a reset is noticed."""
    filled = threading.Event()

    def script(wire: Wire) -> None:
        wire.stop_reading()
        wire.hold(until=filled)
        wire.send("still here")
        with pytest.raises(AssertionError, match="stopped reading"):
            wire.read_frame()
        assert wire.expect_closed() == "reset"

    with WebSocketPeer(script, tls=tls, receive_buffer=4096) as peer, connected(peer) as client:
        peer.wait_connections(1)
        wire = peer.connections[0]
        client.settimeout(0.2)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with pytest.raises(TimeoutError):
            client.sendall(bytes(1 << 20))
        filled.set()
        client.settimeout(DEADLINE)
        assert read_frame(client).payload == b"still here"
        reset(client)
        assert wire.gone.wait(DEADLINE)
    assert len(wire.received) == 0


def test_reading_can_begin_again() -> None:
    """What waited in the socket is read after all."""
    event = threading.Event()

    def script(wire: Wire) -> None:
        wire.stop_reading()
        wire.hold(until=event)
        assert wire.frames == []
        wire.resume_reading()
        assert wire.read_create() == CREATE

    with WebSocketPeer(script) as peer, connected(peer) as client:
        peer.wait_connections(1)
        client.sendall(create())
        event.set()
        peer.wait_creates(1)


# Threads


@both
def test_the_test_sends_while_the_script_holds(tls: bool) -> None:
    """Four threads of the test write to a wire that its script reads, while the client writes: no byte is lost or mixed."""
    count, threads = 150, 4
    pushers: list[threading.Thread] = []
    with WebSocketPeer(lambda wire: wire.hold(), tls=tls) as peer, connected(peer) as client:
        wire = peer.wait_connections(1)[0]

        def push(name: int) -> None:
            for n in range(count):
                wire.send({"from": name, "n": n, "pad": "x" * (n * 37 % 2000)}, fragments=1 + n % 2)

        pushers = [threading.Thread(target=push, args=(name,)) for name in range(threads)]
        for thread in pushers:
            thread.start()
        got: dict[int, list[int]] = {name: [] for name in range(threads)}
        pongs = 0
        while pongs < 50 or sum(map(len, got.values())) < count * threads:
            if pongs < 50:
                client.sendall(masked(PING, b"?"))
            frame = read_frame(client)
            payload = frame.payload
            while not frame.fin:
                frame = read_frame(client)
                assert frame.opcode == CONTINUATION
                payload += frame.payload
            if frame.opcode == PONG:
                pongs += 1
            else:
                said = json.loads(payload)
                got[said["from"]].append(said["n"])
        for thread in pushers:
            thread.join(DEADLINE)
        assert got == {name: list(range(count)) for name in range(threads)}


@both
def test_two_large_messages_pass_each_other(tls: bool) -> None:
    """The peer reads while it waits to write, so that a client that reads only after it has written gets through."""
    size = 4_000_000

    def script(wire: Wire) -> None:
        wire.send("y" * size)
        assert len(wire.read_message()) == size

    with WebSocketPeer(script, tls=tls) as peer, connected(peer) as client:
        client.sendall(b"\x81\xff" + struct.pack("!Q", size) + bytes(4) + b"z" * size)
        assert len(read_frame(client).payload) == size


# The upgrade


@both
def test_a_script_answers_the_upgrade_itself(tls: bool) -> None:
    """With other headers, without one, and with bytes in the same write as the 101."""

    def script(wire: Wire) -> None:
        assert not wire.opened.is_set()
        assert wire.read_request().headers["sec-websocket-version"] == "13"
        wire.accept({"connection": None, "X-B": "c"}, trailing=b"\x81\x02hi")

    with WebSocketPeer(script, tls=tls, upgrade=False) as peer, connected(peer, upgraded=False) as client:
        client.sendall(UPGRADE)
        head = b"HTTP/1.1 101 Scripted\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + PROOF + b"\r\nX-B: c\r\n\r\n"
        assert read_all(client) == head + b"\x81\x02hi"


@pytest.mark.parametrize(
    ("body", "kind"), [(b"x", b"text/plain"), ("x", b"text/plain"), ({"error": None}, b"application/json"), (b"", b"text/plain")]
)
def test_a_script_refuses(body: Any, kind: bytes) -> None:
    """A status, headers and a body with its length."""

    def script(wire: Wire) -> None:
        wire.refuse(429, {"Retry-After": "1"}, body)

    with WebSocketPeer(script, upgrade=False) as peer, connected(peer, upgraded=False) as client:
        client.sendall(UPGRADE)
        head, _, rest = read_all(client).partition(b"\r\n\r\n")
    raw = body if isinstance(body, bytes) else b"x" if body == "x" else json.dumps(body).encode()
    assert rest == raw
    assert head == b"HTTP/1.1 429 Scripted\r\nContent-Type: %s\r\nContent-Length: %d\r\nRetry-After: 1" % (kind, len(raw))


# Common scripts


@pytest.mark.parametrize("then", [None, Wire.close])
def test_answering_so_many(then: Script | None) -> None:
    """The first n creates are answered; then the wire holds, or the script given goes on."""
    with WebSocketPeer(answering(2, "x", then=then)) as peer, connected(peer) as client:
        client.sendall(create() + create())
        peer.wait_creates(2)
        client.shutdown(socket.SHUT_WR)
        data = read_all(client)
    assert data.count(b'"response.completed"') == 2
    assert data.endswith(b"\x88\x02\x03\xe8") is (then is not None)


def test_a_conversation_has_steps() -> None:
    """Text, events or a function of wire and create, each after a create of its own."""
    steps: list[Step] = ["a", [{"type": "b"}], lambda wire, create: wire.send({"type": create["model"]})]
    with WebSocketPeer(conversation(*steps)) as peer, connected(peer) as client:
        client.sendall(create() * 3)
        peer.wait_creates(3)
        client.shutdown(socket.SHUT_WR)
        data = read_all(client)
    assert data.endswith(b'8}\x81\x0d{"type": "b"}\x81\x0d{"type": "m"}')
